"""Small galleries of drawn vectors."""

from __future__ import annotations

import numpy as np

from reid_jax.data import feature_set
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib

META = {"model": {"name": "bot"}, "weights": {"sha256": "a" * 64}, "metric": "cosine", "preprocessing": {"height": 64}}


def drawn(metric="cosine", queries=70, images=700, size=32, slots=0, seed=0, ties=True):
    """A feature set of people in four cameras, with repeated rows."""
    random = np.random.default_rng(seed)
    shape = (slots, size) if slots else (size,)
    centers = random.normal(size=(40, *shape))
    ids = [random.integers(0, 40, count) for count in (queries, images)]
    features = [centers[each] + 0.7 * random.normal(size=(len(each), *shape)) for each in ids]
    if ties:
        for _ in range(images // 5):
            features[1][random.integers(images)] = features[1][random.integers(images)]
    visibility = [None, None]
    if slots:
        visibility = [random.integers(0, 2, (len(each), slots)).astype(np.float32) for each in ids]
    return feature_set.FeatureSet(
        *(each.astype(np.float32) for each in features),
        *(each + 1 for each in ids),
        *(random.integers(0, 4, len(each)) for each in ids),
        query_names=[f"query/{row}.jpg" for row in range(queries)],
        gallery_names=[f"gallery/{row}.jpg" for row in range(images)],
        query_visibility=visibility[0],
        gallery_visibility=visibility[1],
        meta={**META, "metric": metric},
    )


def bound(features):
    """The binding of a feature set."""
    shape = features.gallery_features.shape[1:]
    return binding_lib.Binding.of_meta(features.meta, shape, features.gallery_visibility is not None)


def entries(features, rows=None):
    """The gallery of a feature set as entries; every second one with a thumbnail."""
    rows = range(features.num_gallery) if rows is None else rows
    everything = entries_lib.Entries(
        features.gallery_names,
        features.gallery_features,
        features.gallery_visibility,
        identities=[f"person {pid}" if pid % 5 else None for pid in features.gallery_ids],
        cameras=[f"c{camera}" if camera else None for camera in features.gallery_cams],
        times=[1000.0 + row if row % 3 else None for row in range(features.num_gallery)],
        tracks=[f"track {row // 4}" if row % 2 else None for row in range(features.num_gallery)],
        thumbnails=[b"picture %d" % row if row % 2 else None for row in range(features.num_gallery)],
    )
    return everything.take(list(rows))
