"""Passes that read each other, share a batch or take turns, and phases that start from variables kept aside."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax import errors, losses, trees
from reid_jax.config import phases
from reid_jax.config.sections import Settings
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, objective, state, step
from tests.train import toy

READS = {
    # By name the student comes first; it runs after the teacher that it reads.
    "student": objective.Pass(view="corrupted", after=("teacher",), reads=("teacher/feature",)),
    "teacher": objective.Pass(network="extra/teacher", train=False, prefix="teacher/"),
}


class Guided(toy.Toy):
    """Says how far its feature is from the one it finds in the batch."""

    @nn.compact
    def __call__(self, batch, *, train):
        feature = nn.Dense(6, name="embed")(batch["image"].reshape(batch["image"].shape[0], -1))
        outputs = {"feature": feature, "logits": nn.Dense(toy.CLASSES, name="classifier")(feature)}
        if "teacher/feature" in batch:
            outputs["apart"] = feature - batch["teacher/feature"]
        return outputs


def flat(tree):
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}


def same(left, right) -> bool:
    return all(np.array_equal(value, flat(right)[path]) for path, value in flat(left).items())


def test_a_pass_finds_what_it_reads_in_its_batch():
    model, mesh = Guided(), mesh_lib.create_mesh(jax.devices()[:1])
    variables = toy.initial_state(model, mesh).variables
    teacher = jax.tree.map(lambda x: 2.0 * x, variables)
    terms = {"apart": {"loss": "mean_squared", "on": ("apart", "batch/nothing")}}
    batch = {**toy.batch(1, views=("corrupted",)), "nothing": jnp.zeros((16, 6))}

    def loss(params, teacher):
        goal = toy.objective_of(model, terms, READS)
        return goal({"params": params}, {"teacher": teacher}, batch, jax.random.key(0))[0]

    value, (to_student, to_teacher) = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables["params"], teacher)
    outputs = [model.apply(v, {"image": batch[n]}, train=False)["feature"] for v, n in (
        (variables, "image_corrupted"), (teacher, "image"),
    )]  # fmt: skip
    assert float(value) == pytest.approx(float(jnp.mean((outputs[0] - outputs[1]) ** 2)), rel=1e-5)
    assert float(trees.global_norm(to_student)) > 0
    assert float(trees.global_norm(to_teacher)) == 0


def test_a_pass_in_evaluation_mode_trains_its_own_network_and_no_other():
    def apply(variables, batch, *, train, rngs):
        assert not train
        return {"feature": variables["params"]["w"] * batch["image"]}

    def slopes(network):
        goal = objective.Objective(
            apply=apply,
            preprocess=lambda batch, key: batch,
            passes={"main": objective.Pass(network=network, train=False)},
            terms={"square": {"loss": "mean_squared", "on": ("feature", "batch/zero")}},
        )
        batch, key = {"image": jnp.ones((2, 3)), "zero": jnp.zeros((2, 3))}, jax.random.key(0)
        loss = lambda w, other: goal({"params": {"w": w}}, {"other": {"params": {"w": other}}}, batch, key)[0]
        return [float(slope) for slope in jax.grad(loss, (0, 1))(3.0, 5.0)]

    assert slopes("params") == [6.0, 0.0]  # of w squared
    assert slopes("extra/other") == [0.0, 0.0]


def test_passes_run_after_those_they_name():
    make = lambda *after: objective.Pass(after=after)
    passes = {"a": make("b", "c"), "b": make(), "c": make("b"), "d": make("a")}
    assert [name for name, _ in objective.in_order(passes)] == ["b", "c", "a", "d"]
    assert [name for name, _ in objective.in_order({"b": make(), "a": make()})] == ["b", "a"]
    with pytest.raises(errors.UserError, match="but a, b wait for each other; take a name out of `after`"):
        objective.in_order({"a": make("b"), "b": make("a"), "c": make()})
    with pytest.raises(errors.UserError, match="'student': unknown pass to run after 'techer'; did you mean 'teacher'"):
        objective.in_order({"student": make("techer"), "teacher": make()})


def test_a_pass_reads_outputs_of_earlier_passes_only():
    """The teacher's feature is there, but the student that reads it runs first: it does not name the teacher."""
    model, mesh = Guided(), mesh_lib.create_mesh(jax.devices()[:1])
    variables = toy.initial_state(model, mesh).variables
    passes = {**READS, "student": objective.Pass(view="corrupted", reads=("teacher/feature",))}
    goal = toy.objective_of(model, {}, passes)
    batch = toy.batch(1, views=("corrupted",))
    with pytest.raises(
        errors.UserError, match=r"pass 'student': unknown output of an earlier pass .*'teacher/feature'"
    ):
        goal(variables, {"teacher": variables}, batch, jax.random.key(0))


def test_views_of_one_pass_share_a_batch():
    model, mesh = toy.Toy(), mesh_lib.create_mesh(jax.devices()[:1])
    begun = toy.initial_state(model, mesh)
    batch = toy.batch(1, views=("other",))
    terms = {"ce": toy.TERMS["ce"], "far": {**toy.TERMS["ce"], "on": "other/logits"}}
    goal = toy.objective_of(model, terms, {"main": objective.Pass(view=("", "other"))})
    _, (statistics, metrics) = goal(begun.variables, {}, batch, jax.random.key(0))
    both = {"image": np.concatenate((batch["image"], batch["image_other"]))}
    outputs, updated = model.apply(begun.variables, both, train=True, mutable=["batch_stats"])
    assert same(statistics, updated["batch_stats"])
    for name, half in (("ce", slice(0, 16)), ("far", slice(16, 32))):
        expected = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"][half], batch["label"]).mean()
        assert float(metrics[f"loss/{name}"]) == pytest.approx(float(expected), rel=1e-5)


class Modal(toy.Toy):
    """A network whose mode doubles its logits."""

    @nn.compact
    def __call__(self, batch, *, train, mode=""):
        logits = super().__call__(batch, train=train)["logits"]
        return {"logits": 2.0 * logits if mode == "double" else logits}


def test_a_pass_sets_the_mode_of_the_model():
    model, mesh = Modal(), mesh_lib.create_mesh(jax.devices()[:1])
    begun = toy.initial_state(model, mesh)
    terms = {"far": {"loss": "mean_squared", "on": ("logits", "batch/nothing")}}
    batch = {**toy.batch(1), "nothing": jnp.zeros((16, toy.CLASSES))}
    values = [
        toy.objective_of(model, terms, {"main": objective.Pass(mode=mode, train=train)})(
            begun.variables, {}, batch, jax.random.key(0)
        )[0]
        for train in (True, False)
        for mode in ("", "double")
    ]
    assert values[0] > 0
    assert values[2] > 0
    np.testing.assert_allclose([values[1], values[3]], [4 * values[0], 4 * values[2]], rtol=1e-6)


def test_turns_are_updates_one_after_the_other():
    model, mesh = toy.Linear(), mesh_lib.create_mesh(jax.devices()[:1])
    terms = {
        "ce": toy.TERMS["ce"],
        "first": {"loss": "triplet", "on": "logits", "turn": "coarse"},
        "second": {"loss": "cross_entropy", "on": "logits", "weight": 3.0, "turn": "fine"},
    }
    turns = ("coarse", "fine")
    goals = [toy.objective_of(model, losses.of_turn(terms, turn, turns)) for turn in turns]
    assert [set(goal.terms) for goal in goals] == [{"ce", "first"}, {"ce", "second"}]
    assert set(losses.of_turn(terms, "", ())) == set(terms)
    with pytest.raises(errors.UserError, match="'first': unknown turn 'coarse'"):
        losses.of_turn(terms, "fine", ("fine", "other"))

    transformation = optax.sgd(0.1)
    begun = state.begin_phase(toy.initial_state(model, mesh), transformation, {}, jax.random.key(0))
    batch = mesh_lib.to_global(toy.batch(1), mesh)
    make = lambda goal: step.make_train_step(goal, transformation, {}, seed=0, mesh=mesh)
    twice, metrics = make(goals)(mesh_lib.replicate(begun, mesh), batch)
    begun = state.begin_phase(toy.initial_state(model, mesh), transformation, {}, jax.random.key(0))
    once, first = make(goals[0])(mesh_lib.replicate(begun, mesh), batch)
    again, second = make(goals[1])(once, batch)
    assert (int(twice.step), int(again.step)) == (1, 2)
    np.testing.assert_allclose(flat(twice.params)["classifier/kernel"], flat(again.params)["classifier/kernel"], 1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(first["loss"] + second["loss"]), rel=1e-5)
    assert {"loss/ce", "loss/first", "loss/second"} <= set(metrics)


def test_a_phase_starts_from_variables_kept_aside():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    initial = toy.initial_state(toy.Toy(), mesh)
    kept = {"initial": extras.FrozenCopy()}
    first = state.begin_phase(initial, optax.adam(0.1), kept, jax.random.key(0))
    trained = first.replace(params=jax.tree.map(lambda x: x + 1.0, first.params), opt_state=("moments",))
    both = {**kept, "teacher": extras.FrozenCopy()}
    second = state.begin_phase(trained, optax.sgd(0.1), both, jax.random.key(0), "extra/initial")
    assert same(second.params, initial.params)
    assert same(second.extra["teacher"]["params"], trained.params)
    assert second.params["embed"]["kernel"] is not second.extra["initial"]["params"]["embed"]["kernel"]
    # In the phase that makes it, it is where the phase begins.
    assert same(state.begin_phase(initial, optax.sgd(0.1), kept, jax.random.key(0), "extra/initial").params,
                initial.params)  # fmt: skip
    with pytest.raises(errors.UserError, match=r"unknown variables .*'extra/inital'; did you mean 'extra/initial'"):
        state.begin_phase(trained, optax.sgd(0.1), {}, jax.random.key(0), "extra/inital")


def test_phases_say_where_they_start():
    settings = Settings.of({"phase_order": ("a", "b"), "phases": {"a": {}, "b": {"start_from": "extra/initial"}}})
    assert [phase.start_from for _, phase in phases.resolve(settings)] == ["", "extra/initial"]


def test_a_teacher_may_come_from_a_file():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    initial = toy.initial_state(toy.Toy(), mesh)
    read = lambda variables, path: jax.tree.map(lambda x: np.full(x.shape, float(path)), variables)
    built = extras.build({"teacher": {"kind": "frozen_copy", "weights": "7"}}, num_classes=2, load=read)
    begun = state.begin_phase(initial, optax.sgd(0.1), built, jax.random.key(0))
    assert same(begun.params, initial.params)
    assert all((leaf == 7).all() for leaf in jax.tree.leaves(begun.extra["teacher"]))
    with pytest.raises(errors.UserError, match="unknown option of extra 'teacher' 'load'"):
        extras.build({"teacher": {"kind": "frozen_copy", "load": 1}}, num_classes=2)


def test_a_phase_may_start_from_what_a_method_of_the_model_makes():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    initial = toy.initial_state(toy.Toy(), mesh)

    class Prepared:
        def halve(self, variables):
            return {**variables, "params": jax.tree.map(lambda x: x / 2, variables["params"])}

    copies = extras.build({"copy": {"kind": "frozen_copy"}}, num_classes=2)
    begin = functools.partial(state.begin_phase, initial, optax.sgd(0.1), copies, jax.random.key(0))
    begun = begin("model/halve", Prepared())
    assert same(begun.params, jax.tree.map(lambda x: x / 2, initial.params))
    assert same(begun.batch_stats, initial.batch_stats)
    # Averages and teachers begin with the prepared variables, too.
    assert same(begun.extra["copy"]["params"], begun.params)
    with pytest.raises(errors.UserError, match=r"start_from='model/quarter'.*Prepared has none"):
        begin("model/quarter", Prepared())


@pytest.mark.parametrize("teacher_train", [False, True])
def test_a_teacher_runs_in_its_own_mode_and_changes_no_statistics(teacher_train):
    """A network that writes down how it is called, and counts its training passes in its statistics."""
    calls = {}

    def apply(variables, batch, *, train, rngs, mutable=()):
        calls[variables["params"]] = (train, tuple(mutable), jax.random.key_data(rngs["dropout"]).tolist())
        outputs = {"feature": jnp.ones(())}
        return (outputs, {"batch_stats": variables["batch_stats"] + 1.0}) if mutable else outputs

    passes = {
        "teacher": objective.Pass(network="extra/teacher", train=teacher_train, prefix="teacher/"),
        "student": objective.Pass(after=("teacher",)),
    }
    made = objective.Objective(apply, lambda batch, key: dict(batch), passes, {})
    student, teacher = ({"params": name, "batch_stats": jnp.float32(start)} for name, start in ((1.0, 10), (2.0, 20)))
    _, (batch_stats, _) = made(student, {"teacher": teacher}, {"image": jnp.zeros((1, 2))}, jax.random.key(0))
    assert float(batch_stats) == 11.0
    assert calls[1.0][:2] == (True, ("batch_stats",))
    assert calls[2.0][:2] == (teacher_train, ("batch_stats",) if teacher_train else ())
    assert calls[1.0][2] != calls[2.0][2]  # dropout of its own
