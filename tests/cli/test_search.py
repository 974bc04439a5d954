"""`search.py` from the command line: images by a stand-in for a model, features files, and mistakes in one sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.cli import model_choice, search
from reid_jax.inference import crops, extractor
from reid_jax.weights import zoo
from tests.helpers import small_galleries


class Colors:
    """Describes an image by its mean colors in four stripes."""

    settings = zoo.settings("bot", {}, {})
    origin = {"random": True, "seed": 0}  # noqa: RUF012

    def images(self, variables, images, boxes=None):
        return self._described(crops.as_images(images, boxes))

    def split(self, variables, split):
        return self._described([split.image(row) for row in range(len(split))])

    def _described(self, images):
        rows = [[part.mean((0, 1)) for part in np.array_split(image / 255, 4)] for image in images]
        return extractor.Extracted(np.asarray(rows, np.float32).reshape(len(images), 12), None, 1.0, 1.0)


@pytest.fixture
def colors(monkeypatch):
    monkeypatch.setattr(model_choice, "load", lambda args, **_: (Colors(), {}))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        picture = np.repeat(random.integers(0, 255, (4, 1, 3), np.uint8), 16, axis=0).repeat(32, axis=1)
        Image.fromarray(picture).save(folder / f"{number}.png")
    (tmp_path / "labels.csv").write_text(
        "file,identity,camera,time,track\n0.png,Ann,door,2026-11-28T08:00,a\n1.png,Bo,hall,1970-01-01,b\n2.png,Ann,,,a\n"
    )
    return folder


def run(*words):
    return search.main([str(word) for word in words])


MODEL = ("--model=bot", "--random-weights")


def test_from_images_to_answers(colors, photos, tmp_path, capsys, monkeypatch):
    people = tmp_path / "people.gallery"
    table = ("--table", tmp_path / "labels.csv")
    assert run("build", people, *MODEL, "--images", photos, *table, "--who=kim", "--why=test") == 0
    assert "8 images, kept for 30 days" in capsys.readouterr().out
    ask = ("query", people, "--who=kim", "--why=test")
    assert run(*ask, *MODEL, "--images", photos / "2.png", "--top=2", "--json=-") == 0
    reply = json.loads(capsys.readouterr().out)[0]
    assert reply["hits"][0]["file"] == "2.png"
    assert (reply["hits"][0]["identity"], reply["looked_at"], reply["nobody"]) == ("Ann", 8, None)
    assert abs(reply["hits"][0]["distance"]) < 1e-3
    # A frame that holds the picture in a box.
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[20:84, 10:42] = np.asarray(Image.open(photos / "1.png"))
    Image.fromarray(frame).save(tmp_path / "frame.png")
    boxes = ("--box=10,20,42,84", "--box=0,0,9,9", "--other-camera=door")
    assert run(*ask, *MODEL, "--images", tmp_path / "frame.png", *boxes, "--json", tmp_path / "a.json") == 0
    replies = json.loads((tmp_path / "a.json").read_text())
    assert [each["query"].endswith(f"frame.png, box {n + 1}") for n, each in enumerate(replies)] == [True, True]
    assert (replies[0]["hits"][0]["identity"], replies[0]["looked_at"]) == ("Bo", 7)
    assert "1.png" in capsys.readouterr().out
    # Entries, people, and a folder of one person's images that vote.
    assert run(*ask, "--entry=3", "--per=identity", "--json=-") == 0
    grouped = json.loads(capsys.readouterr().out)[0]["hits"]
    ann = next(hit for hit in grouped if hit["identity"] == "Ann")
    assert (ann["file"], ann["entries"]) == ("0.png", 1)  # the other one is the query
    assert run(*ask, *MODEL, "--images", photos, "--dataset=plain", "--as-track", "--per=track", "--json=-") == 0
    voted = json.loads(capsys.readouterr().out)
    assert (len(voted), voted[0]["images"], voted[0]["hits"][0]["votes"]) == (1, 8, 2)
    assert voted[0]["hits"][0]["track"] == "a"
    assert run(*ask, *MODEL, "--images", photos / "2.png", "--rerank", "--json=-") == 0
    assert json.loads(capsys.readouterr().out)[0]["hits"][0]["file"] == "2.png"
    # A page with pictures; names are text in it.
    page = tmp_path / "answer.html"
    assert run(*ask, "--entry=3", "--per=identity", "--html", page) == 0
    html = page.read_text()
    assert html.count("<img ") == html.count("data:image/webp;base64,") == 8  # the query, two people, five unknown
    assert "<script" not in html
    capsys.readouterr()
    assert run(*ask, "--entry=3", "--rerank", "--top=1") == 0
    assert "re-ranked" in capsys.readouterr().out
    assert run(*ask, "--entry=3", "--per=track", "--identity=Ann", "--json", tmp_path / "new" / "a.json") == 0
    told = capsys.readouterr().out
    assert ("track" in told, "votes" in told) == (True, False)  # one image casts no votes
    assert (tmp_path / "new" / "a.json").is_file()
    # Another model is refused before it has described an image.
    monkeypatch.setattr(Colors, "origin", {"random": True, "seed": 1})
    monkeypatch.setattr(Colors, "split", None)
    with pytest.raises(errors.UserError, match=r"weights random, seed 0, the query with random, seed 1: their"):
        run(*ask, *MODEL, "--images", photos)
    monkeypatch.undo()
    monkeypatch.setattr(model_choice, "load", lambda args, **_: (Colors(), {}))
    # What is added again is refused, or left out.
    more = ("add", people, *MODEL, "--images", photos)
    with pytest.raises(errors.UserError, match="8 of the 8 images are in the gallery already"):
        run(*more)
    assert run(*more, "--skip-existing") == 0
    assert run(*more, "--prefix=today/", "--camera=roof", "--keep=forever") == 0
    assert "8 images added; the gallery has 16" in capsys.readouterr().out
    assert run("calibrate", people, "--no-threshold", "--who=kim") == 0
    assert run("remove", people, "--identity=Ann") == 0
    assert run("info", people) == 0
    told = capsys.readouterr().out
    assert "2 entries removed" in told
    assert "14 entries (13 without identity" in told
    log = [json.loads(line) for line in (tmp_path / "people.gallery.audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == ["add", *["query"] * 8, "add", "calibrate", "remove"]
    assert log[1]["who"] == "kim"
    assert log[1]["queries"][0].startswith("sha256:")
    assert log[1]["answers"][0]["ids"][0] == 3
    assert log[8]["filter"]["identities"] == [[1, 1], [3, 3]]  # Ann's entries: her name would outlive its erasure
    assert "Ann" not in json.dumps(log)


def test_features_files(tmp_path, capsys):
    features = small_galleries.drawn(queries=5, images=60)
    features.save(tmp_path / "f.npz")
    people = tmp_path / "people.gallery"
    assert run("build", people, "--features", tmp_path / "f.npz", "--no-audit", "--keep=forever") == 0
    assert run("query", people, "--features", tmp_path / "f.npz", "--top=3") == 0
    printed, noted = capsys.readouterr()
    assert "60 images, kept until they are removed" in printed
    assert printed.count("entries looked at") == 5
    assert "names no folder of images" in noted
    assert not (tmp_path / "people.gallery.audit.jsonl").exists()
    failing = tmp_path / "failing.gallery"
    with pytest.raises(errors.UserError, match="needs at least 30,000,000 comparisons"):
        run("build", failing, "--features", tmp_path / "f.npz", "--rate=1e-7")
    assert not list(tmp_path.glob("failing*"))  # nothing half-built is left
    assert run("build", failing, "--features", tmp_path / "f.npz", "--no-audit", "--rate=0.1") == 0
    assert "1 in 10 is accepted at most" in capsys.readouterr().out
    assert run("query", failing, "--features", tmp_path / "f.npz") == 0
    assert " match  " in capsys.readouterr().out
    other = small_galleries.drawn(queries=5, images=60)
    other.meta["weights"] = {"sha256": "b" * 64}
    other.save(tmp_path / "other.npz")
    with pytest.raises(errors.UserError, match=r"made with the weights a+.*, the query with b+.*cannot be compared"):
        run("query", people, "--features", tmp_path / "other.npz")
    small_galleries.drawn("euclidean", queries=5, images=60).save(tmp_path / "metric.npz")
    with pytest.raises(errors.UserError, match="made with the metric cosine, the new images with euclidean"):
        run("add", people, "--features", tmp_path / "metric.npz")


MISTAKES = {
    "no_gallery": (("info",), "expected a gallery: the path of its file"),
    "both": (("info", "a", "--store=postgresql://h/d"), "expected a gallery"),
    "url": (("info", "--store=mysql://h/d"), r"expected the URL of a PostgreSQL server"),
    "missing": (("info", "none.gallery"), "found nothing; make one with search.py build"),
    "no_images": (("build", "new.gallery"), "expected images: --features FILE, or --images PATH"),
    "other_action": (("info", "a", "--rerank"), "--rerank goes with query, not with info"),
    "no_reason": (("query", "PEOPLE", "--entry=1"), "queries .* are logged: expected who asks and why"),
    "no_entry": (("query", "PEOPLE", "--entry=99", "--why=x"), "there is no entry 99"),
    "filter": (("query", "PEOPLE", "--entry=1", "--why=x", "--camera=moon"), r"passes the filter \(camera moon\)"),
    "unreadable": (("query", "PEOPLE", *MODEL, "--images=text.jpg", "--why=x"), "text.jpg.*image"),
    "box": (("query", "PEOPLE", *MODEL, "--images=photos/0.png", "--box=1,2", "--why=x"), "expected --box LEFT,TOP"),
    "outside": (
        ("query", "PEOPLE", *MODEL, "--images=photos/0.png", "--box=900,0,950,9", "--why=x"),
        "box 1 of 1, .* has no pixel",
    ),
    "time": (("remove", "PEOPLE", "--since=noon"), "expected --since such as 2026-11-28T10:30"),
    "nothing": (("remove", "PEOPLE", "--identity=Zoe"), "fits identity Zoe; nothing was removed"),
    "two_ways": (("remove", "PEOPLE", "--identity=Zoe", "--file=0.png"), "expected one way to choose"),
    "span": (("add", "PEOPLE", *MODEL, "--images=photos", "--keep=soon"), "expected a span of time"),
    "exists": (("build", "PEOPLE", *MODEL, "--images=photos"), "exists already"),
    "table": (
        ("add", "PEOPLE", *MODEL, "--images=photos", "--prefix=x/", "--table=bad.csv"),
        "files of the table among the images, 1 of them",
    ),
}


def test_mistakes_are_one_sentence(colors, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "bad.csv").write_text("file,identity\nnone.png,Ann\n")
    assert run("build", "PEOPLE", *MODEL, "--images=photos") == 0
    before = (tmp_path / "PEOPLE").read_bytes()
    for name, (words, message) in MISTAKES.items():
        with pytest.raises(errors.UserError, match=message) as told:
            run(*words)
        assert "\n" not in str(told.value), name
    assert (tmp_path / "PEOPLE").read_bytes() == before
    assert not (tmp_path / "new.gallery").exists()
