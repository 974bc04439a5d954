"""Masks of whole limbs, and the schedule of masked pretraining's recipe.

The numbers in names of tests are those of the properties that the method's description lists.
"""

import numpy as np
import pytest

from reid_jax import config
from reid_jax.config import files
from reid_jax.ops import masks
from reid_jax.runs import masked_drawing
from reid_jax.train import schedules
from tests.helpers import tiny


def test_whole_limbs_hide_the_same_number_in_every_image():
    rule = masks.Rule(4, 3)
    tokens = np.zeros((3, 12), bool)
    tokens[0, [0, 1, 3]] = True
    tokens[1, 11] = True
    hidden = masked_drawing.whole_limbs(tokens, rule)
    assert (hidden.sum(axis=1) == 3).all()
    assert (hidden[0] == tokens[0]).all()
    assert list(np.flatnonzero(hidden[1])) == [8, 10, 11]  # the token and its neighbors
    assert list(np.flatnonzero(hidden[2])) == [4, 7, 3] or hidden[2, [4, 7]].all()  # the middle


def test_16_the_schedule_is_the_published_one():
    settings = config.Settings.of(config.to_dict(files.load_config(str(tiny.ROOT / "configs" / "mim.py:lup_hap"))))
    optimizer, steps = settings.optimizer, 510
    rate = schedules.build(settings.schedule, optimizer.learning_rate, 1.0, 400 * steps, steps)
    expected = {1: 6.0e-5, 20: 1.2e-3, 40: 2.4e-3, 130: 2.049e-3, 220: 1.2e-3, 310: 3.515e-4, 390: 4.57e-6}
    for epoch, value in expected.items():
        assert rate.exact(epoch * steps) == pytest.approx(value, rel=1e-3)
    assert rate.exact(400 * steps) == 0
    assert rate.exact(0) == 0
    assert rate.exact(1) == pytest.approx(2.4e-3 / (40 * steps))  # step by step
