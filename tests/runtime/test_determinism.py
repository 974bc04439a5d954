"""`--deterministic`: the flags that XLA reads, in time, and what cannot be meant."""

from __future__ import annotations

import jax
import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import determinism

BOTH = "--xla_gpu_deterministic_ops=true --xla_gpu_enable_triton_gemm=false"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--deterministic"], True),
        (["--deterministic=True"], True),
        (["--deterministic=false"], False),
        (["--deterministic", "--nodeterministic"], False),
        ([], False),
    ],
)
def test_the_flag_is_taken_out_of_the_arguments(arguments, given):
    assert determinism.taken_from(["--a", *arguments, "--deterministically=1"]) == (
        given,
        ["--a", "--deterministically=1"],
    )


def test_another_value_is_refused():
    with pytest.raises(UserError, match="expected --deterministic without a value, or true or false, got 'maybe'"):
        determinism.taken_from(["--deterministic=maybe"])


def test_the_environment_of_xla(monkeypatch):
    monkeypatch.setattr(determinism, "_has_started", lambda: False)
    for before, after in (
        ({}, BOTH),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, f"--xla_dump_to=x {BOTH}"),
        (
            {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"},
            "--xla_gpu_enable_triton_gemm=false --xla_gpu_deterministic_ops=true",
        ),
        ({"XLA_FLAGS": BOTH}, BOTH),
    ):
        environment = dict(before)
        determinism.enable(environment)
        assert environment == {"XLA_FLAGS": after}
        assert determinism.active(environment)
    assert not determinism.active({"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"})
    with pytest.raises(UserError, match="got --xla_gpu_deterministic_ops=false; leave one of them out"):
        determinism.enable({"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"})


def test_too_late():
    jax.devices()
    environment: dict[str, str] = {}
    with pytest.raises(UserError, match="expected --deterministic before the first use of a device"):
        determinism.enable(environment)
    assert environment == {}
    determinism.enable({"XLA_FLAGS": BOTH})  # set in time
