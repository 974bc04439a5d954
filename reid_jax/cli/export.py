"""Writes the embedding function of a model as one file for other programs: StableHLO or ONNX.

    python scripts/export.py --run runs/mfv-demo --format onnx --output mfv.onnx
    python scripts/export.py --weights osnet_x0_25_msmt17 --format onnx --input float_nchw \\
        --output osnet_x0_25.onnx                   # for trackers: BoxMOT and others
    python scripts/export.py --run runs/mfv-demo --format stablehlo --output mfv.zip

The function takes crops of the model's size, any number at once, and returns test features. It is compared with the
model before the file takes its place. With --input uint8 (the default) it takes RGB images [B, H, W, 3] and normalizes
them itself. With --input float_nchw it takes planes [B, 3, H, W] normalized with ImageNet's statistics, with
--input float_nchw_255 planes in 0-255, and returns one vector of unit length per crop. ONNX needs the packages of the
extra onnx.

The file's description names the distance up to which two crops show the same person: that of the run's evaluation at
--false-match-rate, or --threshold.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from reid_jax import errors, export, file_io
from reid_jax.cli import arguments, command_line, model_choice
from reid_jax.inference import input_layouts

if TYPE_CHECKING:
    from reid_jax import build
    from reid_jax.export import embedding
    from reid_jax.inference import extractor as extractor_lib

_RATES, _RATE = ("1e-1", "1e-2", "1e-3", "1e-4"), "1e-3"  # those that an evaluation reports
_ENDINGS = {"stablehlo": (".zip",), "onnx": (".onnx",)}


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    model_choice.add(parser)
    parser.add_argument("--format", default="stablehlo", help="stablehlo (default) or onnx")
    parser.add_argument("--input", default="uint8", help="uint8 (default), float_nchw or float_nchw_255")
    parser.add_argument(
        "--false-match-rate",
        help=f"with --run: share of pairs of different people that the threshold accepts, of {', '.join(_RATES)} "
        f"(default: {_RATE})",
    )
    parser.add_argument("--threshold", type=arguments.number(0, 1e6), help="the distance itself, from elsewhere")
    parser.add_argument(
        "--platforms",
        default=",".join(export.PLATFORMS),
        help="with --format stablehlo: some of cpu,cuda,tpu (default: all)",
    )
    parser.add_argument("--output", metavar="FILE", help="the file, ending in .zip (StableHLO) or .onnx")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before JAX is loaded."""
    arguments.one_of("--format", args.format, tuple(_ENDINGS))
    arguments.one_of("--input", args.input, export.INPUTS)
    args.platforms = arguments.names("--platforms", args.platforms, export.PLATFORMS)
    if args.format == "onnx" and args.platforms != list(export.PLATFORMS):
        raise errors.UserError("--platforms goes with --format stablehlo; an ONNX file is for all, leave it out.")
    if args.format == "onnx" and args.dtype == "bfloat16":
        raise errors.UserError("an ONNX file computes in float32; leave --dtype bfloat16 out.")
    if not args.output:
        raise errors.UserError(f"expected --output FILE, such as model{_ENDINGS[args.format][0]}.")
    arguments.new_file("--output", args.output, _ENDINGS[args.format])
    model_choice.check(args)
    arguments.one_of("--false-match-rate", args.false_match_rate, _RATES)
    if args.false_match_rate and (args.threshold is not None or not args.run):
        raise errors.UserError(
            "--false-match-rate chooses among the thresholds of --run DIR; leave it or --threshold out."
        )
    if args.format == "onnx":
        from reid_jax.export import onnx_file

        onnx_file.check_installed()
    model_choice.find_weights(args)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        print(model_choice.listing())
        return 0
    _check(args)

    from reid_jax.export import onnx_file, stablehlo

    if args.dtype in (None, "auto"):
        args.dtype = "float32"  # the same numbers on every device
    extractor, variables = model_choice.load(args)
    threshold = _threshold(args, extractor, variables)
    file_io.make_folder(pathlib.Path(args.output).expanduser().parent)
    if args.format == "onnx":
        meta = onnx_file.write(extractor, variables, args.output, layout=args.input, threshold=threshold)
    else:
        meta = stablehlo.write(
            extractor, variables, args.output, layout=args.input, threshold=threshold, targets=args.platforms
        )
    print(_summary(meta))
    print(args.output)
    return 0


def _threshold(
    args: argparse.Namespace, extractor: extractor_lib.Extractor, variables: build.Variables
) -> embedding.Threshold | None:
    """Returns the threshold of the arguments, or of the run's evaluation where that compared the same features."""
    from reid_jax.export import embedding
    from reid_jax.runs import folder

    if args.threshold is not None:
        return embedding.Threshold(args.threshold)
    result = folder.RunFolder(args.run).read_result() if args.run else None
    if result is None or args.best or args.flip:
        return None  # no evaluation, or one of other weights or features
    rate = args.false_match_rate or _RATE
    name = result["dataset"]
    distance = result.get(f"{name}/verification/threshold_at_fpr_{rate}")
    if distance is None:
        return None
    cosine = _as_cosine(float(distance), extractor, variables)
    if input_layouts.LAYOUTS[args.input].planes:
        distance = cosine
    return None if distance is None else embedding.Threshold(float(distance), float(rate), str(name), cosine)


def _as_cosine(distance: float, extractor: extractor_lib.Extractor, variables: build.Variables) -> float | None:
    """Returns a distance of the evaluation as `1 - cos` of vectors of unit length, None where that cannot be said."""
    from reid_jax.export import embedding

    pixels = embedding.trial_images(1, extractor.size["height"], extractor.size["width"])
    features, metric = extractor.images(variables, pixels).features, extractor.settings.evals.metric
    if features.ndim > 2 or metric not in ("cosine", "euclidean"):
        return None
    if metric == "cosine":
        return distance
    unit = bool(np.all(np.abs(np.linalg.norm(features, axis=-1) - 1) < 1e-3))
    return distance**2 / 2 if unit else None


def _summary(meta: dict[str, Any]) -> str:
    """Returns what the file expects and gives, and how near it is to the model, as text."""
    shape = " x ".join(map(str, meta["output"]["shape"]))
    lines = [
        f"{meta['format']}: RGB {meta['input']['layout']} -> {shape} values"
        f"{' of unit length' if meta['output']['unit_length'] else ''}, to be compared by {meta['metric']}"
    ]
    if meta["output"]["slots_joined"]:
        lines.append("note: slots are joined to one vector; visibility counts only as far as a product can show it.")
    if meta["threshold"] is None:
        lines.append(
            "note: no threshold of these features is known; evaluate.py --run DIR --metric cosine --verification shows "
            "some, --threshold gives one."
        )
    elif meta["threshold"]["false_match_rate"] is not None:
        lines.append(
            f"threshold: {meta['threshold']['distance']:.4g} at a false match rate of "
            f"{meta['threshold']['false_match_rate']:g} on {meta['threshold']['measured_on']}"
        )
    if meta["parity"] is None:
        lines.append("note: not compared with the model, for this machine has none of these devices.")
    else:
        lines.append(f"largest difference from the model, on unit vectors: {meta['parity']['difference']:.1e}")
    return "\n".join(lines)
