"""Going on from another run: its extras are taken over, and what it took is counted."""

import json

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.config import sections
from reid_jax.runs import initial_weights, starting_point
from reid_jax.train import checkpoints, state


@pytest.fixture
def trained(tmp_path) -> str:
    """A run folder after 7 steps, which itself went on from another run."""
    leaf = lambda value: {"params": {"w": np.float32([value])}, "batch_stats": {}}
    at = state.create(leaf(1.0)).replace(extra={"teacher": leaf(2.0), "centers": np.float32([[3.0]])})
    with checkpoints.Checkpoints(tmp_path / "checkpoints") as saved:
        saved.save(7, at, {"train_seconds": 5.0, "steps_before": 20, "train_seconds_before": 30.0}, wait=True)
    (tmp_path / "config.json").write_text(json.dumps({}))
    return str(tmp_path)


def test_extras_of_the_run_before_are_taken_over_and_its_cost_is_counted(trained):
    carried = starting_point.extras(sections.Init(trained=trained, extras=("teacher",)))
    assert list(carried) == ["teacher"]
    np.testing.assert_array_equal(carried["teacher"]["params"]["w"], [2.0])
    assert starting_point.extras(sections.Init(trained=trained)) == {}
    assert initial_weights.cost(sections.Init(trained=trained)) == {"steps_before": 27, "train_seconds_before": 35.0}
    assert initial_weights.cost(sections.Init()) == {}
    with pytest.raises(errors.UserError, match="did you mean 'teacher'"):
        starting_point.extras(sections.Init(trained=trained, extras=("teachr",)))
    for init in (sections.Init(extras=("teacher",)), sections.Init(network="teacher")):
        with pytest.raises(errors.UserError, match=r"expected init\.trained"):
            starting_point.extras(init)


def test_the_variables_are_those_of_the_run_or_of_a_network_beside_it(trained):
    ours = {"params": {"w": np.zeros(1, np.float32)}, "batch_stats": {}}
    for network, value in (("", 1.0), ("teacher", 2.0)):
        loaded, _ = starting_point.load_run(ours, trained, sections.Init(trained=trained, network=network))
        np.testing.assert_array_equal(loaded["params"]["w"], [value])
    with pytest.raises(errors.UserError, match="did you mean 'teacher'"):
        starting_point.load_run(ours, trained, sections.Init(trained=trained, network="teachr"))
