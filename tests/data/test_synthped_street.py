"""SynthPed's look "street": determinism, look-alikes of equal colors, pairs with and without occluder, builder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import catalog, prepare, synthped
from reid_jax.data.synthped import looks, parallel_drawing, people, street, street_people, street_wear

# Hash of pixels and parts of all images of `tiny`, seed 0, before JPEG; a change is a new version of the data set.
PIXELS = "ca4bd1228221e9a76deb02a3416208242cd7180cfd250cdf64fefae3f072aa0b"


@pytest.fixture(scope="module")
def tiny() -> synthped.SynthPed:
    return synthped.SynthPed("tiny", look="street")


@pytest.fixture(scope="module")
def hidden() -> synthped.SynthPed:
    return synthped.SynthPed("tiny", occluded=True, look="street")


def test_pixels_are_the_same_on_every_machine(tiny):
    digest = hashlib.sha256()
    for split in ("train", "query", "gallery"):
        for element in tiny.elements(split):
            for part in (element["filename"].encode(), element["image"], element["parts"]):
                digest.update(part if isinstance(part, bytes) else part.tobytes())
    assert digest.hexdigest() == PIXELS


def test_the_protocol_is_that_of_the_plain_look(tiny):
    plain = synthped.SynthPed("tiny")
    for split in ("train", "query", "gallery"):
        assert tiny.split(split) == plain.split(split)
        assert not np.array_equal(tiny.render(tiny.split(split)[0])[0], plain.render(plain.split(split)[0])[0])


def test_a_pair_differs_by_the_occluder_alone(hidden):
    for spec in hidden.split("query")[::4]:
        pair = hidden.render_pair(spec)
        np.testing.assert_array_equal(pair.image, hidden.render(spec)[0])
        np.testing.assert_array_equal(pair.clean_parts, hidden.render(dataclasses.replace(spec, occluder=""))[1])
        seen = pair.parts > 0
        np.testing.assert_array_equal(pair.parts[seen], pair.clean_parts[seen])
        assert seen.sum() < (pair.clean_parts > 0).sum()
        # Blur mixes some of the occluder into its surroundings.
        assert np.abs(pair.image[seen].astype(int) - pair.clean_image[seen]).mean() < 12
        present = np.isin(1 + np.arange(8), pair.clean_parts)
        np.testing.assert_array_equal(np.isnan(pair.visible), ~present)
        assert ((pair.visible[present] >= 0) & (pair.visible[present] <= 1)).all()
    bare = next(spec for spec in hidden.split("gallery") if not spec.occluder)
    pair = hidden.render_pair(bare)
    assert pair.image is pair.clean_image
    assert set(pair.visible[~np.isnan(pair.visible)]) <= {1.0}


def test_look_alikes_share_their_colors():
    plan = street.StreetLook().plan(0, "train", 300)
    sizes = np.bincount([family for family, _ in plan])
    assert set(sizes[:-1]) == {4, 5, 6, 7, 8, 9}
    several = [(family, member) for family, member in plan if sizes[family] > 1][:40]
    for family, member in several:
        one, other = (street_people.family_member(0, "train", family, number) for number in (0, member))
        assert one.top_cloth.color == other.top_cloth.color
        assert one.bottom_cloth.color == other.bottom_cloth.color
        assert member == 0 or one != other


def test_people_are_dressed_alike_at_a_site_and_differently_between_sites():
    look = street.StreetLook()
    data = synthped.SynthPed("large", look=look)
    changed = 0
    for number in range(40):
        person = street_people.family_member(0, "train", number, 1)
        shots = [looks.Shot(0, (number, camera, 0), [0.5] * 24, [0.5] * 8, "", 256, 128) for camera in (0, 1, 3)]
        here, beside, there = (look.worn(person, shot) for shot in shots)
        assert here == beside
        changed += here != there
        # Colors stay, but for what a jacket has hidden.
        assert there.bottom_cloth == person.bottom_cloth
        assert there.top_cloth in (person.top_cloth, person.inner_cloth)
        yaws = [look.view(data.look.camera(0, 0), shot).yaw for shot in shots[:2]]
        assert yaws[0] == pytest.approx(yaws[1])
    assert changed > 30


def test_nobody_changes_where_no_wear_is_asked_for():
    person = street_people.family_member(0, "train", 0, 1)
    assert street_wear.worn(person, np.random.default_rng(0), 0.0, 0.0) == person
    bare = dataclasses.replace(person, top="tshirt")
    assert street_wear.worn(bare, np.random.default_rng(0), 0.0, 1.0) == bare
    coated = dataclasses.replace(person, top="coat")
    assert street_wear.worn(coated, np.random.default_rng(0), 0.0, 1.0).top_cloth == person.inner_cloth


def test_images_of_an_older_version_are_not_read(tmp_path):
    report = prepare.prepare("synthped_street", tmp_path, size="tiny", height=64)
    assert report.path is not None
    assert report.path.name == catalog.least_version("synthped_street") == "1.1.1"
    assert json.loads((report.path / "dataset_info.json").read_text())["version"] == "1.1.1"
    older = report.path.with_name("1.0.0")
    report.path.rename(older)
    with pytest.raises(errors.UserError, match=r"not prepared: there is no .*1\.1\.1; run"):
        prepare.open_prepared("synthped_street", tmp_path, size="tiny", height=64)
    prepare.ensure("synthped_street", tmp_path, size="tiny", height=64)
    assert older.exists()
    assert report.path.exists()


def test_most_clothes_have_little_color():
    drawn = [street_people.draw_person(np.random.default_rng(number)) for number in range(200)]
    spread = [max(person.top_cloth.color) - min(person.top_cloth.color) for person in drawn]
    colorful = [
        max(person.top_cloth.color) - min(person.top_cloth.color)
        for person in (people.draw_person(np.random.default_rng(number)) for number in range(200))
    ]
    assert np.median(spread) < 0.7 * np.median(colorful)


def test_a_larger_image_shows_the_same():
    small = synthped.SynthPed("tiny", look="street")
    large = synthped.SynthPed("tiny", height=256, width=128, look="street")
    spec = small.split("train")[0]
    image, parts = large.render(spec)
    assert image.shape == (256, 128, 3)
    agreement = parts[::2, ::2] == small.render(spec)[1]
    assert agreement.mean() > 0.95


def test_builder_draws_at_another_height(tmp_path):
    report = prepare.prepare("synthped_street_occluded", tmp_path, size="tiny", height=64)
    assert report.path is not None
    assert report.path.parent.name == "synthped_street_occluded-tiny-seed0-height64"
    stored = report.dataset.splits()["query"]
    data = synthped.SynthPed("tiny", occluded=True, height=64, width=32, look="street")
    assert (stored.source[3]["image"], stored.source[3]["parts"]) == data.encode(data.split("query")[3])
    with pytest.raises(errors.UserError, match="height of SynthPed as one of 64, 128, 256, 384, got 100"):
        prepare.prepare("synthped_street", tmp_path / "other", size="tiny", height=100)


def test_several_processes_draw_the_same_in_order(tiny, monkeypatch):
    specs = tiny.split("query")[:5]
    monkeypatch.setattr(parallel_drawing, "_CHUNK", 2)
    assert list(parallel_drawing.encoded(tiny, specs, 1)) == list(parallel_drawing.encoded(tiny, specs, 2))
    assert parallel_drawing.processes_for(100) == 1
    monkeypatch.setattr(parallel_drawing.os, "sched_getaffinity", lambda process: set(range(6)))
    assert parallel_drawing.processes_for(12_000) == 6


def test_a_drawing_process_that_ends_is_one_sentence(tiny, monkeypatch):
    monkeypatch.setattr(parallel_drawing.sys, "executable", shutil.which("true"))
    with pytest.raises(errors.UserError, match="a process that draws SynthPed ended early"):
        list(parallel_drawing.encoded(tiny, tiny.split("query")[:5], 2))


def test_unknown_look():
    with pytest.raises(errors.UserError, match="did you mean 'street'"):
        synthped.SynthPed("tiny", look="sreet")
