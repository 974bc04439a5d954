"""Published models by name, for use without a training config: model options and preprocessing.

A row is a published system as its authors test it; `settings` turns it into the settings that a run folder would hold,
so that all later code treats both alike. Weights are files, see `reid_jax.weights.hub` for published ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.plugins import names
from reid_jax.weights import hub


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        model: name in `reid_jax.models.MODELS` and the fields that differ from its defaults.
        metric: the distance by which its features are compared.
        notes: which weights belong to it, their license, and what else a user should know.
        height: rows of the input images.
        width: columns.
        interpolation: how images are resized, see `reid_jax.data.image_io.resize`.
        mean: per channel, of images in [0, 1].
        std: per channel.
        submodule: the part of the model that a weights file fills; "" for all of it.
        classifiers: patterns of layers that only training uses; weights for another number of identities are left out.
    """

    model: Mapping[str, Any]
    metric: str
    notes: str
    height: int = 256
    width: int = 128
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = config_lib.IMAGENET_MEAN
    std: tuple[float, float, float] = config_lib.IMAGENET_STD
    submodule: str = ""
    classifiers: tuple[str, ...] = (r"(^|/)classifier(_\w+)?/",)


ZOO: dict[str, Entry] = {
    "bot": Entry(
        model={"name": "bot"},
        metric="cosine",
        notes="Bag of tricks, ResNet-50, after the neck. The authors' files (MIT code; trained on ImageNet and on a "
        "ReID data set, whose terms apply) and files of scripts/convert_weights.py.",
    ),
    "mfv": Entry(
        model={"name": "mfv"},
        metric="euclidean",
        notes="MFV as the paper describes it; files of this package. No weights of it are published.",
    ),
    "mfv_release": Entry(
        model={"name": "mfv", "layout": "release"},
        metric="euclidean",
        notes="MFV as its released code computes it; files trained with that code once it runs.",
    ),
    "mgaf": Entry(
        model={"name": "mgaf"},
        metric="cosine",
        notes="MGAF with this package's choice of attention; files of this package. No weights of it are published.",
        height=384,
        interpolation="bicubic",
    ),
    "mgn": Entry(
        # The public code's classifiers read another vector; test features are the same, and classifiers are left out.
        model={"name": "mgn"},
        metric="cosine",
        notes="MGN as its public PyTorch reimplementation has it (max pooling, 2048 numbers); that code's files and "
        "files of scripts/convert_weights.py.",
        height=384,
        interpolation="bicubic",
    ),
    **{
        f"transreid{suffix}": Entry(
            model={"name": "transreid", **fields},
            metric="euclidean",
            notes=f"{title}. The authors' files (MIT code; trained on ImageNet and on a ReID data set, whose terms "
            "apply), which contain the number of cameras, and files of scripts/convert_weights.py.",
            height=height,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
        for suffix, title, fields, height in (
            ("", "TransReID, ViT-B/16 without overlap", {"sie": "camera", "jpm": True}, 256),
            ("_star", "TransReID*, ViT-B/16 with step 12", {"sie": "camera", "jpm": True, "stride": 12}, 256),
            ("_stride12", "the same as transreid_star", {"sie": "camera", "jpm": True, "stride": 12}, 256),
            ("_stride11", "TransReID*, ViT-B/16 with step 11", {"sie": "camera", "jpm": True, "stride": 11}, 256),
            ("_384", "TransReID at 384 x 128", {"sie": "camera", "jpm": True}, 384),
            ("_star_384", "TransReID* at 384 x 128", {"sie": "camera", "jpm": True, "stride": 12}, 384),
            ("_stride12_384", "the same as transreid_star_384", {"sie": "camera", "jpm": True, "stride": 12}, 384),
            ("_baseline", "the ViT-B/16 baseline of TransReID", {}, 256),
        )
    },
    "vit_base": Entry(
        model={"name": "transreid"},
        metric="cosine",
        notes="ViT-B/16 or DeiT-B/16 trained on ImageNet alone (timm's files, Apache-2.0; ImageNet is for "
        "non-commercial research): the class token. A reference without training on ReID data.",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "cfat": Entry(
        model={"name": "cfat", "sie": "camera"},
        metric="cosine",
        notes="The student of CFAT, class token. Files of this package; of the authors' files (no license) those of "
        "student and generator in one.",
    ),
    "cil": Entry(
        model={"name": "bot", "pooling": "gem", "test_feature": "feature"},
        metric="cosine",
        notes="CIL, ResNet-50 with generalized mean pooling, before the neck; files of this package.",
    ),
    "mspf": Entry(
        model={"name": "mspf"},
        metric="euclidean",
        notes="MSPF with patches of two levels; files of this package. No weights of it are published.",
    ),
    "osfa": Entry(
        model={"name": "mspf", "mpf_patches": (), "attention": "spatial_channel", "attention_kind": "osfa"},
        metric="euclidean",
        notes="OSFA, MSPF's parent; files of this package.",
    ),
    "osnet": Entry(
        model={"name": "osnet"},
        metric="euclidean",
        notes="The same as osnet_x1_0.",
    ),
    "amfor": Entry(
        # Labels of body parts matter in training only; strips need no files.
        model={"name": "amfor", "parsing_source": "strips"},
        metric="euclidean",
        notes="AMFOR, nine slots and which of them can be seen; files of this package. No weights of it are published.",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "mim": Entry(
        # What is masked matters in training only.
        model={
            "name": "mim",
            "mask_kind": "parts",
            "mask_ratio": 0.5,
            "parts_source": "strips",
            "statistics": True,
        },
        metric="cosine",
        notes="Encoder of masked pretraining, mean of the patch tokens: MAE's or HAP's files, or weights/encoder.npz "
        "of a run of configs/mim.py. A reference without training on identities.",
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "resnet50": Entry(
        # The stem's ReLU and stride 2 of the last stage are those of the classifier the file was trained as.
        model={"name": "bot", "stem_relu": True, "last_stride": 2},
        metric="cosine",
        notes="ResNet-50 trained on ImageNet alone (torchvision's files, BSD-3; ImageNet is for non-commercial "
        "research): the averaged last map at unit length. A reference without training on ReID data.",
        submodule="backbone",
    ),
    **{
        f"osnet_{'' if kind == 'plain' else kind + '_'}{size}": Entry(
            model={"name": "osnet", "size": size, "kind": kind},
            # The authors evaluate AIN, made for transfer to other data sets, by cosine distance.
            metric="cosine" if kind == "ain" else "euclidean",
            notes=f"OSNet {size.replace('_', '.')}, {kind}. torchreid's files (MIT code; trained on ImageNet and on "
            "ReID data sets, whose terms apply) and files of scripts/convert_weights.py.",
        )
        for kind, sizes in (
            ("plain", ("x1_0", "x0_75", "x0_5", "x0_25")),
            ("ibn", ("x1_0",)),
            ("ain", ("x1_0", "x0_75", "x0_5", "x0_25")),
        )
        for size in sizes
    },
}


def lookup(name: str) -> Entry:
    """Returns the row of a name; that of a model of the user's own (`package.module:Name`) has the defaults.

    Raises:
        UserError: there is no such row (the nearest name is suggested).
    """
    if names.is_path(name):
        return Entry(model={"name": name}, metric="cosine", notes="A model of your own.")
    if name not in ZOO:
        raise errors.unknown("model", name, [*ZOO, "package.module:Name"])
    return ZOO[name]


def of_weights(text: str) -> str:
    """Returns the model that published weights are for, the row that their name begins with ("osnet_x0_25_msmt17").

    Args:
        text: a name of `reid_jax.weights.hub` or a published file; "" is returned for others, and for weights of a
            network that has no row.
    """
    weights = hub.name_of(text) or ""
    return max((name for name in ZOO if weights.startswith(f"{name}_")), key=len, default="")


def settings(
    name: str, options: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> config_lib.Settings:
    """A row as the settings of a run (`reid_jax.config.defaults`), for `reid_jax.inference.extractor.Extractor`.

    Args:
        name: a key of `ZOO`, or `package.module:Name`.
        options: further fields of the model.
        overrides: dotted keys of the config (`data.height`); None leaves a value as it is.

    Raises:
        UserError: no such model.
    """
    entry = lookup(name)
    config = config_lib.defaults()
    config.system, config.preset = name, ""
    config.model = {**entry.model, **(options or {})}
    row = {
        "data.name": "",
        "data.height": entry.height,
        "data.width": entry.width,
        "data.interpolation": entry.interpolation,
        "preprocess.mean": entry.mean,
        "preprocess.std": entry.std,
        "evals.metric": entry.metric,
    }
    row |= {key: value for key, value in (overrides or {}).items() if value is not None}
    config_lib.override(config, row)
    return config_lib.Settings.of(config_lib.to_dict(config))
