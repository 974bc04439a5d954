"""How people of the look "street" are dressed as they pass a site: what is open, rolled up, taken off or carried."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from reid_jax.data.synthped.people import Person

Change = Callable[[Person, np.random.Generator], Person]

_WARM_TOPS = ("jacket", "coat", "hoodie", "vest", "jumper")
# What is carried at another site in place of what is carried at the first; a name stands as often as it is likely.
_CARRIED = {
    "none": ("none", "none", "tote", "handbag"),
    "backpack": ("backpack", "none", "shoulder", "handbag"),
    "shoulder": ("shoulder", "none", "none", "handbag"),
    "handbag": ("shoulder", "none", "none", "handbag"),
    "tote": ("shoulder", "none", "none", "handbag"),
}
_TIED = ("long", "ponytail", "bun")


def _cut(person: Person, **lengths: Any) -> Person:
    return dataclasses.replace(person, cut=dataclasses.replace(person.cut, **lengths))


def _opened(person: Person, rng: np.random.Generator) -> Person:
    """Returns the person with a jacket that is open more or less, or closed."""
    return _cut(person, opening=-0.5 + 0.9 * rng.random())


def _rolled(person: Person, rng: np.random.Generator) -> Person:
    return _cut(person, sleeve=0.3 + 0.7 * rng.random())


def _pulled(person: Person, rng: np.random.Generator) -> Person:
    return _cut(person, top_length=0.075 * rng.random() - 0.025)


def _hat(person: Person, rng: np.random.Generator) -> Person:
    """Returns the person without a hat, or in a few cases with a cap."""
    capped = person.hat == "none" and rng.random() < 0.15
    return dataclasses.replace(person, hat="cap" if capped else "none")


def _carried(person: Person, rng: np.random.Generator) -> Person:
    choices = _CARRIED[person.bag]
    return dataclasses.replace(
        person, bag=choices[int(rng.integers(len(choices)))], bag_side=1 if rng.random() < 0.5 else -1
    )


def _tied(person: Person, rng: np.random.Generator) -> Person:
    if person.hair_style not in _TIED:
        return person
    return dataclasses.replace(person, hair_style=_TIED[int(rng.integers(len(_TIED)))])


def _scarf(person: Person, rng: np.random.Generator) -> Person:
    return dataclasses.replace(person, scarf=not person.scarf)


# Changes with their shares of the probability `wear`.
_CHANGES: tuple[tuple[Change, float], ...] = (
    (_opened, 1.0),
    (_rolled, 1.0),
    (_pulled, 1.0),
    (_hat, 1.0),
    (_carried, 1.0),
    (_tied, 1.0),
    (_scarf, 0.3),
)


def _undressed(person: Person, rng: np.random.Generator) -> Person:
    """Returns the person without jacket or jumper, in what was worn below."""
    if person.top not in _WARM_TOPS:
        return person
    return dataclasses.replace(
        person,
        top="tshirt" if rng.random() < 0.5 else "shirt",
        top_cloth=person.inner_cloth,
        sleeve="short" if rng.random() < 0.6 else "long",
        sleeve_color=person.inner_cloth.color,
    )


def worn(person: Person, rng: np.random.Generator, wear: float, undress: float) -> Person:
    """Returns a person as dressed at one passage.

    Args:
        person: the person of all passages.
        rng: generator of the passage.
        wear: probability of each kind of change, times its share.
        undress: probability of having taken off a jacket or jumper.
    """
    for change, share in _CHANGES:
        if rng.random() < share * wear:
            person = change(person, rng)
    return _undressed(person, rng) if rng.random() < undress else person
