"""From images to descriptors: the forward path shared by training-time evaluation, `extract.py` and users.

extractor, variables = inference.from_run("runs/mfv-demo")
descriptor = extractor.images(variables, [image_a, image_b])     # uint8 [H, W, 3] arrays of any size
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import config as config_lib
from reid_jax import models, parallel, run_folder
from reid_jax.data import images as images_lib
from reid_jax.data import pipeline, records
from reid_jax.evaluation import evaluator
from reid_jax.ops import descriptors
from reid_jax.ops import images as image_ops
from reid_jax.train import checkpoints

LOG = logging.getLogger(__name__)
Variables = Mapping[str, Any]


def compute_dtype(name: str) -> Any:
    """The dtype of activations: "auto" is bfloat16 on GPU and TPU and float32 on CPU, where bfloat16 gains nothing."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name).type


def build_model(settings: Mapping[str, Any], num_classes: int) -> Any:
    """The model of a resolved config, for a number of training identities."""
    options = dict(settings["model"])
    return models.build(options.pop("name"), num_classes=num_classes, dtype=compute_dtype(settings["dtype"]), **options)


def make_preprocess(settings: Mapping[str, Any]) -> Callable[[Mapping[str, jax.Array], jax.Array | None], dict]:
    """The one place where images are normalised: uint8 [B, H, W, 3] to float32, then boxes to erase are filled.

    Args:
        settings: `mean` and `std` per channel for images in [0, 1], `erase_fill` (a mode of `ops.images.fill_boxes`).

    Returns:
        `(batch, key) -> batch`; every view (`image`, `image_<name>`) is treated alike. Boxes are filled when a key is
        given, that is in training.
    """

    def preprocess(batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> dict[str, jax.Array]:
        done = dict(batch)
        for index, name in enumerate(sorted(name for name in batch if name == "image" or name.startswith("image_"))):
            images = image_ops.normalise(batch[name], settings["mean"], settings["std"])
            boxes = batch.get(name.replace("image", "erase_box", 1))
            if key is not None and boxes is not None:
                images = image_ops.fill_boxes(images, boxes, settings["erase_fill"], jax.random.fold_in(key, index))
            done[name] = images
        return done

    return preprocess


def init_variables(model: Any, settings: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Random variables, the same for a seed on any number of devices."""
    preprocess = make_preprocess(settings["preprocess"])

    def init(key: jax.Array) -> Any:
        params_key, dropout_key = jax.random.split(key)
        return model.init({"params": params_key, "dropout": dropout_key}, preprocess(batch), train=False)

    variables = jax.jit(init)(jax.random.key(settings["seed"]))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


class Extractor:
    """Runs a model on images and returns its test features as numpy arrays.

    Args:
        model: a model of `reid_jax.models`.
        settings: resolved config; read are `data` (size, interpolation), `preprocess` and `evals` (batch size, flip).
        mesh: devices the batch is split over.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any], mesh: jax.sharding.Mesh) -> None:
        self.model, self.settings, self.mesh = model, settings, mesh
        data, evals = settings["data"], settings["evals"]
        self.size = {name: data[name] for name in ("height", "width", "interpolation")}
        share = jax.device_count()
        self.batch_size = -(-evals["batch_size"] // share) * share
        preprocess = make_preprocess(settings["preprocess"])

        def describe(variables: Variables, batch: Mapping[str, jax.Array]) -> descriptors.Descriptor:
            once = lambda batch: model.describe(model.apply(variables, batch, train=False))
            return (evaluator.flip_average(once) if evals["flip"] else once)(preprocess(batch))

        self._describe = jax.jit(describe, out_shardings=parallel.sharded(mesh))

    def example_batch(self) -> dict[str, np.ndarray]:
        """One black image and what goes with it, for shapes."""
        image = np.zeros((1, self.size["height"], self.size["width"], 3), np.uint8)
        return {"image": image, "camid": np.zeros(1, np.int32), "label": np.zeros(1, np.int32)}

    def split(self, variables: Variables, split: records.Split) -> evaluator.Extracted:
        """Features of every image of a split, in its order, the same on every process."""

        def describe(batch: Mapping[str, np.ndarray]) -> descriptors.Descriptor:
            described = self._describe(variables, parallel.to_global(dict(batch), self.mesh))
            return jax.tree.map(parallel.local_rows, described)

        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        with pipeline.eval_batches(split, **self.size, batch_size=self.batch_size, **share) as batches:
            return evaluator.extract_features(describe, batches, len(split))

    def images(self, variables: Variables, images: Sequence[np.ndarray]) -> evaluator.Extracted:
        """Features of uint8 [H, W, 3] images of any size, camera unknown."""
        split = records.Split(
            name="images",
            source=[
                {"image": image, "pid": 0, "camid": -1, "filename": str(index)} for index, image in enumerate(images)
            ],
            pids=np.zeros(len(images), np.int32),
            camids=np.full(len(images), -1, np.int32),
            filenames=tuple(str(index) for index in range(len(images))),
        )
        return self.split(variables, split)


def from_run(path: str | pathlib.Path, *, best: bool = False) -> tuple[Extractor, dict[str, Any]]:
    """The extractor and the trained variables of a run folder.

    Args:
        path: a run folder (`--workdir` of a training run).
        best: the checkpoint with the best mAP instead of the newest.

    Raises:
        UserError: when the folder is no run folder or holds no checkpoint.
    """
    folder = run_folder.RunFolder(path)
    settings = config_lib.to_dict(folder.read_config())
    variables, meta = checkpoints.restore_variables(folder.checkpoints, "best" if best else None, average="average")
    model = build_model(settings, meta["num_classes"])
    mesh = parallel.mesh()
    return Extractor(model, settings, mesh), parallel.replicate(variables, mesh)


def load_image(path: str | pathlib.Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3] RGB."""
    path = pathlib.Path(path)
    return images_lib.decode(path.read_bytes(), str(path))
