"""Phases of a config: consecutive parts of a run, each with its own version of some sections.

    config.phase_order = ("prompts", "joint")
    config.phases.prompts = dict(train=dict(epochs=20), losses=dict(...), optimizer=dict(frozen=("backbone/.*",)))

A phase continues with the variables of the previous phase, unless its `start_from` names an extra that holds others:

    config.phases.student.start_from = "extra/initial"

or a method of the model, `(variables) -> variables`, that prepares them:

    config.phases.joint.start_from = "model/fill_text_bank"

A config without `phase_order` has a single phase without a name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from reid_jax import errors
from reid_jax.config.sections import SECTIONS, Settings

# Sections that a phase replaces completely; in all others it replaces only the keys that it lists.
WHOLE = ("losses", "monitors", "passes", "extras", "schedule", "start_from")
REFINABLE = (*WHOLE, "optimizer", "train", "data")


def resolve(settings: Settings) -> list[tuple[str, Settings]]:
    """Returns the name and the settings of each phase in order; a single phase named "" if the config lists none.

    Raises:
        UserError: `phase_order` names a phase that does not exist, or a phase changes an unknown section or sets an
            invalid value.
    """
    if not settings.phase_order:
        return [("", settings)]
    return [(name, _phase(settings, name)) for name in settings.phase_order]


def without_effect(key: str, order: Sequence[str], phases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the keys to change in place of one that all phases replace; empty where it is in force in some phase.

    Args:
        key: a key outside of the phases, such as `train.epochs`.
        order: names of the phases that run.
        phases: changes of each phase by section.
    """
    section, _, rest = key.partition(".")

    def replaced(name: str) -> bool:
        changes = phases.get(name, {})
        return section in changes and (section in WHOLE or rest.partition(".")[0] in changes[section])

    return [f"phases.{name}.{key}" for name in order] if order and all(map(replaced, order)) else []


def _phase(settings: Settings, name: str) -> Settings:
    """Returns the settings with the changes of a phase."""
    if name not in settings.phases:
        raise errors.unknown("phase", name, settings.phases)
    changes: dict[str, Any] = {}
    for section, values in settings.phases[name].items():
        if section not in REFINABLE:
            raise errors.unknown(f"section of phase {name!r}", section, REFINABLE)
        if section not in WHOLE:
            refined = {**getattr(settings, section).as_dict(), **values}
            values = SECTIONS[section].of(refined, f"phases.{name}.{section}.")
        changes[section] = values
    return dataclasses.replace(settings, **changes)
