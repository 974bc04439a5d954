"""Deliberate mistakes in the optimizer, schedules, extras, the objective and the train step."""

from tests.mutants import entries

_STEP = ("tests/train/test_step.py", "tests/train/test_passes.py", "tests/train/test_state.py")
optimizer = entries.group("training", "reid_jax/train/optimizer.py", "tests/train/test_optimizer.py")
schedules = entries.group(
    "training", "reid_jax/train/schedules.py", "tests/train/test_extras_twin.py", "tests/train/test_schedules.py"
)
extras = entries.group("training", "reid_jax/train/extras.py", "tests/train/test_extras_twin.py", *_STEP)
objective = entries.group("training", "reid_jax/train/objective.py", *_STEP)
step = entries.group("training", "reid_jax/train/step.py", *_STEP)
parts = entries.group("training", "reid_jax/runtime/program_parts.py", "tests/runtime/test_program_parts.py", *_STEP)
micro = entries.group("training", "reid_jax/train/micro_batches.py", "tests/train/test_micro_batches.py")
state = entries.group("training", "reid_jax/train/state.py", "tests/train/test_extras_twin.py", *_STEP)

MUTANTS = (
    # ---- optimizer
    optimizer(
        "def adam(*, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8)",
        "def adam(*, b1: float = 0.9, b2: float = 0.99, epsilon: float = 1e-8)",
        "Adam's default b2 .99",
    ),
    optimizer(
        "def adam(*, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8)",
        "def adam(*, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-3)",
        "Adam's default epsilon 1e-3",
    ),
    optimizer(
        "(jnp.sqrt(v / square_bias) + epsilon)", "jnp.sqrt(v / square_bias + epsilon)", "epsilon inside the root"
    ),
    optimizer("state.nu, grads)", "state.mu, grads)", "Adam: the second moment follows the first"),
    optimizer("b2 * v + (1 - b2) * g * g", "b2 * v + (1 - b1) * g * g", "second moments: b1 for b2"),
    optimizer(
        "largest = jax.tree.map(jnp.maximum, state.largest, square)", "largest = square", "AMSGrad without maximum"
    ),
    optimizer("jnp.sqrt(v / square_bias) + epsilon", "jnp.sqrt(v) + epsilon", "no bias correction"),
    optimizer(
        "optax.trace(decay=momentum, nesterov=nesterov)",
        "optax.trace(decay=momentum, nesterov=not nesterov)",
        "Nesterov reversed",
    ),
    optimizer("optax.trace(decay=momentum, nesterov=nesterov)", "optax.ema(momentum, debias=False)", "damped momentum"),
    optimizer("eps_in_sqrt=False", "eps_in_sqrt=True", "RMSProp: epsilon inside the root"),
    optimizer('DECOUPLED = ("adamw",)', 'DECOUPLED = ("adamw", "adam")', "Adam with decoupled decay"),
    optimizer(
        "[direction, decay] if name in DECOUPLED else [decay, direction]",
        "[direction, decay] if name not in DECOUPLED else [decay, direction]",
        "coupling reversed",
    ),
    optimizer(
        "parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []\n    parts +=",
        "parts = []\n    parts += ",
        "no clipping",
    ),
    optimizer("rates[multipliers[path]]", "rates[1.0]", "multipliers are ignored"),
    optimizer("lambda path: decays[path] == decay", "lambda path: True", "one decay for all"),
    optimizer(
        "sorted({decay for decay in decays.values() if decay})",
        "sorted({decay for decay in decays.values() if decay})[:1]",
        "one decay of several",
    ),
    optimizer(
        "freeze_mask=_select(params, still.__contains__)",
        "freeze_mask=_select(params, lambda path: False)",
        "nothing is frozen",
    ),
    optimizer("RateState(optax.safe_increment(state.step))", "RateState(state.step)", "the rate stands still"),
    optimizer(
        "schedules.build(schedule_config, base_lr, factor, total_steps, steps_per_epoch)",
        "schedules.build(schedule_config, base_lr, factor**2, total_steps, steps_per_epoch)",
        "factors squared",
    ),
    # ---- schedules
    schedules(
        "xp.where(position < warmup, first * (1 - part) + rate * part, after)",
        "xp.where(position < warmup, first * part + rate * (1 - part), after)",
        "warm-up falls",
    ),
    schedules("xp.where(position < warmup, first", "xp.where(position <= warmup, first", "warm-up includes its end"),
    schedules("first * (1 - part) + rate * part", "rate * part", "warm-up from zero"),
    schedules(
        "xp.where(position >= milestone, rate", "xp.where(position > milestone, rate", "milestones one step late"
    ),
    schedules("np.cumprod(factors)", "factors", "factors do not accumulate"),
    schedules("(1 + xp.cos(math.pi * part))", "(1 + xp.cos(0.5 * math.pi * part))", "quarter of a cosine"),
    schedules(
        "low = floor * base\n    value = xp.where(part < 1, low + 0.5",
        "low = floor * rate\n    value = xp.where(part < 1, low + 0.5",
        "floor of the group's rate",
    ),
    schedules(
        "decay_from_warmup: bool = False", "decay_from_warmup: bool = True", "cosine counts from the warm-up's end"
    ),
    schedules("floor: float = 0.002", "floor: float = 0.0", "cosine's floor 0"),
    schedules(
        "milestones: Sequence[int] = (),\n    factor: float | Sequence[float] = 0.1,\n    warmup: int = 0,\n    warmup_start: float = 0.01,",
        "milestones: Sequence[int] = (),\n    factor: float | Sequence[float] = 0.1,\n    warmup: int = 0,\n    warmup_start: float = 0.1,",
        "warm-up starts at a tenth",
    ),
    schedules(
        "return _warmed_up(xp, position, value, rate, warmup, warmup_start * rate)",
        "return _warmed_up(xp, position, value, rate, warmup, warmup_start * base)",
        "multistep's warm-up starts at the base rate",
    ),
    schedules(
        "dtype=np.float64) + first_epoch) * steps_per_epoch",
        "dtype=np.float64)) * steps_per_epoch",
        "first_epoch is ignored",
    ),
    schedules(
        "return round(value * steps_per_epoch) if unit",
        "return int(value * steps_per_epoch) if unit",
        "durations rounded down",
        level="generic",
    ),
    schedules(
        "epoch = jnp.minimum(step // self.steps_per_epoch, len(self.table) - 1)",
        "epoch = jnp.minimum((step + 1) // self.steps_per_epoch, len(self.table) - 1)",
        "epochs begin a step early",
    ),
    schedules(
        'granularity = given.pop("granularity", "epoch")',
        'granularity = given.pop("granularity", "step")',
        "rates move every step by default",
    ),
    schedules("rate = base_lr * multiplier\n", "rate = base_lr\n", "group factor is ignored"),
    schedules("rate + (low - rate) * part, low)", "rate - rate * part, low)", "linear decay ignores the floor"),
    # ---- extras
    extras(
        "value, dict(variables))",
        'value, {**dict(variables), "batch_stats": value["batch_stats"]})',
        "batch statistics are not averaged",
    ),
    extras("decay: float = 0.999", "decay: float = 0.99", "default decay .99"),
    extras(
        '        """Returns the value unchanged."""\n        return value\n\n\n@dataclasses.dataclass(frozen=True)\nclass Centers',
        '        """Returns the value unchanged."""\n        return dict(variables)\n\n\n@dataclasses.dataclass(frozen=True)\nclass Centers',
        "a frozen teacher follows the student",
    ),
    extras(
        "value - self.learning_rate * self.scale * gradient",
        "value - self.learning_rate * gradient",
        "centers: scale is ignored",
    ),
    extras(
        "value - self.learning_rate * self.scale * gradient",
        "value + self.learning_rate * self.scale * gradient",
        "centers move away",
    ),
    extras("learning_rate: float = 0.5", "learning_rate: float = 0.05", "centers' rate .05"),
    extras("return self.trainable\n", "return False\n", "centers are never trained"),
    extras(
        "return jax.random.normal(key, (self.num_classes, dimension))",
        "return jnp.zeros((self.num_classes, dimension))",
        "centers start at zero",
    ),
    # ---- objective
    objective("variables = jax.lax.stop_gradient(extra[name])", "pass", "the teacher is the trained network"),
    objective(
        "return (outputs if trained else jax.lax.stop_gradient(outputs)), batch_stats",
        "return jax.lax.stop_gradient(outputs), batch_stats",
        "no gradient through passes in evaluation mode",
    ),
    objective(
        'return outputs, updated.get("batch_stats", batch_stats)',
        "return outputs, batch_stats",
        "batch statistics are not updated",
    ),
    objective(
        "return jax.lax.stop_gradient(outputs), batch_stats\n",
        'return jax.lax.stop_gradient(outputs), updated.get("batch_stats", batch_stats)\n',
        "a teacher's statistics become the student's",
    ),
    objective("if not each.train:", "if each.train:", "modes reversed"),
    objective('name = f"image_{view}" if view else "image"', 'name = "image"', "every view is the first"),
    objective('batch["image"] = self.join(images)', 'batch["image"] = self.join(images[::-1])', "views in reverse"),
    objective('outputs |= {f"{each.prefix}{name}"', 'outputs |= {f"{name}"', "prefixes are ignored"),
    # ---- step
    step("jax.random.fold_in(key, turn) if turn else key", "key", "turns share a key", level="generic"),
    micro("jnp.broadcast_to(cotangent / parts.count, ", "jnp.broadcast_to(cotangent, ", "a mean's gradient is summed"),
    micro("jax.tree.map(jnp.add, extra_grads, direct)", "extra_grads", "centers get no gradient"),
    micro("return parts.join(stacked)", "return stacked.reshape(whole.shape)", "outputs in another order than labels"),
    micro(
        "jax.tree.map(jnp.add, sums, back(cotangents)[0])", "back(cotangents)[0]", "only the last micro-batch counts"
    ),
    step(
        "objective(variables, {**state.extra, **learned_extra}, batch, key)",
        "objective(variables, state.extra, batch, key)",
        "centers get no gradient",
    ),
    step("extras[name].update(value, extra_grads.get(name), state.variables)", "value", "extras are not updated"),
    step(
        "for turn, (gradients, updated) in enumerate(turns):",
        "for turn, (gradients, updated) in enumerate(turns[:1]):",
        "a single turn",
    ),
    step(
        "        return _counted(state), metrics\n\n    return update",
        "        return state.replace(step=state.step + len(turns)), metrics\n\n    return update",
        "turns count as steps",
    ),
    step(
        "return _counted(state), metrics\n\n    return TrainStep",
        "return state, metrics\n\n    return TrainStep",
        "steps are not counted",
    ),
    step(
        "jax.lax.with_sharding_constraint(found, mesh_lib.placement(found, self._mesh))",
        "jax.lax.with_sharding_constraint(found, mesh_lib.replicated(self._mesh))",
        "every device holds the gradients of all classes",
    ),
    parts(
        "last.get(each, -1) >= end]",
        "last.get(each, -1) > end]",
        "a value that is needed at once is lost",
        level="generic",
    ),
    parts("min(near, key=alive.__getitem__)", "near[0]", "cuts lie anywhere", level="generic"),
    parts("return _described(arguments) == self.arguments", "return True", "arguments of any shape", level="generic"),
    parts("if count < 2 or program.effects or", "if count < 2 or", "what prints is divided", level="generic"),
    micro("jax.random.fold_in(pass_key, index)", "pass_key", "micro-batches share a key", level="generic"),
    # ---- phases
    state("if name not in state.extra or extra.restart", "if name not in state.extra", "restart is ignored"),
    state(
        "return state.replace(opt_state=initial_arrays.evaluated(optimizer.init, state.params))",
        "return state.replace(opt_state=state.opt_state or initial_arrays.evaluated(optimizer.init, state.params))",
        "optimizer state is carried over phases",
    ),
    state("state = state.with_variables(_variables_in_extra(state, start_from))", "pass", "start_from is ignored"),
)
