"""Makes `corruption_hashes.json`, after a change of the corruptions that is meant.

    python tests/golden/make_corruptions.py

The file holds the SHA-256 of all 100 outputs on a synthetic picture, and means over blocks of 24 x 24 pixels for
machines whose OpenCV rounds differently.
"""

import hashlib
import json
import pathlib

import numpy as np

from reid_jax.data import corruptions
from reid_jax.data.corruptions import sampling

FOLDER = pathlib.Path(__file__).parent


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


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(describe(image))}" for name, image in outputs().items()]
    (FOLDER / "corruption_hashes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
