"""Samplers: the images of each training batch, as pure functions of `(seed, step)`.

A sampler returns `indices(step)` for any step without drawing the steps before it, so that resumed runs and any number
of threads and processes see the same global batches. The plan of an epoch is drawn at once from a counter-based
generator keyed by `(seed, epoch)` and kept for the two latest epochs.

All identity samplers place the K images of an identity next to each other: a batch is `[P * K]` in the order `(p k)`.
Images with a negative label are never drawn.
"""

from __future__ import annotations

import collections
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import index_cipher
from reid_jax.data import options as options_lib
from reid_jax.plugins import names

_PLANS_KEPT = 2  # around the end of an epoch, threads work on two epochs at the same time


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """Returns an independent random generator for each `(seed, purpose, index)`, in about ten microseconds.

    Args:
        seed: seed of the run; any whole number, taken modulo 2**64.
        purpose: what the numbers are used for; streams of different purposes do not overlap.
        index: number of the epoch, of the image in the run, or the like.
    """
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], np.uint64)
    # Philox counts up in the lowest word, so the higher words separate the streams.
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, index], np.uint64)))


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """Returns the seed of the part `number` of a run, such as a phase; part 0 has the seed of the run.

    Sums such as `seed + 1000 * number` meet the seeds of other runs; these are 64 bits of a hash of all arguments.

    Args:
        seed: seed of the run; any whole number, taken modulo 2**64.
        purpose: what is numbered, such as "phase"; parts of different purposes have different seeds.
        number: at least 0.
    """
    if number == 0:
        return seed
    sequence = np.random.SeedSequence([seed % 2**64, zlib.crc32(purpose.encode())], spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0])


class Sampler:
    """Base class of samplers; a subclass defines `plan` and sets both attributes in its `__init__`.

    Attributes:
        batch_size: images in a global batch.
        batches_per_epoch: global batches in an epoch, equal for all epochs, so that schedules in epochs are exact.
    """

    batch_size: int
    batches_per_epoch: int

    def __init__(self, seed: int):
        """Stores the seed of the run."""
        self._seed = int(seed)
        self._plans: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the plan of an epoch: int64 `[batches_per_epoch, batch_size]`, indices into the split."""
        raise NotImplementedError

    def indices(self, step: int) -> np.ndarray:
        """Returns the images of global batch `step` (from 0, counted over all epochs): int64 `[batch_size]`."""
        epoch, batch = divmod(int(step), self.batches_per_epoch)
        with self._lock:
            if epoch not in self._plans:
                self._plans[epoch] = self._checked(self.plan(epoch))
                if len(self._plans) > _PLANS_KEPT:
                    self._plans.popitem(last=False)
            indices: np.ndarray = self._plans[epoch][batch]
            return indices

    def _checked(self, plan: np.ndarray) -> np.ndarray:
        """Returns a plan after validating its shape and type."""
        expected = (self.batches_per_epoch, self.batch_size)
        if plan.shape != expected or not np.issubdtype(plan.dtype, np.integer):
            raise errors.UserError(
                f"expected integers of shape {list(expected)} from the method `plan` of the sampler "
                f"{type(self).__name__}, got {plan.dtype} of shape {list(plan.shape)}; repair that method."
            )
        return plan

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": collections.OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class _IdentitySampler(Sampler):
    """Base class of samplers of P identities times K images; `self._members[i]` are the images of identity i."""

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        """Groups the images by identity.

        Args:
            labels: int `[N]`, the class of each image of the split; images with a negative label are left out.
            seed: seed of the run.
            identities: P, the number of different identities in a batch.
            images: K, the number of images per identity; identities with fewer are resampled with replacement.

        Raises:
            UserError: there are fewer identities than P, or K < 2.
        """
        super().__init__(seed)
        labels = np.asarray(labels)
        if identities < 1 or images < 2:
            raise errors.UserError(
                f"the identity sampler needs identities >= 1 and images >= 2 (an image alone has no positive pair), "
                f"got identities={identities}, images={images}; use the sampler 'shuffle' for unrelated images."
            )
        kept = np.flatnonzero(labels >= 0)
        order = kept[np.argsort(labels[kept], kind="stable")]
        _, starts = np.unique(labels[order], return_index=True)
        self._members = np.split(order, starts[1:]) if len(order) else []
        if len(self._members) < identities:
            raise errors.UserError(
                f"a batch of {identities} identities was asked for, but the training split has {len(self._members)}; "
                "lower the sampler's `identities` or train on more identities."
            )
        self._identities, self._images = int(identities), int(images)
        self._sizes = np.array([len(members) for members in self._members])
        self.batch_size = self._identities * self._images

    def _take(self, identity: int, rng: np.random.Generator) -> np.ndarray:
        """Returns K images of an identity, without repetition where it has K."""
        members = self._members[identity]
        return rng.choice(members, self._images, replace=len(members) < self._images)


class _Pool:
    """The groups of an epoch that no batch has taken yet, kept so that a batch costs little among many identities.

    Attributes:
        left: int `[I]`, groups left by identity.
        counts: int `[G + 1]`, identities by the number of groups left.
        alive: the identities with groups left, sorted.
    """

    def __init__(self, groups: np.ndarray):
        self.left = groups.copy()
        self.counts = np.bincount(groups)
        self.alive = np.flatnonzero(groups)

    def counts_after(self, drawn: np.ndarray) -> np.ndarray:
        """Returns `counts` as it will be when each of some different identities has given a group."""
        after: np.ndarray = self.counts - np.bincount(self.left[drawn], minlength=len(self.counts))
        after += np.bincount(self.left[drawn] - 1, minlength=len(self.counts))
        return after

    def take(self, drawn: np.ndarray) -> None:
        """Takes a group of each of some different identities."""
        self.counts = self.counts_after(drawn)
        self.left[drawn] -= 1
        empty = drawn[self.left[drawn] == 0]
        if len(empty):
            self.alive = np.delete(self.alive, np.searchsorted(self.alive, empty))


class IdentityGroups(_IdentitySampler):
    """Splits the shuffled images of every identity into groups of K and fills each batch with P groups.

    Identities with fewer than K images are resampled with replacement to a single group; the remainder after the last
    full group is left out of the epoch. A batch draws P different identities, uniformly among those with groups left.

    The published loop stops when fewer than P identities have groups left, so that the length of its epoch varies by a
    few batches below a nominal value. Here every epoch has that nominal length, `sum_i max(n_i // K, 1) // P` (227
    batches of 16 x 4 on Occluded-Duke): where a draw would leave too many groups to too few identities, identities
    that can no longer be postponed are drawn first. So no image repeats within an epoch (short identities aside) and
    no identity repeats within a batch. Where a few identities own most images, the length is the largest possible.

    References:
        MFV, section 4; TransReID (He et al., ICCV 2021), released sampler.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        """Computes the length of an epoch; the arguments are those of all identity samplers."""
        super().__init__(labels, seed, identities=identities, images=images)
        self._groups = np.maximum(self._sizes // self._images, 1)
        batches = int(self._groups.sum()) // self._identities
        left = np.bincount(self._groups)
        while not self._possible(left, batches):
            batches -= 1
        self.batches_per_epoch = batches

    def _possible(self, left: np.ndarray, batches: int) -> bool:
        """Returns whether groups suffice for `batches` full batches; `left[g]` identities have g groups left."""
        return int(left @ np.minimum(np.arange(len(left)), batches)) >= batches * self._identities

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the plan of an epoch, see `Sampler.plan`."""
        rng = generator(self._seed, "sampler", epoch)
        groups = np.concatenate([self._cut(members, rng) for members in self._members])  # [sum of groups, K]
        first = np.cumsum(self._groups) - self._groups
        pool = _Pool(self._groups)
        chosen = np.empty((self.batches_per_epoch, self._identities), np.int64)
        for batch in range(self.batches_per_epoch):
            drawn = self._draw(pool, self.batches_per_epoch - batch, rng)
            pool.take(drawn)
            chosen[batch] = first[drawn] + pool.left[drawn]
        return groups[chosen].reshape(self.batches_per_epoch, self.batch_size)

    def _cut(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if len(members) < self._images:
            return rng.choice(members, (1, self._images), replace=True)
        used = len(members) // self._images * self._images
        return rng.permutation(members)[:used].reshape(-1, self._images)

    def _draw(self, pool: _Pool, remaining: int, rng: np.random.Generator) -> np.ndarray:
        """Draws P identities for the next batch such that the `remaining - 1` batches after it stay possible."""
        drawn = rng.choice(pool.alive, self._identities, replace=False)
        if self._possible(pool.counts_after(drawn), remaining - 1):
            return drawn
        urgent = np.flatnonzero(pool.left >= remaining)  # needed in every remaining batch
        urgent = rng.permutation(urgent)[: self._identities]
        others = rng.choice(np.setdiff1d(pool.alive, urgent), self._identities - len(urgent), replace=False)
        return rng.permutation(np.concatenate([urgent, others]))


class IdentityEpoch(_IdentitySampler):
    """Shows each identity once per epoch, with K images; identities after the last full batch are left out.

    References:
        MGN's released recipe (Wang et al., ACM MM 2018): on Market-1501 with 8 x 4 an epoch is 93 batches.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        """Computes the length of an epoch; the arguments are those of all identity samplers."""
        super().__init__(labels, seed, identities=identities, images=images)
        self.batches_per_epoch = len(self._members) // self._identities

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the plan of an epoch, see `Sampler.plan`."""
        rng = generator(self._seed, "sampler", epoch)
        order = rng.permutation(len(self._members))[: self.batches_per_epoch * self._identities]
        return np.stack([self._take(identity, rng) for identity in order]).reshape(
            self.batches_per_epoch, self.batch_size
        )


class ImageEpoch(_IdentitySampler):
    """Repeats rounds over all identities until an epoch has `images // (P * K)` batches.

    A round shows each identity at most once, like `IdentityEpoch`. The images of an identity are taken in a shuffled
    order, which is shuffled again when it is used up, so that all of them are shown equally often in an epoch.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        """Computes the length of an epoch; the arguments are those of all identity samplers."""
        super().__init__(labels, seed, identities=identities, images=images)
        self.batches_per_epoch = max(1, int(self._sizes.sum()) // self.batch_size)

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the plan of an epoch, see `Sampler.plan`."""
        rng = generator(self._seed, "sampler", epoch)
        per_round = len(self._members) // self._identities
        rounds = -(-self.batches_per_epoch // per_round)
        orders = [rng.permutation(len(self._members))[: per_round * self._identities] for _ in range(rounds)]
        order = np.concatenate(orders)[: self.batches_per_epoch * self._identities]
        decks: dict[int, np.ndarray] = {}
        dealt = np.empty((len(order), self._images), np.int64)
        for row, identity in enumerate(order):
            deck = decks.get(identity, np.empty(0, np.int64))
            if len(deck) < self._images:
                short = self._sizes[identity] < self._images
                deck = self._take(identity, rng) if short else rng.permutation(self._members[identity])
            dealt[row], decks[identity] = deck[: self._images], deck[self._images :]
        return dealt.reshape(self.batches_per_epoch, self.batch_size)


class Shuffle(Sampler):
    """Shows each image at most once per epoch in random order; the remainder after the last full batch is left out."""

    def __init__(self, labels: np.ndarray, seed: int, *, batch_size: int = 64):
        """Selects the images with a label.

        Args:
            labels: int `[N]`; images with a negative label are left out.
            seed: seed of the run.
            batch_size: images in a global batch.

        Raises:
            UserError: there are fewer images than one batch.
        """
        super().__init__(seed)
        self._kept = np.flatnonzero(np.asarray(labels) >= 0)
        if batch_size < 1 or len(self._kept) < batch_size:
            raise errors.UserError(
                f"a batch of {batch_size} images was asked for, but the training split has {len(self._kept)}; "
                "choose a batch_size between 1 and that."
            )
        self.batch_size = int(batch_size)
        self.batches_per_epoch = len(self._kept) // self.batch_size

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the plan of an epoch, see `Sampler.plan`."""
        shuffled = generator(self._seed, "sampler", epoch).permutation(self._kept)
        return shuffled[: self.batches_per_epoch * self.batch_size].reshape(-1, self.batch_size)


class Pool(Sampler):
    """Shows each image of an unlabelled pool once per epoch; the remainder after the last full batch is left out.

    The order is a pure function of seed, epoch and position: nothing is stored for an image, nothing needs resuming,
    and hosts agree without talking.
    """

    ORDERS = ("cipher", "window", "permutation")
    MOST_PERMUTED = 10**6

    def __init__(self, labels: np.ndarray, seed: int, *, batch_size: int = 64, order: str = "cipher"):
        """Counts the images.

        Args:
            labels: [N]; their values are not read.
            seed: seed of the run.
            batch_size: images in a global batch.
            order: "cipher", a random order in constant memory; "window", chunks of 1,024 neighbors mixed in windows of
                64 chunks, for disks that seek slowly; "permutation", a table of up to a million indices.

        Raises:
            UserError: an unknown order, fewer images than one batch, or more than a table may hold.
        """
        super().__init__(seed)
        if order not in self.ORDERS:
            raise errors.unknown("order of a pool", order, self.ORDERS)
        self._size = len(labels)
        if batch_size < 1 or self._size < batch_size:
            raise errors.UserError(
                f"a batch of {batch_size} images was asked for, but the pool has {self._size}; choose a batch_size "
                "between 1 and that."
            )
        if order == "permutation" and self._size > self.MOST_PERMUTED:
            raise errors.UserError(
                f"the order 'permutation' holds a table of up to {self.MOST_PERMUTED:,} images, the pool has "
                f"{self._size:,}; choose 'cipher'."
            )
        self._order = order
        self.batch_size = int(batch_size)
        self.batches_per_epoch = self._size // self.batch_size

    def indices(self, step: int) -> np.ndarray:
        """Returns the images of global batch `step`: int64 `[batch_size]`."""
        if self._order == "permutation":
            return super().indices(step)
        epoch, batch = divmod(int(step), self.batches_per_epoch)
        keys = generator(self._seed, "pool", epoch).integers(2**64, size=index_cipher.ROUNDS, dtype=np.uint64)
        kind = index_cipher.Cipher if self._order == "cipher" else index_cipher.Windows
        return kind(self._size, keys)(np.arange(batch * self.batch_size, (batch + 1) * self.batch_size))

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the plan of an epoch, see `Sampler.plan`; only the order "permutation" has one."""
        shuffled = generator(self._seed, "pool", epoch).permutation(self._size)
        return shuffled[: self.batches_per_epoch * self.batch_size].reshape(-1, self.batch_size)


# Values of a config's `data.sampler.name`, besides `package.module:Name` for samplers of a user's own project.
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "identity_groups": IdentityGroups,
    "identity_epoch": IdentityEpoch,
    "image_epoch": ImageEpoch,
    "shuffle": Shuffle,
    "pool": Pool,
}


def build(config: Mapping[str, Any], labels: np.ndarray, seed: int) -> Sampler:
    """Builds the sampler that a config names.

    Args:
        config: `name`, a key of `SAMPLERS` (default "identity_groups") or `package.module:Name`, and the sampler's
            options, for example `dict(name="identity_groups", identities=16, images=4)` or
            `dict(name="shuffle", batch_size=64)`. A path leads to a subclass of `Sampler`, or to a function that
            returns one; it is called with labels, seed, and the options as keyword arguments.
        labels: int `[N]`, one per image of the split.
        seed: seed of the run.

    Raises:
        UserError: unknown name or option, or labels that the sampler cannot serve.
    """
    options = dict(config.items())
    name = options.pop("name", "identity_groups")
    factory = names.find("sampler", name, SAMPLERS)
    options_lib.check(f"sampler {name!r}", factory, options, positional=2, also=("name",))
    sampler = factory(labels, seed, **options)
    if not isinstance(sampler, Sampler):
        raise errors.UserError(
            f"expected a subclass of reid_jax.data.samplers.Sampler from the sampler {name!r}, got "
            f"{type(sampler).__name__}; derive it from that class."
        )
    for field in ("batch_size", "batches_per_epoch"):
        if not isinstance(getattr(sampler, field, None), int | np.integer) or getattr(sampler, field) < 1:
            raise errors.UserError(
                f"expected a whole number >= 1 in the attribute {field!r} of the sampler {name!r}, got "
                f"{getattr(sampler, field, None)!r}; set it in its __init__."
            )
    return sampler
