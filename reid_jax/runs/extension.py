"""More epochs for a run that has been trained: the same config but for its length, in the same folder (`--extend`).

Variables, optimizer state, averages and the order of batches continue; the learning rate is that of the longer
schedule from the next step on. Where that schedule has the same rates so far (constant, steps at given epochs), the
extended run equals the uninterrupted longer one, bit for bit. Where it does not (a cosine over the whole run, drops at
fractions of a federation's rounds), the log and `result.json` say so. `extended.json` in the run folder lists the
extensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.config import phases
from reid_jax.federated import federation_options
from reid_jax.runs import folder as folder_lib

_EPOCHS = "train.epochs"
_ROUNDS = "fed.rounds"  # the length of a federated run
_MOST_COMPARED = 2000  # steps whose learning rates are compared


def begin(folder: folder_lib.RunFolder, config: ConfigDict) -> None:
    """Makes a run folder that of the longer config; its `result.json` becomes `result-<steps>.json`.

    Called by the main process, which holds the folder's lock. Without a difference nothing changes: the run resumes.

    Raises:
        UserError: there is no run to extend, or the config differs in something else than the length, or is no longer.
    """
    changed = check(folder, config)
    if not changed:
        return
    step = folder.newest_step()
    entries = [entry for entry in read(folder) if entry["step"] < step]
    listed = {"extensions": [*entries, {"step": step, "changed": changed}]}
    file_io.write_json(folder.extended, listed, "the list of extensions")
    result = folder.read_result() if folder.result.is_file() else None
    if result is not None:
        folder.result.replace(folder.path / f"result-{result['steps']}.json")
    file_io.write_text(folder.config, config_lib.to_json(config), "the config of the run")


def check(folder: folder_lib.RunFolder, config: ConfigDict) -> dict[str, Any]:
    """Returns the keys that an extension changes, with their values before; {} if the folder has this config already.

    Raises:
        UserError: as `begin`.
    """
    folder.check_trained()
    stored = folder.read_config()
    before, after = (config_lib.Settings.of(config_lib.to_dict(each)) for each in (stored, config))
    changed = config_lib.differences(config, stored)
    keys = [text.partition(":")[0] for text in changed]
    federated = before.train.mode == after.train.mode == "federated"
    last = f"phases.{after.phase_order[-1]}.{_EPOCHS}" if after.phase_order else _ROUNDS if federated else _EPOCHS
    if other := [text for key, text in zip(keys, changed, strict=True) if key not in (_EPOCHS, last)]:
        raise errors.UserError(
            f"expected a config that differs from that of {folder.path} in its length alone to extend it, this one "
            f"also differs in {'; '.join(other[:4])}; give another --workdir, with --config.init.weights={folder.path} "
            "to start from its variables."
        )
    if not keys:
        return {}
    lengths = [_lengths(settings, federated) for settings in (before, after)]
    if lengths[0][:-1] != lengths[1][:-1] or lengths[1][-1] <= lengths[0][-1]:
        raise errors.UserError(
            f"expected a longer last phase to extend {folder.path}, its phases have {_listed(lengths[0])} "
            f"{'rounds' if federated else 'epochs'} and those of the config {_listed(lengths[1])}; raise {last}."
        )
    flat = config_lib.flatten(stored)
    return {key: flat.get(key) for key in keys}


def _lengths(settings: config_lib.Settings, federated: bool) -> list[float]:
    """Returns the epochs of each phase, or the rounds of the only one of a federation."""
    if federated:
        return [federation_options.Options.of(settings.fed).rounds]
    return [phase.train.epochs for _, phase in phases.resolve(settings)]


def _listed(lengths: Sequence[float]) -> str:
    return ", ".join(f"{length:g}" for length in lengths)


def read(folder: folder_lib.RunFolder) -> list[dict[str, Any]]:
    """Returns the extensions of a run: the `step` at which each began, and the old values of what it `changed`.

    Raises:
        UserError: the file is damaged.
    """
    if not folder.extended.is_file():
        return []
    expected, remedy = "the extensions of a run (JSON)", "restore it from a copy"
    entries = file_io.read_json(folder.extended, expected, remedy)
    with file_io.reading(folder.extended, expected, remedy):
        return [{"step": int(entry["step"]), "changed": {**entry["changed"]}} for entry in entries["extensions"]]


def before(config: ConfigDict, entries: Sequence[Mapping[str, Any]], index: int) -> config_lib.Settings:
    """Returns the settings that a run had before one of its extensions.

    Args:
        config: the run's config now.
        entries: `read`.
        index: which of them.
    """
    values: dict[str, Any] = {}
    for entry in reversed(entries[index:]):
        values |= entry["changed"]
    shorter = config.copy_and_resolve_references()
    config_lib.override(shorter, values)
    return config_lib.Settings.of(config_lib.to_dict(shorter))


def first_difference(old: Sequence[Any], new: Sequence[Any], steps: int) -> tuple[int, float, float] | None:
    """Returns the first step whose learning rate is another one, with the rate before and now; `None` for none.

    Args:
        old: phases of the run as it was trained (`train.loop.Phase`).
        new: phases of the extended run.
        steps: number of steps that were trained before the extension.
    """
    stride = max(1, steps // _MOST_COMPARED)
    for step in [*range(0, steps, stride), steps - 1]:
        rates = [_rates(phases_, step) for phases_ in (old, new)]
        for name, rate in rates[0].items():
            if abs(rate - rates[1].get(name, 0.0)) > 1e-9 * max(abs(rate), 1e-12):
                return step, rate, rates[1].get(name, 0.0)
    return None


def _rates(schedule: Sequence[Any], step: int) -> dict[str, float]:
    """Returns the learning rates of a step by group."""
    phase = next(phase for phase in schedule if step < phase.last_step)
    rates: dict[str, float] = phase.learning_rates(step - phase.first_step)
    return rates


def sentence(step: int, difference: tuple[int, float, float] | None) -> str:
    """Returns what an extension means for the learning rate, for the log and `result.json`."""
    if difference is None:
        return (
            f"extended at step {step}: the longer schedule has the same learning rates up to there, so the run equals "
            "the uninterrupted longer one."
        )
    at, was, now = difference
    return (
        f"extended at step {step}: up to there the run had the learning rates of its shorter schedule (step {at + 1}: "
        f"{was:.3g}, the longer one has {now:.3g}), from there on it has those of the longer one; a run of this length "
        "from the start would give other numbers."
    )
