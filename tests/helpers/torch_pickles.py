"""Writes checkpoints as `torch.save` does, without PyTorch."""

import collections
import io
import pickle
import struct
import zipfile


class Named:
    """Pickles as a call of the global `module.name`, as PyTorch's own objects do."""

    def __init__(self, name, arguments):
        self.name, self.arguments = name, arguments


class Pickler(pickle._Pickler):
    """The pure-Python pickler, able to write globals of modules that are not installed, and storage references."""

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            self._global(value.name)
            if value.arguments is not None:
                super().save(value.arguments)
                self.write(pickle.REDUCE)
        elif isinstance(value, Storage):
            super().save(("storage", Named(f"torch.{value.kind}", None), value.key, "cpu", value.count))
            self.write(pickle.BINPERSID)
        else:
            super().save(value, save_persistent_id)

    def _global(self, name):
        module, _, attribute = name.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())


class Storage:
    def __init__(self, kind, key, count):
        self.kind, self.key, self.count = kind, key, count


def tensor(storage, offset, size, stride):
    return Named("torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, False, collections.OrderedDict()))


def pickled(value):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def write_zip(path, value, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_legacy(path, value, storages):
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, sorted(storages)):
            file.write(pickled(part))
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
