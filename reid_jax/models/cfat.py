"""CFAT: a ViT that learns to give corrupted images the features that a frozen teacher gives the clean ones.

Coarse alignment contrasts the student's feature with the teacher's (`reid_jax.losses.contrastive`). Fine alignment
uses *bridges*: points between the two features, which a small variational generator learns to reach from the
student's feature alone (`reid_jax.losses.bridge`). Teacher and generator are dropped at test time.

In the trainer the teacher is an extra that a pass of its own runs on the clean view; the student's pass, on
the corrupted view, reads the teacher's feature and adds the generator's outputs to its own (see configs/cfat.py).

References:
    Zhang, Zhang and Shan, "Corruption-invariant Person Re-identification via Coarse-to-Fine Feature Alignment", IEEE
    TCSVT 35(2), 2025. Fields that follow the released code where it departs from the article are
    marked.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models import transreid
from reid_jax.nn import heads, initializers
from reid_jax.ops import descriptors, distances

# The authors' parameter names of the generator; the student's are TransReID's.
TORCH_RULES: tuple[tuple[str, str], ...] = (*transreid.TORCH_RULES, (r"^(encoder|decoder)\.", r"bfg.\1."))
TORCH_IGNORED: tuple[tuple[str, str], ...] = transreid.TORCH_IGNORED
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = (*transreid.TORCH_EXPORT_RULES, (r"^bfg\.", ""))
adapt_weights = transreid.adapt_weights
options_of_weights = transreid.options_of_weights

BRIDGE_NORMS = ("true_norm", "unit_formula")
SIGMAS = ("softplus", "raw")
OUTPUTS = ("linear", "sigmoid")
TEST_FEATURES = ("feature", "neck", "patch_mean")
ALIGNED = ("feature", "neck")
# Where a student's batch holds the teacher's feature of the same images.
TEACHER_FEATURE = "teacher/feature/align"


def bridge(teacher: jax.Array, student: jax.Array, t: jax.Array, norm: str = "true_norm") -> jax.Array:
    """Returns the point at share t of the way from the student's feature to the teacher's, on the unit sphere.

    Args:
        teacher: [B, D] features of the clean view.
        student: [B, D] features of the corrupted view.
        t: scalar in [0, 1]; 1 is the teacher's end.
        norm: "true_norm" scales both to unit length, mixes them and divides by the length of the mixture (zero, finite,
            for opposite features at t = 1/2). "unit_formula" repeats the released code: it mixes the features
            unscaled and divides by a length that is right for unit vectors only.

    Returns:
        [B, D] float32.

    Raises:
        UserError: unknown norm.
    """
    if norm not in BRIDGE_NORMS:
        raise errors.unknown("bridge norm", norm, BRIDGE_NORMS)
    teacher, student = teacher.astype(jnp.float32), student.astype(jnp.float32)
    if norm == "true_norm":
        teacher, student = distances.normalize_rows(teacher), distances.normalize_rows(student)
        return distances.normalize_rows(t * teacher + (1.0 - t) * student, epsilon=1e-6)
    agreement = jnp.sum(teacher * student, axis=-1, keepdims=True)
    return (t * teacher + (1.0 - t) * student) / jnp.sqrt(t**2 + (1.0 - t) ** 2 + 2.0 * t * (1.0 - t) * agreement)


class Encoder(nn.Module):
    """Layers from a feature to the mean and standard deviation of its code; see `Generator`."""

    hidden: int = 128
    code: int = 16
    sigma: str = "softplus"

    @nn.compact
    def __call__(self, feature: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps [B, D] to two [B, code]."""
        x = nn.relu(_dense(self.hidden, feature, "linear"))
        mean, raw = _dense(self.code, x, "mu"), _dense(self.code, x, "sigma")
        # A raw sigma may turn negative, and the divergence's logarithm with it into NaN.
        return mean, nn.softplus(raw) + 1e-4 if self.sigma == "softplus" else raw


class Decoder(nn.Module):
    """Layers from a code to a feature; see `Generator`."""

    features: int
    hidden: int = 128
    out: str = "linear"

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        """Maps [B, code] to [B, features]."""
        x = _dense(self.features, nn.relu(_dense(self.hidden, code, "linear1")), "linear2")
        return nn.sigmoid(x) if self.out == "sigmoid" else x


def _dense(features: int, x: jax.Array, name: str) -> jax.Array:
    """Returns a Linear as PyTorch initializes it."""
    bias = initializers.torch_default_bias(x.shape[-1])
    return nn.Dense(features, kernel_init=initializers.torch_default, bias_init=bias, name=name)(x)


class Generator(nn.Module):
    """Variational generator of features (203,808 parameters at D = 768); float32.

    Attributes:
        features: D.
        hidden: width of both hidden layers.
        code: dimensions of the code.
        sigma: "softplus" keeps standard deviations positive; "raw" is the released code's.
        out: "linear" reaches signed targets; "sigmoid" is the released code's.
    """

    features: int
    hidden: int = 128
    code: int = 16
    sigma: str = "softplus"
    out: str = "linear"

    def setup(self) -> None:
        for kind, value, known in (("sigma", self.sigma, SIGMAS), ("output", self.out, OUTPUTS)):
            if value not in known:
                raise errors.unknown(f"{kind} of the generator", value, known)
        self.encoder = Encoder(self.hidden, self.code, self.sigma)
        self.decoder = Decoder(self.features, self.hidden, self.out)

    def __call__(self, feature: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws a code and decodes it.

        Args:
            feature: [B, D].
            key: random key of the draw; without one the code is its mean.

        Returns:
            The generated feature [B, D], mean and standard deviation of its code [B, code].
        """
        mean, sigma = self.encoder(feature.astype(jnp.float32))
        noise = 0.0 if key is None else jax.random.normal(key, mean.shape)
        return self.decoder(mean + noise * sigma), mean, sigma


class CFAT(transreid.TransReID):
    """The student: a TransReID network, under the same parameter names, and the generator.

    The teacher is the same network with other variables. All alignment reads "feature/align": the global feature,
    before the neck or after it (`align`), joined with the local ones where the network has them.

    Attributes:
        bridge: whether there is a generator.
        bridge_norm: see `bridge`.
        bfg_sigma: see `Generator.sigma`.
        bfg_out: see `Generator.out`.
        bfg_input: "raw" feeds the generator unscaled features, as article and code do; "unit" scales them to the
            length of a bridge first.
        align: what is aligned: "feature" (before the neck, as article and code do) or "neck". The features of a network
            that is trained from scratch share most of their length, so that all cosines before the neck are near 1;
            the neck takes away their mean.
        test_feature: what is compared at test time: "feature" (before the neck, what all losses train), "neck" (after
            it) or "patch_mean" (mean of the final patch tokens, what the released code compares).
    """

    bridge: bool = True
    bridge_norm: str = "true_norm"
    bfg_sigma: str = "softplus"
    bfg_out: str = "linear"
    bfg_input: str = "raw"
    align: str = "feature"

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Returns the student's outputs, and the generator's where the batch holds the teacher's feature.

        Args:
            batch: "image" [B, H, W, 3] and what `TransReID` reads; for a student under alignment also
                "teacher/feature/align" [B, D].
            train: as in `TransReID`.

        Returns:
            The outputs of `TransReID`, "feature/align" [B, D], and under alignment, with K the length of a code:
            "generated/g" [B, D] from the student's feature, its code "generated/mean" and "generated/sigma" [B, K];
            "generated/held" [B, D], the same values, from which no gradient reaches the generator's parameters;
            "bridge/g" [B, D], "bridge/mean", "bridge/sigma" [B, K] the same of a bridge, drawn at one place between the
            two features for the whole batch; "generated/teacher" [B, D] from the teacher's feature; and
            "logits/generated" [B, N], the student's classification of the global part of "generated/g". With JPM, D
            counts the joined features, see `TransReID.joined`.
        """
        outputs = super().__call__(batch, train=train)
        if self.align not in ALIGNED:
            raise errors.unknown("feature to align (align)", self.align, ALIGNED)
        outputs["feature/align"] = self.joined(outputs, self.align)
        if not self.bridge:
            return outputs
        student = outputs["feature/align"]
        generator = Generator(student.shape[-1], sigma=self.bfg_sigma, out=self.bfg_out, name="bfg")
        if TEACHER_FEATURE in batch:
            aligned = self._align(generator, student, batch[TEACHER_FEATURE])
            # Local features follow the global one, and each has a head of its own.
            generated = aligned["generated/g"][:, : outputs["feature/g"].shape[-1]]
            return outputs | aligned | {"logits/generated": self._classify(generated)}
        if self.is_initializing():
            generator(student)
        return outputs

    def _align(self, generator: Generator, student: jax.Array, teacher: jax.Array) -> dict[str, jax.Array]:
        """Returns the generator's outputs for the student's feature, a bridge and the teacher's feature."""
        if self.bfg_input not in ("raw", "unit"):
            raise errors.unknown("input of the generator", self.bfg_input, ("raw", "unit"))
        keys: list[jax.Array | None] = [None] * 3
        t = jnp.float32(0.5)
        if self.has_rng("dropout"):
            t_key, *keys = jax.random.split(self.make_rng("dropout"), 4)
            t = jax.random.uniform(t_key)
        between = bridge(teacher, student, t, self.bridge_norm)
        feed = distances.normalize_rows if self.bfg_input == "unit" else lambda x: x
        generated, mean, sigma = generator(feed(student), keys[0])
        held = jax.lax.stop_gradient(self.variables["params"]["bfg"])
        constant = generator.clone(parent=None, name=None)
        _, bridge_mean, bridge_sigma = generator(between, keys[1])
        return {
            "generated/g": generated,
            "generated/held": constant.apply({"params": held}, feed(student), keys[0])[0],
            "generated/mean": mean,
            "generated/sigma": sigma,
            "bridge/g": between,
            "bridge/mean": bridge_mean,
            "bridge/sigma": bridge_sigma,
            "generated/teacher": generator(feed(teacher), keys[2])[0],
        }

    def _classify(self, feature: jax.Array) -> jax.Array:
        """Returns the global head's logits of a generated feature [B, D]; running statistics stay as they are."""
        if self.align == "neck":
            return jnp.asarray(feature @ self.variables["params"]["head_g"]["classifier"]["kernel"])
        head = {kind: self.variables[kind]["head_g"] for kind in ("params", "batch_stats")}
        _, logits = heads.BNNeck(self.num_classes, parent=None).apply(head, feature, train=False)
        return jnp.asarray(logits)

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature at unit length: before the neck, after it, or the mean token (`test_feature`)."""
        if self.test_feature not in TEST_FEATURES:
            raise errors.unknown("test feature (test_feature)", self.test_feature, TEST_FEATURES)
        if self.test_feature == "patch_mean":
            feature = outputs["tokens"].mean(axis=1)
        else:
            feature = self.joined(outputs, self.test_feature)
        return descriptors.Descriptor(distances.normalize_rows(feature))
