"""Programs for accelerators that are not there: names, counts, and that a train step can be lowered for them."""

from __future__ import annotations

import dataclasses
import json
import queue
from typing import Any, ClassVar

import jax
import jax.export
import jax.numpy as jnp
import pytest

from reid_jax import errors
from reid_jax.benchmarks import ahead, ahead_rows, bounds, program_counts, program_text, subjects, targets
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


TEXT = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8,4]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_slice (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,8}
}

%fused_copy (q0: bf16[8]) -> bf16[8] {
  %q0 = bf16[8]{0} parameter(0)
  ROOT %transpose.1 = bf16[8]{0} transpose(%q0), dimensions={0}
}

%body (carry: (f32[100,8], s32[])) -> (f32[100,8], s32[]) {
  %carry = (f32[100,8]{1,0}, s32[]) parameter(0)
  %table = f32[100,8]{1,0} get-tuple-element(%carry), index=0
  %index = s32[] get-tuple-element(%carry), index=1
  %row = f32[1,8]{1,0} fusion(%table, %index), kind=kLoop, calls=%fused_slice
  %total = f32[1,8]{1,0} all-reduce(%row), channel_id=7, to_apply=%add
  ROOT %next = (f32[100,8]{1,0}, s32[]) tuple(%table, %index)
}

%condition (state: (f32[100,8], s32[])) -> pred[] {
  %state = (f32[100,8]{1,0}, s32[]) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main.1_spmd (x: f32[8], z: bf16[8]) -> f32[8,4] {
  %x = f32[8]{0} parameter(0), metadata={op_name="a copy(of words"}
  %z = bf16[8]{0:T(256)(128)(2,1)} parameter(1)
  %y = bf16[8]{0:T(256)S(1)} fusion(%z), kind=kLoop, calls=%fused_copy
  %both-start = (f32[8]{0}, bf16[8]{0:S(1)}) all-reduce-start(%x, %y), channel_id=2, to_apply=%add
  %both-done = (f32[8]{0}, bf16[8]{0}) all-reduce-done(%both-start)
  %all-gather-start = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=3, dimensions={0}
  %all-gather-done = f32[32]{0} all-gather-done(%all-gather-start)
  %begun = (f32[100,8]{1,0}, s32[]) tuple(%w, %zero)
  %loop = (f32[100,8]{1,0}, s32[]) while(%begun), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  ROOT %copy.3 = f32[8,4]{1,0} copy(%all-gather-done)
}
"""  # noqa: E501


def test_collectives_of_a_compiled_text():
    found = program_text.collectives(program_text.parse(TEXT), 4)
    reduced = 8 * 4 + 8 * 2 + 12 * 8 * 4  # two arrays at once, and an array in each turn of a loop
    assert found["all-reduce"] == {"count": 1 + 12, "bytes": reduced}
    assert found["all-gather"] == {"count": 1, "bytes": 4 * 8 * 4}
    assert found["reduce-scatter"] == {"count": 0, "bytes": 0}
    assert program_text.sent(found, 4) == 2 * 3 / 4 * reduced + 3 / 4 * 4 * 8 * 4
    assert program_text.operations(program_text.parse(TEXT)) == {"copies": 1, "transposes": 1}


def test_traffic_of_a_compiled_text():
    in_turn = 8 * 4 + 4 + 8 * 4 + 2 * 8 * 4  # a row of the table and its index, the row again, its sum
    starts = 2 * (8 * 4) + (8 * 4 + 32 * 4)  # what lies in a scratchpad is not counted
    assert program_text.traffic(program_text.parse(TEXT)) == 12 * in_turn + 8 * 2 + starts + 32 * 4 + 32 * 4


def test_bounds_of_a_program():
    program = program_text.parse(TEXT)
    row = bounds.of(targets.parse("gpu:h100x4"), program, 4, 989e9)
    assert (row["arithmetic_ms"], row["bound"]) == (pytest.approx(1), "arithmetic")
    assert row["memory_ms"] == pytest.approx(1e3 * program_text.traffic(program) / 3.35e12)
    assert row["network_ms"] == pytest.approx(1e-3 * row["sent_MB"] / 450e-6 * 1e-3)
    assert "bound" not in bounds.of(targets.parse("tpu:v4:2x2x1"), program, 4, 1.0)
    assert [bounds.CHIPS["h100"].network(chips) for chips in (8, 16)] == [450e9, 400e9]
    assert {bounds.CHIPS["v5e"].network(chips) for chips in (4, 256)} == {200e9}


def test_the_largest_batch_lies_on_a_line():
    rows = [{"batch_per_chip": 64, "GB_per_chip": 5.0}, {"batch_per_chip": 256, "GB_per_chip": 17.0}]
    assert ahead_rows.largest_batches(rows) == {"fits_16_GB": 240, "fits_80_GB": 1264, "fits_141_GB": 2240}
    assert ahead_rows.largest_batches(rows[:1]) == {}
    assert ahead_rows.largest_batches([{**rows[0], "state_GB": 1.0}])["fits_16_GB"] == 240  # 1 GB and 1/16 for an image
    assert ahead_rows.largest_batches([*rows[:1], {"batch_per_chip": 256, "note": "does not compile"}]) == {}


class StandIn:
    """A process that compiles each program for as many GB as images, and does not end with more than 100."""

    asked: ClassVar[list[list[Any]]] = []

    def __init__(self, command, log, variables):
        assert variables["JAX_PLATFORMS"] == "cpu"
        self.left = json.loads(command[-1])["programs"]
        self.asked.append(self.left)

    def next_line(self, seconds):
        (_, batch), self.left = self.left[0], self.left[1:]
        if batch > 100:
            raise queue.Empty
        return json.dumps({"GB_per_chip": batch})

    def end(self):
        pass


def test_the_table_goes_on_where_it_ended(monkeypatch):
    monkeypatch.setattr(ahead_rows.campaign, "Worker", StandIn)
    tasks = ahead_rows.plan(
        ["gpu:h100x8", "tpu:v5e:4x4", "gpu:h100x64"], ["mfv"], {"train.accumulate": 2}, (64, 999, 32)
    )
    assert [len(task.programs) for task in tasks] == [6, 6, 1]
    written = []
    rows = ahead_rows.measure(tasks, [], lambda rows: written.append(len(rows)), 5)
    assert written == list(range(1, 14))
    assert (rows[1]["what"], rows[1]["note"]) == ("train mfv train.accumulate=2", "not compiled within 5 s")
    assert (rows[0].get("fits_16_GB"), rows[2]["fits_16_GB"]) == (None, 16)
    assert len(StandIn.asked) == 7  # anew after each of four time-outs
    tasks = [dataclasses.replace(task, config="configs/mfv.py") for task in tasks]  # the same by its file
    again = ahead_rows.measure(tasks, rows[3:], lambda rows: None, 5)
    assert StandIn.asked[7:] == [[["train", 64], ["train", 999], ["train", 32]], [["train", 32]]]
    assert [row["batch_per_chip"] for row in ahead_rows.ordered(again, tasks)] == [64, 999, 32] * 4 + [64]


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
