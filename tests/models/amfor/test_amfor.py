"""AMFOR as a whole: shapes, objective, where gradients go, what is left at test time, its config."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import build as build_lib
from reid_jax import config as config_lib
from reid_jax import errors, losses, models, trees
from reid_jax.benchmarks import programs
from reid_jax.evaluation import distance_blocks
from reid_jax.models.amfor import amfor
from reid_jax.models.backbones import vit
from reid_jax.ops import descriptors
from reid_jax.train import objective, schedules
from tests.helpers import torchreid_names, transreid_names
from tests.helpers.tiny_amfor import (
    BATCH,
    CLASSES,
    TINY,
    compiled,
    images,
    load,
    shapes_of,
    tiny,
    training_batch,
)

TRAINING_ONLY = ("amgd", "head_b", "head_f", "hpr", "mask_generator")


@functools.cache
def full_params():
    """Shapes of the full system's parameters."""
    return shapes_of(tiny())["params"]


TERMS = tuple(config_lib.to_dict(load().losses))


@pytest.fixture(scope="module")
def variables():
    return programs.random_variables(tiny(), images())


@pytest.fixture(scope="module")
def step():
    """`(variables, key, weights of TERMS) -> (total, (terms, outputs, new statistics)), gradient`, compiled once."""
    terms = config_lib.to_dict(load().losses)

    def total(params, batch_stats, key, weights):
        outputs, updated = tiny().apply(
            {"params": params, "batch_stats": batch_stats},
            training_batch(),
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        _, values = losses.evaluate_terms(terms, {**outputs, "batch/label": jnp.asarray(training_batch()["label"])})
        values = {name.removeprefix("loss/"): value for name, value in values.items()}
        weighted = jnp.stack([values[name] for name in TERMS]) * weights
        return jnp.sum(weighted), (values, outputs, updated["batch_stats"])

    run = compiled(jax.value_and_grad(total, has_aux=True))
    return lambda variables, seed=0, weights=None: run(
        variables["params"],
        variables["batch_stats"],
        jax.random.key(seed),
        jnp.ones(len(TERMS)) if weights is None else weights,
    )


def gradient_of(step, variables, term: str) -> dict[str, float]:
    """Largest entry of a term's gradient by submodule."""
    _, gradient = step(variables, weights=jnp.asarray(np.array(TERMS) == term, jnp.float32))
    largest = lambda tree: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
    return {name: largest(tree) for name, tree in gradient.items()}


# ---- shapes


def test_shapes_of_the_published_size():
    """Property 1, and the parameters of all components."""
    model = amfor.AMFOR(num_classes=702, num_cameras=8)
    assert vit.grid_of(model.image_size, model.patch, model.stride) == (22, 11)
    batch = {
        "image": jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32),
        "camid": jax.ShapeDtypeStruct((2,), jnp.int32),
        "parts": jax.ShapeDtypeStruct((2, 256, 128), jnp.uint8),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), key, batch)
    assert shapes["params"]["backbone"]["pos_embed"].shape == (1, 243, 768)
    assert trees.count_parameters(shapes["params"]) == 188_020_879

    def train(variables, batch, key):
        rngs = {"dropout": key}
        return model.apply(variables, batch, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    outputs = jax.eval_shape(train, shapes, batch, key)
    shape = {name: value.shape for name, value in outputs.items()}
    assert shape["parsing/masks"] == (2, 242, 9)
    assert shape["feature/s"] == shape["feature/t"] == shape["feature/b"] == shape["generated"] == (2, 8, 768)
    assert (shape["feature/f"], shape["feature/g"], shape["logits/b"]) == ((2, 768), (2, 768), (2, 702))
    test = lambda variables, batch: model.describe(model.apply(variables, batch, train=False))
    described = jax.eval_shape(test, shapes, {name: batch[name] for name in ("image", "camid")})
    assert (described.features.shape, described.visibility.shape) == ((2, 9, 768), (2, 9))


# ---- objective and gradients


def test_the_objective_is_a_plain_sum(step, variables):
    """Property 11: all terms of weight 1, all of them finite."""
    (total, (values, outputs, _)), _ = step(variables)
    assert set(values) == set(TERMS)
    assert len(TERMS) == 13
    assert all(term["weight"] == 1.0 for term in config_lib.to_dict(load().losses).values())
    assert np.isfinite(total)
    np.testing.assert_allclose(total, sum(float(value) for value in values.values()), rtol=1e-5)
    np.testing.assert_allclose(outputs["parsing/masks"].sum(axis=-1), 1.0, rtol=1e-5)


def test_reconstruction_teaches_the_encoder(step, variables):
    """Property 6: gradients reach the ViT from the parts' cross-entropy alone; the decoder of parts has no part."""
    moved = gradient_of(step, variables, "ce_b")
    assert min(moved[name] for name in ("backbone", "b1", "amff", "hpr", "head_b", "mask_generator")) > 0
    assert max(moved[name] for name in ("part_decoder", "amgd", "head_s", "visibility")) == 0


def test_teacher_and_student_share_their_weights(step, variables):
    """Property 8: the teacher's own losses teach the decoder; distillation reaches student and generator."""
    own = gradient_of(step, variables, "ce_t")
    assert min(own["part_decoder"], own["head_s"], own["backbone"]) > 0
    assert max(own["mask_generator"], own["b1"], own["amgd"]) == 0
    distilled = gradient_of(step, variables, "distil")
    assert min(distilled["part_decoder"], distilled["amgd"], distilled["backbone"]) > 0
    assert max(distilled[name] for name in ("mask_generator", "hpr", "head_s", "visibility")) == 0


def test_diversity_takes_masks_as_constants(step, variables):
    """It separates the parts' features, the teacher's and the reconstructed ones, and never moves the masks."""
    moved = gradient_of(step, variables, "diversity")
    assert min(moved[name] for name in ("backbone", "b1", "hpr", "part_decoder")) > 0
    assert max(moved[name] for name in ("mask_generator", "amgd", "head_b", "head_s", "visibility")) == 0
    # Masks learn from the labels, and from what is pooled under them.
    parsed = gradient_of(step, variables, "parsing")
    assert min(parsed[name] for name in ("mask_generator", "b1", "backbone")) > 0
    assert max(parsed[name] for name in ("hpr", "part_decoder", "head_b")) == 0


def test_masks_apart_learn_from_their_labels_alone():
    """The means are the same; losses of pooled parts do not move the masks."""
    rng = np.random.default_rng(0)
    patches, masks = rng.normal(size=(1, 4, 3)), rng.dirichlet(np.ones(9), size=(1, 4))

    def pooled(masks, apart):
        parts, steady = tiny(hpr=False, masks_apart=apart)._pool(patches, masks, True)
        return jnp.square(parts).sum() + jnp.square(steady).sum()

    (value, moved), (same, still) = (jax.value_and_grad(pooled)(masks, apart) for apart in (False, True))
    np.testing.assert_allclose(value, same, rtol=1e-6)
    assert np.abs(moved).max() > 0
    assert np.abs(still).max() == 0


def test_the_same_seed_gives_the_same_step(step, variables):
    """Property 17: another draws other masks and drops other paths; batch statistics move."""
    (total, (_, outputs, statistics)), _ = step(variables, seed=3)
    (again, _), _ = step(variables, seed=3)
    (other, (_, others, _)), _ = step(variables, seed=4)
    assert float(total) == float(again) != float(other)
    assert np.abs(outputs["feature/g"] - others["feature/g"]).max() > 1e-4
    for name, leaf in trees_by_name(statistics).items():
        assert np.abs(leaf - trees_by_name(variables["batch_stats"])[name]).max() > 0, name


def trees_by_name(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}


# ---- test time


@pytest.fixture(scope="module")
def at_test_time(variables):
    """Outputs of the plain ViT of two kinds: gates held shut; fusion and all that only training uses taken out."""
    shut = compiled(functools.partial(tiny(amff_alpha=0.0).apply, train=False))(variables, images())
    without = lambda tree: {name: leaf for name, leaf in tree.items() if name not in (*TRAINING_ONLY, "amff")}
    kept = {name: without(tree) for name, tree in variables.items()}
    assert set(kept["params"]) == {"backbone", "b1", "head_g", "head_s", "part_decoder", "visibility"}
    plain = functools.partial(tiny(amff=False).apply, train=False)
    return shut, compiled(plain)(kept, images()), functools.partial(plain, kept)


def test_shut_gates_leave_the_plain_vit(at_test_time):
    """Properties 3 and 6: to the bit; and nothing at test time asks for what only training uses."""
    shut, plain, _ = at_test_time
    assert shut.keys() == plain.keys()
    assert not [name for name in plain if name.endswith(("/t", "/b", "/f")) or name.startswith(("parsing", "gener"))]
    for name, value in plain.items():
        np.testing.assert_array_equal(value, shut[name], err_msg=name)


def test_compiled_equals_eager_and_training_differs(at_test_time, step, variables):
    """Property 17: jit changes rounding alone; statistics of the batch and dropped paths change more."""
    _, plain, run = at_test_time
    for name, value in run(images()).items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-4, atol=1e-4, err_msg=name)
    trained = step(variables)[0][1][1]
    assert np.abs(trained["neck/s"] - plain["neck/s"]).max() > 0.1


def test_slots_and_their_distance(at_test_time):
    """Property 13: 9 slots of unit length; visible ones alone count; symmetric; 0 between equals."""
    outputs = dict(at_test_time[1])
    outputs["visibility/s"] = np.where(np.arange(8) % 3 == 0, -1.0, 1.0) * np.array([[1], [-1], [1], [1]], np.float32)
    described = tiny().describe(outputs)
    features, seen = np.asarray(described.features), np.asarray(described.visibility)
    assert (features.shape, seen.shape) == ((BATCH, 9, 64), (BATCH, 9))
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(seen[0], [1, 0, 1, 1, 0, 1, 1, 0, 1])
    between = np.linalg.norm(features[:, None] - features[None], axis=-1)

    def measured(visibility):
        side = distance_blocks.prepare(features, "euclidean", visibility)
        return np.asarray(distance_blocks.readable(distance_blocks.pairwise(side, side), "euclidean", slots=True))

    both = seen[:, None] * seen[None]
    np.testing.assert_allclose(measured(seen), (between * both).sum(-1) / both.sum(-1), atol=2e-3)
    for visibility in (seen, np.ones_like(seen)):
        found = measured(visibility)
        np.testing.assert_allclose(found, found.T, atol=1e-6)
        np.testing.assert_allclose(np.diag(found), 0.0, atol=2e-3)
    np.testing.assert_allclose(measured(np.ones_like(seen)), between.mean(axis=-1), atol=2e-3)

    soft = tiny(eval_soft_visibility=True).describe({**outputs, "visibility/s": 0.5 * outputs["visibility/s"]})
    np.testing.assert_array_equal(soft.features, features)
    np.testing.assert_allclose(soft.visibility[0, :3], [1, 1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))], rtol=1e-5)
    whole = tiny(eval_use_visibility=False).describe(outputs)
    np.testing.assert_array_equal(whole.features, features)
    assert whole.visibility is None
    parts = tiny(eval_slots="parts").describe(outputs)
    np.testing.assert_array_equal(parts.features, features[:, 1:])
    np.testing.assert_array_equal(parts.visibility, seen[:, 1:])
    alone = tiny(eval_slots="global").describe(outputs)
    assert isinstance(alone, descriptors.Descriptor)
    np.testing.assert_array_equal(alone.features, features[:, 0])
    assert alone.visibility is None


# ---- switches


FULL = {"amff", "amgd", "b1", "backbone", "head_b", "head_f", "head_g", "head_s", "hpr", "mask_generator"} | {
    "part_decoder",
    "visibility",
}
TS = {"part_decoder", "head_s", "visibility", "amgd"}
PARSING = {"mask_generator", "head_b", "head_f", "hpr"}
FULL_TERMS = set(TERMS)
TS_TERMS = {"ce_s", "tri_s", "ce_t", "tri_t", "visibility"}
PARSING_TERMS = {"ce_f", "ce_b", "tri_b", "parsing", "diversity"}


@pytest.mark.parametrize(
    ("row", "modules", "terms"),
    [
        ("amfor", set(), set()),
        ("amfor_no_amff", {"amff"}, set()),
        ("amfor_no_hpr", {"hpr"}, set()),
        ("amfor_a5", {"amgd"}, set()),
        ("amfor_a4", {"amff", "hpr"}, set()),
        ("amfor_a3", {"amff", "amgd"}, set()),
        ("amfor_a2", {"hpr", "amgd"}, set()),
        ("amfor_a1", TS | PARSING, TS_TERMS | PARSING_TERMS | {"distil"}),
        ("amfor_b3", {"amff", "hpr", "amgd"}, set()),
        ("amfor_b2", {"amff", "hpr", "amgd"}, {"distil"}),
        ("amfor_b1", {"amff", "hpr"} | TS, TS_TERMS | {"distil"}),
        ("amfor_b0", {"amff"} | TS | PARSING, TS_TERMS | PARSING_TERMS | {"distil"}),
    ],
)
def test_a_row_is_the_full_system_less_what_it_names(row, modules, terms):
    """Property 11: a flag that is off takes exactly its terms and its parameters with it."""
    config = load(row)
    options = {name: config.model[name] for name in ("amff", "parsing", "ts", "hpr", "amgd") if name in config.model}
    params = shapes_of(tiny(**options))["params"]
    assert set(params) == FULL - modules
    count = lambda tree: trees.count_parameters(tree)
    full = full_params()
    assert count(full) - count(params) == sum(count(full[name]) for name in modules)
    assert set(config.losses) == FULL_TERMS - terms
    distil = "distil" not in terms and config.losses.distil.loss
    assert distil == ("distil" not in terms and f"{'cosine' if 'amgd' in modules else 'generative'}_distillation")


def test_further_switches_and_their_parameters():
    """Property 11, for what the full system has not or has otherwise."""
    count = lambda **options: trees.count_parameters(shapes_of(tiny(**options))["params"])
    full = trees.count_parameters(full_params())
    attention = 4 * (64 * 64 + 64)
    assert full - count(text_source="none") == 4 * 64 + attention  # the bank, and what asks it
    assert full - count(hpr_residual=False) == 9
    # 16 x 16 patches of the enlarged map, and their place in the convolution over the tokens.
    assert full - count(hpr_map_tokens=False) == 16 * 16 * 64 + 64 + 1
    assert full - count(amgd_mask="none") == 8 * 64 + attention
    block = 12 * 32 * 32 + 13 * 32
    assert count(hpr_depths=(2, 3)) - full == 3 * block
    assert count(pixel=True, pixel_ratio=0.5) - count(pixel=True) == 16
    for options in ({"amff_alpha": 0.0}, {"amgd_ste": False}, {"ts_vis_teacher": True}, {"eval_slots": "parts"}):
        assert count(**options) == full


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parsing": False, "hpr": False}, "ts needs model.parsing"),
        ({"parsing": False, "ts": False, "amgd": "none"}, "hpr needs model.parsing"),
        ({"ts": False}, "amgd='amgd' needs model.ts"),
        ({"ts": False, "amgd": "none", "eval_slots": "parts"}, "eval_slots='parts' needs model.ts"),
        ({"text_source": "clips"}, "did you mean 'clip'"),
        ({"amgd": "cosine"}, "distillation"),
        ({"parsing_source": "strip"}, "did you mean 'strips'"),
        ({"amff_layers": (1, 2)}, "at most 1"),
        ({"amff_layers": "some"}, "amff_layers"),
        ({"width": 72, "amff": False}, "multiple of 64"),
        ({"attention_heads": 7}, "attention_heads"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(errors.UserError, match=message):
        tiny(**options)


def test_images_without_labels_are_told_what_to_do():
    with pytest.raises(errors.UserError, match="use the variant `strips`"):
        jax.eval_shape(lambda key: tiny().init(key, images(), train=True), jax.random.key(0))


@pytest.mark.parametrize(
    "variant",
    [
        *("amfor_b0", "amfor_b1", "amfor_b2", "amfor_b3", "amfor_a1", "amfor_a5", "strips"),
        *("ts_ema", "ts_clean", "ts_vis_teacher", "pixel_masked", "amgd_levels"),
    ],
)
def test_terms_find_what_they_read(variant):
    """A step of the trainer's objective, on shapes."""
    settings = config_lib.to_dict(load(variant))
    settings["data"] |= {"height": 32, "width": 16}
    settings["model"] |= TINY
    model = build_lib.build_model(config_lib.Settings.of(settings), CLASSES, 2)
    batch = {name: value for name, value in training_batch().items() if name != "parts" or settings["data"]["maps"]}
    batch |= {f"image_{view}": batch["image"] for view in settings["data"]["views"]}
    goal = objective.Objective(
        apply=model.apply,
        preprocess=lambda batch, key: batch,
        passes={name: objective.Pass(**one) for name, one in settings["passes"].items()},
        terms=settings["losses"],
        monitors=settings["monitors"],
    )

    def run(key):
        made = model.init(key, images(), train=False)
        extra = dict.fromkeys(settings["extras"], made)
        return goal(made, extra, batch, key)

    total, (_, metrics) = jax.eval_shape(run, jax.random.key(0))
    assert total.shape == ()
    assert {f"loss/{name}" for name in settings["losses"]} | {"monitor/accuracy"} == set(metrics)


def test_hidden_patches_are_drawn_where_the_clean_picture_is_known():
    """Property 15: the pixel decoder belongs to training; a run of such a model ends with pictures."""
    model = tiny(pixel=True)
    assert model.reconstructs
    assert not tiny().reconstructs
    clean = {"image_clean": images()["image"]}
    shapes = shapes_of(model)
    assert set(shapes["params"]) == FULL | {"pixel_decoder"}
    run = lambda variables, batch: model.apply(variables, batch, train=False)
    drawn = jax.eval_shape(run, shapes, {**images(), **clean})
    assert drawn["pixels/predicted"].shape == (BATCH, 4 * 2, 8 * 8 * 3)
    assert drawn["pixels/mask"].shape == (BATCH, 4 * 2)
    finer = tiny(pixel=True, pixel_patch=4)
    drawn = jax.eval_shape(functools.partial(finer.apply, train=False), shapes_of(finer), {**images(), **clean})
    assert drawn["pixels/predicted"].shape == (BATCH, 8 * 4, 4 * 4 * 3)
    assert not [name for name in jax.eval_shape(run, shapes, images()) if name.startswith("pixels")]
    views = load("pixel").data.views
    assert views.clean.geometry == "shared"
    assert set(views.clean.augment) == {"flip", "pad_crop"}
    config = load("pixel", preset="demo")
    config.data.augment.pad_crop.pad = 3
    assert config.data.views.clean.augment.pad_crop.pad == 3


# ---- recipe and weights


def test_rates_of_the_recipe():
    """Property 2: the values of the published log, epochs counted from 1; biases at twice the rate."""
    config = config_lib.to_dict(load("clip"))
    joint, prompts = config["optimizer"], {**config["optimizer"], **config["phases"]["prompts"]["optimizer"]}
    rate = lambda settings, schedule, epoch: schedules.build(
        schedule, settings["learning_rate"], 1.0, 120 * 227, 227
    ).exact((epoch - 1) * 227)
    for epoch, value in {1: 8.32e-4, 5: 3.98e-3, 60: 2.00e-3, 110: 7.60e-5, 120: 8.00e-6}.items():
        assert rate(joint, config["schedule"], epoch) == pytest.approx(value, rel=5e-3), epoch
    for epoch, value in {1: 7.80e-5, 5: 3.49e-4, 120: 1.00e-6}.items():
        assert rate(prompts, config["phases"]["prompts"]["schedule"], epoch) == pytest.approx(value, rel=5e-3), epoch
    assert (joint["name"], joint["momentum"], joint["weight_decays"]) == ("sgd", 0.9, ((".*", 1e-4),))
    assert joint["learning_rate_multipliers"] == ((".*bias", 2.0), (".*", 1.0))
    assert (config["train"]["epochs"], config["phases"]["prompts"]["train"]["epochs"]) == (120.0, 120.0)
    assert config["data"]["sampler"] == {"name": "identity_groups", "identities": 16, "images": 4}
    assert config["seed"] == 1234


@pytest.mark.parametrize(
    ("preset", "sie"), [("occluded_reid", "none"), ("p_dukemtmc_reid", "none"), ("market1501", "camera")]
)
def test_pseudo_cameras_have_no_embedding(preset, sie):
    config = load(preset=preset)
    assert config.model.sie == sie
    assert config.model.get("parsing_source", "files") == "files"
    assert "part_labels" in config.data.options or config.data.sources == ("market1501_part_labels",)


@pytest.mark.parametrize("variant", ["strips", "amfor_b0"])
def test_what_reads_no_labels_needs_no_label_files(variant):
    assert load(variant, preset="occluded_reid").data.sources == ("market1501",)
    assert load(preset="occluded_reid").data.sources == ("market1501_part_labels",)
    assert "part_labels" not in load(variant, preset="occluded_duke").data.options
    assert load(preset="occluded_duke").data.options.part_labels


def test_an_encoder_of_other_pretraining_fills_trunk_and_branch(tmp_path):
    """A masked autoencoder's file for 256 x 128: positions are 16 x 8, b1 begins as the last block."""
    size = transreid_names.SIZE
    fields = {"width": size["width"], "depth": size["depth"], "heads": size["heads"], "mlp_ratio": size["ratio"]}
    model = amfor.AMFOR(
        CLASSES, **fields, parsing=False, ts=False, hpr=False, amgd="none", amff_layers=(1, 2), num_cameras=3
    )
    flat = torchreid_names.draw(transreid_names.trunk(128, prefix=""), seed=3)
    decoder = {
        "decoder_embed.weight": np.ones((4, size["width"]), np.float32),
        "mask_token": np.ones((1, 1, 4), np.float32),
    }
    path = tmp_path / "hap.npz"
    np.savez(path, **flat, **decoder)
    shapes = jax.eval_shape(
        lambda key: model.init(key, {"image": np.zeros((1, 256, 128, 3)), "camid": np.zeros(1, np.int32)}, train=False),
        jax.random.key(0),
    )
    loaded, report = models.load_weights("amfor", shapes, path, model=model, allow_missing=("classifier", "sie_embed"))
    params = loaded["params"]
    wanted = vit.resize_positions(flat["pos_embed"], (16, 8), (22, 11))
    np.testing.assert_array_equal(params["backbone"]["pos_embed"], wanted)
    last = flat[f"blocks.{size['depth'] - 1}.mlp.fc1.weight"].T
    np.testing.assert_array_equal(params["b1"]["block"]["mlp"]["fc1"]["kernel"], last)
    np.testing.assert_array_equal(params["b1"]["norm"]["scale"], flat["norm.weight"])
    assert f"blocks_{size['depth'] - 1}" not in params["backbone"]
    missing = {entry.target.split("/")[1] for entry in report.named("missing")}
    assert missing == {"amff", "backbone", "head_g"}
    assert {entry.source for entry in report.named("ignored")} >= {f"base.{name}" for name in decoder}
