"""SynthPed: protocol, determinism, part masks, occluders, look-alikes, builder."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import image_io, prepare, synthped
from reid_jax.data.synthped import canvas, figure, occluders, people, pose, randomness

# Hash of the pixels of all images of `tiny`, seed 0, before JPEG; a change is a new version of the data set.
PIXELS = {
    False: "aed60f4ec51935a30a3d00d6064ef77d66cbea61cbf0a674e4d0bf664d12770d",
    True: "9740c6522129b81683c95d5d523fa0a56288b321469febf9bf4825c0f79bf04d",
}
NAME = re.compile(r"^(-1|\d{4})_c(\d)s1_\d{6}_00\.jpg$")


@pytest.fixture(scope="module")
def tiny() -> synthped.SynthPed:
    return synthped.SynthPed("tiny", seed=0)


@pytest.fixture(scope="module")
def hidden() -> synthped.SynthPed:
    return synthped.SynthPed("tiny", seed=0, occluded=True)


@pytest.mark.parametrize("occluded", [False, True])
def test_pixels_are_the_same_on_every_machine(occluded, tiny, hidden):
    data = hidden if occluded else tiny
    digest = hashlib.sha256()
    for split in ("train", "query", "gallery"):
        for element in data.elements(split):
            digest.update(element["filename"].encode())
            digest.update(element["image"].tobytes())
            digest.update(element["parts"].tobytes())
    assert digest.hexdigest() == PIXELS[occluded]


def test_an_image_does_not_depend_on_those_drawn_before(tiny):
    spec = tiny.split("gallery")[20]
    again = synthped.SynthPed("tiny", seed=0).render(spec)
    for one, other in zip(tiny.render(spec), again):
        np.testing.assert_array_equal(one, other)


def test_seeds_differ(tiny):
    other = synthped.SynthPed("tiny", seed=1)
    assert tiny.split("train")[0].filename != other.split("train")[0].filename or not np.array_equal(
        tiny.render(tiny.split("train")[0])[0], other.render(other.split("train")[0])[0]
    )
    assert not np.array_equal(tiny._pids, other._pids)


# "huge" has larger counts of the same kinds.
@pytest.mark.parametrize("size", ["demo", "large", "tiny"])
@pytest.mark.parametrize("occluded", [False, True])
def test_protocol(size, occluded):
    data, plan = synthped.SynthPed(size, occluded=occluded), synthped.SIZES[size]
    train, query, gallery = (data.split(split) for split in ("train", "query", "gallery"))
    per_camera = plan.cameras_per_identity
    assert len(train) == plan.train_identities * per_camera * plan.train_images
    assert len(query) == plan.test_identities * per_camera
    assert len(gallery) == (
        plan.test_identities * per_camera * plan.gallery_images + plan.distractors * per_camera + plan.junk
    )
    train_pids, query_pids = {spec.pid for spec in train}, {spec.pid for spec in query}
    assert not train_pids & query_pids
    assert train_pids | query_pids == set(range(1, plan.train_identities + plan.test_identities + 1))
    assert {spec.pid for spec in gallery} == query_pids | {synthped.JUNK, synthped.DISTRACTOR}
    # One query per identity and camera, each with a match in another camera.
    assert len({(spec.pid, spec.camid) for spec in query}) == len(query)
    cameras = {pid: {spec.camid for spec in gallery if spec.pid == pid} for pid in list(query_pids)[:20]}
    assert all(len(seen) > 1 for seen in cameras.values())
    for split in (train, query, gallery):
        names = [spec.filename for spec in split]
        assert names == sorted(set(names))
        for spec in split:
            match = NAME.match(spec.filename)
            assert match
            assert (int(match[1]), int(match[2]) - 1) == (spec.pid, spec.camid)
    assert {spec.camid for spec in train} == set(range(plan.cameras))
    assert not {spec.filename for spec in query} & {spec.filename for spec in gallery}


def test_variants_share_everything_but_occluders(tiny, hidden):
    for split in ("train", "query", "gallery"):
        plain = [dataclasses.replace(spec, occluder="") for spec in hidden.split(split)]
        assert plain == tiny.split(split)


def test_occluder_shares_and_kinds():
    data = synthped.SynthPed("demo", occluded=True)
    train, query, gallery = (data.split(split) for split in ("train", "query", "gallery"))
    assert all(spec.occluder in occluders.TEST_KINDS for spec in query)
    assert {spec.occluder for spec in query} == set(occluders.TEST_KINDS)
    assert {spec.occluder for spec in train} == {"", *occluders.TRAIN_KINDS}
    assert not set(occluders.TRAIN_KINDS) & set(occluders.TEST_KINDS)
    for split in (train, gallery):
        assert 0.06 < np.mean([bool(spec.occluder) for spec in split]) < 0.14


@pytest.mark.parametrize("kind", [*occluders.TRAIN_KINDS, *occluders.TEST_KINDS])
def test_occluders_hide_a_quarter_to_three_fifths(kind, hidden):
    for spec in hidden.split("query")[::3]:
        _, whole = hidden.render(dataclasses.replace(spec, occluder=""))
        image, parts = hidden.render(dataclasses.replace(spec, occluder=kind))
        share = 1 - (parts > 0).sum() / (whole > 0).sum()
        assert 0.24 < share < 0.61
        # Parts only disappear; no label changes.
        assert not ((parts > 0) & (parts != whole)).any()
        assert image.dtype == np.uint8


def test_elements_are_complete(tiny):
    for element in (tiny.elements("gallery")[0], tiny.elements("train")[-1]):
        assert element["image"].shape == (128, 64, 3)
        assert element["image"].dtype == np.uint8
        assert element["parts"].shape == (128, 64)
        assert element["parts"].dtype == np.uint8
        assert element["parts"].max() <= len(synthped.PARTS)
        assert set(element) == {"image", "parts", "pid", "camid", "filename"}
    elements = tiny.elements("query")
    assert len(elements) == len(elements.pids) == len(elements.camids) == len(elements.filenames) == 18
    with pytest.raises(IndexError):
        elements[18]


def test_other_image_sizes():
    data = synthped.SynthPed("tiny", height=64, width=32)
    image, parts = data.render(data.split("train")[0])
    assert image.shape == (64, 32, 3)
    assert len(np.unique(parts)) > 6


def test_junk_shows_nobody_whole(tiny):
    junk = {spec.junk: tiny.render(spec)[1] for spec in tiny.split("gallery") if spec.pid == synthped.JUNK}
    assert set(junk) == {"legs", "upper", "scene", "pair"}
    assert not junk["scene"].any()
    head, torso = 1, 4
    assert not (junk["legs"] == head).any()
    assert (junk["upper"] == head).any()
    assert (junk["pair"] == torso).sum() < 600


def _drawing(yaw: float, **changes: object) -> canvas.Canvas:
    person = people.draw_person(randomness.generator(0, "someone"))
    person = dataclasses.replace(person, bag="none", top="tshirt", bottom="trousers", hair_style="short", **changes)
    drawing = canvas.Canvas(np.zeros((256, 128, 3), np.uint8))
    view = pose.View(yaw, 0.4, 0.3, "", 0.03, 220.0, 64.0, 246.0, 0.15)
    figure.draw(drawing, person, view)
    return drawing


def _center(parts: np.ndarray, name: str) -> tuple[float, float]:
    rows, columns = np.nonzero(parts == 1 + synthped.PARTS.index(name))
    return float(rows.mean()), float(columns.mean())


def test_parts_lie_where_a_body_has_them():
    front, back = _drawing(0.0).parts, _drawing(math.pi).parts
    heights = [_center(front, name)[0] for name in ("head", "torso", "left_leg", "left_foot")]
    assert heights == sorted(heights)
    # The person's left is on the right of front views, and on the left of views from behind.
    for limb in ("arm", "leg", "foot"):
        assert _center(front, f"left_{limb}")[1] > _center(front, f"right_{limb}")[1]
        assert _center(back, f"left_{limb}")[1] < _center(back, f"right_{limb}")[1]
    assert set(np.unique(front)) == set(range(9))


def test_the_far_arm_is_hidden_from_the_side():
    side = _drawing(math.pi / 2).parts  # walks to the right of the image and shows the right side
    right, left = (np.count_nonzero(side == 1 + synthped.PARTS.index(f"{which}_arm")) for which in ("right", "left"))
    assert right > 2 * left


def test_viewpoint_decides_what_is_seen():
    red = (201, 7, 7)
    seen = {}
    for name, yaw in (("front", 0.0), ("back", math.pi), ("side", math.pi / 2)):
        drawing = _drawing(yaw, chest_print="square", back_print="none", print_color=red)
        seen[name] = int((drawing.color == np.array(red)).all(-1).sum())
    assert seen["front"] > 300
    assert seen["back"] == 0
    assert seen["side"] < seen["front"] / 3


def test_look_alikes_differ_in_few_details():
    plan = people.family_plan(0, "train", 96)
    assert len(plan) == 96
    family_of = {}
    for family, member in plan:
        family_of.setdefault(family, []).append(people.family_member(0, "train", family, member))
    sizes = [len(members) for members in family_of.values()]
    assert set(sizes[:-1]) <= {3, 4}
    names = [field.name for field in dataclasses.fields(people.Person)]
    for members in family_of.values():
        assert len(set(members)) == len(members)
        for other in members[1:]:
            changed = [name for name in names if getattr(members[0], name) != getattr(other, name)]
            assert 1 <= len(changed) <= 5  # a detail may be two fields: color of top and of its sleeves
    models = [members[0] for members in family_of.values()]
    assert len(set(models)) == len(models)


def test_encoded_image_is_near_the_drawn_one(tiny):
    spec = tiny.split("train")[3]
    image, parts = tiny.render(spec)
    jpeg, png = tiny.encode(spec)
    assert np.abs(image_io.decode(jpeg).astype(int) - image).mean() < 8
    np.testing.assert_array_equal(image_io.decode_map(png), parts)


@pytest.mark.parametrize("name", ["synthped", "synthped_occluded"])
def test_builder_writes_what_the_generator_draws(name, tmp_path, tiny, hidden):
    data = hidden if name == "synthped_occluded" else tiny
    dataset = prepare.prepare(name, tmp_path, size="tiny").dataset
    for split in ("train", "query", "gallery"):
        specs, stored = data.split(split), dataset.splits()[split]
        assert stored.filenames == tuple(spec.filename for spec in specs)
        assert stored.pids.tolist() == [spec.pid for spec in specs]
        assert stored.camids.tolist() == [spec.camid for spec in specs]
        for index in (0, len(specs) - 1):
            element = stored.source[index]
            assert (element["image"], element["parts"]) == data.encode(specs[index])


def test_wrong_names_are_told(tiny):
    with pytest.raises(errors.UserError, match="did you mean 'demo'"):
        synthped.SynthPed("deno")
    with pytest.raises(errors.UserError, match="did you mean 'gallery'"):
        tiny.split("galery")
