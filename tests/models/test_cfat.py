"""CFAT: bridges, the generator, what alignment adds to the student, and where gradients go."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, losses, trees
from reid_jax.models import cfat
from reid_jax.weights import convert

CLASSES = 5
TINY = {"width": 32, "depth": 2, "heads": 2, "stride": 8, "patch": 8, "image_size": (32, 16)}


@pytest.fixture(scope="module")
def golden(root) -> dict[str, np.ndarray]:
    with np.load(root / "tests" / "golden" / "cfat_losses.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(2, 6, 10)).astype(np.float32))


def lengths(x) -> np.ndarray:
    return np.linalg.norm(np.asarray(x), axis=-1)


def unit(x) -> np.ndarray:
    return x / lengths(x)[:, None]


# ---- bridges


def test_a_bridge_leads_from_the_student_to_the_teacher_on_the_sphere(pair):
    """Property 13."""
    teacher, student = pair
    for t, end in ((0.0, student), (1.0, teacher)):
        np.testing.assert_allclose(cfat.bridge(teacher, student, t), unit(end), atol=1e-6)
    for t in (0.2, 0.5, 0.9):
        np.testing.assert_allclose(lengths(cfat.bridge(teacher, student, t)), 1.0, rtol=1e-6)
    opposite = lambda x: jnp.sum(cfat.bridge(x, -jnp.asarray(unit(teacher)), 0.5))
    value, gradient = jax.value_and_grad(opposite)(jnp.asarray(unit(teacher)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    with pytest.raises(errors.UserError, match="did you mean 'true_norm'"):
        cfat.bridge(teacher, student, 0.5, "true_nrom")


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_bridges_equal_the_stored_ones(golden, t):
    """The released code counts t from the teacher's end; the file keeps the first 64 dimensions."""
    clean, corrupted = golden["in/feat_clean"], golden["in/feat_cor"]
    found = cfat.bridge(clean, corrupted, 1.0 - t, "unit_formula")[:, :64]
    np.testing.assert_allclose(found, golden[f"bridge/t{t}_raw_inputs"], atol=2e-6)
    for norm in cfat.BRIDGE_NORMS:
        found = cfat.bridge(unit(clean), unit(corrupted), 1.0 - t, norm)[:, :64]
        np.testing.assert_allclose(found, golden[f"bridge/t{t}_unit_inputs"], atol=2e-7)


# ---- generator


def test_generator_has_the_published_size_and_reads_the_released_weights(golden):
    """Properties 15 and 17."""
    generator = cfat.Generator(768, sigma="raw", out="sigmoid")
    variables = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 768)))
    assert trees.count_parameters(variables["params"]) == 203_808
    weights = {name.removeprefix("bfg_sd/"): value for name, value in golden.items() if name.startswith("bfg_sd/")}
    student = {"params": {"bfg": variables["params"]}}
    loaded, report = convert.load_into(student, weights, cfat.TORCH_RULES)
    assert len(report.named("loaded")) == len(weights) == 10
    back = convert.to_torch(loaded, ((r"^bfg\.", ""),))
    assert back.keys() == weights.keys()
    assert all(back[name].tobytes() == value.tobytes() for name, value in weights.items())

    run = lambda x, eps: generator.apply({"params": loaded["params"]["bfg"]}, x, eps, method=_with_noise)
    with jax.default_matmul_precision("highest"):
        for name, feature in (("clean", golden["in/feat_clean"]), ("cor", golden["in/feat_cor"])):
            feature, mean, sigma = run(feature, golden[f"bfg/{name}/eps"])
            np.testing.assert_allclose(mean, golden[f"bfg/{name}/mu"], atol=2e-6)
            np.testing.assert_allclose(sigma, golden[f"bfg/{name}/sigma"], atol=2e-6)
            np.testing.assert_allclose(feature, golden[f"bfg/{name}/recon"], atol=1e-6)


def _with_noise(generator: cfat.Generator, feature, eps):
    mean, sigma = generator.encoder(feature)
    return generator.decoder(mean + eps * sigma), mean, sigma


def test_generator_without_noise_decodes_the_mean(pair):
    """Property 15."""
    generator = cfat.Generator(10)
    variables = generator.init(jax.random.key(1), pair[0])
    feature, mean, sigma = generator.apply(variables, pair[0])
    decoded = generator.apply(variables, mean, method=lambda module, code: module.decoder(code))
    np.testing.assert_array_equal(feature, decoded)
    drawn = [generator.apply(variables, pair[0], jax.random.key(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    assert (np.asarray(sigma) > 0).all()
    for option in ({"sigma": "softmax"}, {"out": "tanh"}):
        with pytest.raises(errors.UserError, match="of the generator"):
            cfat.Generator(10, **option).init(jax.random.key(0), pair[0])


def test_divergence_of_codes_is_finite_for_any_weights(pair):
    """Property 14: softplus keeps what the raw output loses."""
    wild = jax.tree.map(lambda x: 30.0 * x, cfat.Generator(10).init(jax.random.key(2), pair[0]))
    for sigma, finite in (("softplus", True), ("raw", False)):
        codes = [cfat.Generator(10, sigma=sigma).apply(wild, x)[1:] for x in pair]
        value = losses.LOSSES["gaussian_divergence"](*codes[0], *codes[1])
        assert bool(np.isfinite(value)) is finite, sigma


# ---- the student


def make(**options):
    """The tiny model, a batch of two images and its variables."""
    model = cfat.CFAT(num_classes=CLASSES, **{**TINY, **options})
    rng = np.random.default_rng(3)
    batch = {
        "image": rng.normal(size=(4, 32, 16, 3)).astype(np.float32),
        "label": np.array([0, 0, 1, 1], np.int32),
        "camid": np.array([0, 1, 0, 1], np.int32),
    }
    return model, batch, jax.jit(lambda key: model.init(key, batch, train=False))(jax.random.key(0))


@pytest.fixture(scope="module")
def tiny():
    return make()


def guided(batch, width: int = TINY["width"]):
    teacher = np.random.default_rng(4).normal(size=(4, width)).astype(np.float32)
    return {**batch, cfat.TEACHER_FEATURE: teacher}


BRIDGE_TERMS = {
    "mse": {"loss": "mean_squared", "on": ("generated/g", "bridge/g")},
    "kl": {
        "loss": "gaussian_divergence",
        "on": ("generated/mean", "generated/sigma", "bridge/mean", "bridge/sigma"),
    },
}


def test_the_generator_speaks_only_where_a_teacher_does(tiny):
    model, batch, variables = tiny
    apply = jax.jit(lambda batch, key: model.apply(variables, batch, train=False, rngs={"dropout": key}))
    alone = apply(batch, jax.random.key(0))
    assert not any(name.startswith(("generated", "bridge")) for name in alone)
    one, other = (apply(guided(batch), jax.random.key(seed)) for seed in (0, 1))
    for name in alone:
        np.testing.assert_array_equal(one[name], alone[name], err_msg=name)
    assert np.abs(one["bridge/g"] - other["bridge/g"]).max() > 1e-3, "the place of the bridge is drawn"
    assert one["generated/g"].shape == (4, TINY["width"])
    assert one["logits/generated"].shape == (4, CLASSES)
    # One place for the whole batch.
    ends = [unit(x) for x in (guided(batch)[cfat.TEACHER_FEATURE], alone["feature/align"])]
    fits = [min(np.abs(one["bridge/g"] - cfat.bridge(*ends, t)).max() for t in np.linspace(0, 1, 1001))]
    assert max(fits) < 2e-3
    # Without chance it is in the middle, and codes are their means.
    still = model.apply(variables, guided(batch), train=False)
    np.testing.assert_allclose(still["bridge/g"], cfat.bridge(*ends, 0.5), atol=1e-5)


@pytest.fixture(scope="module")
def gradients(tiny):
    """Gradients at the parameters: of the bridge's terms, and of sums over the generated features by output."""
    model, batch, variables = tiny
    weights = jnp.linspace(-1.0, 1.0, TINY["width"])[None]

    def values(params):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        outputs = model.apply(given, guided(batch), train=False, rngs={"dropout": jax.random.key(0)})
        sums = {name: jnp.sum(outputs[name] * weights) for name in ("generated/g", "generated/held")}
        return {"terms": losses.evaluate_terms(BRIDGE_TERMS, outputs)[0], **sums}, outputs

    return jax.jit(jax.jacrev(values, has_aux=True))(variables["params"])


def test_gradients_reach_student_and_generator_and_never_the_teacher(gradients):
    """Property 16 (the trainer's half of it: tests/train/test_passes.py)."""
    norms = {name: float(trees.global_norm(part)) for name, part in gradients[0]["terms"].items()}
    assert norms["bfg"] > 0
    assert norms["backbone"] > 0
    assert norms["head_g"] == 0
    assert all(np.isfinite(norm) for norm in norms.values())


def test_held_features_are_the_generated_ones_without_a_gradient_to_the_generator(gradients):
    """The student's gradient is the same."""
    found, outputs = gradients
    np.testing.assert_array_equal(outputs["generated/held"], outputs["generated/g"])
    free, held = (trees.flatten(found[name]) for name in ("generated/g", "generated/held"))
    for name, gradient in held.items():
        if name.startswith("bfg/"):
            assert not gradient.any(), name
        else:
            np.testing.assert_allclose(gradient, free[name], rtol=1e-5, atol=1e-7, err_msg=name)
    assert any(free[name].any() for name in free if name.startswith("bfg/"))
    assert any(held[name].any() for name in held)


def test_without_the_generator_it_is_transreid(tiny):
    """Property 19: the same names, the same beginning, the same outputs, whatever is drawn."""
    with_generator = tiny[2]
    model, batch, variables = make(bridge=False)
    plain = cfat.transreid.TransReID(num_classes=CLASSES, **TINY)
    expected = jax.jit(lambda key: plain.init(key, batch, train=False))(jax.random.key(0))
    theirs, ours = trees.flatten(expected), trees.flatten(variables)
    assert theirs.keys() == ours.keys()
    beside = trees.flatten(with_generator)
    assert {path for path in beside if path not in ours} == {path for path in beside if path.startswith("params/bfg/")}
    for path, value in theirs.items():
        assert np.array_equal(value, ours[path]), path
        assert np.array_equal(value, beside[path]), path
    run = lambda model: jax.jit(
        lambda key: model.apply(variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    )(jax.random.key(1))
    (wanted, wanted_statistics), (found, statistics) = run(plain), run(model)
    for name, value in wanted.items():
        assert np.array_equal(value, found[name]), name
    assert jax.tree.all(jax.tree.map(np.array_equal, wanted_statistics, statistics))
    assert set(found) - set(wanted) == {"feature/align"}


def test_what_is_aligned_is_a_choice(tiny):
    """The feature before the neck, or after it, where the classifier follows at once."""
    model, batch, variables = tiny
    changed = jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])
    variables = {"params": variables["params"], "batch_stats": changed}
    before = model.apply(variables, guided(batch), train=False)
    np.testing.assert_array_equal(before["feature/align"], before["feature/g"])
    after = dataclasses.replace(model, align="neck", parent=None).apply(variables, guided(batch), train=False)
    np.testing.assert_array_equal(after["feature/align"], after["neck/g"])
    np.testing.assert_array_equal(after["logits/g"], before["logits/g"])
    kernel = variables["params"]["head_g"]["classifier"]["kernel"]
    np.testing.assert_allclose(after["logits/generated"], after["generated/g"] @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", cfat.TEST_FEATURES)
def test_what_is_compared_is_a_choice(tiny, kind):
    model, batch, variables = tiny
    model = dataclasses.replace(model, test_feature=kind, parent=None)
    outputs = model.apply(variables, batch, train=False)
    # A new neck is the identity; after training it is not.
    outputs["neck/g"] = outputs["neck/g"] + jnp.arange(TINY["width"])[None]
    wanted = {"feature": outputs["feature/g"], "neck": outputs["neck/g"], "patch_mean": outputs["tokens"].mean(axis=1)}
    np.testing.assert_allclose(model.describe(outputs).features, unit(wanted[kind]), atol=1e-6)


def test_unknown_choices_are_answered(tiny):
    _, batch, _ = tiny
    for option, words in (
        ({"test_feature": "patch"}, "did you mean 'patch_mean'"),
        ({"bridge_norm": "unit"}, "did you mean 'unit_formula'"),
        ({"bfg_input": "rawest"}, "did you mean 'raw'"),
        ({"align": "nek"}, "did you mean 'neck'"),
    ):
        model = cfat.CFAT(num_classes=CLASSES, **{**TINY, **option})
        run = lambda model: model.describe(model.init_with_output(jax.random.key(0), guided(batch), train=False)[0])
        with pytest.raises(errors.UserError, match=words):
            jax.eval_shape(functools.partial(run, model))
