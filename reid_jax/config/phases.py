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

from collections.abc import Mapping
from typing import Any

from reid_jax import errors

# Sections a phase replaces whole; in every other section it replaces the keys it names.
WHOLE = ("losses", "monitors", "passes", "extras", "schedule", "start_from")
REFINABLE = (*WHOLE, "optimizer", "train", "data")


def phase_configs(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns `(name, resolved config)` of each phase in order; plain dictionaries.

    Args:
        config: the experiment's config as nested dictionaries.

    Raises:
        UserError: when `phase_order` names a phase that is not there, or a phase refines an unknown section.
    """
    order = config["phase_order"]
    if not order:
        return [("", dict(config))]
    resolved = []
    for name in order:
        if name not in config["phases"]:
            raise errors.unknown("phase", name, config["phases"])
        phase = dict(config)
        for section, values in config["phases"][name].items():
            if section not in REFINABLE:
                raise errors.unknown(f"section of phase {name!r}", section, REFINABLE)
            phase[section] = values if section in WHOLE else {**config[section], **values}
        resolved.append((name, phase))
    return resolved
