"""Writes the embedding function of a model as one file for other programs: StableHLO or ONNX.

    python scripts/export.py --run runs/mfv-demo --format onnx --output mfv.onnx
    python scripts/export.py --weights osnet_x0_25_msmt17 --format onnx --input float_nchw \\
        --output osnet_x0_25.onnx                   # for trackers: BoxMOT and others
    python scripts/export.py --run runs/mfv-demo --format stablehlo --output mfv.zip

The function takes crops of the model's size, any number at once, and returns test features. It is compared with the
model before the file takes its place. With --input uint8 (the default) it takes RGB images [B, H, W, 3] and normalizes
them itself; with --input float_nchw planes [B, 3, H, W] normalized with ImageNet's statistics, and returns one vector
of unit length per crop. ONNX needs the packages of the extra onnx.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from reid_jax import errors, export, file_io
from reid_jax.cli import arguments, command_line, model_choice

_ENDINGS = {"stablehlo": (".zip",), "onnx": (".onnx",)}


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    model_choice.add(parser)
    parser.add_argument("--format", default="stablehlo", help="stablehlo (default) or onnx")
    parser.add_argument("--input", default="uint8", help="uint8 (default) or float_nchw")
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
    file_io.make_folder(pathlib.Path(args.output).expanduser().parent)
    if args.format == "onnx":
        meta = onnx_file.write(extractor, variables, args.output, layout=args.input)
    else:
        meta = stablehlo.write(extractor, variables, args.output, layout=args.input, targets=args.platforms)
    print(_summary(meta))
    print(args.output)
    return 0


def _summary(meta: dict[str, Any]) -> str:
    """Returns what the file expects and gives, and how near it is to the model, as text."""
    shape = " x ".join(map(str, meta["output"]["shape"]))
    lines = [
        f"{meta['format']}: RGB {meta['input']['layout']} -> {shape} values"
        f"{' of unit length' if meta['output']['unit_length'] else ''}, to be compared by {meta['metric']}"
    ]
    if meta["output"]["slots_joined"]:
        lines.append("note: slots are joined to one vector; visibility counts only as far as a product can show it.")
    if meta["parity"] is None:
        lines.append("note: not compared with the model, for this machine has none of these devices.")
    else:
        lines.append(f"largest difference from the model, on unit vectors: {meta['parity']['difference']:.1e}")
    return "\n".join(lines)
