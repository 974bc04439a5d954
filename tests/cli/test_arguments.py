"""Arguments that cannot be meant: one sentence before any work, and nothing written.

A command is called in this process, as `reid-jax NAME` calls it; `FILE`, `FOLDER`, `NOTHING` and `BELOW` stand for an
existing file, an existing folder, a path that does not exist, and one below a file.
"""

from __future__ import annotations

import importlib
import pathlib

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.cli import app, command_line
from reid_jax.config import files

ROOT = pathlib.Path(__file__).resolve().parents[2]
MFV = f"--config={ROOT / 'configs' / 'mfv.py'}"
ABLATE = (MFV, "--rows=mfv_base", "--results=FOLDER", "--workdir=NOTHING")
EVALUATE = ("--features", "FILE.npz")
EXTRACT = ("--model=bot", "--random-weights", "--images=FOLDER", "--output=NOTHING.npz")
CONVERT = ("--model=bot", "--weights=FILE", "--output=NOTHING")
SHEET = ("synthped", "--output=NOTHING.png")
RESUME = ("--workdir=NOTHING", MFV)

CASES = [
    ("ablate", (MFV,), "expected --rows NAME,...; --list prints"),
    ("ablate", ("--config=absent.py", "--rows=a"), "found nothing at absent.py"),
    ("ablate", (*ABLATE, "--rows=mfv_bse"), "did you mean 'mfv_base'"),
    ("ablate", (*ABLATE, "--rows="), "expected --rows as names separated by commas, got ''"),
    ("ablate", (*ABLATE, "--rows=mfv,,mfv_base"), "expected --rows as names"),
    ("ablate", (*ABLATE, "--rows=mfv,mfv"), "expected each row of --rows once"),
    ("ablate", (*ABLATE, "--preset=dem"), "unknown preset 'dem'; did you mean 'demo'"),
    ("ablate", (*ABLATE, "--seeds=x"), "expected --seeds as whole numbers from 0"),
    ("ablate", (*ABLATE, "--seeds=-1"), "expected --seeds as whole numbers from 0"),
    ("ablate", (*ABLATE, "--seeds=1,1"), "expected each number of --seeds once"),
    ("ablate", (*ABLATE, "--seeds="), "expected --seeds"),
    ("ablate", (*ABLATE, "--metrics="), "expected --metrics as names"),
    ("ablate", (*ABLATE, "--jobs=0"), "expected a whole number from 1 to 256, got '0'"),
    ("ablate", (*ABLATE, "--jobs=nan"), "expected a whole number from 1 to 256"),
    ("ablate", (*ABLATE, "--override=train.epochs"), "expected --override KEY=VALUE"),
    ("ablate", (*ABLATE, "--override=train.epoch=3"), "did you mean 'train.epochs'"),
    ("ablate", (*ABLATE, "--compare=mfv"), "expected --compare ROW=BASELINE"),
    ("ablate", (*ABLATE, "--compare=mfv=mfv_base"), "unknown row to compare 'mfv'"),
    ("ablate", (*ABLATE, "--name=a/b"), "expected --name as the name of a file without a folder"),
    ("ablate", (*ABLATE, "--results=FILE"), "lies below the file"),
    ("ablate", (*ABLATE, "--workdir=BELOW"), "expected a place to write as --workdir"),
    ("benchmark", (), "expected what to measure, one of train"),
    ("benchmark", ("trian",), "unknown kind 'trian'; did you mean 'train'"),
    ("benchmark", ("train", "--model=bott"), "did you mean 'bot'"),
    ("benchmark", ("train", "--model="), "expected --model as names"),
    ("benchmark", ("train", "--batch=0"), "expected --batch as whole numbers from 1"),
    ("benchmark", ("train", "--batch=8,x"), "expected --batch"),
    ("benchmark", ("train", "--batch=1000000000000"), "expected --batch as whole numbers from 1 to 65536"),
    ("benchmark", ("train", "--steps=-1"), "expected a whole number from 1 to 100000, got '-1'"),
    ("benchmark", ("train", "--steps=99999999999"), "expected a whole number from 1 to 100000"),
    ("benchmark", ("infer", "--height=0"), "expected a whole number from 1 to 16384"),
    ("benchmark", ("infer", "--classes=0"), "expected a whole number from 1 to 1000000"),
    ("benchmark", ("infer", "--dtype=float17"), "did you mean 'float16'|unknown value of --dtype 'float17'"),
    ("benchmark", ("infer", "--option=width=3"), "name it with --model"),
    ("benchmark", ("infer", "--config=NOTHING.py"), "found nothing at"),
    ("benchmark", ("input", "--threads=-3"), "expected a whole number from 1 to 1024, got '-3'"),
    ("benchmark", ("input", "--model=bot"), "--model is for train, infer, not for input"),
    ("benchmark", ("rank", "--size=market1510"), "did you mean 'market1501'"),
    ("benchmark", ("train", "--size=tiny"), "--size is for rank, rerank, verify, page, not for train"),
    ("benchmark", ("rank", "--output=FOLDER"), "expected a file as --output"),
    ("benchmark", ("rank", "--output=BELOW"), "lies below the file"),
    ("check-resume", (MFV,), "arguments are required: --workdir"),
    ("check-resume", ("--workdir=NOTHING",), "expected --config FILE"),
    ("check-resume", (*RESUME, "--kills=-1"), "expected a whole number from 0 to 1000"),
    ("check-resume", (*RESUME, "--devices=0"), "expected a whole number from 1 to 64"),
    ("check-resume", (*RESUME, "--config.trian.epochs=1"), "unknown config key 'trian.epochs'"),
    ("check-resume", ("--workdir=FOLDER", MFV), "expected a new folder as --workdir"),
    ("check-resume", ("--workdir=BELOW", MFV), "lies below the file"),
    ("contact-sheet", ("--output=x.png",), "arguments are required: name"),
    ("contact-sheet", ("synthpd", "--output=NOTHING.png"), "did you mean 'synthped'"),
    ("contact-sheet", ("synthped", "--output=NOTHING.gif"), "expected --output to end in .png or .jpg"),
    ("contact-sheet", ("synthped", "--output="), "expected a path as --output, got ''"),
    ("contact-sheet", (*SHEET, "--identities=0"), "expected a whole number from 1 to 10000"),
    ("contact-sheet", (*SHEET, "--identities=1e9"), "expected a whole number from 1 to 10000"),
    ("contact-sheet", (*SHEET, "--skip=-1"), "expected a whole number from 0"),
    ("contact-sheet", (*SHEET, "--height=1000000"), "expected a whole number from 8 to 4096"),
    ("contact-sheet", (*SHEET, "--images-per-camera=nan"), "expected a whole number from 1 to 1000"),
    ("contact-sheet", (*SHEET, "--option=size"), "expected an option as key=value"),
    ("contact-sheet", ("synthped", "--output=BELOW.png"), "lies below the file"),
    ("convert-weights", ("--model=bot",), "arguments are required"),
    ("convert-weights", ("--model=bott", *CONVERT[1:]), "did you mean 'bot'"),
    (
        "convert-weights",
        ("--model=bot", "--weights=NOTHING", "--output=NOTHING"),
        "expected a weights file as --weights",
    ),
    ("convert-weights", ("--model=bot", "--weights=FOLDER", "--output=NOTHING"), "found a folder at"),
    ("convert-weights", (*CONVERT[:2], "--output=BELOW"), "lies below the file"),
    ("convert-weights", (*CONVERT, "--option=widht=3"), "did you mean 'width'"),
    ("convert-weights", (*CONVERT, "--option=width=-3"), "--option.width must be a whole number of at least 1"),
    ("convert-weights", (*CONVERT, "--option==3"), "expected an option as key=value"),
    ("convert-weights", (*CONVERT, "--allow-missing=("), "--allow-missing must be a tuple of regular expressions"),
    ("convert-weights", (*CONVERT, "--height=-1"), "expected a whole number from 1 to 16384"),
    ("evaluate", (), "one of the arguments --features --run --weights is required"),
    ("evaluate", ("--features", "FILE.npz", "--run", "FOLDER"), "not allowed with argument"),
    ("evaluate", ("--features", "NOTHING"), "expected a features file (.npz) as --features, found nothing"),
    ("evaluate", ("--features", "FOLDER"), "expected a features file (.npz) as --features, found a folder"),
    ("evaluate", ("--features", ""), "expected a path as --features, got ''"),
    ("evaluate", ("--run", "NOTHING"), "expected a run folder as --run, found nothing"),
    ("evaluate", ("--run", "FILE"), "expected a run folder as --run, found a file"),
    ("evaluate", (*EVALUATE, "--k1=0"), "expected a whole number from 1 to 10000"),
    ("evaluate", (*EVALUATE, "--k2=-5"), "expected a whole number from 1 to 10000"),
    ("evaluate", (*EVALUATE, "--lambda=nan"), "expected a number from 0 to 1, got 'nan'"),
    ("evaluate", (*EVALUATE, "--lambda=2"), "expected a number from 0 to 1"),
    ("evaluate", (*EVALUATE, "--expand=-1"), "expected a whole number from 0 to 10000"),
    ("evaluate", (*EVALUATE, "--alpha=1"), "add --expand N"),
    ("evaluate", (*EVALUATE, "--expand=2", "--alpha=inf"), "expected a number from 0 to 100"),
    ("evaluate", (*EVALUATE, "--single-shot=10000000000"), "expected a whole number from 0 to 100000"),
    ("evaluate", (*EVALUATE, "--rounds=-1"), "expected a whole number from 0 to 10000"),
    ("evaluate", (*EVALUATE, "--seed=-1"), "expected a whole number from 0 to 4294967295"),
    ("evaluate", (*EVALUATE, "--seed=99999999999999999999"), "expected a whole number from 0 to 4294967295"),
    ("evaluate", (*EVALUATE, "--severities", "7"), "expected a whole number from 1 to 5"),
    ("evaluate", (*EVALUATE, "--severities", "3"), "add --corruptions"),
    ("evaluate", (*EVALUATE, "--corruptions"), "--corruptions needs --run"),
    ("evaluate", (*EVALUATE, "--metric=cosin"), "did you mean 'cosine'"),
    ("evaluate", (*EVALUATE, "--metric="), "unknown"),
    ("evaluate", (*EVALUATE, "--ap=trapez"), "did you mean 'trapezoid'"),
    ("evaluate", (*EVALUATE, "--best"), "--best needs --run"),
    ("evaluate", (*EVALUATE, "--dataset=market1501"), "--dataset needs --run"),
    ("evaluate", (*EVALUATE, "--images=FOLDER"), "add --html FILE"),
    ("evaluate", (*EVALUATE, "--queries=5"), "add --html FILE"),
    ("evaluate", (*EVALUATE, "--queries=0"), "expected a whole number from 1 to 100000"),
    ("training-report", ("NOTHING",), "expected a run folder as DIR, found nothing"),
    ("training-report", ("FILE",), "expected a run folder as DIR, found a file"),
    ("training-report", ("FOLDER",), "expected a run folder (with config.json)"),
    ("training-report", (), "the following arguments are required: DIR"),
    ("evaluate", (*EVALUATE, "--html=NOTHING.html", "--images=NOTHING"), "expected the folder of the images"),
    ("evaluate", (*EVALUATE, "--html=FOLDER", "--images=FOLDER"), "cannot write the page"),
    ("evaluate", (*EVALUATE, "--output=FOLDER"), "cannot write the scores"),
    ("evaluate", (*EVALUATE, "--output=BELOW"), "cannot write the scores"),
    ("evaluate", (*EVALUATE, "--output="), "expected a path as --output"),
    ("evaluate", (*EVALUATE, "--output=NEW", "--html=NEW", "--images=FOLDER"), "name the same file"),
    ("evaluate", ("--run", "FOLDER", "--corruptions", "--rerank"), "cannot be combined"),
    ("evaluate", ("--run", "FOLDER", "--corruptions", "--types", "snw"), "did you mean 'snow'"),
    ("evaluate", ("--run", "FOLDER", "--corruptions", "--frost-dir", "NOTHING"), "expected a folder of frost textures"),
    ("evaluate", (*EVALUATE, "--unknown"), "unrecognized arguments: --unknown"),
    ("extract", (), "expected either --run DIR or --model NAME"),
    ("extract", ("--run=FOLDER", "--model=bot"), "expected either --run DIR or --model NAME"),
    ("extract", ("--run=NOTHING", "--output=NOTHING.npz"), "expected a run folder (with config.json)"),
    ("extract", ("--run=FOLDER", "--weights=FILE", "--output=x.npz"), "--weights needs --model"),
    ("extract", (*EXTRACT, "--best"), "--best needs --run"),
    ("extract", (*EXTRACT, "--weights=FILE"), "one of the two"),
    ("extract", ("--model=bot", "--weights=NOTHING", *EXTRACT[2:]), "expected a weights file as --weights"),
    ("extract", ("--model=bott", *EXTRACT[1:]), "did you mean 'bot'"),
    ("extract", (*EXTRACT, "--images=NOTHING"), "expected an image or a folder of images, there is no"),
    ("extract", (*EXTRACT, "--output=NOTHING.txt"), "expected --output to end in .npz"),
    ("extract", (*EXTRACT, "--output=FOLDER"), "expected --output to end in .npz"),
    ("extract", (*EXTRACT, "--output=BELOW.npz"), "lies below the file"),
    ("extract", (*EXTRACT, "--output=gs://bucket/x.npz"), "expected a path on this machine as --output"),
    ("extract", ("--run=ftp://server/run", "--output=x.npz"), "expected a folder, gs://BUCKET/FOLDER or s3://BUCKET"),
    ("prepare-dataset", ("synthped", "--root=s3://bucket/data"), "expected a path on this machine as --root"),
    ("extract", (*EXTRACT, "--batch-size=0"), "expected a whole number from 1 to 65536"),
    ("extract", (*EXTRACT, "--batch-size=1000000000000"), "expected a whole number from 1 to 65536"),
    ("extract", (*EXTRACT, "--height=-1"), "expected a whole number from 1 to 16384"),
    ("extract", (*EXTRACT, "--interpolation=bilinar"), "did you mean 'bilinear'"),
    ("extract", (*EXTRACT, "--dtype=float"), "did you mean 'float32'"),
    ("extract", (*EXTRACT, "--on-bad-image=skp"), "did you mean 'skip'"),
    ("extract", (*EXTRACT, "--option=(=3"), "expected an option as key=value"),
    ("extract", (*EXTRACT, "--metric=cosin"), "did you mean 'cosine'"),
    ("prepare-dataset", (), "expected the name of a data set"),
    ("prepare-dataset", ("market1510",), "did you mean 'market1501'"),
    ("prepare-dataset", ("synthped", "--root=BELOW"), "lies below the file"),
    ("prepare-dataset", ("synthped", "--root=NOTHING", "--on-bad-image=x"), "unknown value of --on-bad-image 'x'"),
    ("prepare-dataset", ("synthped", "--root=NOTHING", "--option=size"), "expected an option as key=value"),
    ("prepare-dataset", ("synthped", "--root=NOTHING", "--option=sizes=tiny"), "did you mean 'size'"),
    ("prepare-dataset", ("synthped", "--root=NOTHING", "--option=force=1"), "did you mean --force"),
    (
        "prepare-dataset",
        ("market1501", "--root=NOTHING", "--source=NOTHING"),
        "expected the files of data set 'market1501'",
    ),
]


@pytest.mark.parametrize(
    ("command", "given", "sentence"), CASES, ids=[f"{command} {' '.join(given)}"[:90] for command, given, _ in CASES]
)
def test_one_sentence_and_nothing_written(command, given, sentence, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "file").write_bytes(b"text")
    np.savez(tmp_path / "file.npz", features=np.zeros((1, 2)))
    before = sorted(tmp_path.rglob("*"))
    places = {"FILE": "file", "FOLDER": "folder", "NOTHING": "nothing", "BELOW": "file/x/y", "NEW": "new"}
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", [command])
    for word, place in places.items():
        given = tuple(each.replace(word, str(tmp_path / place)) for each in given)
    module = importlib.import_module(f"reid_jax.cli.{app.COMMANDS[command][0]}")
    with pytest.raises(errors.UserError) as raised:
        module.main(list(given))
    message = str(raised.value)
    assert any(part in message for part in sentence.split("|")), message
    assert "\n" not in message
    assert len(message) < 1500
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "expected --config FILE"),
        (("--config=",), "expected --config FILE"),
        ((MFV, "--confg.seed=1"), "unknown flag --confg.seed; did you mean --config.seed?"),
        ((MFV, "--config.sed=1"), "did you mean 'seed'"),
        ((MFV, "--config.seeds=1"), "did you mean 'seed'"),
        ((MFV, "--config.optimizer.lerning_rate=1"), "did you mean 'optimizer.learning_rate'"),
        ((MFV, "--config.optimiser.learning_rate=1"), "did you mean 'optimizer.learning_rate'"),
        (("--config=absent.py",), "found nothing at absent.py"),
        ((f"{MFV}:demo,mfv_sdf",), "did you mean 'mfv_sdfa'"),
    ],
)
def test_flags_of_training(given, sentence):
    with pytest.raises(errors.UserError) as raised:
        command_line.check_config_flags(["main.py", *given])
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_that_all_phases_replace_is_refused():
    config = files.load_config(f"{ROOT / 'configs' / 'osnet.py'}:market1501")
    with pytest.raises(errors.UserError, match=r"train\.epochs has no effect, .* set .* or phases\.all\.train\.epochs"):
        command_line.check_keys(config, ["train.epochs"])
    with pytest.raises(errors.UserError, match=r"set phases\.classifier\.schedule\.factor or"):
        command_line.check_keys(config, ["schedule.factor"])
    command_line.check_keys(config, ["train.accumulate", "data.height", "phases.all.train.epochs"])
    some = files.load_config(f"{ROOT / 'configs' / 'cfat.py'}:market1501")
    command_line.check_keys(some, ["train.epochs"])  # in force in the phases without a length of their own


def test_flags_that_fit_pass():
    command_line.check_config_flags(
        ["main.py", MFV, "--config.optimizer.clip_norm=5.0", "--workdir=a.b", "--mode=train"]
    )
    command_line.check_keys(files.load_config(str(ROOT / "configs" / "mfv.py")), ["model.anything", "seed"])
