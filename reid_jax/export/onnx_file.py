"""ONNX: one file that ONNX Runtime, trackers and services read.

    session = onnxruntime.InferenceSession("mfv.onnx")
    features = session.run(None, {"images": crops})[0]  # any batch size

The input is `images`, the outputs `features` and, for descriptors of slots, `visibility`. What the file expects is in
its meta data and, as JSON, in a file beside it, which BoxMOT reads.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import build, errors, file_io
from reid_jax.export import embedding as embedding_lib
from reid_jax.inference import extractor as extractor_lib

# A protocol buffer cannot be larger, and BoxMOT wants a single file.
_LARGEST = 2**31 - 1


def check_installed() -> None:
    """Raises a `UserError` unless the packages of the extra `onnx` are installed."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.UserError(
            f"expected the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)} for --format onnx; install "
            "them by pip install 'reid_jax[onnx]', or use --format stablehlo."
        )


def write(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    path: str | pathlib.Path,
    *,
    layout: str = "uint8",
    threshold: embedding_lib.Threshold | None = None,
) -> dict[str, Any]:
    """Writes the embedding function of a model, after comparing it with the model, and returns the meta data.

    Args:
        extractor: the model with its preprocessing; it should compute in float32.
        variables: its variables, which the file contains.
        path: the file; `<path>.metadata.json` is written beside it.
        layout: see `embedding.of`.
        threshold: see `embedding.of`.

    Raises:
        UserError: a package is missing, an operation has no counterpart in ONNX, the result is unlike the model's, or a
            file cannot be written.
    """
    path = pathlib.Path(path)
    function = embedding_lib.of(extractor, variables, layout, threshold)
    model = model_of(function)
    opset = model.opset_import[0].version
    meta = {**function.meta, "format": f"ONNX, operator set {opset}", "outputs": list(function.outputs)}
    meta["parity"] = embedding_lib.check(function, extractor, variables, runner(model.SerializeToString()), "ONNX")
    for key, value in meta.items():
        model.metadata_props.add(key=key, value=json.dumps(value, sort_keys=True))
    file_io.write_bytes(path, model.SerializeToString(), "the exported model")
    file_io.write_json(path.with_name(path.name + ".metadata.json"), _sidecar(meta), "the description beside the model")
    return meta


def model_of(function: embedding_lib.Embedding) -> Any:
    """Returns the `onnx.ModelProto` of an embedding function, without meta data and not yet compared.

    Raises:
        UserError: a package is missing, an operation has no counterpart in ONNX, or the model is too large.
    """
    check_installed()
    from reid_jax.export import onnx_graph, onnx_rules

    (batch,) = jax.export.symbolic_shape(onnx_graph.BATCH)
    images = jax.ShapeDtypeStruct((batch, *function.image_shape), jnp.dtype(function.dtype))
    with embedding_lib.traced_for(("onnx",)):
        graph, results = onnx_graph.trace(function.call, images, onnx_rules.RULES)
    model = onnx_graph.model_of(graph, results, function.outputs)
    if model.ByteSize() > _LARGEST:
        raise errors.UserError(
            f"the model has {model.ByteSize() / 2**30:.1f} GiB, an ONNX file at most 2; export StableHLO."
        )
    return model


def runner(content: bytes, threads: int = 0) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """Returns the function of an ONNX file in ONNX Runtime on the CPU.

    Args:
        content: the file.
        threads: threads of a call; 0 is one per core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def _sidecar(meta: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the file beside the model, with the two keys that BoxMOT looks up."""
    return {
        "model_name": meta["system"] or meta["model"]["name"],
        "model_kwargs": {"img_size": meta["input"]["size"]},
        **meta,
    }
