"""Inputs for what reads images, folders of images with CSV files, configs and arguments."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from reid_jax import errors
from reid_jax.cli import contact_sheet, convert_weights, evaluate, explain, export, extract, prepare_dataset, search
from reid_jax.config import files
from reid_jax.data import image_io
from reid_jax.inference import sources
from reid_jax.runs import settings
from tests.fuzz import mutation


def _picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 48)) -> bytes:
    gradient = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(gradient).convert(mode).save(buffer, kind)
    return buffer.getvalue()


_PICTURES = [
    *(_picture(kind, mode) for kind in ("JPEG", "PNG", "TIFF", "BMP") for mode in ("RGB", "L")),
    *(_picture(kind) for kind in ("WEBP", "GIF", "PPM", "ICO")),
    *(_picture("PNG", mode) for mode in ("P", "RGBA", "1", "I;16")),
    _picture("JPEG", "CMYK"),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
]


def images(chance: random.Random) -> bytes:
    """A picture, nearly always damaged."""
    picture = chance.choice(_PICTURES)
    return mutation.mutated(picture, chance) if chance.random() < 0.97 else picture


def decode(content: bytes, folder: pathlib.Path) -> None:
    """Decodes an image, its orientation, and a label map."""
    image_io.orientation(content)
    with contextlib.suppress(errors.UserError):
        image_io.decode_map(content, "x.png")
    assert image_io.decode(content, "x.jpg").dtype == np.uint8


_PARTS = ("train", "query", "gallery", "test", "bounding_box_train", "0001", "cam1", "anna", "ä", "a b", "-1")
_FILES = (
    *("0001_c1s1_000151_01.jpg", "0002_c2_1.png", "a.JPG", "0001.jpeg", "-1_c1_1.jpg", "x.txt", "\u2028.jpg"),
    "n" * 200 + ".png",
)
_CELLS = ("0", "1", "-1.0", "nan", "anna", "train", "query", "gallery", "", "1e400", "../x.jpg", "\x00", '"')
_DATASETS = (None, None, "plain", "reid_folder", "market1501", "msmt17", "synthped", "none", "")
_COLUMNS = ("path", "pid", "camid", "split", "identity", "camera", "file", "image", "")


def folders(chance: random.Random) -> bytes:
    """A folder as JSON: files by path with the number of their picture, and perhaps a CSV file."""
    names = []
    for _ in range(chance.choice((0, 1, 3, 6, 10))):
        depth = chance.choice((0, 1, 1, 2, 2, 3))
        names.append("/".join([*(chance.choice(_PARTS) for _ in range(depth)), chance.choice(_FILES)]))
    tree: dict[str, Any] = {"files": {name: chance.randrange(-2, 4) for name in names}, "csv": None}
    if chance.random() < 0.5:
        rows = [[chance.choice(_COLUMNS) for _ in range(chance.randrange(5))]]
        if chance.random() < 0.6:
            rows = [["path", "pid", "camid", "split"]]
        for _ in range(chance.randrange(6)):
            rows.append([chance.choice((*_CELLS, *names)) for _ in range(chance.choice((4, 4, 4, 3, 9)))])
        tree["csv"] = chance.choice(("\n", "\r\n")).join(",".join(row) for row in rows)
    tree["dataset"] = chance.choice(_DATASETS)
    tree["skip"] = chance.random() < 0.5
    return json.dumps(tree).encode()


def open_folder(content: bytes, folder: pathlib.Path) -> None:
    """Makes the folder, opens it as images or data set, and reads the first ones."""
    tree = json.loads(content)
    root = folder / "people"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, number in tree["files"].items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_PICTURES[number] if number >= 0 else (b"", b"no image")[number])
        except OSError:  # two names that exclude each other
            continue
    place = root
    if tree["csv"] is not None:
        place = root / "people.csv"
        place.write_text(tree["csv"], encoding="utf-8", errors="surrogateescape")
    source = sources.open_source(place, dataset=tree["dataset"], on_bad_image="skip" if tree["skip"] else "fail")
    for split in source.splits.values():
        for row in range(min(len(split), 2)):
            split.source[row]
    source.warnings()


def _config_paths(config: Any, before: str = "") -> list[str]:
    paths = []
    for key in config:
        child = config[key]
        paths += _config_paths(child, f"{before}{key}.") if hasattr(child, "keys") else [before + key]
    return paths


_SYSTEMS = ("mfv", "amfor", "mgaf", "mspf", "cfat", "bot", "osnet", "transreid")
# Made once, in the process that the workers are forked from: a config is code of the user, which is trusted.
CONFIGS = {name: files.load_config(name).to_dict() for name in _SYSTEMS}


def configs(chance: random.Random) -> bytes:
    """A system and new values for some keys of its config."""
    name = chance.choice(_SYSTEMS)
    paths = _config_paths(CONFIGS[name])
    changes = {chance.choice(paths): mutation.value(chance) for _ in range(chance.choice((1, 1, 2, 4)))}
    if chance.random() < 0.1:
        changes[chance.choice(("no.such", "model.", "", "data.name.x", "model.width.y"))] = 1
    return json.dumps([name, changes]).encode()


def check_config(content: bytes, folder: pathlib.Path) -> None:
    """Puts the values into the config, as a run folder's `config.json` would hold them, and checks the settings."""
    name, changes = json.loads(content)
    values = copy.deepcopy(CONFIGS[name])
    for path, new in changes.items():
        *sections, key = path.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[key] = new
    settings.of(values)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "evaluate": evaluate.main,
    "explain": explain.main,
    "export": export.main,
    "extract": extract.main,
    "convert-weights": convert_weights.main,
    "prepare-dataset": prepare_dataset.main,
    "contact-sheet": contact_sheet.main,
    "search": search.main,
}
_FLAGS = {
    "evaluate": "features run weights model best dataset metric score ap rerank k1 k2 lambda expand alpha verification "
    "single-shot rounds seed corruptions families types severities output html images explain queries",
    "explain": "run best model weights random-weights seed height width interpolation option flip dtype list query row "
    "gallery top pictures layer colors features images method count pairs output",
    "export": "run best model weights random-weights seed height width interpolation option flip dtype list format "
    "input platforms output",
    "extract": "run best model weights random-weights seed height width interpolation option images dataset "
    "on-bad-image output metric batch-size flip dtype list",
    "convert-weights": "model weights output option into allow-missing height width verbose",
    "prepare-dataset": "source root strict-counts option force check list",
    "contact-sheet": "output root split identities skip images height parts option",
    "search": "store who why audit features images dataset side box entry identity camera other-camera track time "
    "since until known file id table prefix keep thumbnails no-audit rate rate-per top per as-track rerank json html",
}


def arguments(chance: random.Random) -> bytes:
    """A command and arguments; every path leads to nothing or to garbage, so that no work can begin."""
    command = chance.choice(list(COMMANDS))
    flags = _FLAGS[command].split()
    words = ["garbage", "garbage.npz", "empty", "out.npz", "out/x.json", "mfv", "bot", "a=1", "=", "reid_folder"]
    given: list[str] = []
    for _ in range(chance.randrange(7)):
        given.append(f"--{chance.choice(flags)}")
        given += [str(chance.choice((*words, *mutation.TEXTS))) for _ in range(chance.choice((0, 1, 1, 1, 2)))]
    if command in ("prepare-dataset", "contact-sheet"):
        given.insert(0, chance.choice(("reid_folder", "market1501", "none", "", "../x")))
    if command == "explain":
        given.insert(0, chance.choice((*explain.ACTIONS, "none")))
    if command == "search":
        given = [chance.choice((*search.ACTIONS, "none")), chance.choice(("garbage", "none", "", "empty")), *given]
    return json.dumps([command, given]).encode()


def call_command(content: bytes, folder: pathlib.Path) -> None:
    """Calls a command in this process, in a folder of its own."""
    command, given = json.loads(content)
    for name in ("garbage", "garbage.npz"):
        (folder / name).write_bytes(b"garbage")
    (folder / "empty").mkdir(exist_ok=True)
    try:
        COMMANDS[command](given)
    except SystemExit as done:
        if done.code not in (0, 2, None):
            raise RuntimeError(f"exit code {done.code}") from done
