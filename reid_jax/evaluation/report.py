"""The page of ranked lists: a self-contained HTML file that shows where a system succeeds and where it fails.

Images are embedded, so the file can be sent by mail or opened anywhere.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from reid_jax import file_io
from reid_jax.data.feature_set import JUNK_ID, UNKNOWN_CAMERA, FeatureSet
from reid_jax.evaluation import charts, distance_blocks
from reid_jax.evaluation.ranking import RankingResult

LoadImage = Callable[[str, int], np.ndarray]
DistanceRows = Callable[[np.ndarray], np.ndarray]

_THUMBNAIL = (96, 192)  # largest width and height in pixels
_QUALITY = 82
_TEMPLATE = pathlib.Path(__file__).with_name("ranked_lists.html")


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
            None computes them from the features.
    """
    slots = feature_set.query_features.ndim == 3
    if distance_rows is None:
        query, gallery = distance_blocks.prepare_both(feature_set, result.metric)
        matrix, scale = distance_blocks.pairwise(query.take(queries), gallery), query.scale
    else:
        matrix, scale = distance_rows(queries), 1.0
    junk = (feature_set.gallery_ids == JUNK_ID) & (result.num_gallery < feature_set.num_gallery)
    out = []
    for row, number in zip(matrix, queries, strict=True):
        same = feature_set.gallery_ids == feature_set.query_ids[number]
        camera = feature_set.query_cams[number]
        left_out = junk
        if result.same_camera_filter and camera != UNKNOWN_CAMERA:
            left_out = junk | (same & (feature_set.gallery_cams == camera))
        order = np.argsort(row, kind="stable")
        order = order[~left_out[order]]
        hits = order[same[order]]
        shown = order[:top]
        chosen = np.append(shown, hits[:1])
        values = row[chosen].astype(np.float64)
        if distance_rows is None:
            values = distance_blocks.readable(row[chosen], result.metric, slots, scale)
        first = (int(hits[0]), float(values[-1])) if len(hits) else (-1, float("nan"))
        out.append(RankedList(int(number), shown, values[: len(shown)], same[shown], *first))
    return out


def choose_queries(result: RankingResult, count: int) -> np.ndarray:
    """Returns query rows to show, lowest AP first: half of them the lowest, the others spread evenly up to the best."""
    valid = np.flatnonzero(~np.isnan(result.ap))
    order = valid[np.argsort(result.ap[valid], kind="stable")]
    if len(order) <= count:
        return order
    worst = count // 2
    spread = np.linspace(worst, len(order) - 1, count - worst).round().astype(int)
    chosen: np.ndarray = order[np.unique(np.concatenate([np.arange(worst), spread]))]
    return chosen


def write_ranked_lists(
    path: str | pathlib.Path,
    feature_set: FeatureSet,
    result: RankingResult,
    load_image: LoadImage,
    *,
    top: int = 10,
    max_queries: int = 100,
    title: str | None = None,
    distance_rows: DistanceRows | None = None,
) -> pathlib.Path:
    """Writes the page and returns its path.

    Args:
        path: the HTML file.
        feature_set: what was ranked.
        result: its scores.
        load_image: maps ("query" | "gallery", row) to uint8 [H, W, 3].
        top: images shown per query.
        max_queries: queries shown, see `choose_queries`.
        title: headline; the name of the data set by default.
        distance_rows: see `ranked_lists`.

    Returns:
        The path.
    """
    path = pathlib.Path(path)
    queries = choose_queries(result, max_queries)
    lists = ranked_lists(feature_set, result, queries, top=top, distance_rows=distance_rows)
    thumbnails: dict[tuple[str, int], str] = {}

    def picture(side: str, row: int) -> str:
        key = (side, row)
        if key not in thumbnails:
            thumbnails[key] = _data_uri(load_image(side, row))
        return thumbnails[key]

    cards = [_card(one, number, feature_set, result, picture) for number, one in enumerate(lists)]
    dataset = str(feature_set.meta.get("dataset") or "Ranked lists")
    page = _TEMPLATE.read_text(encoding="utf-8")
    for key, value in {
        "TITLE": html.escape(title or dataset),
        "TILES": _tiles(result),
        "PROTOCOL": _protocol(feature_set, result, len(lists)),
        "CMC": charts.cmc_curve(result.cmc),
        "HISTOGRAM": charts.ap_histogram(result.ap),
        "CARDS": "\n".join(cards),
    }.items():
        page = page.replace(f"<!--{key}-->", value)
    file_io.make_folder(path.parent, "the folder of the page")
    file_io.write_text(path, page, "the page of ranked lists")
    return path


def _data_uri(image: np.ndarray) -> str:
    picture = Image.fromarray(np.ascontiguousarray(image))
    # The browser enlarges small images; large ones are reduced here, with a good filter.
    picture.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _tiles(result: RankingResult) -> str:
    values = [("mAP", result.mAP), ("Rank-1", result.rank(1)), ("Rank-5", result.rank(5))]
    values += [("Rank-10", result.rank(10)), ("mINP", result.mINP)]
    return "".join(
        f'<div class="tile"><span class="value">{_percent(value)}<small>%</small></span><span>{name}</span></div>'
        for name, value in values
    )


def _protocol(feature_set: FeatureSet, result: RankingResult, shown: int) -> str:
    slots = feature_set.query_features.ndim == 3
    measure = {"euclidean": "Euclidean distance", "cosine": "cosine distance (1 &minus; cos)"}.get(
        result.metric, result.metric
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
    scored = result.num_query - result.num_query_without_match
    if shown < scored:
        notes.append(f"{shown} of {scored:,} scored queries are shown: the worst, and others spread up to the best")
    return "".join(f"<li>{note}</li>" for note in notes)


def _camera(number: int) -> str:
    return "camera unknown" if number == UNKNOWN_CAMERA else f"camera {number}"


def _number(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def _answer(
    feature_set: FeatureSet, row: int, distance: float, rank: int, correct: bool, uri: str, extra: str = ""
) -> str:
    mark, word = ("✓", "right") if correct else ("✗", "wrong")
    number, camera = int(feature_set.gallery_ids[row]), int(feature_set.gallery_cams[row])
    # In data sets that number people from 0, identity 0 is a person, and there are queries of it.
    distractor = number == 0 and not (feature_set.query_ids == 0).any()
    person = html.escape(feature_set.person(number))
    identity = "distractor" if distractor else "junk" if number == JUNK_ID else person or f"id {number}"
    name = html.escape(feature_set.gallery_names[row])
    return (
        f'<figure class="{word}{extra}" title="{name}&#10;{identity}, {_camera(camera)}">'
        f'<img src="{uri}" alt="rank {rank}, {word}, {identity}" loading="lazy">'
        f'<span class="rank">{rank}</span><span class="mark">{mark}</span>'
        f"<figcaption><b>{_number(distance)}</b><span>{identity}</span><span>{_camera(camera)}</span></figcaption>"
        "</figure>"
    )


def _card(
    one: RankedList, number: int, feature_set: FeatureSet, result: RankingResult, picture: Callable[[str, int], str]
) -> str:
    row = one.query
    name = html.escape(feature_set.query_names[row])
    identity = html.escape(feature_set.person(int(feature_set.query_ids[row]))) or str(int(feature_set.query_ids[row]))
    first = int(result.first_hit[row]) + 1
    answers = [
        _answer(feature_set, int(item), float(distance), rank, bool(correct), picture("gallery", int(item)))
        for rank, (item, distance, correct) in enumerate(zip(one.gallery, one.distances, one.correct, strict=True), 1)
    ]
    if first > len(one.gallery) and one.first_correct >= 0:
        uri = picture("gallery", one.first_correct)
        answers.append(_answer(feature_set, one.first_correct, one.first_distance, first, True, uri, " later"))
    ap = float(result.ap[row])
    relevant = int(result.num_relevant[row])
    return (
        f'<article class="card" data-number="{number}" data-row="{row}" data-ap="{ap:.6f}" data-first="{first}" '
        f'data-text="{identity.lower()} {name.lower()}"><div class="facts">'
        f'<figure class="query" title="{name}"><img src="{picture("query", row)}" alt="query, identity {identity}" '
        'loading="lazy"></figure><dl>'
        f"<dt>AP</dt><dd>{_percent(ap)} %</dd><dt>first hit</dt><dd>rank {first}</dd>"
        f"<dt>correct</dt><dd>{relevant} in gallery</dd>"
        f"<dt>identity</dt><dd>{identity}</dd><dt>camera</dt><dd>{_camera(int(feature_set.query_cams[row]))[7:]}</dd>"
        f'<dt>file</dt><dd class="name">{name}</dd></dl></div><div class="answers">{"".join(answers)}</div></article>'
    )
