"""The model behind the page, a network of one convolution."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from reid_jax.app import image_engine
from reid_jax.gallery import binding
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features
from reid_jax.ops import taps
from reid_jax.ops.descriptors import Descriptor
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.weights import zoo
from tests.app import drawn_gallery


class Small(nn.Module):
    """The mean of a map."""

    @nn.compact
    def __call__(self, batch, train=False):
        x = taps.tap("last", nn.relu(nn.Conv(6, (4, 4), (8, 8))(batch["image"])), cut=True)
        return {"features": x.mean((1, 2))}

    def describe(self, outputs):
        return Descriptor(outputs["features"])


@pytest.fixture(scope="module")
def engine():
    settings = zoo.settings("bot", {}, {"data.height": 32, "data.width": 16, "dtype": "float32", "evals.flip": False})
    extractor = extractor_lib.Extractor(Small(), settings, mesh_lib.create_mesh())
    batch = {"image": np.zeros((1, 32, 16, 3), np.float32)}
    return image_engine.ModelEngine(extractor, Small().init(jax.random.key(0), batch))


def test_uploads_are_described_and_the_weights_are_hashed_once(engine, monkeypatch):
    picture = drawn_gallery.picture(1)
    bound = binding.Binding.of_extractor(engine.extractor, engine.variables, "cosine")
    assert len(bound.weights) == 64
    monkeypatch.setattr(features, "_sha256_of", None)
    described, references = engine.describe(drawn_gallery.file(picture), [], "cosine")
    described.binding.refuse_other(bound, "the upload")
    assert (described.names, references[0][:7]) == (("the upload",), "sha256:")
    expected = engine.extractor.images(engine.variables, [picture]).features
    np.testing.assert_array_equal(described.features, expected)


def test_an_explanation_has_the_similarity_of_the_embeddings(engine):
    pair = [drawn_gallery.picture(seed, size) for seed, size in ((1, (64, 32)), (2, (40, 20)))]
    found = engine.explain(*pair)
    one, other = (engine.extractor.images(engine.variables, [image]).features[0] for image in pair)
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found.similarity == pytest.approx(expected, abs=1e-5)
    assert found.query.startswith(b"\x89PNG")
    assert found.entry.startswith(b"\x89PNG")
    assert found.low <= 0 < found.high
    assert "not evidence of identity" in found.note
