"""A federation from config to result: MGAF's smallest row, the cameras of the smallest SynthPed as clients."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.config import sections
from reid_jax.federated import phase
from reid_jax.runs import experiment, launch
from reid_jax.train import checkpoints, metrics
from tests.helpers import tiny

pytestmark = pytest.mark.slow

SMALL = {
    **tiny.SMALL,
    "data.height": 96,
    "data.sampler": {"name": "identity_epoch", "identities": 4, "images": 2},
    "data.options": {"size": "tiny", "seed": 0},
    "model.width": 4,
    "model.depths": (0, 0, 2, 1),
    "model.feature_width": 8,
    "fed.rounds": 3,
    "fed.lr_drops": (0.5,),
    "evals.every_epochs": 2.0,
    "evals.flip": False,
    "checkpoint.every_epochs": 1.0,
}


def test_a_federation_trains_and_is_evaluated_like_any_run(tmp_path):
    tiny.draw(tmp_path / "data")
    name = "mgaf:synthped,mgaf_base,mgaf_federated"
    made = tiny.config(tmp_path / "data", name, SMALL)
    assert launch.run(made, workdir=str(tmp_path / "run"), mode="train") == 0
    lines = [line for line in metrics.read(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[0]["learning_rate"] == pytest.approx(2e-4)
    assert lines[2]["learning_rate"] == pytest.approx(2e-5)
    scored = [line["step"] for line in metrics.read(tmp_path / "run") if "synthped/mAP" in line]
    assert scored == [2, 3]

    arrays = checkpoints.restore_arrays(tmp_path / "run" / "checkpoints")
    own = [path for path in arrays if path.startswith("extra/clients/own/")]
    assert sorted(own) == [f"extra/clients/own/params/classifier_g1/{leaf}" for leaf in ("bias", "kernel")]
    kernels = arrays["extra/clients/own/params/classifier_g1/kernel"]
    assert kernels.shape == (3, 8, 8)
    assert not np.array_equal(kernels[0], kernels[1])
    traveling = sum(
        value.nbytes
        for path, value in arrays.items()
        if path.startswith(("params/", "batch_stats/")) and "classifier" not in path
    )
    assert {line["fed/bytes_up"] for line in lines} == {3 * traveling}

    # The newest checkpoint alone gives the scores: inference needs theta and nothing of the clients.
    assert launch.run(made, workdir=str(tmp_path / "run"), mode="eval") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 3
    assert (result["clients"], result["clients_per_round"], result["local_steps_per_round"]) == (3, 3, 2)
    assert result["bytes_up_per_round"] == result["bytes_down_per_round"] == 3 * traveling
    last = metrics.read(tmp_path / "run")[-1]
    assert result["synthped/mAP"] == pytest.approx(last["synthped/mAP"], abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.mode": "federate"}, "did you mean 'federated'"),
        ({"train.ema_decay": 0.9}, r"does not support train\.ema_decay"),
        ({"train.accumulate": 2}, r"does not support train\.accumulate"),
        ({"extras": {"teacher": {"kind": "frozen_copy"}}}, "does not support extras"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_options_are_refused(overrides, message):
    made = tiny.config("data", "mgaf:synthped,mgaf_federated", {**SMALL, **overrides})
    with pytest.raises(errors.UserError, match=message):
        phase.is_federated(sections.Settings.of(config_lib.to_dict(made)))
    joint = tiny.config("data", "mgaf:synthped", SMALL)
    assert not phase.is_federated(sections.Settings.of(config_lib.to_dict(joint)))


def test_clients_that_do_not_fit_the_devices_are_refused_before_training(tmp_path):
    """Three clients of 3 x 2 images on eight devices; misspelled options too."""
    tiny.draw(tmp_path / "data")
    name = "mgaf:synthped,mgaf_base,mgaf_federated"
    whole = experiment.Experiment(tiny.config(tmp_path / "data", name, SMALL))
    batch = whole.preprocess(whole.extractor.example_batch())
    variables = jax.eval_shape(lambda: whole.model.init(jax.random.key(0), batch, train=False))
    assert whole.phases(variables)[0].last_step == 3
    for overrides, message in [
        ({"data.sampler.identities": 3}, "18 images of all clients' local batches .* over 8 devices"),
        ({"fed.clients": "dataset"}, r"name them in data\.sources"),
    ]:
        made = experiment.Experiment(tiny.config(tmp_path / "data", name, {**SMALL, **overrides}))
        with pytest.raises(errors.UserError, match=message):
            made.phases(variables)
