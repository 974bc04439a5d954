"""From images to descriptors: the forward path shared by training-time evaluation, `extract.py` and users.

extractor, variables = inference.from_run("runs/mfv-demo")       # or from_weights("bot", "market_resnet50.pth")
descriptor = extractor.images(variables, [image_a, image_b])     # uint8 [H, W, 3] arrays of any size
"""

from __future__ import annotations

import hashlib
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build, models
from reid_jax.inference import extractor as extractor_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.weights import convert, zoo

LOG = logging.getLogger(__name__)


def from_weights(
    name: str,
    path: str | pathlib.Path,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[extractor_lib.Extractor, dict[str, Any]]:
    """The extractor of a model of `reid_jax.weights.zoo` and its variables from a weights file.

    Args:
        name: a key of `zoo.ZOO`.
        path: PyTorch, safetensors or npz file; read strictly, but for classifiers of another number of identities.
        options: further fields of the model.
        overrides: dotted keys of the config that are to differ (`data.height`); None leaves a value as it is.

    Raises:
        UserError: unknown model or field, unreadable file, or weights of another model.
    """
    known = models.options_of_weights(zoo.lookup(name).model["name"], path)
    settings = zoo.settings(name, {**known, **(options or {})}, overrides)
    mesh = mesh_lib.create_mesh()
    # Identities are counted for training only; the classifier's outputs are not computed here.
    extractor = extractor_lib.Extractor(build.build_model(settings, num_classes=1), settings, mesh)
    variables, report = _fill(extractor, zoo.lookup(name), path)
    LOG.info("weights from %s: %s", path, report)
    extractor.origin = {"file": pathlib.Path(path).name, "sha256": _sha256(path)}
    return extractor, mesh_lib.replicate(variables, mesh)


def from_seed(
    name: str,
    seed: int = 0,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[extractor_lib.Extractor, dict[str, Any]]:
    """Like `from_weights`, with random variables: what a network gives that has learned nothing."""
    settings = zoo.settings(name, options, {**(overrides or {}), "seed": seed})
    mesh = mesh_lib.create_mesh()
    extractor = extractor_lib.Extractor(
        build.build_model(settings, num_classes=1), settings, mesh, {"random": True, "seed": seed}
    )
    return extractor, mesh_lib.replicate(
        build.init_variables(extractor.model, settings, extractor.example_batch()), mesh
    )


def _fill(
    extractor: extractor_lib.Extractor, entry: zoo.Entry, path: str | pathlib.Path
) -> tuple[dict[str, Any], convert.Report]:
    """The variables of a row of the zoo from a file; layers that the file may lack do nothing."""
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    preprocess = build.make_preprocess(extractor.settings.preprocess)
    shapes = jax.eval_shape(
        lambda keys, batch: extractor.model.init(keys, preprocess(batch), train=False), keys, extractor.example_batch()
    )
    variables, report = models.load_weights(
        entry.model["name"],
        shapes,
        path,
        model=extractor.model,
        into=entry.submodule,
        allow_missing=entry.classifiers,
    )

    def concrete(leaf: Any, name: str) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return np.full(leaf.shape, float(name.endswith(("/scale", "/var"))), leaf.dtype)

    flat = {name: concrete(leaf, name) for name, leaf in convert.flatten(variables).items()}
    return {"batch_stats": {}, **convert.unflatten(flat)}, report


def _sha256(path: str | pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
