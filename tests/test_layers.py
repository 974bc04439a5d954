"""Which way imports point: walks the source of the package, the configs and the data set builders."""

import ast
import pathlib
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Bottom to top. A module may import its own layer's and lower ones; those of one line may not import each other.
LAYERS = (
    ("errors",),
    ("cluster",),
    ("trees", "parallel", "ops"),
    ("nn", "losses", "data"),
    ("models", "evaluation"),
    ("train",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
# Narrower than the order: what a layer gets as an argument instead.
FORBIDDEN = {"train": {"models", "evaluation"}, "models": {"losses", "data"}}


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


def layer(module: str) -> str:
    """`reid_jax.nn.heads` -> `nn`."""
    return (module.split(".") + [""])[1]


def test_the_package_is_found():
    assert {"reid_jax.errors", "reid_jax.trees", "reid_jax.train.optimizer"} <= set(PACKAGE)
    assert "reid_jax.errors" in IMPORTS["reid_jax.trees"]


def complaint(module: str, target: str) -> str | None:
    """What is wrong with an import, `None` when nothing is."""
    own, other = layer(module), layer(target)
    # What lies directly under the package beside the layers (experiment, config, ...) stands on top and may see all.
    if own not in HEIGHT or not target.startswith("reid_jax.") or own == other:
        return None
    if HEIGHT.get(other, len(LAYERS)) >= HEIGHT[own]:
        return f"{module} imports {target}: an arrow upwards or sideways"
    if other in FORBIDDEN.get(own, ()):
        return f"{module} imports {target}: {own} gets it as an argument"
    return None


@pytest.mark.parametrize("module", sorted(PACKAGE))
def test_imports_point_downwards(module):
    assert not [text for target in IMPORTS[module] if (text := complaint(module, target))]


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("reid_jax.models.mfv.mfv", "reid_jax.nn.heads", True),
        ("reid_jax.runs.experiment", "reid_jax.train.loop", True),
        ("reid_jax.nn.heads", "reid_jax.nn.pooling", True),
        ("reid_jax.nn.heads", "reid_jax.models.mfv.mfv", False),
        ("reid_jax.nn.heads", "reid_jax.losses.metric", False),
        ("reid_jax.train.loop", "reid_jax.models", False),
        ("reid_jax.train.loop", "reid_jax.runs.experiment", False),
        ("reid_jax.errors", "reid_jax.trees", False),
    ],
)
def test_wrong_arrows_would_be_seen(module, target, allowed):
    assert (complaint(module, target) is None) == allowed


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


@pytest.mark.parametrize("module", sorted(name for name in PACKAGE if layer(name) == "data"))
def test_data_never_meets_jax(module):
    for target, way in reached(module).items():
        met = {name for name in IMPORTS[target] if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "clu")}
        assert not met, f"{' -> '.join(way)} imports {met}: it runs in worker processes"


@pytest.mark.parametrize("module", sorted(PACKAGE))
def test_linen_stays_in_nn_and_models(module):
    if layer(module) in ("nn", "models"):
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
    assert all(name.startswith("reid_jax.data.synthped") for name in ours), ours


def test_every_package_is_installed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(setup["packages"])
    folders = {"reid_jax": ROOT / "reid_jax", "reid_datasets": ROOT / "datasets"}
    assert setup["package-dir"] == {name: folder.name for name, folder in folders.items()}
    found = set()
    for name, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.parent.relative_to(folder).parts
            if "tests" not in parts:
                found.add(".".join((name, *parts)))
                assert (path.parent / "__init__.py").is_file(), f"{path.parent} has modules but no __init__.py"
    assert found == listed, f"missing: {sorted(found - listed)}; listed in vain: {sorted(listed - found)}"
