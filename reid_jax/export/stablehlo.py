"""StableHLO: one file for CPUs, GPUs and TPUs, which `jax.export` reads without this package.

    archive = zipfile.ZipFile("mfv.zip")
    embed = jax.export.deserialize(archive.read("function.stablehlo")).call
    features = embed(crops)[0]  # uint8 [B, 256, 128, 3], any B

The archive also holds `meta.json`. Its reader needs the packages `jax` and `flatbuffers`. JAX promises to read such a
file for six months after it was written, so keep the weights beside it.
"""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from reid_jax import build, errors, export, file_io
from reid_jax.export import embedding as embedding_lib
from reid_jax.inference import extractor as extractor_lib

FUNCTION, META = "function.stablehlo", "meta.json"


def write(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    path: str | pathlib.Path,
    *,
    layout: str = "uint8",
    threshold: embedding_lib.Threshold | None = None,
    targets: Sequence[str] = export.PLATFORMS,
) -> dict[str, Any]:
    """Writes the embedding function of a model, after comparing it with the model, and returns the meta data.

    Args:
        extractor: the model with its preprocessing.
        variables: its variables, which the file contains.
        path: the archive.
        layout: see `embedding.of`.
        threshold: see `embedding.of`.
        targets: platforms that the file is for. For "cpu" alone the formulations fastest there are used.

    Raises:
        UserError: an unknown platform, a result unlike the model's, or a file that cannot be written.
    """
    for target in targets:
        if target not in export.PLATFORMS:
            raise errors.unknown("platform", target, export.PLATFORMS)
    function = embedding_lib.of(extractor, variables, layout, threshold)
    content = serialized(function, targets)
    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    parity = None  # a program for other devices alone cannot be run here
    if here in targets:
        call = jax.export.deserialize(bytearray(content)).call
        parity = embedding_lib.check(function, extractor, variables, call, "StableHLO")
    meta = {
        **function.meta,
        "format": "StableHLO by jax.export",
        "platforms": list(targets),
        "outputs": list(function.outputs),
        "parity": parity,
        "jax": jax.__version__,
    }
    file_io.write_bytes(path, _archive(content, meta), "the exported model")
    return meta


def serialized(function: embedding_lib.Embedding, targets: Sequence[str]) -> bytes:
    """Returns an embedding function as StableHLO for some platforms, not yet compared."""
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *function.image_shape), jnp.dtype(function.dtype))
    with embedding_lib.traced_for(targets):
        exported = jax.export.export(jax.jit(function.call), platforms=tuple(targets))(images)
    return bytes(exported.serialize())


def _archive(content: bytes, meta: dict[str, Any]) -> bytes:
    """Returns the bytes of the archive; nothing is compressed, since weights do not shrink."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((META, json.dumps(meta, indent=1).encode()), (FUNCTION, content)):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()
