"""The section `fed` of a config: who the clients are, what they share, and how the server averages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from reid_jax import errors
from reid_jax.federated import clients as clients_lib

PERSONAL: dict[str, str] = {"classifiers": r"(^|/)classifier", "none": r"(?!)"}  # patterns of paths below "params"
WEIGHTS = ("samples", "uniform", "cdw")
BATCH_NORM = ("average", "local")
OPTIMIZER_STATE = ("fresh", "kept")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a federation.

    Attributes:
        clients, client, num_clients, fraction, local_epochs: see `reid_jax.federated.clients.build`.
        rounds: communication rounds.
        personal: "classifiers" stay on the client (FedPav); "none": everything is averaged (FedAvg).
        weights: weights of the clients in the average, normalized to the sum 1: "samples", the client's number of
            images; "uniform"; or "cdw", the cosine distance weight: how far (1 - cosine) the client's training moved
            the features of its first local batch.
        bn: "average" treats batch normalization like the rest, running statistics included; "local" keeps its
            parameters and statistics on the client (FedBN).
        optimizer_state: "fresh" at the start of each round, or "kept" on the client.
        lr_drops: fractions of the rounds after which the rate falls to a tenth; empty: the config's schedule, a round
            counting as an epoch.
        prox_mu: weight of FedProx's term, mu / 2 times the squared distance to the round's theta.
        side_by_side: clients that one compiled step advances together. They are vectorized, and distributed over the
            devices where there are at least as many of them as devices.
    """

    clients: str = "camera"
    client: str = ""
    num_clients: int = 8
    fraction: float = 1.0
    rounds: int = 300
    local_epochs: int = 1
    personal: str = "classifiers"
    weights: str = "samples"
    bn: str = "average"
    optimizer_state: str = "fresh"
    lr_drops: tuple[float, ...] = (0.8, 0.925)
    prox_mu: float = 0.0
    side_by_side: int = 1

    def __post_init__(self) -> None:
        for name, known in {
            "clients": clients_lib.KINDS,
            "personal": tuple(PERSONAL),
            "weights": WEIGHTS,
            "bn": BATCH_NORM,
            "optimizer_state": OPTIMIZER_STATE,
        }.items():
            if getattr(self, name) not in known:
                raise errors.unknown(f"value of fed.{name}", str(getattr(self, name)), known)
        for name in ("num_clients", "rounds", "local_epochs", "side_by_side"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise errors.UserError(f"fed.{name} must be a whole number above 0, but is {getattr(self, name)!r}.")
        if not 0 < self.fraction <= 1:
            raise errors.UserError(f"fed.fraction must be above 0 and at most 1, but is {self.fraction!r}.")
        if self.prox_mu < 0 or any(not 0 < drop < 1 for drop in self.lr_drops):
            raise errors.UserError("fed.prox_mu must be at least 0 and fed.lr_drops between 0 and 1; change them.")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Options:
        """Returns the options of a config's section.

        Raises:
            UserError: an unknown key, or a value out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in config:
            if key not in known:
                raise errors.unknown("key of the section fed", key, known)
        return cls(**config)

    def schedule(self, otherwise: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the learning-rate schedule, in epochs of one round each; `otherwise` where `lr_drops` is empty."""
        if not self.lr_drops:
            return dict(otherwise)
        drops = tuple(round(drop * self.rounds) for drop in self.lr_drops)
        return {"name": "multistep", "milestones_epochs": drops, "factor": 0.1}
