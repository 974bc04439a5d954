"""Published weights by name: where the file is looked for, what is fetched, and the sentences of what cannot be had."""

import hashlib

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.weights import download, hub
from tests.helpers import faulty_store, file_server

CONTENT = b"weights"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder of weights, and torchvision's own, both empty; the network is out of reach."""
    monkeypatch.setenv(hub.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(download, "fetch", lambda *_, **__: pytest.fail("nothing may be fetched"))
    for name in (hub.OFFLINE, hub.MIRROR, "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "weights").mkdir()
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    return tmp_path / "weights", tmp_path / "torch/hub/checkpoints"


def entry(**changes):
    values = {"file": "a.pth", "url": "http://127.0.0.1:9/a.pth", "publisher": "nobody", "page": "http://127.0.0.1:9"}
    return hub.Entry(**{**values, "trained_on": "noise", "license": "none", **changes})


def test_the_table_is_consistent():
    files = [one.file for one in hub.ENTRIES.values()]
    assert len(set(files)) == len(files)
    assert not set(files) & set(hub.ENTRIES)
    for name, one in hub.ENTRIES.items():
        assert one.url.startswith("https://") or not one.url, name
        assert one.page.startswith("https://"), name
        assert all((one.license, one.trained_on, one.publisher)), name
        # A hash is stated where the publisher's own file name carries it, and nowhere else.
        stem = one.url.rpartition("/")[2].removesuffix(".pth").rpartition("-")[2]
        named = stem if len(stem) == 8 and set(stem) <= set("0123456789abcdef") else ""
        assert one.sha256 == named, name
        assert hub.name_of(name) == hub.name_of(one.file) == name


def test_a_file_is_found_in_the_folder_of_weights_and_in_torchs(folders, monkeypatch):
    monkeypatch.setitem(hub.ENTRIES, "a", entry(sha256=hashlib.sha256(CONTENT).hexdigest()[:8]))
    assert hub.locate("a") is None
    (folders[1] / "a.pth").write_bytes(CONTENT)
    assert hub.resolve("a") == hub.resolve("a.pth") == folders[1] / "a.pth"
    (folders[0] / "a.pth").write_bytes(CONTENT)
    assert hub.get("a") == folders[0] / "a.pth"
    assert hub.label("a", hub.get("a")) == f"a, a.pth (sha256 {hashlib.sha256(CONTENT).hexdigest()[:12]})"


def test_a_file_with_another_hash_is_refused_on_every_use(folders, monkeypatch):
    monkeypatch.setitem(hub.ENTRIES, "a", entry(sha256="00000000"))
    (folders[0] / "a.pth").write_bytes(CONTENT)
    for _ in range(2):
        with pytest.raises(errors.UserError, match=r"starts with 00000000, got one that starts with .*remove it"):
            hub.get("a")


def test_a_file_that_changes_is_hashed_again(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(CONTENT)
    first = hub.sha256_of(path)
    path.write_bytes(CONTENT + b"!")
    assert hub.sha256_of(path) != first


@pytest.mark.parametrize("variable", [hub.OFFLINE, "HF_HUB_OFFLINE"])
def test_offline_the_sentence_says_which_file_belongs_where(folders, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(errors.UserError) as caught:
        hub.resolve("resnet50_imagenet", otherwise=", or train from scratch")
    sentence = str(caught.value)
    assert variable in sentence
    assert f"into {folders[0]}, or train from scratch." in sentence
    assert (
        "put the file resnet50-19c8e357.pth from https://download.pytorch.org/models/resnet50-19c8e357.pth" in sentence
    )
    assert "\n" not in sentence


def test_without_a_direct_link_the_page_is_named(folders):
    with pytest.raises(
        errors.UserError, match=r"no direct link.*put the file ckpt_.*399\.pth from https://github\.com"
    ):
        hub.get("hap_vit_base")


def test_a_file_is_fetched_into_the_folder_and_from_a_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv(hub.FOLDER, str(tmp_path / "new/weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(hub.OFFLINE, raising=False)
    with file_server.serving() as server:
        server.files["/a.pth"] = CONTENT
        monkeypatch.setitem(hub.ENTRIES, "a", entry(url=f"{server.url}/a.pth"))
        assert hub.get("a").read_bytes() == CONTENT
        hub.get("a")
        assert len(server.requests) == 1
        monkeypatch.setenv(hub.MIRROR, f"{server.url}/mirror/")
        server.files["/mirror/osnet_x0_25_imagenet.pth"] = CONTENT
        assert hub.get("osnet_x0_25_imagenet") == tmp_path / "new/weights/osnet_x0_25_imagenet.pth"
        with pytest.raises(
            errors.UserError, match=r"cannot be fetched: 127\.0\.0\.1:\d+ answers 404 .*put the file osn"
        ):
            hub.get("osnet_x1_0_imagenet")
        server.files["/mirror/resnet50-19c8e357.pth"] = CONTENT
        with pytest.raises(errors.UserError, match="another file than the published one"):
            hub.get("resnet50_imagenet")
    assert sorted(path.name for path in (tmp_path / "new/weights").iterdir()) == ["a.pth", "osnet_x0_25_imagenet.pth"]


def test_the_variables_of_hugging_faces_client_mean_the_same_here(tmp_path, monkeypatch):
    monkeypatch.setenv(hub.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for name in (hub.OFFLINE, hub.MIRROR, "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with file_server.serving() as server, file_server.serving() as storage:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        there = "/timm/resnet50.a1_in1k/resolve/main/model.safetensors"
        server.redirects[there] = (f"{storage.url}/blob", {"X-Linked-Etag": hashlib.sha256(CONTENT).hexdigest()})
        storage.files["/blob"] = CONTENT
        assert hub.get("resnet50_a1").read_bytes() == CONTENT
        # The token is for the server that it belongs to, not for where that one leads.
        assert server.tokens == ["Bearer hf_secret"]
        assert storage.tokens == [""]
        monkeypatch.setitem(hub.ENTRIES, "a", entry(url=f"{storage.url}/blob"))
        hub.get("a")
        assert storage.tokens == ["", ""]
    (tmp_path / "weights" / "resnet50.a1_in1k.safetensors").unlink()
    model = tmp_path / "hf/hub/models--timm--resnet50.a1_in1k"
    kept = model / "snapshots/0123abcd/model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT)
    assert hub.locate("resnet50_a1") is None
    (model / "refs").mkdir()
    (model / "refs/main").write_text("0123abcd")
    assert hub.get("resnet50_a1") == kept


def test_a_check_fetches_nothing(folders):
    hub.check("resnet50_imagenet")  # it could be fetched
    with pytest.raises(errors.UserError, match="no direct link"):
        hub.check("hap_vit_base")
    with pytest.raises(errors.UserError, match="did you mean 'resnet50_imagenet'"):
        hub.check("resnet50_imagnet")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("resnet50_imagnet", "unknown weights 'resnet50_imagnet'; did you mean 'resnet50_imagenet'"),
        ("absent.pth", r"expected a weights file, found nothing at absent\.pth; give the path of the file, or a name"),
        ("runs/mfv/none", "expected a weights file, found nothing at runs/mfv/none"),
        ("x" * 5000, r"^.{,1500}$"),
    ],
)
def test_what_is_neither_file_nor_name_is_one_sentence(folders, text, sentence):
    with pytest.raises(errors.UserError, match=sentence):
        hub.resolve(text)


def test_a_folder_is_no_file(folders, tmp_path):
    with pytest.raises(errors.UserError, match="found a folder at"):
        hub.resolve(str(tmp_path))
    own = tmp_path / "own.npz"
    np.savez(own, a=np.zeros(1))
    assert hub.resolve(str(own)) == own


bucket = faulty_store.bucket


def test_weights_in_an_object_store_are_fetched(bucket):
    bucket.files.pipe_file("bucket/w/model.npz", b"numbers")
    hub.check("memory://bucket/w/model.npz", key="init.weights")
    path = hub.resolve("memory://bucket/w/model.npz")
    assert path.name == "model.npz"
    assert path.read_bytes() == b"numbers"
    with pytest.raises(errors.UserError, match=r"expected an object as init.weights at memory://bucket/w/none"):
        hub.check("memory://bucket/w/none.npz", key="init.weights")
