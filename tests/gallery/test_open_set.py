"""Thresholds keep the rate that they promise, by a count of all pairs and searches."""

import dataclasses

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.evaluation import distance_blocks
from reid_jax.gallery import open_set
from tests.gallery import conformance
from tests.helpers import small_galleries


@pytest.fixture(scope="module")
def features():
    return small_galleries.drawn(queries=200, images=300, ties=False)


def counted(features, metric="cosine"):
    values = distance_blocks.readable(distance_blocks.pairwise(*distance_blocks.prepare_both(features, metric)), metric)
    same = features.query_ids[:, None] == features.gallery_ids[None]
    seen = same & (features.query_cams[:, None] != features.gallery_cams[None])
    return values, same, seen


@pytest.mark.parametrize("rate", [0.2, 0.01, 0.001])
def test_rate_per_comparison(features, rate):
    values, same, seen = counted(features)
    found = open_set.calibrate(features, rate)
    accepted = values <= found.distance
    assert (~same).sum() == found.impostors
    assert rate - 1.5 / found.impostors <= accepted[~same].mean() <= rate
    assert found.miss_rate == pytest.approx(1 - accepted[seen].mean())
    assert "is accepted at most" in found.text()


@pytest.mark.parametrize("rate", [0.3, 0.02])
def test_rate_per_search(features, rate):
    values, same, seen = counted(features)
    found = open_set.calibrate(features, rate, per="search")
    nearest = np.where(same, np.inf, values).min(axis=1)
    assert (found.impostors, found.entries) == (200, 300)
    assert rate - 1.5 / 200 <= (nearest <= found.distance).mean() <= rate
    mate = np.where(seen, values, np.inf).min(axis=1)
    assert found.miss_rate == pytest.approx((mate[np.isfinite(mate)] > found.distance).mean())


def test_too_little_evidence_and_rates_out_of_range(features):
    with pytest.raises(errors.UserError, match=r"rate of 0.001 needs at least 3,000 searches .* there are 200"):
        open_set.calibrate(features, 0.001, per="search")
    with pytest.raises(errors.UserError, match=r"above 0 and at most 0.5, got 0.9"):
        open_set.calibrate(features, 0.9)


def test_a_gallery_says_nobody(features, tmp_path):
    with conformance.made(tmp_path / "g", features, rows=range(100)) as opened:
        asked = conformance.query_of(features, range(200))
        assert opened.query(asked)[0].nobody is None
        own = opened.calibrate(0.05)
        # The gallery's labels: every pair of labeled entries but an image with itself, those of unknown camera, too.
        labeled = [row for row in range(100) if features.gallery_ids[row] % 5]
        ids = features.gallery_ids[labeled]
        assert own.impostors == (ids[:, None] != ids[None]).sum()
        theirs = opened.calibrate(0.02, per="search", features=features, source="in f.npz")
        assert opened.threshold == theirs
        replies = opened.query(asked)
        for reply in replies:
            assert [hit.accepted for hit in reply.hits] == [hit.distance <= theirs.distance for hit in reply.hits]
            assert reply.nobody == (reply.hits[0].distance > theirs.distance)
        assert {reply.nobody for reply in replies} == {True, False}
        other = dataclasses.replace(features, meta={**features.meta, "model": {"name": "osnet"}})
        with pytest.raises(errors.UserError, match="made with the model name bot, the labeled images with name osnet"):
            opened.calibrate(0.1, features=other)
        opened.set_threshold(None)
        assert opened.query(asked)[0].nobody is None
