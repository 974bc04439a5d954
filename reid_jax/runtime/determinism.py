"""Runs that repeat bit for bit on the same GPUs: the flags of XLA behind `--deterministic`.

On a CPU a run repeats to the last bit as it is. On a GPU XLA times several kernels for a product or a convolution and
takes the fastest, which may be another one the next time, and some kernels add in the order in which threads arrive.
XLA reads its flags when it starts the first device, so they are set before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from reid_jax import errors

FLAG = "--deterministic"
HELP = "Choose only kernels that give the same bits in every run on the same GPUs; slower (docs/speed.md)."
VARIABLE = "XLA_FLAGS"
# The first excludes kernels without a fixed order, and the timing that chooses between kernels. Without timing, XLA's
# own kernels for matrix products (Triton) can lack a tiling for a shape, which ends the compilation; cuBLAS does not.
FLAGS = {"--xla_gpu_deterministic_ops": "true", "--xla_gpu_enable_triton_gemm": "false"}
_YES, _NO = ("", "1", "true", "yes"), ("0", "false", "no")


def taken_from(arguments: list[str]) -> tuple[bool, list[str]]:
    """Returns whether `--deterministic` is among arguments, and the other arguments.

    Raises:
        UserError: the flag has another value than true or false.
    """
    given, rest = False, []
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--nodeterministic":
            given = False
        elif flag != FLAG:
            rest.append(argument)
        elif value.lower() not in _YES + _NO:
            raise errors.UserError(f"expected {FLAG} without a value, or true or false, got {value[:40]!r}; change it.")
        else:
            given = value.lower() in _YES
    return given, rest


def enable(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds the flags to the environment that XLA reads; processes that this one starts inherit them.

    Args:
        environment: the environment that is changed.

    Raises:
        UserError: XLA has read its flags already, or the environment asks for the opposite.
    """
    if active(environment):
        return
    given = environment.get(VARIABLE, "").split()
    for flag in given:
        name, _, value = flag.partition("=")
        if name in FLAGS and value.lower() not in (_YES if FLAGS[name] == "true" else _NO):
            raise errors.UserError(
                f"expected {VARIABLE} that agrees with {FLAG}, got {flag[:80]}; leave one of them out."
            )
    if _has_started():
        raise errors.UserError(
            f"expected {FLAG} before the first use of a device, which has been used already; call "
            f"reid_jax.runtime.determinism.enable() first, or set {VARIABLE} to '{' '.join(_wanted())}'."
        )
    environment[VARIABLE] = " ".join([*given, *(flag for flag in _wanted() if flag not in given)])


def active(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Returns whether the environment has all flags; recorded with results."""
    given = environment.get(VARIABLE, "").split()
    return all(flag in given for flag in _wanted())


def _wanted() -> list[str]:
    return [f"{name}={value}" for name, value in FLAGS.items()]


def _has_started() -> bool:
    """Returns whether JAX has started a device in this process."""
    if "jax" not in sys.modules:
        return False
    # jax has no public name for it.
    from jax._src import xla_bridge

    return bool(xla_bridge.backends_are_initialized())
