"""Published weights by name: what there is, and the file on this machine.

    path = hub.get("resnet50_imagenet")     # from the folder of weights, or from its publisher

A file is looked for in `folder()` and in the folders where torchvision, torchreid and Hugging Face's client keep
theirs, and fetched from its publisher otherwise (`reid_jax.weights.download`). A file whose publisher names a hash is
compared with it on every use. Environment variables: `REID_JAX_WEIGHTS` is the folder (`~/.cache/reid_jax/weights`
without it), and with `REID_JAX_OFFLINE=1` nothing is fetched. `REID_JAX_WEIGHTS_MIRROR` names a server that has the
files under their names, for clusters without a way to the publishers. Those of Hugging Face's client mean the same
here: `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`, and for its cache `HF_HOME` and `HF_HUB_CACHE`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping

from reid_jax import errors, file_io
from reid_jax.stores import local_copies, objects
from reid_jax.weights import download

FOLDER, OFFLINE, MIRROR = "REID_JAX_WEIGHTS", "REID_JAX_OFFLINE", "REID_JAX_WEIGHTS_MIRROR"
# Start of training without weights, said on purpose.
SCRATCH = "scratch"
# Endings of files, which distinguish a path that does not exist from a misspelled name.
ENDINGS = (".pth", ".pt", ".tar", ".bin", ".safetensors", ".npz")

_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/"
_DEIT = "https://dl.fbaipublicfiles.com/deit/"
_DRIVE = "https://drive.google.com/uc?id="
_HUGGING_FACE = "https://huggingface.co/"
_IMAGENET_TERMS = "ImageNet is for non-commercial research"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published file.

    Attributes:
        file: its name in the folder of weights.
        url: direct link; "" where the publisher has none, and the file is fetched by hand from `page`.
        publisher: who published it.
        page: the publisher's page about it.
        trained_on: images it was trained on.
        license: of the file or of the code it came with, and terms of the images.
        sha256: the published hash or its first digits; "" where none is published.
        parameters: number of trainable parameters in the file, its classifier included; 0 where it is not known.
        dimension: length D of the model's feature; 0 where it is not known.
    """

    file: str
    url: str
    publisher: str
    page: str
    trained_on: str
    license: str
    sha256: str = ""
    parameters: int = 0
    dimension: int = 0

    @property
    def megabytes(self) -> float:
        """About the size of the file: four bytes per parameter."""
        return 4e-6 * self.parameters


# Parameters with classifier, and length of the feature.
_RESNET50, _VIT_BASE = (25_557_032, 2048), (86_567_656, 768)
_OSNET_WIDTH = 512


def _torchvision(file: str, sha256: str) -> Entry:
    """Returns a classifier of torchvision; the names of its files end in the first digits of their hash."""
    return Entry(
        f"resnet50-{sha256}.pth",
        f"{_TORCHVISION}resnet50-{sha256}.pth",
        "torchvision",
        "https://docs.pytorch.org/vision/stable/models.html",
        "ImageNet-1k" + file,
        f"BSD-3-Clause; {_IMAGENET_TERMS}",
        sha256,
        *_RESNET50,
    )


def _vit(url: str, publisher: str, page: str, trained_on: str, sha256: str, size: tuple[int, int] = _VIT_BASE) -> Entry:
    """Returns a vision transformer of timm or DeiT whose file name ends in the first digits of its hash."""
    file = url.rpartition("/")[2]
    return Entry(file, url, publisher, page, trained_on, f"Apache-2.0; {_IMAGENET_TERMS}", sha256, *size)


def _timm_hub(name: str, trained_on: str, size: tuple[int, int]) -> Entry:
    """Returns a model of timm's collection at Hugging Face, whose server sends the hash with the file."""
    return Entry(
        f"{name}.safetensors",
        f"{_HUGGING_FACE}timm/{name}/resolve/main/model.safetensors",
        "timm",
        f"{_HUGGING_FACE}timm/{name}",
        trained_on,
        f"Apache-2.0; {_IMAGENET_TERMS}",
        "",
        *size,
    )


def _osnet(name: str, key: str, backbone: int) -> Entry:
    """Returns an ImageNet file of torchreid, by the link in its code."""
    return Entry(
        f"{name}_imagenet.pth",
        f"{_DRIVE}{key}",
        "torchreid",
        "https://kaiyangzhou.github.io/deep-person-reid/MODEL_ZOO",
        "ImageNet-1k",
        f"MIT; {_IMAGENET_TERMS}",
        "",
        *_with_classifier(backbone, 1000),
    )


def _osnet_msmt17(file: str, trained_on: str, backbone: int, identities: int) -> Entry:
    """Returns a ReID model of torchreid's author at Hugging Face."""
    return Entry(
        file,
        f"{_HUGGING_FACE}kaiyangzhou/osnet/resolve/main/{file}",
        "torchreid",
        f"{_HUGGING_FACE}kaiyangzhou/osnet",
        trained_on,
        "MIT; the terms of MSMT17 apply",
        "",
        *_with_classifier(backbone, identities),
    )


def _with_classifier(backbone: int, classes: int) -> tuple[int, int]:
    """Returns parameters of OSNet with its classifier, and the length of its feature."""
    return backbone + classes * (_OSNET_WIDTH + 1), _OSNET_WIDTH


_DEIT_PAGE = "https://github.com/facebookresearch/deit"
_TIMM_PAGE = "https://github.com/huggingface/pytorch-image-models"
_MSMT17_RECIPE = "_combineall_256x128_amsgrad_ep150_stp60_lr0.0015_b64_fb10_softmax_labelsmooth_flip_jitter.pth"

ENTRIES: dict[str, Entry] = {
    "resnet50_imagenet": _torchvision("", "19c8e357"),
    "resnet50_imagenet_v2": _torchvision(", torchvision's later recipe", "11ad3fa6"),
    "resnet50_a1": _timm_hub("resnet50.a1_in1k", "ImageNet-1k, timm's recipe A1", _RESNET50),
    "vit_base_imagenet": _vit(
        f"{_TIMM}v0.1-vitjx/jx_vit_base_p16_224-80ecf9dd.pth",
        *("timm", _TIMM_PAGE, "ImageNet-21k, then ImageNet-1k", "80ecf9dd"),
    ),
    "vit_base_augreg": _timm_hub(
        "vit_base_patch16_224.augreg_in21k_ft_in1k", "ImageNet-21k, then ImageNet-1k", _VIT_BASE
    ),
    "vit_small_imagenet": _vit(
        f"{_TIMM}v0.1-weights/vit_small_p16_224-15ec54c9.pth",
        *("timm", _TIMM_PAGE, "ImageNet-1k (width 768, eight blocks)", "15ec54c9", (48_754_408, 768)),
    ),
    "deit_base_imagenet": _vit(
        f"{_DEIT}deit_base_patch16_224-b5f2ef4d.pth", "DeiT", _DEIT_PAGE, "ImageNet-1k", "b5f2ef4d"
    ),
    "deit_base_distilled": _vit(
        f"{_DEIT}deit_base_distilled_patch16_224-df68dfff.pth",
        *("DeiT", _DEIT_PAGE, "ImageNet-1k, distilled", "df68dfff", (87_338_192, 768)),
    ),
    "deit_small_distilled": _vit(
        f"{_DEIT}deit_small_distilled_patch16_224-649709d9.pth",
        *("DeiT", _DEIT_PAGE, "ImageNet-1k, distilled", "649709d9", (22_436_432, 384)),
    ),
    "mae_vit_base": Entry(
        "mae_pretrain_vit_base.pth",
        "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
        "MAE",
        "https://github.com/facebookresearch/mae",
        "ImageNet-1k, without labels",
        f"CC-BY-NC 4.0; {_IMAGENET_TERMS}",
        "",
        *(85_798_656, 768),  # without a classifier
    ),
    "osnet_x1_0_imagenet": _osnet("osnet_x1_0", "1LaG1EJpHrxdAxKnSCJ_i0u-nbxSAeiFY", 2_169_508),
    "osnet_x0_75_imagenet": _osnet("osnet_x0_75", "1uwA9fElHOk3ZogwbeY5GkLI6QPTX70Hq", 1_285_754),
    "osnet_x0_5_imagenet": _osnet("osnet_x0_5", "16DGLbZukvVYgINws8u8deSaOqjybZ83i", 630_034),
    "osnet_x0_25_imagenet": _osnet("osnet_x0_25", "1rb8UN5ZzPKRc_xvtHlyDh-cSz88YX9hs", 201_864),
    "osnet_ibn_x1_0_imagenet": _osnet("osnet_ibn_x1_0", "1sr90V6irlYYDd4_4ISU2iruoRG8J__6l", 2_170_532),
    "osnet_ain_x1_0_imagenet": _osnet("osnet_ain_x1_0", "1-CaioD9NaqbHK_kzSMW8VE4_3KcsRjEo", 2_169_508),
    "osnet_x1_0_msmt17": _osnet_msmt17(f"osnet_x1_0_msmt17{_MSMT17_RECIPE}", "MSMT17, all images", 2_169_508, 4101),
    "osnet_x0_25_msmt17": _osnet_msmt17(f"osnet_x0_25_msmt17{_MSMT17_RECIPE}", "MSMT17, all images", 201_864, 4101),
    "osnet_ain_x1_0_msmt17": _osnet_msmt17(
        "osnet_ain_x1_0_msmt17_256x128_amsgrad_ep50_lr0.0015_coslr_b64_fb10_softmax_labsmth_flip_jitter.pth",
        *("MSMT17", 2_169_508, 1041),
    ),
    "hap_vit_base": Entry(
        "ckpt_default_pretrain_pose_mae_vit_base_patch16_LUPersonPose_399.pth",
        "",
        "HAP",
        "https://github.com/junkunyuan/HAP",
        "LUPerson with poses",
        "see its authors",
    ),
}


# ---- files on this machine -------------------------------------------------------------------------------------------


def folder() -> pathlib.Path:
    """Returns the folder that fetched files go to."""
    return pathlib.Path(os.environ.get(FOLDER) or "~/.cache/reid_jax/weights").expanduser()


def offline() -> bool:
    """Returns whether the environment forbids to fetch files."""
    return any(os.environ.get(name, "").lower() not in ("", "0", "false", "no") for name in (OFFLINE, "HF_HUB_OFFLINE"))


def is_scratch(text: str) -> bool:
    """Returns whether a value of `init.weights` means random weights."""
    return text in ("", SCRATCH)


def name_of(text: str) -> str | None:
    """Returns the name of published weights that a text means, by name or by the file's name; `None` for others."""
    if text in ENTRIES:
        return text
    return next((name for name, entry in ENTRIES.items() if entry.file == text), None)


def locate(name: str) -> pathlib.Path | None:
    """Returns the file of published weights if it is on this machine, compared with its published hash.

    Raises:
        UserError: no such name, or the file has another hash than the published one.
    """
    entry = _entry(name)
    for place in (folder(), *_other_folders()):
        path = place / entry.file
        if path.is_file():
            _check(path, entry)
            return path
    return _in_hugging_face_cache(entry)


def get(name: str, *, otherwise: str = "") -> pathlib.Path:
    """Returns the file of published weights, fetched first if it is not on this machine.

    Args:
        name: a key of `ENTRIES`.
        otherwise: what else the user can do, added to the sentence where the file cannot be had (", or ...").

    Raises:
        UserError: no such name, the file cannot be fetched, or it has another hash than the published one.
    """
    entry = _entry(name)
    found = look(name, otherwise=otherwise)
    if found is not None:
        return found
    target = file_io.make_folder(folder(), f"the folder of weights ({FOLDER})") / entry.file
    try:
        download.fetch(_address(entry), target, sha256=entry.sha256, token=_token(entry))
    except download.TransferError as error:
        raise errors.UserError(
            f"the weights {name!r} cannot be fetched: {error}; {_by_hand(entry, otherwise)}."
        ) from error
    return target


def look(name: str, *, otherwise: str = "") -> pathlib.Path | None:
    """Returns the file of published weights on this machine, `None` where it would be fetched now.

    Args:
        name: a key of `ENTRIES`.
        otherwise: see `get`.

    Raises:
        UserError: no such name, the file is neither here nor may be fetched, or it has another hash than the published
            one.
    """
    entry = _entry(name)
    found = locate(name)
    if found is not None:
        return found
    if offline():
        variable = OFFLINE if os.environ.get(OFFLINE) else "HF_HUB_OFFLINE"
        raise errors.UserError(
            f"the weights {name!r} are not on this machine and {variable} forbids to fetch them; "
            f"{_by_hand(entry, otherwise)}."
        )
    if not _address(entry):
        raise errors.UserError(
            f"the weights {name!r} are not on this machine and {entry.publisher} has no direct link to them; "
            f"{_by_hand(entry, otherwise)}."
        )
    return None


def _address(entry: Entry) -> str:
    """Returns where a file is fetched from: the mirror, the environment's Hugging Face endpoint, or its publisher."""
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if mirror:
        return f"{mirror}/{entry.file}"
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint and entry.url.startswith(_HUGGING_FACE):
        return f"{endpoint}/{entry.url.removeprefix(_HUGGING_FACE)}"
    return entry.url


def _token(entry: Entry) -> str:
    """Returns the user's token for Hugging Face (`HF_TOKEN`), "" for files of others."""
    if os.environ.get(MIRROR) or not entry.url.startswith(_HUGGING_FACE):
        return ""
    token = os.environ.get("HF_TOKEN", "").strip()
    return token if token.isascii() and token.isprintable() else ""


def _by_hand(entry: Entry, otherwise: str) -> str:
    return f"put the file {entry.file} from {entry.url or entry.page} into {folder()}{otherwise}"


def resolve(text: str, *, key: str = "", otherwise: str = "") -> pathlib.Path:
    """Returns the file that a user means: one that exists, or published weights by name, which are fetched.

    Args:
        text: path of a file, URL of one in an object store, a key of `ENTRIES`, or the name of a published file.
        key: where it was given ("init.weights"), for the sentence.
        otherwise: as in `get`.

    Raises:
        UserError: there is no such file and no such name, or the file cannot be had.
    """
    if objects.is_remote(text):
        return local_copies.file(text, key)
    name = _name_or_file(text, key, otherwise)
    return pathlib.Path(text) if name is None else get(name, otherwise=otherwise)


def check(text: str, *, key: str = "", otherwise: str = "") -> None:
    """Checks a value of `resolve` without fetching anything.

    Raises:
        UserError: there is no such file and no such name, or the file is not here and cannot be fetched.
    """
    if objects.is_remote(text):
        local_copies.file(text, key)
        return
    name = _name_or_file(text, key, otherwise)
    if name is not None:
        look(name, otherwise=otherwise)


def _name_or_file(text: str, key: str, otherwise: str) -> str | None:
    """Returns the name of published weights, `None` for a file that exists; see `resolve`."""
    path = pathlib.Path(text)
    if os.path.isfile(text):  # also answers for a text that can be no file name
        return None
    name = name_of(text)
    if name is not None:
        return name
    found = "a folder" if os.path.isdir(text) else "nothing"
    if found == "a folder" or path.suffix in ENDINGS or len(path.parts) > 1:
        raise errors.UserError(
            f"expected a weights file{f' as {key}' if key else ''}, found {found} at "
            f"{file_io.shown(text)[:200]}; give the path of the file, or a name of published weights (reid-jax weights "
            f"list){otherwise}."
        )
    unknown = str(errors.unknown(f"weights{f' ({key})' if key else ''}", text[:80], ENTRIES)).rstrip(".")
    raise errors.UserError(f"{unknown}; give one of these or a file{otherwise}.")


def label(text: str, path: str | os.PathLike[str]) -> str:
    """Returns a short description of weights for logs and results: name, file, and start of the hash.

    Args:
        text: what the user gave.
        path: the file.
    """
    file, name = pathlib.Path(path).name, name_of(text)
    return f"{f'{name}, ' if name else ''}{file} (sha256 {sha256_of(path)[:12]})"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the hash of a file's content; computed once as long as size and time of the file stay."""
    with file_io.reading(path, "a weights file", "give one that may be read"):
        status = os.stat(path)
        return _hash(os.fspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: str, size: int, time: int) -> str:
    del size, time  # they decide whether the cached hash is the file's
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        raise errors.unknown("weights", name, ENTRIES)
    return ENTRIES[name]


def _in_hugging_face_cache(entry: Entry) -> pathlib.Path | None:
    """Returns the file in the cache that `huggingface_hub` keeps (`HF_HUB_CACHE`, `HF_HOME`), if it is there."""
    if not entry.url.startswith(_HUGGING_FACE):
        return None
    owner, repository, _, revision, file = entry.url.removeprefix(_HUGGING_FACE).split("/", 4)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    kept = pathlib.Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    model = kept / f"models--{owner}--{repository}"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        commit = (model / "refs" / revision).read_text(encoding="ascii").strip()
        path = model / "snapshots" / commit / file
        if commit.isalnum() and path.is_file():
            return path
    return None


def _other_folders(environment: Mapping[str, str] = os.environ) -> tuple[pathlib.Path, ...]:
    """Returns the folders of torchvision (`hub/checkpoints`) and torchreid (`checkpoints`), under the same names."""
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = pathlib.Path(environment.get("TORCH_HOME") or f"{cache}/torch").expanduser()
    return home / "hub" / "checkpoints", home / "checkpoints"


def _check(path: pathlib.Path, entry: Entry) -> None:
    """Raises a `UserError` if a file has another hash than the published one."""
    if entry.sha256 and not sha256_of(path).startswith(entry.sha256):
        raise errors.UserError(
            f"expected the published file at {path}, whose sha256 starts with {entry.sha256}, got one that starts with "
            f"{sha256_of(path)[: len(entry.sha256)]}; remove it, so that it is fetched again."
        )
