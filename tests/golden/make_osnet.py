"""Makes tests/golden/osnet.npz: OSNet x0.25 of every kind in PyTorch (maps, features), and one train step up to conv2.

    pip install torch && python tests/golden/make_osnet.py

Weights and images are not in the file: `tests/helpers/torchreid_names.py` draws both from seeds.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from reid_jax.benchmarks.torch import torch_osnet  # noqa: E402
from tests.helpers import torchreid_names  # noqa: E402

CLASSES = 9
GRADIENTS = (
    *("conv1.conv.weight", "conv1.bn.weight", "conv2.0.gate.fc2.bias", "conv2.0.conv2a.conv2.weight"),
    *("conv2.0.downsample.conv.weight", "conv2.1.conv2d.0.conv1.weight", "conv2.2.0.bn.bias"),
)


def load(kind: str) -> torch_osnet.OSNet:
    """The narrow network of a kind with the drawn weights; its names and shapes are those written down."""
    model = torch_osnet.OSNet("x0_25", kind, CLASSES)
    wanted = torchreid_names.shapes("x0_25", kind, CLASSES)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == wanted
    model.load_state_dict({name: torch.tensor(value) for name, value in torchreid_names.draw(wanted).items()})
    return model


def main() -> None:
    """Writes the file beside this script."""
    torch.set_num_threads(1)
    for kind in torch_osnet.KINDS:
        for width in torch_osnet.WIDTHS:
            entries = torch_osnet.OSNet(width, kind).state_dict()
            assert {k: tuple(v.shape) for k, v in entries.items()} == torchreid_names.shapes(width, kind)
    prepare = lambda count: torch.tensor(torchreid_names.normalize(torchreid_names.pictures(count))).permute(0, 3, 1, 2)
    images = prepare(2)
    arrays = {}
    for kind in torch_osnet.KINDS:
        model = load(kind).eval()
        with torch.no_grad():
            for name, value in model.maps(images).items():
                # Every second position of the large maps is enough to tell them apart.
                step = 4 if name == "conv1" else 1
                arrays[f"{kind}/{name}"] = value.permute(0, 2, 3, 1)[:, ::step, ::step].numpy()
            arrays[f"{kind}/feature"] = model(images).numpy()
            arrays[f"{kind}/logits"] = model.classifier(model(images)).numpy()
    # In float32, activations near zero fall on either side of the ReLU, and gradients differ in the third digit.
    model = load("plain").double().train()
    model.maps(prepare(6).double())["conv2"].square().mean().backward()
    for name in GRADIENTS:
        arrays[f"train/gradient/{name}"] = dict(model.named_parameters())[name].grad.numpy()
        assert arrays[f"train/gradient/{name}"].any(), name
    for name, value in model.state_dict().items():
        if name.startswith(("conv1.", "conv2.0.conv2b.1.", "conv2.2.")) and "running" in name:
            arrays[f"train/statistics/{name}"] = value.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("osnet.npz"), **arrays)


if __name__ == "__main__":
    main()
