"""CLIP's text transformer, and prompts that learn a description of each training identity ("A photo of a ... person.").

How a model uses it, with `T` the bank of text features [N, D], one row per training identity:

    learner = clip_text.PromptLearner(num_classes=..., features=768, name="prompts")     # in the model
    outputs |= learner.pairs(batch["label"], feature)     # in the mode of stage 1, which trains on these pairs
    bank = learner.bank()                                 # T, float32; a constant, zeros before the end of stage 1

    def fill_text_bank(self, variables):                  # a method of the model, outside `__call__`
        return clip_text.fill_bank(PromptLearner(..., parent=None), variables, "prompts")

Stage 1 is a phase whose terms read those pairs and whose optimizer freezes all but prompts and projection; the phase
after it has `start_from="model/fill_text_bank"` and freezes the prompts (`phases` of configs/amfor.py). T is
`constants/prompts/bank` in the variables: the collection of values that are saved and used at test time and that
neither the optimizer nor a forward pass changes.

The model's module has `PART_LOADERS = {"text_weights": clip_text.load_weights}`, so that `init.text_weights` names the
file; `model.text_source="clip"` without it, or without `init.weights`, is refused (`reid_jax.runs.settings`).

Weights: the text half of an OpenAI checkpoint. The published files are TorchScript, that is code; save plain ones:
`torch.save(torch.jit.load("ViT-B-16.pt", map_location="cpu").state_dict(), "clip.pth")`.

References:
    Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021, section 2.4.
    Li et al., "CLIP-ReID: exploiting vision-language model for image re-identification without concrete text labels",
    AAAI 2023, section 3.2 (prompts per identity, two stages).
"""

from __future__ import annotations

import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import linen as nn

from reid_jax import errors, trees
from reid_jax.weights import convert, torch_files

# OpenAI's parameter names, see `reid_jax.weights.convert`.
TORCH_RULES: tuple[tuple[str, str], ...] = (
    (r"^transformer\.", ""),
    (r"\.attn\.in_proj_(weight|bias)$", r".attn.in_proj.\1"),
)
TORCH_IGNORED: tuple[tuple[str, str], ...] = (
    (r"^visual\.", "the image half, in whose place stands the model's own encoder"),
    (r"^logit_scale$", "temperature of CLIP's own training"),
    (r"^(input_resolution|context_length|vocab_size)$", "a setting, read off the shapes"),
)
# From our names back to OpenAI's.
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = (
    (r"^resblocks\.", "transformer.resblocks."),
    (r"\.ln\.(\d)\.", r".ln_\1."),
    (r"\.attn\.in_proj\.(weight|bias)$", r".attn.in_proj_\1"),
)

# The prompt of all published runs. The numbers follow from CLIP's vocabulary of 49,408 byte pairs: its
# published merges (bpe_simple_vocab_16e6) applied to the lower-cased text.
TEMPLATE = "A photo of a X X X X person."
START, END, PLACEHOLDER = 49406, 49407, 343
TEMPLATE_IDS: tuple[int, ...] = (START, 320, 1125, 539, 320, *[PLACEHOLDER] * 4, 2533, 269, END)
VOCABULARY = 49408


def template_ids(template: str = TEMPLATE, tokenizer: str | os.PathLike[str] = "") -> tuple[int, ...]:
    """Returns the token numbers of a prompt, from the start to the end token.

    Args:
        template: English with an "X" for each vector that is learned; the published one needs no tokenizer.
        tokenizer: CLIP's `tokenizer.json` as the `tokenizers` library reads it, for any other template.

    Raises:
        UserError: the library, the file or the vectors are missing, or the file is not CLIP's.
    """
    if template == TEMPLATE:
        return TEMPLATE_IDS
    path = pathlib.Path(tokenizer)
    if not str(tokenizer) or not path.is_file():
        raise errors.UserError(
            f"the prompt {template!r} needs CLIP's tokenizer.json, there is no file {str(tokenizer)!r}; give its path, "
            f"or use {TEMPLATE!r}."
        )
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as error:
        raise errors.UserError(
            f"the prompt {template!r} needs the library tokenizers, which is not installed; pip install tokenizers, or "
            f"use {TEMPLATE!r}."
        ) from error
    try:
        read = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no error class of its own
        raise errors.UserError(
            f"{path} is no tokenizer file ({errors.fault(error)}); give CLIP's tokenizer.json."
        ) from error
    if read.get_vocab_size() != VOCABULARY:
        raise errors.UserError(
            f"expected CLIP's vocabulary of {VOCABULARY} tokens, {path} has {read.get_vocab_size()}; give CLIP's."
        )
    ids = (START, *read.encode(template, add_special_tokens=False).ids, END)
    if PLACEHOLDER not in ids:
        raise errors.UserError(f"the prompt {template!r} has no X to learn; write one for each learned vector.")
    return ids


def load_weights(
    variables: convert.Variables, path: str | os.PathLike[str], into: str = "prompts/text"
) -> tuple[dict[str, Any], convert.Report]:
    """Fills the text transformer of a model from an OpenAI checkpoint, strictly.

    Args:
        variables: variables of the whole model.
        path: PyTorch or safetensors file with CLIP's own names; half precision becomes the variables' dtype.
        into: path of the text transformer in the model.

    Raises:
        UserError: unreadable file, or weights of something else.
    """
    flat = torch_files.read_weights(path)
    try:
        return convert.load_into(variables, flat, TORCH_RULES, ignore=TORCH_IGNORED, into=into)
    except convert.ConversionError as error:
        raise convert.ConversionError(f"{path}: {error}", error.report) from error


def _layer_norm(name: str | None, dtype: Any) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


class CausalAttention(nn.Module):
    """Self-attention in which a token attends to itself and those before it.

    Attributes:
        heads: number of heads.
        out_std: standard deviation of the initial output layer.
        dtype: compute dtype.
    """

    heads: int
    out_std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]."""
        width = x.shape[-1]
        in_init, out_init = nn.initializers.normal(width**-0.5), nn.initializers.normal(self.out_std)
        qkv = nn.Dense(3 * width, kernel_init=in_init, dtype=self.dtype, name="in_proj")(x)
        query, key, value = rearrange(qkv, "b l (three h d) -> three b l h d", three=3, h=self.heads)
        gathered = jax.nn.dot_product_attention(query, key, value, is_causal=True)  # softmax in float32
        joined = rearrange(gathered, "b l h d -> b l (h d)")
        return nn.Dense(width, kernel_init=out_init, dtype=self.dtype, name="out_proj")(joined)


class QuickMLP(nn.Module):
    """Two layers with `x sigmoid(1.702 x)` between them, CLIP's stand-in for GELU."""

    hidden: int
    out_std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]."""
        width = x.shape[-1]
        in_init, out_init = nn.initializers.normal((2 * width) ** -0.5), nn.initializers.normal(self.out_std)
        hidden = nn.Dense(self.hidden, kernel_init=in_init, dtype=self.dtype, name="c_fc")(x)
        hidden = hidden * nn.sigmoid(1.702 * hidden)
        return nn.Dense(width, kernel_init=out_init, dtype=self.dtype, name="c_proj")(hidden)


class TextBlock(nn.Module):
    """Pre-norm block: causal attention, then the MLP of four times the width."""

    heads: int
    out_std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]."""
        attention = CausalAttention(self.heads, self.out_std, self.dtype, name="attn")
        x = x + attention(_layer_norm("ln_1", self.dtype)(x))
        mlp = QuickMLP(4 * x.shape[-1], self.out_std, self.dtype, name="mlp")
        return x + mlp(_layer_norm("ln_2", self.dtype)(x))


class TextEncoder(nn.Module):
    """CLIP's text transformer, by default that of ViT-B/16 (63,428,096 parameters with the token table).

    Attributes:
        width: width of a token.
        depth: blocks.
        heads: attention heads.
        context: the most tokens of a text.
        vocabulary: rows of the token table.
        features: length of a text feature.
        dtype: compute dtype; parameters, normalization statistics and softmax are float32.
    """

    width: int = 512
    depth: int = 12
    heads: int = 8
    context: int = 77
    vocabulary: int = VOCABULARY
    features: int = 512
    dtype: Any = jnp.float32

    def setup(self) -> None:
        normal = nn.initializers.normal
        self.token_embedding = nn.Embed(self.vocabulary, self.width, embedding_init=normal(0.02))
        shape = (self.context, self.width)
        self.positional_embedding = self.param("positional_embedding", normal(0.01), shape, jnp.float32)
        out_std = (2 * self.depth * self.width) ** -0.5
        self.resblocks = [TextBlock(self.heads, out_std, self.dtype) for _ in range(self.depth)]
        self.ln_final = _layer_norm(None, self.dtype)
        shape = (self.width, self.features)
        self.text_projection = self.param("text_projection", normal(self.width**-0.5), shape, jnp.float32)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Returns token vectors [..., D] float32 of token numbers [...] int32."""
        return self.token_embedding(ids)

    def __call__(self, tokens: jax.Array, end: jax.Array | int) -> jax.Array:
        """Returns the text features of token vectors.

        Args:
            tokens: [B, L, D], L up to `context`. What stands after the end token changes nothing (attention is
                causal), so texts need no padding to the full context.
            end: [B] int32 (or one number for all), position of the end token, whose output is the text feature.

        Returns:
            [B, features] float32, not normalized.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise errors.UserError(f"expected a text of at most {self.context} tokens, got {length}; shorten it.")
        x = tokens.astype(self.dtype) + self.positional_embedding[None, :length].astype(self.dtype)
        for block in self.resblocks:
            x = block(x)
        x = self.ln_final(x)
        last = x[jnp.arange(len(x)), end].astype(jnp.float32)  # [B, D]
        features: jax.Array = last @ self.text_projection
        return features

    def encode(self, ids: jax.Array) -> jax.Array:
        """Returns text features [B, features] of token numbers [B, L] int32, padded below the end token's number."""
        return self(self.embed(ids), jnp.argmax(ids, axis=1))


class PromptLearner(nn.Module):
    """A prompt per identity with a few vectors of its own, the frozen text transformer, a projection, and the bank T.

    Attributes:
        num_classes: training identities N.
        features: length D of the image features that text is compared with.
        template: token numbers of the prompt, see `template_ids`.
        placeholder: the token number in place of a learned vector.
        sizes: fields of the `TextEncoder` that are not CLIP's (for small ones).
        dtype: compute dtype of the transformer.
    """

    num_classes: int
    features: int = 768
    template: tuple[int, ...] = TEMPLATE_IDS
    placeholder: int = PLACEHOLDER
    sizes: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.text = TextEncoder(**self._fields())
        shape = (self.num_classes, len(self._places()), self.text.width)
        self.vectors = self.param("vectors", nn.initializers.normal(0.02), shape, jnp.float32)
        # One linear between text and image features; the published run's modules have two in sequence.
        self.text_proj = nn.Dense(self.features)
        self.kept = self.variable("constants", "bank", jnp.zeros, (self.num_classes, self.features), jnp.float32)

    def _fields(self) -> dict[str, Any]:
        return {"dtype": self.dtype, **(self.sizes or {})}

    def _places(self) -> np.ndarray:
        """Returns the positions of the learned vectors in the prompt."""
        return np.flatnonzero(np.asarray(self.template) == self.placeholder)

    def text_of(self, vectors: jax.Array) -> jax.Array:
        """Returns projected text features [B, D] float32 of learned vectors [B, places, width].

        The transformer's own parameters get no gradient.
        """
        ids = jnp.asarray(self.template, jnp.int32)
        if self.is_initializing():
            return self.text_proj(self._encode(self.text, ids, vectors))
        frozen = TextEncoder(**self._fields(), parent=None)
        encoder = frozen.bind({"params": jax.lax.stop_gradient(self.variables["params"]["text"])})
        return self.text_proj(self._encode(encoder, ids, vectors))

    def _encode(self, encoder: TextEncoder, ids: jax.Array, vectors: jax.Array) -> jax.Array:
        tokens = repeat(encoder.embed(ids), "l d -> b l d", b=len(vectors))
        tokens = tokens.at[:, self._places()].set(vectors.astype(tokens.dtype))
        return encoder(tokens, len(self.template) - 1)

    def pairs(self, labels: jax.Array, feature: jax.Array) -> dict[str, jax.Array]:
        """Returns the pairs that stage 1 compares.

        Args:
            labels: [B] int32 identities in 0..N-1.
            feature: [B, D] image features; they get no gradient.

        Returns:
            "prompt/image" [B, D] and "prompt/text" [B, D], float32.
        """
        text = self.text_of(self.vectors[labels])
        return {"prompt/image": jax.lax.stop_gradient(feature.astype(jnp.float32)), "prompt/text": text}

    __call__ = pairs

    def bank(self) -> jax.Array:
        """Returns T [N, D] float32, see `fill_bank`; the same for all images, in training and at test time."""
        return jax.lax.stop_gradient(self.kept.value)


def fill_bank(learner: PromptLearner, variables: Mapping[str, Any], path: str = "prompts") -> dict[str, Any]:
    """Returns a model's variables with T, `LN(text_proj(text(prompts of all identities)))`.

    The normalization has no parameters: T is constant from then on.

    Args:
        learner: as in the model, unbound (`parent=None`).
        variables: {"params": ..., "constants": ..., ...} of the model.
        path: path of the learner in the model.

    Returns:
        New variables; all but `constants/<path>/bank` as given.
    """
    flat = trees.flatten(variables)
    own: dict[str, Any] = {}
    for collection in ("params", "constants"):
        prefix = f"{collection}/{path}/"
        inside = {name.removeprefix(prefix): leaf for name, leaf in flat.items() if name.startswith(prefix)}
        own[collection] = trees.unflatten(inside)

    def bank(own: Mapping[str, Any]) -> jax.Array:
        text_of = lambda vectors: learner.apply(own, vectors[None], method="text_of")[0]
        # A few identities at a time: activations of a thousand prompts would not fit into memory.
        text = jax.lax.map(text_of, own["params"]["vectors"], batch_size=min(64, learner.num_classes))
        plain = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False, use_fast_variance=False, parent=None)
        return jnp.asarray(plain.apply({}, text))

    return {**dict(variables), **trees.unflatten({**flat, f"constants/{path}/bank": jax.jit(bank)(own)})}
