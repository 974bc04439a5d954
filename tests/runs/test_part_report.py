"""`evaluate.py --parts` on a network with random weights: what is measured, and on which images."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.benchmarks import programs
from reid_jax.cli import evaluate as evaluate_cli
from reid_jax.data import records
from reid_jax.data.synthped import dataset as synthped
from reid_jax.evaluation import image_quality, part_scores
from reid_jax.inference import extractor as extractor_lib
from reid_jax.models.amfor import part_decoder
from reid_jax.runs import drawn_patches, occluder_pairs, part_report
from reid_jax.runtime import mesh as mesh_lib
from tests.helpers import tiny_amfor

NAME, OPTIONS = "synthped_street_occluded", {"size": "tiny", "seed": 0, "height": 64}


def make_split(data, name):
    specs = data.split(name)
    source = [dict(zip(("image", "parts"), data.encode(spec), strict=True)) for spec in specs]
    pids, camids = (np.array([getattr(spec, key) for spec in specs], np.int32) for key in ("pid", "camid"))
    return records.Split(f"{NAME}/{name}", source, pids, camids, tuple(spec.filename for spec in specs))


@pytest.fixture(scope="module")
def dataset():
    data = synthped.SynthPed("tiny", 0, True, 64, 32, "street")
    return records.ReIDDataset(NAME, *(make_split(data, name) for name in records.SPLITS))


@pytest.fixture(scope="module")
def settings():
    config = tiny_amfor.load("", "demo")
    config.data.height, config.data.width = 32, 16
    config.data.name, config.data.options = NAME, OPTIONS
    return config_lib.Settings.of(config_lib.to_dict(config))


@pytest.fixture(scope="module")
def measured(dataset, settings):
    model = tiny_amfor.tiny(num_cameras=3)
    variables = programs.random_variables(model, tiny_amfor.images())
    extractor = extractor_lib.Extractor(model, settings, mesh_lib.create_mesh(jax.devices()[:1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "evaluation_data", lambda settings, name: dataset)
        patch.setattr(build, "open_own", lambda data: dataset)
        patch.setattr(part_scores, "draw_weights", functools.partial(part_scores.draw_weights, draws=20))
        return part_report.measure(extractor, variables, settings, None, {"run": "x", "step": 1, "commit": ""})


def test_every_part_of_the_system_is_measured(measured):
    values = measured.values
    assert {name.partition("/")[0] for name in values} == {"query", "gallery", "mAP", "hidden", "fusion", "rebuilt"}
    for side in ("query", "gallery"):
        for part in part_scores.PARTS:
            own, prior, difference = (
                values[f"{side}/iou/{part.replace(' ', '_')}{end}"][0] for end in ("", "/prior", "/difference")
            )
            assert own - prior == pytest.approx(difference, nan_ok=True)
    assert values["query/visibility/auc_within/prior"][0] == 0.5
    each = [value[0] for name, value in values.items() if "/auc_of/" in name]
    assert np.mean(each) == pytest.approx(values["query/visibility/auc_within"][0])
    assert {"alike", "oracle", "hard", "soft", "global", "pooled", "rebuilt"} <= {
        name.removeprefix("mAP/") for name in values if name.startswith("mAP/")
    }
    for value, low, high in values.values():
        assert np.isnan(value) or low <= value <= high or low <= value + 1e-6
    shares = [values[f"fusion/layer_1/depth_{depth}"][0] for depth in (0, 1)]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert shares[0] < 0.5  # gates begin nearly closed
    assert set(measured.gates) == {"parser", "visibility"}
    assert "gate parser: missed" in measured.table()
    assert json.loads(json.dumps(measured.as_dict()))["gates"] == measured.gates


def test_the_fixed_map_is_the_most_frequent_label(measured, dataset):
    """The accuracy of the fixed map, from the pixels of the training images, without the network."""
    resize = lambda split: np.stack(
        [drawn_patches.transforms.Resize(32, 16)(drawn_patches.pipeline.Reader(split, ("parts",)).read(row))["parts"]
         for row in range(len(split))]
    )  # fmt: skip
    tokens = {
        name: np.asarray(part_decoder.token_labels(resize(dataset.split(name)), (4, 2), 8, 8))
        for name in ("train", "query")
    }
    fixed = np.argmax([(tokens["train"] == label).mean(axis=0) for label in range(9)], axis=0)
    assert measured.values["query/accuracy/prior"][0] == pytest.approx(np.mean(fixed == tokens["query"]))


def test_pairs_differ_by_the_occluder_alone(dataset):
    query = dataset.split("query")
    pairs = occluder_pairs.of_queries(query, NAME, OPTIONS)
    assert len(pairs.rows) == len(query) == len(pairs.split)  # every query is occluded
    assert pairs.split.filenames == query.filenames
    changed = [one["image"] != other["image"] for one, other in zip(query.source, pairs.split.source, strict=True)]
    assert all(changed)
    assert occluder_pairs.of_queries(query, "market1501", {}) is None
    stale = dataclasses.replace(query, source=[{**one, "image": one["image"][:-1]} for one in query.source])
    with pytest.raises(errors.UserError, match="another version of SynthPed"):
        occluder_pairs.of_queries(stale, NAME, OPTIONS)


def test_gates_ask_for_every_part_and_both_areas():
    score = lambda value: [value, value, value]
    scores = {"query/iou/head/difference": score(0.1), "gallery/iou/head/difference": score(0.2)}
    assert part_report.gates(scores) == {"parser": True}
    assert not part_report.gates({**scores, "gallery/iou/torso/difference": score(-0.01)})["parser"]
    for auc, within, passed in ((0.8, 0.76, True), (0.8, 0.7, False), (0.7, 0.8, False)):
        found = {"query/visibility/auc": score(auc), "query/visibility/auc_within": score(within)}
        assert part_report.gates(found) == {"visibility": passed}
    assert part_report.gates({"pixels/person/drawn-camera_fill": score(0.9)}) == {"pixels": False}


def test_what_cannot_be_measured_is_refused(settings, tmp_path):
    alone = tiny_amfor.tiny(parsing=False, ts=False, hpr=False, amgd="none")
    extractor = extractor_lib.Extractor(alone, settings, mesh_lib.create_mesh(jax.devices()[:1]))
    with pytest.raises(errors.UserError, match="body parts for --parts"):
        part_report.measure(extractor, {}, settings, None, {})
    for arguments, message in (
        (["--features", "f.npz"], "--parts needs one run"),
        (["--run", str(tmp_path), "--rerank"], "cannot be combined with --rerank"),
    ):
        with pytest.raises(errors.UserError, match=message):
            evaluate_cli.main([*arguments, "--parts"])


def test_drawings_are_compared_on_persons(dataset, settings):
    """PSNR by region: the camera's average plus an offset, which never sees the hidden pixels."""
    around = drawn_patches.surroundings(dataset, settings)
    count = len(around.cameras)
    assert around.parts.shape == (count, 32, 16)
    assert {0, 1, 2, -1} >= set(around.averages) > {-1} or set(around.averages) == {-1}
    true = np.random.default_rng(0).random((count, 32, 16, 3))
    mask = np.zeros((count, 32, 16), bool)
    mask[:, 8:24, 4:12] = True
    drawn = image_quality.Reconstruction(true, np.where(around.parts[..., None] > 0, true, 0.0), true, mask)
    found = drawn_patches.by_region(drawn, around)
    assert found["person/psnr"] == np.inf  # the person is drawn without a fault
    assert found["background/psnr"] < found["background/camera_fill_psnr"]
    assert drawn_patches.by_region(dataclasses.replace(drawn, comparable=False), around) == {}
