"""Prints CMC, mAP and mINP of features files, of a trained run, or of published weights on a data set.

    python scripts/evaluate.py --features features.npz
    python scripts/evaluate.py --features features.npz --rerank --verification --output result.json
    python scripts/evaluate.py --features market.npz msmt17.npz --metric cosine --ap trapezoid
    python scripts/evaluate.py --features features.npz --html page.html --images data/market1501
    python scripts/evaluate.py --run runs/mfv-demo --rerank --html page.html
    python scripts/evaluate.py --weights osnet_x0_25_msmt17 --images data/market1501
    python scripts/evaluate.py --model bot --weights market_resnet50.pth --images data/market1501
    python scripts/evaluate.py --run runs/mfv-demo --corruptions --rounds 10 --output robust.json
    python scripts/evaluate.py --run runs/mfv-demo --corruptions --families noise --severities 3
    python scripts/evaluate.py --weights osnet_x0_25_msmt17 --images data/market1501 --corruptions
    python scripts/evaluate.py --run runs/amfor-demo --parts --output parts.json  # of AMFOR: body parts
    python scripts/evaluate.py --run runs/bot-demo runs/mfv-demo --html page.html  # a page of each

Scores are printed in per cent; the JSON file holds fractions.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from reid_jax import errors, file_io
from reid_jax.cli import arguments, command_line, evaluated_sets
from reid_jax.config import rules
from reid_jax.evaluation import distance_blocks, own_scores, ranking, report, suite, thumbnails
from reid_jax.weights import hub, zoo

# Options of the plain evaluation that the corrupted one does not have.
PLAIN_ONLY = ("rerank", "expand", "verification", "exact_verification", "single_shot", "score", "html")


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    for add in (_add_sources, _add_protocol, _add_rankings, _add_corruptions, _add_parts, _add_output):
        add(parser)
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--features", nargs="+", metavar="FILE", help="features files (.npz), one per test set")
    source.add_argument(
        "--run", nargs="+", metavar="DIR", help="run folders: the newest checkpoint of each, on its own data set"
    )
    source.add_argument(
        "--weights", metavar="FILE", help="a weights file, or a name of reid-jax weights list, on --images DIR"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="with --weights: its model (names: reid-jax extract --list), or package.module:Name",
    )
    parser.add_argument("--best", action="store_true", help="with --run: the checkpoint with the best mAP instead")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="with --run: another data set than its own; with --weights: how to read --images",
    )


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        help=f"{', '.join(distance_blocks.METRICS)} or package.module:Name; default: what the features were made for",
    )
    parser.add_argument(
        "--score",
        action="append",
        default=[],
        metavar="PATH",
        help="also own scores, package.module:Name; repeatable",
    )
    parser.add_argument("--ap", default="step", help=f"AP rule, {' or '.join(ranking.AP_RULES)} (default: step)")
    parser.add_argument(
        "--no-same-camera-filter", action="store_true", help="also rank same-camera images of the identity"
    )


def _add_rankings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rerank", action="store_true", help="also scores after k-reciprocal re-ranking")
    parser.add_argument("--k1", type=arguments.whole(1, 10_000), default=20, help="of re-ranking (default: 20)")
    parser.add_argument("--k2", type=arguments.whole(1, 10_000), default=6, help="of re-ranking (default: 6)")
    parser.add_argument(
        "--lambda",
        dest="original_weight",
        type=arguments.number(0, 1),
        default=0.3,
        help="of re-ranking (default: 0.3)",
    )
    parser.add_argument(
        "--expand",
        type=arguments.whole(0, 10_000),
        default=0,
        metavar="N",
        help="first expand queries with N gallery images",
    )
    parser.add_argument(
        "--alpha",
        type=arguments.number(0, 100),
        help="of query expansion: exponent of the similarities used as weights",
    )
    parser.add_argument("--verification", action="store_true", help="also AUC, EER and thresholds")
    parser.add_argument("--exact-verification", action="store_true", help="the same from sorted distances")
    parser.add_argument(
        "--single-shot",
        type=arguments.whole(0, 100_000),
        default=0,
        metavar="DRAWS",
        help="also the CUHK03 protocol (100)",
    )
    parser.add_argument(
        "--rounds",
        type=arguments.whole(0, 10_000),
        help="also this many random one-shot galleries; with --corruptions: its rounds (10)",
    )
    parser.add_argument(
        "--seed",
        type=arguments.whole(*arguments.SEED),
        default=0,
        help="of random galleries and corruptions (default: 0)",
    )


def _add_corruptions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corruptions", action="store_true", help="with --run or --weights: clean and corrupted images"
    )
    parser.add_argument("--families", nargs="+", default=[], metavar="NAME", help="among noise, blur, weather, digital")
    parser.add_argument("--types", nargs="+", default=[], metavar="NAME", help="among the twenty corruptions")
    parser.add_argument(
        "--severities",
        nargs="+",
        type=arguments.whole(1, 5),
        default=[],
        metavar="N",
        help="among 1 to 5 (default: all)",
    )
    parser.add_argument("--frost-dir", default="", metavar="DIR", help="frost textures (default: generated ones)")


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts",
        action="store_true",
        help="with --run of a model with body parts, on images with label maps: its parser, visibility and "
        "reconstruction, with intervals",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-float16", action="store_true", help="accept features rounded to float16")
    parser.add_argument(
        "--output", metavar="FILE", help="write the numbers as JSON (--corruptions: the table as .md, too)"
    )
    parser.add_argument("--html", metavar="FILE", help="write the page of ranked lists")
    parser.add_argument(
        "--queries",
        type=arguments.whole(1, 100_000),
        metavar="N",
        help="with --html: the N/2 worst queries and a spread of the others (default: all)",
    )
    parser.add_argument(
        "--explain",
        type=arguments.whole(1, 10_000),
        metavar="N",
        help="with --html and a model: the page also shows why images are near, for N queries",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="with --weights: a data set with query and gallery; with --html: folder of the images (default: recorded "
        "in the features)",
    )


def _check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before anything is loaded."""
    if args.best and not args.run:
        raise errors.UserError("--best needs --run DIR: a features file holds one checkpoint's features.")
    _check_weights(args)
    if args.images and not args.html and not args.weights:
        raise errors.UserError(
            "--images is for the page of ranked lists: add --html FILE, or leave it out; for scores of other images "
            "give --dataset NAME, or their features (reid-jax extract --images DIR)."
        )
    if args.queries is not None and not args.html:
        raise errors.UserError("--queries is for the page of ranked lists: add --html FILE, or leave it out.")
    if args.explain and not (args.html and (args.run or args.weights)):
        raise errors.UserError(
            "--explain draws maps on the page of ranked lists with the model itself: add --html FILE and --run DIR or "
            "--weights FILE, or leave it out."
        )
    if args.alpha is not None and not args.expand:
        raise errors.UserError("--alpha is the exponent of query expansion: add --expand N, or leave it out.")
    if args.metric is not None:
        distance_blocks.check_metric(args.metric)
    own_scores.find(args.score)
    if args.ap not in ranking.AP_RULES:
        raise errors.unknown("AP rule", args.ap, ranking.AP_RULES)
    if args.dataset and args.features:
        raise errors.UserError("--dataset needs --run DIR or --weights FILE: a features file holds one data set.")
    if args.corruptions and args.features:
        raise errors.UserError(
            "--corruptions needs --run DIR or --weights: corrupted images have to go through a model."
        )
    if args.corruptions and args.run and len(args.run) > 1:
        raise errors.UserError(f"--corruptions takes one run, got {len(args.run)}; call once for each.")
    if args.corruptions and any(getattr(args, name) for name in PLAIN_ONLY):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in PLAIN_ONLY)
        raise errors.UserError(f"--corruptions cannot be combined with {names}; leave it out for those.")
    if not args.corruptions and (args.families or args.types or args.severities or args.frost_dir):
        raise errors.UserError(
            "--families, --types, --severities and --frost-dir choose corruptions: add --corruptions."
        )
    if args.parts:
        _check_parts(args)
    _check_paths(args)


def _check_parts(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that do not go with --parts."""
    if not args.run or len(args.run) > 1:
        raise errors.UserError("--parts needs one run, --run DIR; give it, and call once for each.")
    others = [name for name in (*PLAIN_ONLY, "corruptions") if getattr(args, name)]
    if others:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise errors.UserError(f"--parts cannot be combined with {names}; leave it out for those.")


def _check_weights(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that do not go with --weights, and fills in the model of published weights."""
    if not args.weights:
        if args.model:
            raise errors.UserError("--model needs --weights FILE or NAME, which was not given; add it.")
        return
    arguments.path("--weights", args.weights)
    args.model = args.model or zoo.of_weights(args.weights)
    if not args.model:
        raise errors.UserError(
            f"expected --model NAME with --weights {rules.plain(args.weights)}, whose model its name does not say; "
            "reid-jax extract --list shows the names."
        )
    zoo.lookup(args.model)
    if not args.images:
        raise errors.UserError("expected --images DIR with --weights, a data set with query and gallery; add it.")
    hub.check(args.weights, key="--weights")


def _check_paths(args: argparse.Namespace) -> None:
    """Raises a `UserError` for files and folders that are missing or cannot be written."""
    for path in args.features or ():
        arguments.existing_file("--features", path, "a features file (.npz)")
    for path in args.run or ():
        arguments.run_folder("--run", path)
    if args.images is not None:
        arguments.existing_folder("--images", args.images, "the folder of the images")
    if args.frost_dir:
        arguments.existing_folder("--frost-dir", args.frost_dir, "a folder of frost textures")
    for flag, what in (("output", "the scores"), ("html", "the page")):
        if getattr(args, flag) is not None:
            file_io.check_place(arguments.path(f"--{flag}", getattr(args, flag)), what)
    kind = "--run" if args.run else "--features"
    evaluated_sets.labels(kind, args.run or args.features or ("",))
    if args.html and args.output and pathlib.Path(args.html).resolve() == pathlib.Path(args.output).resolve():
        raise errors.UserError("--output and --html name the same file; name two.")


def _corruptions(args: argparse.Namespace) -> int:
    """Evaluates clean and corrupted images, on either side or both."""
    from reid_jax.data.corruptions import sampling

    selection = sampling.select(
        families=args.families, types=args.types, severities=args.severities, frost_dir=args.frost_dir
    )
    from reid_jax.runs import robust_weights, trained  # models and data: only where a model runs

    options: dict[str, Any] = {
        "dataset": args.dataset,
        "metric": args.metric,
        "ap": args.ap,
        "same_camera_filter": False if args.no_same_camera_filter else None,
        "selection": selection,
        "rounds": 10 if args.rounds is None else args.rounds,
        "seed": args.seed,
        "progress": lambda text: print(text, file=sys.stderr, flush=True),
    }
    if args.run:
        result = trained.evaluate_robustness(args.run[0], best=args.best, **options)
    else:
        result = robust_weights.evaluate(args.model, args.weights, args.images, **options)
    print(result.table())
    if args.output:
        _write(args.output, result.as_dict())
        what = pathlib.Path(args.run[0]).as_posix() if args.run else rules.plain(args.weights)
        name = f"{what}{f' on {args.dataset}' if args.dataset else ''}"
        text = f"# {name}, clean and corrupted\n\n```\n{result.table()}\n```\n"
        file_io.write_text(pathlib.Path(args.output).with_suffix(".md"), text, "the table")
    return 0


def _parts(args: argparse.Namespace) -> int:
    """Prints and writes what a run's model knows of body parts."""
    from reid_jax.runs import part_report  # models and data: only where a model runs

    measured = part_report.evaluate(args.run[0], best=args.best, dataset=args.dataset)
    print(measured.table())
    if args.output:
        _write(args.output, measured.as_dict())
    return 0


def _write(path: str, values: dict[str, Any]) -> None:
    file_io.make_folder(pathlib.Path(path).parent)
    file_io.write_json(path, values, "the scores", sort_keys=True)
    print(f"\n{path}")


def _explain(
    args: argparse.Namespace, run: str, measured: suite.Report, load_image: thumbnails.LoadImage
) -> report.Explain:
    """Returns the function that draws why images are near a query."""
    from reid_jax.explain import explainer, ranked_maps
    from reid_jax.inference import published
    from reid_jax.runs import trained

    changes = {"dtype": "float32"}
    chosen = (
        trained.from_run(run, best=args.best, overrides=changes)
        if run
        else published.from_weights(args.model, args.weights, overrides=changes)
    )
    return ranked_maps.RankedMaps(explainer.Explainer(*chosen), measured.feature_set, load_image)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    _check(args)
    if args.corruptions:
        return _corruptions(args)
    if args.parts:
        return _parts(args)
    sources = evaluated_sets.read(args)
    protocol = suite.Protocol(
        metric=args.metric,
        ap=args.ap,
        same_camera_filter=not args.no_same_camera_filter,
        rerank=args.rerank,
        k1=args.k1,
        k2=args.k2,
        original_weight=args.original_weight,
        expand=args.expand,
        alpha=args.alpha,
        verification=args.verification,
        exact_verification=args.exact_verification,
        single_shot_draws=args.single_shot,
        rounds=args.rounds or 0,
        seed=args.seed,
        scores=tuple(args.score),
    )
    images = [source.page_images(args.images) for source in sources] if args.html else []
    reports = {
        name: suite.run(name, features, protocol) for source in sources for name, features in source.sets.items()
    }
    print(suite.table(list(reports.values())))
    if args.output:
        one_run = args.run and len(sources) == 1
        _write(args.output, suite.with_descriptors(reports, sources[0].dataset) if one_run else suite.merge(reports))
    for source, load_image in zip(sources, images, strict=False):
        measured = reports[source.dataset]
        explained: dict[str, Any] = {}
        if args.explain:
            explained = {"explain": _explain(args, source.run, measured, load_image), "explained": args.explain}
        path = evaluated_sets.page_path(args.html, source.label)
        print(report.write_page(path, measured, load_image, max_queries=args.queries, **explained))
    return 0
