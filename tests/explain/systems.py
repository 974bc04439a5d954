"""How complete the maps of a pair are, for all ten systems; a script, for compiling ten networks takes minutes.

    python -m tests.explain.systems --output results/explain_sums.json

The demos' networks with random weights: whether the regions' shares sum up to the similarity follows from the layers
behind the maps alone. Normalizations have random means and shifts, so that these count. Systems that are in the file
already and not among --systems stay.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build, file_io, trees
from reid_jax.config import files
from reid_jax.explain import explainer, similarity_maps
from reid_jax.inference import extractor
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SYSTEMS = ("bot", "cil", "osnet", "mgn", "transreid", "mfv", "amfor", "mgaf", "mspf", "cfat")
PAIRS = 3


def drawn(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns random variables of given shapes; the model's own initializers would have to be compiled."""
    generator = np.random.default_rng(0)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = generator.standard_normal(shape).astype(np.float32)
        last = name.rpartition("/")[2]
        if last in ("scale", "var"):
            return 1 + 0.1 * np.abs(values)
        if last == "p":  # exponent of a power mean
            return np.full(shape, 3, np.float32)
        if last in ("bias", "mean"):
            return 0.1 * values
        return values * np.float32((2 / max(np.prod(shape[:-1]), 1)) ** 0.5)

    return trees.unflatten({name: draw(name, leaf.shape) for name, leaf in trees.flatten(shapes).items()})


def pictures(count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns images of a few rectangles, uint8 [count, H, W, 3]."""
    generator = np.random.default_rng(1)
    images = generator.integers(60, 200, (count, 1, 1, 3)) + np.zeros((count, *size, 3), int)
    for image in images:
        for _ in range(6):
            top, left = (int(generator.integers(0, side)) for side in size)
            image[top : top + size[0] // 4, left : left + size[1] // 3] = generator.integers(0, 255, 3)
    return images.astype(np.uint8)


def measure(system: str) -> dict[str, Any]:
    """Returns the layers of a system's cut, whether one gradient suffices, and the errors of the sums."""
    settings = settings_lib.of(files.load_config(str(ROOT / "configs" / f"{system}.py")))
    network = build.build_model(settings, 4, 2)
    one = extractor.Extractor(network, settings, mesh.create_mesh())
    model = explainer.Explainer(one, drawn(build.variable_shapes(network, settings, one.example_batch())))
    query, *gallery = pictures(1 + PAIRS, model.size)
    found = [each for pair in similarity_maps.pairs(model, query, gallery) for each in (pair.query, pair.gallery)]
    sums = [abs(each.map.sum(dtype=np.float64) + each.residue - each.similarity) for each in found]
    return {
        "system": system,
        "layers": ", ".join(model.cut()),
        "exact": all(each.exact for each in found),
        "residue": float(f"{max(abs(each.residue) for each in found):.1e}"),
        "sum": float(f"{max(sums):.1e}"),
        "regions": [
            round(min(float(each.regions.sum()) for each in found), 3),
            round(max(float(each.regions.sum()) for each in found), 3),
        ],
    }


def main() -> None:
    """Measures all systems and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    args = parser.parse_args()
    rows = {}
    if args.output.exists():
        rows = {row["system"]: row for row in json.loads(args.output.read_text())["systems"]}
    for system in args.systems.split(","):
        rows[system] = measure(system)
        print(rows[system], flush=True)
        jax.clear_caches()
        known = [rows[name] for name in SYSTEMS if name in rows]
        file_io.write_json(args.output, {"pairs": PAIRS, "steps": similarity_maps.STEPS, "systems": known}, "the sums")


if __name__ == "__main__":
    main()
