"""The release reading of MFV against the repaired PyTorch code (tests/golden/make_mfv_release.py)."""

import functools
import importlib.util
import json
import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest

from reid_jax.models.mfv import mfv, release_layout
from reid_jax.weights import convert

FOLDER = pathlib.Path(__file__).parents[2] / "golden"
IGNORED = (*convert.IGNORED, *mfv.TORCH_IGNORED)


@pytest.fixture(scope="module")
def maker() -> types.ModuleType:
    """The script that made the golden file; it also draws the weights, which are not stored."""
    spec = importlib.util.spec_from_file_location("make_mfv_release", FOLDER / "make_mfv_release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "mfv_release.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def state(maker, golden) -> dict[str, np.ndarray]:
    """Weights and statistics under their PyTorch names."""
    shapes = json.loads(str(golden["shapes_json"]))
    return {name: maker.make_weight(name, tuple(shape)) for name, shape in shapes.items()}


def load(model: mfv.MFV, state: dict[str, np.ndarray], images: np.ndarray) -> tuple[dict[str, Any], convert.Report]:
    wanted = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), {"image": images})
    return convert.load_into(wanted, state, mfv.TORCH_RULES, ignore=IGNORED)


def run(model: mfv.MFV, variables: dict[str, Any], images: np.ndarray) -> dict[str, jax.Array]:
    apply = jax.jit(functools.partial(model.apply, train=False), compiler_options={"xla_backend_optimization_level": 0})
    with jax.default_matmul_precision("highest"):
        return apply(variables, {"image": images})


def test_maps_logits_and_feature_equal_the_repaired_code(maker, golden, state):
    images = maker.make_images().transpose(0, 2, 3, 1)
    model = mfv.MFV(**maker.SETTINGS)
    outputs = run(model, load(model, state, images)[0], images)
    for k in (1, 2, 3):
        found = np.asarray(outputs[f"map/t{k}"]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, golden[f"map/t{k}"], rtol=1e-4, atol=1e-4)
    for head in ("b", "t1", "t2", "t3"):
        np.testing.assert_allclose(outputs[f"logits/{head}"], golden[f"logits/{head}"], rtol=1e-4, atol=1e-4)
    feature = np.concatenate([outputs["neck/b"], outputs["neck/t3"]], axis=1)
    np.testing.assert_allclose(feature, golden["feature"], rtol=1e-4, atol=1e-4)
    unit = golden["feature"] / np.linalg.norm(golden["feature"], axis=1, keepdims=True)
    np.testing.assert_allclose(model.describe(outputs).features, unit, atol=1e-5)


def test_the_golden_values_tell_the_readings_apart(maker, golden, state):
    """The same weights under the axes of the paper give other maps: the file can detect that fault."""
    images = maker.make_images().transpose(0, 2, 3, 1)
    model = mfv.MFV(**maker.SETTINGS, ea_norm="tokens")
    found = np.asarray(run(model, load(model, state, images)[0], images)["map/t1"]).transpose(0, 3, 1, 2)
    assert np.abs(found - golden["map/t1"]).max() > 0.1


def test_only_the_kept_stem_channels_are_needed(maker, golden, state):
    """Every fourth output of the last stem convolution, taken from the file, gives the same network."""
    images = maker.make_images().transpose(0, 2, 3, 1)
    kept = {
        name: value[::4] if ".conv3." in name or (".bn3." in name and value.ndim) else value
        for name, value in state.items()
        if name.startswith("HAT")
    }
    model = mfv.MFV(**maker.SETTINGS, stem_expansion=1)
    outputs = run(model, load(model, state | kept, images)[0], images)
    np.testing.assert_allclose(outputs["logits/t3"], golden["logits/t3"], rtol=1e-4, atol=1e-4)


def test_published_names_there_and_back(maker, state):
    images = maker.make_images().transpose(0, 2, 3, 1)
    variables, report = load(mfv.MFV(**maker.SETTINGS), state, images)
    assert {entry.fate for entry in report.entries} == {"loaded", "ignored"}
    back = convert.to_torch(variables, release_layout.TORCH_EXPORT_RULES)
    assert set(back) == {entry.source for entry in report.named("loaded")}
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)
