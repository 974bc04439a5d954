"""Cameras are labeled as in the file names where these agree."""

import numpy as np
import pytest

from reid_jax.data import camera_labels


@pytest.mark.parametrize(
    ("names", "cameras", "labels"),
    [
        (["0002_c1s1_000451_03.jpg", "query/-1_c6s3_0.jpg"], [0, 5], {0: "1", 5: "6"}),
        (["0002_c1_f0044158.jpg", "0002_c8_f0.jpg"], [0, 7], {0: "1", 7: "8"}),
        (["0000_000_01_0303morning_0008_0.jpg", "0000_001_15_0303noon_0_1.jpg"], [0, 14], {0: "1", 14: "15"}),
        (["anna/c2.png", "anna/camera_9_1.png", "ben/cam02-7.png"], [0, 1, 0], {0: "2", 1: "9"}),
        (["a_c2.png", "b_c2.png"], [0, 1], {0: "0", 1: "1"}),  # one number for two cameras
        (["a_c2.png", "b_c3.png"], [0, 0], {0: "0"}),  # two numbers for one camera
        (["a_c2.png", "b.png"], [0, 1], {0: "0", 1: "1"}),  # a name that does not tell
        (["a_c2_c3.png"], [0], {0: "0"}),
        (["a.png", "b_c3.png"], [-1, 0], {-1: "unknown", 0: "3"}),
    ],
)
def test_labels(names, cameras, labels):
    assert camera_labels.of(names, np.asarray(cameras)) == labels
