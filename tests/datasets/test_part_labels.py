"""Body-part labels: merging 36 channels to eight parts, storage with the images, and invalid files."""

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import image_io, prepare, records
from tests.helpers import benchmark_folders

HEIGHT, WIDTH = 6, 3


def _write(folder, *splits, height=HEIGHT):
    """Writes random maps for every image of the given split folders and returns them by image path."""
    rng = np.random.default_rng(3)
    written = {}
    for split in splits:
        for path in sorted((folder / split).rglob("*.jpg")):
            maps = rng.random((36, height, WIDTH)).astype(np.float32) ** 4
            file = folder / "masks" / "pifpaf_maskrcnn_filtering" / path.relative_to(folder).with_suffix(".npy")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, maps)
            written[path.relative_to(folder / split).as_posix()] = maps
    return written


def _slow_merge(maps):
    """Returns the eight parts from explicit channel numbers: COCO key points 0-16, limbs 17-35."""
    head, torso = [0, 1, 2, 3, 4, 29, 30, 31, 32, 33, 34, 35], [11, 12, 21, 22, 23, 24]
    left_arm, right_arm = [5, 7, 9, 25, 27], [6, 8, 10, 26, 28]
    left_leg, right_leg = [13, 17, 18], [14, 19, 20]
    groups = [head, left_arm, right_arm, torso, left_leg, right_leg, [15], [16]]
    return np.stack([np.max([maps[one] for one in group], axis=0) for group in groups])


def test_channels_belong_to_the_parts_they_should():
    from reid_datasets import common

    maps = np.random.default_rng(0).random((36, 5, 4))
    np.testing.assert_array_equal(common.merge_parts(maps), _slow_merge(maps).astype(np.float32))
    assert sorted(name for names in common.PARTS.values() for name in names) == sorted(common.PART_CHANNELS)
    assert len(common.PART_CHANNELS) == 36


def test_labels_are_those_of_the_softmax_with_background():
    from reid_datasets import common

    confidence = np.random.default_rng(1).random((8, 9, 7)) ** 3
    background = (confidence.max(axis=0, keepdims=True) < 0.3).astype(float)
    logits = 15 * np.concatenate([background, confidence])
    np.testing.assert_array_equal(common.part_labels(confidence), logits.argmax(axis=0))


@pytest.mark.parametrize("name", ["market1501", "dukemtmc_reid", "occluded_duke", "p_dukemtmc_reid"])
def test_labels_are_stored_with_the_images(tmp_path, name):
    folder = tmp_path / name
    benchmark_folders.WRITERS[name](folder)
    training = "train" if name == "p_dukemtmc_reid" else "bounding_box_train"
    written = _write(folder, training)
    dataset = prepare.ensure(name, tmp_path, part_labels=True)
    assert dataset.path.parent.name == f"{name}-part_labels"
    for element in dataset.train.source:
        expected = _slow_merge(written[element["filename"]])
        assert "parts_confidence" not in element
        labels = image_io.decode_map(element["parts"])
        np.testing.assert_array_equal(labels, np.where(expected.max(0) < 0.3, 0, expected.argmax(0) + 1))
    # No labels of the test splits: one pixel of background.
    assert image_io.decode_map(dataset.query.source[0]["parts"]).tolist() == [[0]]
    # Without the option, the same images have no maps.
    assert "parts" not in prepare.ensure(name, tmp_path).train.source[0]
    assert records.open_dataset(name, tmp_path).index_hash() == dataset.index_hash()


def test_maps_move_with_the_images_in_the_pipeline(tmp_path):
    from reid_jax.data import pipeline

    benchmark_folders.market1501(tmp_path / "market1501")
    _write(tmp_path / "market1501", "bounding_box_train")
    split = prepare.ensure("market1501", tmp_path, part_labels=True).train
    labels, _ = records.train_labels(split)
    settings = {"sampler": {"name": "shuffle", "batch_size": 4}, "augment": {"flip": {"probability": 1.0}}}
    size = {"height": 32, "width": 16, "interpolation": "bilinear"}
    with pipeline.train_batches(split, labels, maps=("parts",), seed=0, num_steps=1, **settings, **size) as batches:
        batch = next(iter(batches))
    assert batch["parts"].shape == (4, 32, 16)
    assert batch["parts"].max() <= 8


def _refused(tmp_path):
    with pytest.raises(errors.UserError) as caught:
        prepare.prepare("occluded_duke", tmp_path, part_labels=True)
    assert not (tmp_path / "prepared").exists()
    return str(caught.value)


def test_missing_label_files_are_named(tmp_path):
    folder = tmp_path / "occluded_duke"
    benchmark_folders.dukemtmc_reid(folder)
    assert "8 of 8 train images have no body-part labels, the first should be " in _refused(tmp_path)
    _write(folder, "bounding_box_train", "query")
    file = folder / "masks" / "pifpaf_maskrcnn_filtering" / "query" / "0003_c1_f0046182.npy"
    file.unlink()
    sentence = _refused(tmp_path)
    assert f"1 of 4 query images have no body-part labels, the first should be {file}" in sentence


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (np.zeros((8, 4, 4), np.float32), r"got float32 [8, 4, 4]; replace it"),
        (np.zeros((36, 4, 4), np.uint8), r"got uint8 [36, 4, 4]"),
        (np.zeros((36, 4), np.float32), r"got float32 [36, 4]"),
        (None, "is not a readable array file (.npy)"),
    ],
)
def test_label_file_of_another_kind(tmp_path, content, complaint):
    folder = tmp_path / "occluded_duke"
    benchmark_folders.dukemtmc_reid(folder)
    _write(folder, "bounding_box_train")
    file = next((folder / "masks").rglob("*.npy"))
    if content is None:
        file.write_bytes(b"no array")
    else:
        np.save(file, content)
    sentence = _refused(tmp_path)
    assert complaint in sentence
    assert str(file) in sentence
