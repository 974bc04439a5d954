"""Draws the architecture figures of the site as SVG files.

    python docs/figures.py            # writes docs/images/*.svg
    python docs/figures.py --check    # exit code 1 where a file differs from what this module draws

A figure is boxes on a grid and arrows between them; `FIGURES` at the end lists all of them.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from figure_parts import Figure

IMAGES = pathlib.Path(__file__).resolve().parent / "images"


def data_flow() -> Figure:
    figure = Figure("From a config to scores: the order of a run", legend=False)
    figure.box("files", 0, 0, "data set|folders, archives, CSV", "input")
    figure.box("config", 0, 1.15, "config|recipe + preset + rows", "input")
    figure.box("records", 1, 0, "records|image, pid, camid", "module")
    figure.box("views", 2, 0, "views|flip, crop, erase", "module")
    figure.box("batches", 3, 0, "batches|P identities × K images", "module")
    figure.box("model", 4, 0, "model|image → named outputs", "backbone")
    figure.box("losses", 5, 0, "losses|weighted terms", "loss")
    figure.box("state", 5, 1.15, "train|gradients, optimizer", "train")
    figure.box("weights", 2.5, 1.15, "weights|published .pth or a run", "input")
    figure.box("features", 4, 2.3, "inference|images → embeddings", "output")
    figure.box("evaluation", 5, 2.3, "evaluation|CMC, mAP, mINP", "output")
    figure.box("folder", 5, 3.4, "run folder|scores, ranked lists", "output")
    figure.arrow("files", "records")
    figure.arrow("records", "views")
    figure.arrow("views", "batches")
    figure.arrow("batches", "model")
    figure.arrow("model", "losses")
    figure.arrow("losses", "state", "bt")
    figure.arrow("state", "model", "lb", at=(0.5, 0.7))
    figure.arrow("weights", "model", "rb", at=(0.5, 0.3))
    figure.arrow("model", "features", "bt", at=(0.5, 0.5))
    figure.arrow("features", "evaluation")
    figure.arrow("evaluation", "folder", "bt")
    figure.arrow("config", "records", "rb", dashed=True, label="decides every box")
    return figure


def mfv() -> Figure:
    figure = Figure("MFV: levels of ResNet-50 joined stage by stage through transformer blocks with external attention")
    figure.box("image", 0, 0, "image|256 × 128", "input", w=0.85)
    for index, (name, shape) in enumerate(
        (
            ("stage 1", "64 × 32 × 256"),
            ("stage 2", "32 × 16 × 512"),
            ("stage 3", "16 × 8 × 1024"),
            ("stage 4", "8 × 4 × 2048"),
        )
    ):
        figure.box(f"s{index + 1}", 1, index * 1.12, f"{name}|{shape}", "backbone")
    figure.box("stem", 0, 1.12, "stem|no ReLU", "backbone", w=0.85)
    figure.arrow("image", "stem", "bt")
    figure.arrow("stem", "s1", "rl", bend=0.4)
    for index in (1, 2, 3):
        figure.box(f"f{index}", 2, (index - 1) * 1.12, f"F{index}: 3 bottlenecks|pooled to 16 × 8", "module")
        figure.box(f"t{index}", 3.1, (index - 1) * 1.12, f"TFE {index}|external attention, FFN", "module", w=1.1)
        figure.box(f"h{index}", 4.6, (index - 1) * 1.12, f"head t{index}|neck, cross-entropy, triplet", "loss", w=1.3)
        figure.arrow(f"s{index}", f"s{index + 1}", "bt")
        figure.arrow(f"s{index}", f"f{index}")
        figure.arrow(f"f{index}", f"t{index}")
        figure.arrow(f"t{index}", f"h{index}", label=f"T{index}, 256")
    figure.arrow("t1", "t2", "bt", label="concatenated with F2")
    figure.arrow("t2", "t3", "bt", label="concatenated with F3")
    figure.box("gap", 3.1, 3.36, "average pooling|2048", "backbone", w=1.1)
    figure.box("hb", 4.6, 3.36, "head b|neck, cross-entropy, triplet", "loss", w=1.3)
    figure.arrow("s4", "gap")
    figure.arrow("gap", "hb")
    figure.box("test", 6.0, 2.8, "embedding|b and t3, 2304", "output", w=0.95)
    figure.arrow("h3", "test", at=(0.5, 0.3))
    figure.arrow("hb", "test", at=(0.5, 0.7))
    return figure


def amfor() -> Figure:
    figure = Figure(
        "AMFOR: a vision transformer with fused depths, a part decoder as teacher and student, reconstruction"
    )
    figure.box("image", 0, 1.1, "image|22 × 11 patches", "input", w=0.95)
    figure.box("text", 0, 0, "text bank|the same for all images", "module", w=1.1)
    figure.box("vit", 1.2, 1.1, "ViT blocks 1–11|AMFF after six of them", "backbone", w=1.15)
    figure.box("b1", 2.55, 0, "block 12|class token, tokens", "backbone")
    figure.box("mask", 3.75, 1.1, "mask generator|8 parts + background", "train", w=1.1)
    figure.box("hpr", 5.05, 1.1, "pooled parts, HPR|reconstruct hidden ones", "train", w=1.1)
    figure.box("decoder", 2.55, 2.3, "part decoder|9 queries", "module")
    figure.box("teacher", 3.75, 2.3, "teacher Fᵗ|attends under masks", "train", w=1.1)
    figure.box("student", 3.75, 3.3, "student Fˢ|8 parts, visibility", "module", w=1.1)
    figure.box("amgd", 5.05, 2.8, "AMGD|Fˢ → Fᵗ", "train", w=1.1)
    figure.box("hg", 6.35, 0, "head g|ID, triplet", "loss", w=0.95)
    figure.box("hb", 6.35, 1.1, "heads f, b|ID, triplet, diversity", "loss", w=1.15)
    figure.box("ha", 6.35, 2.3, "distillation|ID and triplet of t", "loss", w=1.15)
    figure.box("hs", 6.35, 3.3, "head s, visibility|ID, triplet, focal", "loss", w=1.15)
    figure.box("test", 5.05, 4.35, "embedding|F_g and 8 parts with visibility", "output", w=1.65)
    figure.arrow("image", "vit")
    figure.arrow("text", "vit", "rt", at=(0.5, 0.4))
    figure.arrow("vit", "b1", "rl", bend=0.5)
    figure.arrow("vit", "decoder", "rl", bend=0.5)
    figure.arrow("b1", "hg", label="F_g", bend=0.5)
    figure.arrow("b1", "mask", "bl", at=(0.6, 0.5))
    figure.arrow("mask", "hpr")
    figure.arrow("hpr", "hb")
    figure.arrow("mask", "teacher", "bt", label="masks")
    figure.arrow("decoder", "teacher")
    figure.arrow("decoder", "student", "rl", bend=0.5)
    figure.arrow("teacher", "amgd", "rl", bend=0.5, at=(0.5, 0.35), dashed=True)
    figure.arrow("student", "amgd", "rl", bend=0.5, at=(0.3, 0.65))
    figure.arrow("amgd", "ha", "rl", bend=0.5)
    figure.arrow("student", "hs", "rl", at=(0.6, 0.6))
    figure.arrow("student", "test", "bl", at=(0.6, 0.5))
    return figure


def _granularity(title: str, attention: bool) -> Figure:
    figure = Figure(title)
    figure.box("image", 0, 1.12, "image|384 × 128", "input", w=0.9)
    figure.box("trunk", 1, 1.12, "shared trunk|to layer3, block 1", "backbone")
    rows = (("G", "12 × 4", "whole map", "g1"), ("P2", "24 × 8", "whole, 2 stripes", "g2, p2_0, p2_1"))
    rows += (("P3", "24 × 8", "whole, 3 stripes", "g3, p3_0, p3_1, p3_2"),)
    figure.arrow("image", "trunk")
    shift = 1.15 if attention else 0.0
    for index, (name, size, windows, heads) in enumerate(rows):
        row = index * 1.12
        figure.box(f"b{index}", 2.1, row, f"branch {name}|layer4: {size} × 2048", "backbone", w=1.1)
        if attention:
            figure.box(f"a{index}", 3.3, row, "attention|channels, then places", "module", w=1.1)
        figure.box(f"w{index}", 3.3 + shift, row, f"pooling, 1 × 1|{windows}: 256 each", "module", w=1.3)
        figure.box(f"h{index}", 4.7 + shift, row, f"{heads}|ID; triplet on g", "loss", w=1.15)
        figure.arrow("trunk", f"b{index}")
        if attention:
            figure.arrow(f"b{index}", f"a{index}")
            figure.arrow(f"a{index}", f"w{index}")
        else:
            figure.arrow(f"b{index}", f"w{index}")
        figure.arrow(f"w{index}", f"h{index}")
    figure.box("test", 3.3 + shift, 3.4, "embedding|8 vectors: 2048", "output", w=1.3)
    figure.arrow("w2", "test", "bt")
    return figure


def mgaf() -> Figure:
    return _granularity("MGAF: three branches of different granularity, each with attention on its last map", True)


def mgn() -> Figure:
    return _granularity("MGN: three branches of different granularity over a shared trunk", False)


def mspf() -> Figure:
    figure = Figure("MSPF: global, local and multi-patch features from OSNet")
    figure.box("image", 0, 1.1, "image|256 × 128", "input", w=0.85)
    figure.box("c2", 1, 1.1, "OSNet conv1, conv2|32 × 16 × 256", "backbone", w=1.1)
    figure.box("c3", 2.25, 1.1, "conv3|16 × 8 × 384", "backbone")
    figure.box("att", 3.4, 0, "attention|channel, then spatial", "module", w=1.1)
    figure.box("c45", 4.6, 0, "conv4, conv5|max pooling, fc", "backbone", w=1.05)
    figure.box("c4", 3.4, 1.1, "conv4|shared weights", "backbone", w=1.1)
    figure.box("sam", 4.6, 2.2, "smooth aggregation|3 maps × 4 stripes", "module", w=1.15)
    figure.box("p2", 1, 3.3, "2 patches|halves", "input", w=0.85)
    figure.box("p4", 1, 4.25, "4 patches|quadrants", "input", w=0.85)
    figure.box("o2", 2.25, 3.3, "OSNet|max over patches", "module", w=1.05)
    figure.box("o4", 2.25, 4.25, "OSNet|max over patches", "module", w=1.05)
    figure.box("sum", 3.55, 3.78, "sum|f_P, 512", "module", w=0.8)
    figure.box("hg", 5.95, 0, "head g|f_G, f_P: 1024", "loss", w=1.1)
    figure.box("hl", 5.95, 2.2, "head l|f_L: 6144", "loss", w=1.1)
    figure.box("test", 5.95, 3.5, "embedding|both necks: 7168", "output", w=1.1)
    figure.arrow("image", "c2")
    figure.arrow("c2", "c3")
    figure.arrow("c3", "att")
    figure.arrow("c3", "c4")
    figure.arrow("att", "c45")
    figure.arrow("c45", "hg", label="f_G")
    figure.arrow("c2", "sam", "bl", at=(0.5, 0.62))
    figure.arrow("c3", "sam", "bl", at=(0.5, 0.38))
    figure.arrow("c4", "sam", "rt", at=(0.5, 0.5))
    figure.arrow("image", "p2", "bl", at=(0.35, 0.5))
    figure.arrow("image", "p4", "bl", at=(0.35, 0.5))
    figure.arrow("p2", "o2")
    figure.arrow("p4", "o4")
    figure.arrow("o2", "sum", bend=0.5)
    figure.arrow("o4", "sum", bend=0.5)
    figure.arrow("sum", "hg", at=(0.5, 0.75), bend=0.93)
    figure.arrow("sam", "hl")
    figure.arrow("hl", "test", "bt")
    return figure


def cfat() -> Figure:
    figure = Figure("CFAT: a student of corrupted images aligned with a frozen teacher of clean ones")
    figure.box("clean", 0, 0, "clean image|256 × 128", "input", w=0.95)
    figure.box("corrupted", 0, 2, "corrupted image|type and severity drawn", "input", w=1.1)
    figure.box("teacher", 1.35, 0, "teacher ViT|frozen: Z_c", "train")
    figure.box("student", 1.35, 2, "student ViT|Z_k, class token", "backbone")
    figure.box("bridge", 2.65, 1, "bridge|t Z_c + (1 − t) Z_k", "train", w=1.1)
    figure.box("bfg", 3.95, 1, "generator|16 latent numbers", "train")
    figure.box("wcl", 5.3, 0, "coarse: contrast|far pairs weigh more", "loss", w=1.15)
    figure.box("fine", 5.3, 1, "fine|squared error, divergence", "loss", w=1.2)
    figure.box("id", 5.3, 2, "identity|ID, triplet", "loss", w=1.15)
    figure.box("test", 5.3, 3, "embedding|Z_k, 768", "output", w=1.15)
    figure.arrow("clean", "teacher")
    figure.arrow("corrupted", "student")
    figure.arrow("teacher", "wcl", dashed=True)
    figure.arrow("teacher", "bridge", "bl", at=(0.5, 0.3), dashed=True)
    figure.arrow("student", "bridge", "tl", at=(0.5, 0.7))
    figure.arrow("student", "id")
    figure.arrow("student", "test", "bl")
    figure.arrow("bridge", "bfg")
    figure.arrow("student", "bfg", "rb", at=(0.3, 0.5))
    figure.arrow("bfg", "fine")
    figure.arrow("student", "wcl", "rl", at=(0.3, 0.75), bend=0.955)
    return figure


def bot() -> Figure:
    figure = Figure("BoT: ResNet-50 with last stride 1 and a batch-normalization neck")
    figure.box("image", 0, 0.5, "image|256 × 128", "input", w=0.95)
    figure.box("resnet", 1.1, 0.5, "ResNet-50|last stride 1: 16 × 8 × 2048", "backbone", w=1.5)
    figure.box("gap", 2.85, 0.5, "average pooling|2048", "backbone", w=1.1)
    figure.box("neck", 4.2, 0.5, "neck|BN without shift", "module", w=1.05)
    figure.box("ce", 5.55, 0, "classifier|cross-entropy, smoothed", "loss", w=1.25)
    figure.box("test", 5.55, 1.05, "embedding|2048", "output", w=1.25)
    figure.box("tri", 2.85, 1.6, "triplet, margin 0.3|before the neck", "loss", w=1.1)
    figure.arrow("image", "resnet")
    figure.arrow("resnet", "gap")
    figure.arrow("gap", "neck")
    figure.arrow("gap", "tri", "bt")
    figure.arrow("neck", "ce")
    figure.arrow("neck", "test")
    return figure


def osnet() -> Figure:
    figure = Figure("OSNet: trunk, and the block of four streams with growing receptive field")
    names = ("conv1|7 × 7, max pooling", "conv2|2 blocks, transition", "conv3|2 blocks, transition", "conv4|2 blocks")
    figure.box("image", 0, 0, "image|256 × 128", "input", w=0.85)
    previous = "image"
    for index, name in enumerate((*names, "conv5|1 × 1")):
        figure.box(f"c{index}", 0.9 + index, 0, name, "backbone", w=0.98)
        figure.arrow(previous, f"c{index}")
        previous = f"c{index}"
    figure.box("fc", 5.9, 0, "average, fc|embedding, 512", "output", w=1.05)
    figure.arrow(previous, "fc")
    figure.box("ce", 5.9, 1.15, "classifier|cross-entropy", "loss", w=1.05)
    figure.arrow("fc", "ce", "bt")
    figure.box("x", 0.1, 3.2, "block input", "note", w=0.85)
    figure.box("in", 1.1, 3.2, "1 × 1|c / 4 channels", "module", w=0.95)
    for index in range(4):
        figure.box(
            f"l{index}",
            2.2,
            1.7 + index,
            f"light 3 × 3, ×{index + 1}|sees {2 * index + 3} × {2 * index + 3}",
            "module",
            w=1.05,
        )
        figure.box(f"g{index}", 3.4, 1.7 + index, "gate|shared weights", "module", w=0.95)
        figure.arrow("in", f"l{index}")
        figure.arrow(f"l{index}", f"g{index}")
    figure.box("sum", 4.5, 3.2, "sum, 1 × 1|c channels", "module", w=0.95)
    figure.box("add", 5.6, 3.2, "+ input, ReLU", "note", w=0.95)
    for index in range(4):
        figure.arrow(f"g{index}", "sum")
    figure.arrow("x", "in")
    figure.arrow("sum", "add")
    figure.box("skip", 2.2, 5.75, "skip|1 × 1 where channels change", "module", w=1.6)
    figure.arrow("x", "skip", "bl")
    figure.arrow("skip", "add", "rb")
    return figure


def transreid() -> Figure:
    figure = Figure("TransReID: camera embedding and jigsaw patches on a vision transformer")
    figure.box("image", 0, 0.6, "image|256 × 128", "input", w=0.9)
    figure.box("patch", 1, 0.6, "overlapping patches|stride 12: 21 × 10", "backbone", w=1.15)
    figure.box("sie", 1, 1.7, "camera embedding|SIE, on every token", "module", w=1.15)
    figure.box("blocks", 2.35, 0.6, "blocks 1–11|class token, tokens", "backbone", w=1.1)
    figure.box("b1", 4.95, 0, "block 12|own copy", "backbone")
    figure.box("jpm", 3.65, 1.2, "jigsaw|shift, shuffle, 4 groups", "module", w=1.15)
    figure.box("b2", 4.95, 1.2, "block 12|shared by the 4 groups", "backbone")
    figure.box("hg", 6.15, 0, "global head|ID, triplet, weight 1/2", "loss", w=1.2)
    figure.box("hl", 6.15, 1.2, "4 local heads|ID, triplet, weight 1/8", "loss", w=1.2)
    figure.box("test", 6.15, 2.3, "embedding|f_g, f_1/4 … f_4/4: 3840", "output", w=1.2)
    figure.arrow("image", "patch")
    figure.arrow("sie", "patch", "tb")
    figure.arrow("patch", "blocks")
    figure.arrow("blocks", "b1", bend=0.2)
    figure.arrow("blocks", "jpm", bend=0.5)
    figure.arrow("jpm", "b2")
    figure.arrow("b1", "hg")
    figure.arrow("b2", "hl")
    figure.arrow("b2", "test", "bl", at=(0.5, 0.5))
    return figure


def cil() -> Figure:
    figure = Figure("CIL: three views of one crop, with the identity losses on the clean one")
    figure.box("image", 0, 1.1, "image|flip, crop", "input", w=0.9)
    figure.box("mix", 1.05, 1.1, "soft erasing|self-patch mixing", "module", w=1.05)
    figure.box("v0", 2.35, 0, "clean view", "input", w=0.95)
    figure.box("v1", 2.35, 1.1, "AugMix view 1", "input", w=0.95)
    figure.box("v2", 2.35, 2.2, "AugMix view 2", "input", w=0.95)
    figure.box("net", 3.6, 1.1, "ResNet-50|GeM pooling, neck", "backbone", w=1.15)
    figure.box("id", 5.05, 0, "identity|clean view: ID, triplet", "loss", w=1.2)
    figure.box("js", 5.05, 1.1, "consistency|KL to the mixture, ×12", "loss", w=1.2)
    figure.box("test", 5.05, 2.2, "embedding|before the neck, 2048", "output", w=1.2)
    figure.arrow("image", "mix")
    for name in ("v0", "v1", "v2"):
        figure.arrow("mix", name)
        figure.arrow(name, "net")
    for name in ("id", "js", "test"):
        figure.arrow("net", name)
    figure.text(3.6, 2.15, "three views, one batch")
    return figure


def mim() -> Figure:
    figure = Figure("MIM: the encoder sees the visible patches, a small decoder draws the hidden ones")
    figure.box("image", 0, 1.1, "crop without label|flip, crop", "input", w=1.15)
    figure.box("mask", 0, 2.2, "masks|parts, blocks, chance", "module", w=1.15)
    figure.box("take", 1.5, 1.1, "visible patches", "module", w=1.0)
    figure.box("net", 2.75, 1.1, "ViT|visible patches alone", "backbone", w=1.15)
    figure.box("put", 4.15, 1.1, "put back|mask tokens, positions", "module", w=1.25)
    figure.box("decoder", 5.65, 1.1, "decoder|a few narrow blocks", "module", w=1.15)
    figure.box("rec", 7.05, 1.1, "reconstruction|hidden patches, normalized", "loss", w=1.35)
    figure.box("stat", 7.05, 2.2, "mean and scale|of a patch; no gradient back", "loss", w=1.35)
    figure.box("align", 4.15, 0, "align|class tokens of two masks", "loss", w=1.25)
    figure.box("file", 5.65, 0, "encoder file|TransReID, AMFOR, CFAT", "output", w=1.35)
    figure.arrow("image", "take")
    figure.arrow("mask", "take")
    figure.arrow("take", "net")
    figure.arrow("net", "put")
    figure.arrow("put", "decoder")
    figure.arrow("decoder", "rec")
    figure.arrow("decoder", "stat")
    figure.arrow("net", "align")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "data-flow": data_flow,
    "mfv": mfv,
    "amfor": amfor,
    "mgaf": mgaf,
    "mgn": mgn,
    "mspf": mspf,
    "cfat": cfat,
    "bot": bot,
    "osnet": osnet,
    "transreid": transreid,
    "cil": cil,
    "mim": mim,
}


def main(arguments: list[str]) -> int:
    """Writes or checks the files; the exit code."""
    stale = []
    for name, make in FIGURES.items():
        path, text = IMAGES / f"{name}.svg", make().svg()
        if not path.is_file() or path.read_text() != text:
            stale.append(path.name)
            if "--check" not in arguments:
                path.write_text(text)
    print("\n".join(stale) or "all figures are up to date")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
