"""A run's variables as a weights file, and runs that start from the run or from the file."""

import dataclasses
import json
import os
import stat

import jax
import numpy as np
import pytest
import safetensors

from reid_jax import build, errors, trees
from reid_jax import config as config_lib
from reid_jax.cli import weights as command
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import initial_weights, starting_point, weights_export
from reid_jax.runs import settings as settings_lib
from reid_jax.train import checkpoints
from tests.helpers import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with two checkpoints of drawn variables, the later one with a moving average; no step is trained."""
    root = tmp_path_factory.mktemp("export")
    config = tiny.config(root, base=tiny.BOT)
    settings = settings_lib.of(config)
    model = build.build_model(settings, 5)
    batch = {"image": jax.ShapeDtypeStruct((1, settings.data.height, settings.data.width, 3), np.uint8)}
    shapes = build.variable_shapes(model, settings, batch)
    rng = np.random.default_rng(0)
    drawn = [jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes) for _ in range(3)]
    folder = folder_lib.RunFolder(root / "run")
    folder.claim(config)
    about = {"num_classes": 5, "num_cameras": 2}
    with checkpoints.Checkpoints(folder.checkpoints, best_metric="x/mAP") as saved:
        saved.save(1, {**drawn[0], "extra": {}}, about, {"x/mAP": 0.9})
        saved.save(2, {**drawn[1], "extra": {"average": drawn[2]}}, about, {"x/mAP": 0.1}, wait=True)
    return folder.path, settings, model, shapes, drawn


def equal(first, second) -> bool:
    first, second = trees.flatten(first), trees.flatten(second)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_run_starts_from_another_run_and_from_its_file(made, tmp_path, ending, capsys):
    run, settings, model, shapes, drawn = made
    file = tmp_path / "new" / f"weights.{ending}"
    assert command.main(["export", str(run), str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"of step 2 of {run}; start from them with --config.init.weights={file}" in printed
    for start in (str(run), str(file)):
        named = dataclasses.replace(settings, init=dataclasses.replace(settings.init, weights=start))
        assert equal(starting_point.fill(shapes, named, model), drawn[2])  # the average, which scores belong to
    starting_point.check(named)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
    weights_export.write(run, file, best=True)
    assert equal(starting_point.fill(shapes, named, model), drawn[0])


def test_a_file_says_where_it_comes_from(made, tmp_path):
    run, settings, *_ = made
    weights_export.write(run, tmp_path / "w.npz")
    weights_export.write(run, tmp_path / "w.safetensors")
    with np.load(tmp_path / "w.npz") as archive:
        meta = json.loads(str(archive["meta"]))
    with safetensors.safe_open(tmp_path / "w.safetensors", "np") as opened:
        assert json.loads(opened.metadata()["meta"]) == meta
    assert (meta["run"], meta["step"], meta["num_classes"]) == ("run", 2, 5)
    assert meta["model"]["name"] == "bot"
    named = dataclasses.replace(settings, init=dataclasses.replace(settings.init, weights=str(run)))
    described = initial_weights.description(named)
    assert described == f"the run {run} (step 2, config {meta['config_hash']})"
    read = folder_lib.RunFolder(run).read_config()
    assert meta["config_hash"] == config_lib.config_hash(read)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export",), "expected a run folder and a file after export, got nothing"),
        (("export", "RUN"), "got 1 name; for example"),
        (("export", "RUN", "a.npz", "b.npz"), "got 3 names"),
        (("export", "NOTHING", "a.npz"), "expected a run folder as the run, found nothing"),
        (("export", "EMPTY", "a.npz"), r"expected a run folder \(with config.json\), found none"),
        (("export", "RUN", "a.pth"), r"expected the output to end in \.npz or \.safetensors"),
        (("export", "RUN", "EMPTY"), "to end in"),
        (("list", "--best"), "--best is for export"),
        (("export", "RUN", "a.npz", "--offline"), "--offline is for get"),
    ],
)
def test_mistakes(made, tmp_path, arguments, sentence):
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(made[0]), "NOTHING": str(tmp_path / "no"), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(errors.UserError, match=sentence):
        command.main([places.get(each, each) for each in arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
