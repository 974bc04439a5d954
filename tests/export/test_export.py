"""Exported functions of small models: results, meta data, refusals."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import types
import zipfile

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from reid_jax import errors, trees
from reid_jax.cli import export as command
from reid_jax.cli import model_choice
from reid_jax.export import embedding, onnx_file, stablehlo
from reid_jax.inference import input_layouts, trackers
from reid_jax.runs import folder
from tests.helpers import stripes


@pytest.fixture(scope="module")
def plain():
    return stripes.small()


@pytest.fixture(scope="module")
def slots():
    return stripes.small(slots=True)


def pixels(batch):
    return np.random.default_rng(batch).integers(0, 256, (batch, 64, 32, 3), np.uint8)


def test_stablehlo_is_read_without_this_package(plain, tmp_path):
    extractor, variables = plain
    meta = stablehlo.write(extractor, variables, tmp_path / "model.zip")
    archive = zipfile.ZipFile(tmp_path / "model.zip")
    embed = jax.export.deserialize(bytearray(archive.read("function.stablehlo"))).call
    for batch in (2, 7):
        expected = extractor.images(variables, pixels(batch)).features
        np.testing.assert_allclose(np.asarray(embed(pixels(batch))[0]), expected, atol=1e-5)
    stored = json.loads(archive.read("meta.json"))
    assert stored == json.loads(json.dumps(meta))
    assert stored["platforms"] == ["cpu", "cuda", "tpu"]
    assert stored["flip"] is True
    assert stored["input"]["size"] == [64, 32]
    assert stored["parity"]["difference"] <= embedding.TOLERANCE


def test_onnx_of_any_batch(plain, tmp_path):
    extractor, variables = plain
    meta = onnx_file.write(extractor, variables, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (2, 7):
        expected = extractor.images(variables, pixels(batch)).features
        np.testing.assert_allclose(session.run(None, {"images": pixels(batch)})[0], expected, atol=1e-5)
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["metric"]) == meta["metric"] == "cosine"
    assert json.loads(stored["preprocessing"])["mean"] == [0.485, 0.456, 0.406]


def test_the_file_for_trackers(slots, tmp_path):
    """Normalized planes in, one unit vector out, with the names and versions that BoxMOT expects."""
    extractor, variables = slots
    path = tmp_path / "model.onnx"
    onnx_file.write(extractor, variables, path, layout="float_nchw")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    (given,), (result,) = model.graph.input, model.graph.output
    assert given.name == "images"
    assert [each.dim_param or each.dim_value for each in given.type.tensor_type.shape.dim] == ["batch", 3, 64, 32]
    assert result.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.ir_version <= 10
    assert {each.version for each in model.opset_import} == {17}
    assert json.loads((tmp_path / "model.onnx.metadata.json").read_text())["model_kwargs"] == {"img_size": [64, 32]}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    planes = (pixels(3).transpose(0, 3, 1, 2) / 255 - np.reshape(input_layouts.IMAGENET_MEAN, (3, 1, 1))) / np.reshape(
        input_layouts.IMAGENET_STD, (3, 1, 1)
    )
    found = session.run(None, {"images": planes.astype(np.float32)})[0]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    described = extractor.images(variables, pixels(3))
    unit = described.features / np.linalg.norm(described.features, axis=-1, keepdims=True)
    cosines = np.einsum("isd,jsd->ijs", unit, unit)
    weights = np.sqrt(described.visibility[:, None] * described.visibility[None])
    totals = np.sqrt(np.outer(described.visibility.sum(1), described.visibility.sum(1)))
    np.testing.assert_allclose(found @ found.T, (weights * cosines).sum(-1) / totals, atol=1e-5)


@pytest.mark.parametrize("layout", ["uint8", "float_nchw", "float_nchw_255"])
def test_trackers_get_the_same_vectors_from_a_file(slots, tmp_path, layout):
    """Native crops of a frame, resized as in training, through each form of the input."""
    extractor, variables = slots
    threshold = embedding.Threshold(0.3, cosine=0.05 if layout == "uint8" else None)
    meta = onnx_file.write(extractor, variables, tmp_path / "model.onnx", layout=layout, threshold=threshold)
    assert meta["input"]["range"] == (None if layout == "float_nchw" else [0, 255])
    frame = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    boxes = np.asarray([[3, 5, 60, 140], [100.5, 2, 140, 90], [-20, 100, 30, 400]], np.float32)
    ours = trackers.of_extractor(extractor, variables)
    theirs = trackers.of_onnx(tmp_path / "model.onnx", threads=1)
    assert ours.embedding_dim == theirs.embedding_dim == 12
    assert theirs.threshold == (0.05 if layout == "uint8" else 0.3)
    expected = ours.get_features(boxes, frame)
    np.testing.assert_allclose(theirs.get_features(boxes, frame), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-5)
    assert theirs.get_features(boxes[:0], frame).shape == (0, 12)


def test_trackers_refuse_files_of_others(tmp_path):
    with pytest.raises(errors.UserError, match="there is none at"):
        trackers.of_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(errors.UserError, match="cannot read the ONNX file"):
        trackers.of_onnx(tmp_path / "text.onnx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["features"])],
        "trial",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(errors.UserError, match="does not say what its input is"):
        trackers.of_onnx(tmp_path / "other.onnx")


def test_the_description_is_complete(plain, tmp_path):
    extractor, variables = plain
    threshold = embedding.Threshold(0.25, 1e-3, "synthped")
    meta = onnx_file.write(extractor, variables, tmp_path / "model.onnx", threshold=threshold)
    stored = {key: json.loads(text) for key, text in read_meta(tmp_path / "model.onnx").items()}
    beside = json.loads((tmp_path / "model.onnx.metadata.json").read_text())
    assert stored == json.loads(json.dumps(meta))
    assert stored.items() <= beside.items()
    assert stored["threshold"] == {
        "distance": 0.25,
        "false_match_rate": 1e-3,
        "measured_on": "synthped",
        "cosine": None,
    }
    assert stored["weights"]["arrays_sha256"] == trees.sha256(jax.tree.map(np.asarray, variables))
    assert stored["input"]["antialiased"] is True
    assert stored["parity"]["difference"] <= embedding.TOLERANCE
    assert {"metric", "reid_jax", "written", "system", "model", "preprocessing", "flip", "dtype"} <= stored.keys()


def read_meta(path):
    """Returns the meta data inside an ONNX file."""
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_slots_keep_their_visibility(slots, tmp_path):
    extractor, variables = slots
    meta = onnx_file.write(extractor, variables, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert meta["outputs"] == ["features", "visibility"]
    features, visibility = session.run(None, {"images": pixels(2)})
    described = extractor.images(variables, pixels(2))
    np.testing.assert_allclose(features, described.features, atol=1e-5)
    np.testing.assert_allclose(visibility, described.visibility, atol=1e-5)


@pytest.mark.parametrize("write", [stablehlo.write, onnx_file.write])
def test_a_file_unlike_the_model_is_not_written(plain, tmp_path, monkeypatch, write):
    monkeypatch.setattr(embedding, "TOLERANCE", -1.0)
    with pytest.raises(errors.UserError, match=r"differs from the model.* no file was written"):
        write(*plain, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_euclidean_threshold_of_unit_vectors_becomes_a_cosine(plain, monkeypatch):
    """Of vectors of unit length: the squared distance is 2 - 2 cos."""
    extractor, variables = plain
    evals = dataclasses.replace(extractor.settings.evals, metric="euclidean")
    monkeypatch.setattr(extractor, "settings", dataclasses.replace(extractor.settings, evals=evals))
    for features, expected in ((np.asarray([[0.6, 0.8]]), 0.08), (np.asarray([[6.0, 8.0]]), None)):
        found = types.SimpleNamespace(features=features)
        monkeypatch.setattr(extractor, "images", lambda variables, pixels, found=found: found)
        assert command._as_cosine(0.4, extractor, variables) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("metric", "layout", "changes", "expected"),
    [
        ("cosine", "float_nchw", {}, embedding.Threshold(0.3, 1e-3, "synthped", 0.3)),
        ("euclidean", "uint8", {"false_match_rate": "1e-2"}, embedding.Threshold(0.4, 1e-2, "synthped")),
        ("euclidean", "float_nchw", {}, None),  # the file's vectors have another distance than the evaluation's
        ("cosine", "uint8", {"flip": True}, None),
        ("cosine", "uint8", {"best": True}, None),
        ("cosine", "uint8", {"false_match_rate": "1e-4"}, None),
        ("euclidean", "float_nchw", {"threshold": 0.7}, embedding.Threshold(0.7)),
    ],
)
def test_the_threshold_is_that_of_the_same_features(plain, monkeypatch, metric, layout, changes, expected):
    result = {f"synthped/verification/threshold_at_fpr_{rate}": value for rate, value in (("1e-3", 0.3), ("1e-2", 0.4))}
    monkeypatch.setattr(folder.RunFolder, "read_result", lambda self: {"dataset": "synthped", **result})
    extractor, variables = plain
    evals = dataclasses.replace(extractor.settings.evals, metric=metric)
    monkeypatch.setattr(extractor, "settings", dataclasses.replace(extractor.settings, evals=evals))
    given = {"run": "run", "best": False, "flip": None, "threshold": None, "false_match_rate": None, "input": layout}
    assert command._threshold(argparse.Namespace(**(given | changes)), extractor, variables) == expected


def test_other_devices_alone_cannot_be_compared(plain, tmp_path):
    assert stablehlo.write(*plain, tmp_path / "model.zip", targets=("tpu",))["parity"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model bot --random-weights", "expected --output FILE, such as model.zip"),
        ("--model bot --random-weights --output a.onnx", "ending in .zip|.zip"),
        ("--model bot --random-weights --format tf --output a.zip", "unknown value of --format 'tf'"),
        ("--model bot --random-weights --input rgb --output a.zip", "unknown value of --input 'rgb'"),
        ("--model bot --random-weights --platforms gpu --output a.zip", "--platforms"),
        ("--model bot --random-weights --format onnx --platforms cpu --output a.onnx", "leave it out"),
        ("--model bot --random-weights --format onnx --dtype bfloat16 --output a.onnx", "float32"),
        ("--model bot --random-weights --false-match-rate 1e-3 --output a.zip", "thresholds of --run"),
        ("--run a --false-match-rate 0.5 --output a.zip", "unknown value of --false-match-rate '0.5'"),
        ("--model bot --output a.zip", "needs --weights FILE or NAME"),
        ("--output a.zip", "expected either --run DIR or --model NAME"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError, match=message):
        command.main(arguments.split())
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(errors.UserError, match=r"package onnxruntime for --format onnx; .*reid_jax\[onnx\]"):
        command.main(["--model", "bot", "--random-weights", "--format", "onnx", "--output", "a.onnx"])


def test_the_command(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_choice, "load", lambda args: plain)
    assert command.main(["--model", "bot", "--random-weights", "--platforms", "cpu", "--output", "out/model.zip"]) == 0
    printed = capsys.readouterr().out
    assert "RGB uint8 [B, H, W, 3] -> 6 values, to be compared by cosine" in printed
    assert "largest difference from the model" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.zip"]
