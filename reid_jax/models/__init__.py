"""The table of models: one name per system, and how to build one from data."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from reid_jax import errors
from reid_jax.models import bot, convert, mfv, mgaf, mspf, osnet, torch_files

MODELS: dict[str, Callable[..., nn.Module]] = {
    "bot": bot.BoT,
    "mfv": mfv.MFV,
    "mgaf": mgaf.MGAF,
    "mgn": mgaf.MGN,
    "mspf": mspf.MSPF,
    "osnet": osnet.OSNet,
}


def build(name: str, **options: Any) -> nn.Module:
    """Builds a model by its name.

    Args:
        name: a key of `MODELS`.
        **options: fields of the model.

    Raises:
        UserError: the model or one of the options does not exist (the nearest name is suggested) or one is lacking.
    """
    if name not in MODELS:
        raise errors.unknown("model", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    known = [option for option in parameters if option not in ("parent", "name")]
    for option in options:
        if option not in known:
            raise errors.unknown(f"option of model {name!r}:", option, known)
    for option in known:
        if parameters[option].default is inspect.Parameter.empty and option not in options:
            raise errors.UserError(f"model {name!r} needs the option {option!r}, which was not given; add it.")
    return MODELS[name](**options)


def load_weights(
    name: str,
    variables: convert.Variables,
    path: str | os.PathLike[str],
    *,
    into: str | None = None,
    allow_missing: Sequence[str] = (),
) -> tuple[dict[str, Any], convert.Report]:
    """Fills a model's variables from a weights file by the model's own table of published names, strictly.

    A model whose backbone stands in several places says so by a function `backbone_parts(variables, names)` in its
    file: the `convert.Part`s that a file with these names fills, none for a file of the whole model.

    Args:
        name: a key of `MODELS`; its file may hold `TORCH_RULES` (renames) and `TORCH_IGNORED` (pattern, reason).
        variables: of that model; arrays or shapes.
        path: PyTorch, safetensors or npz file; a bare ResNet's fills the model's backbone.
        into: submodule that the file fills; None finds out.
        allow_missing: patterns of our paths that may lack a source or have one of another shape.

    Returns:
        Variables with the loaded leaves, and the fate of every key (printable).

    Raises:
        UserError: unknown model, unreadable file, or weights of another model.
    """
    if name not in MODELS:
        raise errors.unknown("model", name, MODELS)
    home = inspect.getmodule(MODELS[name])
    backbone_parts = getattr(home, "backbone_parts", None)
    if into is None and backbone_parts is not None:
        parts = backbone_parts(variables, list(torch_files.read_weights(path)))
        if parts:
            return convert.load_parts(path, variables, parts, allow_missing=allow_missing)
    return convert.load_file(
        path,
        variables,
        getattr(home, "TORCH_RULES", ()),
        ignore=getattr(home, "TORCH_IGNORED", ()),
        into=into,
        allow_missing=allow_missing,
    )
