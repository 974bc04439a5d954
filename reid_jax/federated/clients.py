"""Clients of a simulated federation: which training images each holds, and what each trains on in a round.

A client is a subset of the training split with a sampler of its own. One stream serves all of them: its batch number
`step` holds, side by side, the local batch of every *slot*, and `RoundBatches` gathers the local steps of a round into
one batch of rounds. Everything is a pure function of (seed, round), so that a run resumes in mid-federation.

Labels stay those of the whole split; a client's own label space is the set of classes that it has images of.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from reid_jax import errors
from reid_jax.data import records, samplers

LOG = logging.getLogger(__name__)

KINDS = ("camera", "shard", "dataset")
NOBODY = -1  # in the column "client": a slot without a client, or one whose client has no further local step
_SEED_STRIDE = 10_007  # between the seeds of clients; the first client's is the run's


@dataclasses.dataclass(frozen=True)
class Client:
    """One holder of data.

    Attributes:
        name: "camera3", "shard0" or a data set's name.
        seed: of its sampler and of its training.
        images: number of images.
        classes: bool [N], the classes it has images of.
        sampler: its local batches; images are places in the whole split.
        steps: local updates in a round.
    """

    name: str
    seed: int
    images: int
    classes: np.ndarray
    sampler: samplers.Sampler
    steps: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Clients whose local batches are equally large: their slots stand side by side in the stream.

    Attributes:
        members: their numbers.
        slots: how many of them can take part in one round.
        size: images in a local batch.
        first_row: where their slots begin in a global batch.
    """

    members: tuple[int, ...]
    slots: int
    size: int
    first_row: int

    @property
    def rows(self) -> slice:
        """Their rows of a global batch."""
        return slice(self.first_row, self.first_row + self.slots * self.size)


class Federation:
    """Clients and the plan of every round.

    Attributes:
        clients: in order of their numbers.
        groups: by size of the local batch.
        steps: local steps of a round; a client with fewer rests after its last.
        per_round: clients that take part in a round.
        rows: images of one global batch of the stream.
    """

    def __init__(self, clients: Sequence[Client], fraction: float, seed: int) -> None:
        """Args:
        clients: two classes each at least.
        fraction: share of the clients that takes part in a round, in (0, 1].
        seed: of the run; draws the participants.
        """
        self.clients = tuple(clients)
        self.per_round = max(1, round(fraction * len(self.clients)))
        self.steps = max(client.steps for client in self.clients)
        self._seed = seed
        groups, row = [], 0
        for size in sorted({client.sampler.batch_size for client in self.clients}, reverse=True):
            members = tuple(k for k, client in enumerate(self.clients) if client.sampler.batch_size == size)
            slots = min(len(members), self.per_round)
            groups.append(Group(members, slots, size, row))
            row += slots * size
        self.groups, self.rows = tuple(groups), row

    def participants(self, number: int) -> np.ndarray:
        """The clients of a round (0-based), rising: int [per_round]."""
        if self.per_round == len(self.clients):
            return np.arange(len(self.clients))
        drawn = samplers.generator(self._seed, "clients", number).permutation(len(self.clients))
        return np.sort(drawn[: self.per_round])

    def slots(self, number: int) -> list[np.ndarray]:
        """For each group the client in each of its slots in a round, `NOBODY` where there is none."""
        chosen, filled = self.participants(number), []
        for group in self.groups:
            present = [k for k in chosen if k in group.members]
            filled.append(np.array(present + [NOBODY] * (group.slots - len(present))))
        return filled

    def column(self, number: int) -> np.ndarray:
        """The client that each row trains at each local step of a round, or `NOBODY`: int32 [rows, steps]."""
        steps = np.array([client.steps for client in self.clients])
        clients = np.concatenate(
            [np.repeat(slots, group.size) for slots, group in zip(self.slots(number), self.groups, strict=True)]
        )
        present = (clients >= 0)[:, None] & (np.arange(self.steps) < steps[clients][:, None])
        return np.where(present, clients[:, None], NOBODY).astype(np.int32)

    @property
    def images_per_round(self) -> int:
        """Images that are trained on in a round, on average over the clients."""
        total = sum(client.steps * client.sampler.batch_size for client in self.clients)
        return round(total * self.per_round / len(self.clients))

    def describe(self) -> str:
        """A table of the clients."""
        header = ("client", "images", "identities", "local batch", "steps a round")
        rows = [
            (
                client.name,
                *(f"{value:,}" for value in (client.images, client.classes.sum(), client.sampler.batch_size)),
                str(client.steps),
            )
            for client in self.clients
        ]
        return records.format_table(header, rows)


class SlotSampler(samplers.Sampler):
    """The stream of a federation: batch `round * steps + s` holds every slot's local batch number s of that round."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(seed=0)
        self._federation = federation
        self.batch_size, self.batches_per_epoch = federation.rows, federation.steps

    def indices(self, step: int) -> np.ndarray:
        number, local = divmod(int(step), self.batches_per_epoch)
        found = []
        for slots, group in zip(self._federation.slots(number), self._federation.groups, strict=True):
            for client in slots:
                # What rests is not trained on; it holds images for its shape alone.
                one = self._federation.clients[client if client != NOBODY else group.members[0]]
                found.append(one.sampler.indices(number * one.steps + local % one.steps))
        return np.concatenate(found)


class _Stream(Protocol):
    """A stream of local batches that can be closed."""

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...

    def close(self) -> None: ...


class RoundBatches:
    """Batches of whole rounds: every array of the stream's batches [b, ...] with the local steps as second axis.

    Args:
        federation: the plan.
        stream: local batches from the first step of `first_round` on; of several processes, this one's rows.
        first_round: number of the first round.
        share: this process's rows of a global batch.
    """

    def __init__(self, federation: Federation, stream: _Stream, first_round: int, share: slice) -> None:
        self._federation, self._stream, self._round, self._share = federation, stream, first_round, share
        self._iterator = iter(stream)

    def __iter__(self) -> RoundBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        steps = self._federation.steps
        gathered: dict[str, np.ndarray] = {}
        for local in range(steps):
            for name, value in next(self._iterator).items():
                if not local:
                    gathered[name] = np.empty((value.shape[0], steps, *value.shape[1:]), value.dtype)
                gathered[name][:, local] = value
        gathered["client"] = self._federation.column(self._round)[self._share]
        self._round += 1
        return gathered

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()


# ---- making clients ------------------------------------------------------------------------------------------------


def assign(
    kind: str, split: records.Split, labels: np.ndarray, *, num_clients: int, seed: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Gives every training image to a client.

    Args:
        kind: "camera": one client per camera; "shard": identities dealt out evenly; "dataset": one per data set of a
            union (`data.sources`).
        split: training split.
        labels: int [N], class of each image.
        num_clients: number of shards.
        seed: of the deal.

    Returns:
        int [N] number of each image's client (`NOBODY` for an image of an unknown camera), and the clients' names.

    Raises:
        UserError: unknown kind, or data that cannot be dealt out so.
    """
    if kind == "camera":
        known = np.unique(split.camids[split.camids >= 0])
        if not len(known):
            raise errors.UserError(f"{split.name} knows no camera of any image; use fed.clients='shard'.")
        numbers = np.where(split.camids >= 0, np.searchsorted(known, split.camids), NOBODY)
        return numbers, tuple(f"camera{camera}" for camera in known)
    if kind == "shard":
        classes = np.unique(labels[labels >= 0])
        if not 1 <= num_clients <= len(classes):
            raise errors.UserError(
                f"expected fed.num_clients between 1 and the {len(classes)} identities of {split.name}, got "
                f"{num_clients}; change it."
            )
        shuffled = samplers.generator(seed, "shards", 0).permutation(classes)
        shard = np.empty(int(classes.max()) + 1, np.int64)
        shard[shuffled] = np.arange(len(shuffled)) % num_clients
        return np.where(labels >= 0, shard[labels], NOBODY), tuple(f"shard{k}" for k in range(num_clients))
    if kind == "dataset":
        origins = [name.split("/", 1)[0] for name in split.filenames]
        names = tuple(dict.fromkeys(origins))
        if "+" not in split.name or len(names) < 2:
            raise errors.UserError(
                f"fed.clients='dataset' needs training images of several data sets, got those of {split.name}; name "
                "them in data.sources."
            )
        return np.array([names.index(origin) for origin in origins]), names
    raise errors.unknown("kind of clients (fed.clients)", kind, KINDS)


def build(
    split: records.Split,
    labels: np.ndarray,
    *,
    clients: str,
    num_clients: int,
    fraction: float,
    local_epochs: int,
    sampler: Mapping[str, Any],
    seed: int,
    client: str = "",
) -> Federation:
    """Makes the clients of a training split. A client with fewer than two identities is skipped, with a warning.

    Args:
        split: training split.
        labels: int [N], class of each image.
        clients: see `assign`.
        num_clients: see `assign`.
        fraction: share of the clients that takes part in a round.
        local_epochs: passes over a client's own epoch in a round.
        sampler: of each client; an identity sampler's P shrinks to the client's number of identities.
        seed: of the run.
        client: name of the only one to make; "" makes all.

    Raises:
        UserError: data that cannot be dealt out so, an unknown client, or nobody has two identities.
    """
    numbers, names = assign(clients, split, labels, num_clients=num_clients, seed=seed)
    if client and client not in names:
        raise errors.unknown("client (fed.client)", client, names)
    made = []
    for number, name in enumerate(names):
        if client not in ("", name):
            continue
        own = np.where(numbers == number, labels, -1)
        identities = len(np.unique(own[own >= 0]))
        if identities < 2:
            LOG.warning("client %s has %d identity and nothing to tell apart: it is skipped.", name, identities)
            continue
        options = dict(sampler)
        if "identities" in options:
            options["identities"] = min(options["identities"], identities)
        client_seed = seed + _SEED_STRIDE * number
        plan = samplers.build(options, own, client_seed)
        made.append(
            Client(
                name,
                client_seed,
                images=int((own >= 0).sum()),
                classes=np.isin(np.arange(int(labels.max()) + 1), own),
                sampler=plan,
                steps=local_epochs * plan.batches_per_epoch,
            )
        )
    if not made:
        raise errors.UserError(
            f"no client of {split.name}{client and f' called {client}'} has two identities; use fewer clients."
        )
    return Federation(made, fraction, seed)
