"""Image transforms: pure functions `(element, rng) -> element` on numpy arrays.

An element is a dictionary with `image` (uint8 `[H, W, 3]`, RGB). Every other two-dimensional uint8 array in it is a
*map* (such as `parts`, a label for each pixel, 0 = background) and is transformed with the image. Other values, such as
`index`, pass through. Randomness comes only from the given generator, and the arrays of the input are never changed.

`TRANSFORMS` lists them in their canonical order, and `build_chain` builds a chain from plain data:

    build_chain(dict(flip=dict(probability=0.5), pad_crop=dict(pad=10), erase={}), height=256, width=128)

Normalization and the fill of erased boxes happen on the device (`reid_jax.ops.images`), which receives uint8 images.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from reid_jax import errors
from reid_jax.data import augmentations, image_io, pretraining_transforms, user_transforms
from reid_jax.data import options as options_lib
from reid_jax.data.corruptions import training
from reid_jax.data.elements import Box, Element, Transform, clear_maps, draw_box, map_names, require, require_box_ranges
from reid_jax.plugins import names

# Labels of `parts` are 1 + the index in: head, left arm, right arm, torso, left leg, right leg, left foot, right foot.
LEFT_RIGHT_PAIRS = ((2, 3), (5, 6), (7, 8))


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes image and maps to one size, maps by the nearest pixel; what has that size already stays unchanged."""

    geometric: ClassVar[bool] = True
    height: int
    width: int
    interpolation: str = "bilinear"  # a key of `image_io.INTERPOLATIONS`

    def __post_init__(self) -> None:
        require(self.height > 0 and self.width > 0, self, "a positive height and width")
        if self.interpolation not in image_io.INTERPOLATIONS:
            raise errors.unknown("interpolation", self.interpolation, image_io.INTERPOLATIONS)

    def __call__(self, element: Element, rng: np.random.Generator | None = None) -> Element:
        """Returns the resized element."""
        changed = dict(element)
        size = (self.height, self.width)
        if element["image"].shape[:2] != size:
            changed["image"] = image_io.resize(element["image"], self.height, self.width, self.interpolation)
        for name in map_names(element):
            if element[name].shape != size:
                changed[name] = cv2.resize(element[name], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return changed


@dataclasses.dataclass(frozen=True)
class Flip:
    """Flips image and maps horizontally.

    Attributes:
        probability: probability of a flip, in [0, 1].
        flip_swap_lr: also exchanges the labels of left and right body parts, so that "left arm" remains the person's
            left arm. False reproduces recipes that flip the maps only.
        pairs: the pairs of labels that are exchanged.
    """

    geometric: ClassVar[bool] = True
    probability: float = 0.5
    flip_swap_lr: bool = True
    pairs: Sequence[Sequence[int]] = LEFT_RIGHT_PAIRS

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, self, "a probability in [0, 1]")

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element flipped, or as it is."""
        if rng.random() >= self.probability:
            return element
        return self.mirror(element)

    def mirror(self, element: Element) -> Element:
        """Returns the flipped element, regardless of the probability."""
        # cv2.flip is 30 times faster than a copy of a reversed numpy view.
        changed = {**element, "image": cv2.flip(element["image"], 1)}
        for name in map_names(element):
            flipped = cv2.flip(element[name], 1)
            if name == "parts" and self.flip_swap_lr:
                flipped = cv2.LUT(flipped, self._swap_table())
            changed[name] = flipped
        return changed

    def _swap_table(self) -> np.ndarray:
        table = np.arange(256, dtype=np.uint8)
        for left, right in self.pairs:
            table[left], table[right] = right, left
        return table


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """Pads every side and crops the original size at a random position; maps are padded with 0 (background).

    Attributes:
        pad: pixels added on every side; the shift of the crop is uniform in [-pad, pad] on both axes.
        fill: value of the padding in the image, 0-255 (black in all recipes here).
    """

    geometric: ClassVar[bool] = True
    pad: int = 10
    fill: int = 0

    def __post_init__(self) -> None:
        require(isinstance(self.pad, int) and self.pad >= 0, self, "a whole number of pixels >= 0")
        require(0 <= self.fill <= 255, self, "a fill in [0, 255]")

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the shifted element."""
        down, right = rng.integers(0, 2 * self.pad + 1, size=2) - self.pad
        changed = {**element, "image": _shift(element["image"], int(down), int(right), self.fill)}
        for name in map_names(element):
            changed[name] = _shift(element[name], int(down), int(right), 0)
        return changed


def _shift(array: np.ndarray, down: int, right: int, fill: int) -> np.ndarray:
    """Returns `array[y + down, x + right]`, with `fill` outside, without a padded intermediate copy."""
    height, width = array.shape[:2]
    shifted = np.full_like(array, fill) if fill else np.zeros_like(array)
    top, bottom = max(0, -down), min(height, height - down)
    left, end = max(0, -right), min(width, width - right)
    if top < bottom and left < end:
        shifted[top:bottom, left:end] = array[top + down : bottom + down, left + right : end + right]
    return shifted


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Changes brightness, contrast, saturation and hue in random order, rounding to uint8 after each step.

    A strength `s` of the first three draws a factor from U(max(0, 1 - s), 1 + s); `hue` draws a rotation of the color
    circle from U(-hue, hue), with hue <= 0.5. A strength of 0 leaves that property unchanged. Parameters and order
    follow torchvision's ColorJitter on 8-bit images.
    """

    geometric: ClassVar[bool] = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, self, "a probability in [0, 1]")
        require(min(self.brightness, self.contrast, self.saturation) >= 0, self, "strengths >= 0")
        require(0 <= self.hue <= 0.5, self, "a hue in [0, 0.5]")

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with its image jittered, or as it is."""
        chance, *amounts = rng.random(5)
        order = rng.permutation(4)
        if chance >= self.probability:
            return element
        image = element["image"]
        strengths = (self.brightness, self.contrast, self.saturation)
        for step in order:
            if step == 3:
                image = turn_hue(image, (2 * amounts[3] - 1) * self.hue) if self.hue else image
            elif strengths[step]:
                low, high = max(0.0, 1 - strengths[step]), 1 + strengths[step]
                image = (scale_brightness, scale_contrast, scale_saturation)[step](
                    image, low + (high - low) * amounts[step]
                )
        return {**element, "image": image}


def scale_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns the image blended with black: `factor * image`, clipped."""
    return cv2.LUT(image, _blend_table(0, factor))


def scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns the image blended with its mean gray."""
    gray = int(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean() + 0.5)
    return cv2.LUT(image, _blend_table(gray, factor))


def scale_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns the image blended with its gray version (ITU-R 601 weights)."""
    gray = np.array([[0.299, 0.587, 0.114]]).repeat(3, axis=0)
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * gray)


def turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Returns the image with `turn`, a fraction of the color circle in [-0.5, 0.5], added to its hue."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(turn * 255) % 256)  # wraps around, as the color circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _blend_table(base: int, factor: float) -> np.ndarray:
    table: np.ndarray = np.clip(base + factor * (np.arange(256) - base), 0, 255).astype(np.uint8)
    return table


@dataclasses.dataclass(frozen=True)
class Erase:
    """Draws the box of random erasing, `erase_box` int32 `[4]` = (top, left, bottom, right), zeros for none.

    The image itself is filled on the device after normalization; maps are set to 0 here, so that an erased pixel
    belongs to no body part.

    Attributes:
        probability: probability of a box, in [0, 1].
        area: range of the box's fraction of the image.
        aspect: range of height / width.
        log_aspect: draws the aspect log-uniformly (TransReID and its successors) instead of uniformly (BoT, MFV).
        tries: maximum number of boxes drawn until a box fits strictly inside; if none does, nothing is erased.

    References:
        Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """

    geometric: ClassVar[bool] = False
    probability: float = 0.5
    area: Sequence[float] = (0.02, 0.4)
    aspect: Sequence[float] = (0.3, 1 / 0.3)
    log_aspect: bool = False
    tries: int = 100

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, self, "a probability in [0, 1]")
        require_box_ranges(self, self.area, self.aspect, self.tries)

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with its `erase_box`."""
        box = np.zeros(4, np.int32)
        if rng.random() < self.probability:
            height, width = element["image"].shape[:2]
            box[:] = self.draw(height, width, rng)
        changed = {**element, "erase_box": box}
        top, left, bottom, right = (int(edge) for edge in box)
        return clear_maps(changed, (top, left, bottom, right)) if bottom > top else changed

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Returns a box inside `[height, width]`, or zeros when none fits."""
        return draw_box(
            height, width, rng, area=self.area, aspect=self.aspect, log_aspect=self.log_aspect, tries=self.tries
        )


# In canonical order, in which chains apply them unless their config gives an `order`.
TRANSFORMS: dict[str, type] = {
    "corrupt": training.Corrupt,  # at native size, as in the robustness benchmark
    "resized_crop": pretraining_transforms.ResizedCrop,  # likewise
    "resize": Resize,
    "jitter": Jitter,
    "flip": Flip,
    "pad_crop": PadCrop,
    "occlude": augmentations.Occlude,
    "soft_erase": augmentations.SoftErase,
    "self_patch": augmentations.SelfPatch,
    "augmix": augmentations.AugMix,
    "erase": Erase,
    "mask_seed": pretraining_transforms.MaskSeed,
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """A sequence of transforms."""

    transforms: tuple[Transform, ...]

    def __call__(
        self, element: Element, rng: np.random.Generator, geometry_rng: np.random.Generator | None = None
    ) -> Element:
        """Applies the transforms in turn.

        Args:
            element: see the module's docstring.
            rng: random generator.
            geometry_rng: generator of the geometric transforms, where given; two views with the same geometric
                transforms then show the same crop.

        Returns:
            A new element; `element` is unchanged.
        """
        for transform in self.transforms:
            element = transform(element, geometry_rng if geometry_rng is not None and transform.geometric else rng)
        return element

    @property
    def needs_donor(self) -> bool:
        """Whether elements must hold a second image under `donor`."""
        return any(getattr(transform, "needs_donor", False) for transform in self.transforms)

    @property
    def starts_with_resize(self) -> bool:
        """Whether the resized image can be cached, since nothing random precedes the resize."""
        return bool(self.transforms) and isinstance(self.transforms[0], Resize)


def build_transform(name: str, options: Mapping[str, Any]) -> Transform:
    """Builds one transform.

    Args:
        name: a key of `TRANSFORMS` or `package.module:Name`; a label where the options hold a `name` themselves.
        options: the transform's options.

    Raises:
        UserError: unknown name, misspelled option, or a value out of range.
    """
    if not hasattr(options, "items"):
        raise errors.UserError(
            f"options of the transform {name!r} should be a dictionary, True or None, got {options!r}."
        )
    settings = {key: _plain(value) for key, value in options.items()}
    name = settings.pop("name", name)
    target = names.find("transform", name, TRANSFORMS)
    try:
        if names.is_path(name):
            return user_transforms.build(name, target, settings)
        options_lib.check(f"transform {name!r}", target, settings)
        transform: Transform = target(**settings)
        return transform
    except TypeError as error:  # a value of the wrong type in a comparison
        raise errors.UserError(f"transform {name!r} does not take {settings}: {error}.") from error


def build_chain(config: Mapping[str, Any] | None, height: int, width: int, interpolation: str = "bilinear") -> Chain:
    """Builds a chain from plain data.

    Args:
        config: transform name -> its options (`{}` or True: the defaults; None or False: left out). Where the options
            hold a `name`, that is the transform (a key of `TRANSFORMS` or `package.module:Name`) and the key is a
            label: `{"my_blur": {"name": "my_project.transforms:Blur", "strength": 2}}`. The key `order` may list the
            keys in another order than the canonical one: that of `TRANSFORMS`, with transforms of a user's project
            before `erase`, and by label where several have one place. The resize is always part of it and takes its
            options from the other arguments; an order that does not list it has it first, or right after a leading
            `corrupt` and `resized_crop`.
        height: rows of the result.
        width: columns of the result.
        interpolation: name of `image_io.INTERPOLATIONS`.

    Returns:
        The chain.

    Raises:
        UserError: unknown names or options, or an order that does not list exactly the transforms in use.
    """
    settings = dict((config or {}).items())
    order = settings.pop("order", None)
    options = {label: ({} if value is True else value) for label, value in settings.items() if _is_on(value)}
    kinds = {label: _kind(label, value) for label, value in options.items()}
    if "resize" in (*settings, *kinds.values()):
        raise errors.UserError(
            "data.height, data.width and data.interpolation set the resize; take `resize` out of the augment section."
        )
    for label in settings:
        if kinds.get(label, label) not in TRANSFORMS and not names.is_path(kinds.get(label, label)):
            raise errors.unknown("transform", kinds.get(label, label), [*TRANSFORMS, "order", "package.module:Name"])
    options["resize"] = {"height": height, "width": width, "interpolation": interpolation}
    kinds["resize"] = "resize"
    labels = sorted(options, key=lambda label: (_place(kinds[label]), label))
    if order is not None:
        chosen = list(order)
        if "resize" not in chosen:
            at_native_size = itertools.takewhile(("corrupt", "resized_crop").__contains__, chosen)
            chosen.insert(len(list(at_native_size)), "resize")
        if sorted(chosen) != sorted(labels):
            raise errors.UserError(
                f"the transform order {tuple(order)} must list each transform in use once: {', '.join(labels)}."
            )
        labels = chosen
    chain = [build_transform(label, options[label]) for label in labels]
    for position in range(labels.index("resize"), len(chain)):
        transform = chain[position]
        if isinstance(transform, user_transforms.UserTransform):
            chain[position] = dataclasses.replace(transform, size=(height, width))
    return Chain(tuple(chain))


def _is_on(value: Any) -> bool:
    return value is not None and value is not False


def _kind(label: str, options: Any) -> str:
    """Returns the name of the transform that a key of the augment section stands for."""
    return str(options.get("name", label)) if hasattr(options, "get") else label


def _place(kind: str) -> float:
    """Returns the canonical place of a transform; those of the user's own come right before `erase`."""
    table = list(TRANSFORMS)
    return table.index(kind) if kind in TRANSFORMS else table.index("erase") - 0.5


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value
