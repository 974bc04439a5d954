"""Phases of a config: the same experiment, section by section replaced for a stretch of its steps.

    config.phase_order = ("prompts", "joint")
    config.phases.prompts = dict(train=dict(epochs=20), losses=dict(...), optimizer=dict(frozen=("backbone/.*",)))

A phase goes on with the variables of the one before, unless its `start_from` names an extra that holds others:

    config.phases.student.start_from = "extra/initial"

or a method of the model, `(variables) -> variables`, that prepares them:

    config.phases.joint.start_from = "model/fill_text_bank"

A config without `phase_order` is a single phase with no name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from reid_jax import errors
from reid_jax.config.sections import SECTIONS, Settings

# What a phase replaces whole; in every other section it replaces the keys it names.
WHOLE = ("losses", "monitors", "passes", "extras", "schedule", "start_from")
REFINABLE = (*WHOLE, "optimizer", "train", "data")


def resolve(settings: Settings) -> list[tuple[str, Settings]]:
    """Returns the name and the settings of each phase in order; one phase without a name where none is listed.

    Raises:
        UserError: `phase_order` names a phase that does not exist, or a phase refines an unknown section or holds a
            value that is refused.
    """
    if not settings.phase_order:
        return [("", settings)]
    return [(name, _phase(settings, name)) for name in settings.phase_order]


def _phase(settings: Settings, name: str) -> Settings:
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
