"""From images to descriptors: the forward path shared by training-time evaluation, `extract.py` and users.

extractor, variables = inference.from_run("runs/mfv-demo")       # or from_weights("bot", "market_resnet50.pth")
descriptor = extractor.images(variables, [image_a, image_b])     # uint8 [H, W, 3] arrays of any size
"""

from __future__ import annotations

import hashlib
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import config as config_lib
from reid_jax import models, parallel, run_folder, zoo
from reid_jax.data import images as images_lib
from reid_jax.data import pipeline, records
from reid_jax.evaluation import evaluator
from reid_jax.models import convert
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


def build_model(settings: Mapping[str, Any], num_classes: int, num_cameras: int = 0) -> Any:
    """The model of a resolved config.

    Args:
        settings: resolved config; read are `model`, `dtype` and the images' size.
        num_classes: training identities.
        num_cameras: cameras of the training data, for models that tell them apart; `model.num_cameras` overrules it.
    """
    options = dict(settings["model"])
    name = options.pop("name")
    data = settings["data"]
    known = {"num_cameras": num_cameras, "image_size": (data["height"], data["width"])}
    told = {key: value for key, value in known.items() if key in models.fields(name)}
    dtype = compute_dtype(settings["dtype"])
    return models.build(name, **{**told, "num_classes": num_classes, "dtype": dtype, **options})


def make_preprocess(settings: Mapping[str, Any]) -> Callable[..., dict[str, jax.Array]]:
    """The one place where images are normalized: uint8 [B, H, W, 3] to float32, then boxes to erase are filled.

    Args:
        settings: `mean` and `std` per channel for images in [0, 1], `erase_fill` (a mode of `ops.images.fill_boxes`).

    Returns:
        `(batch, key) -> batch`; every view (`image`, `image_<name>`) is treated alike. Boxes are filled when a key is
        given, that is in training.
    """

    def preprocess(batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> dict[str, jax.Array]:
        done = dict(batch)
        for index, name in enumerate(sorted(name for name in batch if name == "image" or name.startswith("image_"))):
            images = image_ops.normalize(batch[name], settings["mean"], settings["std"])
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

    # A hundred random draws that run once: optimizing them would take most of a small run's start-up.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    variables = jax.jit(init, compiler_options=quick)(jax.random.key(settings["seed"]))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


class Extractor:
    """Runs a model on images and returns its test features as numpy arrays.

    Args:
        model: a model of `reid_jax.models`.
        settings: resolved config; read are `data` (size, interpolation), `preprocess` and `evals` (batch size, flip).
        mesh: devices the batch is split over.
        origin: where the variables come from, as JSON values, for the record.
    """

    def __init__(
        self,
        model: Any,
        settings: Mapping[str, Any],
        mesh: jax.sharding.Mesh,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.settings, self.mesh, self.origin = model, settings, mesh, dict(origin or {})
        data, evals = settings["data"], settings["evals"]
        self.size = {
            "height": data["height"],
            "width": data["width"],
            "interpolation": data["test_interpolation"] or data["interpolation"],
        }
        self.batch_size = -(-evals["batch_size"] // mesh.size) * mesh.size
        preprocess = make_preprocess(settings["preprocess"])

        def describe(variables: Variables, batch: Mapping[str, jax.Array]) -> descriptors.Descriptor:
            once = lambda batch: model.describe(model.apply(variables, batch, train=False))
            return (evaluator.flip_average(once) if evals["flip"] else once)(preprocess(batch))

        self._describe = jax.jit(describe, out_shardings=parallel.sharded(mesh))

    def example_batch(self) -> dict[str, np.ndarray]:
        """One black image and what goes with it, for shapes."""
        image = np.zeros((1, self.size["height"], self.size["width"], 3), np.uint8)
        return {"image": image, "camid": np.zeros(1, np.int32), "label": np.zeros(1, np.int32)}

    def split(
        self, variables: Variables, split: records.Split, *, progress: Callable[[int], None] | None = None
    ) -> evaluator.Extracted:
        """Features of every image of a split, in its order, the same on every process.

        Args:
            variables: `params` and `batch_stats`.
            split: images.
            progress: called with the number of images after each batch.
        """

        def describe(batch: Mapping[str, np.ndarray]) -> descriptors.Descriptor:
            described = self._describe(variables, parallel.to_global(dict(batch), self.mesh))
            return jax.tree.map(parallel.local_rows, described)

        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        with pipeline.eval_batches(split, **self.size, batch_size=self.batch_size, **share) as batches:
            return evaluator.extract_features(describe, batches, len(split), progress=progress)

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


def from_run(
    path: str | pathlib.Path, *, best: bool = False, overrides: Mapping[str, Any] | None = None
) -> tuple[Extractor, dict[str, Any]]:
    """The extractor and the trained variables of a run folder.

    Args:
        path: a run folder (`--workdir` of a training run).
        best: the checkpoint with the best mAP instead of the newest.
        overrides: dotted keys of the config that are to differ (`evals.flip`); None leaves a value as it is.

    Raises:
        UserError: when the folder is no run folder or holds no checkpoint.
    """
    folder = run_folder.RunFolder(path)
    config = folder.read_config()
    origin = {"run": folder.path.resolve().name, "config_hash": config_lib.config_hash(config)}
    config_lib.override(config, {key: value for key, value in (overrides or {}).items() if value is not None})
    settings = config_lib.to_dict(config)
    known = checkpoints.steps(folder.checkpoints)
    step = checkpoints.best_step(folder.checkpoints) if best else known[-1] if known else None
    variables, meta = checkpoints.restore_variables(
        folder.checkpoints, "best" if best and step is None else step, average="average"
    )
    model = build_model(settings, meta["num_classes"], meta.get("num_cameras", 0))
    mesh = parallel.mesh()
    return Extractor(model, settings, mesh, {**origin, "step": step}), parallel.replicate(variables, mesh)


def from_weights(
    name: str,
    path: str | pathlib.Path,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Extractor, dict[str, Any]]:
    """The extractor of a model of `reid_jax.zoo` and its variables from a weights file.

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
    mesh = parallel.mesh()
    # Identities are counted for training only; the classifier's outputs are not computed here.
    extractor = Extractor(build_model(settings, num_classes=1), settings, mesh)
    variables, report = _fill(extractor, zoo.lookup(name), path)
    LOG.info("weights from %s: %s", path, report)
    extractor.origin = {"file": pathlib.Path(path).name, "sha256": _sha256(path)}
    return extractor, parallel.replicate(variables, mesh)


def from_seed(
    name: str,
    seed: int = 0,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Extractor, dict[str, Any]]:
    """Like `from_weights`, with random variables: what a network gives that has learned nothing."""
    settings = zoo.settings(name, options, {**(overrides or {}), "seed": seed})
    mesh = parallel.mesh()
    extractor = Extractor(build_model(settings, num_classes=1), settings, mesh, {"random": True, "seed": seed})
    return extractor, parallel.replicate(init_variables(extractor.model, settings, extractor.example_batch()), mesh)


def _fill(extractor: Extractor, entry: zoo.Entry, path: str | pathlib.Path) -> tuple[dict[str, Any], convert.Report]:
    """The variables of a row of the zoo from a file; layers that the file may lack do nothing."""
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    preprocess = make_preprocess(extractor.settings["preprocess"])
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

    def concrete(leaf: Any, name: str) -> np.ndarray:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return np.full(leaf.shape, float(name.endswith(("/scale", "/var"))), leaf.dtype)

    flat = {name: concrete(leaf, name) for name, leaf in convert.flatten(variables).items()}
    return {"batch_stats": {}, **convert.unflatten(flat)}, report


def _sha256(path: str | pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_image(path: str | pathlib.Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3] RGB."""
    path = pathlib.Path(path)
    return images_lib.decode(path.read_bytes(), str(path))
