"""Makes mfv_release.npz: the released MFV, once repaired, restated in PyTorch on seeded random weights.

    python tests/golden/make_mfv_release.py            (PyTorch needed here; the tests read the file and need none)

The network is written from its description (NCHW maps, memory reinterpreted by `reshape`), apart from the package's own
code, with the parameter names of the published code. It is narrow: stem width 16, tokens of 64 channels, images of
128 x 64, so that a token spans two channels as in the original. Weights are not stored: `make_weight` draws each from
its name, here and in the test.
"""

from __future__ import annotations

import json
import pathlib
import zlib

import numpy as np

OUTPUT = pathlib.Path(__file__).with_name("mfv_release.npz")

# Fields of reid_jax.models.mfv.mfv.MFV that describe this network.
SETTINGS = {
    "num_classes": 7,
    "layout": "release",
    "width": 16,
    "depths": (1, 1, 2, 1),
    "level_depth": 1,
    "tfe_width": 64,
    "tfe_depths": (1, 1, 2),
    "slots": 24,
    "ffn_width": 96,
}
IMAGE_SHAPE = (2, 3, 128, 64)


def make_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws an entry of the state dict from its PyTorch name, batch statistics included."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.startswith("bottleneck") and name.endswith(".bias"):
        return np.zeros(shape, np.float32)  # frozen at zero in the recipe
    if len(shape) == 1:
        positive = name.endswith(("running_var", "weight"))
        return (rng.uniform(0.5, 1.5, shape) if positive else 0.2 * rng.normal(size=shape)).astype(np.float32)
    gain = 2.0 if name.endswith(("conv1.weight", "conv2.weight")) else 1.0
    if name.endswith("mv.weight"):
        gain = 100.0  # attention weights are small: without this a fault in them would not show in the result
    return (rng.normal(size=shape) * np.sqrt(gain / np.prod(shape[1:]))).astype(np.float32)


def make_images() -> np.ndarray:
    """Normalized images [B, 3, H, W]."""
    return np.random.default_rng(0).normal(size=IMAGE_SHAPE).astype(np.float32)


def build_network():
    """The network as a `torch.nn.Module`; `forward` returns maps, logits and the test feature."""
    import torch
    from torch import nn
    from torch.nn import functional

    width, channels = SETTINGS["width"], SETTINGS["tfe_width"]

    class Block(nn.Module):
        def __init__(self, before, inner, stride=1):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
            self.downsample = None
            if stride > 1 or before != 4 * inner:
                projection = nn.Conv2d(before, 4 * inner, 1, stride, bias=False)
                self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * inner))

        def forward(self, x):
            y = functional.relu(self.bn1(self.conv1(x)))
            y = functional.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            return functional.relu(y + (x if self.downsample is None else self.downsample(x)))

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
            before = width
            for stage, depth in enumerate(SETTINGS["depths"]):
                inner, blocks = width * 2**stage, []
                for index in range(depth):
                    blocks.append(Block(before, inner, 2 if stage and not index else 1))
                    before = 4 * inner
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        def forward(self, x):
            x = functional.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1)  # no ReLU in the stem
            maps = []
            for stage in range(4):
                x = getattr(self, f"layer{stage + 1}")(x)
                maps.append(x)
            return maps

    class Holder(nn.Module):
        """Only carries the nesting of the published parameter names."""

        def __init__(self, **parts):
            super().__init__()
            for name, part in parts.items():
                self.add_module(name, part)

    def layer():
        slots, hidden = SETTINGS["slots"], SETTINGS["ffn_width"]
        memory = Holder(mk=nn.Linear(channels, slots, bias=False), mv=nn.Linear(slots, channels, bias=False))
        parts = (nn.Linear(channels, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, channels), nn.Dropout(0.1))
        feed_forward = Holder(net=nn.Sequential(*parts))
        return nn.ModuleList([Holder(fn=Holder(fn=memory)), Holder(fn=Holder(fn=feed_forward))])

    class Stage(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
            self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
            self.conv3, self.bn3 = nn.Conv2d(channels, 4 * channels, 1, bias=False), nn.BatchNorm2d(4 * channels)
            self.transformer = Holder(layers=nn.ModuleList([layer() for _ in range(depth)]))

        def forward(self, z):
            for number in (1, 2, 3):
                z = functional.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(z)))
            z = z[:, ::4].contiguous()
            batch, _, height, columns = z.shape
            u = z.reshape(batch, columns, height, channels)
            for attention, feed_forward in self.transformer.layers:
                s = torch.softmax(attention.fn.fn.mk(u), dim=1)
                s = s / s.sum(dim=2, keepdim=True)
                u = u + attention.fn.fn.mv(s)
                u = u + feed_forward.fn.fn.net(u)
            return u

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = Base()
            for k in (1, 2, 3):
                inner = width * 2 ** (k - 1)
                blocks = [Block(4 * inner, inner) for _ in range(SETTINGS["level_depth"])]
                setattr(self, f"non_linear{k}", nn.Sequential(*blocks))
            self.HAT = Holder(**{f"TFE_S{k}": Stage(depth) for k, depth in enumerate(SETTINGS["tfe_depths"], start=1)})
            # Every fourth channel at every second row and column of the map, which is the image at 1/16.
            grid = channels // 4 * (IMAGE_SHAPE[2] // 32) * (IMAGE_SHAPE[3] // 32)
            sizes = {"b": 32 * width, **dict.fromkeys(("t1", "t2", "t3"), grid)}
            for name, size in sizes.items():
                setattr(self, f"bottleneck_{name}", nn.BatchNorm1d(size))
            for name in ("b", "t1"):
                setattr(self, f"classifier_{name}", nn.Linear(sizes[name], SETTINGS["num_classes"], bias=False))

        def forward(self, images):
            x1, x2, x3, x4 = self.base(images)
            levels = [
                functional.max_pool2d(self.non_linear1(x1), 4, 4),
                functional.max_pool2d(self.non_linear2(x2), 2, 2),
                self.non_linear3(x3),
            ]
            batch, _, height, columns = levels[2].shape
            maps, carried = [], None
            for level, stride, stage in zip(levels, (1, 2, 4), self.HAT.children(), strict=True):
                z = level[:, ::stride].contiguous()
                if carried is not None:
                    z = z.reshape(batch, columns, height, channels)
                    z = torch.cat((z[:, ::2], carried[:, ::2]), dim=1).reshape(batch, channels, height, columns)
                middle = stage(z).permute(0, 3, 2, 1).contiguous()
                maps.append(middle)
                carried = middle.reshape(batch, columns, height, channels)
            descriptors = {"b": x4.mean(dim=(2, 3))}
            for k, middle in enumerate(maps, start=1):
                descriptors[f"t{k}"] = middle[:, ::4, ::2, ::2].reshape(batch, -1)
            necks = {name: getattr(self, f"bottleneck_{name}")(one) for name, one in descriptors.items()}
            logits = {
                name: (self.classifier_b if name == "b" else self.classifier_t1)(one) for name, one in necks.items()
            }
            return maps, logits, torch.cat((necks["b"], necks["t3"]), dim=1)

    return Network()


def main() -> None:
    import torch

    network = build_network().eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(make_weight(name, shape)) for name, shape in shapes.items()})
    with torch.no_grad():
        maps, logits, feature = network(torch.from_numpy(make_images()))
    arrays = {f"map/t{k}": one.numpy() for k, one in enumerate(maps, start=1)}  # NCHW
    arrays |= {f"logits/{name}": one.numpy() for name, one in logits.items()}
    arrays |= {"feature": feature.numpy(), "shapes_json": np.array(json.dumps(shapes))}
    np.savez_compressed(OUTPUT, **arrays)
    for name, array in arrays.items():
        print(name, array.shape, "" if name == "shapes_json" else f"std {array.std():.3f}")


if __name__ == "__main__":
    main()
