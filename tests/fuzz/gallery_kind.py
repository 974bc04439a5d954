"""Galleries of `search.py`: a good one with damaged bytes, foreign values, or a foreign schema."""

from __future__ import annotations

import functools
import pathlib
import random
import sqlite3
import tempfile

import numpy as np

from reid_jax import errors
from reid_jax.gallery import answers, binding, entries, gallery
from tests.fuzz import mutation

_BOUND = binding.Binding({"name": "drawn"}, "", {}, "cosine", (4,), False)
_FOREIGN = (
    "update settings set value = ? where name = 'binding'",
    "update settings set value = ? where name = 'threshold'",
    "update settings set value = ? where name = 'added'",
    "update settings set value = ? where name = 'keep'",
    "update vectors set vector = ? where id = 2",
    "update entries set identity = ?, camera = ? where id = 3",
    "update entries set time = ?, expires = ? where id = 3",
    "update entries set file = ? where id = 1",
    "update thumbnails set image = ?",
    "delete from settings where name <> ?",
)
_VALUES = (None, -1, 1e300, "", "[]", "{}", "null", b"\xff\xfe", "x" * 3000, '{"a": 1}')
_SCHEMAS = (
    "drop table vectors",
    "create trigger t after insert on entries begin delete from entries; end",
    "alter table entries rename to old; create view entries as select * from old",
    "drop table settings; create view settings as select 'format' as name, load_extension('x') as value",
    "alter table vectors rename column vector to v",
)


@functools.cache
def _good() -> bytes:
    """The bytes of a small gallery."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "g"
        features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        with gallery.Gallery.create(place, _BOUND, audited=False) as opened:
            names = [f"{row}.jpg" for row in range(6)]
            pictures = [name.encode() for name in names]
            made = entries.Entries(names, features, identities=["Ann", "Bo"] * 3, thumbnails=pictures)
            opened.add(made, _BOUND)
            opened.set_threshold(answers.Threshold(0.5, 0.01, "search", 0.1, 300, 6))
            opened.compact()
        return place.read_bytes()


def make(chance: random.Random) -> bytes:
    """A gallery that is damaged, or that somebody else has changed."""
    data = _good()
    if chance.random() < 0.5:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder) / "g"
            place.write_bytes(data)
            connection = sqlite3.connect(place)
            if chance.random() < 0.2:
                connection.executescript(chance.choice(_SCHEMAS))
            for _ in range(chance.randrange(3)):
                statement = chance.choice(_FOREIGN)
                values = (chance.choice(_VALUES),)
                try:
                    connection.execute(statement, values * statement.count("?"))
                except sqlite3.Error:
                    continue
            connection.commit()
            connection.close()
            data = place.read_bytes()
    return mutation.mutated(data, chance) if chance.random() < 0.6 else data


def read(content: bytes, folder: pathlib.Path) -> None:
    """Opens the gallery, asks it, and changes it."""
    for path in folder.glob("g*"):
        path.unlink()
    place = folder / "g"
    place.write_bytes(content)
    with gallery.Gallery.open(place, log=folder / "g.log") as opened:
        # No query: JAX does not run in a forked process.
        steps = (
            opened.snapshot,
            lambda: opened.refuse_nothing(entries.Filter(identities=("Ann",), since=0.0)),
            lambda: [entry.as_dict() for entry in opened.store.details(range(7))],
            lambda: opened.query_of([1, 2]),
            lambda: opened.thumbnail(2),
            opened.info,
            lambda: opened.remove(entries.Selection(identities=("Ann",))),
            opened.compact,
        )
        for step in steps:
            try:
                step()
            except errors.UserError:
                continue
