"""ResNet in PyTorch with torchvision's parameter names: reference for golden values and for throughput.

It needs PyTorch (`pip install torch`), which the package does not depend on. Written from the paper's tables,
stride in the 3×3 convolution; the state dict has the names and shapes of torchvision's files.

    python -m reid_jax.benchmarks.torch.torch_resnet --batch 8 --steps 3      prints JSON with seconds per step
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up, with a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            projection = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the output of the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """Residual network of bottlenecks; `maps` returns the feature maps, a call the logits.

    Args:
        depths: blocks per stage.
        width: channels of the stem.
        classes: outputs of the classifier `fc`.
        last_stride: stride of the last stage.
    """

    def __init__(
        self, depths: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000, last_stride: int = 2
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        for number, depth in enumerate(depths, start=1):
            stride = (1, 2, 2, last_stride)[number - 1]
            inside = width * 2 ** (number - 1)
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(channels, inside, stride if index == 0 else 1))
                channels = 4 * inside
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the feature maps [B, C, h, w] after the stem and each stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {"stem": x}
        for number in range(1, 5):
            x = maps[f"stage{number}"] = getattr(self, f"layer{number}")(x)
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits [B, classes]."""
        return self.fc(self.maps(x)["stage4"].mean((2, 3)))


def randomize(model: nn.Module, seed: int) -> None:
    """Sets all parameters and running statistics to random values, so that a swapped or missing tensor is noticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("weight") and value.ndim == 1:
                value.uniform_(0.5, 1.0, generator=generator)
            elif value.ndim > 1:
                value.normal_(0.0, (2.0 / value[0].numel()) ** 0.5, generator=generator)
            elif value.is_floating_point():
                value.normal_(0.0, 0.1, generator=generator)


def time_steps(
    batch: int, steps: int, *, compiled: bool, device: str, bfloat16: bool, classes: int = 751
) -> dict[str, Any]:
    """Returns seconds of the fastest train step (SGD, cross-entropy) and of the fastest forward pass, channels last.

    Wall time and processor time, which varies less on a busy machine.

    Args:
        batch: images of 256×128 per step.
        steps: timed repetitions of each, after two that are not timed.
        compiled: use `torch.compile`.
        device: "cpu" or "cuda".
        bfloat16: compute under autocast.
        classes: identities of the classifier.
    """
    model = ResNet(classes=classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.randn(batch, 3, 256, 128, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch,), device=device)
    forward = torch.compile(model) if compiled else model

    def train() -> None:
        model.train()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def infer() -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            forward(images)

    result: dict[str, Any] = {"framework": f"torch {torch.__version__}", "batch": batch, "device": device}
    for name, step in (("train", train), ("infer", infer)):
        wall, processor = [], []
        for _ in range(steps + 2):
            before = (time.perf_counter(), time.process_time())
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            wall.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
        result[f"{name}_seconds"] = min(wall[2:])
        result[f"{name}_cpu_seconds"] = min(processor[2:])
    return result


def main() -> None:
    """Measures the network and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--steps", type=int, default=3, help="timed repetitions")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's default")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = time_steps(
        arguments.batch,
        arguments.steps,
        compiled=arguments.compile,
        device=arguments.device,
        bfloat16=arguments.bfloat16,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
