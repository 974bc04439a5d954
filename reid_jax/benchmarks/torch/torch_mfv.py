"""MFV in PyTorch, for comparison of throughput: the default reading, a token is a position of the 16 x 8 grid.

It needs PyTorch, which the package does not depend on. Written from `reid_jax.models.mfv`, with the same layers in the
same order; weights are random.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from reid_jax.benchmarks.torch import torch_resnet


class ExternalAttention(nn.Module):
    """Attention of tokens [B, T, C] to two learned memories: softmax over the tokens, then each row divided by its sum.

    Args:
        channels: C.
        slots: size of the memories.
    """

    def __init__(self, channels: int, slots: int) -> None:
        super().__init__()
        self.memory_key = nn.Linear(channels, slots, bias=False)
        self.memory_value = nn.Linear(slots, channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the attended tokens [B, T, C]."""
        attention = self.memory_key(x).float().softmax(dim=1)
        attention = attention / (1e-9 + attention.sum(dim=-1, keepdim=True))
        return self.memory_value(attention.to(x.dtype))


class Layer(nn.Module):
    """External attention and a feed-forward part, each after layer normalization and added to its input."""

    def __init__(self, channels: int, slots: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(channels), ExternalAttention(channels, slots))
        self.ffn = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns tokens [B, T, C]."""
        x = x + self.attention(x)
        return x + self.ffn(x)


class TFE(nn.Module):
    """Convolutional stem 1x1, 3x3, 1x1, then layers over the map's tokens."""

    def __init__(self, channels: int, width: int, depth: int, slots: int, hidden: int, dropout: float) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for inputs, size in ((channels, 1), (width, 3), (width, 1)):
            convolution = nn.Conv2d(inputs, width, size, padding=size // 2, bias=False)
            stem += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem)
        self.layers = nn.Sequential(*(Layer(width, slots, hidden, dropout) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, width, H, W]."""
        x = self.stem(x)
        tokens = self.layers(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape)


class Head(nn.Module):
    """Average over positions, batch-normalization neck, classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.neck = nn.BatchNorm1d(channels)
        self.neck.bias.requires_grad_(False)  # there is none
        self.classifier = nn.Linear(channels, classes, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps [B, C, H, W] to the neck [B, C] and the logits [B, classes]."""
        neck = self.neck(x.mean((2, 3)))
        return neck, self.classifier(neck)


class MFV(nn.Module):
    """The network of `reid_jax.models.mfv.MFV` with its default reading and external attention.

    Args:
        depths: blocks per stage of the backbone.
        width: channels of its stem.
        last_stride: step of its last stage.
        level_depth: bottlenecks per level.
        tfe_width: channels of the tokens.
        tfe_depths: layers of stage 1, 2, 3.
        slots: size of the memories.
        ffn_width: hidden channels of the feed-forward parts.
        dropout: rate inside them.
        classes: outputs of every classifier.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        width: int,
        last_stride: int,
        level_depth: int,
        tfe_width: int,
        tfe_depths: Sequence[int],
        slots: int,
        ffn_width: int,
        dropout: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.backbone = torch_resnet.ResNet(depths, width, classes=1, last_stride=last_stride)
        self.backbone.fc = nn.Identity()
        self.backbone.relu = nn.Identity()  # the recipe trains without it
        self.levels, self.tfes, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, depth in enumerate(tfe_depths):
            inside = width * 2**number
            blocks = [torch_resnet.Bottleneck(4 * inside, inside, 1) for _ in range(level_depth)]
            pool = 2 ** (2 - number)
            self.levels.append(nn.Sequential(*blocks, nn.MaxPool2d(pool) if pool > 1 else nn.Identity()))
            channels = 4 * inside + (tfe_width if number else 0)
            self.tfes.append(TFE(channels, tfe_width, depth, slots, ffn_width, dropout))
            self.heads.append(Head(tfe_width, classes))
        self.head_b = Head(32 * width, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...] | torch.Tensor:
        """Returns the logits [B, classes] of all heads in training, the test feature [B, 32 width + tfe_width] else."""
        maps = self.backbone.maps(x)
        last, logits_b = self.head_b(maps["stage4"])
        logits, carried = [logits_b], None
        for number in range(3):
            level = self.levels[number](maps[f"stage{number + 1}"])
            carried = self.tfes[number](level if carried is None else torch.cat((level, carried), dim=1))
            neck, stage_logits = self.heads[number](carried)
            logits.append(stage_logits)
        if self.training:
            return tuple(logits)
        parts = torch.cat((functional.normalize(last), functional.normalize(neck)), dim=1)
        return functional.normalize(parts)
