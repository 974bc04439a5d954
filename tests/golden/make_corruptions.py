"""Makes `corruption_cases.npz` and `corruption_hashes.json`.

    python tests/golden/make_corruptions.py REFERENCE.npz      # cuts down the reference outputs
    python tests/golden/make_corruptions.py                    # hashes of this code's own outputs, after a change

The first holds one severity of the corruptions whose draws are small, as the reference code made them; the second
the SHA-256 of all 100 outputs on a drawn picture, and means over blocks of 24 x 24 pixels for where the filters of
another OpenCV round otherwise.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np

from reid_jax.data import corruptions
from reid_jax.data.corruptions import sampling

FOLDER = pathlib.Path(__file__).parent
CASES = {
    "defocus_blur": 2, "glass_blur": 4, "motion_blur": 3, "zoom_blur": 5, "frost": 2, "brightness": 3, "contrast": 2,
    "pixelate": 4, "jpeg_compression": 2, "gaussian_blur": 3, "saturate": 4, "rain": 4, "fog": 5, "impulse_noise": 2,
    "elastic_transform": 2, "spatter": 5,
}  # fmt: skip
WINDOW = np.s_[:64, :32]  # what is kept of each output: a quarter, with two borders


def picture() -> np.ndarray:
    """A picture with ramps, checks and fine texture, made of whole numbers: uint8 [96, 48, 3]."""
    y, x, c = np.meshgrid(np.arange(96), np.arange(48), np.arange(3), indexing="ij")
    return ((x * y // 3 + 37 * c + 5 * x * (c + 1) + (x // 8 + y // 8) % 2 * 60) % 256).astype(np.uint8)


def outputs() -> dict[str, np.ndarray]:
    """All 100 corruptions of `picture`, by "<name>/<severity>"."""
    image, found = picture(), {}
    for name in corruptions.CORRUPTIONS:
        for severity in corruptions.SEVERITIES:
            rng = sampling.generator(0, severity, "query", name)
            draws = sampling.sample(name, severity, image.shape[:2], rng)
            found[f"{name}/{severity}"] = sampling.apply(name, severity, image, draws)
    return found


def describe(image: np.ndarray) -> dict:
    """Hash and block means of an output."""
    blocks = image.reshape(4, 24, 2, 24, 3).mean(axis=(1, 3))
    return {
        "sha256": hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest(),
        "means": [round(float(one), 2) for one in blocks.ravel()],
    }


def cut_down(path: str) -> dict[str, np.ndarray]:
    """The picture, the texture that frost draws, and the cases: `<name>/<severity>/out` and `/draw0`, ..."""
    with np.load(path) as file:
        kept = {"image": file["img0"]}
        for name, severity in CASES.items():
            prefix = f"img0/{name}/s{severity}/"
            drawn = sorted(key for key in file.files if key.startswith(prefix + "draw") and "after" not in key)
            kept[f"{name}/{severity}/out"] = file[prefix + "out_u8"][WINDOW]
            for index, key in enumerate(drawn):
                value = file[key]
                # Single precision moves no result by more than the gray level that is allowed.
                kept[f"{name}/{severity}/draw{index:02d}"] = value.astype(np.float32) if value.dtype == float else value
            if name == "frost":
                kept["frost_index"] = file[drawn[0]]
                kept["frost_texture"] = file[f"frost_texture_bgr/{int(file[drawn[0]])}"][..., ::-1]
    return kept


if __name__ == "__main__":
    if len(sys.argv) > 1:
        np.savez_compressed(FOLDER / "corruption_cases.npz", **cut_down(sys.argv[1]))
    lines = [f"  {json.dumps(name)}: {json.dumps(describe(image))}" for name, image in outputs().items()]
    (FOLDER / "corruption_hashes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
