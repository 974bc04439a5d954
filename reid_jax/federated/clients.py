"""Clients of a simulated federation: the training images of each, and its local batches in every round.

A client is a subset of the training split with its own sampler. One stream serves all clients: its batch number `step`
holds, side by side, the local batch of every *slot*, and `RoundBatches` stacks the local steps of a round into one
batch. Everything is a pure function of (seed, round), so a run resumes at any round.

Labels are those of the whole split; a client's own label space is the set of classes that it has images of.
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
NOBODY = -1  # in a slot without a client


@dataclasses.dataclass(frozen=True)
class Client:
    """A client and its data.

    Attributes:
        name: "camera3", "shard0" or a data set's name.
        seed: seed of its sampler and of its training.
        images: number of images.
        classes: bool [N], the classes it has images of.
        sampler: sampler of its local batches; indices count in the whole split.
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
    """Clients with local batches of the same size; their slots are adjacent in the stream.

    Attributes:
        members: numbers of the clients.
        slots: largest number of them in one round.
        size: images in a local batch.
        first_row: first row of their slots in a global batch.
    """

    members: tuple[int, ...]
    slots: int
    size: int
    first_row: int


class Federation:
    """The clients and the plan of every round.

    Args:
        clients: with at least two classes each.
        fraction: share of the clients that takes part in a round, in (0, 1].
        seed: seed of the run; draws the participants.

    Attributes:
        clients: all clients in order of their numbers.
        groups: clients by size of the local batch, largest first.
        steps: local steps of a round; a client with fewer is idle after its last.
        per_round: clients that take part in a round.
        rows: images of one global batch of the stream.
    """

    def __init__(self, clients: Sequence[Client], fraction: float, seed: int) -> None:
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
        """Returns the numbers of the clients in a round (0-based), ascending: int [per_round]."""
        if self.per_round == len(self.clients):
            return np.arange(len(self.clients))
        drawn = samplers.generator(self._seed, "clients", number).permutation(len(self.clients))
        return np.sort(drawn[: self.per_round])

    def slots(self, number: int) -> list[np.ndarray]:
        """Returns, for each group, the client in each of its slots in a round; `NOBODY` in an empty slot."""
        chosen, slots = self.participants(number), []
        for group in self.groups:
            present = [k for k in chosen if k in group.members]
            slots.append(np.array(present + [NOBODY] * (group.slots - len(present))))
        return slots

    @property
    def images_per_round(self) -> int:
        """Expected number of training images in a round."""
        total = sum(client.steps * client.sampler.batch_size for client in self.clients)
        return round(total * self.per_round / len(self.clients))

    def describe(self) -> str:
        """Returns a table of the clients as text."""
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
        """Returns the images of a global batch, int [rows]."""
        number, local = divmod(int(step), self.batches_per_epoch)
        parts = []
        for slots, group in zip(self._federation.slots(number), self._federation.groups, strict=True):
            for client in slots:
                # Images of an empty slot, or of a client without further steps, fill the batch and are not trained on.
                source = self._federation.clients[client if client != NOBODY else group.members[0]]
                parts.append(source.sampler.indices(number * source.steps + local % source.steps))
        return np.concatenate(parts)


class _Stream(Protocol):
    """A closable stream of local batches."""

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...

    def close(self) -> None: ...


class RoundBatches:
    """Batches of whole rounds: every array of the stream's batches [b, ...] with the local steps as second axis.

    Args:
        federation: the plan.
        stream: local batches from the first step of a round on; with several processes, the rows of this process.
    """

    def __init__(self, federation: Federation, stream: _Stream) -> None:
        self._steps, self._stream, self._iterator = federation.steps, stream, iter(stream)

    def __iter__(self) -> RoundBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        gathered: dict[str, np.ndarray] = {}
        for local in range(self._steps):
            for name, value in next(self._iterator).items():
                if not local:
                    gathered[name] = np.empty((value.shape[0], self._steps, *value.shape[1:]), value.dtype)
                gathered[name][:, local] = value
        return gathered

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()


# ---- clients of a training split ------------------------------------------------------------------------------------


def assign(
    kind: str, split: records.Split, labels: np.ndarray, *, num_clients: int, seed: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Assigns every training image to a client.

    Args:
        kind: "camera": one client per camera; "shard": identities divided evenly at random; "dataset": one client per
            data set of a union (`data.sources`).
        split: training split.
        labels: int [N], class of each image.
        num_clients: number of shards.
        seed: seed of the random division.

    Returns:
        int [N] number of each image's client (`NOBODY` for an image of an unknown camera), and the clients' names.

    Raises:
        UserError: an unknown kind, or data that cannot be divided in this way.
    """
    if kind == "camera":
        known = np.unique(split.camids[split.camids >= 0])
        if not len(known):
            raise errors.UserError(f"{split.name} has no camera of any image; use fed.clients='shard'.")
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
    """Returns the federation of a training split; a client with fewer than two identities is skipped, with a warning.

    Args:
        split: training split.
        labels: int [N], class of each image.
        clients: see `assign`.
        num_clients: see `assign`.
        fraction: share of the clients that takes part in a round.
        local_epochs: passes over a client's own epoch in a round.
        sampler: sampler of each client; an identity sampler's P shrinks to the client's number of identities.
        seed: seed of the run.
        client: name of a single client; "" for all of them.

    Raises:
        UserError: data that cannot be divided in this way, an unknown client, or no client with two identities.
    """
    numbers, names = assign(clients, split, labels, num_clients=num_clients, seed=seed)
    if client and client not in names:
        raise errors.unknown("client (fed.client)", client, names)
    built = []
    for number, name in enumerate(names):
        if client not in ("", name):
            continue
        own = np.where(numbers == number, labels, -1)
        identities = len(np.unique(own[own >= 0]))
        if identities < 2:
            LOG.warning("client %s has %d identity, which is too few to learn from: it is skipped.", name, identities)
            continue
        options = dict(sampler)
        if "identities" in options:
            options["identities"] = min(options["identities"], identities)
        client_seed = samplers.derived_seed(seed, "client", number)
        plan = samplers.build(options, own, client_seed)
        built.append(
            Client(
                name,
                client_seed,
                images=int((own >= 0).sum()),
                classes=np.isin(np.arange(int(labels.max()) + 1), own),
                sampler=plan,
                steps=local_epochs * plan.batches_per_epoch,
            )
        )
    if not built:
        raise errors.UserError(
            f"no client of {split.name}{client and f' called {client}'} has two identities; use fewer clients."
        )
    return Federation(built, fraction, seed)
