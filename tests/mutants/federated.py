"""Deliberate mistakes in federated training."""

from tests.mutants import entries

_TESTS = ("tests/federated/test_rounds_twin.py", "tests/federated/test_rounds.py")
rounds = entries.group("federated", "reid_jax/federated/rounds.py", *_TESTS)
clients = entries.group("federated", "reid_jax/federated/clients.py", *_TESTS)
options = entries.group("federated", "reid_jax/federated/federation_options.py", *_TESTS)
phase = entries.group("federated", "reid_jax/federated/phase.py", "tests/federated/test_phase_twin.py")

MUTANTS = (
    rounds(
        "distance = 1.0 - jnp.sum(before * after", "distance = 1.0 + jnp.sum(before * after", "cdw: one plus cosine"
    ),
    rounds(
        "distance = 1.0 - jnp.sum(before * after, axis=-1) / jnp.maximum(norms, 1e-12)",
        "distance = 1.0 - jnp.sum(before * after, axis=-1)",
        "cdw: inner product",
    ),
    rounds(
        "jnp.maximum(jnp.mean(distance, axis=-1), 0.0)",
        "jnp.maximum(jnp.sum(distance, axis=-1), 0.0)",
        "cdw: sum over images",
    ),
    rounds(
        "jnp.maximum(jnp.mean(distance, axis=-1), 0.0)",
        "1.0 - jnp.mean(distance, axis=-1)",
        "cdw: those who move least weigh most",
    ),
    rounds(
        'return local, total, _moved(before, after) * (clients["weight"] > 0)',
        'return local, total, clients["weight"]',
        "cdw is uniform",
    ),
    rounds(
        "before = self._features(local, clients, batch, wave.rows, size=wave.size) if",
        "before = 1 + 0 * self._features(local, clients, batch, wave.rows, size=wave.size) if",
        "cdw compares with a constant",
    ),
    rounds(
        "images = self._local_batches(batch, rows, 0, size)",
        "images = self._local_batches(batch, rows, -1, size)",
        "cdw on the last local batch",
    ),
    rounds("_at_position(opt_state, number * self.federation.steps)", "opt_state", "the rate begins anew every round"),
    rounds(
        "_at_position(opt_state, number * self.federation.steps)",
        "_at_position(opt_state, number)",
        "the rate counts rounds as steps",
    ),
    rounds('step=number * client["steps"],', "step=0 * number,", "keys repeat every round"),
    rounds(
        '[client.images if options.weights == "samples" else 1 for',
        '[1 if options.weights == "samples" else client.images for',
        "samples and uniform swapped",
    ),
    rounds(
        "return normalized(np.where(chosen, weights, 0.0))",
        "return np.where(chosen, weights, 0.0)",
        "weights are not normalized",
    ),
    rounds(
        "return normalized(np.where(chosen, weights, 0.0))",
        "return normalized(weights)",
        "absent clients keep their share",
    ),
    rounds(
        'new = {path: jnp.where(total["weight"] > 0, leaf / share, flat[path])',
        'new = {path: jnp.where(total["weight"] > 0, leaf, flat[path])',
        "cdw is not normalized",
    ),
    rounds(
        "scaled = {path: _along(weight, flat[path]) * flat[path]", "scaled = {path: flat[path]", "the average is a sum"
    ),
    rounds(
        'pattern.search(path.removeprefix("params/"))}',
        'not pattern.search(path.removeprefix("params/"))}',
        "all but classifiers is personal",
    ),
    rounds('if options.bn == "local":', 'if options.bn == "average":', "normalization: local and average swapped"),
    rounds(
        'personal |= {path for path in flat if path.split("/", 1)[1].rsplit("/", 1)[0] in layers}',
        'personal |= {path for path in flat if path.startswith("batch_stats/")}',
        "FedBN keeps statistics alone",
    ),
    rounds(
        'self.averaged = trained - personal_paths(variables, dataclasses.replace(options, bn="average"))',
        "self.averaged = trained",
        "classifiers are averaged",
    ),
    rounds(
        'self.averaged = trained - personal_paths(variables, dataclasses.replace(options, bn="average"))',
        "self.averaged = trained - self.personal",
        "evaluation has the initial normalization (FedBN)",
    ),
    rounds(
        'self.averaged = trained - personal_paths(variables, dataclasses.replace(options, bn="average"))',
        'self.averaged = frozenset(path for path in trained if path.startswith("params/")) - personal_paths(variables, dataclasses.replace(options, bn="average"))',
        "statistics are not averaged",
    ),
    rounds(
        "jnp.expand_dims(classes, tuple(range(x.ndim - 1))), x, -jnp.inf)",
        "jnp.expand_dims(classes, tuple(range(x.ndim - 1))), x, x)",
        "classifiers know all classes",
    ),
    rounds('if self.options.personal == "classifiers":', 'if self.options.personal == "none":', "masking reversed"),
    rounds(
        "total + 0.5 * self.options.prox_mu * distance",
        "total + self.options.prox_mu * distance",
        "FedProx without the half",
    ),
    rounds("total + 0.5 * self.options.prox_mu * distance", "total", "FedProx's term is not added"),
    rounds("jnp.sum(jnp.square(leaf - theta[path]))", "jnp.sum(jnp.square(leaf))", "FedProx pulls to zero"),
    rounds(
        'active = place < clients["steps"]',
        'active = place <= clients["steps"]',
        "clients of a wave make a step too many",
    ),
    rounds(
        "step = jax.lax.dynamic_index_in_dim(x, place, 1",
        "step = jax.lax.dynamic_index_in_dim(x, 0 * place, 1",
        "every local step has the first batch",
    ),
    rounds(
        'if self.options.optimizer_state == "kept":\n            own',
        'if self.options.optimizer_state == "fresh":\n            own',
        "kept and fresh swapped",
    ),
    rounds(
        "return self._average(state, total, own), {",
        'return self._average(state, total, state.extra["clients"]), {',
        "clients forget what is theirs",
    ),
    clients(
        "self.per_round = max(1, round(fraction * len(self.clients)))",
        "self.per_round = len(self.clients)",
        "fraction is ignored",
    ),
    clients(
        'samplers.generator(self._seed, "clients", number)',
        'samplers.generator(self._seed, "clients", 0)',
        "the same clients in every round",
    ),
    clients(
        'client_seed = samplers.derived_seed(seed, "client", number)', "client_seed = seed", "clients share a seed"
    ),
    clients("steps=local_epochs * plan.batches_per_epoch", "steps=plan.batches_per_epoch", "local epochs are ignored"),
    clients(
        'options["identities"] = min(options["identities"], identities)', 'options["identities"] = 2', "P is always 2"
    ),
    clients("if identities < 2:", "if identities < 3:", "clients of two identities are skipped"),
    clients(
        "own = np.where(numbers == number, labels, -1)",
        "own = np.where(numbers >= number, labels, -1)",
        "clients share images",
    ),
    clients(
        "np.isin(np.arange(int(labels.max()) + 1), own)",
        "np.isin(np.arange(int(labels.max()) + 1), labels)",
        "every client knows all classes",
    ),
    clients("number * source.steps + local % source.steps", "local % source.steps", "every round has the same images"),
    clients(
        "shard[shuffled] = np.arange(len(shuffled)) % num_clients",
        "shard[shuffled] = np.arange(len(shuffled)) // num_clients % num_clients",
        "uneven shards",
    ),
    options(
        "lr_drops: tuple[float, ...] = (0.8, 0.925)",
        "lr_drops: tuple[float, ...] = (0.5, 0.75)",
        "drops at half and three quarters",
    ),
    options(
        '"milestones_epochs": drops, "factor": 0.1}',
        '"milestones_epochs": drops, "factor": 0.5}',
        "rates halved at the drops",
    ),
    options(
        "drops = tuple(round(drop * self.rounds) for drop in self.lr_drops)",
        "drops = tuple(round(drop * 100) for drop in self.lr_drops)",
        "drops of a hundred rounds",
    ),
    options("rounds: int = 300", "rounds: int = 100", "100 rounds"),
    options("local_epochs: int = 1", "local_epochs: int = 5", "five local epochs"),
    options('weights: str = "samples"', 'weights: str = "uniform"', "uniform weights by default"),
    options('bn: str = "average"', 'bn: str = "local"', "FedBN by default"),
    options('optimizer_state: str = "fresh"', 'optimizer_state: str = "kept"', "optimizer state kept by default"),
    options('personal: str = "classifiers"', 'personal: str = "none"', "FedAvg by default"),
    phase(
        "options.rounds * plan.steps,\n        plan.steps,",
        "options.rounds * plan.steps,\n        1,",
        "an epoch of the schedule is a local step",
    ),
    phase(
        "learning_rates=lambda number: groups.learning_rates(number * plan.steps)",
        "learning_rates=lambda number: groups.learning_rates(number)",
        "the logged rate counts steps",
        level="generic",
    ),
)
