"""The train step: what it computes, on one device and on eight, with views, teachers, centers and micro-batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax import errors, trees
from reid_jax.runtime import compilation, kept_starts, program_parts
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, objective, state, step
from tests.helpers import compiling
from tests.train import toy


def _run(mesh, steps: int = 10, model: toy.Toy | None = None, views: tuple[str, ...] = (), **phase_options):
    model = model or toy.Toy()
    train_state = toy.initial_state(model, mesh)
    phase = toy.phase(model, train_state.params, mesh, steps=(0, steps), views=views, **phase_options)
    train_state = mesh_lib.replicate(phase.begin(train_state), mesh)
    losses = []
    for number in range(1, steps + 1):
        global_batch = mesh_lib.to_global(toy.batch(number, phase.batch_size, views), mesh)
        with jax.transfer_guard("disallow"):
            train_state, metrics = phase.step(train_state, global_batch)
        losses.append(float(metrics["loss"]))
    return train_state, losses, metrics


def _assert_close(left, right, tolerance: float) -> None:
    for name, value in trees.flatten(left).items():
        np.testing.assert_allclose(value, trees.flatten(right)[name], atol=tolerance, rtol=tolerance, err_msg=name)


def test_one_step_is_forward_gradient_and_update():
    model, mesh = toy.Toy(), mesh_lib.create_mesh(jax.devices()[:1])
    train_state = toy.initial_state(model, mesh)
    before = jax.device_get(train_state)
    batch = toy.batch(1)

    def loss(params):
        outputs, _ = model.apply(
            {"params": params, "batch_stats": before.batch_stats}, batch, train=True, mutable=["batch_stats"]
        )
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], batch["label"]).mean()
        d = np.linalg.norm(outputs["feature"][:, None] - outputs["feature"][None], axis=-1)
        same = batch["label"][:, None] == batch["label"][None]
        hinge = np.maximum(0, np.where(same, d, 0).max(1) - np.where(same, np.inf, d).min(1) + 0.3)
        return cross_entropy, hinge.mean()

    phase = toy.phase(model, before.params, mesh)
    train_state, metrics = phase.step(
        mesh_lib.replicate(phase.begin(train_state), mesh), mesh_lib.to_global(batch, mesh)
    )
    cross_entropy, hinge = loss(before.params)
    np.testing.assert_allclose(metrics["loss/ce"], cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/tri"], hinge, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], cross_entropy + hinge, rtol=1e-4)
    assert int(train_state.step) == 1
    # The first SGD step is the rate times the gradient: its norm is what the step reports.
    moved = trees.global_norm(jax.tree.map(jnp.subtract, train_state.params, before.params))
    np.testing.assert_allclose(moved, metrics["update_norm"], rtol=1e-4)
    # Linen's momentum 0.9 is PyTorch's 0.1.
    feature = model.apply(before_variables(before), batch, train=False)["feature"]
    np.testing.assert_allclose(train_state.batch_stats["neck"]["mean"], 0.1 * feature.mean(axis=0), atol=1e-6)


def before_variables(train_state):
    return {"params": train_state.params, "batch_stats": train_state.batch_stats}


def test_loss_falls():
    _, losses, _ = _run(mesh_lib.create_mesh(jax.devices()[:1]), steps=40)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["plain", "dropout"])
def test_one_device_equals_eight(dropout: float):
    one, one_losses, _ = _run(mesh_lib.create_mesh(jax.devices()[:1]), model=toy.Toy(dropout))
    eight, eight_losses, _ = _run(mesh_lib.create_mesh(), model=toy.Toy(dropout))
    np.testing.assert_allclose(one_losses, eight_losses, rtol=1e-5)
    _assert_close(one.params, eight.params, 1e-5)
    _assert_close(one.batch_stats, eight.batch_stats, 1e-5)


def test_classifiers_of_very_many_classes_are_split_over_the_devices(monkeypatch):
    _, whole_losses, _ = _run(mesh_lib.create_mesh())
    monkeypatch.setattr(mesh_lib, "SPLIT_FROM", toy.CLASSES)
    mesh = mesh_lib.create_mesh()
    model = toy.Toy()
    train_state = toy.initial_state(model, mesh)
    phase = toy.phase(model, train_state.params, mesh)
    train_state = mesh_lib.place(phase.begin(train_state), mesh)
    losses = []
    for number in range(1, 11):
        train_state, metrics = phase.step(train_state, mesh_lib.to_global(toy.batch(number, phase.batch_size), mesh))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, whole_losses, rtol=1e-5)
    kernel = train_state.params["classifier"]["kernel"]
    moments = [leaf for leaf in jax.tree.leaves(train_state.opt_state) if leaf.shape == kernel.shape]
    assert moments
    for array in (kernel, *moments):
        assert array.addressable_shards[0].data.size * mesh.size == array.size


def test_teacher_follows_student_and_gets_no_gradient():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    passes = {
        "student": objective.Pass(view="corrupted"),
        "teacher": objective.Pass(view="", network="extra/teacher", train=False, prefix="teacher/"),
    }
    terms = {**toy.TERMS, "imitate": {"loss": "triplet", "on": "teacher/feature", "weight": 1.0}}
    extra = {"teacher": {"kind": "moving_average", "decay": 0.5}}
    options = {"passes": passes, "extra": extra, "views": ("corrupted",)}
    train_state, _, metrics = _run(mesh, steps=3, terms=terms, **options)
    assert np.isfinite(metrics["loss/imitate"])
    # A term that only reads the teacher changes nothing: no gradient passes.
    without, _, _ = _run(mesh, steps=3, terms=toy.TERMS, **options)
    _assert_close(train_state.params, without.params, 0.0)
    assert not np.allclose(
        train_state.extra["teacher"]["params"]["embed"]["kernel"], train_state.params["embed"]["kernel"]
    )


def test_moving_average_is_the_recursion():
    average = extras.MovingAverage(decay=0.9)
    value = average.init(jax.random.key(0), {"params": {"w": jnp.ones(2)}})
    value = average.update(value, None, {"params": {"w": jnp.zeros(2)}})
    np.testing.assert_allclose(value["params"]["w"], 0.9)


def test_frozen_teacher_stays_what_the_phase_began_with():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    train_state, _, _ = _run(mesh, steps=3, extra={"teacher": {"kind": "frozen_copy"}})
    begun = toy.initial_state(toy.Toy(), mesh)
    _assert_close(train_state.extra["teacher"]["params"], begun.params, 0.0)


def test_centers_move_by_their_own_rate():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    terms = {**toy.TERMS, "center": {"loss": "center", "on": ("feature", "extra/centers"), "weight": 0.01}}
    centers = {"kind": "centers", "dimension": 6, "learning_rate": 0.5, "scale": 100.0}
    model = toy.Toy()
    begun = extras.build({"centers": centers}, num_classes=toy.CLASSES)["centers"].init(
        jax.random.fold_in(jax.random.key(7), 0), {}
    )
    train_state, _, _ = _run(mesh, steps=1, terms=terms, extra={"centers": centers}, model=model)
    moved = np.asarray(train_state.extra["centers"] - begun)
    present = np.unique(toy.batch(1)["label"])
    absent = np.setdiff1d(np.arange(toy.CLASSES), present)
    assert np.all(np.abs(moved[present]).max(axis=1) > 1e-3)
    np.testing.assert_array_equal(moved[absent], 0)


def test_monitors_are_logged_and_not_trained_on():
    model, mesh = toy.Toy(), mesh_lib.create_mesh(jax.devices()[:1])
    goal = toy.objective_of(model, monitors={"tri": toy.TERMS["tri"]}, terms={"ce": toy.TERMS["ce"]})
    train_state = toy.initial_state(model, mesh)
    total, (_, metrics) = goal(train_state.variables, {}, toy.batch(1), jax.random.key(0))
    assert float(total) == pytest.approx(float(metrics["loss/ce"]))
    assert metrics["monitor/tri"] > 0


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: objective.Pass(network="teacher"), "'params' or 'extra/<name>'"),
        (lambda: extras.build({"teacher": {"kind": "ema"}}, num_classes=2), "unknown kind of extra 'teacher'"),
        (lambda: extras.build({"t": {"kind": "frozen_copy", "decay": 1}}, num_classes=2), "unknown option of extra"),
    ],
    ids=["network", "kind", "option"],
)
def test_mistakes_are_one_sentence(mistake, message):
    with pytest.raises(errors.UserError, match=message):
        mistake()


def test_unknown_view_is_named():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    with pytest.raises(errors.UserError, match="unknown view 'corrupted'"):
        _run(mesh, steps=1, passes={"main": objective.Pass(view="corrupted")})


def test_randomness_is_a_function_of_seed_and_step():
    keys = [step.step_key(seed, jnp.int32(at)) for seed, at in ((0, 1), (0, 2), (1, 1), (0, 1))]
    data = [tuple(np.asarray(jax.random.key_data(key))) for key in keys]
    assert data[0] == data[3]
    assert len(set(data)) == 3


def test_begin_phase_keeps_earlier_extras():
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    train_state = toy.initial_state(toy.Toy(), mesh)
    transformation = optax.sgd(0.1)
    first = state.begin_phase(train_state, transformation, {"teacher": extras.FrozenCopy()}, jax.random.key(0))
    second = state.begin_phase(
        first.replace(params=jax.tree.map(jnp.zeros_like, first.params)),
        transformation,
        {"teacher": extras.FrozenCopy(), "average": extras.MovingAverage()},
        jax.random.key(0),
    )
    _assert_close(second.extra["teacher"]["params"], train_state.params, 0.0)
    assert float(trees.global_norm(second.extra["average"]["params"])) == 0.0


def test_each_update_of_a_step_draws_its_own_numbers():
    """Two updates on one batch, with random numbers of their own."""

    def objective_named(name):
        def goal(variables, extra, batch, key):
            loss = jnp.sum(variables["params"]["w"] ** 2)
            return loss, (variables["batch_stats"], {name: jax.random.uniform(key)})

        return goal

    update = step.make_update([objective_named("first"), objective_named("second")], optax.sgd(0.25), {})
    begun = state.create({"params": {"w": jnp.ones(2)}}).replace(opt_state=optax.sgd(0.25).init({"w": jnp.ones(2)}))
    after, metrics = update(begun, {"image": jnp.zeros(1)}, jax.random.key(0))
    assert float(metrics["first"]) != float(metrics["second"])
    np.testing.assert_allclose(after.params["w"], 0.25)  # halved twice
    assert float(metrics["loss"]) == pytest.approx(2.0 + 0.5)
    assert int(after.step) == 1


def test_each_step_draws_the_numbers_of_its_seed_and_its_place():
    """So that a resumed run draws what the uninterrupted one would have drawn."""

    def goal(variables, extra, batch, key):
        return jnp.sum(variables["params"]["w"]), (variables["batch_stats"], {"drawn": jax.random.uniform(key)})

    mesh, still = mesh_lib.create_mesh(jax.devices()[:1]), optax.sgd(0.0)
    for seed, at in ((3, 0), (3, 7), (4, 7)):
        begun = state.create({"params": {"w": jnp.ones(2)}}).replace(opt_state=still.init({"w": jnp.ones(2)}))
        placed = mesh_lib.replicate(begun.replace(step=jnp.int32(at)), mesh)
        _, metrics = step.make_train_step(goal, still, {}, seed=seed, mesh=mesh)(placed, {"image": jnp.zeros(1)})
        expected = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), at))
        assert float(metrics["drawn"]) == pytest.approx(float(expected))


@pytest.mark.parametrize(("devices", "length"), [(1, 5_000), (8, 30), (1, 30)])
def test_a_step_compiled_before_and_one_read_from_a_file_make_the_same_numbers(devices, length, tmp_path, monkeypatch):
    monkeypatch.setattr(program_parts, "LENGTH", length)
    monkeypatch.setattr(compilation, "_own_folder", [tmp_path])
    model, mesh = toy.Toy(), mesh_lib.create_mesh(jax.devices()[:devices])

    def run(prepare=None):
        phase = toy.phase(model, toy.initial_state(model, mesh).params, mesh)
        begun = mesh_lib.place(phase.begin(toy.initial_state(model, mesh)), mesh)
        batch = mesh_lib.to_global(toy.batch(1), mesh)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (begun, batch))
        if prepare is not None:
            prepare(phase.step, *shapes)
        return jax.device_get(phase.step(begun, batch))

    def compile_before(train_step, *shapes):
        with compiling.uncached():
            kept = train_step.begin(*shapes).result()
        assert (len(kept.programs) > 2) == (devices == 1 and length == 30)
        kept_starts.give_name(kept, "toy")

    def outline(train_step, *shapes):
        jax.eval_shape(train_step, *shapes)

    def read(train_step, *shapes):
        found = kept_starts.load("toy", list(mesh.devices.flat))
        assert found is not None
        train_step.adopt(lambda: found)
        monkeypatch.setattr(step, "compiled", None)  # nothing is traced

    expected = run()
    for prepare in (outline, compile_before, read):
        jax.tree.map(np.testing.assert_array_equal, run(prepare), expected)


def test_a_step_that_does_not_fit_is_compiled_anew():
    model, mesh = toy.Toy(), mesh_lib.create_mesh(jax.devices()[:1])
    phase = toy.phase(model, toy.initial_state(model, mesh).params, mesh)
    begun = mesh_lib.place(phase.begin(toy.initial_state(model, mesh)), mesh)
    phase.step.adopt(lambda: None)
    phase.step(begun, mesh_lib.to_global(toy.batch(1), mesh))
    other = jax.jit(lambda state, batch, seed: batch).lower(1.0, 2.0, np.uint32(0)).compile()
    assert not step._fits(kept_starts.Kept((other,)), (jnp.float32(1), {"image": jnp.float32(2)}, np.uint32(0)))


@pytest.mark.parametrize("devices", [1, 8])
def test_two_programs_of_a_cpu_make_the_step_that_is_one_elsewhere(devices, monkeypatch):
    """An array as long as one of very many classes is split over the devices, and so is its gradient."""
    monkeypatch.setattr(mesh_lib, "SPLIT_FROM", 16)
    model, mesh = toy.Toy(), mesh_lib.create_mesh(jax.devices()[:devices])
    phase = toy.phase(model, toy.initial_state(model, mesh).params, mesh)
    begun = mesh_lib.place(phase.begin(toy.initial_state(model, mesh)), mesh)
    batch, seed = mesh_lib.to_global(toy.batch(1), mesh), np.uint32(0)
    parts, wiring = phase.step._parts(begun, batch)
    gradients, update = (part.function for part in parts)
    assert wiring is None
    whole = step.compiled(phase.step.pure, begun, mesh)
    expected, metrics = whole(jax.tree.map(jnp.copy, begun), batch, seed)
    found = gradients(begun, batch, seed)
    split = [leaf for leaf in jax.tree.leaves(found) if not leaf.sharding.is_fully_replicated]
    assert bool(split) == (devices > 1)
    after, of_two = update(begun, found)
    _assert_close(after.params, expected.params, 1e-6)
    assert metrics.keys() == of_two.keys()
    np.testing.assert_allclose(of_two["gradient_norm"], metrics["gradient_norm"], rtol=1e-6)
    assert int(after.step) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(begun.params))
    assert [leaf.sharding for leaf in jax.tree.leaves(after)] == jax.tree.leaves(mesh_lib.placement(after, mesh))
