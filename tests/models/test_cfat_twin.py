"""CFAT's alignment against numpy: what each term reads, in which update, from which network and which picture."""

from __future__ import annotations

import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import config as config_lib
from reid_jax import losses, trees
from reid_jax.config import files, phases
from reid_jax.models import cfat
from reid_jax.nn import heads
from reid_jax.runs import settings as settings_lib
from reid_jax.train import extras, objective, optimizer, state
from tests.helpers import numpy_layers as layers

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "cfat.py"
CLASSES, BATCH, WIDTH = 3, 6, 12
TINY = {"width": WIDTH, "depth": 2, "heads": 2, "stride": 8, "patch": 8, "image_size": (32, 16), "drop_path": 0.0}
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def phases_of(argument: str) -> dict[str, config_lib.Settings]:
    """The settings of each phase by name."""
    settings = settings_lib.of(files.load_config(f"{CONFIG}:{argument}"))
    return dict(phases.resolve(settings))


@functools.cache
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    picture = lambda: rng.normal(size=(BATCH, 32, 16, 3)).astype(np.float32)
    return {
        "image": picture(),
        "image_corrupted": picture(),
        "label": LABELS,
        "camid": np.array([0, 1] * 3, np.int32),
    }


def drawn(model, seed: int):
    """Random variables without gains of 1 or biases of 0."""
    shapes = jax.eval_shape(lambda key: model.init(key, batch(), train=False), jax.random.key(0))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: (0.3 * rng.normal(size=leaf.shape) + 0.5 * (leaf.ndim == 1)).astype(leaf.dtype)
    made = jax.tree.map(draw, shapes)
    made["batch_stats"] = jax.tree.map(np.abs, made["batch_stats"])
    return made


def aligned(phase: str, argument: str = "market1501", **options):
    """A step of the phase: `(student, teacher, key) -> (total, terms, [(batch, outputs) of each pass])`, compiled."""
    settings = phases_of(argument)[phase]
    model = cfat.CFAT(CLASSES, num_cameras=2, sie="camera", **TINY, **options)

    def run(student, teacher, key):
        seen = []

        def apply(variables, batch, **given):
            result = model.apply(variables, batch, **given)
            seen.append((batch["image"], result[0] if "mutable" in given else result))
            return result

        goal = objective.Objective(
            apply=apply,
            preprocess=lambda batch, key: batch,
            passes={name: objective.Pass(**one) for name, one in settings.passes.items()},
            terms=losses.of_turn(settings.losses, "", ()),
            monitors=settings.monitors,
        )
        total, (_, metrics) = goal(student, {"teacher": teacher}, batch(), key)
        return total, metrics, seen

    return model, compiled(run)


@pytest.fixture(scope="module")
def step():
    """The alignment of the published recipe with a student and a teacher of their own, run with two teachers."""
    model, run = aligned("align")
    student, teacher, other = (drawn(model, seed) for seed in (1, 2, 3))
    key = jax.random.key(5)
    return model, student, teacher, run(student, teacher, key), run(student, other, key)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def contrast(clean, corrupted, tau):
    """The weighted contrastive loss, anchor by anchor."""
    vectors = unit(np.concatenate((clean, corrupted)).astype(np.float64))
    total = 0.0
    for a, anchor in enumerate(vectors):
        cosines = vectors @ anchor
        partner = cosines[(a + BATCH) % (2 * BATCH)]
        others = np.delete(cosines, a)
        total += (1 - partner) * (-partner / tau + np.log(np.exp(others / tau).sum()))
    return total / (2 * BATCH)


def triplet(features):
    """Batch-hard with the soft margin, on plain Euclidean distances."""
    apart = np.linalg.norm(features[:, None].astype(np.float64) - features[None], axis=-1)
    same = LABELS[:, None] == LABELS[None]
    gap = np.where(same, apart, 0).max(axis=1) - np.where(same, np.inf, apart).min(axis=1)
    return np.log1p(np.exp(gap)).mean()


def divergence(mean, sigma, other_mean, other_sigma):
    """KL(N(mean, sigma) || N(other)), summed over dimensions, averaged over images; in float64."""
    m, s, n, t = (np.asarray(x, np.float64) for x in (mean, sigma, other_mean, other_sigma))
    return (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(axis=-1).mean()


def code_of(feature, p):
    """Mean and standard deviation of the generator's code."""
    hidden = np.maximum(layers.dense(feature.astype(np.float64), p["encoder"]["linear"]), 0)
    mean, raw = layers.dense(hidden, p["encoder"]["mu"]), layers.dense(hidden, p["encoder"]["sigma"])
    return mean, np.log1p(np.exp(raw)) + 1e-4


# ---- the alignment step


def test_the_teacher_sees_the_clean_picture_and_the_student_the_corrupted_one(step):
    """Two networks, two pictures: the teacher in test mode, the student in training mode."""
    model, student, teacher, (_, _, seen), _ = step
    (clean, from_teacher), (corrupted, from_student) = seen
    np.testing.assert_array_equal(clean, batch()["image"])
    np.testing.assert_array_equal(corrupted, batch()["image_corrupted"])
    wanted = model.apply(teacher, {**batch(), "image": clean}, train=False)
    np.testing.assert_allclose(from_teacher["neck/g"], wanted["neck/g"], rtol=1e-3, atol=1e-4)
    wanted, _ = model.apply(student, {**batch(), "image": corrupted}, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(from_student["neck/g"], wanted["neck/g"], rtol=1e-3, atol=1e-3)


def test_terms_of_the_alignment_are_those_of_the_paper(step):
    """L_tri + L_ID + L_WCL + L_Br, all of weight 1, from the features of the two networks."""
    _, student, _, (total, metrics, seen), _ = step
    teacher, corrupted = seen[0][1], seen[1][1]
    clean, own = np.asarray(teacher["feature/align"]), np.asarray(corrupted["feature/align"])
    p = student["params"]["bfg"]
    np.testing.assert_array_equal(own, corrupted["feature/g"])
    # A bridge, at one place between the two for the whole batch, of unit length.
    between = np.asarray(corrupted["bridge/g"], np.float64)
    ends = unit(np.asarray(clean, np.float64)), unit(np.asarray(own, np.float64))
    shares = [unit(t * ends[0] + (1 - t) * ends[1]) for t in np.linspace(0, 1, 2001)]
    apart = [np.abs(share - between).max() for share in shares]
    assert min(apart) < 1e-3
    assert 0.02 < np.argmin(apart) / 2000 < 0.98
    # The generator reads the student's feature and the bridge.
    for feature, name in ((np.asarray(own), "generated"), (between, "bridge")):
        mean, sigma = code_of(feature, p)
        np.testing.assert_allclose(corrupted[f"{name}/mean"], mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(corrupted[f"{name}/sigma"], sigma, rtol=1e-3, atol=1e-4)
    codes = [corrupted[f"{name}/{what}"] for name in ("generated", "bridge") for what in ("mean", "sigma")]
    logits = np.asarray(corrupted["logits/g"], np.float64)
    wanted = {
        "ce": np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(BATCH), LABELS]),
        "tri": triplet(own),
        "contrast": contrast(clean, own, 0.5),
        "mse": np.mean((np.asarray(corrupted["generated/g"], np.float64) - between) ** 2),
        "kl": divergence(*codes),
        "tri_generated": triplet(np.asarray(corrupted["generated/g"])),
    }
    found = {name.removeprefix("loss/"): float(value) for name, value in metrics.items() if name.startswith("loss/")}
    assert found == pytest.approx(wanted, rel=2e-3, abs=1e-4)
    assert abs(divergence(*codes) - divergence(*codes[2:], *codes[:2])) > 0.01, "the order of its arguments shows"
    assert float(total) == pytest.approx(sum(wanted.values()), rel=1e-3)


def test_the_generated_feature_knows_nothing_of_the_teacher(step):
    """Another teacher moves the bridge, and neither the student's feature nor what is generated from it."""
    *_, (_, _, seen), (_, _, again) = step
    ours, theirs = seen[1][1], again[1][1]
    for name in ("feature/align", "logits/g", "generated/g", "generated/mean", "generated/sigma", "logits/generated"):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    for name in ("bridge/g", "bridge/mean", "generated/teacher"):
        assert np.abs(ours[name] - theirs[name]).max() > 1e-3, name


def test_what_is_decoded_is_drawn_around_the_mean(step):
    """z = mu + eps sigma, with a draw of its own for each feature; two layers to the generated one."""
    _, student, _, (_, _, seen), _ = step
    outputs, p = seen[1][1], student["params"]["bfg"]["decoder"]
    generator = cfat.Generator(WIDTH)
    feature = np.asarray(outputs["feature/align"])
    decode = lambda code: layers.dense(np.maximum(layers.dense(code, p["linear1"]), 0), p["linear2"])
    mean, sigma = code_of(feature, student["params"]["bfg"])
    key = jax.random.key(9)
    found = generator.apply({"params": student["params"]["bfg"]}, feature, key)[0]
    noise = np.asarray(jax.random.normal(key, mean.shape), np.float64)
    np.testing.assert_allclose(found, decode(mean + noise * sigma), rtol=1e-3, atol=1e-3)
    assert np.abs(outputs["generated/g"] - decode(mean)).max() > 1e-2
    assert outputs["generated/g"].min() < -0.1, "targets have both signs: no sigmoid"
    # Running statistics as the student's own feature has just updated them.
    old, own = student["batch_stats"]["head_g"]["bottleneck"], feature.astype(np.float64)
    moments = {"mean": own.mean(axis=0), "var": own.var(axis=0, ddof=1)}
    running = {name: 0.9 * old[name] + 0.1 * moments[name] for name in moments}
    generated = np.asarray(outputs["generated/g"], np.float64)
    neck = layers.batch_norm(generated, student["params"]["head_g"]["bottleneck"], running)
    classified = layers.dense(neck, student["params"]["head_g"]["classifier"])
    np.testing.assert_allclose(outputs["logits/generated"], classified, rtol=1e-3, atol=1e-3)


# ---- updates, phases, networks


def test_terms_of_the_two_updates():
    """Coarse: the contrast; fine: the bridge and the triplet of generated features; identity losses in both."""
    settings = phases_of("market1501,cfat_alternate")["align"]
    assert settings.train.turns == ("coarse", "fine")
    of = {turn: set(losses.of_turn(settings.losses, turn, settings.train.turns)) for turn in settings.train.turns}
    assert of == {"coarse": {"ce", "tri", "contrast"}, "fine": {"ce", "tri", "tri_generated", "mse", "kl"}}
    two = phases_of("market1501,cfat_two_phase")
    assert {turn: set(two[turn].losses) for turn in of} == of
    assert two["coarse"].train.epochs == two["fine"].train.epochs == 60.0
    assert phases_of("market1501")["align"].train.turns == ()
    contrast_term = phases_of("market1501")["align"].losses["contrast"]
    assert (contrast_term["temperature"], contrast_term["weighted"], contrast_term["stop_weight"]) == (0.5, True, False)
    assert set(phases_of("market1501")["bridge"].losses) == {"mse", "kl"}


def test_networks_of_the_phases():
    """The student starts where the teacher started, the teacher is what the first phase trained, and stays."""
    named = phases_of("market1501")
    assert list(named) == ["teacher", "student", "bridge", "align"]
    weights = lambda value: {"params": {"w": np.float32(value)}, "batch_stats": {}}
    at = state.create(weights(0.0))
    transformation = types.SimpleNamespace(init=lambda params: ())
    for number, (name, settings) in enumerate(named.items(), start=1):
        owned = extras.build(settings.extras, num_classes=CLASSES)
        begun = state.begin_phase(at, transformation, owned, jax.random.key(0), settings.start_from)
        start = {"teacher": 0.0, "student": 0.0, "bridge": 2.0, "align": 3.0}[name]
        assert float(begun.params["w"]) == start, name
        # The phase trains its network to the weight of its own number.
        trained = begun.with_variables(weights(float(number)))
        updated = {key: owned[key].update(value, None, trained.variables) if key in owned else value
                   for key, value in trained.extra.items()}  # fmt: skip
        at = trained.replace(extra=updated)
        if name != "teacher":
            assert float(at.extra["teacher"]["params"]["w"]) == 1.0, name


def test_rows_of_a_table_go_on_from_one_start():
    """Teacher and student come from the run of `cfat_start`; rows differ by what follows."""
    assert list(phases_of("demo,cfat_start")) == ["teacher", "student"]
    for row, order in (
        ("cfat_student", ["corrupted_on"]),
        ("cfat_coarse", ["align"]),
        ("cfat", ["bridge", "align"]),
        ("cfat_two_phase", ["bridge", "coarse", "fine"]),
    ):
        named = phases_of(f"demo,{row},started")
        first = next(iter(named.values()))
        assert list(named) == order
        assert first.init.extras == (() if row == "cfat_student" else ("teacher",)), row
        teacher = next(iter(phases_of(f"demo,{row},cfat_from_teacher,started").values()))
        assert (first.init.network, teacher.init.network) == ("", "teacher"), row
        assert teacher.init.extras == first.init.extras, row
        assert not any("extras" in changes for changes in (first.phases[name] for name in order)), row


def test_pictures_and_networks_of_the_phases():
    named = phases_of("market1501")
    corrupted = lambda augment: "corrupt" in augment
    assert [corrupted(named[name].data.augment) for name in named] == [False, True, False, False]
    for name in ("bridge", "align"):
        settings = named[name]
        view = settings.data.views["corrupted"]
        assert (corrupted(view["augment"]), view["geometry"]) == (True, "independent")
        assert set(view["augment"]) == {"corrupt", "flip", "pad_crop"}
        teacher, student = settings.passes["teacher"], settings.passes["student"]
        assert (teacher["network"], teacher["train"], teacher["view"]) == ("extra/teacher", False, "")
        assert (student["network"], student["view"]) == ("params", "corrupted")
        assert student["train"] is (name == "align")
    augment = named["student"].data.augment
    assert augment["corrupt"] == {"policy": "all20", "refresh": "once", "probability": 0.5}
    model = cfat.CFAT(CLASSES, **TINY)
    shapes = jax.eval_shape(lambda key: model.init(key, batch(), train=False), jax.random.key(0))["params"]
    paths = set(trees.flatten(shapes))
    generator = {path for path in paths if path.startswith("bfg/")}
    moved = {
        name: set(optimizer.build(settings.optimizer.as_dict(), settings.schedule, shapes, 99, 9)[1].trainable)
        for name, settings in named.items()
    }
    student = paths - generator
    assert moved == {"teacher": student, "student": student, "bridge": generator, "align": paths}


def test_the_optimizer_is_its_parents_at_the_articles_rate():
    settings = phases_of("market1501")["align"]
    assert settings.optimizer.learning_rate_multipliers == ((".*bias", 2.0), (".*", 1.0))
    assert (settings.data.interpolation, settings.data.test_interpolation) == ("bicubic", "bilinear")
    assert settings.evals.descriptors == {"patch_mean": {"test_feature": "patch_mean"}}
    for preset, normalize in (("market1501", False), ("demo", True)):
        terms = phases_of(preset)["align"].losses
        assert terms["tri"]["normalize"] is terms["tri_generated"]["normalize"] is normalize
        assert terms["tri"]["margin"] == terms["tri_generated"]["margin"] == "soft"
    # The recipe's generator reads raw features and its terms weigh 1; those of the demo weigh more.
    for argument, unit, weight in (
        ("market1501", "raw", 1.0),
        ("demo", "unit", 48.0),
        ("demo,cfat_article_bridge", "raw", 1.0),
    ):
        named = phases_of(argument)
        assert named["align"].model.get("bfg_input", "raw") == unit, argument
        assert {named[phase].losses["mse"]["weight"] for phase in ("bridge", "align")} == {weight}, argument


# ---- with the jigsaw patch module


def test_local_heads_are_trained_and_aligned():
    """Half of each identity loss is the global head's, half the mean of the four local ones; features are joined."""
    argument = "market1501,cfat_jpm"
    named = phases_of(argument)
    for name in ("teacher", "student", "align"):
        terms = named[name].losses
        for loss, output in (("ce", "logits"), ("tri", "feature")):
            weights = {term["on"]: term["weight"] for term in terms.values() if term["on"] in all_heads(output)}
            assert weights == {f"{output}/g": 0.5, **{f"{output}/{part}": 0.125 for part in "1234"}}, (name, loss)
    model, run = aligned("align", argument, jpm=True)
    shapes = jax.eval_shape(lambda key: model.init(key, batch(), train=False), jax.random.key(0))
    total, metrics, seen = jax.eval_shape(run, shapes, shapes, jax.random.key(0))
    assert total.shape == ()
    assert {f"loss/ce_{part}" for part in "1234"} | {f"loss/tri_{part}" for part in "1234"} < metrics.keys()
    assert seen[1][1]["generated/g"].shape == seen[1][1]["bridge/g"].shape == (BATCH, 5 * WIDTH)
    assert seen[1][1]["logits/generated"].shape == (BATCH, CLASSES)


def all_heads(output: str) -> set[str]:
    return {f"{output}/{name}" for name in "g1234"}


def test_the_joined_feature_is_a_quarter_of_each_local_one():
    model = cfat.CFAT(CLASSES, jpm=True, **TINY)
    outputs = {f"feature/{name}": jnp.full((2, 3), float(index)) for index, name in enumerate("g1234", start=1)}
    np.testing.assert_allclose(model.joined(outputs, "feature")[0], np.repeat([1, 0.5, 0.75, 1, 1.25], 3))


# ---- parts of the alignment alone


def test_the_bridge_and_its_code_move_the_student():
    """Neither is a constant; what is generated from the teacher's feature does not depend on the student's."""
    model = cfat.CFAT(CLASSES, **TINY).bind({"params": {"bfg": {}}})
    generator = lambda feature, key: (feature, 2.0 * feature, 3.0 * feature)
    generator.clone = lambda **_: types.SimpleNamespace(apply=lambda variables, *given: generator(*given))
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(1, 4)).astype(np.float32) for _ in range(2))
    of = lambda argument: jax.jacrev(lambda s, t: model._align(generator, s, t), argument)(student, teacher)
    moved = {name: float(np.abs(slope).max()) for name, slope in of(0).items()}
    assert moved.pop("generated/teacher") == 0
    assert min(moved.values()) > 0.1
    moved = {name: float(np.abs(slope).max()) for name, slope in of(1).items()}
    assert [moved[f"generated/{name}"] for name in ("g", "mean", "sigma")] == [0.0] * 3
    assert min(moved[name] for name in ("bridge/g", "bridge/mean", "bridge/sigma", "generated/teacher")) > 0.1


def test_forms_of_the_generator():
    """A deviation never falls to zero; the released code's output is a sigmoid."""
    variables = cfat.Generator(6).init(jax.random.key(0), np.ones((2, 6), np.float32))
    low = jax.tree.map(lambda leaf: leaf, variables)
    low["params"]["encoder"]["sigma"]["bias"] = np.full(16, -100.0, np.float32)
    linear, _, sigma = cfat.Generator(6).apply(low, np.ones((2, 6), np.float32))
    np.testing.assert_allclose(sigma, 1e-4, rtol=1e-3)
    bounded, _, raw = cfat.Generator(6, sigma="raw", out="sigmoid").apply(low, np.ones((2, 6), np.float32))
    np.testing.assert_allclose(bounded, 1 / (1 + np.exp(-np.asarray(linear))), rtol=1e-5)
    assert np.all(np.asarray(raw) < -90)


def test_the_head_learns_from_generated_features():
    feature = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    own = heads.BNNeck(CLASSES).init(jax.random.key(0), feature, train=False)
    held = {kind: {"head_g": own[kind]} for kind in ("params", "batch_stats")}
    logits = lambda params: cfat.CFAT(CLASSES, **TINY).bind({**held, "params": params})._classify(feature)
    slopes = jax.grad(lambda params: jnp.sum(logits(params)[:, 0]))(held["params"])
    assert all(float(jnp.abs(slope).max()) > 0 for slope in jax.tree.leaves(slopes))


def test_what_is_compared_at_test_time():
    rng = np.random.default_rng(0)
    outputs = {name: rng.normal(size=(2, 4)).astype(np.float32) for name in ("feature/g", "neck/g")}
    outputs["tokens"] = rng.normal(size=(2, 3, 4)).astype(np.float32)
    wanted = {"feature": outputs["feature/g"], "neck": outputs["neck/g"], "patch_mean": outputs["tokens"].mean(1)}
    for name, expected in wanted.items():
        found = cfat.CFAT(CLASSES, **TINY, test_feature=name).describe(outputs).features
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)
