"""Counts parameters, operations and embedding size of every system's recipe for Market-1501.

    python docs/sizes.py              # writes results/sizes.json
    python docs/sizes.py --check      # exit code 1 where the file differs

Nothing is computed: the models run on shapes.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import jax

from reid_jax import build, config
from reid_jax.config import files
from reid_jax.models import macs

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "results" / "sizes.json"
PRESET = "market1501"
IDENTITIES, CAMERAS = 751, 6


def size(system: str) -> dict[str, Any]:
    """What one system's recipe has.

    Args:
        system: name of its config.
    """
    settings = config.Settings.of(config.to_dict(files.load_config(f"{ROOT}/configs/{system}.py:{PRESET}")))
    height, width = settings.data.height, settings.data.width
    model = build.build_model(settings, IDENTITIES, CAMERAS)

    size = macs.measure(model, height, width)
    features = jax.eval_shape(model.describe, size.outputs).features
    return {
        "parameters": size.parameters,
        "macs": size.macs,
        "image": f"{height} x {width}",
        "embedding": " x ".join(str(axis) for axis in features.shape[1:]),
    }


def document() -> dict[str, Any]:
    """All systems, in the order of the documentation."""
    systems = json.loads((ROOT / "docs" / "published.json").read_text())
    return {
        "command": "python docs/sizes.py",
        "preset": PRESET,
        "identities": IDENTITIES,
        "systems": {name: size(name) for name in systems},
    }


def main(arguments: list[str]) -> int:
    """Writes or checks the file; the exit code."""
    text = json.dumps(document(), indent=2) + "\n"
    if "--check" in arguments:
        return int(not OUTPUT.is_file() or OUTPUT.read_text() != text)
    OUTPUT.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
