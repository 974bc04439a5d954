"""Ranking metrics against the reference outputs and a slow numpy twin, for any block size and device count."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import feature_set
from reid_jax.evaluation import distance_blocks, ranking, suite

GOLDEN = [
    (case, kind, metric) for case in ("easy", "ties") for kind, metric in (("raw", "euclidean"), ("norm", "cosine"))
]


@pytest.fixture(scope="module")
def golden(golden_folder):
    return {case: np.load(golden_folder / f"metrics_{case}.npz") for case in ("easy", "ties")}


def labels_of(file):
    return [file[key] for key in ("q_pids", "g_pids", "q_camids", "g_camids")]


def feature_set_of(file):
    return feature_set.FeatureSet(file["qf"], file["gf"], *labels_of(file))


def mesh(count=8):
    return jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])


def random_case(seed, real=False):
    """Few identities and cameras and small integer features: ties, junk, distractors, unmatched queries."""
    generator = np.random.default_rng(seed)
    num_query = int(generator.integers(1, 40))
    num_gallery = int(generator.choice([1, 2, 7, 60, 300, 700]))
    identities = int(generator.integers(1, 9))
    draw = (lambda n: generator.standard_normal((n, 4))) if real else (lambda n: generator.integers(-2, 3, (n, 4)))
    return feature_set.FeatureSet(
        draw(num_query).astype(np.float32),
        draw(num_gallery).astype(np.float32),
        generator.integers(1, identities + 3, num_query),  # some are not in the gallery
        generator.integers(-1, identities + 1, num_gallery),  # -1 junk, 0 distractors
        generator.integers(-1, 3, num_query),  # -1 unknown
        generator.integers(-1, 3, num_gallery),
    )


@pytest.mark.parametrize(("case", "kind", "metric"), GOLDEN)
def test_evaluate_equals_reference_without_junk(golden, case, kind, metric):
    file = golden[case]
    result = ranking.evaluate(feature_set_of(file), metric=metric)
    assert abs(result.mAP - file[f"{kind}/nojunk_stable_mAP"]) < 1e-6
    assert abs(result.mINP - file[f"{kind}/nojunk_stable_mINP"]) < 1e-6
    np.testing.assert_allclose(result.cmc, file[f"{kind}/nojunk_stable_cmc"], atol=1e-6)
    assert result.num_gallery == (file["g_pids"] != -1).sum()


@pytest.mark.parametrize(("case", "kind", "metric"), GOLDEN)
def test_given_distances_equal_reference_on_all_rows(golden, case, kind, metric):
    file = golden[case]
    result = ranking.rank_metrics_from_distances(file[f"{kind}/dist"], *labels_of(file))
    for name in ("transreid", "cil"):
        assert abs(result.mAP - file[f"{kind}/stable_sort/{name}_mAP"]) < 1e-6
        np.testing.assert_allclose(result.cmc, file[f"{kind}/stable_sort/{name}_cmc"], atol=1e-6)
    assert abs(result.mINP - file[f"{kind}/stable_sort/cil_mINP"]) < 1e-6
    np.testing.assert_allclose(result.ap, file[f"{kind}/perquery_AP"], atol=1e-9)
    np.testing.assert_allclose(result.inp, file[f"{kind}/perquery_INP"], atol=1e-9)
    np.testing.assert_array_equal(result.first_hit, file[f"{kind}/perquery_first_hit"])
    np.testing.assert_array_equal(result.num_relevant, file[f"{kind}/perquery_num_rel"])


def test_many_random_cases_equal_the_twin(twins):
    scored = 0
    for seed in range(150):
        case = random_case(seed)
        rule = ranking.AP_RULES[seed % 2]
        filtered = seed % 5 != 0
        kept = case.gallery_ids != -1
        matrix = twins.squared_euclidean(case.query_features, case.gallery_features[kept])
        ap, inp, first = twins.rank_metrics(
            matrix, case.query_ids, case.gallery_ids[kept], case.query_cams, case.gallery_cams[kept], rule, filtered
        )
        if np.isnan(ap).all():
            with pytest.raises(errors.UserError):
                ranking.evaluate(case, ap=rule, same_camera_filter=filtered)
            continue
        scored += 1
        result = ranking.evaluate(case, ap=rule, same_camera_filter=filtered)
        np.testing.assert_allclose(result.ap, ap, atol=1e-12)
        np.testing.assert_allclose(result.inp, inp, atol=1e-12)
        np.testing.assert_array_equal(result.first_hit, first)
        assert result.num_query_without_match == np.isnan(ap).sum()
        assert abs(result.mAP - np.nanmean(ap)) < 1e-12
    assert scored > 100


def test_identities_with_very_many_images(twins):
    generator = np.random.default_rng(0)
    features = [generator.integers(-3, 4, (n, 4)).astype(np.float32) for n in (70, 1800)]
    labels = [generator.integers(1, 3, 70), generator.choice([1, 1, 1, 2, 3], 1800)]
    labels += [generator.integers(0, 3, n) for n in (70, 1800)]
    matrix = twins.squared_euclidean(*features)
    want = twins.rank_metrics(matrix, *labels)[0]
    for query_block in (64, 512):
        case = feature_set.FeatureSet(*features, *labels)
        np.testing.assert_allclose(ranking.evaluate(case, query_block=query_block).ap, want, atol=1e-12)
        np.testing.assert_allclose(
            ranking.rank_metrics_from_distances(matrix, *labels, query_block=query_block).ap, want, atol=1e-12
        )


def test_float64_distances_keep_their_order(twins):
    generator = np.random.default_rng(0)
    matrix = 1 + 1e-12 * generator.permutation(40 * 60).reshape(40, 60)  # all equal in float32
    labels = [generator.integers(0, 5, n) for n in (40, 60)] + [generator.integers(0, 3, n) for n in (40, 60)]
    result = ranking.rank_metrics_from_distances(matrix, *labels)
    np.testing.assert_allclose(result.ap, twins.rank_metrics(matrix, *labels)[0], atol=1e-12)


@pytest.mark.parametrize("dimensions", [4, 96, 700])
def test_blocks_devices_and_duplicates_do_not_matter(dimensions):
    generator = np.random.default_rng(dimensions)
    gallery = generator.standard_normal((1300, dimensions)).astype(np.float32)
    copies = generator.permutation(1300)
    gallery[copies[:300]] = gallery[copies[300:600]]  # exact ties at arbitrary places
    query = gallery[copies[:70]] + np.float32(0.3) * generator.standard_normal((70, dimensions)).astype(np.float32)
    labels = [generator.integers(0, 9, n) for n in (70, 1300)] + [generator.integers(0, 4, n) for n in (70, 1300)]
    case = feature_set.FeatureSet(query, gallery, *labels)
    first = ranking.evaluate(case)
    for options in (
        {"query_block": 64, "gallery_block": 256},
        {"query_block": 128, "gallery_block": 1024},
        {"mesh": mesh(8)},
        {"mesh": mesh(2), "gallery_block": 256},
    ):
        other = ranking.evaluate(case, **options)
        np.testing.assert_array_equal(first.ap, other.ap)
        np.testing.assert_array_equal(first.first_hit, other.first_hit)
    # A copy must be exactly as far as its original, or the tie would fall by chance.
    matrix = distance_blocks.pairwise(*(distance_blocks.prepare(one, "euclidean") for one in (query, gallery)))
    np.testing.assert_array_equal(matrix[:, copies[:300]], matrix[:, copies[300:600]])
    np.testing.assert_allclose(first.ap, ranking.rank_metrics_from_distances(matrix, *labels).ap, atol=0)


def test_slots_with_visibility_equal_the_twin(twins):
    generator = np.random.default_rng(3)
    query, gallery = (generator.standard_normal((n, 3, 5)).astype(np.float32) for n in (9, 40))
    seen = [(generator.random((n, 3)) < 0.6).astype(np.float32) for n in (9, 40)]
    labels = [generator.integers(0, 4, n) for n in (9, 40)] + [generator.integers(0, 3, n) for n in (9, 40)]
    case = feature_set.FeatureSet(
        query, gallery, *labels, query_visibility=seen[0], gallery_visibility=seen[1], meta={"metric": "cosine"}
    )
    result = ranking.evaluate(case)
    unit = [distance_blocks.unit_length(one) for one in (query, gallery)]
    matrix = twins.slot_distances(*unit, *seen)
    assert np.isinf(matrix).any(), "a pair without a common slot belongs into this test"
    np.testing.assert_allclose(result.ap, twins.rank_metrics(matrix, *labels)[0], atol=1e-12)


def test_trapezoid_by_hand():
    # Right answers at ranks 2 and 3 of 3: precisions 1/2 and 2/3, just before them 0 and 1/2.
    matrix = np.array([[0.1, 0.2, 0.3]])
    labels = ([1], [2, 1, 1], [0], [1, 1, 1])
    assert ranking.rank_metrics_from_distances(matrix, *labels).mAP == pytest.approx((1 / 2 + 2 / 3) / 2)
    trapezoid = ranking.rank_metrics_from_distances(matrix, *labels, ap="trapezoid")
    assert trapezoid.mAP == pytest.approx(((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert trapezoid.ap_rule == "trapezoid"


def test_single_camera_is_explained():
    case = feature_set.FeatureSet(np.eye(3), np.eye(3), [1, 2, 3], [1, 2, 3], [0, 0, 0], [0, 0, 0])
    with pytest.raises(errors.UserError, match=r"one camera number.*same_camera_filter=False"):
        ranking.evaluate(case)
    assert ranking.evaluate(case, same_camera_filter=False).mAP == 1.0


def test_unknown_cameras_are_not_filtered():
    case = feature_set.FeatureSet(np.eye(3), np.eye(3), [1, 2, 3], [1, 2, 3], [-1, -1, -1], [-1, -1, -1])
    assert ranking.evaluate(case).rank(1) == 1.0


def test_no_shared_identity_is_an_error_not_zero():
    case = feature_set.FeatureSet(np.eye(2), np.eye(2), [1, 2], [3, 4], [0, 0], [1, 1])
    with pytest.raises(errors.UserError, match="none of the 2 query identities"):
        ranking.evaluate(case)


@pytest.mark.parametrize(
    ("options", "sentence"), [({"ap": "steps"}, "did you mean 'step'"), ({"metric": "l2"}, "known")]
)
def test_unknown_names(options, sentence):
    case = feature_set.FeatureSet(np.eye(2), np.eye(2), [1, 2], [1, 2], [0, 0], [1, 1])
    with pytest.raises(errors.UserError, match=sentence):
        ranking.evaluate(case, **options)


def test_bad_matrices():
    labels = ([1, 2], [1, 2, 3], [0, 0], [1, 1, 1])
    with pytest.raises(errors.UserError, match="transpose"):
        ranking.rank_metrics_from_distances(np.zeros((3, 2)), *labels)
    with pytest.raises(errors.UserError, match="NaN"):
        ranking.rank_metrics_from_distances(np.full((2, 3), np.nan, np.float32), *labels)


def test_result_names():
    case = feature_set.FeatureSet(np.eye(3), np.eye(3), [1, 2, 3], [1, 2, -1], [0, 0, 0], [1, 1, 1])
    values = ranking.evaluate(case).as_dict("toy")
    assert {"toy/mAP", "toy/mINP", "toy/rank1", "toy/rank5", "toy/rank10", "ap_rule"} <= set(values)
    assert (values["num_query"], values["num_gallery"], values["num_query_without_match"]) == (3, 2, 1)
    reports = [suite.run(name, case, suite.Protocol()) for name in ("a", "b")]
    flat = suite.merge(reports)
    assert flat["a/mAP"] == flat["b/mAP"] == values["toy/mAP"]
    assert flat["b/num_gallery"] == 2
    assert suite.merge(reports[:1])["num_gallery"] == 2
