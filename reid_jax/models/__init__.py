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
        UserError: the model or one of the options does not exist; the nearest name is suggested.
    """
    if name not in MODELS:
        raise errors.unknown("model", name, MODELS)
    known = [option for option in inspect.signature(MODELS[name]).parameters if option not in ("parent", "name")]
    for option in options:
        if option not in known:
            raise errors.unknown(f"option of model {name!r}:", option, known)
    return MODELS[name](**options)
