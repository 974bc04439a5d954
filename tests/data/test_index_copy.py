"""The index of a data set is read once and sent to all processes."""

import builtins
import dataclasses
import os
import pathlib

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import index_copy, pipeline, prepare, records

PROCESSES = 64


@pytest.fixture(scope="module")
def tiny_dataset(market, tmp_path_factory):
    """A prepared data set of 16 people."""
    root = tmp_path_factory.mktemp("data")
    market.write(root / "market1501", train_identities=16, test_identities=2, height=32, width=16)
    return prepare.prepare("market1501", root).dataset


@pytest.fixture
def asked(monkeypatch):
    """Counts what Python asks of the file system below a folder: names of the files that are opened, and listings."""
    found = {"open": [], "list": []}
    plain_open, plain_scan = builtins.open, os.scandir

    def count(kind, function):
        def counted(path, *arguments, **options):
            if "prepared" in str(path):
                found[kind].append(pathlib.Path(str(path)).name)
            return function(path, *arguments, **options)

        return counted

    monkeypatch.setattr(builtins, "open", count("open", plain_open))
    monkeypatch.setattr("io.open", count("open", plain_open))
    monkeypatch.setattr(os, "scandir", count("list", plain_scan))
    return found


class _Counted:
    """A source that notes which records are read."""

    def __init__(self, source, read):
        self.source, self.read = source, read

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read.append(int(index))
        return self.source[index]


def test_sixty_four_processes_read_the_index_once_and_each_image_of_a_batch_once(tiny_dataset, asked):
    packed = index_copy.pack(tiny_dataset)
    folder = tiny_dataset.path.parent
    batches, read = [], []
    sampler = {"name": "identity_groups", "identities": 16, "images": 4}
    for process in range(PROCESSES):
        opened = index_copy.unpack(packed, folder)
        assert opened.index_hash() == tiny_dataset.index_hash()
        split = dataclasses.replace(opened.train, source=_Counted(opened.train.source, read))
        labels, _ = records.train_labels(split)
        options = {"process_index": process, "process_count": PROCESSES, "threads": 0, "cache": "none", "augment": {}}
        with pipeline.train_batches(split, labels, sampler=sampler, height=16, width=8, **options) as stream:
            batches.append(next(stream))
    assert asked["list"] == []
    assert asked["open"] == [records.REPORT_FILE] * PROCESSES  # a kilobyte: the sizes of the files
    assert len(read) == 64
    labels, _ = records.train_labels(tiny_dataset.train)
    with pipeline.train_batches(
        tiny_dataset.train, labels, sampler=sampler, height=16, width=8, threads=0, cache="none", augment={}
    ) as stream:
        whole = next(stream)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, np.concatenate([batch[name] for batch in batches]))


def test_another_host_without_the_same_files_is_told(tiny_dataset, tmp_path):
    packed = index_copy.pack(tiny_dataset)
    with pytest.raises(errors.UserError, match=r"the prepared data set of process 0 in .* found another one or none"):
        index_copy.unpack(packed, tmp_path)
    other = tmp_path / tiny_dataset.path.name
    other.mkdir()
    (other / records.REPORT_FILE).write_text('{"files": {}, "content": "0123456789abcdef"}')
    with pytest.raises(errors.UserError, match=r"found others \(content 0123456789ab in place of"):
        index_copy.unpack(packed, tmp_path)
