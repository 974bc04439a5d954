"""The table of models: fields mean the same everywhere."""

from __future__ import annotations

import dataclasses

import pytest

from reid_jax import models

# Types that a size field may have as its default, by the end of its name.
SIZE_FIELDS = {
    "size": (str,),
    "width": (int, type(None)),
    "depth": (int, type(None)),
    "depths": (tuple, type(None)),
    "heads": (int, type(None)),
    "pooling": (str,),
    "test_feature": (str,),
}
# The same under other names.
SYNONYMS = ("variant", "features", "pool", "channels", "layers", "num_heads", "num_layers", "eval_feature", "dim")


@pytest.mark.parametrize("name", models.MODELS)
def test_size_fields_mean_the_same_in_every_model(name):
    for field in dataclasses.fields(models.MODELS[name]):
        assert field.name not in SYNONYMS
        kind = field.name if field.name in SIZE_FIELDS else field.name.rpartition("_")[2]
        if kind in SIZE_FIELDS and field.name != "image_size":
            assert isinstance(field.default, SIZE_FIELDS[kind]), field.name
