"""What the tests of AMFOR as a whole share: a tiny model, its batch, configs."""

from __future__ import annotations

import functools
import pathlib

import jax
import numpy as np

from reid_jax.config import files
from reid_jax.models.amfor import amfor

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "amfor.py"
CLASSES, BATCH = 5, 4
TINY = {
    "width": 64,
    "depth": 2,
    "heads": 2,
    "patch": 8,
    "stride": 8,
    "attention_heads": 2,
    "amff_layers": (1,),
    "text_rows": 4,
    "hpr_depths": (1, 1),
    "hpr_width": 32,
    "hpr_heads": 2,
    "amgd_hidden": 2,
    "pixel_width": 16,
    "pixel_depth": 1,
    "pixel_heads": 2,
}
SMALL = {"image_size": (32, 16), "num_cameras": 2}
TEXT = {"width": 16, "depth": 1, "heads": 2, "features": 16}
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def tiny(**options) -> amfor.AMFOR:
    return amfor.AMFOR(num_classes=CLASSES, **{**TINY, **SMALL, **options})


@functools.cache
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(BATCH, 32, 16, 3)).astype(np.float32),
        "camid": np.array([0, 1, 0, 1], np.int32),
    }


@functools.cache
def training_batch() -> dict[str, np.ndarray]:
    parts = np.random.default_rng(1).integers(0, 9, (BATCH, 32, 16)).astype(np.uint8)
    return {**images(), "label": np.array([0, 0, 1, 1], np.int32), "parts": parts}


def shapes_of(model, **batch):
    return jax.eval_shape(lambda key: model.init(key, {**images(), **batch}, train=False), jax.random.key(0))


def load(variant: str = "", preset: str = "market1501"):
    return files.load_config(f"{CONFIG}:{preset}{',' + variant if variant else ''}")
