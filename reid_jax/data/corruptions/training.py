"""The transform that corrupts training images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from reid_jax import errors
from reid_jax.data import augmentations, corruptions
from reid_jax.data.corruptions import sampling
from reid_jax.data.elements import Element, require

LEAVE_OUT = tuple(f"leave_family_out({family})" for family in corruptions.FAMILIES)
POLICIES = ("all20", "none", "augmix", *LEAVE_OUT)


def policy_types(policy: str) -> tuple[str, ...]:
    """Returns the corruptions that a training policy draws from; empty for "none" and "augmix".

    Raises:
        UserError: unknown policy.
    """
    if policy not in POLICIES:
        raise errors.unknown("corruption policy", policy, POLICIES)
    if policy == "all20":
        return tuple(corruptions.CORRUPTIONS)
    if policy not in LEAVE_OUT:
        return ()
    left_out = sampling.of_family(corruptions.FAMILIES[LEAVE_OUT.index(policy)])
    return tuple(name for name in corruptions.CORRUPTIONS if name not in left_out)


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """Corrupts training images at their native size.

    The twenty corruptions are the test corruptions of the benchmark: a model trained with "all20" is not comparable
    with the published scores of models trained on clean images. "augmix" complies with the benchmark, and
    "leave_family_out(noise)" and the like measure generalization to unseen corruptions.

    Attributes:
        policy: the corruptions, one of `POLICIES`.
        probability: probability that an image is corrupted, in [0, 1].
        refresh: "epoch" draws each time an image is used; "once" uses the same corruption of an image (by its file
            name) for the whole training, as CFAT's code does.
        severities: a selection of 1 to 5.
        seed: seed of the draws of refresh "once".
        frost_dir: folder of frost textures; empty for the generated ones.

    References:
        CFAT (its code, for "all20" with "once"); Chen et al., NeurIPS 2021, for the rules of the
        benchmark.
    """

    geometric: ClassVar[bool] = False
    policy: str = "all20"
    probability: float = 0.5
    refresh: str = "epoch"
    severities: Sequence[int] = corruptions.SEVERITIES
    seed: int = 0
    frost_dir: str = ""

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, self, "a probability in [0, 1]")
        if self.refresh not in ("once", "epoch"):
            raise errors.unknown("corruption refresh", self.refresh, ("once", "epoch"))
        if policy_types(self.policy):
            sampling.Selection(policy_types(self.policy), tuple(self.severities), self.frost_dir)  # validates them

    @functools.cached_property
    def _selection(self) -> sampling.Selection | None:
        types = policy_types(self.policy)
        return sampling.Selection(types, tuple(self.severities), self.frost_dir) if types else None

    @functools.cached_property
    def _augmix(self) -> Any:
        return augmentations.AugMix()

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with its image corrupted, or as it is."""
        if self.policy == "none":
            return element
        if self.refresh == "once":
            name = str(element.get("filename", element.get("index", "")))
            rng = sampling.generator(self.seed, 0, "train", name)
        if rng.random() >= self.probability:
            return element
        if self._selection is None:
            mixed: Element = self._augmix(element, rng)
            return mixed
        return {**element, "image": self._selection.corrupt(element["image"], rng)}
