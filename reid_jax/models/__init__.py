"""The table of models: one name per system, and how to build one from data."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from reid_jax import errors
from reid_jax.models import bot, mfv

MODELS: dict[str, Callable[..., nn.Module]] = {
    "bot": bot.BoT,
    "mfv": mfv.MFV,
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
