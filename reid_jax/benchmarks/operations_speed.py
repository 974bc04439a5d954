"""How fast the 3x3 convolutions of a ResNet run, beside a plain matrix product of as many operations: a roofline.

A train step runs each convolution three times: forward, for the gradient of its input, and for that of its weights. The
formulations are those of `ops.convolution` for the backend at hand; XLA's own convolution stands beside them where ours
is another. With PyTorch, the same calls of its library are timed in turn with them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import errors
from reid_jax.benchmarks import programs
from reid_jax.ops import convolution

Row = dict[str, Any]

OPERATIONS = ("forward", "input gradient", "weight gradient")
TAPS = 9
IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Stage:
    """Maps of a stage: their size and number of channels."""

    height: int
    width: int
    channels: int

    def flops(self, images: int) -> int:
        """Returns the operations of one convolution, or of one of its gradients."""
        return 2 * images * self.height * self.width * TAPS * self.channels**2


# Of a ResNet-50 with the last stride 1, at 256 x 128.
STAGES = (Stage(64, 32, 64), Stage(32, 16, 128), Stage(16, 8, 256), Stage(16, 8, 512))


def measure(
    batches: Sequence[int | None] = (None,),
    *,
    stages: Sequence[Stage] = STAGES,
    repetitions: int = 5,
    torch: bool = False,
) -> list[Row]:
    """Returns a row for each stage and operation, by the fastest of calls taken in turn.

    Args:
        batches: images of a batch; None is 8.
        stages: sizes of the maps.
        repetitions: number of timed calls of each, after one that is not.
        torch: also times PyTorch's.

    Returns:
        Rows with `what`, `operation`, `gflop`, the GFLOP/s of ours (`gflop_per_s`), of XLA's own convolution
        (`native`) and of a matrix product [positions, 9 C] x [9 C, C] in XLA (`product`), with PyTorch also of its
        convolution (`torch`) and the ratio of ours to it (`speed_of_torch`); and the `load` of the machine.

    Raises:
        UserError: PyTorch does not see the GPU that JAX runs on.
    """
    each = [(batch or IMAGES, stage, operation) for batch in batches for stage in stages for operation in OPERATIONS]
    return [_row(stage, images, operation, repetitions, torch) for images, stage, operation in each]


def _row(stage: Stage, images: int, operation: str, repetitions: int, torch: bool) -> Row:
    runs = _programs(stage, images, operation)
    if torch:
        runs["torch"] = _torch(stage, images, operation)
    gflop = stage.flops(images) / 1e9
    timed = programs.alternate(runs, repetitions)
    row: Row = {
        "what": f"{stage.channels} channels, {stage.height}x{stage.width}",
        "operation": operation,
        "batch": images,
        "gflop": gflop,
        # Of the fastest call: what an operation reaches, where other programs only ever add time.
        **{name: gflop / min(seconds) for name, (seconds, _) in timed.items()},
    }
    row |= {"speed_of_torch": row["gflop_per_s"] / row["torch"]} if torch else {}
    return row | {"load": round(os.getloadavg()[0], 1)}


def _programs(stage: Stage, images: int, operation: str) -> dict[str, Callable[[], None]]:
    """Returns an operation in our formulation and in XLA's own, and the matrix product."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    maps = (images, stage.height, stage.width, stage.channels)
    values = {"x": noise(*maps), "kernel": noise(3, 3, stage.channels, stage.channels), "slope": noise(*maps)}

    def of(formulation: str) -> programs.Program:
        def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return convolution.convolution(x, kernel, formulation=formulation)

        def run(values: Mapping[str, jax.Array]) -> jax.Array:
            x, kernel = values["x"], values["kernel"]
            if operation == "forward":
                return forward(x, kernel)
            of_input = operation == "input gradient"
            linear = (lambda x: forward(x, kernel)) if of_input else (lambda kernel: forward(x, kernel))
            gradient: jax.Array = jax.vjp(linear, x if of_input else kernel)[1](values["slope"])[0]
            return gradient

        return programs.Program.compile(run, values, (), images)

    patches = noise(images * stage.height * stage.width, TAPS * stage.channels)
    matrix = values["kernel"].reshape(TAPS * stage.channels, stage.channels)
    product = programs.Program.compile(jnp.matmul, patches, (matrix,), images)
    return {"gflop_per_s": of("auto"), "native": of("native"), "product": product}


def _torch(stage: Stage, images: int, operation: str) -> Callable[[], None]:
    """Returns an operation of PyTorch, channels last."""
    import torch

    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise errors.UserError("expected a PyTorch that sees the GPU; install its CUDA build, or leave out --torch.")
    torch.set_float32_matmul_precision("highest")

    def noise(*shape: int) -> Any:
        values = torch.randn(*shape, device="cpu" if on_cpu else "cuda")
        return values.contiguous(memory_format=torch.channels_last)

    maps = (images, stage.channels, stage.height, stage.width)
    x, kernel, slope = noise(*maps), noise(stage.channels, stage.channels, 3, 3), noise(*maps)
    wanted = [operation == "input gradient", operation == "weight gradient", False]
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, transposed, its padding, groups

    def run() -> None:
        with torch.inference_mode():
            if operation == "forward":
                torch.nn.functional.conv2d(x, kernel, padding=1)
            else:
                torch.ops.aten.convolution_backward(slope, x, kernel, None, *geometry, wanted)
            if not on_cpu:
                torch.cuda.synchronize()

    return run
