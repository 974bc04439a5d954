"""Programs for accelerators that are not there: names, counts, and that a train step can be lowered for them."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import pytest

from reid_jax import errors
from reid_jax.benchmarks import ahead, program_counts, subjects, targets
from reid_jax.config import files
from reid_jax.ops import platforms


def test_targets_have_names():
    assert targets.parse("tpu:v5e:2x2") == targets.Target("tpu", "v5e", "2x2")
    assert targets.parse("gpu:h100x8") == targets.Target("gpu", "h100", "8")
    assert [targets.parse(name).name for name in ("tpu:v4:2x2x1", "gpu:h100x1")] == ["tpu:v4:2x2x1", "gpu:h100x1"]
    for text in ("", "tpu", "tpu:v5e", "tpu:v5e:2x", "gpu:h100", "gpu:h100x0", "cpu:2x2", "tpu:v5e:2x2:3", "x" * 9999):
        with pytest.raises(errors.UserError, match="expected a target such as"):
            targets.parse(text)
    with pytest.raises(errors.UserError, match="unknown GPU 'h1000'"):
        targets.parse("gpu:h1000x8")


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r"needs libtpu, which is not installed; .*reid-jax\[tpu\]"):
        targets.create_mesh(targets.parse("tpu:v5e:2x2"))
    with pytest.raises(errors.UserError, match=r"needs jax_cuda12_plugin or jax_cuda13_plugin.*reid-jax\[cuda12\]"):
        targets.create_mesh(targets.parse("gpu:h100x8"))


def test_flops_are_counted_by_data_type_inside_loops_too():
    def program(x, kernel, y, unused):
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y, _ = jax.lax.scan(lambda carry, _: (carry @ carry, None), y, length=3)
        return x, y, (unused @ unused).sum() * 0

    half, full = jnp.bfloat16, jnp.float32
    shapes = [((2, 8, 4, 3), half), ((3, 3, 3, 5), half), ((10, 10), full), ((4, 4), full)]
    jaxpr = jax.make_jaxpr(lambda *values: program(*values)[:2])(*(jax.ShapeDtypeStruct(*each) for each in shapes))
    convolution, products = 2 * (2 * 8 * 4 * 5) * 3 * 3 * 3, 3 * 2 * 10 * 10 * 10
    found = program_counts.products(program_counts.used(jaxpr))
    assert found["flops"] == convolution + products
    assert found["bfloat16_share"] == pytest.approx(convolution / (convolution + products))
    assert "float32" in found["others"]
    assert program_counts.wide_and_callbacks(program_counts.used(jaxpr)) == {"float64": 0, "host_callbacks": 0}


def test_calls_of_the_host_are_counted():
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda x: jax.pure_callback(lambda value: value, shape, x))(shape)
    assert program_counts.wide_and_callbacks(jaxpr.jaxpr)["host_callbacks"] == 1


def test_operations_of_a_compiled_text():
    text = """
  %all-reduce.1 = f32[8]{0} all-reduce(%x), channel_id=1
  %all-reduce-start = (f32[8]{0}, f32[8]{0}) all-reduce-start(f32[8]{0} %y), channel_id=2
  %done = f32[8]{0} all-reduce-done(%all-reduce-start)
  %copy.3 = f32[8]{0} copy(%z), metadata={op_name="a copy(of words"}
  %copy_fusion = f32[8]{0} fusion(%z), kind=kLoop, calls=%fused_copy
  ROOT %transpose.5 = f32[8,4]{1,0} transpose(%w), dimensions={1,0}
"""
    found = program_counts.compiled_operations(text)
    assert (found["all_reduce"], found["copies"], found["transposes"], found["all_gather"]) == (2, 1, 1, 0)


def test_the_largest_batch_lies_on_a_line():
    rows = [{"batch_per_chip": 64, "GB_per_chip": 5.0}, {"batch_per_chip": 256, "GB_per_chip": 17.0}]
    assert ahead.largest_batches(rows) == {"fits_16_GB": 240, "fits_80_GB": 1264, "fits_141_GB": 2240}
    assert ahead.largest_batches(rows[:1]) == {}
    assert ahead.largest_batches([*rows[:1], {"batch_per_chip": 256, "note": "does not compile"}]) == {}


def test_a_train_step_is_lowered_for_gpu_and_tpu():
    """In bfloat16, without 64-bit numbers or calls of the host, with convolutions as such: what keeps a port whole."""
    config = files.load_config("bot:demo")
    small = {"model.width": 4, "data.height": 32, "data.width": 16, "dtype": "bfloat16"}
    config = subjects.of_config(config, small).config
    with platforms.tracing_for("gpu"):
        program = ahead.abstract("train", subjects.config_run(config, 24))
        traced = jax.jit(program.function, donate_argnums=0).trace(*program.arguments)
        lowered = traced.lower(lowering_platforms=("cuda", "tpu"))
    used = program_counts.used(traced.jaxpr)
    found = program_counts.products(used)
    assert found["bfloat16_share"] > 0.9, found["others"]  # the losses' share is large at this size
    assert program_counts.wide_and_callbacks(used) == {"float64": 0, "host_callbacks": 0}
    text = lowered.as_text()
    assert "f64" not in text
    assert text.count("stablehlo.convolution") > 40  # 17 of them, each with two gradients
    assert "while" not in text.split("stablehlo.convolution", 1)[0].split("func.func public @main")[-1]
