"""scripts/evaluate.py, from the command line's point of view."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from reid_jax.benchmarks import ranking_speed
from reid_jax.cli import command_line
from reid_jax.cli import evaluate as evaluate_cli
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import ranking
from reid_jax.runs import trained


@pytest.fixture(scope="module")
def script(root):
    return evaluate_cli


@pytest.fixture
def run(script, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command_line.run(script.main)
        return caught.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def toy():
    return ranking_speed.synthetic(ranking_speed.Size(30, 200, 9, 3, 0.2), 8)


@pytest.mark.parametrize(("kind", "metric"), [("raw", "euclidean"), ("norm", "cosine")])
@pytest.mark.parametrize("case", ["easy", "ties"])
def test_reference_scores_come_out_of_the_command(run, golden_folder, tmp_path, case, kind, metric):
    """From a features file to JSON: junk dropped, distractors kept, ties in gallery order."""
    with np.load(golden_folder / f"metrics_{case}.npz") as reference:
        labels = (reference[name] for name in ("q_pids", "g_pids", "q_camids", "g_camids"))
        FeatureSet(reference["qf"], reference["gf"], *labels).save(tmp_path / "features.npz")
        expected = {name: float(reference[f"{kind}/nojunk_stable_{name}"]) for name in ("mAP", "mINP")}
        cmc = reference[f"{kind}/nojunk_stable_cmc"]
    output = tmp_path / "result.json"
    code, _, err = run("--features", tmp_path / "features.npz", "--metric", metric, "--output", output)
    assert code == 0, err
    written = json.loads(output.read_text())
    expected |= {f"rank{rank}": float(cmc[rank - 1]) for rank in (1, 5, 10)}
    for name, value in expected.items():
        assert written[f"features/{name}"] == pytest.approx(value, abs=1e-6), name


def test_slots_are_also_scored_without_their_visibility(run, tmp_path):
    """One run says what leaving out hidden slots is worth: the second score is that of the slots alone."""
    generator = np.random.default_rng(3)
    slots = [generator.standard_normal((count, 3, 5)).astype(np.float32) for count in (9, 40)]
    seen = [(generator.random((count, 3)) < 0.6).astype(np.float32) for count in (9, 40)]
    labels = [generator.integers(0, 4, n) for n in (9, 40)] + [generator.integers(0, 3, n) for n in (9, 40)]
    FeatureSet(*slots, *labels, query_visibility=seen[0], gallery_visibility=seen[1]).save(tmp_path / "seen.npz")
    FeatureSet(*slots, *labels).save(tmp_path / "plain.npz")
    written = {}
    for name in ("seen", "plain"):
        code, out, _ = run("--features", tmp_path / f"{name}.npz", "--output", tmp_path / "result.json")
        assert code == 0
        assert ("equal slot weights" in out) == (name == "seen")
        written |= json.loads((tmp_path / "result.json").read_text())
    for metric in ("mAP", "mINP", "rank1"):
        assert written[f"seen/unweighted/{metric}"] == written[f"plain/{metric}"]
    assert written["seen/mAP"] != written["plain/mAP"]
    assert "plain/unweighted/mAP" not in written


def test_everything_at_once(run, toy, tmp_path):
    toy.save(tmp_path / "toy.npz")
    code, out, _ = run(
        "--features", tmp_path / "toy.npz", "--rerank", "--k1", 8, "--k2", 3, "--lambda", 0.4, "--verification",
        "--single-shot", 4, "--rounds", 2, "--expand", 2, "--output", tmp_path / "out" / "result.json",
    )  # fmt: skip
    assert code == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {"toy/mAP", "toy/rerank/mAP", "toy/verification/auc", "toy/single_shot/rank1", "toy/rounds/mAP_std"} <= set(
        values
    )
    assert f"{100 * values['toy/mAP']:.2f}" in out
    assert f"{100 * values['toy/rerank/rank1']:.2f}" in out
    assert "AP rule: step" in out
    assert all(0 <= value <= 1 for key, value in values.items() if key.endswith(("mAP", "mINP", "rank1", "auc", "eer")))


def test_defaults_come_from_the_file(run, toy, tmp_path):
    toy.save(tmp_path / "toy.npz")
    for arguments, metric in (((), "cosine"), (("--metric", "euclidean"), "euclidean")):
        code, _, _ = run("--features", tmp_path / "toy.npz", "--output", tmp_path / "r.json", *arguments)
        values = json.loads((tmp_path / "r.json").read_text())
        assert (code, values["metric"], values["ap_rule"]) == (0, metric, "step")
        assert values["toy/mAP"] == ranking.evaluate(toy, metric=metric).mAP


def test_several_sets_and_the_other_rule(run, toy, tmp_path):
    toy.save(tmp_path / "a.npz")
    toy.with_gallery(np.arange(150)).save(tmp_path / "b.npz")
    code, out, _ = run(
        "--features", tmp_path / "a.npz", tmp_path / "b.npz", "--ap", "trapezoid", "--output", tmp_path / "r.json"
    )
    values = json.loads((tmp_path / "r.json").read_text())
    assert code == 0
    assert values["a/mAP"] == ranking.evaluate(toy, ap="trapezoid").mAP
    assert (values["a/num_gallery"], values["b/num_gallery"]) == (200, 150)
    assert "trapezoid" in out


@pytest.fixture
def pictured(tmp_path):
    """Features of two people by two models, `f.npz` and `deep/f.npz`, and their pictures in the folder."""
    names = ["a.png", "b.png"], ["c.png", "d.png"]
    (tmp_path / "deep").mkdir()
    for path, gallery in (("f.npz", np.eye(2)), ("deep/f.npz", np.eye(2)[::-1])):
        features = FeatureSet(np.eye(2), gallery, [1, 2], [1, 2], [0, 0], [1, 1], *names, meta={"dataset": "two"})
        features.save(tmp_path / path)
    for name in "abcd":
        Image.new("RGB", (4, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_page(run, pictured):
    code, _, _ = run("--features", pictured / "f.npz", "--html", pictured / "page.html", "--images", pictured)
    assert code == 0
    assert (pictured / "page.html").read_text().count('"correct":') == 2


def test_two_models_on_one_data_set_are_told_apart_and_have_a_page_each(run, pictured, monkeypatch):
    files = ("--features", pictured / "f.npz", pictured / "deep" / "f.npz")
    more = ("--html", pictured / "page.html", "--images", pictured, "--output", pictured / "r.json")
    code, out, err = run(*files, *more)
    assert code == 0, err
    values = json.loads((pictured / "r.json").read_text())
    here = pictured.name
    assert (values[f"two:{here}-f/mAP"], values["two:deep-f/mAP"]) == (1.0, 0.5)
    for label in (f"{here}-f", "deep-f"):
        assert f"two:{label}" in out
        assert (pictured / f"page-{label}.html").is_file()
    assert not (pictured / "page.html").exists()
    code, _, err = run("--features", pictured / "f.npz", pictured / "deep" / ".." / "f.npz")
    assert code == 2
    assert "twice" in err

    # Runs in the same way.
    def described(path, **_):
        features = FeatureSet.load(pictured / ("f.npz" if path.endswith("deep") else "deep/f.npz"))
        return {"two": features, "two/map": features}, types.SimpleNamespace(name="two")

    monkeypatch.setattr(trained, "all_features_of_run", described)
    code, _, err = run("--run", pictured, pictured / "deep", "--output", pictured / "r.json")
    assert code == 0, err
    values = json.loads((pictured / "r.json").read_text())
    assert (values[f"two:{here}/mAP"], values["two:deep/mAP"], values["two:deep/map/mAP"]) == (0.5, 1.0, 1.0)


def test_mistakes_end_with_one_sentence_and_code_2(run, toy, tmp_path):
    toy.save(tmp_path / "toy.npz")
    one_camera = FeatureSet(np.eye(2), np.eye(2), [1, 2], [1, 2], [0, 0], [0, 0])
    one_camera.save(tmp_path / "one.npz")
    cases = [
        (["--features", tmp_path / "none.npz"], "found nothing at"),
        (["--features", tmp_path / "toy.npz", "--metric", "cosin"], "did you mean 'cosine'"),
        (["--features", tmp_path / "toy.npz", "--ap", "area"], "known: step, trapezoid"),
        (["--features", tmp_path / "toy.npz", "--rerank", "--k1", "900"], "k1 must be between"),
        (["--features", tmp_path / "toy.npz", "--html", tmp_path / "p.html"], "--images"),
        (["--features", tmp_path / "one.npz"], "--no-same-camera-filter"),
    ]
    for arguments, sentence in cases:
        code, _, err = run(*arguments, "--output", tmp_path / "never.json")
        assert code == 2, arguments
        assert sentence in err
        assert err.count("\n") == 1, "one line, no traceback"
    assert not (tmp_path / "never.json").exists()
    assert run("--features", tmp_path / "one.npz", "--no-same-camera-filter")[0] == 0


def test_the_output_is_checked_before_any_work(run, toy, tmp_path, monkeypatch):
    """A folder, or a place below a file: one sentence before the features are read."""
    features = tmp_path / "f.npz"
    toy.save(features)
    monkeypatch.setattr(FeatureSet, "load", lambda *_, **__: pytest.fail("the work has begun"))
    for flag in ("--output", "--html"):
        for place in (tmp_path, features / "x.json", features / "deeper" / "x.json"):
            code, out, err = run("--features", features, flag, place)
            assert (code, out) == (2, "")
            assert str(place) in err
            assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]
