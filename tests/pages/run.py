"""Opens the page of ranked lists, a report and a map of embeddings in a real browser; a script of its own.

    python -m tests.pages.run --output pictures --browser chromium

The people are drawn, their features random, names of files and people hostile. Searches are compared with what they
must find, no name may become an element or run, and pictures of the pages, wide and narrow, light and dark, are for
the eye.
"""

from __future__ import annotations

import argparse
import html.parser
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse

import numpy as np

from reid_jax import config as config_lib
from reid_jax.data import feature_set
from reid_jax.evaluation import report, suite
from reid_jax.explain import embedding_map
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import report_page

PEOPLE, CAMERAS = 60, 4
HOSTILE = '<img src=x onerror="document.title=1">"\'`\u202eabc'
SIZES = ((1440, 1200), (768, 1000), (500, 1400))  # the browser's own windows are at least 500 wide


def features() -> feature_set.FeatureSet:
    """Returns features of 60 people by four cameras; a name and a person are hostile, a query has no match."""
    generator = np.random.default_rng(0)
    ids = np.repeat(np.arange(1, PEOPLE + 1), CAMERAS)
    cams = np.tile(np.arange(CAMERAS), PEOPLE)
    centers = generator.standard_normal((PEOPLE + 2, 16))
    sides = {}
    for side, labels in (("query", ids), ("gallery", np.where(ids == 7, PEOPLE + 1, ids))):
        values = centers[labels] + 0.9 * generator.standard_normal((len(labels), 16))
        names = [f"{side}/{pid:04d}_c{cam + 1}s1_{row:06d}_00.jpg" for row, (pid, cam) in enumerate(zip(ids, cams))]
        sides[side] = values.astype(np.float32), labels, cams, names
    sides["query"][3][0] = HOSTILE + "_c1.jpg"
    columns = [sides[side][place] for place in range(4) for side in ("query", "gallery")]
    meta = {"dataset": "drawn <people>", "people": {"2": HOSTILE}, "model": {"name": "random"}}
    return feature_set.FeatureSet(*columns, meta=meta)


def picture(side: str, row: int) -> np.ndarray:
    """Returns a plain figure, of another shape for some rows."""
    pid = row // CAMERAS
    image = np.full(((128, 64), (64, 64), (300, 90))[pid % 3] + (3,), 200, np.uint8)
    high, wide = image.shape[:2]
    color = np.random.default_rng(pid).integers(0, 255, (2, 3))
    image[high // 5 : high // 2, wide // 4 : -wide // 4] = color[0]
    image[high // 2 : -high // 10, wide // 3 : -wide // 3] = color[1]
    return image


def browse(browser: str, url: str, *arguments: str) -> str:
    """Returns what a browser prints for a page."""
    with tempfile.TemporaryDirectory() as profile:
        fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        done = subprocess.run(
            [browser, *fixed, *arguments, url], capture_output=True, text=True, timeout=120, check=True
        )
    return done.stdout


class _Foreign(html.parser.HTMLParser):
    """Finds elements that only a name can have brought."""

    found = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= any(name.startswith("on") for name, _ in attrs) or dict(attrs).get("src") == "x"

    @classmethod
    def found_in(cls, text: str) -> bool:
        parser = cls()
        parser.feed(text)
        return parser.found


def check_searches(browser: str, page: pathlib.Path, ranked: suite.Report) -> list[str]:
    """Returns what is wrong with the searches and the safety of a page."""
    wrong = []
    missed = int((ranked.plain.first_hit != 0).sum())
    expected = {
        "": 4 * PEOPLE,
        "find=camera 3": PEOPLE,
        "find=12": CAMERAS,
        "find=camera 2 12": 1,
        "find=0003_c1": 1,
        "find=onerror": CAMERAS + 1,
        "find=nobody": 0,
        "missed=1": missed,
        "find=7&sort=row": CAMERAS,
    }
    for state, count in expected.items():
        dom = browse(browser, f"{page.as_uri()}#{urllib.parse.quote(state, safe='=&')}", "--dump-dom")
        shown = re.search(r'id="shown"[^>]*>([^<]*)<', dom)
        cards = dom.count('<article class="card"')
        if shown is None or shown[1] != f"{count} of {4 * PEOPLE} queries" or not min(count, 20) <= cards <= count:
            wrong.append(f"{state!r}: expected {count} queries, got {shown and shown[1]} and {cards} cards")
        if _Foreign.found_in(dom) or "<title>drawn &lt;people&gt;" not in dom:
            wrong.append(f"{state!r}: a name became an element or ran")
    return wrong


def check_map(browser: str, page: pathlib.Path) -> list[str]:
    """Returns what is wrong with the searches and the safety of a map of embeddings."""
    wrong, images = [], 2 * 4 * PEOPLE
    for state, count in {"": images, "find=12": 2 * CAMERAS, "find=onerror": 2 * CAMERAS + 1, "find=nobody": 0}.items():
        dom = browse(browser, f"{page.as_uri()}#{urllib.parse.quote(state, safe='=&')}", "--dump-dom")
        shown = re.search(r'id="shown"[^>]*>([^<]*)<', dom)
        faded = len(re.findall(r'class="point p\d faded"', dom))
        if shown is None or shown[1] != f"{count} of {images} images" or faded != images - count:
            wrong.append(f"map, {state!r}: expected {count} images, got {shown and shown[1]}, {faded} of them faded")
        if _Foreign.found_in(dom):
            wrong.append(f"map, {state!r}: a name became an element or ran")
    return wrong


def write_pages(output: pathlib.Path) -> tuple[list[pathlib.Path], suite.Report]:
    """Writes the pages and returns them and what the first one shows."""
    ranked = suite.run("drawn", features(), suite.Protocol(verification=True))
    page = report.write_page(
        output / "ranked_lists.html",
        ranked,
        picture,
        facts={"run": "<run>", "made": "today"},
        explain=lambda query, gallery: [picture("gallery", int(row)) for row in gallery],
        explained=3,
    )
    plane = embedding_map.write(output / "embedding_map.html", ranked.feature_set, picture, method="pca")
    folder = folder_lib.RunFolder(output / "run")
    folder.path.mkdir(exist_ok=True)
    folder.config.write_text(config_lib.to_json(config_lib.defaults()))
    lines = [{"step": step, "loss": 9 / step, "learning_rate": 1e-3, "<i>x": step} for step in range(1, 500)]
    lines += [{"step": step, "drawn/mAP": step / 600} for step in range(100, 500, 100)]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    written = report_page.write(folder, ranked.flat() | {"dataset": "drawn", "steps": 499})
    return [page, written, plane], ranked


def main(arguments: list[str]) -> int:
    """Checks the pages, writes pictures of them, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the pages and pictures")
    parser.add_argument("--browser", default="chromium", help="a Chromium")
    args = parser.parse_args(arguments)
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    pages, ranked = write_pages(output)
    wrong = check_searches(args.browser, pages[0], ranked) + check_map(args.browser, pages[-1])
    for path in pages:
        for wide, high in SIZES:
            for scheme in ("light", "dark"):
                # 0 is dark, 1 is light.
                setting = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
                target = output / f"{path.stem}-{wide}-{scheme}.png"
                browse(args.browser, path.as_uri(), f"--window-size={wide},{high}", setting, f"--screenshot={target}")
                if not target.is_file():
                    wrong.append(f"no picture {target.name}")
    print("\n".join(wrong) or f"nothing wrong; pictures for the eye in {output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
