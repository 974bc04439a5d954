"""Draws a contact sheet of a prepared data set: a row per identity, columns by camera.

    python scripts/contact_sheet.py synthped --output sheet.png
    python scripts/contact_sheet.py synthped_occluded --split query --parts --output hidden.png
    python scripts/contact_sheet.py market1501 --split gallery --skip 2 --output market.png

A data set that is not prepared yet is prepared first, as by scripts/prepare_dataset.py.
"""

from __future__ import annotations

import argparse

import cv2

from reid_jax import errors, file_io
from reid_jax.cli import arguments, command_line
from reid_jax.data import image_grid, prepare

MOST_PIXELS = 65_500  # of the encoders for a side


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("name", help="name of the data set")
    parser.add_argument("--output", required=True, help="image file to write (.png or .jpg)")
    parser.add_argument("--root", default="data", help="the folder that holds prepared/ (default: data)")
    parser.add_argument("--split", default="train", help="train (default), query or gallery")
    parser.add_argument(
        "--identities", type=arguments.whole(1, 10_000), default=12, help="number of rows (default: 12)"
    )
    parser.add_argument("--skip", type=arguments.whole(0, 10**9), default=0, help="identities to skip (default: 0)")
    parser.add_argument(
        "--images-per-camera",
        type=arguments.whole(1, 1000),
        default=2,
        help="images of each identity and camera (default: 2)",
    )
    parser.add_argument(
        "--height", type=arguments.whole(8, 4096), default=192, help="of each image, in pixels (default: 192)"
    )
    parser.add_argument("--parts", action="store_true", help="tint the images with their part masks")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    output = arguments.new_file("--output", args.output, (".png", ".jpg", ".jpeg"))
    dataset = prepare.ensure(args.name, args.root, **command_line.parse_options(args.option))
    if args.split not in dataset.splits():
        raise errors.unknown(f"split of {args.name}", args.split, dataset.splits())
    sheet = image_grid.draw(
        dataset.splits()[args.split],
        identities=args.identities,
        first=args.skip,
        images_per_camera=args.images_per_camera,
        height=args.height,
        parts=args.parts,
    )
    if max(sheet.shape) > MOST_PIXELS:
        raise errors.UserError(
            f"expected a sheet of at most {MOST_PIXELS:,} pixels a side, it has {sheet.shape[1]:,} x "
            f"{sheet.shape[0]:,}; lower --identities, --images-per-camera or --height."
        )
    _, data = cv2.imencode(output.suffix.lower(), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    file_io.make_folder(output.parent, "the folder of --output")
    file_io.write_bytes(output, data.tobytes(), "the contact sheet")
    print(f"{output}: {sheet.shape[1]}x{sheet.shape[0]} pixels")
    return 0
