"""Extraction: rows in data set order, coverage, flipping, and several processes."""

from __future__ import annotations

import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from reid_jax import errors
from reid_jax.config import sections
from reid_jax.inference import extractor
from reid_jax.ops.descriptors import Descriptor
from reid_jax.runtime import mesh as mesh_lib

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)


def batches(order, size=4):
    for first in range(0, len(order), size):
        index = np.full(size, -1, np.int32)
        index[: len(order[first : first + size])] = order[first : first + size]
        yield {"image": IMAGES[index], "index": index, "mask": index >= 0, "camid": np.zeros(size, np.int32)}


@jax.jit
def describe(batch):
    image = batch["image"].astype(jnp.float32)
    columns = image.mean(axis=(1, 3))
    return Descriptor(jnp.stack([columns, 2 * columns], axis=1), jnp.ones((image.shape[0], 2)))


def left_column(flip, batch_size, traced=None):
    """An extractor of one number per image, its left column; `traced` collects the sizes of traced batches."""

    def apply(variables, batch, train):
        if traced is not None:
            traced.append(len(batch["image"]))
        return batch["image"][:, 0, 0]

    model = types.SimpleNamespace(apply=apply, describe=lambda first: Descriptor(first))
    data = sections.Data(height=4, width=6, interpolation="bicubic", test_interpolation="nearest")
    preprocess = sections.Preprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    evals = sections.Evals(flip=flip, batch_size=batch_size)
    settings = types.SimpleNamespace(data=data, evals=evals, preprocess=preprocess)
    return extractor.Extractor(model, settings, mesh_lib.create_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_resized_as_in_tests_and_flipped_where_the_config_says_so(flip):
    """The number of an image is its left column: with flips the mean of left and right."""
    made = left_column(flip, batch_size=2)
    assert made.size == {"height": 4, "width": 6, "interpolation": "nearest"}
    got = made._describe({}, {"image": IMAGES[:2]}).features
    left, right = IMAGES[:2, 0, 0] / 255, IMAGES[:2, 0, -1] / 255
    np.testing.assert_allclose(got, (left + right) / 2 if flip else left, rtol=1e-5)


def test_warm_compiles_what_a_number_of_images_needs():
    traced = []
    made = left_column(False, batch_size=4, traced=traced)
    made.warm({}, (3, 1, 4, 9))
    assert traced == [1, 4]  # 3 and 9 images come in batches of 4
    assert [len(made.images({}, IMAGES[:count]).features) for count in (1, 3, 9)] == [1, 3, 9]
    assert traced == [1, 4]
    with pytest.raises(errors.UserError, match="numbers of images from 1 on, got 0"):
        made.warm({}, [0])


def test_rows_are_in_order_without_padding_and_progress_is_reported():
    counts = []
    order = np.random.default_rng(1).permutation(10)
    got = extractor.extract_features(describe, batches(order), 10, progress=counts.append)
    want = IMAGES.astype(np.float32).mean(axis=(1, 3))
    np.testing.assert_allclose(got.features[:, 0], want, rtol=1e-6)
    assert got.features.shape == (10, 2, 6)
    assert got.visibility.shape == (10, 2)
    assert counts == [4, 4, 2]
    assert got.images_per_second > 0


def test_missing_and_repeated_images_are_refused():
    with pytest.raises(errors.UserError, match=r"1 are missing \(\[3\]\)"):
        extractor.extract_features(describe, batches([0, 1, 2, 4, 5, 6, 7, 8, 9]), 10)
    with pytest.raises(errors.UserError, match=r"1 occur more than once \(\[2\]\)"):
        extractor.extract_features(describe, batches([0, 1, 2, 2]), 3)
    with pytest.raises(errors.UserError, match="got no batch"):
        extractor.extract_features(describe, [], 3)


def test_flip_average_is_the_mean_of_both_images():
    got = jax.jit(extractor.flip_average(describe))({"image": IMAGES})
    mirrored = np.concatenate([IMAGES, IMAGES[:, :, ::-1]], axis=1)
    np.testing.assert_allclose(got.features[:, 0], mirrored.astype(np.float32).mean(axis=(1, 3)), rtol=1e-6)


def test_feature_set_joins_labels():
    part = extractor.Extracted(np.eye(2, dtype=np.float32), None, 0.0, 0.0)
    labels = (np.array([1, 2]), np.array([0, 1]), ["a", "b"])
    joined = extractor.feature_set(part, part, labels, labels, {"metric": "cosine"})
    assert joined.gallery_names == ("a", "b")
    assert joined.metric == "cosine"


def test_rows_of_several_processes_are_joined(monkeypatch):
    # Two threads simulate two processes and exchange the gathered arrays.
    barrier, slots, results = threading.Barrier(2), [None, None], [None, None]
    rank = threading.local()

    def gather(array):
        slots[rank.value] = np.asarray(array)
        barrier.wait()
        everyone = np.stack(slots)
        barrier.wait()
        return everyone

    def work(process):
        rank.value = process
        results[process] = extractor.extract_features(describe, batches(list(range(process, 9, 2))), 9)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    threads = [threading.Thread(target=work, args=(process,)) for process in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    want = IMAGES[:9].astype(np.float32).mean(axis=(1, 3))
    for got in results:
        np.testing.assert_allclose(got.features[:, 0], want, rtol=1e-6)
        assert got.visibility.shape == (9, 2)
