"""The benchmark script: real programs at tiny sizes, one table and one JSON file for each, mistakes in one sentence."""

import json
import types

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.benchmarks import model_speed, programs, subjects, tables
from reid_jax.benchmarks.torch import counterparts
from reid_jax.cli import benchmark as benchmark_cli
from reid_jax.config import files
from reid_jax.data import pipeline
from reid_jax.runs import settings

TINY = [
    "--option=size=resnet18",
    "--option=width=4",
    "--option=depths=(1,1,1,1)",
    "--height=32",
    "--width=16",
    "--batch=8",
    "--steps=2",
]


@pytest.fixture(scope="module")
def script(root):
    return benchmark_cli


@pytest.mark.parametrize("kind", ["train", "infer"])
def test_a_model_is_timed_and_written_down(script, kind, tmp_path, capsys):
    output = tmp_path / "results" / "speed.json"
    assert script.main([kind, "--model=bot", *TINY, "--classes=5", f"--output={output}"]) == 0
    printed = capsys.readouterr().out
    assert f"{kind} bot" in printed
    assert "no peak is known" in printed
    found = json.loads(output.read_text())
    assert {"device", "versions", "commit", "command", "process_peak_MB", "load"} <= set(found)
    (row,) = found["tables"][kind]
    assert row["batch"] == 8
    assert row["image"] == "32x16"
    assert row["dtype"] == "float32"
    assert 0 < row["fastest_ms"] <= row["step_ms"]
    assert row["images_per_s"] == pytest.approx(8000 / row["step_ms"])
    assert row["gflop_per_s"] == pytest.approx(1000 * row["gflop"] / row["step_ms"])
    assert row["mfu"] is None
    assert row["compile_s"] > 0
    assert row["program_MB"] > 0


def test_a_config_is_timed_with_its_own_step(root, script):
    config = files.load_config(str(root / "configs" / "bot.py"))
    config.model = {"name": "bot", "size": "resnet18", "width": 4, "depths": (1, 1, 1, 1)}
    config.data.sampler = {"name": "identity_groups", "identities": 4, "images": 2}
    subject = subjects.of_config(config, {"data.height": 32, "data.width": 16, "dtype": None})
    (row,) = model_speed.measure("train", [subject], [16], steps=1, classes=12)
    assert row["what"] == "train bot:demo"
    assert row["step"] == "own"
    assert row["batch"] == 16
    assert row["images_per_s"] > 0
    with pytest.raises(errors.UserError, match="a multiple of 2"):
        model_speed.measure("train", [subject], [7])


def test_generated_images_have_what_the_demos_read():
    """AMFOR's step reads body parts; the images of `benchmark.py train --config` must have them in every system."""
    for name in files.packaged():
        data = settings.of(files.load_config(name)).data
        split = subjects.generated_dataset(32, maps=data.maps).split("train")
        options = {key: getattr(data, key) for key in ("sampler", "maps", "height", "width", "interpolation")}
        with pipeline.train_batches(split, split.pids - 1, seed=0, cache="none", threads=0, **options) as batches:
            batch = next(batches)
        assert len(batch["image"]) == subjects.own_batch(data.sampler), name
        assert set(data.maps) <= set(batch), name
        if data.maps:
            assert set(np.unique(batch["parts"])) == set(range(9))


def test_input_and_ranking_are_measured(script, tmp_path, capsys):
    assert script.main(["rank", "--quick", f"--output={tmp_path / 'rank.json'}"]) == 0
    rows = json.loads((tmp_path / "rank.json").read_text())["tables"]["rank"]
    assert rows[0]["what"] == "rank tiny"
    assert rows[0]["gallery"] == 1000
    assert rows[0]["mAP"] == pytest.approx(rows[1]["mAP"], abs=1e-4)
    assert script.main(["input", "--quick", "--height=32", "--width=16"]) == 0
    assert "pipeline, cached" in capsys.readouterr().out


def test_programs_take_turns_and_the_first_round_does_not_count():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = programs.alternate(runs, 3)
    assert "".join(order) == "abababab"
    assert [len(seconds[name][0]) for name in "ab"] == [3, 3]


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("cpu", None),
    ],
)
def test_peaks_by_device_name(device, peak):
    assert model_speed.peak_flops(device) == peak


def test_utilization_and_ratio_follow_from_the_median(monkeypatch):
    program = types.SimpleNamespace(
        batch=8,
        timing=lambda wall, processor: programs.Timing(1.0, min(wall), 0.1, float(np.median(wall)), 0, 1e12, 0, 10),
    )
    monkeypatch.setattr(model_speed, "peak_flops", lambda kind: 4e12)
    monkeypatch.setattr(model_speed.jax, "device_count", lambda: 2)
    subject = subjects.of_model("bot", overrides={"dtype": "bfloat16"})
    row = model_speed._model_row("train", subject, program, ([0.4, 0.5, 0.9], [0.1] * 3), ([1.0, 1.5, 9.0], []))
    assert row["gflop_per_s"] == pytest.approx(2000)
    assert row["mfu"] == pytest.approx(0.25)
    assert row["speed_of_torch"] == pytest.approx(3.0)
    assert row["fastest_of_torch"] == pytest.approx(2.5)
    assert "25.0 %" in tables.table([row])


def test_steps_stand_beside_those_of_the_first_subject(monkeypatch):
    timing = lambda wall, processor: programs.Timing(1.0, min(wall), 0.1, float(np.median(wall)), 0, 1e12, 0, 10)
    monkeypatch.setattr(
        subjects, "program", lambda kind, subject, size, classes: types.SimpleNamespace(batch=size, timing=timing)
    )
    walls = {"bot x4": 0.4, "mgn x4": 1.0, "bot x8": 0.5, "mgn x8": 1.0}
    monkeypatch.setattr(
        model_speed.programs, "alternate", lambda runs, steps: {key: ([walls[key]], []) for key in runs}
    )
    both = [subjects.of_model(name) for name in ("bot", "mgn")]
    rows = model_speed.measure("train", both, [4, 8])
    assert [row["times_first"] for row in rows] == pytest.approx([1.0, 2.5, 1.0, 2.0])
    (alone,) = model_speed.measure("train", both[:1], [4])
    assert "times_first" not in alone


def test_the_counterpart_in_pytorch_has_the_size_of_our_backbone():
    def named(model: str, **options) -> str:
        subject = subjects.of_model(model, options)
        return counterparts.of(subject.name, subject.settings).name(8)

    assert named("mfv") == "torch mfv, 256x128 x8"
    assert named("bot") == "torch resnet50 stride 1, 256x128 x8"
    assert named("osnet_x0_25") == "torch osnet x0_25 plain, 256x128 x8"
    assert named("transreid_baseline") == "torch vit 768x12 stride 16, 256x128 x8"
    assert named("transreid_stride12") == "torch vit 768x12 stride 12 jpm, 256x128 x8"
    with pytest.raises(errors.UserError, match="counterpart of the default MFV, not of mfv"):
        named("mfv", layout="release")
    for model, options in (("bot", {"size": "resnet18"}), ("mgn", {})):
        with pytest.raises(errors.UserError, match="counterpart of ResNet-50, MFV, OSNet and ViT models, none of"):
            named(model, **options)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "--model=bott"), "unknown model 'bott'; did you mean 'bot'?"),
        (("train", "--batch=many"), "whole numbers"),
        (("infer", "--dtype=float8"), "unknown value of --dtype"),
        (("train", "--demo", "--option=width=4"), "name it with --model"),
        (("rank", "--size=market"), "did you mean 'market1501'"),
        (("train", "--config=configs/none.py"), "expected a config file"),
    ],
)
def test_mistakes_are_one_sentence(script, arguments, sentence):
    with pytest.raises(errors.UserError) as raised:
        script.main(list(arguments))
    assert sentence in str(raised.value)
