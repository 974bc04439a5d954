"""Files that count as images, and the listing of folders with links, system folders and unreadable ones."""

import os
import pathlib

import pytest

from reid_jax.data import image_names


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_endings():
    assert all(image_names.is_image(f"x{suffix.upper()}") for suffix in image_names.SUFFIXES)
    assert image_names.is_image("a.b .jfif")
    assert not any(map(image_names.is_image, ("x.gif", "x.jpg.txt", "jpg", ".x.jpg", "x.eps", "._x.png")))


def test_walk_sees_every_file_once(tmp_path):
    _touch(
        tmp_path, "b/2.tif", "a/deep/er/1.JPG", "0.png", "a/notes.txt", "a/.hidden/x.jpg", "a/@eaDir/t.jpg", "Thumbs.db"
    )
    (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    found = image_names.walk(tmp_path)
    assert found.images == ("0.png", "a/deep/er/1.JPG", "b/2.tif", "linked/2.tif")
    assert found.others == ("a/notes.txt",)
    assert found.loops == ("a/deep/up",)


def test_pipes_and_folders_are_no_images(tmp_path):
    _touch(tmp_path, "a.jpg", "b.png/c.txt", "z/c.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert image_names.images_in(tmp_path) == ["a.jpg"]
    assert image_names.walk(tmp_path).others == ("b.png/c.txt", "pipe.jpg")


def test_link_to_nothing_is_an_error_that_names_it(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(OSError, match=r"gone\.jpg"):
        image_names.walk(tmp_path)


@pytest.mark.parametrize("name", ["../b.jpg", "a/../../b.jpg", "/etc/b.jpg", "", ".", "a\0.jpg"])
def test_names_that_lead_out_of_a_folder(name):
    assert image_names.contained(pathlib.Path("/data/set"), name) is None


def test_names_in_a_folder():
    root = pathlib.Path("/data/set")
    for name in ("x.jpg", "a/x.jpg", "a/../x.jpg", "/data/set/x.jpg", "/data/set/a/..x.jpg"):
        assert image_names.contained(root, name).is_relative_to(root)
