"""Scores under corruptions: which side is corrupted when, how often images pass the model, what is printed beside."""

import dataclasses
import hashlib
import json
import sys

import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.cli import command_line
from reid_jax.cli import evaluate as evaluate_cli
from reid_jax.data import image_io, records
from reid_jax.data.corruptions import sampling
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import published_robustness, ranking, robustness
from reid_jax.inference import extractor, features, published
from reid_jax.runs import baselines, folder, trained
from reid_jax.weights import hub
from tests.helpers import tiny

SIZE = {"height": 32, "width": 16, "interpolation": "bilinear"}


def make_split(name, shots, seed):
    """Pictures of six people in two-colored clothes; every camera has a brightness of its own."""
    rng = np.random.default_rng(seed)
    source, pids, camids = [], [], []
    for pid in range(1, 7):
        for shot in range(shots):
            coarse = np.random.default_rng(pid).integers(40, 200, (4, 2, 3))
            picture = image_io.resize((coarse + 10 * shot).astype(np.uint8), 48, 24)
            source.append({"image": image_io.encode_png(picture + rng.integers(0, 6, picture.shape).astype(np.uint8))})
            pids.append(pid)
            camids.append(shot if name.endswith("gallery") else 5)
    names = tuple(f"{pid}_{index}.png" for index, pid in enumerate(pids))
    return records.Split(name, source, np.array(pids, np.int32), np.array(camids, np.int32), names)


@pytest.fixture(scope="module")
def dataset():
    return records.ReIDDataset(
        "market1501", query=make_split("market1501/query", 1, 1), gallery=make_split("market1501/gallery", 3, 2)
    )


def describe(data):
    return baselines.extract_simple(baselines.SIMPLE_FEATURES["raw_pixels"], data, SIZE)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def measured(dataset):
    passes = []

    def extract(data):
        passes.append(describe(data))
        return passes[-1]

    lines = []
    result = robustness.evaluate(
        extract, dataset, rounds=3, seed=4, train_corruption="none", progress=lines.append, same_camera_filter=False
    )
    return result, passes, lines


def test_protocols_and_passes(dataset, measured):
    result, passes, lines = measured
    assert len(passes) == 1 + 3
    assert len(lines) == 4
    assert {name: len(results) for name, results in result.results.items()} == {
        "clean": 1, "corrupted": 3, "corrupted_query": 3, "corrupted_gallery": 3,
    }  # fmt: skip
    clean, second = passes[0], passes[2]
    rank = lambda **changes: ranking.evaluate(dataclasses.replace(clean, **changes), same_camera_filter=False)
    assert result.results["clean"][0].mAP == rank().mAP
    query, gallery = second.query_features, second.gallery_features
    for name, changes in {
        "corrupted": {"query_features": query, "gallery_features": gallery},
        "corrupted_query": {"query_features": query},
        "corrupted_gallery": {"gallery_features": gallery},
    }.items():
        assert result.results[name][1].mAP == rank(**changes).mAP, name
    assert result.results["corrupted"][0].mAP < result.results["clean"][0].mAP
    # Every round draws anew, a seed gives the same again, and the clean data set was not touched.
    assert len({digest(one.gallery_features) for one in passes}) == 4
    repeated = describe(robustness.corrupted_dataset(dataset, sampling.Selection(), round_=1, seed=4))
    assert digest(repeated.query_features) == digest(query)
    assert digest(describe(dataset).query_features) == digest(clean.query_features)


def test_a_side_is_replaced_with_its_visibility():
    labels = ([1], [1, 2], [0], [1, 1])
    make = lambda value: FeatureSet(
        *(np.full((1, 2, 3), value), np.full((2, 2, 3), value), *labels),
        query_visibility=np.full((1, 2), value),
        gallery_visibility=np.full((2, 2), value),
    )
    mixed = robustness._combine(make(0.0), make(1.0), ("gallery",))
    values = (mixed.query_features, mixed.query_visibility, mixed.gallery_features, mixed.gallery_visibility)
    assert [float(value.min()) for value in values] == [float(value.max()) for value in values] == [0, 0, 1, 1]


def test_numbers_and_table(measured):
    result, _, _ = measured
    values = result.as_dict()
    for protocol in robustness.PROTOCOLS:
        for score in ("mINP", "mAP", "rank1", "rank5", "rank10"):
            found = [one.scores()[score] for one in result.results[protocol]]
            assert values[f"market1501/{protocol}/{score}"] == pytest.approx(np.mean(found))
            assert values[f"market1501/{protocol}/{score}_std"] == pytest.approx(np.std(found))
    assert values["market1501/corrupted/rounds"] == 3
    assert (values["train_corruption"], values["frost_textures"], values["corruption_seed"]) == (
        "none",
        "procedural",
        4,
    )
    json.dumps(values)
    table = result.table()
    assert (
        f"{100 * values['market1501/corrupted/mAP']:.2f} ± {100 * values['market1501/corrupted/mAP_std']:.2f}" in table
    )
    assert "corruptions in training: none" in table
    assert "frost textures: procedural" in table
    clean, trained = table.index("trained on clean images"), table.index("trained on the test corruptions")
    assert clean < table.index("1.76 / 28.03 / 55.57") < trained < table.index("32.96 / 69.74 / 85.68")
    part = dataclasses.replace(result, selection=sampling.select(families=("noise",)))
    assert "Published" not in part.table(), "a subset does not compare with the benchmark"
    assert "speckle_noise" in part.table()


def test_published_rows():
    rows = published_robustness.REFERENCES
    assert len({(row.dataset, row.method, row.source) for row in rows}) == len(rows) == 30
    for row in rows:
        assert all(0 < one < 100 for one in (*row.corrupted, *(row.clean or ())))
        assert row.corrupted == tuple(sorted(row.corrupted))
        if row.clean:
            assert all(dirty < clean for dirty, clean in zip(row.corrupted, row.clean))
    assert published_robustness.of_dataset("synthped") == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "none"),
        ({"augment": {"corrupt": {"policy": "leave_family_out(noise)"}}}, "leave_family_out(noise)"),
        ({"augment": {"corrupt": True}}, "all20"),
        ({"augment": {"corrupt": {"policy": "all20", "probability": 0.0}}}, "none"),
        ({"augment": {"corrupt": False, "augmix": {}}}, "augmix"),
        ({"views": {"corrupted": {"augment": {"corrupt": {"policy": "all20"}}}}}, "all20"),
        ({"views": {"other": {"geometry": "shared"}}, "augment": {"corrupt": {"policy": "none"}}}, "none"),
        ({"views": {"other": {}}, "augment": {"augmix": True, "corrupt": {"policy": "all20"}}}, "all20+augmix"),
    ],
)
def test_training_policy_is_read_from_the_config(changes, expected):
    data = {"augment": {"flip": {}}, "views": {}, **changes}
    assert features.train_corruption(config_lib.Settings.of({"data": data})) == expected
    phases = {"early": {}, "late": {"data": data}}
    settings = config_lib.Settings.of({"data": {"augment": {}}, "phases": phases, "phase_order": ("early", "late")})
    assert features.train_corruption(settings) == expected
    # A phase that is not run does not count.
    assert features.train_corruption(dataclasses.replace(settings, phase_order=("early",))) == "none"


def test_mistakes(dataset):
    with pytest.raises(errors.UserError, match="at least one round"):
        robustness.evaluate(describe, dataset, rounds=0)
    with pytest.raises(errors.UserError, match="no gallery"):
        robustness.evaluate(describe, dataclasses.replace(dataset, gallery=None))


# ---- scripts/evaluate.py


class RawPixels:
    """Stands for a model's extractor."""

    def split(self, variables, split, **_):
        pictures = np.stack([image_io.resize(split.image(row), **SIZE) for row in range(len(split))])
        return extractor.Extracted(baselines.SIMPLE_FEATURES["raw_pixels"](pictures), None, 0.0, 0.0)


@pytest.fixture
def call(root, monkeypatch, capsys):
    script = evaluate_cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command_line.run(script.main)
        return caught.value.code, *capsys.readouterr()

    return run


def test_script(call, dataset, tmp_path, monkeypatch):
    folder.RunFolder(tmp_path / "run").claim(tiny.config(tmp_path / "data", data__augment__corrupt=True))
    monkeypatch.setattr(trained, "from_run", lambda path, best=False: (RawPixels(), {}))
    monkeypatch.setattr(build, "open_data", lambda data: dataset)
    code, out, err = call(
        "--run", tmp_path / "run", "--corruptions", "--rounds", 2, "--families", "noise", "--severities", 5,
        "--output", tmp_path / "deep" / "robust.json",
    )  # fmt: skip
    assert code == 0, err
    values = json.loads((tmp_path / "deep" / "robust.json").read_text())
    assert values["corruption_severities"] == [5]
    assert values["market1501/corrupted/rounds"] == 2
    assert values["train_corruption"] == "all20"
    assert "corruptions in training: all20" in out
    assert f"{100 * values['market1501/clean/mAP']:.2f}" in out
    assert "round 2 of 2" in err


def test_published_weights_on_corrupted_images(call, dataset, tmp_path, monkeypatch):
    model = RawPixels()
    model.settings = config_lib.Settings.of(config_lib.to_dict(config_lib.defaults()))
    monkeypatch.setattr(published, "from_weights", lambda name, weights: (model, {}))
    monkeypatch.setattr(published, "evaluation_data", lambda images, name: (dataset, str(images)))
    monkeypatch.setattr(hub, "check", lambda *_, **__: None)
    (tmp_path / "images").mkdir()
    code, out, err = call(
        "--weights", "osnet_x0_25_msmt17", "--images", tmp_path / "images", "--corruptions", "--rounds", 1,
        "--families", "noise", "--severities", 5, "--output", tmp_path / "robust.json",
    )  # fmt: skip
    assert code == 0, err
    assert "corruptions in training: unknown" in out
    values = json.loads((tmp_path / "robust.json").read_text())
    assert 0 < values["market1501/corrupted/mAP"] <= values["market1501/clean/mAP"]
    assert "# osnet_x0_25_msmt17, clean and corrupted" in (tmp_path / "robust.md").read_text()


def test_script_mistakes(call, tmp_path):
    for arguments, words in (
        (("--features", "f.npz", "--corruptions"), "needs --run"),
        (("--run", tmp_path, "--corruptions", "--rerank"), "cannot be combined with"),
        (("--run", tmp_path, "--families", "noise"), "add --corruptions"),
        (("--run", tmp_path, "--corruptions", "--families", "nois"), "did you mean 'noise'"),
        (("--run", tmp_path, "--corruptions", "--types", "fogg"), "did you mean 'fog'"),
    ):
        code, _, err = call(*arguments)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1
