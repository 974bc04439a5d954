"""Writes the ten demos as StableHLO for three platforms, and reads them in an environment without this package.

    python -m venv plain && plain/bin/pip install jax numpy flatbuffers
    python -m tests.export.read_alone --python plain/bin/python --output results/stablehlo.json

The reader has what `docs/deploy.md` shows and nothing else. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

import jax
import numpy as np

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.benchmarks import export_speed, tables
from reid_jax.config import files
from reid_jax.export import embedding, stablehlo
from reid_jax.inference import extractor as extractor_lib
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh

READER = """
import importlib.util, json, sys, zipfile
import jax, numpy
crops = numpy.load(sys.argv[2])["pixels"]
archive = zipfile.ZipFile(sys.argv[1])
embed = jax.export.deserialize(bytearray(archive.read("function.stablehlo"))).call
features = embed(crops)[0]
numpy.save(sys.argv[3], numpy.asarray(features))
print(json.dumps({"alone": importlib.util.find_spec("reid_jax") is None}))
"""
BATCH = 3


def read(python: str, system: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns what another environment makes of the file of a system's demo with random weights."""
    config = files.load_config(f"{system}:demo")
    config_lib.override(config, {"dtype": "float32"})
    settings = settings_lib.of(config)
    model = build.build_model(settings, 8, 4)
    extractor = extractor_lib.Extractor(model, settings, mesh.create_mesh(), {"random": True})
    variables = export_speed.random_variables(extractor)
    path = folder / f"{system}.zip"
    meta = stablehlo.write(extractor, variables, path)
    pixels = embedding.trial_images(BATCH, extractor.size["height"], extractor.size["width"])
    np.savez(folder / "given.npz", pixels=pixels)
    given = [str(path), str(folder / "given.npz"), str(folder / "found.npy")]
    done = subprocess.run(
        [python, "-I", "-c", READER, *given], check=True, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    described = extractor.images(variables, pixels)
    difference, cosine = embedding.differences([described.features], [np.load(folder / "found.npy")])
    exported = jax.export.deserialize(bytearray(zipfile.ZipFile(path).read(stablehlo.FUNCTION)))
    return {
        "what": f"{system}:demo",
        "platforms": ", ".join(exported.platforms),
        "MB": path.stat().st_size / 1e6,
        "at_export": meta["parity"]["difference"],
        "difference": difference,
        "cosine": cosine,
        "without_package": "yes" if json.loads(done.stdout)["alone"] else "no",
    }


def main() -> None:
    """Reads the files of all systems and writes the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for system in export_speed.SYSTEMS:
            rows.append(read(args.python, system, pathlib.Path(folder)))
            print(rows[-1], file=sys.stderr, flush=True)
    command = "python -m tests.export.read_alone --python PYTHON --output results/stablehlo.json"
    print(tables.write(args.output, {"stablehlo": rows}, tables.about(command)))


if __name__ == "__main__":
    main()
