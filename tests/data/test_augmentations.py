"""AugMix, soft erasing, self-patch mixing, occluders and corruption in training: ranges, invariants and options."""

import copy

import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.benchmarks import input_speed
from reid_jax.data import augmentations, corruptions, image_io, pipeline, records, transforms
from reid_jax.data.corruptions import sampling, training

NAMES = ("augmix", "soft_erase", "self_patch", "occlude", "corrupt")


def make_element(height=48, width=24, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (6, 3, 3)).astype(np.uint8)
    return {
        "image": image_io.resize(coarse, height, width),
        "parts": rng.integers(1, 9, (height, width)).astype(np.uint8),
        "donor": rng.integers(0, 256, (60, 30, 3)).astype(np.uint8),
        "index": 7,
        "filename": "7.jpg",
    }


def always(name, **options):
    return transforms.build_transform(name, options if name == "augmix" else {"probability": 1.0, **options})


@pytest.mark.parametrize("name", NAMES)
def test_pure_and_of_the_same_kind(name):
    transform = always(name)
    element = make_element()
    element["image"].setflags(write=False)
    before = copy.deepcopy(element)
    changed = 0
    for seed in range(12):
        first = transform(element, np.random.default_rng(seed))
        second = transform(element, np.random.default_rng(seed))
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["parts"], second["parts"])
        assert first["image"].shape == element["image"].shape or name == "corrupt"  # rain enlarges images of few rows
        assert first["image"].dtype == np.uint8
        assert (first["index"], first["filename"]) == (7, "7.jpg")
        changed += not np.array_equal(first["image"], element["image"])
        if name != "augmix":
            never = transforms.build_transform(name, {"probability": 0.0})
            np.testing.assert_array_equal(never(element, np.random.default_rng(seed))["image"], element["image"])
    assert changed >= 9  # the weight of a blend may be close to 0
    for key, value in before.items():
        np.testing.assert_array_equal(element[key], value)


def test_places_in_a_chain():
    chain = transforms.build_chain(dict.fromkeys([*reversed(NAMES), "erase", "flip", "pad_crop"], True), 8, 4)
    assert [type(one).__name__ for one in chain.transforms] == [
        "Corrupt", "Resize", "Flip", "PadCrop", "Occlude", "SoftErase", "SelfPatch", "AugMix", "Erase",
    ]  # fmt: skip
    assert chain.needs_donor
    assert not chain.starts_with_resize  # corruption precedes the resize, so resized images cannot be cached
    assert not transforms.build_chain({"soft_erase": {}}, 8, 4).needs_donor
    for order, expected in {
        ("corrupt", "flip"): ["Corrupt", "Resize", "Flip"],
        ("flip", "corrupt"): ["Resize", "Flip", "Corrupt"],
    }.items():
        chain = transforms.build_chain({"corrupt": {}, "flip": {}, "order": order}, 8, 4)
        assert [type(one).__name__ for one in chain.transforms] == expected


# ---- AugMix


def test_augmix_is_a_blend():
    element = make_element()
    image = element["image"].astype(float)
    # Operations without effect leave the image unchanged, since the weights sum to 1.
    flat = {"image": np.full((20, 10, 3), 77, np.uint8)}
    quiet = augmentations.AugMix(operations=("autocontrast",))
    for seed in range(5):
        np.testing.assert_array_equal(quiet(flat, np.random.default_rng(seed))["image"], flat["image"])
    # With a single operation, the result lies between the image and the solarized image.
    single = augmentations.AugMix(width=1, depth=(1, 1), operations=("solarize",), severity=10)
    for seed in range(10):
        mixed = single(element, np.random.default_rng(seed))["image"].astype(float)
        low, high = np.minimum(image, 255 - image), np.maximum(image, 255 - image)
        assert ((mixed >= low - 1) & (mixed <= high + 1)).all()
    damage = {}
    for severity in (0.5, 9.0):
        mix = augmentations.AugMix(severity=severity)
        results = [mix(element, np.random.default_rng(seed))["image"] for seed in range(40)]
        damage[severity] = np.abs(np.stack(results) - image).mean()
    assert 0 < damage[0.5] < damage[9.0]


def test_augmix_operations():
    image = make_element()["image"]
    rng = np.random.default_rng(0)
    run = lambda name, strength: augmentations.OPERATIONS[name](image, strength, rng)
    assert len(augmentations.OPERATIONS) == 9
    assert not set(augmentations.OPERATIONS) & set(corruptions.CORRUPTIONS)
    np.testing.assert_array_equal(run("posterize", 0.3), image & 0b11100000)  # 4 - int(1.2) = 3 bits stay
    np.testing.assert_array_equal(run("solarize", 0.25), np.where(image < 192, image, 255 - image))
    moved = run("translate_x", 0.5)  # by int(0.5 * 24 / 3) = 4 pixels in either direction
    assert np.array_equal(moved[:, 4:], image[:, :-4]) or np.array_equal(moved[:, :-4], image[:, 4:])
    moved = run("translate_y", 0.25)
    assert np.array_equal(moved[4:], image[:-4]) or np.array_equal(moved[:-4], image[4:])
    for name in ("rotate", "shear_x", "shear_y"):
        np.testing.assert_array_equal(run(name, 0.0), image)
        assert (run(name, 0.3) != image).any()
    turned = np.asarray(Image.fromarray(image).rotate(9, Image.Resampling.BILINEAR)).astype(int)
    other = np.asarray(Image.fromarray(image).rotate(-9, Image.Resampling.BILINEAR)).astype(int)
    ours = run("rotate", 0.3)
    assert min(np.abs(ours - turned)[8:-8, 8:-8].mean(), np.abs(ours - other)[8:-8, 8:-8].mean()) < 1.0


# ---- regions


@pytest.mark.parametrize("name", ["soft_erase", "self_patch"])
def test_a_region_is_blended(name):
    element = make_element()
    image = element["image"].astype(int)
    seen, replaced = [], []
    for seed in range(60):
        result = always(name, area=(0.1, 0.2))(element, np.random.default_rng(seed))
        rows, columns = np.nonzero((result["image"] != image).any(axis=2))
        if len(rows):
            seen.append((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / image[..., 0].size)
        np.testing.assert_array_equal(result["parts"], element["parts"])
        full = always(name, area=(0.1, 0.2), mix=None)(element, np.random.default_rng(seed))["image"]
        replaced.append((full != image).any(axis=2).sum())
    assert 0.08 < np.median(seen) < 0.22
    assert np.quantile(seen, 0.95) < 0.22
    assert np.median(replaced) > 0.08 * image[..., 0].size


def test_self_patch_shows_the_image_itself():
    grid = np.arange(48 * 24).reshape(48, 24)
    image = np.stack([grid % 256, grid // 256, grid * 0], axis=-1).astype(np.uint8)
    copied = always("self_patch", mix=None)({"image": image}, np.random.default_rng(1))["image"].astype(int)
    shown = copied[..., 0] + 256 * copied[..., 1]
    rows, columns = np.nonzero(shown != grid)
    box = shown[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    np.testing.assert_array_equal(box, box[0, 0] + np.arange(box.shape[0])[:, None] * 24 + np.arange(box.shape[1]))


def test_occluders_stand_in_corners():
    element = make_element()
    corners = set()
    for seed in range(60):
        result = always("occlude")(element, np.random.default_rng(seed))
        assert "donor" not in result
        hidden = result["parts"] == 0
        rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert hidden.sum() == len(rows) * len(columns)
        assert (len(rows) == 48 and 6 <= len(columns) <= 12) or (len(columns) == 24 and 12 <= len(rows) <= 24)
        np.testing.assert_array_equal(result["image"][~hidden], element["image"][~hidden])
        corners.add((int(rows[0]) == 0, int(columns[0]) == 0))
        alone = {key: value for key, value in element.items() if key != "donor"}
        assert always("occlude")(alone, np.random.default_rng(seed))["image"].shape == (48, 24, 3)
    assert len(corners) >= 3
    # A patch more than twice as tall as wide stands over the whole height, any other lies over the whole width.
    for aspect, whole in ((4.0, 0), (1.0, 1)):
        hidden = always("occlude", area=(0.1, 0.1), aspect=(aspect, aspect))(element, np.random.default_rng(0))["parts"]
        assert (hidden == 0).all(axis=whole).any()
        assert not (hidden == 0).all(axis=1 - whole).any()


# ---- corruption in training


def test_policies():
    assert len(training.policy_types("all20")) == 20
    assert training.policy_types("none") == training.policy_types("augmix") == ()
    for family in corruptions.FAMILIES:
        left = training.policy_types(f"leave_family_out({family})")
        assert not set(left) & set(sampling.of_family(family))
        assert len(left) + len(sampling.of_family(family)) == 20
    element = make_element()
    rng = np.random.default_rng(0)
    assert always("corrupt", policy="none")(element, rng) is element
    mixed = always("corrupt", policy="augmix")(element, np.random.default_rng(4))["image"]
    expected = np.random.default_rng(4)
    expected.random()
    np.testing.assert_array_equal(mixed, augmentations.AugMix()(element, expected)["image"])
    with pytest.raises(errors.UserError, match="did you mean 'all20'"):
        always("corrupt", policy="al20")
    with pytest.raises(errors.UserError, match="did you mean 'once'"):
        always("corrupt", refresh="onse")
    with pytest.raises(errors.UserError, match="severity"):
        always("corrupt", severities=(0,))


def test_refresh():
    once, epoch = (always("corrupt", refresh=refresh, probability=0.7) for refresh in ("once", "epoch"))
    element = make_element()
    kept = [once(element, np.random.default_rng(seed))["image"].tobytes() for seed in range(8)]
    anew = [epoch(element, np.random.default_rng(seed))["image"].tobytes() for seed in range(8)]
    assert len(set(kept)) == 1
    assert len(set(anew)) > 4
    others = [{**element, "filename": f"{index}.jpg"} for index in range(400)]
    untouched = [once(one, None)["image"] is element["image"] for one in others]
    assert 0.23 < np.mean(untouched) < 0.37
    assert len({once(one, None)["image"].tobytes() for one in others[:20]}) > 8
    seeded = always("corrupt", refresh="once", seed=1)
    assert sum(seeded(one, None)["image"].tobytes() != once(one, None)["image"].tobytes() for one in others[:20]) > 10


# ---- in the pipeline


@pytest.fixture(scope="module")
def split():
    source = [{"image": image_io.encode_png(make_element(seed=seed)["image"])} for seed in range(24)]
    pids = (np.arange(24) // 4).astype(np.int32)
    return records.Split("drawn/train", source, pids, pids * 0, tuple(f"{index}.png" for index in range(24)))


def collect(split, **changes):
    settings = {
        "sampler": {"identities": 3, "images": 2},
        "augment": {"flip": {}, "pad_crop": {"pad": 3}},
        "views": {
            "corrupted": {"augment": {"flip": {}, "pad_crop": {"pad": 3}, "corrupt": {"probability": 1.0}}},
            "fixed": {"augment": {"corrupt": {"refresh": "once", "probability": 1.0}}},
            "mixed": {"augment": {name: {} for name in ("flip", "pad_crop", "soft_erase", "self_patch", "augmix")}},
            "hidden": {"augment": {"flip": {}, "pad_crop": {"pad": 3}, "occlude": {}}, "geometry": "shared"},
        },
        "height": 32, "width": 16, "seed": 5, "num_steps": 6, "threads": 0, **changes,
    }  # fmt: skip
    with pipeline.train_batches(split, split.pids, **settings) as batches:
        return list(batches)


def test_batches_with_all_of_them_are_pure(split):
    run = collect(split)
    for other in (collect(split, threads=3), collect(split, start_step=2, num_steps=4)):
        for one, two in zip(run[-len(other) :], other):
            assert one.keys() == two.keys()
            assert "donor" not in one
            for name in one:
                np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    plain = collect(split, views=None)
    fixed = {}
    for batch, alone in zip(run, plain):
        np.testing.assert_array_equal(batch["image"], alone["image"])
        same = (batch["image_hidden"] == batch["image"]).all(axis=-1)  # shared geometry: equal outside the occluder
        assert same.mean() > 0.3
        for index, image in zip(batch["index"], batch["image_fixed"]):
            np.testing.assert_array_equal(fixed.setdefault(int(index), image), image)
    assert len(fixed) > 15


def test_throughput_rows():
    rows = input_speed.measure_corruptions(height=64, width=32, out_height=64, out_width=32, count=1, rounds=1)
    assert [row["stage"] for row in rows] == [
        *corruptions.CORRUPTIONS, "corruptions, mean of the twenty", "augmix", "soft_erase", "self_patch", "occlude",
    ]  # fmt: skip
    speeds = [row["images_per_second"] for row in rows[:20]]
    assert min(speeds) < rows[20]["images_per_second"] < max(speeds)
    assert all(row["milliseconds"] * row["images_per_second"] == pytest.approx(1000) for row in rows)


# ---- distributions


def test_augmix_blends_the_image_with_its_chains(monkeypatch):
    """`(1 - m) x + m sum_i w_i chain_i(x)`: on average half of two operations, each on what the one before left."""
    strengths = []

    def brighter(image, strength, rng):
        strengths.append(strength)
        return image + np.uint8(10)

    monkeypatch.setattr(augmentations, "OPERATIONS", dict.fromkeys(augmentations.OPERATIONS, brighter))
    image, rng = np.full((1, 1, 3), 100, np.uint8), np.random.default_rng(0)
    added = [int(augmentations.AugMix()({"image": image}, rng)["image"][0, 0, 0]) - 100 for _ in range(600)]
    assert np.mean(added) == pytest.approx(0.5 * 2 * 10, abs=0.8)
    assert min(added) <= 2
    assert 25 <= max(added) <= 30
    # Strengths are drawn from U(0.1, severity) / 10, severity 3.
    assert np.quantile(strengths, [0, 0.5, 1]) == pytest.approx([0.01, 0.155, 0.3], abs=0.01)


def test_a_soft_region_is_a_third_noise_of_the_range_of_the_image(monkeypatch):
    """m ~ Beta(0.5, 1), of mean 1/3; noise of standard deviation 1 on the scale of [0, 1]."""
    noise = augmentations.SoftErase().fill(np.zeros((64, 64, 3)), (0, 0, 64, 64), np.random.default_rng(0))
    assert noise.std() == pytest.approx(255, rel=0.05)
    monkeypatch.setattr(augmentations.SoftErase, "fill", lambda self, image, box, rng: np.full((), 250.0))
    image, rng = np.zeros((32, 16, 3), np.uint8), np.random.default_rng(1)
    erase = augmentations.SoftErase(probability=1.0)
    shares = [erase({"image": image}, rng)["image"].max() / 250 for _ in range(600)]
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.04)
