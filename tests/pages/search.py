"""Uses the page of `search.py serve` in a real browser, as a person would; a script, and the walk of a test.

    python -m tests.pages.search --output pictures
    python -m tests.pages.search --output pictures --run runs/mfv-demo   # with a trained model

The people are drawn. Without a run, a model of NumPy answers. Pictures, wide, narrow and dark, are for the eye.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from reid_jax.app import image_engine, serving
from reid_jax.data.synthped import dataset
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import gallery, intake
from tests.app import drawn_gallery
from tests.pages import browser

CAMERAS = ("entrance", "hall", "platform 2", "car park")
_READY = "document.querySelectorAll('#about li').length > 3"


def walk(page: browser.Page, image: pathlib.Path, large: pathlib.Path, hostile: str, token: str) -> None:
    """Searches, explains, adds, removes and errs on the page of `drawn_gallery`, and checks what it shows.

    Args:
        page: opened at the page.
        image: a picture of the person with a hostile name.
        large: a file beyond the limit.
        hostile: that name.
        token: of the server.
    """
    for each in ("wrong", token):
        page.wait("document.getElementById('dialog').open")
        assert "This server needs a token" in page.text("#dialog")
        page.run(f"document.getElementById('field-token').value = {json.dumps(each)}")
        press(page, "#dialog", "Continue")
    page.wait(_READY)
    assert "No search yet" in page.text("#verdict")
    assert page.run("document.getElementById('go').disabled")
    choose(page, image)
    page.click("#go")
    page.wait("document.getElementById('summary').textContent.includes('expected a reason')")
    page.run("document.getElementById('why').value = 'test & <b>'")
    assert found(page)[0] == hostile
    assert "within the threshold" in page.text("#verdict")
    assert "A first place is no identification" in page.text("#verdict")
    # Names are text: no element, no script.
    assert page.run("document.querySelectorAll('[onerror]').length + Number(document.title === '1')") == 0
    page.run("document.getElementById('cameras').value = JSON.stringify(['camera', 'hall'])")
    assert page.run("document.getElementById('cameras').value") != ""
    found(page)
    cameras = "[...document.querySelectorAll('.hit dl dd:first-of-type')].map((each) => each.textContent)"
    assert set(page.run(cameras)) == {"hall"}
    page.run("document.getElementById('cameras').value = ''")
    found(page)
    press(page, ".hit", "explain")
    page.wait("document.querySelectorAll('.pair img').length === 4")
    press(page, "#dialog", "Close")
    press(page, ".hit", "search from this")
    page.wait("document.getElementById('using-text').textContent.startsWith('entry 1,')")
    page.wait("document.querySelectorAll('.hit').length === 10")
    drop_and_paste(page, hostile)
    _change(page, image, large)


def drop_and_paste(page: browser.Page, hostile: str) -> None:
    """Drops a file on the page, which no browser can show, and pastes another."""
    file = "const all = new DataTransfer(); all.items.add(new File(['x'], {}, {{type: 'image/{}'}}));"
    kind = "document.dispatchEvent(new {}Event('{}', {{{}: all, cancelable: true}}));"
    for name, event in (
        ("a <b>.tiff", kind.format("Drag", "drop", "dataTransfer")),
        (hostile, kind.format("Clipboard", "paste", "clipboardData")),
    ):
        page.run(f"(() => {{ {file.format(json.dumps(name), 'tiff')} {event} }})()")
        page.wait(f"document.getElementById('using-text').textContent === {json.dumps(name)}")
        page.wait("document.getElementById('preview').hidden")
    page.click("#go")
    page.wait("document.getElementById('summary').textContent.includes('the upload is not an image that can be read')")
    press(page, "#ask", "clear")
    assert page.run("document.getElementById('go').disabled")


def _change(page: browser.Page, image: pathlib.Path, large: pathlib.Path) -> None:
    """Adds and removes a picture, and offers one that is too large."""
    choose(page, image)
    page.click("#add")
    page.run("document.getElementById('field-identity').value = 'Cleo'")
    press(page, "#dialog", "Add")
    page.wait("document.getElementById('heading').textContent === 'Added'")
    assert "13 pictures" in page.text("#about")
    assert "Cleo" in found(page)[:2]  # a tie with the entry that it is a copy of
    press(page, ".hit", "remove…")
    assert "This cannot be undone" in page.text("#dialog")
    press(page, "#dialog", "Remove")
    page.wait("document.getElementById('heading').textContent === 'Removed'")
    assert "12 pictures" in page.text("#about")
    page.choose("#file", large)
    page.wait("document.getElementById('summary').textContent.includes('bytes at the upload, it is larger')")
    # The policy of the page stops what is not its own.
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.foreign = 1'}))"
    )
    assert page.run("window.foreign") is None
    assert page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    script = "performance.getEntriesByType('resource').every((each) => each.name.startsWith(location.origin))"
    assert page.run(script)


def choose(page: browser.Page, image: pathlib.Path) -> None:
    """Chooses a picture and waits until it is seen."""
    page.choose("#file", image)
    page.wait("!document.getElementById('preview').hidden && document.getElementById('preview').complete")


def found(page: browser.Page) -> list[str]:
    """Searches, and returns the names in the order of the answer."""
    page.run("document.getElementById('answer').replaceChildren()")
    page.click("#go")
    page.wait("document.querySelectorAll('.hit').length")
    names = "[...document.querySelectorAll('.hit h3')].map((each) => each.textContent)"
    return [str(name) for name in page.run(names)]


def press(page: browser.Page, place: str, text: str) -> None:
    """Presses the first button with a text."""
    script = f"[...document.querySelectorAll({json.dumps(place + ' button')})]"
    page.run(f"{script}.find((each) => each.textContent === {json.dumps(text)}).click()")


# ---- pictures for the eye


@contextlib.contextmanager
def _served(folder: pathlib.Path, run: str | None) -> Iterator[str]:
    """Serves a gallery of drawn people, and yields the address."""
    data = dataset.SynthPed("demo")
    specs = [spec for spec in data.split("gallery") if spec.pid >= 0][:360]
    engine: Any = drawn_gallery.Stripes()
    binding, images = drawn_gallery.BINDING, [data.render(spec)[0] for spec in specs]
    if run is None:
        described = drawn_gallery.described([spec.filename for spec in specs], images)
    else:
        from reid_jax.runs import trained  # the test needs nothing of it

        extractor, variables = trained.from_run(run)
        engine = image_engine.ModelEngine(extractor, variables)
        binding = binding_lib.Binding.of_extractor(extractor, variables)
        features = extractor.images(variables, images)
        nobody, names = (None,) * len(specs), tuple(spec.filename for spec in specs)
        described = intake.Described(
            names, features.features, features.visibility, nobody, nobody, binding, lambda row: images[row]
        )
    entries = dataclasses.replace(
        described.entries(),
        identities=[f"visitor {spec.pid}" if spec.pid % 4 else None for spec in specs],
        cameras=[CAMERAS[spec.camid] for spec in specs],
        times=[1.7957e9 + 60 * (spec.pid * 7 % 600) + 9000 * spec.camid for spec in specs],
        tracks=[f"{CAMERAS[spec.camid][0]}{spec.pid:02d}" if spec.pid else None for spec in specs],
        folder=None,
    )
    with gallery.Gallery.create(folder / "visitors.gallery", binding) as opened:
        opened.add(entries, binding, who="kim", why="pictures")
        opened.calibrate(0.01)
        with serving.running(opened, engine, serving.Settings(port=0, user="kim")) as (_, address):
            yield address


def pictures(page: browser.Page, queries: list[pathlib.Path], output: pathlib.Path) -> None:
    """Writes pictures of the page: found, explained, to be added, and nobody found."""

    def take(name: str) -> None:
        for wide, high, dark in ((1360, 1000, False), (1360, 1000, True), (400, 1400, False)):
            page.look(wide, high, dark=dark)
            time.sleep(0.3)
            page.picture(output / f"search-{name}-{wide}-{'dark' if dark else 'light'}.png")
        page.look(1360, 1000)

    page.wait(_READY)
    take("start")
    page.run("document.getElementById('why').value = 'lost child, asked for by the guardian'")
    for path in queries:
        choose(page, path)
        found(page)
        take(path.stem)
    press(page, ".hit", "explain")
    page.wait("document.querySelectorAll('.pair img').length === 4", 120)
    take("explained")
    press(page, "#dialog", "Close")
    for text, place in (("Add to the gallery…", "#ask"), ("remove…", ".hit")):
        press(page, place, text)
        take(text.split()[0].strip("…").lower())
        press(page, "#dialog", "Cancel")


def main(arguments: list[str]) -> int:
    """Walks through the page, writes pictures of it, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the pictures")
    parser.add_argument("--browser", default=browser.PROGRAM, help="a Chromium")
    parser.add_argument("--run", help="run folder of a model with images of 128 x 64")
    args = parser.parse_args(arguments)
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    data = dataset.SynthPed("demo")
    with tempfile.TemporaryDirectory() as folder, browser.Browser(args.browser) as opened:
        place = pathlib.Path(folder)
        queries = {"stranger": data.split("train")[0], "found": data.split("query")[4]}
        for name, spec in queries.items():
            (place / f"{name}.jpg").write_bytes(data.encode(spec)[0])
        with _served(place, args.run) as address:
            pictures(opened.open(address), [place / f"{name}.jpg" for name in queries], output)
    print(f"pictures for the eye in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
