"""TransReID and its ViT baseline in PyTorch with the authors' parameter names: reference for values and throughput.

It needs PyTorch (`pip install torch`), which the package does not depend on. Written from the paper; the state dict
has the names and shapes of the published files (without the unused classifier `base.fc`).

    python -m reid_jax.benchmarks.torch.torch_transreid --stride 12 --cameras 6 --jpm      prints the parameter count
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the attended tokens [B, N, D]."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        gathered = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(gathered.transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    """Two layers and an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the transformed tokens."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block; stochastic depth per sample and branch in training."""

    def __init__(self, width: int, heads: int, ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, round(ratio * width))
        self.drop_path = drop_path

    def dropped(self, branch: torch.Tensor) -> torch.Tensor:
        """Returns the branch, in training zeroed at random per sample and rescaled."""
        if not self.training or not self.drop_path:
            return branch
        keep = 1.0 - self.drop_path
        return branch * torch.bernoulli(torch.full((len(branch), 1, 1), keep, device=branch.device)) / keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the tokens after attention and MLP."""
        x = x + self.dropped(self.attn(self.norm1(x)))
        return x + self.dropped(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Embedding of patches."""

    def __init__(self, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the patch tokens [B, N, D] of images [B, 3, H, W]."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Trunk(nn.Module):
    """The ViT; a call runs its first `stop` blocks, since the JPM has a last block of its own."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        ratio: float,
        image_size: tuple[int, int],
        patch: int,
        stride: int,
        sides: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        rows, columns = ((side - patch) // stride + 1 for side in image_size)
        self.patch_embed = PatchEmbed(width, patch, stride)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + rows * columns, width))
        if sides > 1:
            self.sie_embed = nn.Parameter(0.02 * torch.randn(sides, 1, width))
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(width, heads, ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: torch.Tensor, side: torch.Tensor | None, stop: int) -> torch.Tensor:
        """Returns the tokens [B, 1 + N, D] after the first `stop` blocks."""
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        if side is not None:
            x = x + 3.0 * self.sie_embed[side]
        for block in self.blocks[:stop]:
            x = block(x)
        return x


class TransReID(nn.Module):
    """The whole network: mean logits of all heads in training, the concatenated feature in evaluation mode."""

    def __init__(
        self,
        classes: int = 751,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        ratio: float = 4.0,
        image_size: tuple[int, int] = (256, 128),
        patch: int = 16,
        stride: int = 16,
        sides: int = 0,
        jpm: bool = False,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.jpm, self.depth, self.sides = jpm, depth, sides
        self.base = Trunk(width, depth, heads, ratio, image_size, patch, stride, sides, drop_path)

        def branch() -> nn.Sequential:
            return nn.Sequential(Block(width, heads, ratio, drop_path), nn.LayerNorm(width, eps=1e-6))

        if jpm:
            self.b1, self.b2 = branch(), branch()
        for name in ("", "_1", "_2", "_3", "_4") if jpm else ("",):
            setattr(self, f"bottleneck{name}", nn.BatchNorm1d(width))
            getattr(self, f"bottleneck{name}").bias.requires_grad_(False)
            setattr(self, f"classifier{name}", nn.Linear(width, classes, bias=False))

    def features(self, x: torch.Tensor, side: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Returns the global feature [B, D], and with JPM the four local ones."""
        if side is None and self.sides > 1:
            side = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if not self.jpm:
            return [self.base.norm(self.base(x, side, self.depth))[:, 0]]
        memory = self.base(x, side, self.depth - 1)
        first, patches = memory[:, :1], memory[:, 1:]
        length = patches.shape[1] // 4
        patches = torch.roll(patches, -4, dims=1)
        if patches.shape[1] % 2:
            patches = torch.cat((patches, patches[:, -2:-1]), dim=1)
        half = patches.shape[1] // 2
        patches = torch.stack((patches[:, :half], patches[:, half:]), dim=2).flatten(1, 2)
        pieces = [patches[:, i * length : (i + 1) * length] for i in range(4)]
        return [self.b1(memory)[:, 0], *(self.b2(torch.cat((first, piece), dim=1))[:, 0] for piece in pieces)]

    def necks(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the features after their BN necks."""
        names = ("", "_1", "_2", "_3", "_4")
        return [getattr(self, f"bottleneck{name}")(feature) for name, feature in zip(names, features, strict=False)]

    def logits(self, necks: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the logits of all heads."""
        names = ("", "_1", "_2", "_3", "_4")
        return [getattr(self, f"classifier{name}")(neck) for name, neck in zip(names, necks, strict=False)]

    def forward(self, x: torch.Tensor, side: torch.Tensor | None = None) -> torch.Tensor:
        """Returns logits in training, the feature in evaluation mode."""
        features = self.features(x, side)
        if self.training:
            return torch.stack(self.logits(self.necks(features))).mean(0)
        return torch.cat([features[0], *(local / 4 for local in features[1:])], dim=1)


def main() -> None:
    """Prints the number of parameters of a configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--cameras", type=int, default=0)
    parser.add_argument("--jpm", action="store_true")
    given = parser.parse_args()
    model = TransReID(stride=given.stride, sides=given.cameras, jpm=given.jpm)
    print(f"{sum(value.numel() for value in model.parameters()):,} parameters, {len(model.state_dict())} entries")


if __name__ == "__main__":
    main()
