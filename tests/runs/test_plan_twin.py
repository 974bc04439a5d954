"""What a config becomes: length of a phase, rates of its updates, the averaged model, micro-batches."""

import math
import types

import jax
import numpy as np
import pytest

from reid_jax import config as config_lib
from reid_jax.config import files
from reid_jax.data import samplers
from reid_jax.runs import plan
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import step

LABELS = np.repeat(np.arange(8), 4)  # 4 batches of 4 identities x 2 images an epoch
CHANGES = {
    "data.sampler": {"name": "identity_groups", "identities": 4, "images": 2},
    "schedule": {"name": "warmup_multistep", "warmup_epochs": 2, "milestones_epochs": (4,), "factor": 0.1},
    "optimizer.learning_rate": 1.0,
    "train.epochs": 6.0,
    "train.ema_decay": 0.9,
    "train.accumulate": "auto",
}


@pytest.mark.parametrize("turns", [(), ("first", "second")], ids=["one update a step", "two turns"])
def test_a_phase_lasts_its_epochs_and_its_rates_follow_them(root, monkeypatch, turns):
    run_config = files.load_config(str(root / "configs" / "bot.py"))
    config_lib.override(run_config, {**CHANGES, "train.turns": turns})
    if turns:
        config_lib.override(run_config, {"losses.ce.turn": "first", "losses.tri.turn": "second"})
    settings = config_lib.Settings.of(config_lib.to_dict(run_config))
    given = {}
    monkeypatch.setattr(step, "make_train_step", lambda *arguments, **options: given.update(options, given=arguments))
    dataset = types.SimpleNamespace(split=lambda name: LABELS)
    model = types.SimpleNamespace(apply=None)
    two = mesh_lib.create_mesh(jax.devices()[:2])
    planned = plan.Plan(settings, dataset, LABELS, 8, model, None, None, two, first_devices=8)
    params = {"backbone": {"kernel": np.zeros((2, 2))}}
    phase = planned._joint_phase(0, "", settings, params, 10)
    assert (phase.first_step, phase.last_step, phase.steps_per_epoch, phase.batch_size) == (10, 34, 4, 8)
    rates = [phase.learning_rates(4 * epoch + late)["learning_rate"] for epoch in range(6) for late in (0, 3)]
    np.testing.assert_allclose(rates, np.repeat([0.01, 0.505, 1.0, 1.0, 0.1, 0.1], 2))
    assert (given["accumulate"], given["seed"]) == (4, 0)  # one image on a device, as on eight
    objectives, _, extras = given["given"]
    assert [set(each.terms) for each in objectives] == ([{"ce"}, {"tri"}] if turns else [{"ce", "tri"}])
    assert extras["average"].decay == 0.9


def test_each_phase_reads_its_data_section_with_a_seed_of_its_own(root, monkeypatch):
    """Sizes, resampling, maps and views; test_interpolation is for tests. The step draws by the seed of the run."""
    data = {"interpolation": "bicubic", "test_interpolation": "nearest", "height": 48, "width": 32, "maps": ("parts",)}
    views = {"clean": {"geometry": "shared", "augment": {}}}
    run_config = files.load_config(str(root / "configs" / "bot.py"))
    config_lib.override(run_config, {**CHANGES, "seed": 5, "train.epochs": 1.5, "data.views": views})
    config_lib.override(run_config, {f"data.{key}": value for key, value in data.items()})
    settings = config_lib.Settings.of(config_lib.to_dict(run_config))
    asked, steps = [], []
    monkeypatch.setattr(step, "make_train_step", lambda *_, **options: steps.append(options["seed"]))
    monkeypatch.setattr(plan.pipeline, "train_batches", lambda *_, **options: asked.append(options))
    dataset = types.SimpleNamespace(split=lambda name: LABELS, path=None)
    planned = plan.Plan(
        settings, dataset, LABELS, 8, types.SimpleNamespace(apply=None), None, None, mesh_lib.create_mesh()
    )
    params = {"backbone": {"kernel": np.zeros((2, 2))}}
    for index in (0, 1):
        phase = planned._joint_phase(index, "", settings, params, 0)
        assert phase.last_step == 6  # an epoch and a half of four steps
        phase.open_batches(3)
    for options in asked:
        assert {key: options[key] for key in ("interpolation", "height", "width", "maps")} == {
            key: value for key, value in data.items() if key != "test_interpolation"
        }
        assert options["views"].keys() == {"clean"}
        assert (options["start_step"], dict(options["augment"])) == (3, dict(settings.data.augment))
    assert [options["seed"] for options in asked] == [5, samplers.derived_seed(5, "phase", 1)]
    assert steps == [5, 5]


def test_without_a_decay_there_is_no_averaged_model_and_collapse_costs_the_margin():
    settings = types.SimpleNamespace(train=types.SimpleNamespace(ema_decay=0.0), extras={"teacher": {"kind": "x"}})
    assert plan._extras(settings) == {"teacher": {"kind": "x"}}
    terms = {"a": {"loss": "triplet", "margin": "soft"}, "b": {"loss": "triplet", "margin": 1.2}, "c": {"loss": "x"}}
    assert plan.margins(terms) == {"loss/a": math.log(2), "loss/b": 1.2}
    assert plan.margins({"a": {"loss": "triplet"}, "b": None}) == {"loss/a": 0.3}
