"""Contact sheets: layout, tinted parts, and data sets without masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import image_grid, records, synthped


@pytest.fixture(scope="module")
def split() -> records.Split:
    return image_grid.as_split("synthped/train", synthped.SynthPed("tiny").elements("train"))


def test_sheet_has_a_row_per_identity_and_columns_per_camera(split):
    sheet = image_grid.draw(split, identities=3, images_per_camera=2, height=128)
    cell_height, cell_width = 128 + 2 * image_grid.MARGIN, 64 + 2 * image_grid.MARGIN
    assert sheet.shape == (2 * image_grid.LABEL + 3 * (cell_height + image_grid.LABEL), 3 * 2 * cell_width, 3)
    first = int(np.flatnonzero((split.pids == np.unique(split.pids)[0]) & (split.camids == 0))[0])
    top, left = 3 * image_grid.LABEL + image_grid.MARGIN, image_grid.MARGIN
    np.testing.assert_array_equal(sheet[top : top + 128, left : left + 64], split.source[first]["image"])


def written(monkeypatch, split, **options) -> list[tuple[str, int]]:
    """The texts of a sheet with the column in pixels at which each begins."""
    texts: list[tuple[str, int]] = []
    monkeypatch.setattr(image_grid, "_write", lambda sheet, text, x, y: texts.append((text, x)))
    sheet = image_grid.draw(split, **options)
    assert all(x + image_grid._width(text) <= sheet.shape[1] for text, x in texts), "a text is cut off"
    return texts


@pytest.mark.parametrize(("height", "header"), [(192, "camera 3"), (64, "cam 3"), (20, "3")])
def test_headers_fit_over_their_columns(split, monkeypatch, height, header):
    texts = written(monkeypatch, split, identities=1, images_per_camera=1, height=height)
    (title, _), *headers, _ = texts
    assert title == "synthped/train: 1 of 8 identities"
    assert header in dict(headers), "cameras are counted as in the names of the images"
    for (text, x), (_, following) in itertools.pairwise(headers):
        assert x + image_grid._width(text) < following


def test_people_go_by_their_own_names_and_junk_by_its_name(split, monkeypatch):
    pids = np.array([-1, 0, 7])
    people = {0: "anna", 7: "José"}
    source = [split.source[row] for row in range(3)]
    named = records.Split("own/query", source, pids, np.full(3, -1), split.filenames[:3], people=people)
    texts = dict(written(monkeypatch, named, height=64))
    assert {"junk", "identity 0: anna", "identity 7: Jos?", "camera ?"} <= set(texts)


def test_parts_are_tinted_and_background_is_not(split):
    element = split.source[0]
    tinted = image_grid.overlay_parts(element["image"], element["parts"])
    background = element["parts"] == 0
    np.testing.assert_array_equal(tinted[background], element["image"][background])
    assert (tinted[~background] != element["image"][~background]).any(-1).mean() > 0.9
    assert image_grid.draw(split, identities=1, parts=True).size


def test_what_cannot_be_shown_is_told(split):
    with pytest.raises(errors.UserError, match="skipping 50 leaves none"):
        image_grid.draw(split, first=50)
    bare = [{key: value for key, value in split.source[0].items() if key != "parts"}]
    one = records.Split("other/train", bare, split.pids[:1], split.camids[:1], split.filenames[:1])
    with pytest.raises(errors.UserError, match="other/train has no part masks"):
        image_grid.draw(one, parts=True)
