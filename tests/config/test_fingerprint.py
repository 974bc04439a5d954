"""The hash of a config: what it sees, and what a later version may add without changing it."""

from __future__ import annotations

import dataclasses

import pytest

from reid_jax import config
from reid_jax.config import fingerprint, presets, sections


@pytest.fixture
def later_version(monkeypatch):
    """Switches to a version with a key more in a section, at the top and among the options of a federation."""
    evals = dataclasses.make_dataclass(
        "Evals", [("probe", bool, False), ("extra", dict, sections.key({}))], bases=(sections.Evals,), frozen=True
    )
    new = [("evals", evals, evals()), ("purpose", str, "")]
    settings = dataclasses.make_dataclass("Settings", new, bases=(sections.Settings,), frozen=True)

    def switch():
        monkeypatch.setattr(sections, "Settings", settings)
        monkeypatch.setitem(presets.FEDERATED["fed"], "patience", 3)
        fingerprint.neutral.cache_clear()

    yield switch
    monkeypatch.undo()
    fingerprint.neutral.cache_clear()


def _config(**overrides):
    made = config.defaults()
    config.override(made, config.FEDERATED)
    config.override(made, {"losses.ce": {"loss": "cross_entropy", "on": "logits/b"}, **overrides})
    return made


def test_a_new_key_at_its_default_changes_no_hash(later_version):
    before = _config()
    hash_before, stored = config.config_hash(before), config.to_dict(before)
    later_version()
    after = _config()
    assert (after.evals.probe, after.evals.extra.to_dict(), after.purpose, after.fed.patience) == (False, {}, "", 3)
    assert config.config_hash(after) == hash_before
    assert config.differences(after, stored) == []  # the run of the earlier version resumes


def test_a_new_key_at_another_value_is_seen(later_version):
    before = config.to_dict(_config())
    hash_before = config.config_hash(before)
    later_version()
    after = _config(**{"evals.probe": True})
    assert config.config_hash(after) != hash_before
    assert config.differences(after, before) == ["evals.probe: False -> True"]


def test_a_changed_default_is_seen(monkeypatch):
    before = config.config_hash(_config())
    other = dataclasses.make_dataclass(
        "Settings", [("train", sections.Train, sections.Train(epochs=60.0))], bases=(sections.Settings,), frozen=True
    )
    monkeypatch.setattr(sections, "Settings", other)
    fingerprint.neutral.cache_clear()
    assert config.config_hash(_config()) != before
    fingerprint.neutral.cache_clear()


def test_keys_have_their_first_default_as_neutral_value():
    """A new key is added to `NEUTRAL` with its default; where a default changes, the line there stays."""
    typed = {key for key in fingerprint._defaults() if not key.startswith(config.PRESENTATION)}
    assert typed == set(fingerprint.NEUTRAL)


@pytest.mark.parametrize("key", ["seed", "dtype", "train.epochs", "optimizer.learning_rate", "losses.ce.weight"])
def test_what_changes_a_number_changes_the_hash(key):
    value = "float32" if key == "dtype" else 7
    assert config.config_hash(_config(**{key: value})) != config.config_hash(_config())
