"""A gallery that is divided over processes is evaluated like a whole one, bit for bit."""

import dataclasses

import numpy as np

from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import counting, divided_images, ranking, report, suite
from tests.helpers import simulated

PROTOCOL = suite.Protocol(verification=True, rerank=True, k1=8, k2=3)


def _features(slots=0, seed=0, queries=40, gallery=300, people=20, offset=0.0):
    """Features with many ties, junk, distractors and an unknown camera."""
    rng = np.random.default_rng(seed)
    shape = (slots, 8) if slots else (8,)
    rows = lambda count: (rng.integers(-1, 2, (count, *shape)) + offset).astype(np.float32)
    seen = lambda count: rng.integers(0, 2, (count, slots)).astype(np.float32) if slots else None
    return FeatureSet(
        query_features=rows(queries),
        gallery_features=rows(gallery),
        query_ids=rng.integers(1, people, queries),
        gallery_ids=rng.integers(-1, people, gallery),
        query_cams=rng.integers(-1, 3, queries),
        gallery_cams=rng.integers(-1, 3, gallery),
        query_visibility=seen(queries),
        gallery_visibility=seen(gallery),
    )


def _contents(features, protocol=PROTOCOL):
    """All numbers of a report and of its page."""
    measured = suite.run("toy", features, protocol)
    parts = report.page_parts(measured, 25)
    lists = [[np.asarray(value).tolist() for value in dataclasses.astuple(one)] for one in parts["lists"]]
    return measured.flat(), measured.plain.ap.tolist(), measured.plain.cmc.tolist(), lists, parts["verified"].as_dict()


def _assert_divided_is_whole(features, count, protocol=PROTOCOL, owner=None):
    """Compares the contents on each of several simulated processes with those of one; NaN equals NaN."""
    owner = np.random.default_rng(1).integers(0, count, features.num_gallery) if owner is None else owner
    found, meeting = simulated.run(
        count, lambda exchange: _contents(simulated.divided(features, owner, exchange), protocol)
    )
    expected = repr(_contents(features, protocol))
    assert [repr(each) for each in found] == [expected] * count
    return meeting


def test_scores_lists_and_pairs_equal_those_of_one_process():
    """Of features with very many ties."""
    _assert_divided_is_whole(_features(gallery=200), 3)


def test_slots_without_ties_are_shown_in_many_blocks(monkeypatch):
    monkeypatch.setattr(divided_images, "_SHOWN_BYTES", 1)
    tied = _features(slots=2, gallery=200)
    noise = np.random.default_rng(0).normal(size=tied.gallery_features.shape).astype(np.float32)
    loose = dataclasses.replace(tied, gallery_features=tied.gallery_features + noise)
    _assert_divided_is_whole(loose, 2, dataclasses.replace(PROTOCOL, k2=1))


def test_a_process_may_hold_nothing_and_features_may_lie_far_from_the_origin():
    features = _features(offset=1000.0)
    _assert_divided_is_whole(features, 3, owner=np.where(np.arange(features.num_gallery) < 4, 0, 2))


def test_people_with_very_many_images(monkeypatch):
    monkeypatch.setattr(counting, "_WIDEST", 8)
    _assert_divided_is_whole(_features(people=4), 2, suite.Protocol())


def test_features_stay_with_their_process():
    """A process receives some numbers per query and candidate, and a sample of the features, in place of all."""
    features = _features(gallery=4_000, people=400)
    work = lambda exchange: ranking.evaluate(simulated.divided(features, np.arange(4_000) % 2, exchange))
    assert 0 < sum(simulated.run(2, work)[1].received.values()) < features.gallery_features.nbytes / 3
