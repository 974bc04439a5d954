"""OSNet in PyTorch with torchreid's parameter names: reference for converted weights and for throughput.

It needs PyTorch (`pip install torch`), which the package does not depend on. Written from the papers; the state dict
has the names and shapes of torchreid's files of every width and kind.

    python -m reid_jax.benchmarks.torch.torch_osnet --width x0_25      prints the number of parameters
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional

WIDTHS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
# Instance normalization in the blocks of conv2, conv3, conv4: none, after the residual sum, inside the residual.
KINDS = {
    "plain": (("none", "none"), ("none", "none"), ("none", "none")),
    "ibn": (("sum", "sum"), ("none", "none"), ("none", "none")),
    "ain": (("inside", "inside"), ("none", "inside"), ("inside", "none")),
}


class ConvLayer(nn.Module):
    """Convolution, normalization ("batch", "instance" or "none"), ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, stride: int = 1, norm: str = "batch", relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        if norm != "none":
            self.bn = nn.BatchNorm2d(outputs) if norm == "batch" else nn.InstanceNorm2d(outputs, affine=True)
        self.norm, self.relu = norm, relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the feature map."""
        x = self.conv(x)
        if self.norm != "none":
            x = self.bn(x)
        return functional.relu(x, inplace=True) if self.relu else x


class LightConv3x3(nn.Module):
    """1×1, depthwise 3×3, batch normalization, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the feature map."""
        return functional.relu(self.bn(self.conv2(self.conv1(x))), inplace=True)


class LightConvStream(nn.Module):
    """A sequence of light convolutions, under the name `layers`."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(LightConv3x3(channels) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the feature map."""
        return self.layers(x)


class Gate(nn.Module):
    """Weights of a stream's channels, computed from its spatial average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the weighted feature map."""
        hidden = functional.relu(self.fc1(functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.fc2(hidden))


class OSBlock(nn.Module):
    """Four streams with a shared gate, and a residual sum."""

    def __init__(self, inputs: int, outputs: int, instance: str = "none", ain: bool = False) -> None:
        super().__init__()
        inside = outputs // 4
        self.instance, self.ain = instance, ain
        self.conv1 = ConvLayer(inputs, inside)
        if ain:
            self.conv2 = nn.ModuleList(LightConvStream(inside, depth) for depth in range(1, 5))
        else:
            self.conv2a = LightConv3x3(inside)
            for depth, letter in ((2, "b"), (3, "c"), (4, "d")):
                setattr(self, f"conv2{letter}", nn.Sequential(*(LightConv3x3(inside) for _ in range(depth))))
        self.gate = Gate(inside)
        self.conv3 = ConvLayer(inside, outputs, norm="none" if instance == "inside" else "batch", relu=False)
        self.downsample = None if inputs == outputs else ConvLayer(inputs, outputs, relu=False)
        if instance != "none":
            self.IN = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the output of the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        h = self.conv1(x)
        streams = self.conv2 if self.ain else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        residual = self.conv3(sum(self.gate(stream(h)) for stream in streams))
        if self.instance == "inside":
            residual = self.IN(residual)
        y = residual + shortcut
        return functional.relu(self.IN(y) if self.instance == "sum" else y)


class OSNet(nn.Module):
    """The whole network: logits in training, the feature in evaluation mode; `maps` returns the feature maps.

    Args:
        width: a row of `WIDTHS`.
        kind: a row of `KINDS`.
        classes: outputs of the classifier.
    """

    def __init__(self, width: str = "x1_0", kind: str = "plain", classes: int = 751) -> None:
        super().__init__()
        c, ain = WIDTHS[width], kind == "ain"
        self.kind = kind
        self.conv1 = ConvLayer(3, c[0], 7, 2, norm="batch" if kind == "plain" else "instance")
        for number in (2, 3, 4):
            first, second = KINDS[kind][number - 2]
            inputs, outputs = c[number - 2], c[number - 1]
            blocks: list[nn.Module] = [OSBlock(inputs, outputs, first, ain), OSBlock(outputs, outputs, second, ain)]
            if number < 4:
                transition = nn.Sequential(ConvLayer(outputs, outputs), nn.AvgPool2d(2, 2))
                if ain:
                    setattr(self, f"pool{number}", transition)
                else:
                    blocks.append(transition)
            setattr(self, f"conv{number}", nn.Sequential(*blocks))
        self.conv5 = ConvLayer(c[3], c[3])
        self.fc = nn.Sequential(nn.Linear(c[3], 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(512, classes)

    def maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the feature maps [B, C, h, w] after conv1 (before the max pool) to conv5."""
        maps = {"conv1": self.conv1(x)}
        x = functional.max_pool2d(maps["conv1"], 3, 2, 1)
        for number in (2, 3, 4, 5):
            x = getattr(self, f"conv{number}")(x)
            if self.kind == "ain" and number < 4:
                x = getattr(self, f"pool{number}")(x)
            maps[f"conv{number}"] = x
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits in training, the feature in evaluation mode."""
        feature = self.fc(self.maps(x)["conv5"].mean((2, 3)))
        return self.classifier(feature) if self.training else feature


def main() -> None:
    """Prints the number of parameters of a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", default="x1_0", choices=WIDTHS)
    parser.add_argument("--kind", default="plain", choices=KINDS)
    arguments = parser.parse_args()
    model = OSNet(arguments.width, arguments.kind)
    parameters = sum(value.numel() for value in model.parameters())
    print(f"OSNet {arguments.kind} {arguments.width}: {parameters:,} parameters, {len(model.state_dict())} entries")


if __name__ == "__main__":
    main()
