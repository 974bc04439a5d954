"""Makes tests/golden/transreid.npz: a tiny TransReID in PyTorch with overlapping patches, cameras, views and JPM.

    pip install torch && python tests/golden/make_transreid.py

Weights and images are not in the file: `tests/helpers/transreid_names.py` draws both from seeds.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from reid_jax.benchmarks.torch import torch_transreid  # noqa: E402
from tests.helpers import torchreid_names, transreid_names  # noqa: E402


def main() -> None:
    """Writes the file beside this script."""
    arrays = {}
    for case, fields in transreid_names.CASES.items():
        model = torch_transreid.TransReID(transreid_names.CLASSES, **transreid_names.SIZE, **fields)
        wanted = transreid_names.shapes(**fields)
        assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == wanted
        model.load_state_dict({name: torch.tensor(value) for name, value in torchreid_names.draw(wanted).items()})
        model = model.double().eval()
        images = torch.tensor(transreid_names.images(fields["image_size"])).double().permute(0, 3, 1, 2)
        side = torch.tensor(transreid_names.SIDES) if fields["sides"] else None
        with torch.no_grad():
            features = model.features(images, side)
            necks = model.necks(features)
            arrays[f"{case}/features"] = np.stack([one.numpy() for one in features])
            arrays[f"{case}/necks"] = np.stack([one.numpy() for one in necks])
            arrays[f"{case}/logits"] = np.stack([one.numpy() for one in model.logits(necks)])
            arrays[f"{case}/joined"] = model(images, side).numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("transreid.npz"), **arrays)


if __name__ == "__main__":
    main()
