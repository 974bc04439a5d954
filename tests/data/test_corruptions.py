"""Corruptions: outputs of the reference, determinism, distributions, and independence of order."""

import concurrent.futures
import importlib.util
import json
import pathlib
import pickle

import numpy as np
import pytest
import scipy.stats

from reid_jax import errors
from reid_jax.data import corruptions, image_io, pipeline, records
from reid_jax.data.corruptions import blur, filters, frost, noise, sampling, splits, weather

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
CASES = [(name, severity) for name in corruptions.CORRUPTIONS for severity in corruptions.SEVERITIES]
WITHOUT_CHANCE = {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate",
}  # fmt: skip
ELEMENTWISE = {"gaussian_noise", "speckle_noise", "shot_noise", "impulse_noise"}
# Their outputs pass through floating-point filters, or an encoder, of other libraries: another version of those may
# round differently. All others use elementwise or integer arithmetic and must give the same bytes everywhere.
OF_LIBRARIES = {
    "defocus_blur", "glass_blur", "gaussian_blur", "elastic_transform", "spatter", "snow", "frost", "jpeg_compression",
}  # fmt: skip


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_corruptions", GOLDEN / "make_corruptions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def picture(maker):
    return maker.picture()


def run(name, severity, image, seed=0):
    rng = np.random.default_rng(seed)
    return sampling.apply(name, severity, image, sampling.sample(name, severity, image.shape[:2], rng))


def check_against_reference(name, ours, reference):
    """Compares with the tolerances of the benchmark's specification."""
    difference = np.abs(ours.astype(int) - reference)
    if name in ("pixelate", "jpeg_compression", "impulse_noise"):
        assert difference.max() == 0
    elif name == "rain":  # the reference uses 8-bit HSV, which changes colors by up to four levels
        assert difference.max() <= 4
        assert difference.mean() < 2
    else:
        assert difference.max() <= 1
        assert difference.mean() < 0.1


def test_reference_outputs(golden_folder):
    """Returns every other row and column; elementwise corruptions get an image subsampled likewise."""
    with np.load(golden_folder / "corruptions_img0.npz") as file:
        textures = frost.Textures(
            pixels=[np.ascontiguousarray(file[f"frost_texture_bgr/{index}"][..., ::-1]) for index in range(5)]
        )
        for name, severity in CASES:
            prefix = f"img0/{name}/s{severity}/"
            keys = sorted(key for key in file.files if key.startswith(prefix + "draw") and "after" not in key)
            image = file["img0"][::2, ::2] if name in ELEMENTWISE else file["img0"]
            ours = sampling.apply(name, severity, image, tuple(file[key] for key in keys), textures=textures)
            reference = file[prefix + "out_u8"]
            check_against_reference(name, ours if name in ELEMENTWISE else ours[::2, ::2], reference)
            if name not in WITHOUT_CHANCE:  # our draws have the shapes of the recorded draws
                rng = np.random.default_rng(0)
                drawn = sampling.sample(name, severity, image.shape[:2], rng, textures=textures)
                assert [np.shape(one) for one in drawn] == [file[key].shape for key in keys], name


def test_hashes_of_all_outputs(maker):
    expected = json.loads((GOLDEN / "corruption_hashes.json").read_text())
    found = maker.outputs()
    assert expected.keys() == found.keys()
    assert len(found) == 100
    for key, image in found.items():
        described = maker.describe(image)
        if described["sha256"] != expected[key]["sha256"]:
            assert key.split("/")[0] in OF_LIBRARIES, f"{key} changed"
            np.testing.assert_allclose(described["means"], expected[key]["means"], atol=1, err_msg=key)


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_same_draws_same_bytes_for_all_sizes(name):
    rng = np.random.default_rng(1)
    for height, width in ((128, 64), (160, 60), (61, 33), (5, 3)):
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        image.setflags(write=False)
        for severity in corruptions.SEVERITIES:
            draws = sampling.sample(name, severity, (height, width), np.random.default_rng(2))
            result = sampling.apply(name, severity, image, draws)
            assert result.dtype == np.uint8
            expected = (65, 65 * width // height, 3) if name == "rain" and height <= 60 else image.shape
            assert result.shape == expected
            np.testing.assert_array_equal(result, sampling.apply(name, severity, image, draws))
            if height == 128:
                other = run(name, severity, image, seed=3)
                assert np.array_equal(other, result) == (name in WITHOUT_CHANCE)


def test_noise_has_its_statistics():
    gray = np.full((200, 200, 3), 127, np.uint8)
    for severity in corruptions.SEVERITIES:
        for module, stds in (("gaussian_noise", noise.GAUSSIAN_STD), ("speckle_noise", noise.SPECKLE_STD)):
            (drawn,) = sampling.sample(module, severity, (200, 200), np.random.default_rng(severity))
            assert drawn.std() == pytest.approx(stds[severity - 1], rel=0.03)
        flipped, salt = sampling.sample("impulse_noise", severity, (200, 200), np.random.default_rng(severity))
        amount = noise.IMPULSE_AMOUNT[severity - 1]
        assert abs(flipped.mean() - amount) < 3 * (amount * (1 - amount) / flipped.size) ** 0.5
        assert abs(salt[flipped].mean() - 0.5) < 3 * 0.5 / flipped.sum() ** 0.5
        rate = noise.SHOT_RATE[severity - 1]
        (quantiles,) = sampling.sample("shot_noise", severity, (200, 200), np.random.default_rng(severity))
        table, first = noise._poisson_table(rate)
        counts = np.searchsorted(table, (quantiles + gray).ravel(), side="right") - first[127]
        mean = rate * 127 / 255
        assert counts.mean() == pytest.approx(mean, abs=4 * (mean / counts.size) ** 0.5)
        assert counts.var() == pytest.approx(mean, rel=0.03)


def test_shot_noise_is_the_quantile_function():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    quantiles = np.random.default_rng(0).random(image.shape)
    expected = scipy.stats.poisson.ppf(quantiles, 12 * image.astype(float) / 255).clip(0)
    counted = sampling.apply("shot_noise", 3, image, (expected.astype(int),))
    np.testing.assert_array_equal(sampling.apply("shot_noise", 3, image, (quantiles,)), counted)


def test_glass_pointers_equal_the_loop():
    height, width = 23, 17
    for severity, (_, reach, passes) in enumerate(blur.GLASS, start=1):
        (offsets,) = sampling.sample("glass_blur", severity, (height, width), np.random.default_rng(severity))
        for part in np.split(offsets, passes):
            expected, used = np.arange(height * width).reshape(height, width), 0
            for row in range(height - reach, reach, -1):
                for column in range(width - reach, reach, -1):
                    dx, dy = part[used]
                    used += 1
                    expected[row, column] = expected[row + dy, column + dx]
            np.testing.assert_array_equal(blur.glass_sources(height, width, reach, part), expected.ravel())


def test_filters_keep_a_constant_picture():
    gray = np.full((64, 40, 3), 120, np.uint8)
    for name in ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "glass_blur", "elastic_transform"):
        for severity in corruptions.SEVERITIES:
            assert abs(run(name, severity, gray).astype(int) - 120).max() <= 1, name
    for radius, sigma in blur.DEFOCUS:
        # Smoothing reflects the largest disks at the edge of their grid, as in the reference: 1 % brighter.
        assert blur._disk(radius, sigma).sum() == pytest.approx(1, abs=0.015)
    assert filters.gaussian_kernel(1.7).sum() == pytest.approx(1)


def test_color_changes_keep_what_they_promise(picture):
    middle = picture // 2 + 60
    contrast = run("contrast", 3, middle).astype(float)
    np.testing.assert_allclose(contrast.mean(axis=(0, 1)), middle.mean(axis=(0, 1)), atol=0.6)
    dark = picture // 3 + 20
    bright = run("brightness", 2, dark).astype(float)
    ratio = bright.max(axis=2, keepdims=True) / dark.max(axis=2, keepdims=True)
    np.testing.assert_allclose(bright, dark * ratio, atol=2.5)  # one factor for all channels: hue and saturation stay
    np.testing.assert_allclose(bright.max(axis=2), dark.max(axis=2) + 51, atol=1.01)


def test_damage_grows_with_severity(picture):
    # Box means of a random image: texture at several scales, like a photograph.
    rng = np.random.default_rng(0)
    image = sum(image_io.resize(rng.integers(0, 64, (n, n // 2, 3)).astype(np.uint8), 96, 48) for n in (8, 16, 32, 96))
    image = image.astype(np.uint8)
    for name in (
        "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur", "zoom_blur",
        "brightness", "contrast", "elastic_transform", "jpeg_compression", "rain",
    ):  # fmt: skip
        damage = [np.abs(run(name, severity, image).astype(int) - image).mean() for severity in range(1, 6)]
        assert damage == sorted(damage), (name, damage)


def test_plasma_is_a_torus_of_means():
    draws = tuple(np.zeros((n, n), np.float32) for n in (1, 1, 1, 2, 2, 2, 4, 4, 4))
    draws[0][:] = 1.0
    cloud = weather.plasma(8, 2.0, draws)
    assert cloud.shape == (8, 8)
    assert (cloud.min(), cloud.max(), cloud[0, 0], cloud[4, 4]) == (0, 1, 0, 1)
    np.testing.assert_array_equal(cloud, cloud.T)
    np.testing.assert_allclose(cloud[1:], cloud[:0:-1], atol=1e-6)  # reflected at the center


def test_frost_textures(tmp_path):
    first = frost.draw_texture(0)
    assert first.shape == (350, 500, 3)
    assert np.abs(first.astype(int) - frost.draw_texture(1)).mean() > 5
    assert 40 < first.mean() < 160
    with pytest.raises(errors.UserError, match="found 0"):
        frost.Textures(tmp_path)
    for index in range(6):
        data = image_io.encode_png(np.full((20, 30, 3), 40 * index, np.uint8))
        (tmp_path / f"frost{index}.png").write_bytes(data)
    image = np.full((40, 20, 3), 100, np.uint8)
    levels = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        draws = sampling.sample("frost", 1, (40, 20), rng, textures=frost.textures(str(tmp_path)))
        out = sampling.apply("frost", 1, image, draws, textures=frost.textures(str(tmp_path)))
        assert out.min() == out.max()
        levels.add(int(out[0, 0, 0]))
    assert levels == {100, 116, 132, 148, 164}  # five textures, never the sixth; 100 + 0.4 * texture


# ---- selection of the corruption of an image


def test_types_and_severities_are_uniform():
    selection = sampling.Selection()
    drawn = [selection.draw(sampling.generator(5, 0, "gallery", f"{index:06d}.jpg")) for index in range(20_000)]
    names, severities = zip(*drawn)
    for values, count in ((names, 20), (severities, 5)):
        counts = np.unique(values, return_counts=True)[1]
        assert len(counts) == count
        assert scipy.stats.chisquare(counts).pvalue > 0.01
    table = np.zeros((20, 5))
    np.add.at(table, ([list(corruptions.CORRUPTIONS).index(name) for name in names], np.array(severities) - 1), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 0.01  # independent of each other


def make_split(names, name="drawn/gallery"):
    pictures = {one: np.random.default_rng(int(one)).integers(0, 256, (64, 32, 3)).astype(np.uint8) for one in names}
    source = [{"image": image_io.encode_png(pictures[one]), "pid": 0, "camid": 0, "filename": one} for one in names]
    zeros = np.zeros(len(names), np.int32)
    return records.Split(name, source, zeros, zeros, tuple(names))


def test_order_workers_and_other_images_change_nothing():
    names = [str(index) for index in range(24)]
    split = splits.corrupted(make_split(names), seed=3, round_=1)
    expected = {one: split.source[index]["image"] for index, one in enumerate(names)}
    shuffled = splits.corrupted(make_split([*reversed(names), "99"]), seed=3, round_=1)
    for index, one in enumerate(reversed(names)):
        np.testing.assert_array_equal(shuffled.source[index]["image"], expected[one])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda index: split.source[index]["image"], range(24)))
    for index, one in enumerate(names):
        np.testing.assert_array_equal(threaded[index], expected[one])
    copied = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(copied.source[7]["image"], expected["7"])
    for batch_size, threads in ((5, 0), (24, 3)):
        with pipeline.eval_batches(split, height=64, width=32, batch_size=batch_size, threads=threads) as batches:
            got = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
        for index, one in enumerate(names):
            np.testing.assert_array_equal(got[index], image_io.resize(expected[one], 64, 32))


def test_seed_round_and_split_matter():
    names = [str(index) for index in range(6)]
    plain = make_split(names)
    base = [splits.corrupted(plain, seed=1, round_=1).source[index]["image"] for index in range(6)]
    for changed in (
        splits.corrupted(plain, seed=2, round_=1),
        splits.corrupted(plain, seed=1, round_=2),
        splits.corrupted(make_split(names, "drawn/query"), seed=1, round_=1),
    ):
        assert sum(np.array_equal(changed.source[index]["image"], base[index]) for index in range(6)) <= 1
    assert plain.source[0]["image"][:4] == b"\x89PNG"  # the split itself is unchanged


def test_selections_and_mistakes():
    assert sampling.select().is_benchmark
    chosen = sampling.select(families=("noise",), severities=(5,))
    assert chosen.types == ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
    assert not chosen.is_benchmark
    assert {chosen.draw(np.random.default_rng(seed))[1] for seed in range(9)} == {5}
    assert sum(len(sampling.of_family(family)) for family in corruptions.FAMILIES) == 20
    for options, words in (
        ({"families": ("weathr",)}, "weather"),
        ({"types": ("fogg",)}, "fog"),
        ({"severities": (6,)}, "1 to 5"),
        ({"types": ("fog",), "families": ("noise",)}, "not by both"),
    ):
        with pytest.raises(errors.UserError, match=words):
            sampling.select(**options)
