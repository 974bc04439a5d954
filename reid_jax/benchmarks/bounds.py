"""What would bound a program on many chips: arithmetic, memory or the network, by published figures of the devices.

Each of three times is the least that its part can take, as if the others took none: FLOPs over the peak in bfloat16,
bytes over the memory's bandwidth, and bytes sent over the interconnect's bandwidth. A step takes at least the largest
of them, and at most their sum where it reaches all three; small collectives take longer, each by its latency.

References:
    Google Cloud, "TPU v5e" (system architecture): 197 TFLOP/s, 819 GB/s, interconnect of 1,600 Gbit/s a chip.
    NVIDIA, "H100 Tensor Core GPU" data sheet, SXM5: 989 TFLOP/s (dense), 3.35 TB/s, NVLink of 900 GB/s both ways.
    NVIDIA, "DGX H100" data sheet: eight ConnectX-7 of 400 Gbit/s for eight GPUs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from reid_jax.benchmarks import program_text, targets


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a device.

    Attributes:
        flops: FLOP/s in bfloat16, without sparsity.
        memory: bytes/s of its main memory.
        near: bytes/s that it sends to the chips of its node, all links together.
        node: chips of a node; 0 where all are connected alike.
        far: bytes/s that a ring through several nodes sends: the network cards of a node together, each of which
            carries one of as many rings.
    """

    flops: float
    memory: float
    near: float
    node: int = 0
    far: float = 0.0

    def network(self, chips: int) -> float:
        """Returns the bytes/s at which each of some chips sends in a ring through all."""
        return self.near if not self.node or chips <= self.node else min(self.near, self.far)


CHIPS = {
    "v5e": Chip(flops=197e12, memory=819e9, near=1600e9 / 8),
    "h100": Chip(flops=989e12, memory=3.35e12, near=900e9 / 2, node=8, far=8 * 400e9 / 8),
}


def of(target: targets.Target, program: program_text.Program, chips: int, flops: float) -> dict[str, Any]:
    """Returns columns of a table: collectives with their MB, the three times in ms, and the largest of them.

    Args:
        target: devices; those whose figures are not in `CHIPS` have no times.
        program: compiled program of one of them.
        chips: their number.
        flops: of the program on each.
    """
    found = program_text.collectives(program, chips)
    row: dict[str, Any] = {kind.replace("-", "_"): each["count"] for kind, each in found.items()}
    row |= {f"{kind.replace('-', '_')}_MB": each["bytes"] / 1e6 for kind, each in found.items() if each["bytes"]}
    moved, sent = program_text.traffic(program), program_text.sent(found, chips)
    row |= {"sent_MB": sent / 1e6, "traffic_GB": moved / 1e9}
    if chip := CHIPS.get(target.kind):
        times = {
            "arithmetic": flops / chip.flops,
            "memory": moved / chip.memory,
            "network": sent / chip.network(chips),
        }
        row |= {f"{name}_ms": 1e3 * seconds for name, seconds in times.items()}
        row["bound"] = max(times, key=lambda name: times[name])
    return row
