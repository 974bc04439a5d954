"""The table of models: one name per system, and how to build one from data.

Fields that say how large a model is mean the same in every model and config:

    size           name of a published size, a row of `SIZES` of the backbone: "resnet50" (resnet), "base" (vit),
                   "x1_0" (osnet). The fields below, where given, replace what the row says.
    width          channels: of the stem of a ResNet (64 is published), of the tokens of a ViT
    depth          number of blocks in a row: of a ViT
    depths         numbers of blocks, one for each stage
    heads          attention heads of a transformer layer
    feature_width  length of the feature vector behind a reduction layer
    <part>_width, <part>_depth, <part>_depths, <part>_heads      the same of one part of the model ("hpr_width")

What is compared at test time is `test_feature`, how a map becomes a vector is `pooling`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from reid_jax import errors
from reid_jax.models import bot, cfat, mgaf, transreid
from reid_jax.models.amfor import amfor
from reid_jax.models.backbones import osnet
from reid_jax.models.mfv import mfv
from reid_jax.models.mspf import mspf
from reid_jax.weights import convert, torch_files

MODELS: dict[str, Callable[..., nn.Module]] = {
    "amfor": amfor.AMFOR,
    "bot": bot.BoT,
    "cfat": cfat.CFAT,
    "mfv": mfv.MFV,
    "mgaf": mgaf.MGAF,
    "mgn": mgaf.MGN,
    "mspf": mspf.MSPF,
    "osnet": osnet.OSNet,
    "transreid": transreid.TransReID,
}


def build(name: str, **options: Any) -> nn.Module:
    """Builds a model by its name.

    Args:
        name: a key of `MODELS`.
        **options: fields of the model.

    Raises:
        UserError: the model or one of the options does not exist (the nearest name is suggested) or one is lacking.
    """
    known = fields(name)
    parameters = inspect.signature(MODELS[name]).parameters
    for option in options:
        if option not in known:
            raise errors.unknown(f"option of model {name!r}:", option, known)
    for option in known:
        if parameters[option].default is inspect.Parameter.empty and option not in options:
            raise errors.UserError(f"model {name!r} needs the option {option!r}, which was not given; add it.")
    return MODELS[name](**options)


def fields(name: str) -> list[str]:
    """Names of the options of a model.

    Raises:
        UserError: no such model.
    """
    if name not in MODELS:
        raise errors.unknown("model", name, MODELS)
    return [option for option in inspect.signature(MODELS[name]).parameters if option not in ("parent", "name")]


def options_of_weights(name: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Options of a model that a weights file alone knows, such as the number of cameras it was trained for.

    Asked is the function `options_of_weights(flat)` of the model's file, if there is one.
    """
    ask = getattr(inspect.getmodule(MODELS[name]), "options_of_weights", None) if name in MODELS else None
    return {} if ask is None else ask(torch_files.read_weights(path))


def part_loaders(name: str) -> dict[str, Callable[..., tuple[dict[str, Any], convert.Report]]]:
    """What reads the files of a model's parts, `(variables, path) -> (variables, report)`, by key of `config.init`.

    It is the table `PART_LOADERS` of the model's file, where there is one.
    """
    return getattr(inspect.getmodule(MODELS[name]), "PART_LOADERS", {})


def load_weights(
    name: str,
    variables: convert.Variables,
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    into: str | None = None,
    allow_missing: Sequence[str] = (),
) -> tuple[dict[str, Any], convert.Report]:
    """Fills a model's variables from a weights file by the model's own table of published names, strictly.

    A model whose backbone stands in several places says so by a function `backbone_parts(variables, names)` in its
    file: the `convert.Part`s that a file with these names fills, none for a file of the whole model. One that must fit
    a file to its own sizes has a function `adapt_weights(model, flat)` there: the fitted arrays, and patterns of our
    paths that may stay without a source.

    Args:
        name: a key of `MODELS`; its file may hold `TORCH_RULES` (renames) and `TORCH_IGNORED` (pattern, reason).
        variables: of that model; arrays or shapes.
        path: PyTorch, safetensors or npz file; a bare ResNet's fills the model's backbone.
        model: the model itself; those with `adapt_weights` need it.
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
    adapt = getattr(home, "adapt_weights", None)
    return convert.load_file(
        path,
        variables,
        getattr(home, "TORCH_RULES", ()),
        ignore=getattr(home, "TORCH_IGNORED", ()),
        into=into,
        allow_missing=allow_missing,
        adapt=None if adapt is None else functools.partial(adapt, model),
    )
