"""Explanations of small networks: sums, formulas, refusals."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.cli import explain as command
from reid_jax.cli import model_choice
from reid_jax.explain import (
    deletion,
    drawing,
    explainer,
    occlusion,
    pictures,
    ranked_maps,
    retrieval,
    sheets,
    similarity_maps,
)
from reid_jax.inference import extractor as extractor_lib
from reid_jax.models import transreid
from reid_jax.ops import distances, taps
from reid_jax.ops import images as image_ops
from reid_jax.ops.descriptors import Descriptor
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.weights import zoo

SMALL = {"data.height": 32, "data.width": 16, "dtype": "float32"}


class Halves(nn.Module):
    """One convolution; the mean of the map and its maximum below are two slots of unit length."""

    @nn.compact
    def __call__(self, batch, train=False):
        x = nn.relu(nn.Conv(6, (4, 4), (8, 8))(batch["image"]))  # [B, 4, 2, 6]
        x = taps.tap("last", x, cut=True)
        slots = jnp.stack((nn.Dense(5)(x.mean((1, 2))), nn.Dense(5)(x[:, 2:].max((1, 2)))), axis=1)
        return {"map/last": x, "slots": slots, "seen": nn.sigmoid(x[:, ::2].mean((2, 3)))}

    def describe(self, outputs):
        return Descriptor(distances.normalize_rows(outputs["slots"]), outputs["seen"])


class Painter(nn.Module):
    """Tokens on an upright grid with masks of two parts, two slots that attend to them, and gray in hidden patches."""

    slot_attention = "attention/parts"
    reconstructs = True

    @nn.compact
    def __call__(self, batch, train=False):
        x = image_ops.patchify(batch["image"], 8)  # [B, 8, 192]
        x = taps.tap("tokens", jnp.concatenate((x[:, :1], x), axis=1), grid=(4, 2), leading=1)
        weights = nn.softmax(x[:, None, :3, :8])  # the background's query, then those of the slots
        outputs = {"tokens": x[:, 1:], "slots": taps.tap("attention/parts", weights)[:, 0, 1:] @ x[:, 1:]}
        if "image_clean" in batch:
            hidden = image_ops.patchify(jnp.abs(batch["image"] - batch["image_clean"]) > 1e-3, 8).any(-1)
            outputs |= {"pixels/predicted": jnp.zeros((*hidden.shape, 192)), "pixels/mask": hidden}
        return outputs

    def part_masks(self, variables, tokens):
        return nn.softmax(tokens[..., :3])

    def describe(self, outputs):
        return Descriptor(outputs["slots"])


def explained(model, flip):
    """Returns an explainer of a model with random weights."""
    settings = zoo.settings("bot", {}, {**SMALL, "evals.flip": flip})
    extractor = extractor_lib.Extractor(model, settings, mesh_lib.create_mesh())
    batch = {"image": np.zeros((1, 32, 16, 3), np.float32), "camid": np.zeros(1, np.int32)}
    return explainer.Explainer(
        extractor, jax.jit(model.init, static_argnames="train")(jax.random.key(0), batch, train=False)
    )


@pytest.fixture(scope="module")
def halves():
    return explained(Halves(), flip=True)


@pytest.fixture(scope="module")
def vit():
    fields = {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 1.0, "image_size": (32, 16), "patch": 8, "stride": 4}
    return explained(transreid.TransReID(1, **fields), flip=False)


def images(count, size=(32, 16)):
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), np.uint8)


def test_a_map_sums_to_the_similarity(halves):
    """With slots, visibility, shifts, a maximum, and the mirror image."""
    query, *gallery = images(3)
    found = similarity_maps.pairs(halves, query, gallery)
    features = halves.embed(images(3))
    for place, pair in enumerate(found, start=1):
        weights = features.visibility[0] * features.visibility[place]
        one, other = (features.features[row] / features.lengths()[row][:, None] for row in (0, place))
        expected = (weights / weights.sum() * (one * other).sum(-1)).sum()
        for one_map in (pair.query, pair.gallery):
            assert one_map.exact
            assert one_map.map.shape == (4, 2)
            np.testing.assert_allclose(one_map.map.sum(), expected, atol=1e-5)
            np.testing.assert_allclose(one_map.regions.sum() + one_map.constant, expected, atol=1e-5)


def test_a_contrast_leaves_out_what_all_images_share(halves):
    query, other, *gallery = images(5)
    background = halves.embed(np.stack(gallery))
    pair = similarity_maps.pairs(halves, query, [other], background=background)[0]
    both = halves.embed(np.stack((query, other)))
    similarity = explainer.similarities(both.take([0]), both.take([1]))[0]
    for row, found in enumerate((pair.query, pair.gallery)):
        mean = explainer.similarities(both.take([row] * 3), background).mean()
        np.testing.assert_allclose(found.similarity, similarity - mean, atol=1e-6)
        np.testing.assert_allclose(found.map.sum(), similarity - mean, atol=1e-5)
    with pytest.raises(errors.UserError, match="compares a pair with a gallery"):
        sheets.sheet(halves, sheets.Column(query), [sheets.Column(other)], ["contrast"])


def test_the_map_is_that_of_pairs_of_positions(halves):
    """Mean pooling and a linear neck: Stylianou's product of all positions, summed over those of the other image."""
    model = explained(Halves(), flip=False)
    names, pictures_ = ("last",), images(2)
    maps = model.read("maps", pictures_, lambda found, _: found["last"].value)
    kernel = np.asarray(model.variables["params"]["Dense_0"]["kernel"])
    features = model.embed(pictures_)
    one = explainer.Embedded(features.features[:, :1], np.ones((2, 1)))
    both = np.eye(2)[:1]  # the first slot alone
    own = explainer.Embedded(features.features, np.concatenate((both, both)))
    found = similarity_maps.region_maps(
        model, names, pictures_[:1], model.cameras(None, 1), own.take([0]), own.take([1])
    )[0]
    vectors = maps.reshape(2, -1, 6) @ kernel / 8
    length = np.linalg.norm(maps.mean((1, 2)) @ kernel, axis=-1)  # the shifts are zero
    products = vectors[0] @ vectors[1].T / length[0] / length[1]
    np.testing.assert_allclose(found.map.reshape(-1), products.sum(1), atol=1e-6)
    np.testing.assert_allclose(found.similarity, (one.features[0] * one.features[1]).sum(), atol=1e-6)
    assert found.constant == 0


def test_a_vision_transformer_is_approximated_and_says_so(vit):
    assert vit.cut() == ("patches",)
    assert vit.layers["patches"].grid == (7, 3)
    query, other = images(2, (40, 40))
    pair = similarity_maps.pairs(vit, query, [other], steps=8)[0]
    assert not pair.query.exact
    assert abs(pair.query.residue) < 0.02
    np.testing.assert_allclose(pair.query.map.sum() + pair.query.residue, pair.query.similarity, atol=1e-5)


def test_attention_and_rollout_on_an_upright_grid(vit):
    weights = pictures.attention(vit, images(2))
    assert weights.shape == (2, 2, 7, 3)
    assert (weights.sum((2, 3)) < 1).all()
    flow = pictures.rollout(vit, images(2))
    assert flow.shape == (2, 7, 3)
    raw = vit.read(
        "raw", vit.resized(images(2)), lambda found, _: [found["attention"].value, found["attention#2"].value]
    )
    first, last = ((block.mean(1) + np.eye(22)) / 2 for block in raw)
    np.testing.assert_allclose(flow.reshape(2, -1), (last @ first)[:, 0, 1:], rtol=1e-5)
    np.testing.assert_allclose((last @ first).sum(-1), 1, rtol=1e-5)


def test_activation_is_torchreids(halves):
    found = pictures.activation(halves, images(2))
    value = halves.read("maps", images(2), lambda found, _: found["last"].value)
    energy = (value**2).sum(-1)
    np.testing.assert_allclose(found, energy / np.linalg.norm(energy, axis=(1, 2), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose((found**2).sum((1, 2)), 1, rtol=1e-5)


def test_occlusion_finds_the_region_that_counts(halves):
    blank = np.broadcast_to(halves.blank, (32, 16, 3)).copy()
    image = blank.copy()
    image[8:16, :8] = images(1, (8, 8))[0]
    falls = occlusion.falls(halves, image, halves.embed(image[None]), window=1 / 4, step=1 / 4)
    assert falls.shape == (1, 4, 2)
    assert np.unravel_index(falls[0].argmax(), (4, 2)) == (1, 0)
    np.testing.assert_allclose(np.delete(falls[0].reshape(-1), 2), 0, atol=1e-6)
    curves = deletion.curves(halves, image, falls[0], halves.embed(image[None]))
    np.testing.assert_allclose(curves.deletion[[0, -1]], curves.insertion[[-1, 0]], atol=1e-6)
    assert curves.areas()[0] < curves.areas()[1]


def test_slots_masks_and_reconstruction():
    model = explained(Painter(), flip=False)
    assert pictures.available(model) == ("activation", "slots", "parts", "reconstruction")
    looks = pictures.slots(model, images(2))
    assert looks.shape == (2, 2, 4, 2)
    np.testing.assert_allclose(looks.sum((2, 3)), 1, rtol=1e-5)
    masks = pictures.parts(model, images(2))
    assert masks.shape == (2, 3, 4, 2)
    np.testing.assert_allclose(masks.sum(1), 1, rtol=1e-5)
    tokens = image_ops.patchify(
        image_ops.normalize(images(2), *(vars(model.settings.preprocess)[key] for key in ("mean", "std"))), 8
    )
    np.testing.assert_allclose(masks[1, :, 2, 1], nn.softmax(tokens[1, 5, :3]), rtol=1e-5)
    seen, completed, true = pictures.reconstruction(model, images(2), box=(0.25, 0.5, 0.5, 1))
    np.testing.assert_allclose(
        completed[:, 8:16, 8:], np.broadcast_to(model.settings.preprocess.mean, (2, 8, 8, 3)), atol=1e-6
    )
    np.testing.assert_allclose(np.delete(completed, range(8, 16), 1), np.delete(true, range(8, 16), 1), atol=1e-6)
    assert (seen[:, 8:16, 8:] * 255 == model.blank).all()
    page = sheets.sheet(model, sheets.Column(images(1)[0], ("query",)), [], ["slots", "parts", "reconstruction"])
    assert page.shape[0] > 7 * sheets.HEIGHT


def test_a_trial_compares_each_map_with_random_orders(halves):
    one, other = images(2)
    rows = deletion.trial(halves, [(one, other), (other, one)])
    assert [row["picture"] for row in rows] == ["activation", "similarity", "occlusion"]
    assert (rows[1]["rows"], rows[1]["columns"]) == (4, 2)
    assert rows[0]["random_deletion"] == rows[1]["random_deletion"] != rows[2]["random_deletion"]
    assert all(0 <= row["better_insertion"] <= 1 for row in rows)
    perfect = {"deletion": 0.2, "insertion": 0.8, "random_deletion": 0.5, "random_insertion": 0.5}
    found = deletion.outcome("a", (1, 2), np.array([[0.1, 0.9, 0.5, 0.5], [0.3, 0.7, 0.5, 0.5]]))
    assert perfect.items() <= found.items()
    assert found["better_deletion"] == found["better_insertion"] == 1


def test_pictures_for_the_page_of_ranked_lists(halves):
    features = type("", (), {"query_cams": np.array([0, 1]), "gallery_cams": np.array([1, -1, 0])})
    found = ranked_maps.RankedMaps(halves, features, lambda side, row: images(8)[row + 4 * (side == "gallery")])
    drawn = found(1, np.array([2, 0]))
    assert len(drawn) == 2
    assert drawn[0].shape == drawn[1].shape
    assert drawn[0].shape[0] == 208 + 24
    assert (drawn[0] != drawn[1]).any()
    assert found(0, np.array([], int)) == []


def test_spread_keeps_sums():
    maps = np.random.default_rng(0).random((2, 3, 5))
    for grid in ((3, 5), (6, 10), (4, 7), (2, 2)):
        np.testing.assert_allclose(similarity_maps.spread(maps, grid).sum((1, 2)), maps.sum((1, 2)))
    np.testing.assert_allclose(similarity_maps.spread(maps, (3, 5)), maps)


def test_colors_and_scales():
    values = np.array([[0.0, 1.0]])
    low, high = drawing.colorize(values, 0, 1)[0]
    assert low.tolist() == [68, 1, 84]  # viridis, in the order red, green, blue
    assert high.tolist() == [253, 231, 37]
    assert drawing.colorize(values, 0, 1, "jet")[0, 0, 2] > 100  # blue is low
    assert (drawing.colorize(values, 2, 2) == drawing.colorize(values * 0, 0, 1)).all()
    assert drawing.scale(100, -1.0, 2.0).shape == (100, 64, 3)
    with pytest.raises(errors.UserError, match="unknown table of colors 'rainbow'"):
        drawing.colorize(values, 0, 1, "rainbow")


def test_what_a_model_lacks_is_refused_with_what_it_has(halves, vit):
    with pytest.raises(
        errors.UserError, match="unknown picture of Halves 'rollout'; known: activation, contrast, occlusion, sim"
    ):
        sheets.check(halves, ["rollout"], pairs=True)
    with pytest.raises(errors.UserError, match=r"unknown layer of TransReID 'stage4'.*patches"):
        sheets.check(vit, ["activation"], pairs=True, layer="stage4")
    with pytest.raises(errors.UserError, match="compares a query with other images"):
        sheets.check(halves, ["similarity"], pairs=False)
    with pytest.raises(errors.UserError, match="expected a second image"):
        similarity_maps.pairs(halves, images(1)[0], [])
    with pytest.raises(errors.UserError, match="from 0 to 1 of"):
        retrieval.of_split(type("", (), {"name": "a", "__len__": lambda self: 2})(), 5)


def test_equal_images_are_alike_everywhere(halves):
    image = images(1)[0]
    pair = similarity_maps.pairs(halves, image, [image])[0]
    np.testing.assert_allclose(pair.query.similarity, 1, atol=1e-6)
    np.testing.assert_allclose(pair.query.map, pair.gallery.map, atol=1e-6)


def test_the_command_draws_a_folder(halves, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images(3)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.setattr(model_choice, "load", lambda args: (halves.extractor, halves.variables))
    arguments = ["--model", "bot", "--random-weights", "--gallery", "photos"]
    query = ["--query", "photos/1.png"]
    assert command.main(["sheet", *arguments, *query, "--top", "2", "--output", "out/sheet.png"]) == 0
    assert "out/sheet.png: " in capsys.readouterr().out
    page = np.asarray(Image.open(tmp_path / "out" / "sheet.png"))
    assert page.std() > 10
    alone = ["--model", "bot", "--random-weights", "--pictures", "activation", "--output", "one.png"]
    assert command.main([*alone, *query]) == 0
    with Image.open(tmp_path / "one.png") as drawn:
        assert drawn.width < page.shape[1]
    assert command.main([*arguments, "--pictures", "list"]) == 0
    assert "layers: pixels (32 x 16), last (4 x 2)" in capsys.readouterr().out
    with pytest.raises(errors.UserError, match="no data set with queries"):
        command.main([*arguments, "--output", "b.png"])
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(errors.UserError, match=r"bad\.png"):
        command.main([*arguments, "--query", "bad.png", "--output", "b.png"])
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sheet --model bot --random-weights --output a.png", "expected --gallery PATH for similarity"),
        ("sheet --model bot --random-weights --pictures activation --output a.png", "--query FILE or --gallery PATH"),
        ("check --model bot --random-weights --pictures activation --output a.json", "PATH for a check"),
        ("sheet --model bot --random-weights --gallery . ", "expected --output FILE"),
        ("sheet --model bot --random-weights --gallery . --output a.jpg", "end in .png"),
        ("sheet --model bot --random-weights --gallery nowhere --output a.png", "there is no nowhere"),
        ("sheet --model bot --random-weights --gallery . --query a --row 1 --output a.png", "leave one out"),
        (
            "sheet --model bot --random-weights --gallery . --pictures gradcam --output a.png",
            "value of --pictures 'gradcam'",
        ),
        ("sheet --model bot --random-weights --gallery . --colors hot --output a.png", "value of --colors 'hot'"),
        ("poster --model bot --random-weights", "unknown value of ACTION 'poster'"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError, match=message):
        command.main(arguments.split())
    assert not list(tmp_path.iterdir())
