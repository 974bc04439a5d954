"""Preparation of generated data sets: no source, options apart."""

import types

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import builders, checks, image_io, prepare


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _generated_builder():
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Returns the module of a builder of two generated images."""

        name = "synthped"
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "parts": tfds.features.Image(shape=(None, None, 1)),
                "pid": np.int32,
                "camid": np.int32,
                "filename": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            for key, values in {"pids": [1, 2], "camids": [0, 1], "filenames": ["a", "b"]}.items():
                self.info.metadata[key] = {"train": values}
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            parts = image_io.encode_png(np.arange(32, dtype=np.uint8).reshape(8, 4))
            for index, name in enumerate(self.builder_config.name):
                if index < 2:
                    picture = image_io.encode_png(np.full((8, 4, 3), ord(name), np.uint8))
                    yield (
                        index,
                        {
                            "image": picture,
                            "parts": parts,
                            "pid": index + 1,
                            "camid": index,
                            "filename": "ab"[index],
                        },
                    )

    def make_config(size, seed):
        return tfds.core.BuilderConfig(name=f"{size}_seed{seed}", version="2.0.0")

    return types.SimpleNamespace(Builder=Builder, make_config=make_config)


def test_generated_data_needs_no_source_and_keeps_options_apart(tmp_path, monkeypatch):
    module = _generated_builder()
    monkeypatch.setattr(builders, "load", lambda name: module)
    first = prepare.prepare("synthped", tmp_path, size="tiny", seed=4)
    assert first.path == tmp_path / "prepared" / "synthped-tiny-seed4" / "2.0.0"
    assert "2 of 2 training identities have one image only" in first.text()
    dataset = prepare.ensure("synthped", tmp_path, size="tiny", seed=4)
    element = dataset.train.source[1]
    assert (element["pid"], element["camid"], element["filename"]) == (2, 1, "b")
    assert image_io.decode_map(element["parts"])[1, 0] == 4
    assert image_io.decode(element["image"])[0, 0, 0] == ord("i")
    prepare.ensure("synthped", tmp_path, size="demo")
    assert _names(tmp_path / "prepared") == ["synthped-demo-seed0", "synthped-tiny-seed4"]
    assert prepare.prepare("synthped", tmp_path, size="tiny", seed=4).existed
    with pytest.raises(errors.UserError, match="is generated and takes no source"):
        prepare.prepare("synthped", tmp_path, tmp_path)


def test_synthped_is_prepared_from_its_generator(tmp_path):
    dataset = prepare.ensure("synthped", tmp_path, size="tiny", seed=1)
    assert dataset.path == tmp_path / "prepared" / "synthped-tiny-seed1" / "1.0.0"
    for split in dataset.splits().values():
        element = split.source[len(split) - 1]
        assert element["filename"] == split.filenames[-1]
        assert image_io.decode(element["image"]).shape[:2] == image_io.decode_map(element["parts"]).shape
    assert checks.check_protocol(dataset.query, dataset.gallery) == 0
    with pytest.raises(errors.UserError, match="did you mean 'tiny'"):
        prepare.prepare("synthped", tmp_path, size="tinny")
    assert _names(tmp_path / "prepared") == ["synthped-tiny-seed1"]
