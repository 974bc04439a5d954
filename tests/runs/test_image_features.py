"""Features of all training images that a phase computes once."""

from __future__ import annotations

import dataclasses
import types

import flax.linen as nn
import jax
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.config import sections
from reid_jax.data import records
from reid_jax.runs import image_features
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, loop, state

IMAGES = 7


class Modal(nn.Module):
    """The mean color, doubled in mode "double"."""

    @nn.compact
    def __call__(self, batch, *, train, mode=""):
        assert not train
        scale = self.param("scale", nn.initializers.ones, (3,))
        return {"feature/g": batch["image"].mean(axis=(1, 2)) * scale[None] * (2.0 if mode == "double" else 1.0)}


def test_features_stand_at_the_place_of_their_image():
    mesh = mesh_lib.create_mesh()
    colors = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 1, 3))
    pictures = np.broadcast_to(colors, (IMAGES, 6, 4, 3)).astype(np.uint8)
    source = [{"image": picture, "pid": 0, "camid": 0, "filename": str(n)} for n, picture in enumerate(pictures)]
    zeros = np.zeros(IMAGES, np.int32)
    split = records.Split("train", source, zeros, zeros, tuple(map(str, range(IMAGES))))
    extra = {
        "image_features": {"kind": "image_features", "dimension": "scale", "mode": "double"},
        "centers": {"kind": "centers", "num_classes": 2, "dimension": 3},
    }
    owned = extras.build(extra, num_classes=2, num_images=IMAGES)
    begun = state.create(mesh_lib.replicate({"params": {"scale": np.full(3, 3.0, np.float32)}}, mesh))
    transformation = types.SimpleNamespace(init=lambda params: ())
    begun = state.begin_phase(begun, transformation, owned, jax.random.key(0))
    assert begun.extra["image_features"].shape == (IMAGES, 3)
    data = dataclasses.replace(sections.Data(), height=6, width=4)
    as_float = lambda batch: {"image": batch["image"].astype(np.float32)}
    filled = image_features.fill(begun, owned, Modal(), as_float, split, data, mesh, 8)
    np.testing.assert_allclose(filled.extra["image_features"], 6.0 * colors[:, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(filled.extra["centers"], begun.extra["centers"])
    with pytest.raises(errors.UserError, match="did you mean 'scale'"):
        dataclasses.replace(owned["image_features"], dimension="scales").init(jax.random.key(0), begun.variables)


@pytest.mark.parametrize(("first_step", "prepared"), [(0, ["begin", "prepare"]), (1, [])])
def test_a_phase_is_prepared_when_it_begins_and_not_when_it_resumes(monkeypatch, first_step, prepared):
    seen = []
    note = lambda name: lambda train_state: seen.append(name) or train_state
    stream = lambda at: (batch for batch in ())
    # The last step is the first one: nothing is trained.
    phase = loop.Phase("", 0, first_step, 1, 1, note("begin"), stream, stream, stream, prepare=note("prepare"))
    runner = loop.Loop(mesh_lib.create_mesh(), [phase], loop.Every(0, 0, 0), writer=None, checkpoints=None)
    runner._run_phase(phase, {}, first_step, None)
    assert seen == prepared
