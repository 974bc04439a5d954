"""Names and shapes of OSNet in torchreid's files, written down from the papers, and seeded values for them.

Neither our model nor PyTorch has a part in it: `tests/golden/make_osnet.py` compares it with a PyTorch model, the tests
with ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

WIDTHS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
# Blocks with instance normalization, by kind: behind the sum, and in place of the last batch normalization.
BEHIND = {"plain": (), "ibn": ("conv2.0", "conv2.1"), "ain": ()}
INSIDE = {"plain": (), "ibn": (), "ain": ("conv2.0", "conv2.1", "conv3.1", "conv4.0")}
Shapes = dict[str, tuple[int, ...]]


def _norm(name: str, width: int, running: bool = True) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var") if running else ("weight", "bias")
    counter: Shapes = {f"{name}.num_batches_tracked": ()} if running else {}
    return {f"{name}.{one}": (width,) for one in vectors} | counter


def _conv(name: str, inputs: int, outputs: int, size: int = 1) -> Shapes:
    return {f"{name}.conv.weight": (outputs, inputs, size, size), **_norm(f"{name}.bn", outputs)}


def _block(name: str, inputs: int, outputs: int, kind: str) -> Shapes:
    inside = outputs // 4
    shapes = _conv(f"{name}.conv1", inputs, inside)
    for depth, letter in enumerate("abcd", start=1):
        for index in range(depth):
            light = f"{name}.conv2{letter}" + (f".{index}" if depth > 1 else "")
            if kind == "ain":
                light = f"{name}.conv2.{depth - 1}.layers.{index}"
            shapes[f"{light}.conv1.weight"] = (inside, inside, 1, 1)
            shapes[f"{light}.conv2.weight"] = (inside, 1, 3, 3)
            shapes |= _norm(f"{light}.bn", inside)
    hidden = inside // 16
    shapes |= {f"{name}.gate.fc1.weight": (hidden, inside, 1, 1), f"{name}.gate.fc1.bias": (hidden,)}
    shapes |= {f"{name}.gate.fc2.weight": (inside, hidden, 1, 1), f"{name}.gate.fc2.bias": (inside,)}
    shapes |= _conv(f"{name}.conv3", inside, outputs)
    if name in INSIDE[kind]:
        shapes = {one: shape for one, shape in shapes.items() if not one.startswith(f"{name}.conv3.bn.")}
    if inputs != outputs:
        shapes |= _conv(f"{name}.downsample", inputs, outputs)
    if name in BEHIND[kind] + INSIDE[kind]:
        shapes |= _norm(f"{name}.IN", outputs, running=False)
    return shapes


def shapes(width: str, kind: str, classes: int = 751) -> Shapes:
    """Every entry of a file by name: 567 of them for the plain kind, 568 for IBN, 552 for AIN."""
    channels = WIDTHS[width]
    found: Shapes = {"conv1.conv.weight": (channels[0], 3, 7, 7)}
    found |= _norm("conv1.bn", channels[0], running=kind == "plain")
    for number in (2, 3, 4):
        inputs, outputs = channels[number - 2], channels[number - 1]
        found |= _block(f"conv{number}.0", inputs, outputs, kind) | _block(f"conv{number}.1", outputs, outputs, kind)
        if number < 4:
            found |= _conv(f"pool{number}.0" if kind == "ain" else f"conv{number}.2.0", outputs, outputs)
    found |= _conv("conv5", channels[3], channels[3])
    found |= {"fc.0.weight": (512, channels[3]), "fc.0.bias": (512,), **_norm("fc.1", 512)}
    return found | {"classifier.weight": (classes, 512), "classifier.bias": (classes,)}


def draw(wanted: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Values that a swapped or dropped tensor would betray: random everywhere, statistics and affines included."""
    random = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for name, shape in sorted(wanted.items()):
        if name.endswith("num_batches_tracked"):
            values[name] = np.array(7)
            continue
        noise = random.normal(size=shape)
        if name.endswith("running_var"):
            noise = 0.5 + noise**2
        elif name.endswith(".weight") and len(shape) == 1:
            noise = 1 + 0.2 * noise
        elif len(shape) > 1:
            noise *= (2 / np.prod(shape[1:])) ** 0.5
        else:
            noise *= 0.2
        values[name] = noise.astype(np.float32)
    return values


def pictures(count: int = 2, height: int = 64, width: int = 32) -> np.ndarray:
    """Noise as uint8 images [count, height, width, 3]."""
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 images as a network sees them: [0, 1], then ImageNet's mean and deviation."""
    scaled = images.astype(np.float32) / 255
    return (scaled - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
