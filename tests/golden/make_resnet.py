"""Makes tests/golden/resnet.npz: a narrow ResNet of bottlenecks in PyTorch, its maps, and one step of its statistics.

    pip install torch && python tests/golden/make_resnet.py

The weights are random (seed 0) and the file is reproduced by the command up to rounding.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from reid_jax.benchmarks.torch import torch_resnet  # noqa: E402

DEPTHS, WIDTH, BATCH = (2, 1, 2, 1), 8, 3


def main() -> None:
    """Writes the file beside this script."""
    torch.manual_seed(0)
    model = torch_resnet.ResNet(depths=DEPTHS, width=WIDTH, classes=5)
    torch_resnet.randomize(model, seed=0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_((value * 128).round() / 128)  # few distinct values: the file compresses to a third
    images = (torch.randn(BATCH, 3, 64, 32) * 32).round() / 32
    arrays = {f"weights/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    arrays["images"] = images.permute(0, 2, 3, 1).numpy()
    for mode in ("eval", "train"):
        model.train(mode == "train")
        images.grad = None
        images.requires_grad_(True)
        model.zero_grad()
        maps = model.maps(images)
        if mode == "eval":
            for name, value in maps.items():
                arrays[f"eval/{name}"] = value.detach().permute(0, 2, 3, 1).numpy()
        else:
            arrays["train/stage4"] = maps["stage4"].detach().permute(0, 2, 3, 1).numpy()
            maps["stage4"].square().mean().backward()
            arrays["train/gradient/images"] = images.grad.permute(0, 2, 3, 1).numpy()
            for name in ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer3.0.downsample.0.weight"):
                arrays[f"train/gradient/{name}"] = dict(model.named_parameters())[name].grad.numpy()
            for name, value in model.state_dict().items():
                if "running" in name:
                    arrays[f"train/statistics/{name}"] = value.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("resnet.npz"), **arrays)


if __name__ == "__main__":
    main()
