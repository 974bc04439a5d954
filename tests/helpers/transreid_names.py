"""Names and shapes of TransReID's published files, and seeded values for them."""

from __future__ import annotations

import numpy as np

CLASSES = 7
SIZE = {"width": 24, "depth": 3, "heads": 3, "ratio": 2.0}
CASES = {
    "jpm_stride12": {"image_size": (256, 128), "stride": 12, "sides": 6, "jpm": True},
    "baseline": {"image_size": (256, 128), "stride": 16, "sides": 0, "jpm": False},
    # Two views of three cameras.
    "views_384": {"image_size": (384, 128), "stride": 16, "sides": 6, "jpm": True},
}
# Rows of the side information for the two images: cameras 4 and 1; or cameras 2 and 0, views 0 and 1.
SIDES = (4, 1)


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(name: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        **_norm(f"{name}.norm1", width),
        **_linear(f"{name}.attn.qkv", 3 * width, width),
        **_linear(f"{name}.attn.proj", width, width),
        **_norm(f"{name}.norm2", width),
        **_linear(f"{name}.mlp.fc1", hidden, width),
        **_linear(f"{name}.mlp.fc2", width, hidden),
    }


def trunk(patches: int, sides: int = 0, prefix: str = "base.") -> dict[str, tuple[int, ...]]:
    """A ViT alone; without the prefix as an ImageNet file has it."""
    width, hidden = SIZE["width"], round(SIZE["ratio"] * SIZE["width"])
    found = {
        f"{prefix}cls_token": (1, 1, width),
        f"{prefix}pos_embed": (1, 1 + patches, width),
        **({f"{prefix}sie_embed": (sides, 1, width)} if sides else {}),
        f"{prefix}patch_embed.proj.weight": (width, 3, 16, 16),
        f"{prefix}patch_embed.proj.bias": (width,),
        **_norm(f"{prefix}norm", width),
    }
    for index in range(SIZE["depth"]):
        found |= _block(f"{prefix}blocks.{index}", width, hidden)
    return found


def shapes(*, image_size: tuple[int, int], stride: int, sides: int, jpm: bool) -> dict[str, tuple[int, ...]]:
    """Every entry of a file."""
    width, hidden = SIZE["width"], round(SIZE["ratio"] * SIZE["width"])
    rows, columns = ((side - 16) // stride + 1 for side in image_size)
    found = trunk(rows * columns, sides)
    for branch in ("b1", "b2") if jpm else ():
        found |= _block(f"{branch}.0", width, hidden) | _norm(f"{branch}.1", width)
    for name in ("", "_1", "_2", "_3", "_4") if jpm else ("",):
        neck = f"bottleneck{name}"
        found |= _norm(neck, width)
        found |= {f"{neck}.running_mean": (width,), f"{neck}.running_var": (width,), f"{neck}.num_batches_tracked": ()}
        found[f"classifier{name}.weight"] = (CLASSES, width)
    return found


def images(image_size: tuple[int, int]) -> np.ndarray:
    """Two images of smooth noise, [2, H, W, 3] as a network sees them."""
    coarse = np.random.default_rng(5).normal(size=(2, image_size[0] // 16, image_size[1] // 16, 3))
    return np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2).astype(np.float32)
