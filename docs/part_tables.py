"""What runs know of body parts, from files of `evaluate.py --parts`."""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import SPACE, grid, read

Values = Mapping[str, Sequence[float]]

RETRIEVAL = {
    "mAP/alike": "all slots alike",
    "mAP/global": "the global slot alone",
    "mAP/hard": "predicted visibility, 0 or 1",
    "mAP/soft": "predicted visibility, probability",
    "mAP/oracle": "true visibility",
    "mAP/pooled": "parts pooled under the masks, before HPR",
    "mAP/rebuilt": "the same after HPR",
    "hidden/mAP/pooled": "hidden parts of the queries alone, before HPR",
    "hidden/mAP/rebuilt": "the same after HPR",
}
AGAINST = {
    **{f"mAP/{name}": f"mAP/{name}-alike" for name in ("global", "hard", "soft", "oracle")},
    "mAP/rebuilt": "mAP/rebuilt-pooled",
    "hidden/mAP/rebuilt": "hidden/mAP/rebuilt-pooled",
}
COSINES = {
    "pooled": "before HPR, both pictures",
    "rebuilt": "after HPR, both pictures",
    "rebuilt_to_pooled": "after HPR, clean picture before it",
}


def parts(kind: str, *files: str) -> str:
    """A table of one kind (`KINDS`) from files `results/<file>` of `evaluate.py --parts`, one run each."""
    if kind not in KINDS:
        raise ValueError(f"expected one of the kinds {', '.join(KINDS)}, got {kind!r}.")
    documents = {file.removesuffix(".json"): read(file) for file in files}
    about = "; ".join(
        f"{name}: {each['dataset']}, {each['queries']} queries, {each['gallery']} gallery images, step {each['step']}, "
        f"commit {each['commit']}"
        for name, each in documents.items()
    )
    table = KINDS[kind]({name: each["values"] for name, each in documents.items()})
    return f"{table}\n<small>Intervals of 95 % over people. {about}.</small>\n"


def _parser(runs: Mapping[str, Values]) -> str:
    """Overlap of each part's tokens, beside the fixed map."""
    lines = []
    for run, values in runs.items():
        names = [name for name in values if name.startswith("gallery/iou/") and name.count("/") == 2]
        for name in names:
            both = [name, name.replace("gallery", "query", 1)]
            cells = [
                _score(values.get(f"{each}{end}"), 100, 1) for each in both for end in ("", "/prior", "/difference")
            ]
            lost = values.get(f"{name}/no_token", [math.nan])[0]
            lines.append([run, name.rpartition("/")[2].replace("_", " "), *cells, f"{100 * lost:.0f}"])
    sides = [f"{side}: {what}" for side in ("gallery", "queries") for what in ("IoU (%)", "fixed map", "difference")]
    return grid(["run", "part", *sides, "visible without a token (%)"], lines)


def _visibility(runs: Mapping[str, Values]) -> str:
    """AUC of the predicted visibility on queries."""
    keys = ("auc", "auc/parser", "auc/prior", "auc_within", "auc_within/parser", "auc_within/prior")
    kinds = ("", ", by the parser's area", ", by the part's frequency")
    titles = [
        "run",
        *(f"AUC {over}{kind}" for over in ("over all parts", "mean of parts") for kind in kinds),
        "hidden (%)",
    ]
    lines = []
    for run, values in runs.items():
        cells = [_score(values.get(f"query/visibility/{key}"), 1, 3) for key in keys]
        lines.append([run, *cells, _score(values.get("query/visibility/hidden"), 100, 1)])
    return grid(titles, lines)


def _visibility_of(runs: Mapping[str, Values]) -> str:
    """AUC of the predicted visibility on queries, part by part."""
    names = list(dict.fromkeys(name for values in runs.values() for name in values if "/visibility/auc_of/" in name))
    lines = [[run, *(_score(values.get(name), 1, 2) for name in names)] for run, values in runs.items()]
    return grid(["run", *(name.rpartition("/")[2].replace("_", " ") for name in names)], lines)


def _retrieval(runs: Mapping[str, Values]) -> str:
    """mAP by what the slots count by, and before and after HPR."""
    lines = []
    for run, values in runs.items():
        for name, title in RETRIEVAL.items():
            if name in values:
                difference = _score(values.get(AGAINST.get(name, "")), 100, 1, sign="+")
                lines.append([run, title, _score(values[name], 100, 1), difference])
    return grid(["run", "compared by", "mAP (%)", "against all alike, or before HPR"], lines)


def _reconstruction(runs: Mapping[str, Values]) -> str:
    """Cosines of hidden parts with the picture without its occluder."""
    lines = []
    for run, values in runs.items():
        for name, title in COSINES.items():
            key = f"hidden/cosine/{name}"
            if key in values:
                cells = [_score(values.get(f"{key}{end}"), 1, 3) for end in ("", "/others", "-pooled")]
                lines.append([run, title, *cells])
    titles = ["run", "features", "cosine, same person", "another person", "against before HPR"]
    return grid(titles, lines)


def _pixels(runs: Mapping[str, Values]) -> str:
    """PSNR of hidden pixels by region."""
    columns = ("drawn", "mean_fill", "camera_fill", "drawn-camera_fill")
    lines = [
        [run, region, *(_score(values.get(f"pixels/{region}/{column}"), 1, 2) for column in columns)]
        for run, values in runs.items()
        for region in ("all", "person", "background")
        if f"pixels/{region}/drawn" in values
    ]
    titles = ["run", "hidden pixels", "drawn (dB)", "mean color", "average of the camera", "drawn above it"]
    return grid(titles, lines)


def _fusion(runs: Mapping[str, Values]) -> str:
    """Shares of depths in the tokens that AMFF passes on."""
    lines = []
    for run, values in runs.items():
        layers = dict.fromkeys(name.split("/")[1] for name in values if name.startswith("fusion/"))
        for layer in layers:
            shares = [score[0] for name, score in values.items() if name.startswith(f"fusion/{layer}/")]
            lines.append([run, layer.replace("_", " "), ", ".join(f"{100 * share:.1f}" for share in shares)])
    return grid(["run", "module", "share of each depth, the own one last (%)"], lines)


KINDS: dict[str, Callable[[Mapping[str, Values]], str]] = {
    "parser": _parser,
    "visibility": _visibility,
    "visibility_of": _visibility_of,
    "retrieval": _retrieval,
    "reconstruction": _reconstruction,
    "pixels": _pixels,
    "fusion": _fusion,
}


def _score(score: Sequence[float] | None, factor: float, digits: int, sign: str = "") -> str:
    """A score and its interval as text, `-` where there is none."""
    if score is None or not math.isfinite(score[0]):
        return "-"
    value, low, high = (f"{factor * each:{sign}.{digits}f}" for each in score)
    return f"{value}{SPACE}[{low},{SPACE}{high}]"
