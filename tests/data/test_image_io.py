"""Decoding and resizing compared with Pillow, and files that are not images."""

import io
import resource
import zlib

import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.data import image_io


def _picture(height=48, width=24, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _encoded(mode="RGB", kind="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(_picture()).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _with_pillow(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_encoded(subsampling=2, quality=80), id="jpeg 4:2:0"),
        pytest.param(_encoded(subsampling=1, quality=60), id="jpeg 4:2:2"),
        pytest.param(_encoded(subsampling=0, quality=95, progressive=True), id="progressive jpeg"),
        pytest.param(_encoded("L"), id="gray jpeg"),
        pytest.param(_encoded("CMYK"), id="cmyk jpeg"),
        pytest.param(_encoded(kind="PNG"), id="png"),
        pytest.param(_encoded("RGBA", "PNG"), id="png with alpha"),
        pytest.param(_encoded("P", "PNG"), id="palette png"),
        pytest.param(_encoded(kind="BMP"), id="bmp"),
        pytest.param(_encoded() + b"trailing bytes", id="jpeg with a tail"),
    ],
)
def test_decode_equals_pillow_bit_for_bit(data):
    decoded = image_io.decode(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, _with_pillow(data))


def test_stray_bytes_between_markers_are_forgiven_as_pillow_does():
    data = _encoded()
    start = data.index(b"\xff\xdb")  # before the first quantization table
    damaged = data[:start] + b"\x00\x00\x00" + data[start:]
    np.testing.assert_array_equal(image_io.decode(damaged), _with_pillow(damaged))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file", "not an image"),
        (b"\xff\xd8\xff\xe0 no more", "cut off or damaged"),
        (_encoded()[: len(_encoded()) // 2], "cut off or damaged"),
        (_encoded(kind="PNG")[:-200], "cut off or damaged"),
        (_encoded(kind="PNG")[:30], "cut off or damaged"),
    ],
    ids=["empty", "text", "jpeg start only", "half a jpeg", "cut png", "png header"],
)
def test_what_is_no_picture_is_named(data, complaint):
    with pytest.raises(errors.UserError, match=complaint) as caught:
        image_io.decode(data, "folder/0001_c1.jpg")
    assert str(caught.value).startswith("folder/0001_c1.jpg ")


def test_sixteen_bits_are_refused_instead_of_clipped():
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(buffer, "PNG")
    with pytest.raises(errors.UserError, match="8 bits"):
        image_io.decode(buffer.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_bytes_end_in_a_picture_or_a_user_error(kind):
    rng = np.random.default_rng(3)
    data = _encoded(kind=kind)
    for _ in range(200):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 4):
            damaged[position] = rng.integers(256)
        try:
            decoded = image_io.decode(bytes(damaged[: rng.integers(4, len(data))]))
        except errors.UserError:
            continue
        assert decoded.dtype == np.uint8
        assert decoded.shape[2] == 3


def test_encoders_round_trip():
    picture = _picture()
    np.testing.assert_array_equal(image_io.decode(image_io.encode_png(picture)), picture)
    close = image_io.decode(image_io.encode_jpeg(picture, 98)).astype(int)
    assert np.abs(close - picture).max() < 16
    parts = np.random.default_rng(0).integers(0, 9, (20, 10)).astype(np.uint8)
    np.testing.assert_array_equal(image_io.decode_map(image_io.encode_png(parts)), parts)
    np.testing.assert_array_equal(image_io.decode_map(parts[..., None]), parts)
    with pytest.raises(errors.UserError, match="one 8-bit channel"):
        image_io.decode_map(image_io.encode_png(picture), "parts of 0001.png")


@pytest.mark.parametrize("size", [(96, 48), (61, 33), (24, 12), (20, 40), (100, 20)])
@pytest.mark.parametrize(
    ("name", "filter_", "tolerance"),
    [
        ("bilinear", Image.Resampling.BILINEAR, 1),  # upsampling is rounded once here and twice in Pillow
        ("bicubic", Image.Resampling.BICUBIC, 0),
        ("nearest", Image.Resampling.NEAREST, 0),
    ],
)
def test_resize_equals_pillow(size, name, filter_, tolerance):
    picture = _picture()
    expected = np.array(Image.fromarray(picture).resize(size[::-1], filter_)).astype(int)
    found = image_io.resize(picture, *size, name)
    assert found.shape == (*size, 3)
    enlarged = size[0] >= 48 and size[1] >= 24
    assert np.abs(found - expected).max() <= (tolerance if enlarged else 0)


def test_area_is_the_mean_of_the_footprint():
    picture = _picture(48, 24)
    expected = picture.reshape(16, 3, 12, 2, 3).mean((1, 3))
    assert np.abs(image_io.resize(picture, 16, 12, "area") - expected).max() <= 0.5


def test_resize_of_maps_and_of_the_same_size():
    parts = np.random.default_rng(0).integers(0, 9, (16, 8)).astype(np.uint8)
    large = image_io.resize(parts, 32, 16, "nearest")
    np.testing.assert_array_equal(large, parts.repeat(2, 0).repeat(2, 1))
    assert image_io.resize(parts, 16, 8, "bilinear") is parts


def test_unknown_interpolation_is_named():
    with pytest.raises(errors.UserError, match="did you mean 'bilinear'"):
        image_io.resize(_picture(), 10, 10, "bilinaer")


# --- size, formats, content ---


def _resized_header(data, height, width):
    """Returns a JPEG that claims another size, with the same few bytes of content."""
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[start + 4 :]


def _tiff(**options):
    buffer = io.BytesIO()
    Image.fromarray(_picture()).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def _claiming(kind, height, width):
    """Returns the first bytes of a file that claims a size, which is read from there."""
    size = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    if kind == "PNG":
        data = bytearray(_encoded(kind="PNG"))
        data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
        return bytes(data)
    if kind == "BMP":
        data = _encoded(kind="BMP")
        return data[:18] + size + data[26:]
    if kind == "TIFF":
        data = _tiff(compression="tiff_lzw")
        for tag, value in ((256, width), (257, height)):
            place = data.index(tag.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00")
            data = data[: place + 2] + b"\x04\x00\x01\x00\x00\x00" + value.to_bytes(4, "little") + data[place + 12 :]
        return data
    return _resized_header(_encoded(), height, width)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_large_images_are_refused_before_they_are_decoded(kind):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(errors.UserError, match=r"too large: 60000 x 60000 are 3600.0 million pixels, at most 33.6"):
        image_io.decode(_claiming(kind, 60_000, 60_000), "huge")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_long_strips_are_refused():
    with pytest.raises(errors.UserError, match=r"too large: 2 x 2000000 are 4.0 million pixels"):
        image_io.decode(_claiming("PNG", 2_000_000, 2), "strip")


def test_large_progressive_images_of_many_scans_are_refused():
    data = _encoded(progressive=True)
    start = data.rindex(b"\xff\xda")
    data = data[:-2] + data[start:-2] * 2000 + data[-2:]
    large = data.replace(b"\x00\x30\x00\x18", (2048).to_bytes(2, "big") * 2, 1)
    with pytest.raises(errors.UserError, match="scans take too long"):
        image_io.decode(large, "slow")


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"GIF89a" + bytes(20),
        b"P6 2 2 255 " + bytes(12),
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",
        b"\x89HDF\r\n\x1a\n" + bytes(20),
    ],
    ids=["postscript", "gif", "ppm", "jpeg2000", "hdf5"],
)
def test_other_formats_meet_no_reader(data, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was asked to guess"))
    with pytest.raises(errors.UserError, match=r"not an image that can be read \(JPEG, PNG, BMP, TIFF, WebP\)"):
        image_io.decode(data, "photo.jpg")


def _special(kind):
    picture = Image.fromarray(_picture())
    buffer = io.BytesIO()
    if kind == "animated":
        picture.save(buffer, "PNG", save_all=True, append_images=[picture.rotate(90)])
    elif kind == "transparent palette":
        picture.quantize(16).save(buffer, "PNG", transparency=bytes(range(16)))
    elif kind == "one bit":
        picture.convert("1").save(buffer, "PNG")
    elif kind == "cmyk tiff":
        picture.convert("CMYK").save(buffer, "TIFF", compression="tiff_lzw")
    elif kind == "webp":
        picture.save(buffer, "WEBP", lossless=True)
    elif kind == "gray with alpha":
        picture.convert("LA").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["animated", "transparent palette", "one bit", "cmyk tiff", "webp", "gray with alpha"])
@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")  # of the reference
def test_special_pictures_equal_pillow(kind):
    np.testing.assert_array_equal(image_io.decode(_special(kind)), _with_pillow(_special(kind)))


def test_sixteen_bits_in_color_are_refused():
    deep = bytearray(_encoded(kind="PNG"))
    deep[24] = 16
    deep[29:33] = zlib.crc32(bytes(deep[12:29])).to_bytes(4, "big")
    with pytest.raises(errors.UserError, match="8 bits"):
        image_io.decode(bytes(deep))


def test_rotation_is_reported_and_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encoded(exif=exif)
    assert image_io.orientation(data) == 6
    assert image_io.decode(data).shape == (48, 24, 3)
    assert image_io.orientation(_encoded()) == 1
    assert image_io.orientation(b"\xff\xd8\xffExif" + bytes(9)) == 1
