"""The report of a run as a page: curves, scores, config, what it started from and ran on, from its folder alone."""

from __future__ import annotations

import contextlib
import html
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.evaluation import charts, web_pages
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import score_table
from reid_jax.train import checkpoints, metrics

_TEMPLATE = pathlib.Path(__file__).with_name("report_page.html")
_POINTS = 300  # of a curve; more lines are averaged in groups
_CURVES = 16  # of a chart
_CHARTS = 16
_KEYS = 1000  # of the config
_SCORES = 200

# Chart: the metrics in it, by their first part ("loss/tri": loss) or whole name, in the order of the page.
_GROUPS = {
    "Loss": ("loss",),
    "Scores during training (%)": ("mAP", "rank1"),
    "Share of correct identities in the batch (%)": ("monitor",),
    "Learning rate": ("learning_rate",),
    "Norms of gradient and update": ("gradient_norm", "update_norm"),
    "Images per second": ("images_per_second",),
    "Time spent waiting for data (%)": ("data_wait_percent",),
}
_SHARES = ("Scores during training (%)", "Share of correct identities in the batch (%)")
_NOT_DRAWN = ("step", "time", "epoch")

# Facts in `result.json`, in the order of the page.
_FACTS = {
    "started_from": "started from",
    "steps": "steps",
    "train_seconds": "seconds of training",
    "images_per_second": "images per second in training",
    "extract_images_per_second": "images per second in evaluation",
    "parameters": "parameters",
    "device": "device",
    "commit": "commit of the code",
    "seed": "seed",
    "train_corruption": "corruptions in training",
    "num_query": "queries",
    "num_gallery": "gallery images",
    "num_query_without_match": "queries without a correct image",
    "ap_rule": "AP rule",
    "metric": "distance",
    "config_hash": "hash of the config",
    "index_hash": "hash of the lists of images",
    "content_hash": "hash of the images",
}

Curves = dict[str, tuple[list[float], list[float]]]


def write(
    folder: folder_lib.RunFolder, result: Mapping[str, Any] | None = None, *, complete: bool = True
) -> pathlib.Path:
    """Writes `report.html` to a run folder and returns its path.

    Args:
        folder: a run folder with its config; metrics, checkpoints and result may be missing.
        result: scores and facts; by default those of `result.json`.
        complete: whether training is complete, for a given `result`.

    Raises:
        UserError: the folder is not a run folder, one of its files is damaged, or the page cannot be written.
    """
    config = folder.read_config()
    if result is None:
        result = folder.read_result()
        complete = result is not None
    # Values that another program has written may be of any type and size.
    with file_io.reading(folder.path, "the files of a run", "restore them from a copy"):
        page = _page(folder, config, result, complete)
    file_io.write_text(folder.report, page, "the report of the run")
    return folder.report


def _page(folder: folder_lib.RunFolder, config: Any, result: Mapping[str, Any] | None, complete: bool) -> str:
    known: Mapping[str, Any] = _from_checkpoint(folder) if result is None else result
    lines = metrics.read(folder.path)
    settings = config_lib.flatten(config)
    return web_pages.fill(
        _TEMPLATE,
        {
            "TITLE": web_pages.escaped(folder.path.resolve().name),
            "ABOUT": web_pages.facts(
                {
                    "config": ":".join(filter(None, (settings.get("system"), _preset(config)))),
                    "data": settings.get("data.name"),
                    "seed": str(settings.get("seed", "")),
                    "made": web_pages.today(),
                }
            ),
            "STATUS": "" if complete else _status(known, lines),
            "SCORES": "" if result is None else _scores(result, folder.ranked_lists.is_file()),
            "CURVES": _charts(lines),
            "NOTE": _note(lines),
            "FACTS": _facts(known, lines),
            "KEYS": str(len(settings)),
            "CONFIG": _pairs(list(settings.items())[:_KEYS]),
        },
    )


def _preset(config: Any) -> str:
    return ",".join([str(config.get("preset", "")), *map(str, config.get("variants", ()))])


def _from_checkpoint(folder: folder_lib.RunFolder) -> dict[str, Any]:
    """Returns the facts that the newest checkpoint of an unfinished run knows; none without a readable one."""
    with contextlib.suppress(errors.UserError):
        meta = checkpoints.newest_meta(folder.checkpoints)
        return {"steps": meta.get("step"), **{key: meta[key] for key in _FACTS if key in meta and key != "steps"}}
    return {}


def _status(known: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    steps = known.get("steps") or max((line["step"] for line in lines), default=0)
    text = f"Training is not complete: {steps} steps so far. The command that started the run continues it."
    return f'<section class="panel alert">{web_pages.escaped(text)}</section>'


# ---- scores and facts


def _percent(score: Any) -> str:
    number = isinstance(score, (int, float)) and math.isfinite(score)
    return f"{100 * score:.2f}" if number else "-"


def _scores(result: Mapping[str, Any], ranked_lists: bool) -> str:
    """Returns the main scores as tiles and all rows as a table."""
    table = score_table.rows(result)
    main = dict(zip(("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP"), _row(table, "trained"), strict=True))
    tiles = web_pages.tiles({name: score for name, score in main.items() if isinstance(score, (int, float))})
    titles = ("%", *main)
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(_line(name, scores) for name, scores in table[:_SCORES])
    caption = f"Final scores on {result['dataset']}, {result.get('ap_rule', 'step')} AP"
    link = '<p class="note"><a href="ranked_lists.html">Ranked lists of all queries</a></p>' if ranked_lists else ""
    return (
        f'<section class="panel"><dl class="tiles">{tiles}</dl>{link}'
        '<div class="scroll" tabindex="0" role="region" aria-label="Final scores"><table>'
        f"<caption>{web_pages.escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        "</section>"
    )


def _line(name: str, scores: Sequence[Any]) -> str:
    cells = "".join(f"<td>{_percent(score)}</td>" for score in scores)
    return f'<tr><th scope="row">{web_pages.escaped(name)}</th>{cells}</tr>'


def _row(table: Sequence[tuple[str, list[Any]]], name: str) -> list[Any]:
    return next(scores for title, scores in table if title == name)


def _note(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns why a curve that a reader may look for is missing."""
    text = ""
    if not lines:
        text = "No metrics have been written yet."
    elif not any(_kind(name) == "mAP" for line in lines for name in line):
        text = "No mAP was measured during training; evals.every_epochs=5, for instance, does that."
    return f'<p class="note">{text}</p>' if text else ""


def _facts(known: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    times = [float(line["time"]) for line in lines if isinstance(line.get("time"), (int, float))]
    facts = [("first and last metrics", " to ".join(map(web_pages.moment, (min(times), max(times)))))] if times else []
    facts += [(title, known[key]) for key, title in _FACTS.items() if known.get(key) not in (None, "")]
    return _pairs([(title, f"{value:,}" if isinstance(value, int) else value) for title, value in facts])


def _pairs(values: Sequence[tuple[str, Any]]) -> str:
    return "".join(
        f"<tr><td>{web_pages.escaped(key)}</td><td>{web_pages.escaped(value)}</td></tr>" for key, value in values
    )


# ---- curves


def _charts(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns a chart for each group of metrics, others after those of `_GROUPS`."""
    groups: dict[str, Curves] = {title: {} for title in _GROUPS}
    for name, curve in _curves(lines).items():
        title = next((title for title, names in _GROUPS.items() if _kind(name) in names), name.partition("/")[0])
        groups.setdefault(title, {})[name] = curve
    drawn = [_chart(title, curves) for title, curves in groups.items() if curves]
    return "".join(drawn[:_CHARTS])


def _kind(name: str) -> str:
    """Returns what a metric is: "loss" of "loss/tri", but "mAP" of "market1501/mAP"."""
    first, _, last = name.partition("/")
    return last if last in ("mAP", "rank1") else first


def _curves(lines: Sequence[Mapping[str, Any]]) -> Curves:
    """Returns steps and values of every metric that is a number, in the order of their first lines."""
    found: Curves = {}
    for line in lines:
        for name, value in line.items():
            if name in _NOT_DRAWN or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    return found


def _chart(title: str, curves: Curves) -> str:
    scale = 100 if title in _SHARES else 1
    shown: Curves = {}
    for name, (steps, values) in list(curves.items())[:_CURVES]:
        short = web_pages.plain(name)[:60]
        shown[short] = _thinned(steps, [scale * value for value in values])
    chart = charts.curves(shown, web_pages.plain(title), "step")
    left_out = len(curves) - len(shown)
    note = f'<p class="note">{left_out} more are in metrics.jsonl.</p>' if left_out > 0 else ""
    return f'<section class="panel"><h2>{html.escape(web_pages.plain(title))}</h2>{chart}{note}</section>'


def _thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns at most about `_POINTS` points: means of equal groups of lines, and the last line itself."""
    if len(steps) <= _POINTS:
        return list(steps), list(values)
    means = [[float(group.mean()) for group in np.array_split(np.asarray(side), _POINTS)] for side in (steps, values)]
    return [*means[0], steps[-1]], [*means[1], values[-1]]
