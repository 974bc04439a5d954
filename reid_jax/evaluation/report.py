"""The page of ranked lists: a self-contained HTML file that shows where a system succeeds and where it fails.

All queries are data of a small script in the page (`ranked_lists.js`), which searches, sorts and draws them while the
reader scrolls. Every picture is embedded once, within the budget of `thumbnails`, so that the file can be sent by mail
or opened anywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io, progress
from reid_jax.data.feature_set import JUNK_ID, UNKNOWN_CAMERA, FeatureSet
from reid_jax.evaluation import charts, distance_blocks, suite, thumbnails, verification, web_pages
from reid_jax.evaluation.ranking import RankingResult
from reid_jax.evaluation.thumbnails import LoadImage

DistanceRows = Callable[[np.ndarray], np.ndarray]
# From a query row and gallery rows to a picture uint8 [H, W, 3] for each of them: why they are near.
Explain = Callable[[int, np.ndarray], Sequence[np.ndarray]]

_TEMPLATE = pathlib.Path(__file__).with_name("ranked_lists.html")
_BLOCK = 256  # queries whose distances are in memory at a time


@dataclasses.dataclass(frozen=True)
class RankedList:
    """The head of one query's ranking.

    Attributes:
        query: row of the query.
        gallery: [k] gallery rows, nearest first.
        distances: [k] as usually reported, see `distance_blocks.readable`.
        correct: [k] whether an image is a correct answer.
        first_correct: gallery row of the first correct image, -1 where there is none.
        first_distance: its distance.
    """

    query: int
    gallery: np.ndarray
    distances: np.ndarray
    correct: np.ndarray
    first_correct: int
    first_distance: float


def ranked_lists(
    feature_set: FeatureSet,
    result: RankingResult,
    queries: np.ndarray,
    *,
    top: int = 10,
    distance_rows: DistanceRows | None = None,
) -> list[RankedList]:
    """Returns the first `top` images for some queries under the protocol of `result`.

    Args:
        feature_set: what was ranked.
        result: its scores, with the metric and the handling of junk and cameras.
        queries: [n] query rows.
        top: images per query.
        distance_rows: maps query rows [n] to distances [n, gallery] (junk included), for instance re-ranked;
            None computes them from the features. Of a divided gallery its columns are those of this process's share,
            and all processes must call this.
    """
    rows_of, reported = (
        _from_features(feature_set, result.metric) if distance_rows is None else (distance_rows, _as_given)
    )
    lists = []
    for first in range(0, len(queries), _BLOCK):
        block = queries[first : first + _BLOCK]
        lists += _ranked(feature_set, result, block, rows_of(block), top, reported)
    return lists


def _as_given(distances: np.ndarray) -> np.ndarray:
    return distances.astype(np.float64)


def _from_features(feature_set: FeatureSet, metric: str) -> tuple[DistanceRows, DistanceRows]:
    """Returns the function that maps query rows to distances, and the one from these to what is reported."""
    query, gallery = distance_blocks.prepare_both(feature_set, metric)
    slots = feature_set.query_features.ndim == 3
    reported = functools.partial(distance_blocks.readable, metric=metric, slots=slots, scale=query.scale)
    return lambda rows: distance_blocks.pairwise(query.take(rows), gallery), reported


def _ranked(
    feature_set: FeatureSet,
    result: RankingResult,
    queries: np.ndarray,
    distances: np.ndarray,
    top: int,
    reported: Callable[[np.ndarray], np.ndarray],
) -> list[RankedList]:
    """Returns the ranked lists of some queries [n] from their distances [n, gallery], of a share its columns."""
    share = feature_set.gallery_share
    ids, cameras = feature_set.gallery_ids[share.places], feature_set.gallery_cams[share.places]
    junk = (ids == JUNK_ID) & (result.num_gallery < feature_set.num_gallery)
    # The nearest images here, and in the last column the first correct one.
    rows = np.full((len(queries), top + 1), -1)
    values = np.full((len(queries), top + 1), np.inf, distances.dtype)
    for number, (query, own) in enumerate(zip(queries, distances, strict=True)):
        same, left_out, camera = ids == feature_set.query_ids[query], junk, feature_set.query_cams[query]
        if result.same_camera_filter and camera != UNKNOWN_CAMERA:
            left_out = left_out | (same & (cameras == camera))
        shown = _nearest(own, np.flatnonzero(~left_out), top)
        rows[number, : len(shown)], values[number, : len(shown)] = share.places[shown], own[shown]
        hits = np.flatnonzero(same & ~left_out)
        if len(hits):
            first = hits[np.argmin(own[hits])]  # of equal ones the first in the gallery
            rows[number, -1], values[number, -1] = share.places[first], own[first]
    all_rows, all_values = (np.stack(share.exchange.gather(array), axis=1) for array in (rows, values))
    return [
        _merged(feature_set, int(query), all_rows[number], all_values[number], reported)
        for number, query in enumerate(queries)
    ]


def _merged(
    feature_set: FeatureSet,
    query: int,
    rows: np.ndarray,
    values: np.ndarray,
    reported: Callable[[np.ndarray], np.ndarray],
) -> RankedList:
    """Returns a query's ranked list from what each process found [processes, top + 1], see `_ranked`."""

    def ordered(columns: slice) -> tuple[np.ndarray, np.ndarray]:
        row, value = rows[:, columns].reshape(-1), values[:, columns].reshape(-1)
        order = np.lexsort((row, value, row < 0))[: rows.shape[1] - 1]
        order = order[row[order] >= 0]
        return row[order], value[order]

    shown, near = ordered(slice(None, -1))
    first, distance = (found[:1] for found in ordered(slice(-1, None)))
    same = feature_set.gallery_ids[shown] == feature_set.query_ids[query]
    nearest = float(reported(distance)[0]) if len(first) else float("nan")
    return RankedList(query, shown, reported(near), same, int(first[0]) if len(first) else -1, nearest)


def _nearest(distances: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` nearest of some gallery rows, nearest first, ties in gallery order."""
    values = distances[kept]
    if count < len(kept):
        inside = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
        kept, values = kept[inside], values[inside]
    nearest: np.ndarray = kept[np.argsort(values, kind="stable")[:count]]
    return nearest


def choose_queries(result: RankingResult, count: int) -> np.ndarray:
    """Returns query rows to show, lowest AP first; queries that are not scored stand at the end.

    Where there are more than `count`, half are those with the lowest AP, the others are spread evenly up to the best.
    """
    valid = np.flatnonzero(~np.isnan(result.ap))
    order = valid[np.argsort(result.ap[valid], kind="stable")]
    if len(result.ap) <= count:
        return np.concatenate([order, np.flatnonzero(np.isnan(result.ap))])
    if len(order) <= count:
        return order
    worst = count // 2
    spread = np.linspace(worst, len(order) - 1, count - worst).round().astype(int)
    chosen: np.ndarray = order[np.unique(np.concatenate([np.arange(worst), spread]))]
    return chosen


def about(feature_set: FeatureSet, run: str = "", step: int | None = None) -> dict[str, str]:
    """Returns run, model, weights and date for the headline of a page.

    Args:
        feature_set: its meta data say which model made it; other programs may leave them out.
        run: name of the run; by default that of the meta data.
        step: step of the checkpoint; by default that of the meta data.
    """
    meta = feature_set.meta
    model = meta.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    weights = meta.get("weights")
    origin: Mapping[str, Any] = weights if isinstance(weights, dict) else {"file": weights}
    at_step = origin.get("step") if step is None else step
    return {
        "run": str(run or origin.get("run") or ""),
        "step": "" if at_step is None else str(at_step),
        "model": str(name or meta.get("system") or ""),
        "weights": str(origin.get("file") or ""),
        "made": web_pages.today(),
    }


def write_ranked_lists(
    path: str | pathlib.Path,
    feature_set: FeatureSet,
    result: RankingResult,
    load_image: LoadImage,
    *,
    verified: verification.VerificationResult | None = None,
    top: int = 10,
    max_queries: int | None = None,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    distance_rows: DistanceRows | None = None,
    budget: int = thumbnails.BUDGET,
    explain: Explain | None = None,
    explained: int = 0,
    lists: Sequence[RankedList] | None = None,
) -> pathlib.Path:
    """Writes the page and returns its path.

    Args:
        path: the HTML file.
        feature_set: what was ranked.
        result: its scores.
        load_image: maps ("query" | "gallery", row) to uint8 [H, W, 3].
        verified: distances of all pairs and their threshold; None leaves that chart out.
        top: images shown per query.
        max_queries: queries on the page, see `choose_queries`; None shows all.
        title: headline; the name of the data set by default.
        facts: run, model and date below the headline; by default `about(feature_set)`.
        distance_rows: see `ranked_lists`.
        budget: bytes of all pictures; the lists beyond it, those with the highest AP, have names only.
        explain: draws why images are near a query; the page shows these pictures on demand.
        explained: number of lists that have such pictures, in the order of the page, within the budget.
        lists: the ranked lists where they are known; in place of `top`, `max_queries` and `distance_rows`.

    Raises:
        UserError: an image cannot be read, or the file cannot be written.
    """
    path = pathlib.Path(path)
    if lists is None:
        queries = choose_queries(result, result.num_query if max_queries is None else max_queries)
        lists = ranked_lists(feature_set, result, queries, top=top, distance_rows=distance_rows)
    data, pictures = _data(lists, feature_set, result, load_image, budget)
    if explain is not None:
        _add_explanations(data, lists[:explained], pictures, explain)
    name = title or str(feature_set.meta.get("dataset") or "Ranked lists")
    about_it = about(feature_set) if facts is None else facts
    page = web_pages.fill(
        _TEMPLATE,
        {
            "TITLE": web_pages.escaped(" · ".join(filter(None, (name, about_it.get("run"))))),
            "ABOUT": web_pages.facts(about_it),
            "TILES": web_pages.tiles(
                {"mAP": result.mAP, **{f"Rank-{rank}": result.rank(rank) for rank in (1, 5, 10)}, "mINP": result.mINP}
            ),
            "PROTOCOL": _protocol(feature_set, result, len(lists), pictures),
            "CMC": charts.cmc_curve(result.cmc),
            "HISTOGRAM": charts.ap_histogram(result.ap),
            "DISTANCES": "" if verified is None else _distances(verified),
            "DATA": web_pages.data_block(data),
        },
        script=_TEMPLATE.with_suffix(".js"),
    )
    file_io.make_folder(path.parent, "the folder of the page")
    file_io.write_text(path, page, "the page of ranked lists")
    return path


def write_page(path: str | pathlib.Path, measured: suite.Report, load_image: LoadImage, **options: Any) -> pathlib.Path:
    """Writes the page of an evaluation report, see `write_ranked_lists`; the distances of pairs are always shown.

    Args:
        path: the HTML file.
        measured: its plain ranking is shown.
        load_image: maps ("query" | "gallery", row) to uint8 [H, W, 3].
        **options: further arguments of `write_ranked_lists`; those of `page_parts` among them save computing them.
    """
    if "verified" not in options:
        options["verified"] = verified_pairs(measured)
    return write_ranked_lists(path, measured.feature_set, measured.plain, load_image, **options)


def page_parts(measured: suite.Report, max_queries: int) -> dict[str, Any]:
    """Returns what the page of a report shows, `lists` and `verified` of `write_page`, before one process writes it.

    All processes that hold a part of the gallery must call this.
    """
    result = measured.plain
    lists = ranked_lists(measured.feature_set, result, choose_queries(result, max_queries))
    return {"lists": lists, "verified": verified_pairs(measured)}


def verified_pairs(measured: suite.Report) -> verification.VerificationResult | None:
    """Returns the distances of all pairs, None for a set with pairs of one kind, which has no threshold."""
    ranked = measured.plain
    if measured.verified is None:
        with contextlib.suppress(errors.UserError):
            return verification.verify(
                measured.feature_set, metric=ranked.metric, same_camera_filter=ranked.same_camera_filter
            )
    return measured.verified


def _distances(verified: verification.VerificationResult) -> str:
    chart = charts.distance_histogram(verified.histogram, verified.eer, verified.eer_threshold)
    return (
        f'<section class="panel"><h2>Distances of all compared pairs</h2>{chart}<ul class="legend">'
        f'<li class="same"><span class="key"></span><span>same person ({verified.num_same:,})</span></li>'
        f'<li class="different"><span class="key dashed"></span><span>two persons ({verified.num_different:,})</span>'
        "</li></ul></section>"
    )


def _protocol(feature_set: FeatureSet, result: RankingResult, shown: int, pictures: thumbnails.Thumbnails) -> str:
    slots = feature_set.query_features.ndim == 3
    measure = {"euclidean": "Euclidean distance", "cosine": "cosine distance (1 &minus; cos)"}.get(
        result.metric, web_pages.escaped(result.metric)
    )
    if slots:
        measure += f", mean over {feature_set.query_features.shape[1]} slots"
        measure += " seen in both images" if feature_set.query_visibility is not None else ""
    notes = [
        f"{result.num_query:,} queries, {result.num_gallery:,} gallery images",
        f"AP rule: <b>{result.ap_rule}</b>",
        f"ranked by {measure}",
        "images of the query&rsquo;s identity and camera are left out"
        if result.same_camera_filter
        else "images of the query&rsquo;s own camera are ranked too",
    ]
    junk = feature_set.num_gallery - result.num_gallery
    if junk:
        notes.append(f"{junk:,} junk images (identity &minus;1) are left out")
    if result.num_query_without_match:
        notes.append(f"{result.num_query_without_match:,} queries without a correct gallery image are not scored")
    if shown < result.num_query:
        notes.append(
            f"<b>{shown:,} of {result.num_query:,} queries are on this page</b>: the worst, and others spread up to "
            "the best"
        )
    if pictures.full:
        notes.append("the pictures of the lists with the highest AP are left out, to bound the size of this file")
    return "".join(f"<li>{note}</li>" for note in notes)


def _number(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def _data(
    lists: Sequence[RankedList],
    feature_set: FeatureSet,
    result: RankingResult,
    load_image: LoadImage,
    budget: int,
) -> tuple[dict[str, Any], thumbnails.Thumbnails]:
    """Returns queries, gallery images and pictures for `ranked_lists.js`, and the pictures."""
    late = {one.query for one in lists if one.first_correct >= 0 and one.first_correct not in one.gallery}
    rows = dict.fromkeys(
        int(row) for one in lists for row in (*one.gallery, *([one.first_correct] * (one.query in late)))
    )
    places = {row: place for place, row in enumerate(rows)}
    cameras = {number: web_pages.plain(label) for number, label in feature_set.camera_labels().items()}
    total = len(lists) + len(rows)
    queries = []
    with progress.bar("page of ranked lists", total, "pictures") as advance:
        pictures = thumbnails.Thumbnails(load_image, total, budget=budget, progress=lambda: advance(1))
        for one in lists:
            queries.append(_query(one, feature_set, result, cameras, places, one.query in late))
            # In the order of the page, so that it is the last lists whose pictures are left out.
            queries[-1]["picture"] = pictures.number("query", one.query)
            for row in (*one.gallery, *([one.first_correct] * (one.query in late))):
                pictures.number("gallery", int(row))
    gallery = [
        {
            "name": web_pages.plain(feature_set.gallery_names[row]),
            "person": _gallery_person(feature_set, row),
            "camera": cameras[int(feature_set.gallery_cams[row])],
            "picture": pictures.number("gallery", row),
        }
        for row in rows
    ]
    return {"queries": queries, "gallery": gallery, "pictures": pictures.texts}, pictures


def _add_explanations(
    data: dict[str, Any], lists: Sequence[RankedList], pictures: thumbnails.Thumbnails, explain: Explain
) -> None:
    """Adds to the first lists the number of the picture that explains each answer; the last ones lose theirs first."""
    with progress.bar("explanations", len(lists), "queries") as advance:
        for entry, one in zip(data["queries"], lists):
            if pictures.full:
                break
            entry["why"] = [pictures.add(picture) for picture in explain(one.query, one.gallery)]
            advance(1)


def _query(
    one: RankedList,
    feature_set: FeatureSet,
    result: RankingResult,
    cameras: Mapping[int, str],
    places: Mapping[int, int],
    late: bool,
) -> dict[str, Any]:
    row, identity = one.query, int(feature_set.query_ids[one.query])
    ap = float(result.ap[row])
    later = [places[one.first_correct], _number(one.first_distance)] if late else None
    return {
        "row": row,
        "name": web_pages.plain(feature_set.query_names[row]),
        "identity": web_pages.plain(feature_set.person(identity) or identity),
        "camera": cameras[int(feature_set.query_cams[row])],
        "ap": None if np.isnan(ap) else round(ap, 6),
        "first": int(result.first_hit[row]) + 1,
        "correct": int(result.num_relevant[row]),
        "gallery": [places[int(item)] for item in one.gallery],
        "distances": [_number(float(value)) for value in one.distances],
        "right": "".join("1" if right else "0" for right in one.correct),
        "later": later,
    }


def _gallery_person(feature_set: FeatureSet, row: int) -> str:
    number = int(feature_set.gallery_ids[row])
    # In data sets that number people from 0, identity 0 is a person, and there are queries of it.
    if number == 0 and not (feature_set.query_ids == 0).any():
        return "distractor"
    return "junk" if number == JUNK_ID else web_pages.plain(feature_set.person(number) or f"id {number}")
