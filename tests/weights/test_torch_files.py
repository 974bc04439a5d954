"""PyTorch checkpoints are read without PyTorch; hostile and damaged ones end in one sentence and run nothing."""

import argparse
import collections
import os
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from reid_jax import errors
from reid_jax.weights import torch_files
from tests.helpers import torch_pickles

VALUES = np.arange(24, dtype=np.float32)
STORAGES = {"0": VALUES, "1": np.arange(6).astype(ml_dtypes.bfloat16), "2": np.array([7], np.int64)}


def _checkpoint():
    shared = torch_pickles.Storage("FloatStorage", "0", 24)
    weights = collections.OrderedDict()
    weights["module.conv.weight"] = torch_pickles.tensor(shared, 0, (2, 3, 2, 2), (12, 4, 2, 1))
    weights["module.transposed"] = torch_pickles.tensor(shared, 1, (4, 3), (1, 4))
    parameter = torch_pickles.tensor(torch_pickles.Storage("BFloat16Storage", "1", 6), 0, (6,), (1,))
    weights["module.half"] = torch_pickles.Named(
        "torch._utils._rebuild_parameter", (parameter, True, collections.OrderedDict())
    )
    weights["module.bn.num_batches_tracked"] = torch_pickles.tensor(
        torch_pickles.Storage("LongStorage", "2", 1), 0, (), ()
    )
    settings = argparse.Namespace(arch="resnet50", lr=0.1)
    score = np.float64(0.875)
    return {
        "state_dict": weights,
        "epoch": 3,
        "args": settings,
        "rank1": score,
        "size": torch_pickles.Named("torch.Size", ((1, 2),)),
    }


@pytest.mark.parametrize("write", [torch_pickles.write_zip, torch_pickles.write_legacy], ids=["zip", "legacy"])
def test_both_layouts_are_read(tmp_path, write):
    path = tmp_path / "weights.pth"
    write(path, _checkpoint(), STORAGES)
    tree = torch_files.load(path)
    assert tree["epoch"] == 3
    assert tree["rank1"] == 0.875
    assert tree["args"]["arch"] == "resnet50"
    flat = torch_files.read_weights(path)
    assert list(flat) == ["conv.weight", "transposed", "half", "bn.num_batches_tracked"]
    np.testing.assert_array_equal(flat["conv.weight"], VALUES.reshape(2, 3, 2, 2))
    np.testing.assert_array_equal(flat["transposed"], VALUES[1:13].reshape(3, 4).T)
    assert flat["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(flat["half"].astype(np.float32), np.arange(6))
    assert flat["bn.num_batches_tracked"].shape == ()


class _Hostile:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.mkdir, "mkdir"), (eval, "eval"), (getattr, "getattr"), (np.load, "numpy"), (pathlib.Path.mkdir, "getattr")],
    ids=["os.mkdir", "eval", "getattr", "numpy.load", "a method"],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, legacy, function, named):
    planted = tmp_path / "planted"
    argument = {eval: f"__import__('os').mkdir({str(planted)!r})"}.get(function, str(planted))
    path = tmp_path / "hostile.pth"
    hostile = {"state_dict": {"conv.weight": _Hostile(function, argument)}}
    if legacy:
        with path.open("wb") as file:
            for part in (0x1950A86A20F9469CFC6C, 1001, {}, hostile, []):
                pickle.dump(part, file, protocol=2)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(hostile, protocol=2))
    with pytest.raises(errors.UserError, match="holds code") as caught:
        torch_files.read_weights(path)
    assert named in str(caught.value)
    assert not planted.exists()


def test_code_in_the_first_pickle_of_a_legacy_file_is_refused(tmp_path):
    path = tmp_path / "hostile.pt"
    path.write_bytes(pickle.dumps(_Hostile(os.mkdir, str(tmp_path / "planted")), protocol=2))
    with pytest.raises(errors.UserError, match="holds code"):
        torch_files.load(path)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (20, (5,), (1,)),
        (0, (25,), (1,)),
        (0, (4, 4), (8, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (1 << 40,), (0,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, offset, size, stride):
    path = tmp_path / "weights.pth"
    torch_pickles.write_zip(
        path,
        {"a": torch_pickles.tensor(torch_pickles.Storage("FloatStorage", "0", 24), offset, size, stride)},
        STORAGES,
    )
    with pytest.raises(errors.UserError, match="no complete PyTorch checkpoint"):
        torch_files.load(path)


@pytest.mark.parametrize("write", [torch_pickles.write_zip, torch_pickles.write_legacy], ids=["zip", "legacy"])
def test_storage_shorter_than_announced_is_refused(tmp_path, write):
    path = tmp_path / "weights.pth"
    short = {**STORAGES, "0": VALUES[:5]}
    write(path, _checkpoint(), short)
    with pytest.raises(errors.UserError, match="no complete PyTorch checkpoint"):
        torch_files.load(path)


@pytest.mark.parametrize("write", [torch_pickles.write_zip, torch_pickles.write_legacy], ids=["zip", "legacy"])
def test_truncation_anywhere_is_one_sentence(tmp_path, write):
    whole = tmp_path / "whole.pth"
    write(whole, _checkpoint(), STORAGES)
    content = whole.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in [*range(0, len(content) - 1, 37), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(errors.UserError, match=r"cut\.pth"):
            torch_files.read_weights(cut)


def test_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path):
    """The file begins with the length of its header: 128 for instance, whose byte is a pickle's first."""
    path = tmp_path / "w.safetensors"
    for length in range(0, 256, 8):
        safetensors.numpy.save_file({"a": VALUES}, path, metadata={"note": length * "x"})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    np.testing.assert_array_equal(torch_files.read_weights(path)["a"], VALUES)


def test_other_kinds_of_files(tmp_path):
    arrays = {"module.a.weight": VALUES.reshape(4, 6)}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(
        torch_files.read_weights(tmp_path / "w.safetensors")["a.weight"], VALUES.reshape(4, 6)
    )
    np.savez(tmp_path / "w.npz", **{"params/a/kernel": VALUES})
    np.testing.assert_array_equal(torch_files.read_weights(tmp_path / "w.npz")["params/a/kernel"], VALUES)
    np.savez(tmp_path / "objects.npz", a=np.array([{"code": 1}], object))
    for name, message in {
        "objects.npz": "Python objects",
        "missing.pth": "does not exist",
    }.items():
        with pytest.raises(errors.UserError, match=message):
            torch_files.read_weights(tmp_path / name)
    for content, found in {
        b"": "empty",
        b"\x89HDF\r\n\x1a\n": "an HDF5 file",
        b"<!DOCTYPE html>": "a web page",
        b"version https://git-lfs.github.com/spec/v1": "a pointer of Git LFS",
        b"\x93NUMPY": "a single array",
        b"some text": "none of these",
    }.items():
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(
            errors.UserError, match=f"the content is {found}|the content is an {found}|a pointer of {found}"
        ):
            torch_files.read_weights(tmp_path / "w.pth")


def test_a_checkpoint_without_tensors_says_what_was_found(tmp_path):
    torch_pickles.write_zip(tmp_path / "list.pth", [1, 2], {})
    with pytest.raises(errors.UserError, match=r"no table of tensors .*list"):
        torch_files.read_weights(tmp_path / "list.pth")


def _table(prefix="", count=3):
    """Weights of a small layer under PyTorch names, and their storages."""
    storage = torch_pickles.Storage("FloatStorage", "0", 24)
    names = ("conv1.weight", "conv1.bias", "classifier.weight")
    return {prefix + name: torch_pickles.tensor(storage, 0, (count,), (1,)) for name in names}


def _attributes(data):
    arguments = (data, True, collections.OrderedDict(), {"_no_weight_decay": True})
    return torch_pickles.Named("torch._utils._rebuild_parameter_with_state", arguments)


HARMLESS = {
    "counter": collections.Counter({20: 1, 40: 2}),
    "set": {1, 2},
    "frozenset": frozenset(("a",)),
    "defaultdict": collections.defaultdict(dict, {"a": 1}),
    "ndarray": np.arange(6, dtype=">f4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "objects": np.array(["a", None], object),
    "path": pathlib.PurePosixPath("runs/one"),
    "complex": 1 + 2j,
    "device": torch_pickles.Named("torch.device", ("cuda", 1)),
    "class": torch_pickles.Named("torch.device", None),
    "settings": torch_pickles.Named("yacs.config.CfgNode", ()),
}


def test_harmless_containers_beside_the_weights(tmp_path):
    tree = {"state_dict": _table(), **HARMLESS}
    tree["state_dict"]["conv1.scale"] = _attributes(next(iter(_table().values())))
    torch_pickles.write_zip(tmp_path / "w.pth", tree, STORAGES)
    got = torch_files.load(tmp_path / "w.pth")
    assert got["counter"] == {20: 1, 40: 2}
    assert got["set"] == {1, 2}
    assert got["frozenset"] == frozenset(("a",))
    assert got["defaultdict"] == {"a": 1}
    for name in ("ndarray", "fortran"):
        np.testing.assert_array_equal(got[name], HARMLESS[name])
    assert got["objects"] == ["a", None]
    assert (got["path"], got["device"], got["class"], got["settings"]) == ("runs/one", "cuda:1", "torch.device", {})
    assert len(torch_files.read_weights(tmp_path / "w.pth")) == 4


@pytest.mark.parametrize("name", ["model.pth.tar-60", "PLAIN.PTH", "plain.ckpt", "plain.t7", "no_ending"])
def test_the_name_of_a_file_does_not_matter(tmp_path, name):
    torch_pickles.write_zip(tmp_path / name, _table(), STORAGES)
    assert list(torch_files.read_weights(tmp_path / name)) == list(_table())


@pytest.mark.parametrize(
    ("tree", "note"),
    [
        ({"model_state_dict": _table(), "epoch": 3}, "'model_state_dict'"),
        ({"net": _table(), "model_ema": _table()}, "'net'"),
        ({"model": {"state_dict": _table()}}, "'state_dict'"),
        ({"student_of_mine": _table(), "optimizer": {"state": {0: _table()}}}, "'student_of_mine'"),
        ({"state_dict": _table("model."), "pytorch-lightning_version": "2.0"}, "'model.' dropped from 3 of 3"),
        (_table("_orig_mod."), "'_orig_mod.' dropped"),
        (_table("module.module."), "'module.' dropped"),
        (_table("module._orig_mod."), "'_orig_mod.' dropped"),
        ({**_table("module."), "neck.weight": _table()["conv1.weight"]}, "'module.' dropped from 3 of 4"),
    ],
)
def test_tables_are_found_under_usual_keys_and_prefixes(tmp_path, tree, note):
    torch_pickles.write_zip(tmp_path / "w.pth", tree, STORAGES)
    got = torch_files.read_weights(tmp_path / "w.pth")
    assert set(got) >= set(_table())
    assert any(note in line for line in got.notes), got.notes


def test_prefixes_that_are_none_stay_and_several_tables_are_refused(tmp_path):
    tree = {**_table("module."), **_table()}  # without the prefix two names would be one
    torch_pickles.write_zip(tmp_path / "w.pth", tree, STORAGES)
    assert set(torch_files.read_weights(tmp_path / "w.pth")) == set(tree)
    torch_pickles.write_zip(tmp_path / "w.pth", {"teacher": _table(), "student": _table()}, STORAGES)
    with pytest.raises(errors.UserError, match=r"several tables of tensors \('teacher', 'student'\)"):
        torch_files.read_weights(tmp_path / "w.pth")
