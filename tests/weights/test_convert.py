"""Published names to our paths and back; every key has a fate; wrong weights are refused with a count."""

import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from reid_jax import errors, models, trees
from reid_jax.cli import convert_weights
from reid_jax.models.backbones import resnet
from reid_jax.weights import convert


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("layer1.0.conv1.weight", ("layer1_0/conv1", "weight")),
        ("layer2.0.downsample.1.running_mean", ("layer2_0/downsample_1", "running_mean")),
        ("conv2.2.0.conv.weight", ("conv2_2_0/conv", "weight")),
        ("conv2.0.conv2.1.layers.0.conv1.weight", ("conv2_0/conv2_1/layers_0/conv1", "weight")),
        ("cls_token", ("", "cls_token")),
    ],
)
def test_general_naming_rule(name, path):
    assert convert.module_path(name) == path


def test_a_number_stays_a_number():
    """Gates of AMFOR are single numbers; as vectors of one they would not fit the model that they come from."""
    variables = {"params": {"gate": np.zeros((), np.float32)}, "batch_stats": {}}
    loaded, _ = convert.load_into(variables, {"params/gate": np.asarray(-2.0, np.float32)})
    assert loaded["params"]["gate"].shape == ()
    assert float(loaded["params"]["gate"]) == -2.0


def _variables():
    """A small model's variables that hold one leaf of every kind."""
    random = np.random.default_rng(0)
    array = lambda *shape: random.normal(size=shape).astype(np.float32)
    return {
        "params": {
            "backbone": {
                "layer1_0": {"conv1": {"kernel": array(3, 5, 2, 4)}, "bn1": {"scale": array(4), "bias": array(4)}},
                "token": array(1, 1, 6),
            },
            "classifier": {"kernel": array(4, 7), "bias": array(7)},
            "words": {"embedding": array(3, 2)},
        },
        "batch_stats": {"backbone": {"layer1_0": {"bn1": {"mean": array(4), "var": np.abs(array(4))}}}},
    }


TO_TORCH = ((r"^backbone\.", "base."),)
FROM_TORCH = ((r"^base\.", "backbone."),)


def _blank(variables):
    return jax.tree.map(np.zeros_like, variables)


def test_round_trip_over_pytorch_names_is_exact():
    variables = _variables()
    flat = convert.to_torch(variables, TO_TORCH)
    assert flat["base.layer1.0.conv1.weight"].shape == (4, 2, 3, 5)
    assert flat["classifier.weight"].shape == (7, 4)
    assert flat["words.weight"].shape == (3, 2)
    assert set(flat) >= {"base.layer1.0.bn1.running_var", "base.layer1.0.bn1.weight", "base.token"}
    loaded, report = convert.load_into(_blank(variables), flat, FROM_TORCH)
    assert {entry.fate for entry in report.entries} == {"loaded"}
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_own_format_round_trip_also_into_a_submodule(tmp_path):
    variables = _variables()
    path = tmp_path / "weights.npz"
    convert.save(path, variables, {"model": "x"})
    assert [one.name for one in tmp_path.iterdir()] == ["weights.npz"]
    loaded, _ = convert.load_file(path, _blank(variables))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    convert.save(path, backbone)
    loaded, report = convert.load_file(path, _blank(variables), into="backbone")
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["backbone"], variables["params"]["backbone"])
    assert not loaded["params"]["classifier"]["kernel"].any()
    assert len(report.entries) == 6


def test_every_key_has_a_fate_and_old_variables_are_untouched():
    variables = _blank(_variables())
    flat = convert.to_torch(_variables(), TO_TORCH)
    flat["base.layer1.0.bn1.num_batches_tracked"] = np.array(5)
    flat["other.weight"] = np.zeros(3, np.float32)
    flat["classifier.weight"] = np.zeros((9, 4), np.float32)
    flat["base.layer1.0.bn1.weight"] = flat["base.layer1.0.bn1.weight"].reshape(1, 4)
    del flat["words.weight"]
    loaded, report = convert.load_into(variables, flat, FROM_TORCH, strict=False)
    fates = {entry.source or entry.target: entry.fate for entry in report.entries}
    assert fates["base.layer1.0.bn1.num_batches_tracked"] == "ignored"
    assert fates["other.weight"] == "extra"
    assert fates["classifier.weight"] == "misfit"
    assert fates["base.layer1.0.bn1.weight"] == "reshaped"
    assert fates["params/words/embedding"] == "missing"
    assert len(fates) == len(flat) + 1
    assert all(name in report.table() for name in fates)
    assert report.summary() == "6 loaded, 1 reshaped, 1 misfit, 1 ignored, 1 extra, 1 missing"
    assert str(report).count("\n") == 4
    assert "extra other.weight (3,), no such leaf" in str(report)
    assert loaded["params"]["backbone"]["token"].any()
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables))


def test_strict_loading_refuses_what_is_not_allowed():
    variables = _variables()
    flat = convert.to_torch(variables)
    flat["classifier.weight"] = np.zeros((9, 4), np.float32)
    flat["classifier.bias"] = np.zeros(9, np.float32)
    with pytest.raises(convert.ConversionError, match=r"7 of its 9 arrays were matched, 2 misfit"):
        convert.load_into(_blank(variables), flat)
    loaded, _ = convert.load_into(_blank(variables), flat, allow_missing=("^classifier/",))
    assert not loaded["params"]["classifier"]["kernel"].any()
    del flat["classifier.weight"]
    convert.load_into(_blank(variables), flat, allow_missing=("^classifier/",))
    flat["unknown.weight"] = np.zeros(2, np.float32)
    with pytest.raises(convert.ConversionError, match=r"1 extra \(first: extra unknown.weight"):
        convert.load_into(_blank(variables), flat, allow_missing=("^classifier/",))


def test_two_sources_of_one_leaf_are_refused():
    variables = {"params": {"a": {"kernel": np.zeros((2, 3), np.float32)}}}
    flat = {"a.weight": np.ones((3, 2), np.float32), "b.weight": np.ones((3, 2), np.float32)}
    with pytest.raises(convert.ConversionError, match="second source"):
        convert.load_into(variables, flat, ((r"^b\.", "a."),))


def test_weights_of_another_model_are_one_sentence():
    shapes = jax.eval_shape(
        lambda key: resnet.ResNet(depths=(1, 1, 1, 1), width=8).init(key, jnp.zeros((1, 32, 32, 3)), train=False),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    other = {"blocks.0.attn.qkv.weight": np.zeros((6, 2), np.float32), "cls_token": np.zeros((1, 1, 2), np.float32)}
    with pytest.raises(errors.UserError, match=r"^the weights are not those of this model: 0 of its \d+ arrays"):
        convert.load_into(shapes, other)
    with pytest.raises(errors.UserError, match="no submodule 'trunk'"):
        convert.load_into(shapes, other, into="trunk")


def _script(root):
    return convert_weights


def test_script_fills_the_backbone_from_a_torchvision_file(tmp_path, root, capsys):
    golden = np.load(root / "tests" / "golden" / "resnet.npz")
    weights = {name.removeprefix("weights/"): golden[name] for name in golden.files if name.startswith("weights/")}
    np.savez(tmp_path / "resnet.npz", **weights)
    script = _script(root)
    arguments = ["--model", "bot", "--weights", str(tmp_path / "resnet.npz"), "--output", str(tmp_path / "out")]
    options = ["depths=(2, 1, 2, 1)", "width=8"]  # the number of identities follows from the file
    for option in options:
        arguments += ["--option", option]
    script.main(arguments)
    printed = capsys.readouterr().out
    counters = sum("num_batches" in name for name in weights)
    assert f"resnet.npz in bot:\n  {len(weights) - counters - 2:>6,} loaded\n" in printed
    assert f"{counters:>6,} left out: counter that nothing reads\n" in printed
    assert not any(name in printed for name in weights)
    report = (tmp_path / "out" / "report.txt").read_text()
    assert all(name in report for name in weights)
    script.main([*arguments, "--verbose"])
    assert report in capsys.readouterr().out
    mask = os.umask(0)
    os.umask(mask)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask for path in (tmp_path / "out").iterdir())
    with np.load(tmp_path / "out" / "weights.npz") as archive:
        kernel = archive["params/backbone/layer1_0/conv2/kernel"]
        np.testing.assert_array_equal(kernel, weights["layer1.0.conv2.weight"].transpose(2, 3, 1, 0))
        assert not any("head_b" in name for name in archive.files)
        converted = {name: archive[name] for name in archive.files if name != "meta"}
    # What was written starts a model with other identities, its head left alone.
    model = models.build("bot", num_classes=7, depths=(2, 1, 2, 1), width=8)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), {"image": jnp.zeros((1, 64, 32, 3))}, train=False))
    loaded, _ = models.load_weights("bot", variables, tmp_path / "out" / "weights.npz")
    flat = trees.flatten(loaded)
    assert all(np.array_equal(flat[name], value) for name, value in converted.items())
    assert isinstance(flat["params/head_b/classifier/kernel"], jax.ShapeDtypeStruct)
    with pytest.raises(errors.UserError, match="are not those of this model"):
        script.main([*arguments[:-2], "--option", "width=4", "--output", str(tmp_path / "never")])
    assert not capsys.readouterr().out  # the error stands alone
    assert not (tmp_path / "never").exists()
    with pytest.raises(errors.UserError, match="did you mean 'width'"):
        script.main([*arguments, "--option", "widht=4"])
    with pytest.raises(errors.UserError, match="key=value"):
        script.main([*arguments, "--option", "width"])


def test_published_names_of_a_model_are_found_by_its_name(tmp_path):
    model = models.build("bot", num_classes=5, depths=(1, 1, 1, 1), width=4)
    batch = {"image": jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key, batch: model.init(key, batch, train=False), key, batch)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    published = convert.to_torch(ones, ((r"^backbone\.", "base."), (r"^head\.b\.|^head_b\.", "")))
    published["bottleneck.bias"] = np.zeros(128, np.float32)
    np.savez(tmp_path / "bot.npz", **published)
    loaded, report = models.load_weights("bot", shapes, tmp_path / "bot.npz")
    assert {entry.fate for entry in report.entries} == {"loaded", "ignored"}
    assert all(leaf.all() for leaf in jax.tree.leaves(loaded))
    with pytest.raises(errors.UserError, match="unknown model"):
        models.load_weights("bott", shapes, tmp_path / "bot.npz")


def _with_nan(array):
    return np.where(array == array.max(), np.nan, array)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "base.layer1.0.conv1.weight",
            lambda array: np.where(array == array.max(), np.nan, array),
            r"NaN .*\(1 of 120",
        ),
        ("classifier.bias", lambda array: array + np.inf, r"infinity \(7 of 7"),
        ("classifier.bias", lambda array: array.astype(np.float64) * 1e300, "infinity"),
        ("base.layer1.0.bn1.running_var", lambda array: -1 - array, "must not be negative"),
        ("base.token", lambda array: array.astype(np.complex64), "complex numbers"),
        ("base.token", lambda array: array.astype("datetime64[s]"), "dates"),
        ("base.token", lambda array: array.astype("U8"), "text"),
        ("base.token", lambda array: array.astype("S8"), "text"),
        ("base.token", lambda array: array.astype(object), "Python objects"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused_by_name(name, change, told):
    variables = _variables()
    flat = convert.to_torch(variables, TO_TORCH)
    flat[name] = change(flat[name])
    with pytest.raises(errors.UserError, match=f"{name}'.*{told}|negative.*{name}"):
        convert.load_into(_blank(variables), flat, FROM_TORCH)


def test_the_report_says_where_the_weights_were_found(tmp_path):
    variables = _variables()
    flat = {f"module.{name}": array for name, array in convert.to_torch(variables, TO_TORCH).items()}
    safetensors.numpy.save_file(flat, tmp_path / "w")
    loaded, report = convert.load_file(tmp_path / "w", _blank(variables), FROM_TORCH)
    assert report.notes == (f"prefix 'module.' dropped from {len(flat)} of {len(flat)} names",)
    assert report.notes[0] in str(report)
    assert report.notes[0] in report.table()
    np.testing.assert_array_equal(loaded["params"]["classifier"]["bias"], variables["params"]["classifier"]["bias"])
