"""Files that ask for memory, time or foreign bytes get one sentence, at once, and none of it."""

import collections
import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from reid_jax import array_files, errors
from reid_jax.weights import pickle_reader, torch_files
from tests.helpers import torch_pickles

FLOATS = np.arange(24, dtype=np.float32)


def refused(path, reason):
    started = time.monotonic()
    with pytest.raises(errors.UserError, match=reason) as caught:
        torch_files.read_weights(path)
    assert time.monotonic() - started < 5
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def program(content):
    """Reads one pickle within the budget of its length."""
    stream = pickle_reader.BoundedFile(io.BytesIO(content))
    return pickle_reader.read(stream, array_files.Budget(len(content)))


def zipped(path, content, **others):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in others.items():
            archive.writestr(f"archive/{name}", data)


def test_a_tensor_is_no_storage(tmp_path):
    storage = torch_pickles.Storage("FloatStorage", "0", 24)
    inner = torch_pickles.tensor(storage, 0, (24, 1), (1, 1))
    for outer in (inner, np.zeros((4, 4), np.float32), "text", [1.0], None):
        torch_pickles.write_zip(tmp_path / "w.pth", {"a": torch_pickles.tensor(outer, 0, (9999,), (1,))}, {"0": FLOATS})
        refused(tmp_path / "w.pth", "whose storage is none")


@pytest.mark.parametrize(
    "reference",
    [
        ("storage", "text", "0", "cpu", 24),
        ("storage", torch_pickles.Named("torch.FloatStorage", None), ("0",), "cpu", 24),
        ("storage", torch_pickles.Named("torch.FloatStorage", None), "0", "cpu", 24.0),
        ("storage", torch_pickles.Named("torch.FloatStorage", None), "0", "cpu", -1),
        ("storage", torch_pickles.Named("torch.FloatStorage", None), "0", "cpu", 1 << 80),
        ("storage", torch_pickles.Named("torch.FloatStorage", None), "0", "cpu"),
        ("file", torch_pickles.Named("torch.FloatStorage", None), "0", "cpu", 24),
        "storage",
    ],
)
def test_references_are_checked(tmp_path, reference):
    class Reference(torch_pickles.Storage):
        def __init__(self):
            super().__init__("FloatStorage", "0", 24)

    class Pickler(torch_pickles.Pickler):
        def save(self, value, save_persistent_id=True):
            if isinstance(value, Reference):
                super().save(reference)
                self.write(pickle.BINPERSID)
            else:
                super().save(value, save_persistent_id)

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": torch_pickles.tensor(Reference(), 0, (2,), (1,))})
    zipped(tmp_path / "w.pth", buffer.getvalue(), **{"data/0": FLOATS.tobytes()})
    refused(tmp_path / "w.pth", "no complete PyTorch checkpoint")


def test_one_budget_for_the_whole_file(tmp_path, monkeypatch):
    """Views of stride 0, one storage seen many times, and deflated zeros: each small, together terabytes."""
    monkeypatch.setattr(array_files, "BASE_BYTES", 1 << 20)
    storage = torch_pickles.Storage("FloatStorage", "0", 24)
    views = {f"w{i}": torch_pickles.tensor(storage, 0, (1 << 16,), (0,)) for i in range(100)}
    torch_pickles.write_zip(tmp_path / "views.pth", views, {"0": FLOATS})
    refused(tmp_path / "views.pth", "more memory than its size explains")
    zeros = torch_pickles.Storage("ByteStorage", "0", 3 << 20)
    content = torch_pickles.pickled({"a": torch_pickles.tensor(zeros, 0, (1,), (1,))})
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
        with archive.open("archive/data/0", "w") as member:
            member.write(bytes(3 << 20))
    refused(tmp_path / "bomb.pth", "more memory than its size explains")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
        archive.writestr("a.npy", header.getvalue() + bytes(4))
    refused(tmp_path / "bomb.npz", "header of an array does not agree")
    with open(tmp_path / "legacy.pth", "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        huge = torch_pickles.Storage("FloatStorage", "0", 1 << 40)
        file.write(torch_pickles.pickled({"a": torch_pickles.tensor(huge, 0, (1 << 40,), (1,))}))
        file.write(torch_pickles.pickled(["0"]) + struct.pack("<q", 1 << 40))
    refused(tmp_path / "legacy.pth", "cut short")


def test_a_member_that_lies_about_its_length(tmp_path):
    zipped(tmp_path / "w.pth", torch_pickles.pickled({}))
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10 << 20))
    content = bytearray((tmp_path / "w.pth").read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the announced length in the directory
    content[place : place + 4] = struct.pack("<L", 10)
    (tmp_path / "w.pth").write_bytes(content)
    refused(tmp_path / "w.pth", "announced length|no complete zip archive")


def nested(levels):
    """The pickle of tuples that hold the one before twice: 2^levels values in a few bytes."""
    return b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(levels))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x0f.",
        b"\x80\x02}r\xff\xff\xff\xff.",
    ],
)
def test_an_index_of_the_memo_costs_nothing(content):
    assert program(content) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (nested(60) + b".", "nested far too deeply"),
        (b"\x80\x02" + nested(60)[2:] + b"q\x50}h\x50K\x01s.", "neither text nor number"),
        (b"\x80\x04\x8f(" + nested(60)[2:] + b"\x90.", "texts and numbers"),
        (b"\x80\x02)" + b"\x85" * 100_000 + b".", "nested far too deeply"),
        (b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", "nested far too deeply"),
        (b"\x80\x02]q\x00h\x00a.", "contains itself"),
        (b"\x80\x02}q\x00K\x01h\x00s.", "contains itself"),
        (b"\x80\x02}\x8a\x09" + b"\xff" * 8 + b"\x7fK\x01s.", "neither text nor number"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", "unfinished"),
        (b"\x80\x02h\x05.", "never stored"),
        (b"\x80\x02K\x01)R.", "no name"),
        (b"\x80\x02t.", "mark"),
        (b"\x80\x02.", "a value is missing"),
        (b"\x80\x02I01\nQ.", "no tensor storage"),
        (b"\x80\x02(i__main__\nx\n.", "opcode INST"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
    ],
    ids=range(16),
)
def test_programs_that_no_library_writes(content, reason):
    started = time.monotonic()
    with pytest.raises(errors.MalformedError, match=reason):
        program(content)
    assert time.monotonic() - started < 5


def test_copies_of_a_memo_and_opcodes_are_counted(monkeypatch):
    monkeypatch.setattr(array_files, "BASE_BYTES", 1 << 20)
    monkeypatch.setattr(pickle_reader, "_MOST_OPCODES", 1000)
    text = torch_pickles.pickled("x" * (1 << 20))[:-1] + b"q\x01"
    call = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(errors.MalformedError, match="more memory"):
        program(text + b"(" + call * 40 + b"t.")
    with pytest.raises(errors.MalformedError, match="more opcodes"):
        program(b"\x80\x02(" + b"N0" * 600 + b"t.")


def test_texts_of_the_file_are_not_printed(tmp_path):
    zipped(tmp_path / "w.pth", b"\x80\x02cos\n" + b"x\x1b[31m" * 100 + b"\n.")
    refused(tmp_path / "w.pth", r"holds code \(os\.x\?\[31mx")
    torch_pickles.write_zip(tmp_path / "w.pth", {"\x1b[31m" + "k" * 5000: {}, "b": {}}, {})
    refused(tmp_path / "w.pth", "no table of tensors")


@pytest.mark.parametrize("place", ["facts", "byteorder"])
def test_big_endian_files_are_refused(tmp_path, place):
    tensor = torch_pickles.tensor(torch_pickles.Storage("FloatStorage", "0", 24), 0, (2,), (1,))
    if place == "byteorder":
        zipped(
            tmp_path / "w.pth", torch_pickles.pickled({"a": tensor}), byteorder="big", **{"data/0": FLOATS.tobytes()}
        )
    else:
        parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}, {"a": tensor}, ["0"])
        content = b"".join(torch_pickles.pickled(part) for part in parts)
        (tmp_path / "w.pth").write_bytes(content + struct.pack("<q", 24) + FLOATS.tobytes())
    refused(tmp_path / "w.pth", "big-endian")


@pytest.mark.parametrize("keys", [None, [], ["0", "0"], ["1"], {"0": 0}, [0], "0"])
def test_the_list_of_storages_must_be_that_of_the_tensors(tmp_path, keys):
    tensor = torch_pickles.tensor(torch_pickles.Storage("FloatStorage", "0", 24), 0, (2,), (1,))
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"a": tensor}, *([] if keys is None else [keys])]
    content = b"".join(torch_pickles.pickled(part) for part in parts)
    if keys is not None:
        content += struct.pack("<q", 24) + FLOATS.tobytes()
    (tmp_path / "w.pth").write_bytes(content)
    refused(tmp_path / "w.pth", "no complete PyTorch checkpoint")


def test_several_programs_or_members_of_one_name_are_refused(tmp_path):
    content = torch_pickles.pickled({})
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("b/data.pkl", content)
    refused(tmp_path / "w.pth", "2 data.pkl")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/data.pkX", content)
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes().replace(b"data.pkX", b"data.pkl"))
    refused(tmp_path / "w.pth", "the same name")
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/data.pkl", content)
    refused(tmp_path / "w.pth", "neither stored nor deflated")


def test_the_elements_of_ordinary_files_are_read():
    value = {"a": [1, 2.5, None, True, b"bytes", "text", (1,), {2}], "b": collections.OrderedDict(x=1), 3: -(1 << 40)}
    for protocol in (2, 3, 4, 5):
        assert program(pickle.dumps(value, protocol=protocol)) == value
