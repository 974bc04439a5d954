"""Inputs for the readers of weights and features: checkpoints, `.npz`, safetensors, features files."""

from __future__ import annotations

import argparse
import collections
import io
import json
import pathlib
import pickletools
import random
import struct
import zipfile
from typing import Any

import numpy as np
import safetensors.numpy

from reid_jax.data.feature_set import FeatureSet
from reid_jax.weights import convert, inert, torch_files
from tests.fuzz import mutation
from tests.helpers import torch_pickles

_FLOATS = np.arange(24, dtype=np.float32)
_NAMES = (
    *inert.BUILDERS,
    *(
        "torch.FloatStorage",
        "torch.LongStorage",
        "torch.float32",
        "argparse.Namespace",
        "numpy.ndarray",
        "torch.Tensor",
    ),
    *("os.system", "builtins.eval", "builtins.getattr", "subprocess.Popen", "numpy.load", "copyreg._reconstructor"),
    *("torch.load", "torch.storage._load_from_bytes", "functools.partial", "pathlib.Path.mkdir", "__main__.x"),
)


def _ordinary() -> bytes:
    """Returns the program of a training checkpoint with all that usually stands in one."""
    storage = torch_pickles.Storage("FloatStorage", "0", 24)
    tensor = torch_pickles.tensor(storage, 0, (2, 3), (3, 1))
    parameter = torch_pickles.Named("torch._utils._rebuild_parameter", (tensor, True, collections.OrderedDict()))
    weights = collections.OrderedDict({"module.conv1.weight": parameter, "module.bn.running_var": tensor})
    scheduler = {"milestones": collections.Counter({20: 1}), "state": collections.defaultdict(dict), "seen": {1, 2}}
    settings = argparse.Namespace(lr=0.1, device=torch_pickles.Named("torch.device", ("cuda", 0)))
    scores = {"cmc": np.arange(3.0), "rank1": np.float64(0.5)}
    return torch_pickles.pickled({"state_dict": weights, "epoch": 3, "args": settings, **scheduler, **scores})


_ORDINARY = _ordinary()


def _tree(chance: random.Random, depth: int = 0) -> Any:
    """Returns a tree of containers, numbers, tensors and calls of names."""
    kind = chance.randrange(12 if depth < 4 else 5)
    storage = torch_pickles.Storage(
        chance.choice(("FloatStorage", "LongStorage", "ByteStorage", "HalfStorage")), "0", 24
    )
    if kind == 0:
        return chance.choice((0, -1, 1 << 40, 1.5, None, True, "text", b"bytes", float("nan")))
    if kind == 1:
        return np.zeros(chance.randrange(5), chance.choice(("f4", ">i8", "c8", "S3", "M8[s]", "O")))
    if kind <= 4:
        sizes = [
            tuple(chance.choice((0, 1, 2, 3, 24, 1 << 20, 1 << 50, -1)) for _ in range(chance.randrange(4)))
            for _ in "ab"
        ]
        if chance.random() < 0.6:
            sizes = [(2, 3), (3, 1)]
        return torch_pickles.tensor(storage, chance.choice((0, 0, 0, 5, -1, 1 << 60)), *sizes)
    if kind <= 8:
        keys = ("state_dict", "model", "net", "conv1.weight", "module.a", "bn.running_var", "x", 3)
        return {chance.choice(keys): _tree(chance, depth + 1) for _ in range(chance.randrange(4))}
    if kind == 9:
        return [_tree(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 10:
        return tuple(_tree(chance, depth + 1) for _ in range(chance.randrange(4)))
    arguments = tuple(_tree(chance, depth + 1) for _ in range(chance.randrange(4)))
    return torch_pickles.Named(chance.choice(_NAMES), chance.choice((arguments, arguments, None)))


def _program(chance: random.Random) -> bytes:
    """Returns a pickle of opcodes chosen at random; those that build stand more often than the others."""
    parts = [b"\x80\x02"]
    builders = (b")", b"}", b"]", b"(", b"K\x01", b"N", b"X\x01\x00\x00\x00a", b"q\x00", b"h\x00", b"\x85")
    usual = [opcode for opcode in pickletools.opcodes if opcode.name not in ("STOP", "PROTO", "FRAME")]
    for _ in range(chance.choice((3, 10, 40, 200))):
        if chance.random() < 0.6:
            parts.append(chance.choice(builders))
        elif chance.random() < 0.2:
            module, _, last = chance.choice(_NAMES).rpartition(".")
            parts.append(b"c" + f"{module}\n{last}\n".encode())
        else:
            opcode = chance.choice(usual)
            size = 0 if opcode.arg is None else opcode.arg.n
            parts.append(opcode.code.encode("latin1") + _argument(size, chance))
    return b"".join(parts) + b"."


def _argument(size: int, chance: random.Random) -> bytes:
    if size >= 0:
        return chance.choice((chance.randbytes(size), b"\xff" * size, b"\x00" * size))
    text = chance.randbytes(chance.randrange(4))
    return chance.choice((text + b"\n", b"99\n", struct.pack("<L", len(text)) + text, bytes([len(text)]) + text))


def _zip(members: dict[str, bytes], chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch(chance: random.Random) -> bytes:
    """A checkpoint: a tree or a program at random, as zip or legacy file, often damaged as well."""
    draw = chance.random()
    if draw < 0.4:
        program = _ORDINARY
    else:
        program = _program(chance) if draw < 0.7 else torch_pickles.pickled({"state_dict": _tree(chance)})
    if chance.random() < (0.7 if draw < 0.4 else 0.2):
        program = mutation.mutated(program, chance)
    if chance.random() < 0.7:
        members = {"a/data.pkl": program, "a/data/0": _FLOATS.tobytes(), "a/byteorder": b"little"}
        if chance.random() < 0.1:
            members[chance.choice(("b/data.pkl", "a/data/../0", "code/x.py"))] = program
        content = _zip(members, chance)
    else:
        facts = {"little_endian": chance.random() < 0.9}
        parts = [torch_pickles.pickled(part) for part in (0x1950A86A20F9469CFC6C, 1001, facts)]
        content = b"".join([*parts, program, torch_pickles.pickled(["0"]), struct.pack("<q", 24), _FLOATS.tobytes()])
    return mutation.mutated(content, chance) if chance.random() < 0.4 else content


def _header(chance: random.Random) -> bytes:
    """An `.npy` file whose header may say anything."""
    kinds = ("<f4", "<f8", "|O", "<U3", "<M8[s]", "|V8", "<c8", "[('a', '<f4')]", "x" * 50, "<f4096", "(" * 200)
    shapes = ("(6,)", "()", "(2, 3)", "(0,)", "(-1,)", "(9999999999999,)", "(1 << 40,)", "6", "('a',)", "(6, )" * 20)
    text = f"{{'descr': {chance.choice(kinds)!r}, 'fortran_order': {chance.choice((True, False, 1))}, 'shape': "
    text += chance.choice(shapes) + ", }" + " " * chance.randrange(40) + "\n"
    length = chance.choice((len(text), len(text), len(text), 0, 65535))
    version = chance.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\x00"))
    size = struct.pack("<H" if version[0] == 1 else "<L", length)
    return b"\x93NUMPY" + version + size + text.encode() + _FLOATS.tobytes()[: chance.choice((24, 24, 48, 0, 96))]


def npz(chance: random.Random) -> bytes:
    """An `.npz` file of ordinary or of strange arrays."""
    if chance.random() < 0.4:
        buffer = io.BytesIO()
        np.savez(buffer, **{"params/a/kernel": _FLOATS, "batch_stats/a/var": -_FLOATS, "meta": np.asarray("{}")})
        return mutation.mutated(buffer.getvalue(), chance)
    members = {f"params/{name}.npy": _header(chance) for name in ("a/kernel", "b", "")[: chance.randrange(1, 4)]}
    content = _zip(members, chance)
    return mutation.mutated(content, chance) if chance.random() < 0.3 else content


def safetensors_(chance: random.Random) -> bytes:
    """A safetensors file whose header may say anything."""
    if chance.random() < 0.5:
        return mutation.mutated(safetensors.numpy.save({"module.a": _FLOATS, "module.b": _FLOATS.astype("i8")}), chance)
    entry = {
        "dtype": chance.choice(("F32", "I64", "BF16", "F8_E4M3", "C64", "", 3)),
        "shape": chance.choice(([24], [2, 12], [-1], [1 << 62, 4], [], "24", [0])),
        "data_offsets": chance.choice(([0, 96], [0, 1 << 60], [96, 0], [-1, 3], [0], None)),
    }
    header = json.dumps({"a": entry, chance.choice(("b", "__metadata__")): mutation.value(chance)}).encode()
    return struct.pack("<Q", chance.choice((len(header), len(header), 0, 1 << 62))) + header + _FLOATS.tobytes()


def _array(chance: random.Random) -> np.ndarray:
    shape = tuple(chance.choice((0, 1, 2, 3, 4)) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4))))
    kind = chance.choice(("f4", "f8", "f2", "i8", "u8", "?", "c8", "U4", "S4", "M8[D]", "f16", "V4"))
    array = np.zeros(shape, kind)
    if array.dtype.kind in "fc" and array.size:
        with np.errstate(over="ignore"):
            array.reshape(-1)[0] = chance.choice((np.nan, np.inf, -1e30, 0.5))
    return array


def features(chance: random.Random) -> bytes:
    """A features file with some arrays of other kinds, or damaged."""
    arrays: dict[str, Any] = {f"{side}_features": np.ones((3, 4), np.float32) for side in ("query", "gallery")}
    arrays |= {f"{side}_{what}": np.arange(3) for side in ("query", "gallery") for what in ("ids", "cams")}
    for _ in range(chance.randrange(3)):
        extra = ("query_names", "gallery_names", "query_visibility", "gallery_visibility", "features", "query_people")
        arrays[chance.choice((*arrays, *extra))] = _array(chance)
    if chance.random() < 0.5:
        text = json.dumps({chance.choice(("metric", "source", "dataset", "people")): mutation.value(chance)})
        arrays["meta"] = np.asarray(chance.choice((text, "[" * 5000, "{", "\x00", text[:-1])))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return mutation.mutated(buffer.getvalue(), chance) if chance.random() < 0.4 else buffer.getvalue()


def read_weights(content: bytes, folder: pathlib.Path) -> None:
    """Reads weights, puts them into a small model and reports."""
    path = folder / "w.pth"
    path.write_bytes(content)
    flat = torch_files.read_weights(path)
    leaf = np.zeros((2, 3), np.float32)
    variables = {"params": {"conv1": {"kernel": leaf}}, "batch_stats": {"bn": {"var": leaf[0]}}}
    _, report = convert.load_into(variables, flat, strict=False)
    report.table()


def read_features(content: bytes, folder: pathlib.Path) -> None:
    """Reads a features file and asks for what the evaluation asks."""
    path = folder / "f.npz"
    path.write_bytes(content)
    features = FeatureSet.load(path)
    assert np.isfinite(features.query_features).all()
    assert isinstance(features.metric, str)
    features.without_junk()
