"""PyTorch checkpoints are read without PyTorch; hostile and damaged ones end in one sentence and run nothing."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from reid_jax import errors
from reid_jax.weights import torch_files


class _Named:
    """Pickles as a call of the global `module.name`, as PyTorch's own objects do."""

    def __init__(self, name, arguments):
        self.name, self.arguments = name, arguments


class _Pickler(pickle._Pickler):
    """The pure-Python pickler, able to write globals of modules that are not installed, and storage references."""

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Named):
            self._global(value.name)
            if value.arguments is not None:
                super().save(value.arguments)
                self.write(pickle.REDUCE)
        elif isinstance(value, _Storage):
            super().save(("storage", _Named(f"torch.{value.kind}", None), value.key, "cpu", value.count))
            self.write(pickle.BINPERSID)
        else:
            super().save(value, save_persistent_id)

    def _global(self, name):
        module, _, attribute = name.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())


class _Storage:
    def __init__(self, kind, key, count):
        self.kind, self.key, self.count = kind, key, count


def _tensor(storage, offset, size, stride):
    return _Named("torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, False, collections.OrderedDict()))


def _pickled(value):
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def _write_zip(path, value, storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(value))
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def _write_legacy(path, value, storages):
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, sorted(storages)):
            file.write(_pickled(part))
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())


VALUES = np.arange(24, dtype=np.float32)
STORAGES = {"0": VALUES, "1": np.arange(6).astype(ml_dtypes.bfloat16), "2": np.array([7], np.int64)}


def _checkpoint():
    shared = _Storage("FloatStorage", "0", 24)
    weights = collections.OrderedDict()
    weights["module.conv.weight"] = _tensor(shared, 0, (2, 3, 2, 2), (12, 4, 2, 1))
    weights["module.transposed"] = _tensor(shared, 1, (4, 3), (1, 4))
    parameter = _tensor(_Storage("BFloat16Storage", "1", 6), 0, (6,), (1,))
    weights["module.half"] = _Named("torch._utils._rebuild_parameter", (parameter, True, collections.OrderedDict()))
    weights["module.bn.num_batches_tracked"] = _tensor(_Storage("LongStorage", "2", 1), 0, (), ())
    settings = argparse.Namespace(arch="resnet50", lr=0.1)
    score = np.float64(0.875)
    return {
        "state_dict": weights,
        "epoch": 3,
        "args": settings,
        "rank1": score,
        "size": _Named("torch.Size", ((1, 2),)),
    }


@pytest.mark.parametrize("write", [_write_zip, _write_legacy], ids=["zip", "legacy"])
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
    _write_zip(path, {"a": _tensor(_Storage("FloatStorage", "0", 24), offset, size, stride)}, STORAGES)
    with pytest.raises(errors.UserError, match="no complete PyTorch checkpoint"):
        torch_files.load(path)


@pytest.mark.parametrize("write", [_write_zip, _write_legacy], ids=["zip", "legacy"])
def test_storage_shorter_than_announced_is_refused(tmp_path, write):
    path = tmp_path / "weights.pth"
    short = {**STORAGES, "0": VALUES[:5]}
    write(path, _checkpoint(), short)
    with pytest.raises(errors.UserError, match="no complete PyTorch checkpoint"):
        torch_files.load(path)


@pytest.mark.parametrize("write", [_write_zip, _write_legacy], ids=["zip", "legacy"])
def test_truncation_anywhere_is_one_sentence(tmp_path, write):
    whole = tmp_path / "whole.pth"
    write(whole, _checkpoint(), STORAGES)
    content = whole.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in [*range(0, len(content) - 1, 37), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(errors.UserError, match=r"cut\.pth"):
            torch_files.read_weights(cut)


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
        "objects.npz": "no complete",
        "missing.pth": "does not exist",
        "w.h5": "unknown ending",
    }.items():
        with pytest.raises(errors.UserError, match=message):
            torch_files.read_weights(tmp_path / name)


def test_a_checkpoint_without_tensors_says_what_was_found(tmp_path):
    _write_zip(tmp_path / "list.pth", [1, 2], {})
    with pytest.raises(errors.UserError, match=r"no table of tensors .*list"):
        torch_files.read_weights(tmp_path / "list.pth")
