"""Weights trained under another normalization of images: the difference goes into the patch embedding, exactly.

A patch embedding sees (x - mean) / std. With the file's mean and std as m1, s1 and ours as m2, s2, the same tokens come
from the kernel times s2 / s1 and the bias plus the sum of kernel (m2 - m1) / s1. The convolution has no padding, so the
change is exact.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import array_files, trees

KERNEL, BIAS = "patch_embed/proj/kernel", "patch_embed/proj/bias"


def meta_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the description inside a weights file of this package; {} for files of others."""
    path = pathlib.Path(path)
    text = ""
    if path.suffix.lower() == ".npz":
        arrays = array_files.load_npz(path, "a weights file (.npz)", "copy the file again")
        text = str(arrays.get("meta", ""))
    elif path.suffix.lower() == ".safetensors":
        import safetensors

        with safetensors.safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get("meta", "")
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def fold(
    variables: Mapping[str, Any],
    source: tuple[Sequence[float], Sequence[float]],
    target: tuple[Sequence[float], Sequence[float]],
) -> dict[str, Any]:
    """Returns variables whose patch embeddings give the tokens of other normalized images.

    Args:
        variables: variables with patch embeddings, float arrays [p, p, 3, D] and [D].
        source: mean and standard deviation of each channel that the weights were trained with.
        target: those of the images that they will see.
    """
    (m1, s1), (m2, s2) = (tuple(np.asarray(each, np.float64) for each in pair) for pair in (source, target))
    flat = trees.flatten(variables)
    for path in [path for path in flat if path.endswith(KERNEL)]:
        bias = path.removesuffix(KERNEL) + BIAS
        kernel = np.asarray(flat[path], np.float64)
        shift = np.einsum("yxcd,c->d", kernel, (m2 - m1) / s1)
        flat[path] = (kernel * (s2 / s1)[:, None]).astype(np.float32)
        flat[bias] = (np.asarray(flat[bias], np.float64) + shift).astype(np.float32)
    return trees.unflatten(flat)
