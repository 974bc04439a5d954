"""Cuts the outputs of the original PyTorch code down to what the tests read.

    python tests/golden/make_reference_outputs.py FOLDER

FOLDER holds the full recordings, of which README.md says how they came about. Every value kept is the recorded value;
what is left out are arrays that no test reads, and rows and columns whose neighbors say the same.
"""

import pathlib
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).parent
Arrays = dict[str, np.ndarray]

# Corruptions whose output at a pixel depends on the image and the draws at that pixel alone: the image and the draws
# are thinned out like the output, and stay an exact case.
ELEMENTWISE = ("gaussian_noise", "speckle_noise", "shot_noise", "impulse_noise")
EVERY_OTHER = np.s_[::2, ::2]
OSNET_CLASSES = 61  # of 751: a logit depends on no other row of the classifier


def read(folder: pathlib.Path, name: str) -> Arrays:
    """All arrays of a recording."""
    with np.load(folder / name) as file:
        return dict(file)


def cut_metrics(arrays: Arrays) -> Arrays:
    """Features, labels, float32 distances and stable scores; double precision only for re-ranking."""
    scores = [f"stable_sort/{name}" for name in ("transreid_cmc", "transreid_mAP", "cil_cmc", "cil_mAP", "cil_mINP")]
    scores += [f"perquery_{name}" for name in ("AP", "INP", "first_hit", "num_rel")]
    scores += [f"nojunk_stable_{name}" for name in ("cmc", "mAP", "mINP")]
    names = ["qf", "gf", "q_pids", "g_pids", "q_camids", "g_camids"]
    names += [f"{kind}/{name}" for kind in ("raw", "norm") for name in ("dist", *scores)]
    names += [name for name in arrays if name.startswith("rerank_") and not name.startswith("rerank_k20_1_")]
    names += [name for name in arrays if name == "rerank_k20_1_l0.3/dist_reference"]
    return {name: arrays[name] for name in names}


def cut_osnet(arrays: Arrays) -> Arrays:
    """Fewer classes, and every fourth row and column of the stem's map."""
    for name in ("sd/classifier.weight", "sd/classifier.bias"):
        arrays[name] = arrays[name][:OSNET_CLASSES]
    arrays["logits"] = arrays["logits"][:, :OSNET_CLASSES]
    arrays["inter/conv1"] = arrays["inter/conv1"][..., ::4, ::4]
    return arrays


def cut_vit(arrays: Arrays) -> Arrays:
    """Matrices as whole numbers of 1/256, which is how they were drawn: `sd256/<name>`."""
    outputs = ("out/feat_before", "out/feat_before_f64", "out/feat_after", "out/eval_bn_scores")
    kept = {name: arrays[name] for name in ("in/x_nchw", "meta_json", *outputs)}
    for name, value in arrays.items():
        if not name.startswith("sd/"):
            continue
        codes = (value * 256).clip(-128, 127).astype(np.int8) if value.dtype == np.float32 else value
        exact = value.dtype == np.float32 and np.array_equal(codes.astype(np.float32) / 256, value)
        kept |= {name.replace("sd/", "sd256/"): codes} if exact else {name: value}
    return kept


def cut_corruptions(arrays: Arrays) -> Arrays:
    """Textures, image, draws, and every other row and column of the outputs."""
    kept = {name: value for name, value in arrays.items() if name == "img0" or name.startswith("frost_texture_bgr/")}
    for name, value in arrays.items():
        folder, _, leaf = name.rpartition("/")
        if not folder.startswith("img0/") or "after" in leaf:
            continue
        elementwise = folder.split("/")[1] in ELEMENTWISE
        kept[name] = value[EVERY_OTHER] if leaf == "out_u8" or elementwise else value
    return kept


def cut_cfat(arrays: Arrays) -> Arrays:
    """Without the reconstruction errors, which are plain means."""
    return {name: value for name, value in arrays.items() if not name.startswith("mse/")}


CUTS = {
    "cfat_losses.npz": cut_cfat,
    "corruptions_img0.npz": cut_corruptions,
    "metrics_easy.npz": cut_metrics,
    "metrics_ties.npz": cut_metrics,
    "osnet_x0_25.npz": cut_osnet,
    "transreid_parts.npz": dict,
    "vit_baseline_s16.npz": cut_vit,
}

if __name__ == "__main__":
    for file_name, cut in CUTS.items():
        np.savez_compressed(FOLDER / file_name, **cut(read(pathlib.Path(sys.argv[1]), file_name)))
