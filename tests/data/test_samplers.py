"""Samplers: functions of (seed, step), full batches of distinct identities, and epoch lengths of the papers."""

import pickle
import sys
import tracemalloc

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import pipeline, records, samplers

P, K = 4, 3
IDENTITY_SAMPLERS = ("identity_groups", "identity_epoch", "image_epoch")


def make_labels(sizes, seed=0):
    """Returns shuffled labels with `sizes[i]` images of identity i."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)


UNEVEN = (1, 2, 3, 4, 7, 9, 12, 13, 30, 5, 6, 3)


def build(name, labels, seed=0, identities=P, images=K):
    if name in ("shuffle", "pool"):
        return samplers.build({"name": name, "batch_size": identities * images}, labels, seed)
    return samplers.build({"name": name, "identities": identities, "images": images}, labels, seed)


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_pure_in_seed_and_step(name):
    labels = make_labels(UNEVEN)
    sampler = build(name, labels)
    steps = range(3 * sampler.batches_per_epoch)
    forward = [sampler.indices(step).copy() for step in steps]
    fresh = pickle.loads(pickle.dumps(build(name, labels)))
    backward = [fresh.indices(step) for step in reversed(steps)][::-1]
    np.testing.assert_array_equal(forward, backward)
    other = build(name, labels, seed=1)
    assert any((other.indices(step) != forward[step]).any() for step in steps)
    epochs = np.reshape(forward, (3, -1))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()
    assert np.shape(forward)[1] == sampler.batch_size == P * K


@pytest.mark.parametrize("order", samplers.Pool.ORDERS)
@pytest.mark.parametrize("size", [1, 2, 1_000, 65_537])
def test_a_pool_shows_each_image_once_an_epoch(size, order):
    """Property 17 of masked pretraining."""
    pool = samplers.build({"name": "pool", "batch_size": 1, "order": order}, np.zeros(size, np.int32), 3)
    pool.batch_size = size  # one batch is the epoch
    pool.batches_per_epoch = 1
    epochs = [pool.indices(step).copy() for step in (0, 1)]
    for indices in epochs:
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(np.sort(indices), np.arange(size))
    if size > 2:
        other = samplers.Pool(np.zeros(size), 4, batch_size=size, order=order).indices(0)
        assert (epochs[0] != epochs[1]).mean() > 0.9
        assert (epochs[0] != other).mean() > 0.9
        # Random, not only permuted: neighbors of a batch are not neighbors of the pool.
        assert np.abs(np.corrcoef(np.arange(size), epochs[0])[0, 1]) < (0.2 if order == "window" else 0.1)


def test_a_large_pool_needs_no_table():
    """Property 17: the hosts' shares cover the batch, and nothing grows with the pool."""
    labels = np.broadcast_to(np.int32(0), 10**8)
    pool = samplers.Pool(labels, 0, batch_size=512)
    tracemalloc.start()
    indices = pool.indices(12_345)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 2**20
    assert len(np.unique(indices)) == 512
    assert indices.max() < 10**8
    assert len(pickle.dumps({key: value for key, value in vars(pool).items() if key != "_lock"})) < 4096
    with pytest.raises(errors.UserError, match="choose 'cipher'"):
        samplers.Pool(labels, 0, order="permutation")
    with pytest.raises(errors.UserError, match="order of a pool"):
        samplers.Pool(labels, 0, order="sorted")
    with pytest.raises(errors.UserError, match="the pool has 3"):
        samplers.Pool(np.zeros(3), 0, batch_size=4)


@pytest.mark.parametrize("name", IDENTITY_SAMPLERS)
@pytest.mark.parametrize("sizes", [UNEVEN, (3,) * 9, (1,) * 4, (50, 1, 1, 1, 1, 1)], ids=str)
def test_batches_are_p_identities_of_k_images(name, sizes):
    labels = make_labels(sizes)
    sampler = build(name, labels)
    for step in range(4 * sampler.batches_per_epoch):
        indices = sampler.indices(step).reshape(P, K)
        drawn = labels[indices]
        assert (drawn == drawn[:, :1]).all()
        assert len(np.unique(drawn[:, 0])) == P
        for row in indices:
            if sizes[labels[row[0]]] >= K:
                assert len(np.unique(row)) == K


def test_groups_use_no_image_twice_in_an_epoch():
    labels = make_labels(UNEVEN)
    sampler = build("identity_groups", labels)
    for epoch in range(30):
        shown, counts = np.unique(sampler.plan(epoch), return_counts=True)
        enough = np.asarray(UNEVEN)[labels[shown]] >= K
        assert (counts[enough] == 1).all()


def test_groups_and_orders_are_drawn_in_each_epoch():
    """Which images form a group, which repeat, and which identities meet differ between epochs."""
    labels = np.repeat(np.arange(9), (2 * K,) * 7 + (2, K)).astype(np.int32)
    groups = build("identity_groups", labels)
    together, short = set(), set()
    for step in range(6 * groups.batches_per_epoch):
        for row in groups.indices(step).reshape(P, K):
            together |= {frozenset(row.tolist())} if labels[row[0]] == 0 else set()
            short |= {tuple(sorted(row.tolist()))} if labels[row[0]] == 7 else set()
    assert len(together) > 4  # two groups each in six epochs
    assert any(len(set(row)) == 1 for row in short)  # with replacement: one of two images may fill a group
    once = build("identity_epoch", labels)
    meet = {frozenset(labels[once.indices(step)].tolist()) for step in range(6 * once.batches_per_epoch)}
    assert len(meet) > 6
    assert set.union(*map(set, meet)) == set(range(9))  # nobody is left out of every epoch


def test_groups_follow_the_published_draw_until_they_must_not():
    # Unless an identity must be drawn, all identities are equally likely in the first batch, whatever their size.
    labels = make_labels((3, 30, 12, 12, 12, 12, 12, 12, 12, 12))
    sampler = build("identity_groups", labels, identities=2)
    first = labels[[sampler.plan(epoch)[0] for epoch in range(1500)]].reshape(-1)
    share = np.bincount(first, minlength=10) / len(first)
    np.testing.assert_allclose(share, 0.1, atol=0.025)


@pytest.mark.parametrize(
    ("sizes", "identities", "batches"),
    [
        ((12,) * 96, 16, 18),  # all groups are used: 96 * 3 / 16
        ((7, 8, 3, 1), 2, 2),  # groups 1, 2, 1, 1: nominal 5 // 2
        ((40, 4), 2, 1),  # an identity owns nearly all images, but cannot fill batches alone
        ((4,) * 15 + (400,), 2, 15),
    ],
)
def test_groups_epoch_length(sizes, identities, batches):
    sampler = build("identity_groups", make_labels(sizes), identities=identities, images=4)
    assert sampler.batches_per_epoch == batches
    assert sampler.plan(0).shape == (batches, identities * 4)


def test_groups_epoch_of_occluded_duke_scale():
    # 702 identities with 15,618 images; the length is sum(max(n // 4, 1)) // 16, 227 for the real lists.
    rng = np.random.default_rng(0)
    sizes = 6 + rng.multinomial(15618 - 6 * 702, rng.dirichlet(np.full(702, 2.0)))
    sampler = build("identity_groups", make_labels(sizes), identities=16, images=4)
    nominal = int(np.maximum(sizes // 4, 1).sum()) // 16
    assert sampler.batches_per_epoch == nominal
    assert 220 <= nominal <= 232
    plan = sampler.plan(0)
    assert len(np.unique(plan)) == plan.size


def test_identity_epoch_shows_each_identity_once():
    labels = make_labels([4] * 751)
    sampler = build("identity_epoch", labels, identities=8, images=4)
    assert sampler.batches_per_epoch == 93  # as the MGN recipe on Market-1501
    identities = labels[sampler.plan(0)].reshape(-1, 4)[:, 0]
    assert len(np.unique(identities)) == len(identities) == 744


def test_image_epoch_length_and_balance():
    sizes = (12,) * 12
    labels = make_labels(sizes)
    sampler = build("image_epoch", labels)
    assert sampler.batches_per_epoch == 144 // (P * K)
    shown, counts = np.unique(sampler.plan(0), return_counts=True)
    assert len(shown) == 144
    assert (counts == 1).all()
    market = build("image_epoch", make_labels([17] * 760 + [16]), identities=8, images=4)
    assert market.batches_per_epoch == 404  # 12,936 // 32


def test_shuffle_uses_each_image_once():
    labels = make_labels(UNEVEN)
    labels[:5] = -1
    sampler = build("shuffle", labels)
    plan = sampler.plan(0)
    assert plan.shape == ((len(labels) - 5) // 12, 12)
    assert len(np.unique(plan)) == plan.size
    assert plan.min() >= 5


@pytest.mark.parametrize("name", IDENTITY_SAMPLERS)
def test_negative_labels_are_never_drawn(name):
    labels = make_labels(UNEVEN)
    labels[labels == 8] = -1
    sampler = build(name, labels)
    assert all((labels[sampler.indices(step)] >= 0).all() for step in range(2 * sampler.batches_per_epoch))


def test_streams_are_apart():
    draws = {
        samplers.generator(seed, purpose, index).random()
        for seed in (0, 1, -1, 2**63)
        for purpose in ("sampler", "geometry/", "appearance/")
        for index in range(5)
    }
    assert len(draws) == 4 * 3 * 5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"identities": 13}, "13 identities was asked for, but the training split has 12"),
        ({"identities": 4, "images": 1}, "images >= 2"),
        ({"identities": 0}, "identities >= 1"),
        ({"name": "identity_group"}, "did you mean 'identity_groups'"),
        ({"name": "shuffle", "batchsize": 3}, "did you mean 'batch_size'"),
        ({"name": "shuffle", "batch_size": 500}, "batch of 500"),
    ],
    ids=str,
)
def test_mistakes_are_named(config, words):
    with pytest.raises(errors.UserError, match=words):
        samplers.build(config, make_labels(UNEVEN), 0)
    with pytest.raises(errors.UserError, match="0"):
        samplers.build({"identities": 2}, np.full(6, -1), 0)


OWN = """
import numpy as np
from reid_jax.data import pipeline, records, samplers


class InOrder(samplers.Sampler):
    def __init__(self, labels, seed, *, batch_size=4):
        super().__init__(seed)
        self.batch_size, self.batches_per_epoch = batch_size, len(labels) // batch_size

    def plan(self, epoch):
        return np.arange(self.batches_per_epoch * self.batch_size).reshape(-1, self.batch_size)


class Flat(InOrder):
    def plan(self, epoch):
        return super().plan(epoch).ravel()


class Outside(InOrder):
    def plan(self, epoch):
        return super().plan(epoch) + 1000


class Unset(samplers.Sampler):
    def __init__(self, labels, seed):
        super().__init__(seed)


def build_in_order(labels, seed, **options):
    return InOrder(labels, seed, **options)


def other(labels, seed):
    return labels
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_samplers.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_samplers"
    sys.modules.pop("own_samplers", None)


@pytest.mark.parametrize("name", ["InOrder", "build_in_order"])
def test_a_sampler_of_the_users_own(own, name):
    sampler = samplers.build({"name": f"{own}:{name}", "batch_size": 5}, make_labels(UNEVEN), 0)
    assert sampler.indices(1).tolist() == [5, 6, 7, 8, 9]
    assert pickle.loads(pickle.dumps(sampler)).indices(sampler.batches_per_epoch).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("InOrdr", {}, "did you mean 'InOrder'"),
        ("InOrder", {"batchsize": 3}, "did you mean 'batch_size'"),
        ("other", {}, "expected a subclass of reid_jax.data.samplers.Sampler .* got ndarray"),
        ("Unset", {}, "expected a whole number >= 1 in the attribute 'batch_size' .* got None"),
        ("Flat", {}, r"expected integers of shape \[\d+, 4\] from the method `plan` of the sampler Flat"),
    ],
)
def test_mistakes_of_the_users_own_are_named(own, name, options, words):
    with pytest.raises(errors.UserError, match=words):
        samplers.build({"name": f"{own}:{name}", **options}, make_labels(UNEVEN), 0).indices(0)


def test_places_outside_the_split_are_named(own):
    split = records.Split("own/train", [{}] * 8, np.zeros(8, np.int32), np.zeros(8, np.int32), tuple("abcdefgh"))
    batches = pipeline.train_batches(split, split.pids, sampler={"name": f"{own}:Outside"}, threads=0)
    with batches, pytest.raises(errors.UserError, match=r"expected places in a split of 8 images .* got 1000 to 1003"):
        next(batches)


def test_parts_of_runs_never_share_a_seed():
    """Phase k of a run must not draw what another run draws; the first has the seed of its run."""
    found = {
        samplers.derived_seed(seed, purpose, number)
        for seed in (*range(120), 1000, 1234, 2000, 10_007, 2**40, -1)
        for purpose in ("phase", "client")
        for number in range(6)
    }
    assert len(found) == 126 * (1 + 2 * 5)
    assert samplers.derived_seed(7, "phase", 0) == 7
    assert samplers.derived_seed(7, "phase", 2) == samplers.derived_seed(7, "phase", 2) < 2**64
