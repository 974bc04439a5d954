"""Draws what a model looks at: maps on a query and its matches, and all embeddings on a plane.

    python scripts/explain.py sheet --run runs/mfv-demo --output sheet.png  # a query of its data set
    python scripts/explain.py sheet --run runs/mfv-demo --row 7 --pictures occlusion --output 7.png
    python scripts/explain.py sheet --run runs/mfv-demo --query a.jpg --gallery b.jpg --output ab.png
    python scripts/explain.py sheet --weights osnet_x0_25_msmt17 --query a.jpg --gallery photos \\
        --output sheet.png
    python scripts/explain.py sheet --run runs/mfv-demo --pictures list     # what this model has
    python scripts/explain.py map --run runs/mfv-demo --output map.html
    python scripts/explain.py map --features market.npz --images data/market1501 --output map.html
    python scripts/explain.py check --run runs/mfv-demo --output check.json # do the maps mean anything?

Pictures of one image: activation, attention, heads and rollout (vision transformers), slots and parts (descriptors of
body parts), reconstruction (pixel decoders). Of a pair: similarity, a map whose sum is the similarity; contrast, the
same for what the similarity is above that to the gallery on average; and occlusion, how far the similarity falls where
a region is hidden. A sheet explains a score; it is no evidence of identity. A map of
embeddings is a page with the pictures; --method tsne needs the package of the extra map. A check hides regions in the
order of each map and in random order, and compares how fast the similarity falls.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reid_jax import errors, explain, file_io
from reid_jax.cli import arguments, command_line, help_pages, model_choice
from reid_jax.config import rules
from reid_jax.explain import projection

if TYPE_CHECKING:
    from reid_jax.data import records
    from reid_jax.explain import explainer as explainer_lib
    from reid_jax.explain import retrieval

# Action: ending of its output.
ACTIONS = {"sheet": ".png", "map": ".html", "check": ".json"}
_DEFAULT = "activation,similarity"


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("action", nargs="?", default="sheet", metavar="ACTION", help="sheet (default), map or check")
    model_choice.add(parser)
    parser.add_argument("--query", metavar="FILE", help="the image to explain; default: --row of the data set")
    parser.add_argument("--row", type=arguments.whole(0, 10**9), help="number of a query of the data set (default: 0)")
    parser.add_argument(
        "--gallery", metavar="PATH", help="an image, a folder or a data set; default: the data set of the run"
    )
    parser.add_argument("--top", type=arguments.whole(1, 50), default=5, help="matches on a sheet (default: 5)")
    parser.add_argument("--pictures", default=_DEFAULT, metavar="NAMES", help=f"default: {_DEFAULT}; or list")
    parser.add_argument("--layer", default="", help="of activation and similarity; default: the model's own")
    parser.add_argument("--colors", default=explain.COLORS[0], help="viridis (default), magma or jet")
    parser.add_argument("--features", metavar="FILE", help="map: of this features file (.npz), without a model")
    parser.add_argument("--images", metavar="DIR", help="map: images of --features (default: recorded in the file)")
    parser.add_argument("--method", default="tsne", help="map: tsne (default) or pca")
    parser.add_argument(
        "--count", type=arguments.whole(4, 20_000), default=2000, help="map: the most images on it (default: 2000)"
    )
    parser.add_argument(
        "--pairs", type=arguments.whole(1, 10_000), default=24, help="check: queries and matches (default: 24)"
    )
    parser.add_argument("--output", metavar="FILE", help="the sheet (.png), the map (.html) or the check (.json)")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before JAX is loaded."""
    arguments.one_of("ACTION", args.action, tuple(ACTIONS))
    if args.action == "map":
        _check_map(args)
        return
    if args.features or args.images:
        raise errors.UserError("--features and --images are for the map of embeddings; leave them out.")
    model_choice.check(args)
    args.pictures = (
        args.pictures.split(",")
        if args.pictures == "list"
        else arguments.names("--pictures", args.pictures, explain.PICTURES)
    )
    arguments.one_of("--colors", args.colors, explain.COLORS)
    if args.query and args.row is not None:
        raise errors.UserError("--row is a query of the data set and --query a file; leave one out.")
    pair = next((name for name in args.pictures if name in explain.PAIRS), "")
    pair = "a check" if args.action == "check" else pair
    if not args.run and not args.gallery and pair:
        raise errors.UserError(
            f"expected --gallery PATH for {pair}, images to compare with; add it, or ask for --pictures of one image."
        )
    if not args.run and not args.gallery and not args.query and args.pictures != ["list"]:
        raise errors.UserError("expected --query FILE or --gallery PATH, images to explain; add one.")
    if args.query:
        arguments.existing_file("--query", args.query, "an image")
    if args.gallery and not arguments.path("--gallery", args.gallery).expanduser().exists():
        raise errors.UserError(
            f"expected an image or a folder as --gallery, there is no {rules.plain(args.gallery)}; give another."
        )
    if args.pictures != ["list"]:
        _check_output(args)
    model_choice.find_weights(args)


def _check_output(args: argparse.Namespace) -> None:
    if not args.output:
        raise errors.UserError(f"expected --output FILE, such as {args.action}{ACTIONS[args.action]}.")
    arguments.new_file("--output", args.output, (ACTIONS[args.action],))


def _check_map(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that do not make a map."""
    if bool(args.features) == bool(args.run) or args.model or args.weights:
        raise errors.UserError(
            "expected either --run DIR or --features FILE for a map; reid-jax extract writes features of other models."
        )
    if args.images and not args.features:
        raise errors.UserError("--images goes with --features, a run has its own; leave it out.")
    if args.run:
        arguments.run_folder("--run", args.run)
    if args.features:
        arguments.existing_file("--features", args.features, "a features file (.npz)")
    if args.images:
        arguments.existing_folder("--images", args.images, "the folder of the images")
    projection.check_method(args.method)
    _check_output(args)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        print(model_choice.listing())
        return 0
    _check(args)
    if args.action == "map":
        _write_map(args)
        return 0

    from reid_jax.explain import explainer, sheets

    if args.dtype in (None, "auto"):
        args.dtype = "float32"  # sums of maps should be those of the scores
    model = explainer.Explainer(*model_choice.load(args))
    if args.pictures == ["list"]:
        print(_listing(model))
        return 0
    sheets.check(model, args.pictures, pairs=True, layer=args.layer)
    if args.action == "check":
        _write_check(args, model)
        return 0
    _write_sheet(args, model)
    return 0


def _listing(model: explainer_lib.Explainer) -> str:
    """Returns the pictures and the layers of a model as text."""
    from reid_jax.explain import pictures

    layers = [f"{name} ({layer.grid[0]} x {layer.grid[1]})" for name, layer in model.layers.items()]
    return "\n".join(
        [
            f"pictures: {', '.join((*pictures.available(model), *explain.PAIRS))}",
            f"layers: {', '.join(layers)}",
            f"of activation: {model.last()}; of similarity: {', '.join(model.cut())}",
        ]
    )


def _splits(args: argparse.Namespace, model: explainer_lib.Explainer) -> dict[str, records.Split]:
    """Returns the images of --gallery, or of the run's data set, by split."""
    from reid_jax import build
    from reid_jax.inference import sources

    if args.gallery:
        return sources.open_source(args.gallery).splits
    return sources.of_dataset(build.open_data(model.settings.data)).splits


def _images(args: argparse.Namespace, model: explainer_lib.Explainer) -> tuple[retrieval.Query, records.Split | None]:
    """Returns the query and the gallery, None for a query alone."""
    from reid_jax.explain import retrieval
    from reid_jax.inference import sources

    if args.query and not args.gallery and not args.run:
        return retrieval.Query(sources.load_image(args.query), file_io.shown(args.query)), None
    splits = _splits(args, model)
    gallery = splits.get("gallery", splits.get("images"))
    if gallery is None:
        raise errors.UserError(f"expected a gallery in {args.gallery}, found {', '.join(splits)}; give another.")
    if args.query:
        return retrieval.Query(sources.load_image(args.query), file_io.shown(args.query)), gallery
    if "query" not in splits:
        raise errors.UserError("expected --query FILE, for the gallery is no data set with queries; add it.")
    return retrieval.of_split(splits["query"], args.row or 0), gallery


def _write_sheet(args: argparse.Namespace, model: explainer_lib.Explainer) -> None:
    from reid_jax.explain import drawing, retrieval, sheets

    query, gallery = _images(args, model)
    first, matches, embedded = sheets.Column(query.image, ("query", query.name)), list[sheets.Column](), None
    if gallery is not None:
        embedded = retrieval.embedded_split(model, gallery)
        first, matches = retrieval.columns(query, gallery, retrieval.nearest(model, query, gallery, embedded, args.top))
    title = f"{args.run or args.weights or 'random weights'} ({model.settings.model['name']})"
    page = sheets.sheet(
        model,
        first,
        matches,
        args.pictures,
        layer=args.layer,
        colors=args.colors,
        title=rules.plain(title),
        background=embedded,
    )
    output = arguments.path("--output", args.output)
    file_io.make_folder(output.parent, "the folder of --output")
    file_io.write_bytes(output, drawing.png(page), "the sheet")
    print(f"{output}: {page.shape[1]}x{page.shape[0]} pixels")


def _write_map(args: argparse.Namespace) -> None:
    from reid_jax.data.feature_set import FeatureSet
    from reid_jax.evaluation import image_files, thumbnails
    from reid_jax.explain import embedding_map

    if args.features:
        features = FeatureSet.load(args.features)
        folder = args.images or features.meta.get("source")
        if not isinstance(folder, str) or not folder:
            raise errors.UserError("expected --images DIR, the folder the features were made from; add it.")
        load: thumbnails.LoadImage = image_files.ImageFiles(folder, features)
    else:
        from reid_jax.runs import trained

        features, dataset, _ = trained.features_of_run(args.run, best=args.best)

        load = lambda side, row: dataset.split(side).image(row)

    print(embedding_map.write(args.output, features, load, method=args.method, most=args.count))


def _write_check(args: argparse.Namespace, model: explainer_lib.Explainer) -> None:
    from reid_jax.explain import deletion, retrieval

    splits = _splits(args, model)
    if "query" not in splits:
        raise errors.UserError("expected a data set with query and gallery for a check, got images; give another.")
    pairs = retrieval.right_pairs(model, splits["query"], splits["gallery"], args.pairs)
    rows = deletion.trial(model, pairs)
    heads = ("picture", "grid", "deletion", "random", "better in", "insertion", "random", "better in")
    print(help_pages.table([heads, *map(_check_row, rows)]))
    result = {
        "model": model.settings.model["name"],
        "weights": model.extractor.origin,
        "pairs": len(pairs),
        "maps": rows,
    }
    output = arguments.path("--output", args.output)
    file_io.make_folder(output.parent, "the folder of --output")
    file_io.write_json(output, result, "the check")
    print(output)


def _check_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the texts of a row of the check: areas, and in how many per cent of the pairs the map is better."""
    texts = [str(row["picture"]), f"{row['rows']} x {row['columns']}"]
    for side in ("deletion", "insertion"):
        texts += [f"{row[side]:.4f}", f"{row[f'random_{side}']:.4f}", f"{100 * row[f'better_{side}']:.0f} %"]
    return tuple(texts)
