"""Makes tests/golden/clip_text.npz: a small text transformer of CLIP's kind in PyTorch, its weights and its features.

    pip install torch && python tests/golden/make_clip_text.py

The weights carry the names of an OpenAI checkpoint. Attention is PyTorch's own, with its additive causal mask.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from torch import nn

WIDTH, DEPTH, HEADS, CONTEXT, VOCABULARY, FEATURES = 16, 2, 2, 9, 30, 12


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        for name, module in (
            ("c_fc", nn.Linear(WIDTH, 4 * WIDTH)),
            ("gelu", QuickGELU()),
            ("c_proj", nn.Linear(4 * WIDTH, WIDTH)),
        ):
            self.mlp.add_module(name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, WIDTH))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.empty(WIDTH, FEATURES))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer.resblocks:
            x = block(x)
        x = self.ln_final(x)
        return x[torch.arange(len(x)), ids.argmax(1)] @ self.text_projection


def main() -> None:
    """Writes the file beside this script."""
    generator = torch.Generator().manual_seed(0)
    model = Text()
    with torch.no_grad():
        for name, value in model.named_parameters():
            center = 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0
            value.copy_(center + 0.3 * torch.randn(value.shape, generator=generator))
    # The end token is the highest number; zeros pad behind it.
    ids = torch.tensor([[28, 3, 7, 29, 0, 0, 0, 0, 0], [28, 5, 5, 5, 9, 11, 29, 0, 0], [28, 1, 2, 3, 4, 5, 6, 7, 29]])
    with torch.no_grad():
        features = model(ids)
    arrays = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    path = pathlib.Path(__file__).with_name("clip_text.npz")
    np.savez_compressed(path, ids=ids.numpy().astype(np.int32), features=features.numpy(), **arrays)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
