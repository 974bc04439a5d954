"""The extract command and its parts: detection of sources, features files, errors, and use from Python."""

import csv
import doctest
import hashlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reid_jax import build, errors, models, trees
from reid_jax import config as config_lib
from reid_jax.cli import evaluate, extract
from reid_jax.data import builders, image_io, prepare
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import image_files, ranking
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.inference import published, sources
from reid_jax.models.backbones import resnet
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import trained
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints, state
from reid_jax.weights import convert, zoo

TINY = {"size": "resnet18", "depths": (1, 1, 1, 1), "width": 4}
SIZE = {"data.height": 32, "data.width": 16, "evals.batch_size": 8}


@pytest.fixture(scope="module")
def market_folder(market, tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    market.write(folder, height=40, width=20, shots=2, cameras=2)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file in the layout of BoT's authors: their names, nine identities, a frozen bias."""
    model = models.build("bot", num_classes=9, **TINY)
    batch = {"image": jax.ShapeDtypeStruct((1, 32, 16, 3), jnp.float32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key, batch: model.init(key, batch, train=False), key, batch)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        value = random.normal(0.0, 0.3, leaf.shape)
        return (np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    flat = convert.to_torch(variables, ((r"^backbone\.", "base."), (r"^head(_|\.)b\.", "")))
    flat["bottleneck.bias"] = np.zeros(32, np.float32)
    flat["base.bn1.num_batches_tracked"] = np.array(7)
    path = tmp_path_factory.mktemp("weights") / "bot.npz"
    np.savez(path, **flat)
    return path


@pytest.fixture(scope="module")
def bot(weights):
    return published.from_weights("bot", weights, options=TINY, overrides=SIZE)


@pytest.fixture
def photos(tmp_path):
    """A folder with every image format, subfolders, a hidden folder, and a file that is not an image."""
    folder = tmp_path / "photos"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    random = np.random.default_rng(1)
    formats = {
        "b.jpg": "JPEG",
        "a.PNG": "PNG",
        "sub/c.bmp": "BMP",
        "sub/deep/d.tif": "TIFF",
        "e.webp": "WEBP",
        ".thumbnails/f.jpg": "JPEG",
    }
    for index, (name, kind) in enumerate(formats.items()):
        pixels = random.integers(0, 256, (40 + index, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, kind)
    (folder / "notes.txt").write_text("not an image")
    return folder


NAMES = ["a.PNG", "b.jpg", "e.webp", "sub/c.bmp", "sub/deep/d.tif"]


def test_one_image_is_a_source(photos):
    """A file is described like a folder that holds it alone; a CSV file stays a data set."""
    assert doctest.testmod(features_lib).failed == 0
    for dataset in (None, sources.PLAIN):
        source = sources.open_source(photos / "sub" / "c.bmp", dataset=dataset)
        (split,) = source.splits.values()
        assert (source.kind, split.filenames, source.root) == ("plain images", ("c.bmp",), str(photos / "sub"))
        assert split.source[0]["image"].shape == (42, 20, 3)
    with pytest.raises(errors.UserError, match=r"expected .* an image .* or a CSV file"):
        sources.open_source(photos / "notes.txt")


def test_command_extracts_a_plain_folder(weights, bot, photos, tmp_path, capsys):
    output = tmp_path / "new" / "features.npz"
    arguments = ["--model=bot", f"--weights={weights}", f"--images={photos}", f"--output={output}", "--batch-size=8"]
    assert (
        extract.main(
            [
                *arguments,
                "--height=32",
                "--width=16",
                "--option=width=4",
                "--option=depths=(1,1,1,1)",
                "--option=size=resnet18",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "plain images: 5 images" in printed
    assert "images/s" in printed
    with np.load(output) as file:
        assert sorted(file.files) == ["features", "meta", "names"]
        features, names, meta = file["features"], file["names"].tolist(), json.loads(str(file["meta"]))
    assert names == NAMES
    assert features.shape == (5, 32)
    assert features.dtype == np.float32
    assert meta["weights"] == {"file": "bot.npz", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert meta["normalized"] is True
    assert meta["metric"] == "cosine"
    assert meta["model"] == {"name": "bot", "width": 4, "depths": [1, 1, 1, 1], "size": "resnet18"}
    assert meta["preprocessing"] == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "height": 32,
        "width": 16,
        "interpolation": "bilinear",
    }
    assert [file.name for file in output.parent.iterdir()] == ["features.npz"]

    # The same features from Python, and from explicit resizing, normalization and a forward pass.
    extractor, variables = bot
    loaded = [sources.load_image(photos / name) for name in NAMES]
    np.testing.assert_allclose(extractor.images(variables, loaded).features, features, atol=2e-6)
    pixels = np.stack([image_io.resize(image, 32, 16) for image in loaded]).astype(np.float32) / 255
    batch = {"image": (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])}
    model = extractor.model
    expected = jax.jit(lambda variables, batch: model.describe(model.apply(variables, batch, train=False)).features)
    np.testing.assert_allclose(expected(jax.device_get(variables), batch), features, atol=2e-5)


def test_weights_are_loaded_strictly_except_for_the_classifier(weights, bot, tmp_path, caplog):
    _, variables = bot
    with np.load(weights) as file:
        flat = dict(file)
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, flat["base.conv1.weight"].transpose(2, 3, 1, 0))
    with caplog.at_level("INFO"):
        published.from_weights("bot", weights, options=TINY, overrides=SIZE)
    assert "1 misfit" in caplog.text
    assert "classifier.weight" in caplog.text
    assert "missing" not in caplog.text
    del flat["base.layer1.0.conv1.weight"]
    np.savez(tmp_path / "less.npz", **flat)
    with pytest.raises(errors.UserError, match="1 missing"):
        published.from_weights("bot", tmp_path / "less.npz", options=TINY, overrides=SIZE)


@pytest.fixture(scope="module")
def resnet_weights(root):
    golden = np.load(root / "tests" / "golden" / "resnet.npz")
    return {name.removeprefix("weights/"): golden[name] for name in golden.files if name.startswith("weights/")}


@pytest.mark.parametrize("name", ["bot", "mfv"])
def test_resnet_weights_fill_the_backbone_only(name, resnet_weights, tmp_path):
    path = tmp_path / "resnet.npz"
    np.savez(path, **resnet_weights)
    options = {"depths": (2, 1, 2, 1), "width": 8}
    model = models.build(name, num_classes=5, **options, **({"tfe_depths": (1, 1, 1)} if name == "mfv" else {}))
    batch = {"image": jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key, batch: model.init(key, batch, train=False), key, batch)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    loaded, report = models.load_weights(name, zeros, path, allow_missing=config_lib.defaults().init.allow_missing)
    assert {entry.fate for entry in report.entries} <= {"loaded", "reshaped", "ignored"}
    for path, leaf in trees.flatten(loaded).items():
        assert leaf.any() == ("/backbone/" in path), path
    # Extraction requires the weights of the whole model.
    with pytest.raises(errors.UserError, match="not those of this model"):
        published.from_weights(name, tmp_path / "resnet.npz", options=options, overrides=SIZE)


def test_a_backbone_of_the_zoo(resnet_weights, tmp_path):
    path = tmp_path / "resnet.npz"
    np.savez(path, **resnet_weights)
    options = {"depths": (2, 1, 2, 1), "width": 8}
    extractor, variables = published.from_weights("resnet50", path, options=options, overrides=SIZE)
    image = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    features = extractor.images(variables, [image]).features
    backbone = resnet.ResNet(**options, last_stride=2, stem_relu=True)
    inner = {name: jax.device_get(tree["backbone"]) for name, tree in variables.items()}
    pixels = (image[None] / 255 - config_lib.IMAGENET_MEAN) / config_lib.IMAGENET_STD
    forward = jax.jit(lambda inner, pixels: backbone.apply(inner, pixels, train=False)["stage4"].mean((1, 2)))
    pooled = forward(inner, pixels.astype(np.float32))
    np.testing.assert_allclose(features, pooled / np.linalg.norm(pooled), atol=1e-5)
    # A frame with boxes, in OpenCV's order of channels; the second box reaches outside and is the whole image.
    frame = np.concatenate([np.zeros_like(image), image], axis=1)[:, :, ::-1]
    found = extractor.images(variables, frame, [(0, 0, 16, 32), (16.0, -3.0, 40.0, 32.0)], channels="bgr")
    np.testing.assert_allclose(found.features[1:], features, atol=1e-6)
    assert np.abs(found.features[0] - features[0]).max() > 1e-2
    nothing = extractor.images(variables, [])
    assert nothing.features.shape == (0, features.shape[1])
    assert nothing.visibility is None


def test_few_images_cost_a_small_batch(monkeypatch):
    """Batches are padded to the next power of two that the devices divide, up to the config's size."""
    sizes = []
    settings = zoo.settings("bot", TINY, {**SIZE, "evals.batch_size": 64})
    extractor = extractor_lib.Extractor(build.build_model(settings, 1), settings, mesh_lib.create_mesh())
    monkeypatch.setattr(extractor, "split", lambda variables, split, *, batch_size: sizes.append(batch_size))
    devices = extractor.mesh.size
    for count in (1, 2, 3, 5, 8, 9, 33, 64, 65, 200):
        extractor.images({}, np.zeros((count, 4, 4, 3), np.uint8))
    assert sizes == [max(size, devices) for size in (1, 2, 4, 8, 8, 16, 64, 64, 64, 64)]


def test_raw_and_prepared_data_sets_give_a_feature_set(bot, market_folder, tmp_path):
    source = sources.open_source(market_folder)
    assert source.kind == "data set market1501"
    outcome = features_lib.write_features(*bot, source, tmp_path / "raw.npz")
    features = FeatureSet.load(tmp_path / "raw.npz")
    assert outcome.images == {"query": features.num_query, "gallery": features.num_gallery}
    assert outcome.images_per_second > 0
    for side in ("query", "gallery"):
        names = getattr(features, f"{side}_names")
        assert all((market_folder / name).is_file() for name in names)
        parts = [name.rpartition("/")[2].replace("_c", " ").replace("s1", " ").split() for name in names]
        assert getattr(features, f"{side}_ids").tolist() == [int(part[0]) for part in parts]
        assert getattr(features, f"{side}_cams").tolist() == [int(part[1]) - 1 for part in parts]
    assert {-1, 0} <= set(features.gallery_ids.tolist())
    assert features.meta["dataset"] == "market1501"
    assert features.meta["source"] == str(market_folder)
    assert features.metric == "cosine"
    assert ranking.evaluate(features).mAP > 0
    # The folder above is searched by the builder, the prepared one is opened.
    prepare.prepare("market1501", tmp_path, market_folder)
    source = sources.open_source(tmp_path / "prepared" / "market1501")
    assert source.kind == "prepared data set market1501"
    features_lib.write_features(*bot, source, tmp_path / "prepared.npz", metric="euclidean")
    again = FeatureSet.load(tmp_path / "prepared.npz")
    np.testing.assert_array_equal(again.gallery_features, features.gallery_features)
    assert again.gallery_names == features.gallery_names
    assert again.metric == "euclidean"
    with pytest.raises(errors.UserError, match="contains the prepared data set 'market1501'"):
        sources.open_source(tmp_path / "prepared" / "market1501", dataset="reid_folder")


def test_published_weights_are_evaluated_like_their_features(bot, market_folder, photos, tmp_path, monkeypatch, capsys):
    features_lib.write_features(*bot, sources.open_source(market_folder), tmp_path / "f.npz")
    monkeypatch.setattr(published, "from_weights", lambda name, weights: {("bot", "w.npz"): bot}[name, weights])
    (tmp_path / "w.npz").touch()
    monkeypatch.chdir(tmp_path)
    given = ["--weights=w.npz", "--model=bot", f"--images={market_folder}"]
    assert evaluate.main([*given, "--output=direct.json"]) == 0
    assert evaluate.main(["--features=f.npz", "--output=file.json"]) == 0
    direct, through_file = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("direct", "file"))
    assert direct == through_file
    assert evaluate.main([*given, "--html=page.html"]) == 0
    assert "data:image" in (tmp_path / "page.html").read_text()
    capsys.readouterr()
    for arguments, sentence in (
        (["--weights=w.npz", f"--images={market_folder}"], "expected --model NAME with --weights w.npz"),
        (["--weights=w.npz", "--model=bot"], "expected --images DIR with --weights"),
        ([*given[:2], f"--images={photos}"], "expected a data set with query and gallery as --images, found plain"),
        (["--features=f.npz", "--model=bot"], "--model needs --weights"),
        (["--weights=w.pth", "--model=bot", f"--images={photos}"], "as --weights, found nothing"),
    ):
        with pytest.raises(errors.UserError, match=sentence):
            evaluate.main(arguments)


def test_own_images_keep_names_paths_and_people(bot, photos, tmp_path):
    folder = tmp_path / "own"
    images = {"query/anna/0.jpg": "b.jpg", "gallery/anna/0.jpg": "b.jpg", "gallery/ben/0.jpg": "a.PNG"}
    for name, photo in images.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes((photos / photo).read_bytes())
    (folder / "gallery" / "notes.txt").touch()
    source = sources.open_source(folder)
    assert len(source.notes) == 1
    assert "notes.txt" in source.notes[0]
    outcome = features_lib.write_features(*bot, source, tmp_path / "own.npz")
    assert "warning: 1 of 1 queries are in the gallery as the same image" in outcome.text()
    features = FeatureSet.load(tmp_path / "own.npz")
    assert [*features.query_names, *features.gallery_names] == list(images)
    assert features.meta["source"] == str(folder)
    assert [features.person(pid) for pid in features.gallery_ids] == ["anna", "ben"]
    found = image_files.ImageFiles(features.meta["source"], features)
    np.testing.assert_array_equal(found("gallery", 1), sources.load_image(folder / "gallery/ben/0.jpg"))


def test_own_images_in_the_folders_of_a_benchmark(photos, tmp_path):
    for name in ("bounding_box_train/0001_c1_7.png", "query/0002_c1_7.png", "bounding_box_test/0002_c2_7.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((photos / "b.jpg").read_bytes())
    assert sources.open_source(tmp_path).kind == "data set reid_folder"


def test_kind_of_a_folder_is_detected(market_folder, photos, tmp_path, monkeypatch):
    assert set(sources.open_source(photos).splits) == {"images"}
    assert set(sources.open_source(market_folder, dataset="plain").splits) == {"images"}
    own = tmp_path / "own"
    for split in ("query", "gallery"):
        (own / split / "anna").mkdir(parents=True)
        (own / split / "anna" / f"{split}_c1.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert sources.open_source(own).kind == "data set reid_folder"
    with open(photos / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "pid", "split"), ("b.jpg", 1, "query"), ("a.PNG", 1, "gallery")])
    assert sources.open_source(photos / "list.csv").splits["query"].filenames == ("b.jpg",)
    with pytest.raises(errors.UserError, match="expected the folders bounding_box_train"):
        sources.open_source(photos, dataset="market1501")
    with pytest.raises(errors.UserError, match="prepare it and give the prepared folder"):
        sources.open_source(photos, dataset="synthped")
    # Two data sets of the same layout: the published counts decide, otherwise the user.
    module = builders.load("market1501")
    fits = types.SimpleNamespace(
        FOLDERS=module.FOLDERS, scan=module.scan, Builder=module.Builder, PUBLISHED={"query": {"images": 8}}
    )
    monkeypatch.setattr(builders, "available", lambda: ["market1501", "twin"])
    monkeypatch.setattr(builders, "load", lambda name: fits if name == "twin" else module)
    assert sources.open_source(market_folder).dataset == "twin"
    monkeypatch.setattr(builders, "load", lambda name: module)
    with pytest.raises(errors.UserError, match="of market1501 and of twin; choose one"):
        sources.open_source(market_folder)


def test_unreadable_images_fail_or_are_skipped(bot, photos, tmp_path):
    whole = (photos / "b.jpg").read_bytes()
    (photos / "bad.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").write_bytes(b"")
    output = tmp_path / "out" / "features.npz"
    with pytest.raises(errors.UserError, match=r"(bad\.jpg|empty\.png).*--on-bad-image skip"):
        features_lib.write_features(*bot, sources.open_source(photos), output)
    assert not output.parent.exists()  # a refused run leaves no folder
    outcome = features_lib.write_features(*bot, sources.open_source(photos, on_bad_image="skip"), output)
    assert len(outcome.skipped) == 2
    assert "warning: skipped:" in outcome.text()
    with np.load(output) as file:
        assert file["names"].tolist() == NAMES
        assert file["features"].shape == (5, 32)
        loaded = [sources.load_image(photos / name) for name in NAMES]
        np.testing.assert_allclose(file["features"], bot[0].images(bot[1], loaded).features, atol=2e-6)


def test_newest_and_best_checkpoint_of_a_run_folder(bot, photos, tmp_path, capsys):
    config = config_lib.defaults()
    config.system = "bot"
    config.model = {"name": "bot", **TINY}
    config_lib.override(config, {**SIZE, "evals.metric": "cosine"})
    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(config)
    with pytest.raises(errors.UserError, match="no checkpoint"):
        trained.from_run(folder.path)
    extractor, first = bot
    second = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf) + np.float32(0.1), leaf.sharding), first)
    with checkpoints.Checkpoints(folder.checkpoints, best_metric="score") as saved:
        saved.save(10, state.create(first), {"num_classes": 1}, {"score": 0.9}, wait=True)
        saved.save(20, state.create(second), {"num_classes": 1}, {"score": 0.2}, wait=True)
    image = sources.load_image(photos / "b.jpg")
    for best, variables in ((True, first), (False, second)):
        loaded, restored = trained.from_run(folder.path, best=best)
        assert loaded.origin["step"] == (10 if best else 20)
        expected = extractor.images(variables, [image]).features
        np.testing.assert_array_equal(loaded.images(restored, [image]).features, expected)
    output = tmp_path / "features.npz"
    assert extract.main([f"--run={folder.path}", "--best", f"--images={photos}", f"--output={output}"]) == 0
    with np.load(output) as file:
        meta = json.loads(str(file["meta"]))
        assert file["features"].shape == (5, 32)
    assert len(meta["weights"].pop("sha256")) == 64
    assert meta["weights"] == {"run": "run", "step": 10, "config_hash": config_lib.config_hash(config)}
    assert trained.from_run(folder.path, overrides={"evals.flip": True})[0].settings.evals.flip is True
    assert "5 images: 32 values each" in capsys.readouterr().out


def test_random_weights_are_recorded(bot, photos, tmp_path, monkeypatch):
    seeds = []

    def init(model, settings, batch):  # compiling the initialization would dominate the test
        seeds.append(settings.seed)
        assert batch["image"].shape == (1, 32, 16, 3)
        return bot[1]

    monkeypatch.setattr(build, "init_variables", init)
    output = tmp_path / "features.npz"
    arguments = ["--model=bot", "--random-weights", "--seed=3", f"--images={photos}", f"--output={output}"]
    tiny = [
        "--batch-size=8",
        "--height=32",
        "--width=16",
        "--option=width=4",
        "--option=depths=(1,1,1,1)",
        "--option=size=resnet18",
    ]
    assert extract.main([*arguments, *tiny]) == 0
    assert seeds == [3]
    with np.load(output) as file:
        assert json.loads(str(file["meta"]))["weights"] == {"random": True, "seed": 3}


ERRORS = {
    "nothing": ((), "either --run DIR or --model NAME"),
    "both": (("--run=r", "--model=bot"), "either --run DIR or --model NAME"),
    "no weights": (("--model=bot", "--images=."), "needs --weights FILE"),
    "two weights": (("--model=bot", "--weights=w", "--random-weights", "--images=."), "one of the two"),
    "model": (("--model=bott", "--random-weights"), "unknown model 'bott'; did you mean 'bot'?"),
    "no such weights": (("--model=bot", "--weights=no.pth", "--images=.", "--output=f.npz"), "found nothing at no.pth"),
    "no images": (("--model=bot", "--random-weights", "--output=f.npz"), "expected --images PATH"),
    "no such images": (("--model=bot", "--random-weights", "--images=no", "--output=f.npz"), "there is no no"),
    "empty folder": (("--model=bot", "--random-weights", "--images=.", "--output=f.npz"), "expected images"),
    "no output": (("--model=bot", "--random-weights", "--images=."), "expected --output FILE"),
    "output": (("--model=bot", "--random-weights", "--images=.", "--output=f.csv"), "end in .npz"),
    "size of a run": (("--run=r", "--height=32", "--output=f.npz"), "--height needs --model"),
    "no run": (("--run=r", "--output=f.npz"), "expected a run folder"),
    "metric": (("--run=r", "--output=f.npz", "--metric=cosin"), "did you mean 'cosine'"),
    "data set": (
        ("--run=r", "--images=.", "--dataset=market", "--output=f.npz"),
        "unknown data set 'market'; did you mean 'market1501'?",
    ),
    "bad image": (("--run=r", "--images=.", "--on-bad-image=drop", "--output=f.npz"), "value of --on-bad-image"),
    "field": (
        ("--model=bot", "--random-weights", "--images=image", "--output=f.npz", "--option=widht=4"),
        "did you mean 'width'",
    ),
    "size": (
        ("--model=mfv", "--random-weights", "--images=image", "--output=f.npz", "--height=50"),
        "multiples of 16",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), ERRORS.values(), ids=ERRORS)
def test_errors_are_a_single_sentence_and_nothing_is_written(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--images=image" in arguments:
        (tmp_path / "image").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "image" / "a.png")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.UserError) as raised:
        extract.main(list(arguments))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_model_of_the_zoo_can_be_built(capsys):
    assert extract.main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name, entry in zoo.ZOO.items():
        assert name in printed
        settings = zoo.settings(name)
        assert build.build_model(settings, 1) is not None
        assert settings.data.height == entry.height
        assert settings.evals.metric in ("cosine", "euclidean")
