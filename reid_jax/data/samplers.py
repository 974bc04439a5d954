"""Samplers: which images make up training batch number `step`, as pure functions of `(seed, step)`.

A sampler holds the labels of a split and answers `indices(step)` for any step without having drawn the steps before,
so a resumed run, any number of threads and any number of processes see the same global batches. The plan of one epoch
is drawn at once from a counter-based generator keyed by `(seed, epoch)` and kept for the two newest epochs.

All identity samplers put the K images of an identity side by side: a batch is `[P * K]` in the order `(p k)`.
Images with a negative label belong to nobody and are never drawn.
"""

from __future__ import annotations

import collections
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import options as options_lib
from reid_jax.plugins import names

_PLANS_KEPT = 2  # threads at the end of one epoch and at the start of the next work at the same time


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """A random stream of its own for each `(seed, purpose, index)`; costs about ten microseconds.

    Args:
        seed: seed of the run; any whole number, taken modulo 2**64.
        purpose: what the numbers are for; streams of different purposes do not overlap.
        index: number of the epoch, of the image in the run, ...
    """
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], np.uint64)
    # Philox counts up in the lowest word, so the higher words separate the streams.
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, index], np.uint64)))


class Sampler:
    """Base of the samplers: epoch arithmetic and the store of plans.

    Attributes:
        batch_size: images in one global batch.
        batches_per_epoch: the same for every epoch, so that schedules in epochs are exact.
    """

    batch_size: int
    batches_per_epoch: int

    def __init__(self, seed: int):
        self._seed = int(seed)
        self._plans: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> np.ndarray:
        """Draws an epoch: int64 `[batches_per_epoch, batch_size]`, places in the split."""
        raise NotImplementedError

    def indices(self, step: int) -> np.ndarray:
        """The images of global batch `step` (0-based, counted over all epochs): int64 `[batch_size]`."""
        epoch, batch = divmod(int(step), self.batches_per_epoch)
        with self._lock:
            if epoch not in self._plans:
                self._plans[epoch] = self._checked(self.plan(epoch))
                if len(self._plans) > _PLANS_KEPT:
                    self._plans.popitem(last=False)
            indices: np.ndarray = self._plans[epoch][batch]
            return indices

    def _checked(self, plan: np.ndarray) -> np.ndarray:
        """Returns a plan, after making sure that it has the shape that was announced and holds whole numbers."""
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
    """P identities times K images. `self._members[i]`: places of the images of the i-th identity."""

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        """Args:
        labels: int `[N]`, one per image of the split; negative = nobody's.
        seed: seed of the run.
        identities: P, different identities in a batch.
        images: K, images of each; an identity with fewer is resampled with replacement.

        Raises:
            UserError: fewer identities than P, or K < 2.
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
        self._sizes = np.array([len(one) for one in self._members])
        self.batch_size = self._identities * self._images

    def _take(self, identity: int, rng: np.random.Generator) -> np.ndarray:
        """K images of one identity, different ones where it has K."""
        members = self._members[identity]
        return rng.choice(members, self._images, replace=len(members) < self._images)


class IdentityGroups(_IdentitySampler):
    """Each epoch cuts every identity's shuffled images into groups of K and deals the groups out, P identities a batch.

    Short identities are resampled with replacement to one group; what is left over after the last full group sits the
    epoch out. Batches draw P different identities, uniformly among those that still have a group.

    The published loop stops when fewer than P identities have groups left, so the length of its epoch varies by a few
    batches below a nominal value. Here every epoch has that nominal length, `sum_i max(n_i // K, 1) // P` (227 batches
    of 16 x 4 on Occluded-Duke): a draw that would strand too many groups in too few identities takes the identities
    that must be used now first. So no image comes twice in an epoch (short identities aside) and no batch repeats an
    identity. Where a few identities own most images, the length is the largest for which that is possible.

    References:
        MFV, section 4; TransReID (He et al., ICCV 2021), released sampler.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        super().__init__(labels, seed, identities=identities, images=images)
        self._groups = np.maximum(self._sizes // self._images, 1)
        batches = int(self._groups.sum()) // self._identities
        while not self._possible(self._groups, batches):
            batches -= 1
        self.batches_per_epoch = batches

    def _possible(self, left: np.ndarray, batches: int) -> bool:
        """Whether `batches` full batches of different identities can still be made of the groups `left` `[I]`."""
        return int(np.minimum(left, batches).sum()) >= batches * self._identities

    def plan(self, epoch: int) -> np.ndarray:
        rng = generator(self._seed, "sampler", epoch)
        groups = np.concatenate([self._cut(members, rng) for members in self._members])  # [sum of groups, K]
        first = np.cumsum(self._groups) - self._groups
        left = self._groups.copy()
        chosen = np.empty((self.batches_per_epoch, self._identities), np.int64)
        for batch in range(self.batches_per_epoch):
            drawn = self._draw(left, self.batches_per_epoch - batch, rng)
            left[drawn] -= 1
            chosen[batch] = first[drawn] + left[drawn]
        return groups[chosen].reshape(self.batches_per_epoch, self.batch_size)

    def _cut(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if len(members) < self._images:
            return rng.choice(members, (1, self._images), replace=True)
        used = len(members) // self._images * self._images
        return rng.permutation(members)[:used].reshape(-1, self._images)

    def _draw(self, left: np.ndarray, remaining: int, rng: np.random.Generator) -> np.ndarray:
        """P identities for the next batch, so that the `remaining - 1` batches after it stay possible."""
        alive = np.flatnonzero(left)
        drawn = rng.choice(alive, self._identities, replace=False)
        after = left.copy()
        after[drawn] -= 1
        if self._possible(after, remaining - 1):
            return drawn
        urgent = np.flatnonzero(left >= remaining)  # needed in every batch from now on
        urgent = rng.permutation(urgent)[: self._identities]
        others = rng.choice(np.setdiff1d(alive, urgent), self._identities - len(urgent), replace=False)
        return rng.permutation(np.concatenate([urgent, others]))


class IdentityEpoch(_IdentitySampler):
    """An epoch shows each identity once, with K of its images; identities left after the last full batch sit it out.

    References:
        MGN's released recipe (Wang et al., ACM MM 2018): on Market-1501 with 8 x 4 an epoch is 93 batches.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        super().__init__(labels, seed, identities=identities, images=images)
        self.batches_per_epoch = len(self._members) // self._identities

    def plan(self, epoch: int) -> np.ndarray:
        rng = generator(self._seed, "sampler", epoch)
        order = rng.permutation(len(self._members))[: self.batches_per_epoch * self._identities]
        return np.stack([self._take(one, rng) for one in order]).reshape(self.batches_per_epoch, self.batch_size)


class ImageEpoch(_IdentitySampler):
    """An epoch has `images // (P * K)` batches, made of as many rounds over all identities as that takes.

    A round shows each identity at most once (as `IdentityEpoch`); an identity's images are dealt from its shuffled
    images, which are shuffled anew when used up, so over the rounds of an epoch all its images come equally often.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, identities: int = 16, images: int = 4):
        super().__init__(labels, seed, identities=identities, images=images)
        self.batches_per_epoch = max(1, int(self._sizes.sum()) // self.batch_size)

    def plan(self, epoch: int) -> np.ndarray:
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
    """Plain shuffling: each image at most once an epoch, the remainder after the last full batch dropped."""

    def __init__(self, labels: np.ndarray, seed: int, *, batch_size: int = 64):
        """Args:
        labels: int `[N]`; images with a negative label are left out.
        seed: seed of the run.
        batch_size: images in a global batch.

        Raises:
            UserError: fewer images than one batch.
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
        shuffled = generator(self._seed, "sampler", epoch).permutation(self._kept)
        return shuffled[: self.batches_per_epoch * self.batch_size].reshape(-1, self.batch_size)


# What a config's `data.sampler.name` may be; a path `package.module:Name` stands for a user's own.
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "identity_groups": IdentityGroups,
    "identity_epoch": IdentityEpoch,
    "image_epoch": ImageEpoch,
    "shuffle": Shuffle,
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
