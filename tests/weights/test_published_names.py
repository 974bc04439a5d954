"""The full key lists of the published ImageNet files, at their real sizes, fill the models that start from them."""

import math

import jax
import numpy as np
import pytest

from reid_jax import models
from reid_jax.weights import hub, torch_files, weight_tables
from tests.helpers import torchreid_names

NORM = ("weight", "bias", "running_mean", "running_var")


def torchvision_resnet50():
    """The 320 names of torchvision's ResNet-50, as its code builds them."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 2048), "fc.bias": (1000,)}
    shapes |= _norm("bn1", 64)
    inputs = 64
    for stage, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512)), start=1):
        for block in range(count):
            name, outputs = f"layer{stage}.{block}", 4 * width
            sizes = ((width, inputs, 1), (width, width, 3), (outputs, width, 1))
            for number, (rows, columns, size) in enumerate(sizes, start=1):
                shapes[f"{name}.conv{number}.weight"] = (rows, columns, size, size)
                shapes |= _norm(f"{name}.bn{number}", rows)
            if not block:
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= _norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return shapes


def _norm(name, width):
    return {f"{name}.{leaf}": (width,) for leaf in NORM} | {f"{name}.num_batches_tracked": ()}


def timm_vit_base():
    """The 152 names of timm's ViT-B/16."""
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}
    shapes |= {"patch_embed.proj.bias": (768,), "norm.weight": (768,), "norm.bias": (768,)}
    shapes |= {"head.weight": (1000, 768), "head.bias": (1000,)}
    layers = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    for block in range(12):
        for name, shape in layers.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.{leaf}": (768,) for leaf in ("weight", "bias")}
    return shapes


@pytest.mark.parametrize(
    ("name", "options", "published", "count", "ignored"),
    [
        ("bot", {}, torchvision_resnet50, 320, 53 + 2),
        ("transreid", {"image_size": (256, 128)}, timm_vit_base, 152, 2),
    ],
    ids=["torchvision", "timm"],
)
def test_a_published_file_fills_the_backbone(name, options, published, count, ignored, monkeypatch):
    names = published()
    assert len(names) == count
    flat = {key: np.broadcast_to(np.float32(0), shape) for key, shape in names.items()}
    monkeypatch.setattr(torch_files, "read_weights", lambda path: weight_tables.Table(flat, ()))
    model = models.build(name, num_classes=2, **options)
    batch = {"image": jax.ShapeDtypeStruct((1, 256, 128, 3), np.float32), "camid": jax.ShapeDtypeStruct((1,), np.int32)}
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    shapes = jax.eval_shape(lambda keys, batch: model.init(keys, batch, train=False), keys, batch)
    _, report = models.load_weights(name, shapes, "published.pth", model=model, allow_missing=("classifier",))
    assert len(report.named("loaded", "reshaped")) == count - ignored
    assert len(report.named("ignored")) == ignored
    assert not report.named("extra", "misfit")


def test_stated_sizes_are_those_of_the_key_lists():
    stated = {name: entry.parameters for name, entry in hub.ENTRIES.items()}
    files = {"resnet50_imagenet": torchvision_resnet50(), "vit_base_imagenet": timm_vit_base()}
    for name in ("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x1_0"):
        size = name.removeprefix("osnet_").removeprefix("ibn_").removeprefix("ain_")
        kind = next((kind for kind in ("ibn", "ain") if kind in name), "plain")
        files[f"{name}_imagenet"] = torchreid_names.shapes(size, kind, 1000)
    files["osnet_x0_25_msmt17"] = torchreid_names.shapes("x0_25", "plain", 4101)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, shapes in files.items():
        counted = sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(statistics))
        assert stated[name] == counted, name
