"""The guard of resuming: a checkpoint goes on with the data it was trained on, and with no other."""

import dataclasses

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import records, union
from reid_jax.runs import experiment


def _dataset(content, name="a.jpg"):
    zeros = np.zeros(1, np.int32)
    return records.ReIDDataset("own", records.Split("own/train", [{}], zeros, zeros, (name,)), content=content)


def _check(before, now):
    meta = {"index_hash": before.index_hash(), "content_hash": before.content}
    experiment._check_same_data(meta, now)


def test_same_data_and_unknown_content_are_accepted():
    for before, now in (("1", "1"), ("", "1"), ("1", "")):
        _check(_dataset(before), _dataset(now))
    dataset = _dataset("1")
    experiment._check_same_data({"index_hash": dataset.index_hash()}, dataset)  # of an earlier version


def test_other_names_and_other_images_are_refused():
    with pytest.raises(errors.UserError, match="expected the data this run was trained on"):
        _check(_dataset("1"), _dataset("1", "b.jpg"))
    with pytest.raises(errors.UserError, match=r"got other images under the same names .*start a new --workdir"):
        _check(_dataset("1"), _dataset("2"))


def test_content_follows_a_data_set_through_unions():
    first, second = _dataset("1"), dataclasses.replace(_dataset("2", "b.jpg"), name="other")
    assert records.joined_content(["1", ""]) == ""
    assert records.joined_content(["1", "2"]) != records.joined_content(["2", "1"])
    assert union.union([first, second]).content == records.joined_content(["1", "2"])
