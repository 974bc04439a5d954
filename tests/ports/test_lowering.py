"""Every system's full-size train step and embedding can be lowered for GPU and TPU, as a port needs them.

Not part of `make test`: `make ports`, which continuous integration runs after it. Nothing is compiled, which takes
minutes a program: `benchmark.py aot` does that.
"""

from __future__ import annotations

import jax
import jax.export
import pytest

from reid_jax.benchmarks import ahead, export_speed, program_counts, targets
from reid_jax.ops import platforms

SHARE = 0.99  # of the FLOPs of products and convolutions: the rest are losses, classifiers and gates, in float32


@pytest.mark.parametrize("kind", ["train", "infer"])
@pytest.mark.parametrize("system", export_speed.SYSTEMS)
def test_a_program_is_lowered_for_gpu_and_tpu(system, kind):
    with platforms.tracing_for("gpu"):
        program = ahead.program(targets.parse("gpu:h100x8"), f"{system}:market1501", kind, {})
        donated = {"donate_argnums": 0} if program.donated else {}
        traced = jax.jit(program.function, **donated).trace(*program.arguments)
        lowered = traced.lower(lowering_platforms=("cuda", "tpu"))
    used = program_counts.used(traced.jaxpr)
    found = program_counts.products(used)
    assert found["bfloat16_share"] >= SHARE, found["others"]
    assert program_counts.wide_and_callbacks(used) == {"float64": 0, "host_callbacks": 0}
    text = lowered.as_text()
    assert "f64" not in text
    if program.donated:
        state = len(jax.tree.leaves(program.arguments[0]))
        assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") >= state
