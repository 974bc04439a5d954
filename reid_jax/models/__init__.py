"""The table of models by name, and how to build a model from a name and options.

A config names a model by its key in `MODELS`, whose fields it then sets, by a row of `weights.zoo` ("osnet_x0_5"),
whose fields it starts from, or by path: `model.name="my_project.nets:Tiny"`. All commands know the same names. A model
of your own is a Flax module (or a function that returns one) that fulfills the contract of every model here:

    init(rngs, batch, train=False)       Flax's; the collections are `params`, `batch_stats` and `constants` (what is
                                         saved and used, and changed by no step)
    __call__(batch, *, train)            from named arrays ("image" [B, H, W, 3] normalized, "camid" [B], in training
                                         "label" [B] and further views and maps) to a dictionary of named float32
                                         outputs, which loss terms read; a model that runs in several ways has the
                                         argument `mode: str = ""` as well, which a pass of the config sets
    describe(outputs) -> Descriptor      what is compared at test time, see `reid_jax.ops.descriptors`

Its fields are the options that a config sets. The trainer fills in `num_classes` (training identities), `num_cameras`,
`image_size` (height, width) and `dtype` (of activations) where there are such fields. The Python module of the model
may hold, each optional:

    TORCH_RULES, TORCH_IGNORED           renames of published weights, and what of them to leave out (`weights.convert`)
    adapt_weights(model, flat)           arrays of a file fitted to the model, and patterns of paths that may be missing
    backbone_parts(variables, names)     the submodules that a file of the backbone alone fills
    options_of_weights(flat)             options that follow from a weights file, such as the number of cameras
    PART_LOADERS                         readers of files for parts of the model, by key of `config.init`

Fields of a model's size mean the same in every model and config:

    size           name of a published size, a row of `SIZES` of the backbone: "resnet50" (resnet), "base" (vit),
                   "x1_0" (osnet). The fields below, where given, replace those of the row.
    width          channels: of the stem of a ResNet (64 is published), of the tokens of a ViT
    depth          number of blocks in a row: of a ViT
    depths         numbers of blocks, one for each stage
    heads          attention heads of a transformer layer
    feature_width  length of the feature vector after a reduction layer
    <part>_width, <part>_depth, <part>_depths, <part>_heads      the same of one part of the model ("hpr_width")

What is compared at test time is `test_feature`, how a map becomes a vector is `pooling`.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flax import linen as nn

from reid_jax import errors
from reid_jax.models import bot, cfat, masked_autoencoder, mgaf, transreid
from reid_jax.models.amfor import amfor
from reid_jax.models.backbones import osnet
from reid_jax.models.mfv import mfv
from reid_jax.models.mspf import mspf
from reid_jax.plugins import names
from reid_jax.weights import convert, torch_files, zoo

MODELS: dict[str, Callable[..., nn.Module]] = {
    "amfor": amfor.AMFOR,
    "bot": bot.BoT,
    "cfat": cfat.CFAT,
    "mfv": mfv.MFV,
    "mgaf": mgaf.MGAF,
    "mgn": mgaf.MGN,
    "mim": masked_autoencoder.MaskedAutoencoder,
    "mspf": mspf.MSPF,
    "osnet": osnet.OSNet,
    "transreid": transreid.TransReID,
}
# All names; rows of the zoo whose name is not that of a class stand for the class with their fields.
NAMED: dict[str, Callable[..., nn.Module]] = {
    **{name: MODELS[entry.model["name"]] for name, entry in zoo.ZOO.items()},
    **MODELS,
}


def build(name: str, **options: Any) -> nn.Module:
    """Builds a model by its name.

    Args:
        name: a key of `NAMED`, or `package.module:Name`.
        **options: fields of the model.

    Raises:
        UserError: the model or one of the options does not exist (the nearest name is suggested), an option without a
            default is missing, or what the name stands for does not fulfill the contract of a model.
    """
    check_options(name, options)
    options = {**preset(name), **options}
    parameters = inspect.signature(constructor(name)).parameters
    for option in fields(name):
        if parameters[option].default is inspect.Parameter.empty and option not in options:
            raise errors.UserError(f"model {name!r} needs the option {option!r}, which was not given; add it.")
    model = constructor(name)(**options)
    if not isinstance(model, nn.Module) or not callable(getattr(model, "describe", None)):
        raise errors.UserError(
            f"expected the model {name!r} to be a Flax module (flax.linen) with a method describe(outputs), got "
            f"{type(model).__name__}; see reid_jax.models for what a model needs."
        )
    return model


def preset(name: str) -> dict[str, Any]:
    """Returns the fields that a name stands for beside its class: {} for classes and models of the user's own."""
    if name in MODELS or name not in zoo.ZOO:
        return {}
    return {field: value for field, value in zoo.ZOO[name].model.items() if field != "name"}


def check_options(name: str, options: Iterable[str]) -> None:
    """Checks the names of a model and of its options without building it.

    Raises:
        UserError: the model or one of the options does not exist; the nearest name is suggested.
    """
    known = fields(name)
    for option in options:
        if option not in known and not _takes_any(name):
            raise errors.unknown(f"option of model {name!r}:", option, known)


def fields(name: str) -> list[str]:
    """Returns the names of the options of a model.

    Raises:
        UserError: no such model.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(constructor(name)).parameters
    return [option for option, one in parameters.items() if one.kind in named and option not in ("parent", "name")]


def accepted(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some options that a model has.

    Raises:
        UserError: no such model.
    """
    known = fields(name)
    return {option: value for option, value in options.items() if option in known or _takes_any(name)}


def options_of_weights(name: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns options of a model that follow from a weights file, such as the number of training cameras.

    They come from the function `options_of_weights(flat)` of the model's module; {} where there is none.

    Raises:
        UserError: no such model, or an unreadable file.
    """
    read = getattr(_home(name), "options_of_weights", None)
    return {} if read is None else read(torch_files.read_weights(path))


def check_mode(model: nn.Module, mode: str) -> None:
    """Checks that a model runs in modes, if a pass of the config sets one; the model itself checks which.

    Raises:
        UserError: the mode is not empty, and the model's `__call__` has no argument `mode`.
    """
    if mode and "mode" not in inspect.signature(type(model).__call__).parameters:
        raise errors.UserError(
            f"the mode {mode!r} of a pass needs a model that runs in modes, {type(model).__name__} does not; take the "
            "mode out of the pass."
        )


def part_loaders(name: str) -> dict[str, Callable[..., tuple[dict[str, Any], convert.Report]]]:
    """Returns the readers of files for parts of a model, `(variables, path) -> (variables, report)`.

    They are the table `PART_LOADERS` of the model's module, by key of `config.init`; {} where there is none.

    Raises:
        UserError: no such model.
    """
    return getattr(_home(name), "PART_LOADERS", {})


def load_weights(
    name: str,
    variables: convert.Variables,
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    into: str | None = None,
    allow_missing: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> tuple[dict[str, Any], convert.Report]:
    """Fills a model's variables from a weights file by the model's own table of published names, strictly.

    Args:
        name: a key of `NAMED`, or `package.module:Name`.
        variables: variables of that model; arrays or shapes.
        path: PyTorch, safetensors or npz file; a file of the backbone alone fills the backbone (in several places where
            the model's module has `backbone_parts`).
        model: the model itself; those with `adapt_weights` need it.
        into: submodule that the file fills; None finds out.
        allow_missing: patterns of our paths that may lack a source or have one of another shape.
        ignore: patterns of names in the file that are left out, in addition to those of the model's table.

    Returns:
        Variables with the loaded leaves, and the outcome for every key (printable).

    Raises:
        UserError: unknown model, unreadable file, or weights of another model.
    """
    home = _home(name)
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
        ignore=(*getattr(home, "TORCH_IGNORED", ()), *((pattern, "left out on request") for pattern in ignore)),
        into=into,
        allow_missing=allow_missing,
        adapt=None if adapt is None else functools.partial(adapt, model),
    )


def constructor(name: str) -> Callable[..., nn.Module]:
    """Returns the class, or the function, that builds a model.

    Raises:
        UserError: no such model, or a path that leads to something else.
    """
    found = names.find("model", name, NAMED)
    if not callable(found):
        raise errors.UserError(
            f"expected the model {name!r} to be a Flax module or a function that returns one, got "
            f"{type(found).__name__}; see reid_jax.models for what a model needs."
        )
    return found


def _home(name: str) -> types.ModuleType | None:
    """Returns the Python module in which a model stands."""
    return inspect.getmodule(constructor(name))


def _takes_any(name: str) -> bool:
    """Returns whether a model is built by a function with `**options`."""
    parameters = inspect.signature(constructor(name)).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
