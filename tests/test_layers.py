"""Which way imports point: walks the source of the package, the configs and the data set builders."""

import ast
import pathlib
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# For each room (folder or file of the package) the rooms it may import beside itself, see docs/design.md. Every file is
# in one of them; `errors`, `progress`, `file_io`, `array_files`, `plugins` and `stores` are
# open.
OPEN = ("errors", "progress", "file_io", "array_files", "plugins", "stores")
DATA = {"data"}
MODEL_PARTS = {"ops", "nn", "weights", "trees"}
TRAINING = {"losses", "ops", "runtime", "trees"}
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "file_io": set(),
    "array_files": set(),
    "plugins": set(),
    "stores": set(),
    "trees": set(),
    "ops": set(),
    "data": set(),
    "config": DATA,
    "runtime": {"trees"},
    "nn": {"ops"},
    "losses": {"ops"},
    "weights": {"ops", "trees", "config"},
    "models": MODEL_PARTS,
    "build": {"config", "data", "models", "ops", "runtime", "trees"},
    "train": TRAINING,
    "evaluation": {"ops", "runtime", "data"},
    "inference": {"build", "config", "data", "models", "ops", "runtime", "trees", "weights"},
    "export": {"build", "inference", "ops", "trees"},
    "gallery": {"data", "evaluation", "inference"},
    "explain": {"build", "config", "data", "evaluation", "inference", "losses", "ops"},
    "app": {"config", "data", "evaluation", "explain", "gallery", "inference"},
    "federated": {"config", "data", "train", *TRAINING},
}
# The rooms above those may import all that stand before them here, and nothing behind.
UPPER = ("runs", "benchmarks", "cli")
for position, room in enumerate(UPPER):
    ROOMS[room] = {*ROOMS, *UPPER[:position]} - {room}


def modules(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Dotted name of every module under a package folder."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path, known: dict[str, pathlib.Path] | None = None) -> set[str]:
    """Dotted names a file imports, `from a import b` as `a.b` where that is a module; also inside functions.

    Imports under `if TYPE_CHECKING` count: types of a higher layer are an arrow too.
    """
    tree = ast.parse(path.read_text(), str(path))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                names.add(deeper if known is None or deeper in known else node.module)
    return names


PACKAGE = modules(ROOT / "reid_jax")
IMPORTS = {name: imports(path, PACKAGE | {"flax.linen": path}) for name, path in PACKAGE.items()}


def room(module: str) -> str:
    """`reid_jax.nn.heads` -> `nn`."""
    return (module.split(".") + [""])[1]


def complaint(module: str, target: str) -> str | None:
    """What is wrong with an import, `None` when nothing is."""
    own, other = room(module), room(target)
    if not target.startswith("reid_jax.") or own == other:
        return None
    if not own:
        return f"{module} imports {target}: the package itself imports nothing"
    allowed = set(OPEN[: OPEN.index(own)]) if own in OPEN else ROOMS[own] | set(OPEN)
    return None if other in allowed else f"{module} imports {target}: {own} may import {sorted(allowed)}"


def test_every_file_is_in_a_room():
    """No file stands outside the rooms, and no room of the table is empty."""
    assert {room(module) for module in PACKAGE} - {""} == set(ROOMS)
    at_the_root = {path.name for path in (ROOT / "reid_jax").iterdir() if path.suffix == ".py"}
    assert at_the_root == {
        "__init__.py",
        "errors.py",
        "file_io.py",
        "array_files.py",
        "progress.py",
        "trees.py",
        "build.py",
    }


def test_rooms_have_an_order():
    """No two rooms import each other, however far around."""
    placed: set[str] = set()
    while len(placed) < len(ROOMS):
        ready = {name for name, below in ROOMS.items() if name not in placed and below <= placed}
        assert ready, f"a circle among {sorted(set(ROOMS) - placed)}"
        placed |= ready


@pytest.mark.parametrize("module", sorted(PACKAGE))
def test_imports_stay_in_the_rooms_below(module):
    assert not [text for target in IMPORTS[module] if (text := complaint(module, target))]


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("reid_jax.models.mfv.mfv", "reid_jax.nn.heads", True),
        ("reid_jax.runs.experiment", "reid_jax.train.loop", True),
        ("reid_jax.nn.heads", "reid_jax.nn.global_pool", True),
        ("reid_jax.trees", "reid_jax.errors", True),
        ("reid_jax.nn.heads", "reid_jax.models.mfv", False),
        ("reid_jax.nn.heads", "reid_jax.losses.triplet", False),
        ("reid_jax.train.loop", "reid_jax.models", False),
        ("reid_jax.train.loop", "reid_jax.runs.experiment", False),
        ("reid_jax.build", "reid_jax.runs.experiment", False),
        ("reid_jax.runs.experiment", "reid_jax.cli.train", False),
        ("reid_jax.errors", "reid_jax.trees", False),
    ],
)
def test_wrong_arrows_would_be_seen(module, target, allowed):
    assert (complaint(module, target) is None) == allowed


def test_file_names_are_unique():
    """A file is found by its name; only those that stand for a whole folder may share one."""
    stems = [path.stem for path in PACKAGE.values() if path.stem not in ("__init__", "__main__")]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    assert not twice, twice


def reached(start: str) -> dict[str, list[str]]:
    """All modules of the package that importing one executes, with the way there.

    Importing `a.b.c` also runs `a/__init__` and `a.b/__init__`.
    """
    ways = {start: [start]}
    queue = [start]
    while queue:
        module = queue.pop()
        parents = {".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1)}
        for target in IMPORTS[module] | parents:
            if target in PACKAGE and target not in ways:
                ways[target] = [*ways[module], target]
                queue.append(target)
    return ways


@pytest.mark.parametrize("module", sorted(name for name in PACKAGE if room(name) == "data"))
def test_data_never_meets_jax(module):
    for target, way in reached(module).items():
        met = {name for name in IMPORTS[target] if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "clu")}
        assert not met, f"{' -> '.join(way)} imports {met}: it runs in worker processes"


@pytest.mark.parametrize("module", sorted(PACKAGE))
def test_linen_stays_in_nn_and_models(module):
    if room(module) in ("nn", "models"):
        return
    met = {name for name in IMPORTS[module] if name.startswith("flax.linen")}
    assert not met, f"{module} imports {met}"


def test_orbax_stays_behind_one_file():
    users = {module for module, names in IMPORTS.items() if any(name.startswith("orbax") for name in names)}
    assert users == {"reid_jax.train.checkpoints"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.name)
def test_configs_import_only_the_config_module(path):
    ours = {name for name in imports(path, PACKAGE) if name.split(".")[0] == "reid_jax"}
    assert ours <= {"reid_jax.config"}
    others = {name.split(".")[0] for name in imports(path)} - {"reid_jax"}
    assert others <= {"ml_collections", "__future__", "math", "typing", "collections"}, others


@pytest.mark.parametrize(
    "path",
    sorted([ROOT / "datasets" / "common.py", *(ROOT / "datasets").rglob("*_dataset_builder.py")]),
    ids=lambda path: path.stem,
)
def test_builders_import_only_tfds_numpy_and_the_standard_library(path):
    names = {name for name in imports(path, PACKAGE) if name.split(".")[0] not in sys.stdlib_module_names}
    outside = {name.split(".")[0] for name in names} - {"reid_jax"}
    # The original file of CUHK03 is a MATLAB table; what reads it is an extra, imported when such a file is met.
    matlab = {"h5py", "scipy"} if "cuhk03" in path.stem else set()
    assert outside <= {"tensorflow_datasets", "numpy", "etils", "reid_datasets"} | matlab, outside
    ours = {name for name in names if name.split(".")[0] == "reid_jax"}
    assert all(name.startswith(("reid_jax.data.synthped", "reid_jax.data.image_names")) for name in ours), ours


def test_every_package_is_installed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(setup["packages"])
    folders = {"reid_jax": ROOT / "reid_jax", "reid_datasets": ROOT / "datasets"}
    # The configs are files found by name, not modules that import each other: a folder without `__init__.py`.
    assert setup["package-dir"] == {
        "reid_configs": "configs",
        **{name: folder.name for name, folder in folders.items()},
    }
    found = set()
    for name, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.parent.relative_to(folder).parts
            if "tests" not in parts:
                found.add(".".join((name, *parts)))
                assert (path.parent / "__init__.py").is_file(), f"{path.parent} has modules but no __init__.py"
    found.add("reid_configs")
    assert found == listed, f"missing: {sorted(found - listed)}; listed in vain: {sorted(listed - found)}"
