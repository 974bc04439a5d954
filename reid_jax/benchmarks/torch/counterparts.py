"""PyTorch counterparts of the models' backbones, for comparison: same sizes, channels last, compiled on a GPU.

The networks themselves are in the `torch_*` modules of this folder, which need an installed PyTorch.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.benchmarks import measuring


@dataclasses.dataclass
class Run:
    """A train step or inference in PyTorch that can be called repeatedly.

    Attributes:
        run: makes one call and waits for the result.
        batch: images per call.
        compile_seconds: seconds of the first call.
        about: image size and dtype, for a table.
    """

    run: Callable[[], None]
    batch: int
    compile_seconds: float
    about: dict[str, Any]

    def __call__(self) -> None:
        """Makes one call and waits for the result."""
        self.run()


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """A network in PyTorch.

    Attributes:
        module: its module in this folder.
        network: its class there, called with `classes` and `size`; it returns logits in training (a tuple where
            there are several heads, whose losses are added) and features in evaluation mode.
        title: label in a table.
        size: arguments of the class.
        height: rows of the images.
        width: columns of the images.
        bfloat16: whether to compute in bfloat16.
    """

    module: str
    network: str
    title: str
    size: Mapping[str, Any]
    height: int
    width: int
    bfloat16: bool

    def name(self, batch: int) -> str:
        """Returns the name of a timing."""
        return f"torch {self.title}, {self.height}x{self.width} x{batch}"

    def start(self, kind: str, batch: int, classes: int) -> Run:
        """Returns the network's train step or inference, after one call.

        Args:
            kind: "train" (cross-entropy and SGD with momentum) or "infer".
            batch: images per call.
            classes: identities of the classifier.

        Raises:
            UserError: PyTorch is not installed, or does not see the GPU.
        """
        network = getattr(_module(self.module), self.network)
        import torch

        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        if device == "cuda" and not torch.cuda.is_available():
            raise errors.UserError(
                "expected a PyTorch that sees the GPU; install its CUDA build, or leave out --torch."
            )
        torch.set_float32_matmul_precision("highest")
        layout = torch.channels_last
        model = network(**self.size, classes=classes).to(device, memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        images = torch.randn(batch, 3, self.height, self.width, device=device).contiguous(memory_format=layout)
        labels = torch.arange(batch, device=device) % classes
        forward = torch.compile(model) if device == "cuda" else model

        def train() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                logits = forward(images)
                heads = logits if isinstance(logits, tuple) else (logits,)
                loss = sum(torch.nn.functional.cross_entropy(head, labels) for head in heads)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        def infer() -> None:
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                forward(images)

        model.train(kind == "train")

        def run() -> None:
            (train if kind == "train" else infer)()
            if device == "cuda":
                torch.cuda.synchronize()

        with measuring.measured() as first:
            run()
        about = {"image": f"{self.height}x{self.width}", "dtype": "bfloat16" if self.bfloat16 else "float32"}
        return Run(run, batch, first.seconds, about)


def of(name: str, settings: config_lib.Settings) -> Counterpart:
    """Returns the counterpart of a model's backbone.

    Args:
        name: name of the model, for the error.
        settings: resolved config.

    Raises:
        UserError: there is no counterpart.
    """
    data = settings.data
    image = {
        "height": data.height,
        "width": data.width,
        "bfloat16": np.dtype(build.compute_dtype(settings.dtype)).name == "bfloat16",
    }
    model = build.build_model(settings, 1)
    system = settings.model["name"]
    if system == "osnet":
        size = {"width": model.size, "kind": model.kind}
        return Counterpart("torch_osnet", "OSNet", f"osnet {model.size} {model.kind}", size, **image)
    if system in ("transreid", "cfat"):
        fields = model.encoder()
        size = {key: fields[key] for key in ("width", "depth", "heads", "image_size", "patch", "stride", "drop_path")}
        size |= {"ratio": fields.get("mlp_ratio", 4.0), "jpm": model.jpm}
        title = f"vit {size['width']}x{size['depth']} stride {size['stride']}{' jpm' if model.jpm else ''}"
        return Counterpart("torch_transreid", "TransReID", title, size, **image)
    published = getattr(model, "size", "resnet50")
    if published != "resnet50" or system not in ("bot", "mfv"):
        raise errors.UserError(
            f"--torch has a counterpart of ResNet-50, MFV, OSNet and ViT models, none of {name}; leave it out there."
        )
    size = {
        "depths": tuple(getattr(model, "depths", None) or (3, 4, 6, 3)),
        "width": getattr(model, "width", 64),
        "last_stride": getattr(model, "last_stride", 2),
    }
    if getattr(model, "stages", ()):
        return Counterpart("torch_mfv", "MFV", _mfv_title(model, name), size | _mfv_size(model), **image)
    depths = "-".join(map(str, size["depths"]))
    title = "resnet50" if depths == "3-4-6-3" and size["width"] == 64 else f"resnet({depths}, width {size['width']})"
    return Counterpart("torch_resnet", "ResNet", f"{title} stride {size['last_stride']}", size, **image)


def _mfv_title(model: Any, name: str) -> str:
    """Returns the label of MFV; raises a `UserError` for a reading that the counterpart does not have."""
    reading = model.reading()
    expected = {"layout": "tokens", "attention": "external", "ea_shared_memory": False, "cls_token": False}
    found = {key: getattr(model, key) for key in (*expected, "pos_embed", "stem_relu", "stages")}
    if found != {**expected, "pos_embed": False, "stem_relu": False, "stages": (1, 2, 3)} or not reading["prenorm"]:
        raise errors.UserError(f"--torch has a counterpart of the default MFV, not of {name}; leave it out there.")
    return f"mfv width {model.width}" if model.width != 64 else "mfv"


def _mfv_size(model: Any) -> dict[str, Any]:
    keys = ("level_depth", "tfe_width", "tfe_depths", "slots", "ffn_width", "dropout")
    return {key: getattr(model, key) for key in keys}


def _module(name: str) -> Any:
    """Returns a module of this folder that needs PyTorch."""
    if importlib.util.find_spec("torch") is None:
        raise errors.UserError("--torch needs PyTorch, which is not installed; `pip install torch`, or leave it out.")
    return importlib.import_module(f"reid_jax.benchmarks.torch.{name}")
