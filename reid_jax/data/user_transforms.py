"""Transforms of a user's own project, which a config names by `package.module:Name`.

`Name` is a class, built once with the options of its section, whose objects are called with `(element, rng)`; or a
function `(element, rng, **options)`. Both return an element (`transforms` explains elements), and may have the
attributes of `elements.Transform`: `geometric` (default False) and `needs_donor` (default False).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import options as options_lib
from reid_jax.data.elements import Element, map_names


@dataclasses.dataclass(frozen=True)
class UserTransform:
    """Calls a user's transform with copies of the arrays, which may be cached, and checks what it returns.

    Attributes:
        name: `package.module:Name`, for errors.
        function: called with `(element, rng)`.
        geometric: whether views of one image may have to share its random draws.
        needs_donor: whether elements must hold a second image under `donor`.
        size: height and width that image and maps must have afterwards; None before the resize, where any will do.
    """

    name: str
    function: Callable[[Element, np.random.Generator], Element]
    geometric: bool = False
    needs_donor: bool = False
    size: tuple[int, int] | None = None

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the transformed element.

        Raises:
            UserError: the transform returned something else than an element with a uint8 RGB image of the right size.
        """
        copied = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in element.items()}
        changed = self.function(copied, rng)
        image = changed.get("image") if isinstance(changed, dict) else None
        if not isinstance(image, np.ndarray):
            raise errors.UserError(
                f"expected a dictionary with an array under 'image' from the transform {self.name!r}, got "
                f"{type(changed if image is None else image).__name__}; return the element at its end."
            )
        size = self.size or image.shape[:2]
        for key, expected in {"image": (*size, 3), **dict.fromkeys(map_names(changed), size)}.items():
            if changed[key].shape != expected or changed[key].dtype != np.uint8:
                raise errors.UserError(
                    f"expected uint8 of shape {list(expected)} under {key!r} from the transform {self.name!r}, got "
                    f"{changed[key].dtype} of shape {list(changed[key].shape)}; convert it at its end."
                )
        changed.pop("donor", None)
        return changed


def build(name: str, target: Any, options: Mapping[str, Any]) -> UserTransform:
    """Builds the transform that a path leads to.

    Args:
        name: `package.module:Name`, for errors.
        target: what stands there: a class or a function.
        options: keyword arguments of the class, or of the function.

    Raises:
        UserError: it cannot be called, or does not accept these options.
    """
    is_class = isinstance(target, type)
    if not callable(target):
        raise errors.UserError(
            f"expected a class or a function as transform {name!r}, got {type(target).__name__}; name one that takes "
            "(element, rng)."
        )
    owner = f"transform {name!r}"
    if is_class:
        options_lib.check(owner, target, options, also=("name",))
        function = target(**options)
        if not callable(function):
            raise errors.UserError(f"objects of the class {name!r} cannot be called; give it a __call__(element, rng).")
    else:
        options_lib.check(owner, target, options, positional=2, also=("name",))
        function = functools.partial(target, **options)
    geometric, needs_donor = (bool(getattr(target, flag, False)) for flag in ("geometric", "needs_donor"))
    return UserTransform(name, function, geometric=geometric, needs_donor=needs_donor)
