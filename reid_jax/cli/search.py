"""Keeps a gallery of known images and asks it: who is this?

    python scripts/search.py build people.gallery --features market.npz
    python scripts/search.py build people.gallery --run runs/mfv-demo --images photos --table labels.csv
    python scripts/search.py add people.gallery --run runs/mfv-demo --images today --camera entrance
    python scripts/search.py query people.gallery --run runs/mfv-demo --images crop.jpg --why "lost child"
    python scripts/search.py query people.gallery --run runs/mfv-demo --images frame.jpg \\
        --box 20,30,80,200 --other-camera entrance --since 2026-11-28T08:00 --why "lost child"
    python scripts/search.py query people.gallery --entry 17 --per track --html answer.html --why test
    python scripts/search.py calibrate people.gallery --rate 0.001     # when to say "nobody"
    python scripts/search.py remove people.gallery --identity "person 7" --why "erasure asked for"
    python scripts/search.py compact people.gallery     # nothing of them is left in the files
    python scripts/search.py info people.gallery
    python scripts/search.py serve people.gallery --run runs/mfv-demo   # in the browser, on this machine

A gallery is one file, bound to the model that made it, or the URL of a PostgreSQL server (--store URL in its place). An
image is in it once, by its name. Entries leave it after 30 days unless --keep says otherwise. Queries and changes are
logged with who and why, see the page "Search a gallery" of the documentation.
"""

from __future__ import annotations

import argparse
import getpass
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from reid_jax import errors, file_io
from reid_jax.cli import arguments, command_line, model_choice, search_serve, search_text
from reid_jax.config import rules

if TYPE_CHECKING:
    from reid_jax.gallery import gallery as gallery_lib
    from reid_jax.gallery import intake

_SOURCE = ("features", "images", "dataset", "on_bad_image", "side")
_SIZE = ("height", "width", "interpolation", "option", "flip", "dtype")
_MODEL = ("run", "best", "model", "weights", "random_weights", "seed", *_SIZE)
_ADD = (*_SOURCE, *_MODEL, "table", "prefix", "keep", "thumbnails", "identity", "camera", "track", "time")
_FILTER = ("camera", "other_camera", "since", "until", "known", "unknown", "identity")
# Action: what it does, and the options that it takes besides the gallery and --who, --why and --audit.
ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "build": ("makes a gallery of images", (*_ADD, "no_audit", "keep_log", "rate", "rate_per")),
    "add": ("adds images", (*_ADD, "skip_existing")),
    "remove": ("removes images", ("file", "identity", "track", "since", "until", "id")),
    "query": (
        "asks who is in an image",
        (*_SOURCE, *_MODEL, *_FILTER, "box", "entry", "top", "per", "as_track", "rerank", "json", "html"),
    ),
    "calibrate": (
        "chooses the distance beyond which nobody is found",
        ("features", "rate", "rate_per", "no_threshold"),
    ),
    "info": ("says what a gallery holds", ("json",)),
    "expire": ("removes what has expired, lines of the log too", ()),
    "compact": ("writes the file without what was removed", ()),
    "serve": ("shows it in the browser", (*_MODEL, *search_serve.OPTIONS)),
}


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    listed = "; ".join(f"{name}: {text}" for name, (text, _) in ACTIONS.items())
    parser.add_argument("action", choices=tuple(ACTIONS), help=listed)
    parser.add_argument("gallery", nargs="?", metavar="GALLERY", help="file of the gallery, or URL of a server")
    parser.add_argument("--store", metavar="URL", help="in place of GALLERY: postgresql://USER@HOST/DATABASE")
    parser.add_argument("--who", help="who does it, for the audit log (default: the user's name)")
    parser.add_argument("--why", default="", help="the reason, for the audit log; a query needs one")
    parser.add_argument("--audit", metavar="FILE", help="the audit log (default: next to the gallery's file)")
    _add_images(parser.add_argument_group("images"))
    _add_labels(parser.add_argument_group("labels, filters and what is removed"))
    _add_keeping(parser.add_argument_group("build, add and calibrate"))
    _add_query(parser.add_argument_group("query"))
    model_choice.add(parser.add_argument_group("the model of --images"))
    search_serve.add(parser.add_argument_group("serve"))
    return parser


def _add_images(group: Any) -> None:
    group.add_argument("--features", metavar="FILE", help="a features file of extract (.npz)")
    group.add_argument(
        "--images", metavar="PATH", help="image, folder or data set, with a model; with --features: their folder"
    )
    group.add_argument("--dataset", metavar="NAME", help="read --images as this data set; 'plain': as images alone")
    group.add_argument("--side", help="gallery (default of build and add), query (default of query) or both")
    group.add_argument("--on-bad-image", default="fail", help="fail (default) or skip: leave it out")
    group.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="L,T,R,B",
        help="query a box of the one image, in pixels; repeatable",
    )
    group.add_argument(
        "--entry",
        action="append",
        default=[],
        type=arguments.whole(1, 2**62),
        metavar="N",
        help="query with an entry of the gallery; repeatable",
    )


def _add_labels(group: Any) -> None:
    text = {"action": "append", "default": [], "type": arguments.text, "metavar": "NAME"}
    group.add_argument("--identity", **text, help="the person: a label to add, a filter, or whom to remove")
    group.add_argument("--camera", **text, help="the camera: a label to add, or a filter (repeatable)")
    group.add_argument("--other-camera", **text, help="filter: leave this camera out (repeatable)")
    group.add_argument("--track", **text, help="the track: a label to add, or what to remove")
    group.add_argument("--time", metavar="TIME", help="add: when the images were taken, 2026-11-28T10:30 (UTC)")
    group.add_argument("--since", metavar="TIME", help="filter or remove: taken at this time or later")
    group.add_argument("--until", metavar="TIME", help="filter or remove: taken at this time or earlier")
    group.add_argument("--known", action="store_true", help="filter: entries with an identity")
    group.add_argument("--unknown", action="store_true", help="filter: entries without an identity")
    group.add_argument("--file", **text, help="remove: the image of this name")
    group.add_argument(
        "--id", action="append", default=[], type=arguments.whole(1, 2**62), metavar="N", help="remove: this entry"
    )
    group.add_argument("--table", metavar="FILE", help="add: CSV with file and identity, camera, time, track")


def _add_keeping(group: Any) -> None:
    group.add_argument("--prefix", default="", help="text before the images' names, such as today/")
    group.add_argument("--skip-existing", action="store_true", help="add: leave out images that are there already")
    group.add_argument("--keep", metavar="SPAN", help="72h, 30d or forever; build: for all that is added later, too")
    group.add_argument("--thumbnails", default="yes", help="yes (default) or no: keep small pictures")
    group.add_argument("--no-audit", action="store_true", help="build: no audit log, for pictures of nobody")
    group.add_argument(
        "--rate",
        type=arguments.number(1e-9, 0.5),
        metavar="R",
        help="calibrate, build: the false-match rate, such as 0.001",
    )
    group.add_argument(
        "--rate-per", default="comparison", help="comparison (default) of two people, or search for somebody absent"
    )
    group.add_argument("--no-threshold", action="store_true", help="calibrate: forget the threshold")
    group.add_argument("--keep-log", metavar="SPAN", help="build: how long lines of the log stay (default: 183d)")


def _add_query(group: Any) -> None:
    group.add_argument("--top", type=arguments.whole(1, 10_000), default=10, metavar="K", help="lines (default: 10)")
    group.add_argument("--per", default="entry", help="entry (default), or the best of each track or identity")
    group.add_argument("--as-track", action="store_true", help="all images show one person and vote for one answer")
    group.add_argument("--rerank", action="store_true", help="re-rank the nearest entries")
    group.add_argument("--json", metavar="FILE", help="the answers as JSON; - writes to the screen")
    group.add_argument("--html", metavar="FILE", help="the answers as a page with pictures")


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raises a `UserError` for arguments that can be refused before anything is loaded."""
    if bool(args.gallery) == bool(args.store):
        raise errors.UserError("expected a gallery: the path of its file after the action, or --store URL.")
    args.place = args.store or args.gallery
    if "://" in args.place:
        _check_url(args.place)
    else:
        arguments.path("the gallery", args.place)
    taken = set(ACTIONS[args.action][1])
    for name in {name for _, (_, options) in ACTIONS.items() for name in options} - taken:
        if getattr(args, name) != parser.get_default(name):
            flag = name.replace("_", "-")
            users = ", ".join(action for action, (_, options) in ACTIONS.items() if name in options)
            raise errors.UserError(f"--{flag} goes with {users}, not with {args.action}; leave it out.")
    arguments.one_of("--side", args.side, ("gallery", "query", "both"))
    arguments.one_of("--per", args.per, ("entry", "track", "identity"))
    arguments.one_of("--thumbnails", args.thumbnails, ("yes", "no"))
    arguments.one_of("--on-bad-image", args.on_bad_image, ("fail", "skip"))
    if args.known and args.unknown:
        raise errors.UserError("--known and --unknown leave nothing; give one of them.")
    for name, endings in (("json", (".json",)), ("html", (".html", ".htm"))):
        if getattr(args, name) not in (None, "-") or (name == "html" and args.html):
            arguments.new_file(f"--{name}", getattr(args, name), endings)
    arguments.one_of("--rate-per", args.rate_per, ("comparison", "search"))
    if args.action in ("build", "add", "query"):
        _check_source(args)
    if args.action == "calibrate" and bool(args.rate) == args.no_threshold:
        raise errors.UserError("expected --rate R, the false-match rate to promise, or --no-threshold; give one.")
    elif args.action == "serve":
        search_serve.check(args)
    args.who = args.who or _user()


def _check_url(place: str) -> None:
    from reid_jax.gallery import store

    if not store.is_url(place):
        raise errors.UserError(
            f"expected the URL of a PostgreSQL server, postgresql://USER@HOST/DATABASE, got {rules.plain(place)!r}."
        )


def _check_source(args: argparse.Namespace) -> None:
    if args.action == "query" and args.entry:
        if args.features or args.images or args.box:
            raise errors.UserError("expected one query: --entry, --features or --images; leave the others out.")
        return
    if args.features:
        arguments.existing_file("--features", args.features, "a features file (.npz)")
        if args.run or args.model or args.weights or args.random_weights:
            raise errors.UserError("--features has been extracted already; leave the model out.")
    elif args.images:
        model_choice.check(args)
        model_choice.find_weights(args)
        place = arguments.path("--images", args.images).expanduser()
        if not place.exists():
            raise errors.UserError(f"expected an image or a folder of images, there is no {rules.plain(args.images)}.")
        if args.box and not place.is_file():
            raise errors.UserError("--box cuts out of one image; give its file as --images.")
    else:
        other = ", or --entry N" if args.action == "query" else ""
        raise errors.UserError(f"expected images: --features FILE, or --images PATH with a model{other}; see --help.")
    if args.box and not args.images:
        raise errors.UserError("--box goes with --images and a model; leave it out.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = _parser()
    if "--list" in argv:
        print(model_choice.listing())
        return 0
    args = parser.parse_args(argv)
    _check(args, parser)
    actions = {
        "build": _build,
        "add": _add,
        "remove": _remove,
        "query": _query,
        "calibrate": _calibrate,
        "serve": search_serve.run,
    }
    actions.get(args.action, _keep)(args)
    return 0


# ---- images


def _described(
    args: argparse.Namespace, opened: gallery_lib.Gallery | None = None
) -> tuple[intake.Described, tuple[str, ...]]:
    """Returns the images that are added or asked with, and references for the audit log.

    Another model than that of the open gallery is refused before it has described anything.
    """
    from reid_jax.gallery import binding, intake
    from reid_jax.inference import sources

    side = args.side or ("query" if args.action == "query" else "gallery")
    if args.features:
        return intake.of_features(args.features, side, args.images), ()
    single = args.action == "query" and arguments.path("--images", args.images).expanduser().is_file()
    single = single and not args.images.lower().endswith(".csv")
    source = None
    if not single:
        source = sources.open_source(args.images, dataset=args.dataset, on_bad_image=args.on_bad_image)
    extractor, variables = model_choice.load(args)
    metric = None if opened is None else opened.binding.metric
    if opened is not None:
        found = binding.Binding.of_extractor(extractor, variables, metric)
        opened.binding.refuse_other(found, "the query" if args.action == "query" else "the new images")
    if source is None:
        return intake.of_image(extractor, variables, args.images, [_box(text) for text in args.box], metric)
    return intake.of_source(extractor, variables, source, side, metric), ()


def _box(text: str) -> list[float]:
    try:
        sides = [float(each) for each in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 4 or not all(math.isfinite(side) for side in sides):
        raise errors.UserError(f"expected --box LEFT,TOP,RIGHT,BOTTOM in pixels, got {rules.plain(text)!r}.")
    return sides


def _new_entries(args: argparse.Namespace, described: intake.Described) -> Any:
    """Returns the entries with the labels of the command line and of the table."""
    import dataclasses

    from reid_jax.gallery import entries, intake

    for note in described.notes:
        print(f"note: {note.rstrip('.')}.", file=sys.stderr)
    made = described.entries(with_thumbnails=args.thumbnails == "yes", prefix=args.prefix)
    changes: dict[str, Any] = {}
    for name, field in (("identity", "identities"), ("camera", "cameras"), ("track", "tracks")):
        given = getattr(args, name)
        if len(given) > 1:
            raise errors.UserError(f"--{name} labels all images alike; give it once, or a --table.")
        if given:
            changes[field] = given * len(made)
    if args.time:
        changes["times"] = [entries.parse_time(args.time, "--time")] * len(made)
    made = dataclasses.replace(made, **changes)
    if args.table:
        rows = intake.read_table(args.table)
        made = intake.labeled(made, {args.prefix + file: row for file, row in rows.items()})
    return made


# ---- actions


def _build(args: argparse.Namespace) -> None:
    from reid_jax.gallery import entries, gallery, store

    if not store.is_url(args.place):
        arguments.new_file("the gallery", args.place)
        if arguments.path("the gallery", args.place).expanduser().exists():
            raise errors.UserError(
                f"{rules.plain(args.place)} exists already; add to it (search.py add), or name another file."
            )
    keep = entries.parse_span(args.keep) if args.keep else gallery.KEEP
    keep_log = entries.parse_span(args.keep_log) if args.keep_log else gallery.KEEP_LOG
    described, _ = _described(args)
    made = _new_entries(args, described)
    with gallery.Gallery.create(
        args.place, described.binding, keep=keep, audited=not args.no_audit, keep_log=keep_log, log=args.audit
    ) as opened:
        try:
            added = opened.add(made, described.binding, who=args.who, why=args.why)
            if args.rate:
                print(opened.calibrate(args.rate, per=args.rate_per, who=args.who, why=args.why).text() + ".")
        except BaseException:
            opened.discard()  # rather than a part of it
            raise
        print(f"{len(added.ids):,} images, {search_text.kept(keep)}.")
        print(opened.name)  # of a URL without its password


def _add(args: argparse.Namespace) -> None:
    from reid_jax.gallery import entries

    keep: Any = entries.parse_span(args.keep) if args.keep else "default"
    with _open(args) as opened:
        described, _ = _described(args, opened)
        made = _new_entries(args, described)
        added = opened.add(
            made, described.binding, skip_existing=args.skip_existing, keep=keep, who=args.who, why=args.why
        )
        skipped = f", {len(added.skipped):,} were there already" if added.skipped else ""
        print(f"{len(added.ids):,} images added{skipped}; the gallery has {opened.snapshot().count:,}.")


def _open(args: argparse.Namespace) -> gallery_lib.Gallery:
    from reid_jax.gallery import gallery

    return gallery.Gallery.open(args.place, log=args.audit)


def _times(args: argparse.Namespace) -> dict[str, float | None]:
    from reid_jax.gallery import entries

    given = {"since": args.since, "until": args.until}
    return {name: entries.parse_time(text, f"--{name}") if text else None for name, text in given.items()}


def _remove(args: argparse.Namespace) -> None:
    from reid_jax.gallery import entries

    selection = entries.Selection(
        tuple(args.file), tuple(args.identity), tuple(args.track), **_times(args), ids=tuple(args.id)
    )
    with _open(args) as opened:
        count = opened.remove(selection, who=args.who, why=args.why)
        print(f"{count:,} {'entry' if count == 1 else 'entries'} removed; searches no longer find what was removed.")
        print("search.py compact erases what is left of it in the file.")


def _query(args: argparse.Namespace) -> None:
    from reid_jax.gallery import answer_page, entries

    chosen = entries.Filter(
        cameras=tuple(args.camera),
        other_than=tuple(args.other_camera),
        **_times(args),
        known=True if args.known else False if args.unknown else None,
        identities=tuple(args.identity),
        leave_out=tuple(args.entry),
    )
    with _open(args) as opened:
        opened.refuse_no_reason(args.who, args.why)
        opened.refuse_nothing(chosen)  # before the model is loaded
        described = None
        if args.entry:
            asked = opened.query_of(args.entry)
        else:
            described, references = _described(args, opened)
            asked = described.query(references, track=args.as_track)
        replies = opened.query(
            asked, k=args.top, chosen=chosen, group=args.per, rerank=args.rerank, who=args.who, why=args.why
        )
        if args.html:
            picture = answer_page.pictures_of(described, replies, opened, args.entry)
            facts = {"asked by": args.who, "because": args.why}
            answer_page.write(args.html, opened, replies, picture=picture, chosen=chosen, facts=facts)
    values = [reply.as_dict() for reply in replies]
    if args.json == "-":
        print(json.dumps(values, indent=2))
        return
    print(search_text.answers(replies))
    if args.json:
        _write_json(args.json, values, "the answers")
    for output in filter(None, (args.json, args.html)):
        print(output)


def _write_json(given: str, values: Any, what: str) -> None:
    place = arguments.path("--json", given)
    file_io.make_folder(place.parent, "the folder of --json")
    file_io.write_json(place, values, what)


def _calibrate(args: argparse.Namespace) -> None:
    from reid_jax.data import feature_set

    with _open(args) as opened:
        if args.no_threshold:
            opened.set_threshold(None, who=args.who, why=args.why)
            print("no threshold: every query has an answer.")
            return
        features, source = None, ""
        if args.features:
            path = arguments.existing_file("--features", args.features, "a features file (.npz)")
            features, source = feature_set.FeatureSet.load(path), f"in {file_io.shown(path.name)}"
        found = opened.calibrate(
            args.rate, per=args.rate_per, features=features, source=source, who=args.who, why=args.why
        )
        print(found.text() + ".")


def _keep(args: argparse.Namespace) -> None:
    """Does what concerns the gallery as a whole."""
    with _open(args) as opened:
        if args.action == "info":
            facts = opened.info()
            print(json.dumps(facts, indent=2) if args.json == "-" else search_text.info(facts))
            if args.json not in (None, "-"):
                _write_json(args.json, facts, "the facts")
        elif args.action == "expire":
            entries, lines = opened.expire(who=args.who, why=args.why)
            print(f"{entries:,} expired entries and {lines:,} lines of the log removed.")
        else:
            print(opened.compact(who=args.who, why=args.why).text() + ".")
