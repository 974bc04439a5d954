"""Mistakes that a whole run can make: one sentence before anything is trained, and nothing left behind.

Command lines are in tests/cli/test_cli.py, source folders of data sets in tests/data/test_prepare.py, weights files in
tests/weights/test_torch_files.py and test_convert.py.
"""

from __future__ import annotations

import logging
import os
import pathlib
import pickle

import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax.data import image_io
from reid_jax.runs import baselines, experiment, launch, results
from reid_jax.train import loop
from tests.helpers import tiny

TERM = {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("data")
    tiny.draw(root)
    return root


def config(root: pathlib.Path, **overrides):
    base = {**tiny.BOT, "data.options": {"size": "tiny", "seed": 0}}
    return tiny.config(root, "bot:synthped", base, **overrides)


def sampler(**options):
    return {"data__sampler": {"name": "identity_groups", "identities": 4, "images": 2, **options}}


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"data__name": "market1501", "data__options": {}}, "expected the raw folder|market1501"),
        ({"data__name": "market1510", "data__options": {}}, "did you mean 'market1501'"),
        ({"data__options": {"size": "tinny"}}, "did you mean 'tiny'"),
        ({"data__options": {"sizes": "tiny"}}, "did you mean 'size'"),
        ({"data__interpolation": "bilinar"}, "did you mean 'bilinear'"),
        ({"data__augment__flop": {"probability": 0.5}}, "did you mean 'flip'"),
        (sampler(name="identity_group"), "did you mean 'identity_groups'"),
        (sampler(image=4), "did you mean 'images'"),
        (sampler(identities=16), "16 identities was asked for, but the training split has 8; lower"),
        (sampler(identities=3), "a batch of 6 images does not divide evenly over 8 devices; change data.sampler"),
        ({"model__name": "bott"}, "did you mean 'bot'"),
        ({"model__widht": 8}, "did you mean 'width'"),
        ({"losses__ce": {**TERM, "loss": "cross_entrpy"}}, "loss term 'ce': .*did you mean 'cross_entropy'"),
        ({"losses__ce": {**TERM, "smoothing": 0.1}}, "loss term 'ce': .*did you mean 'label_smoothing'"),
        ({"losses__ce": {**TERM, "on": "logits/t1"}}, "loss term 'ce': unknown output 'logits/t1'.*logits/b"),
        ({"losses__ce": {"on": "logits/b"}}, "loss term 'ce' needs 'loss'"),
        ({"monitors__accuracy": {"loss": "accuracy", "on": "logit/b"}}, "did you mean 'logits/b'"),
        ({"preprocess__erase_fill": "nois"}, "did you mean 'noise'"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate must be a number of at least 0.*nan"),
        ({"optimizer__name": "adma"}, "did you mean 'adam'"),
        ({"schedule__name": "constnt"}, "did you mean 'constant'"),
        ({"train__epochs": 0}, "train.epochs must be a number above 0 and at most 1e\\+06, but is 0"),
        ({"train__epochs": -3.0}, "train.epochs must be a number above 0 and at most 1e\\+06, but is -3.0"),
        ({"train__epochs": float("nan")}, "train.epochs must be a number above 0 and at most 1e\\+06, but is nan"),
        ({"train__accumulate": 0}, "train.accumulate must be a whole number of at least 1"),
        ({"train__accumulate": 3}, "expected a batch divisible into 3 micro-batches"),
        ({"train__ema_decay": 1.0}, "train.ema_decay must be a number from 0 to below 1"),
        ({"evals__metric": "cosin"}, "did you mean 'cosine'"),
        ({"evals__ap": "trapezoidal"}, "did you mean 'trapezoid'"),
        ({"evals__batch_size": 0}, "evals.batch_size must be a whole number of at least 1"),
        ({"dtype": "bflot16"}, "did you mean 'bfloat16'"),
        ({"init__weights": "absent.pth"}, "absent.pth"),
        (
            {"phase_order": ("a", "b"), "phases": {"a": {}, "b": {"losses": {"ce": {**TERM, "on": "logits/x"}}}}},
            "unknown output 'logits/x'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_mistake_is_told_before_training(mistake, sentence, data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Loop, "run", lambda *_: pytest.fail("training began"))
    with pytest.raises(errors.UserError, match=sentence) as told:
        launch.run(config(data, **mistake), workdir=str(tmp_path / "run"))
    assert str(told.value).endswith((".", "?", ")"))
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"model__name": "bott"}, "did you mean 'bot'"),
        ({"model__widht": 8}, "did you mean 'width'"),
        ({"model__width": -3}, "model.width must be a whole number of at least 1 .*, but is -3"),
        ({"model__depths": (1, -1, 1, 1)}, "model.depths must be a tuple"),
        ({"model__pooling": 3}, "model.pooling must be text"),
        ({"losses__ce": {**TERM, "loss": "cross_entrpy"}}, "loss term 'ce': .*did you mean 'cross_entropy'"),
        ({"losses__ce__label_smoothing": float("nan")}, "losses.ce.label_smoothing must be a finite number"),
        ({"losses__ce__label_smoothing": 2.0}, "losses.ce.label_smoothing must be a number from 0 to below 1"),
        ({"losses__tri__margin": -1.0}, "losses.tri.margin must be a number of at least 0 .* or text, but is -1.0"),
        ({"losses__tri__weight": float("inf")}, "losses.tri.weight must be a finite number"),
        ({"losses__ce__on": 3}, "loss term 'ce': expected names of outputs as `on`, got int"),
        ({"monitors__accuracy__loss": "acuracy"}, "did you mean 'accuracy'"),
        ({"init__weights": "absent.pth"}, "expected a weights file as init.weights, found nothing at absent.pth"),
        ({"init__weights": "."}, "expected a weights file as init.weights, found a folder"),
        ({"init__allow_missing": ("(",)}, "init.allow_missing must be a tuple of regular expressions"),
        ({"evals__batch_size": 1e12}, "evals.batch_size must be a whole number of at least 1"),
        ({"evals__batch_size": 10**12}, "evals.batch_size must be a whole number .* at most 65,536"),
        ({"evals__flip": 3}, "evals.flip must be True or False, but is 3"),
        ({"evals__descriptors": {"x": {"widht": 3}}}, "did you mean 'width'"),
        ({"data__threads": -3}, "data.threads must be a whole number of at least 0 and at most 1,024, but is -3"),
        ({"data__workers": 10**6}, "data.workers must be"),
        ({"data__cache": "memry"}, "did you mean 'memory'"),
        ({"data__maps": ("",)}, "data.maps must be a tuple of names"),
        ({"data__augment__flip__probability": 2.0}, "probability"),
        ({"data__sampler": {"name": "identity_groups", "images": -4}}, "data.sampler.images must be a whole number"),
        ({"preprocess__mean": ()}, r"preprocess.mean must be three numbers, but is \(\)"),
        ({"preprocess__std": (1.0, 0.0, 1.0)}, "preprocess.std must be three numbers above 0"),
        ({"optimizer__b2": 1.0}, "optimizer.b2 must be None or a number from 0 to below 1"),
        ({"optimizer__name": "adma"}, "did you mean 'adam'"),
        ({"optimizer__momentum": 0.9}, "unknown option of optimizer 'adam' 'momentum'"),
        ({"optimizer__weight_decays": ((".*", float("nan")),)}, "optimizer.weight_decays must be a tuple"),
        ({"optimizer__frozen": ("[",)}, "optimizer.frozen must be a tuple of regular expressions"),
        ({"schedule__name": "warmup_multistp"}, "did you mean 'warmup_multistep'"),
        ({"schedule__factor": float("nan")}, "schedule.factor must be a finite number"),
        ({"schedule__warmup_epochs": float("nan")}, "schedule.warmup_epochs must be a finite number"),
        ({"schedule__gamma": 0.1}, "unknown option of schedule"),
        ({"train__mode": "joined"}, "did you mean 'joint'"),
        ({"train__accumulate": 1.5}, "train.accumulate must be a whole number"),
        ({"seed": 2**70}, "seed must be a whole number"),
        ({"passes__main__trian": True}, "did you mean 'train'"),
        ({"passes__main": {"after": ("teacher",)}}, "pass 'main': unknown pass to run after"),
        ({"extras": {"a": {"kind": "moving_averge"}}}, "did you mean 'moving_average'"),
        ({"extras": {"a": {"kind": "moving_average", "decay": 1.5}}}, "extras.a.decay must be"),
        ({"phase_order": ("a",), "phases": {"a": {"losses": {"ce": {**TERM, "loss": "x"}}}}}, "unknown loss 'x'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_mistake_stops_before_the_data_is_prepared_and_leaves_no_folder(mistake, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "open_data", lambda *_: pytest.fail("the data was opened"))
    root = tmp_path / "data"
    with pytest.raises(errors.UserError, match=sentence) as told:
        launch.run(config(root, **mistake), workdir=str(tmp_path / "run"))
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model_and_files_that_hold_code(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Loop, "run", lambda *_: pytest.fail("training began"))
    other = tmp_path / "other.npz"
    np.savez(other, **{"encoder.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(errors.UserError, match=r"other\.npz"):
        launch.run(config(data, init__weights=str(other)), workdir=str(tmp_path / "run"))

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "planted"),)

    hostile = tmp_path / "hostile.pth"
    hostile.write_bytes(pickle.dumps({"state_dict": Hostile()}, protocol=2))
    with pytest.raises(errors.UserError, match="holds code"):
        launch.run(config(data, init__weights=str(hostile)), workdir=str(tmp_path / "run"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.pth", "other.npz"]


def test_workdir_that_cannot_be_one(data, tmp_path):
    occupied = tmp_path / "notes.txt"
    occupied.write_text("mine")
    for workdir in (occupied, occupied / "run"):
        with pytest.raises(errors.UserError, match="--workdir"):
            launch.run(config(data), workdir=str(workdir))
    assert occupied.read_text() == "mine"
    with pytest.raises(errors.UserError, match="expected a run folder"):
        launch.run(config(data), workdir=str(tmp_path / "nothing"), mode="eval")
    assert not (tmp_path / "nothing").exists()


def test_folder_of_earlier_files_keeps_them_when_a_run_is_refused(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(errors.UserError, match=r"train\.epochs"):
        launch.run(config(data, train__epochs=0), workdir=str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    # What the refused run left is no run: another config may have the folder.
    with pytest.raises(errors.UserError, match=r"did you mean 'bot'"):
        launch.run(config(data, model__name="bott"), workdir=str(tmp_path))


def write_folder(folder: pathlib.Path, cameras: dict[str, int], lonely: bool = False) -> None:
    """A reid_folder of drawn pictures: 8 people to train on, 3 to find; camera by split."""
    rows = ["path,pid,camid,split"]
    for split, people in (("train", range(8)), ("query", range(8, 11)), ("gallery", range(8, 11))):
        for pid in people:
            for shot in range(1 if lonely and pid == 0 else 2):
                name = f"{split}_{pid}_{shot}.png"
                pattern = np.random.default_rng([split == "train", pid]).integers(0, 250, (16, 8, 3))
                picture = (np.kron(pattern, np.ones((4, 4, 1))) + shot).astype(np.uint8)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(image_io.encode_png(picture))
                rows.append(f"{name},{pid + 1},{cameras[split]},{split}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")


def test_one_camera_is_explained_and_its_way_out_works(tmp_path):
    write_folder(tmp_path / "data" / "reid_folder", {"train": 1, "query": 1, "gallery": 1})
    own = {"data__name": "reid_folder", "data__options": {}}
    with pytest.raises(errors.UserError, match=r"all images come from one camera.*same_camera_filter=False"):
        launch.run(config(tmp_path / "data", **own), workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    made = experiment.Experiment(config(tmp_path / "data", evals__same_camera_filter=False, **own))
    pixels = baselines.extract_simple(baselines.SIMPLE_FEATURES["raw_pixels"], made.dataset, made.extractor.size)
    assert results.rank(pixels, made.settings.evals).scores()["mAP"] == 1.0


def test_one_training_identity_is_refused_before_anything_is_compiled(tmp_path):
    write_folder(tmp_path / "data" / "reid_folder", {"train": 1, "query": 1, "gallery": 2})
    index = tmp_path / "data" / "reid_folder" / "index.csv"
    lines = [line for line in index.read_text().splitlines() if "train_" not in line or "train_0" in line]
    index.write_text("\n".join(lines))
    own = config(tmp_path / "data", data__name="reid_folder", data__options={})
    with pytest.raises(
        errors.UserError, match="expected two or more training identities in reid_folder/train, got one"
    ):
        launch.run(own, workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_identity_with_one_image_is_said_when_training_starts(tmp_path, caplog):
    write_folder(tmp_path / "data" / "reid_folder", {"train": 1, "query": 1, "gallery": 2}, lonely=True)
    for _ in range(2):  # prepared now, and found prepared
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            experiment.Experiment(config(tmp_path / "data", data__name="reid_folder", data__options={}))
        assert "1 of 8 training identities have one image only (pid 1)" in caplog.text


def test_the_script_ends_with_the_sentence_and_exit_code_2(tmp_path):
    hostile = tmp_path / "hostile.pth"
    hostile.write_bytes(b"\x80\x02cos\nmkdir\nX" + b"\x07\x00\x00\x00planted" + b"\x85R.")
    run, output = tmp_path / "run", tmp_path / "converted"
    started = [
        tiny.start(["--config=configs/mfv.py", "--config.train.epochs=0", f"--workdir={run}"], 1),
        tiny.start(["--model=bot", f"--weights={hostile}", f"--output={output}"], 1, "convert_weights.py"),
    ]
    for process, sentence in zip(started, ("train.epochs must be", "holds code"), strict=True):
        code, out, err = tiny.finish(process)
        assert code == 2, err
        assert "Traceback" not in out + err
        assert sentence in err.strip().splitlines()[-1]
        assert err.strip().splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.pth"]
    assert not (tiny.ROOT / "planted").exists()
