"""The encoder of masked pretraining in the systems that start from it, and what changes on the way.

The numbers in names of tests are those of the properties that the method's description lists.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import build, config, errors, models, trees
from reid_jax.config import files
from reid_jax.models import transreid
from reid_jax.runs import encoder_files, starting_point
from reid_jax.weights import convert, input_normalization, torch_files
from tests.helpers import tiny

HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@functools.cache
def shapes(model):
    size = tuple(model.image_size)
    batch = {"image": jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)}
    batch |= {name: jax.ShapeDtypeStruct((1,), jnp.int32) for name in ("camid", "label")}
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)


def filled(variables, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.1 * random.normal(size=leaf.shape)).astype(np.float32), variables)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Variables of a masked autoencoder of the demo's size, and the folder with its files."""
    folder = tmp_path_factory.mktemp("pretrained")
    model = models.build("mim", size="demo", image_size=(128, 64), patch=8)
    variables = filled(shapes(model), 0)
    encoder_files.write_all(folder, variables, {"mean": HALF[0], "std": HALF[1]})
    hap = convert.to_torch({"params": variables["params"]["backbone"]})
    rest = {name: value for name, value in variables["params"].items() if name != "backbone"}
    convert.save_arrays(folder / "hap.npz", hap | convert.to_torch({"params": rest}))
    return variables["params"], folder


@pytest.mark.parametrize(
    ("argument", "copies"),
    [
        ("transreid:demo,mim128", ("jpm_global", "jpm_local")),
        ("amfor:demo,mim128", ("b1",)),
        ("cfat:demo,mim128", ()),
    ],
)
def test_13_the_encoder_goes_into_every_system(encoder, argument, copies):
    params, folder = encoder
    settings = config.Settings.of(
        config.to_dict(files.load_config(str(tiny.ROOT / "configs" / argument.replace(":", ".py:"))))
    )
    model = build.build_model(settings, 5, 3)
    ours = filled(shapes(model), 1)
    for name in (f"{encoder_files.FOLDER}/encoder.npz", f"{encoder_files.FOLDER}/encoder.safetensors", "hap.npz"):
        missing = settings.init.allow_missing
        loaded, report = models.load_weights(
            settings.model["name"], ours, folder / name, model=model, allow_missing=missing
        )
        assert not report.named("extra", "misfit")
        lost = [entry.target.removeprefix("params/") for entry in report.named("missing")]
        assert not [path for path in lost if path.startswith("backbone/") and "sie_embed" not in path]
        flat, own = trees.flatten(loaded["params"]["backbone"]), trees.flatten(params["backbone"])
        for path, value in flat.items():
            if path in own:
                np.testing.assert_array_equal(value, own[path], err_msg=path)
        assert {"cls_token", "pos_embed", "blocks_0/attn/qkv/kernel"} <= set(flat) & set(own)
        for copy in copies:
            block = trees.flatten(loaded["params"][copy]["block"])
            for path, value in trees.flatten(params["backbone"]["blocks_3"]).items():
                np.testing.assert_array_equal(block[path], value)
        if name.startswith("weights") is False:
            assert report.named("ignored")


def test_13_positions_are_resampled_for_overlapping_patches(encoder):
    _, folder = encoder
    model = models.build("transreid", num_classes=5, image_size=(128, 64), patch=8, stride=6, jpm=True)
    flat = torch_files.read_weights(folder / encoder_files.FOLDER / "encoder.npz")
    named, bare = transreid.fit_weights(model, flat, 4, ("b1", "b2"))
    assert bare
    assert named["base.pos_embed"].shape == (1, 1 + 21 * 10, 128)
    np.testing.assert_array_equal(named["base.pos_embed"][:, 0], flat["pos_embed"][:, 0])


def test_14_names_there_and_back_are_exact(encoder):
    params, folder = encoder
    model = models.build("mim", size="demo", image_size=(128, 64), patch=8)
    path = folder / encoder_files.FOLDER / "encoder.npz"
    loaded, _ = models.load_weights("mim", filled(shapes(model), 2), path, model=model)
    first, again = (convert.to_torch({"params": each}) for each in (params["backbone"], loaded["params"]["backbone"]))
    assert set(first) == set(again)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.3.attn.qkv.weight", "norm.weight"} <= set(
        first
    )


def test_14_another_normalization_goes_into_the_patch_embedding(encoder):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(8, 8, 3, 5)), rng.normal(size=5)
    variables = {"backbone": {"patch_embed": {"proj": {"kernel": kernel, "bias": bias}}}}
    folded = input_normalization.fold(variables, IMAGENET, HALF)["backbone"]["patch_embed"]["proj"]
    pixels = rng.random((20, 8, 8, 3))
    tokens = [
        np.einsum("nyxc,yxcd->nd", (pixels - np.array(mean)) / np.array(std), weights) + shift
        for (mean, std), weights, shift in (
            (IMAGENET, kernel, bias),
            (HALF, folded["kernel"], folded["bias"]),
        )
    ]
    np.testing.assert_allclose(tokens[0], tokens[1], rtol=1e-5, atol=1e-5)

    _, folder = encoder
    assert input_normalization.meta_of(folder / encoder_files.FOLDER / "encoder.safetensors")["mean"] == HALF[0]
    assert input_normalization.meta_of(folder / "hap.npz") == {}
    settings = config.Settings.of(config.to_dict(files.load_config(str(tiny.ROOT / "configs" / "mim.py"))))
    model = models.build("mim", size="demo", image_size=(128, 64), patch=8)
    ours, path = filled(shapes(model), 1), folder / "imagenet.npz"
    with np.load(folder / "hap.npz") as file:
        convert.save_arrays(
            path, {k: v for k, v in file.items() if k != "meta"}, {"mean": IMAGENET[0], "std": IMAGENET[1]}
        )
    kernels = [
        starting_point.load_file(ours, settings, model, str(each))["params"]["backbone"]["patch_embed"]["proj"][
            "kernel"
        ]
        for each in (folder / "hap.npz", path)
    ]
    init = dataclasses.replace(settings.init, pixel_mean=tuple(IMAGENET[0]), pixel_std=tuple(IMAGENET[1]))
    given = dataclasses.replace(settings, init=init)
    asked = starting_point.load_file(ours, given, model, str(folder / "hap.npz"))["params"]["backbone"]
    np.testing.assert_array_equal(asked["patch_embed"]["proj"]["kernel"], kernels[1])
    half = dataclasses.replace(given, init=dataclasses.replace(init, pixel_std=None))
    with pytest.raises(errors.UserError, match="set both"):
        starting_point.load_file(ours, half, model, str(folder / "hap.npz"))
    ratio = (kernels[1] / kernels[0]).mean(axis=(0, 1, 3))
    np.testing.assert_allclose(ratio, 0.5 / np.array(IMAGENET[1]), rtol=1e-4)
