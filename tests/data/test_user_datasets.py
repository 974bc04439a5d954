"""Data sets of a user's own project, named by path: a function, a RowBuilder, any other TFDS builder."""

import dataclasses
import sys

import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax.config import sections
from reid_jax.data import builders, image_io, prepare, records
from tests.helpers import benchmark_folders

MODULE = '''
import numpy as np
import tensorflow_datasets as tfds
from reid_datasets import common

from reid_jax.data import image_io, records


def open_people(root, *, count=4, name="people"):
    def split(part, first):
        pids = np.arange(first, first + count, dtype=np.int32) // 2
        images = [{"image": np.full((8, 4, 3), pid, np.uint8)} for pid in pids]
        names = tuple(f"{part}{index}.png" for index in range(count))
        return records.Split(f"{name}/{part}", images, pids, np.arange(count, dtype=np.int32) % 2, names)

    return records.ReIDDataset(name, split("train", 0), split("query", 100), split("gallery", 100))


def open_path(root):
    return root


def scan(folder, *, suffix="png", limit=0):
    """One folder per split, files <pid>_<camid>.png."""
    rows = {}
    for split in ("train", "query", "gallery"):
        files = sorted((folder / split).glob(f"*.{suffix}"))
        if not files:
            raise ValueError(f"expected images in {folder / split}, found none; put them there.")
        numbers = [[int(one) for one in path.stem.split("_")] for path in files]
        rows[split] = [common.Row(path, *both, path.name) for path, both in zip(files, numbers)][: limit or None]
    return rows


class People(common.RowBuilder):
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the crops into train, query and gallery."


class Drawn(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.0.0")
    shuffled = False

    def __init__(self, *, gray=7, lists=True, **kwargs):
        self.gray, self.lists = gray, lists
        super().__init__(**kwargs)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
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
        if self.lists:
            for key, values in {"pids": [3, 3], "camids": [0, 1], "filenames": ["a", "b"]}.items():
                self.info.metadata[key] = {"train": values}
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        image = image_io.encode_png(np.full((8, 4, 3), self.gray, np.uint8))
        for index in range(2):
            yield index, {"image": image, "pid": 3, "camid": index, "filename": "ab"[index]}


NUMBER = 3
'''


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The module of a user's project, `shop_project.people`; removed after the test, also from the registry of TFDS."""
    from tensorflow_datasets.core import registered

    package = tmp_path / "project" / "shop_project"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "people.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(package.parent))
    yield "shop_project.people"
    for name in [name for name in sys.modules if name.split(".")[0] == "shop_project"]:
        del sys.modules[name]
    for name in ("people", "drawn"):
        registered._DATASET_REGISTRY.pop(name, None)


def _write_crops(folder):
    for split, pids in {"train": (1, 2), "query": (7,), "gallery": (7, 8)}.items():
        (folder / split).mkdir(parents=True)
        for pid in pids:
            for camid in range(2):
                image = image_io.encode_png(np.full((8, 4, 3), 20 * pid, np.uint8))
                (folder / split / f"{pid}_{camid}.png").write_bytes(image)
    return folder


def _data(name, root, **changes):
    return sections.Data(name=name, root=str(root), **changes)


def test_a_function_opens_its_data_set(shop, tmp_path):
    name = f"{shop}:open_people"
    dataset = build.open_data(_data(name, tmp_path, options={"count": 6}))
    assert (dataset.name, len(dataset.train), dataset.path) == ("people", 6, None)
    assert prepare.open_prepared(name, tmp_path, count=6).index_hash() == dataset.index_hash()
    assert not (tmp_path / "prepared").exists()
    with pytest.raises(errors.UserError, match="opened by a function and has nothing to prepare"):
        prepare.prepare(name, tmp_path)


def test_a_row_builder_is_prepared_like_the_others(shop, tmp_path):
    name = f"{shop}:People"
    source = _write_crops(tmp_path / "crops")
    report = prepare.prepare(name, tmp_path / "data", source)
    assert report.path == tmp_path / "data" / "prepared" / "shop_project.people.People-png-limit0" / "1.0.0"
    dataset = build.open_data(_data(name, tmp_path / "data"))
    assert dataset.name == "people"
    assert dataset.gallery.filenames == ("7_0.png", "7_1.png", "8_0.png", "8_1.png")
    assert dataset.train.image(2)[0, 0, 0] == 40
    assert prepare.prepare(name, tmp_path / "data", source).existed
    assert "nothing was written" in prepare.prepare(name, tmp_path / "data", source, check_only=True).text()
    # The default raw folder has the builder's name; the prepared folder's name holds the options.
    _write_crops(tmp_path / "data" / "people")
    limited = prepare.ensure(name, tmp_path / "data", limit="1")
    assert (len(limited.train), limited.path.parent.name) == (1, "shop_project.people.People-png-limit1")


def test_any_other_builder_gets_its_options_in_the_constructor(shop, tmp_path):
    name = f"{shop}:Drawn"
    dataset = prepare.ensure(name, tmp_path, gray=9)
    assert dataset.path == tmp_path / "prepared" / "shop_project.people.Drawn-gray9" / "2.0.0"
    assert dataset.train.image(1)[0, 0, 0] == 9
    assert records.open_dataset(name, tmp_path, gray=9).index_hash() == dataset.index_hash()
    with pytest.raises(errors.UserError, match=r"is not prepared.*prepare_dataset.py shop_project.people:Drawn"):
        records.open_dataset(name, tmp_path, gray=10)


def test_sources_and_further_test_sets_may_be_paths(shop, tmp_path):
    benchmark_folders.market1501(tmp_path / "market1501")
    name = f"{shop}:open_people"
    data = _data("market1501", tmp_path, sources=(name, "market1501"))
    assert build.open_data(data).train.name == "people+market1501/train"
    settings = sections.Settings(data=_data("market1501", tmp_path), evals=sections.Evals(datasets=(name,)))
    (other,) = build.open_others(settings)
    assert (other.name, other.train, len(other.query)) == ("people", None, 4)
    assert build.evaluation_data(settings, name).name == "people"
    settings = dataclasses.replace(settings, evals=sections.Evals(datasets=(name, f"{shop}:People")))
    _write_crops(tmp_path / "people")
    with pytest.raises(errors.UserError, match="of the same name"):
        build.open_others(settings)


@pytest.mark.parametrize(
    ("attribute", "options", "sentence"),
    [
        ("open_peple", {}, "unknown data set in the module 'shop_project.people': 'open_peple'; did you mean"),
        ("open_people", {"cuont": 3}, "unknown option of the data set .* 'cuont'; did you mean 'count'"),
        ("open_path", {}, "expected a reid_jax.data.records.ReIDDataset from the data set .*open_path', got"),
        ("NUMBER", {}, "expected a function or a builder class .* got int"),
        ("People", {"limt": 3}, "unknown option of data set .* 'limt'; did you mean 'limit'"),
        ("People", {"limit": "few"}, "should be of type int"),
        (
            "People",
            {},
            "no such folder; name it with scripts/prepare_dataset.py .* --source DIR, or: put the crops into train",
        ),
        ("Drawn", {"lists": False}, r"expected metadata\['pids'\]\['train'\], .* in the builder of the data set"),
    ],
)
def test_mistakes_are_one_sentence(shop, tmp_path, attribute, options, sentence):
    with pytest.raises(errors.UserError, match=sentence) as caught:
        prepare.ensure(f"{shop}:{attribute}", tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/*"))


def test_unknown_modules_and_names():
    with pytest.raises(errors.UserError, match=r"expected the module 'no_such_project.people' of the data set"):
        prepare.ensure("no_such_project.people:open_people")
    with pytest.raises(errors.UserError, match=r"known: cuhk03_np_detected, .*package.module:Name"):
        builders.load("no_such_data_set")


def test_a_row_builder_needs_a_scan(shop, tmp_path):
    import importlib

    monkey = importlib.import_module(shop)
    del monkey.scan
    with pytest.raises(errors.UserError, match=r"expected the function scan\(folder\) in the module"):
        prepare.ensure(f"{shop}:People", tmp_path)
