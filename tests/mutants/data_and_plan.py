"""Deliberate mistakes in images, augmentation, samplers, and in what a config becomes."""

from tests.mutants import entries

images = entries.group("data", "reid_jax/ops/images.py", "tests/ops/test_images.py")
transforms = entries.group(
    "data", "reid_jax/data/transforms.py", "tests/data/test_published_defaults.py", "tests/data/test_transforms.py"
)
samplers = entries.group("data", "reid_jax/data/samplers.py", "tests/data/test_samplers.py")
plan = entries.group("training", "reid_jax/runs/plan.py", "tests/runs/test_plan_twin.py")

MUTANTS = (
    images("pixels = pixels / 255", "pixels = pixels / 256", "divided by 256"),
    images(
        "return (pixels - center) / jnp.asarray(std",
        "return (pixels - center) * jnp.asarray(std",
        "multiplied by the deviation",
    ),
    images("(rows >= top) & (rows < bottom)", "(rows > top) & (rows < bottom)", "boxes begin a row late"),
    images(
        "(columns >= left) & (columns < right)", "(columns >= left) & (columns <= right)", "boxes end a column late"
    ),
    images(
        "return jnp.where(inside, value, images)",
        "return jnp.where(inside, images, value)",
        "all but the box is filled",
    ),
    images('"mean_raw": (0.485, 0.456, 0.406)', '"mean_raw": (0.0, 0.0, 0.0)', "mean_raw is the mean"),
    images('"b (r y) (c x) d -> b (r c) (y x d)"', '"b (r y) (c x) d -> b (c r) (y x d)"', "patches by columns"),
    images(
        "jax.random.normal(key, images.shape, jnp.float32)",
        "jax.random.uniform(key, images.shape, jnp.float32)",
        "uniform noise",
    ),
    transforms(
        "table[left], table[right] = right, left", "table[left], table[right] = left, right", "sides are not exchanged"
    ),
    transforms(
        'if name == "parts" and self.flip_swap_lr:',
        'if name == "parts" and not self.flip_swap_lr:',
        "exchange reversed",
    ),
    transforms(
        "if rng.random() >= self.probability:\n            return element\n        return self.mirror(element)",
        "if rng.random() < self.probability / 2:\n            return element\n        return self.mirror(element)",
        "three quarters are flipped",
    ),
    transforms(
        'changed = {**element, "image": cv2.flip(element["image"], 1)}',
        'changed = {**element, "image": cv2.flip(element["image"], 0)}',
        "upside down",
    ),
    transforms(
        "rng.integers(0, 2 * self.pad + 1, size=2) - self.pad",
        "rng.integers(0, self.pad + 1, size=2)",
        "crops shift one way",
    ),
    transforms(
        "_shift(element[name], int(down), int(right), 0)",
        "_shift(element[name], int(right), int(down), 0)",
        "maps shift otherwise",
    ),
    transforms("pad: int = 10", "pad: int = 4", "default padding 4"),
    samplers("used = len(members) // self._images * self._images", "used = self._images", "one group of an identity"),
    samplers(
        "drawn = rng.choice(pool.alive, self._identities, replace=False)",
        "drawn = np.asarray(pool.alive)[: self._identities]",
        "identities in order",
    ),
    samplers(
        "self.batches_per_epoch = len(self._members) // self._identities",
        "self.batches_per_epoch = int(self._sizes.sum()) // self.batch_size",
        "an epoch by images",
    ),
    samplers(
        "self.batches_per_epoch = max(1, int(self._sizes.sum()) // self.batch_size)",
        "self.batches_per_epoch = max(1, len(self._members) // self._identities)",
        "an epoch by identities",
    ),
    samplers("replace=len(members) < self._images", "replace=True", "always with replacement"),
    samplers(
        'shuffled = generator(self._seed, "sampler", epoch)',
        'shuffled = generator(self._seed, "sampler", 0)',
        "the same order every epoch",
    ),
    plan('"decay": decay}} if decay else {}', '"decay": 0.0}} if decay else {}', "the average is the last state"),
    plan(
        "transformation, groups = optimizer.build(\n            settings.optimizer.as_dict(), settings.schedule, params, total * updates, steps_per_epoch * updates",
        "transformation, groups = optimizer.build(\n            settings.optimizer.as_dict(), settings.schedule, params, total * updates, steps_per_epoch",
        "epochs of turns last one turn",
    ),
    plan(
        "total = max(1, round(settings.train.epochs * steps_per_epoch))",
        "total = max(1, round(settings.train.epochs) * 10)",
        "ten steps an epoch",
    ),
    plan(
        'math.log(2) if term.get("margin") == "soft"',
        '0.0 if term.get("margin") == "soft"',
        "a collapsed soft triplet is 0",
    ),
    plan("-(-images // self.first_devices)", "-(-images // self.mesh.size)", "the devices at the start are forgotten"),
)
