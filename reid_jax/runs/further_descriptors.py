"""Scores of further descriptors of one trained model, such as the mean of its patch tokens (`evals.descriptors`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from reid_jax import build, errors, models
from reid_jax import config as config_lib
from reid_jax.config import option_values
from reid_jax.data import feature_set, records
from reid_jax.evaluation import ranking, robustness
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib

# Second parts of the keys of `result.json` that mean something else.
TAKEN = ("baseline", "reconstruction", "rerank", "rounds", "unweighted", "verification", *robustness.PROTOCOLS)


def extractors(
    settings: config_lib.Settings, num_classes: int, num_cameras: int, mesh: jax.sharding.Mesh
) -> dict[str, extractor_lib.Extractor]:
    """Returns an extractor for each of `evals.descriptors`.

    Args:
        settings: settings of the run.
        num_classes: training identities.
        num_cameras: training cameras.
        mesh: devices.

    Raises:
        UserError: a name that scores have already, or an option that the model does not have.
    """
    made = {}
    for name, options in settings.evals.descriptors.items():
        if name in TAKEN or "/" in name:
            raise errors.UserError(
                f"expected a new name without '/' in evals.descriptors, got {name!r}; rename it, for instance "
                f"{name.replace('/', '_')}_feature."
            )
        models.check_options(settings.model["name"], list(options))
        model_class = models.constructor(settings.model["name"])
        option_values.check(f"evals.descriptors.{name}", model_class, options)
        changed = dataclasses.replace(settings, model={**settings.model, **options})
        model = build.build_model(changed, num_classes, num_cameras)
        made[name] = extractor_lib.Extractor(model, changed, mesh)
        _try(made[name])
    return made


def _try(extractor: extractor_lib.Extractor) -> None:
    """Traces a description, so that a misspelled value is reported before training and not after it."""
    preprocess = build.make_preprocess(extractor.settings.preprocess)

    def describe(key: jax.Array) -> Any:
        outputs, _ = extractor.model.init_with_output(key, preprocess(extractor.example_batch()), train=False)
        return extractor.model.describe(outputs)

    jax.eval_shape(describe, jax.random.key(0))


def scores(
    made: Mapping[str, extractor_lib.Extractor], variables: build.Variables, dataset: records.ReIDDataset
) -> dict[str, Any]:
    """Returns `<data set>/<descriptor>/mAP` and so on, and with corruptions `<data set>/<descriptor>/corrupted/mAP`.

    Args:
        made: see `extractors`.
        variables: variables to evaluate.
        dataset: data set with query and gallery.
    """
    values: dict[str, Any] = {}
    for name, extractor in made.items():
        values |= _measured(name, extractor, variables, dataset)
    return {**values, "descriptors": list(made)} if made else {}


def network_scores(
    networks: Mapping[str, build.Variables], extractor: extractor_lib.Extractor, dataset: records.ReIDDataset
) -> dict[str, Any]:
    """Returns `<data set>/<network>/mAP` and so on, and with corruptions `<data set>/<network>/corrupted/mAP`.

    Args:
        networks: by name, variables of the run's model (`evals.networks`).
        extractor: of the model.
        dataset: data set with query and gallery.
    """
    values: dict[str, Any] = {}
    for name, variables in networks.items():
        values |= _measured(name, extractor, variables, dataset)
    return {**values, "networks": list(networks)} if networks else {}


def _measured(
    name: str, extractor: extractor_lib.Extractor, variables: build.Variables, dataset: records.ReIDDataset
) -> dict[str, Any]:
    """Returns the clean and corrupted scores of one descriptor of one network, with its name in the keys."""
    evals = extractor.settings.evals
    meta = features_lib.feature_meta(extractor.settings)
    rule: dict[str, Any] = {"metric": evals.metric, "ap": evals.ap, "same_camera_filter": evals.same_camera_filter}
    describe = functools.partial(_describe, extractor, variables, meta)
    values: dict[str, Any] = dict(ranking.evaluate(describe(dataset), **rule).scores(f"{dataset.name}/{name}"))
    if evals.corruption_rounds:
        measured = robustness.evaluate(
            describe,
            dataset,
            rounds=evals.corruption_rounds,
            train_corruption=features_lib.train_corruption(extractor.settings),
            **rule,
        ).as_dict()
        marker = f"{dataset.name}/corrupted"
        values |= {
            key.replace(marker, f"{dataset.name}/{name}/corrupted", 1): value
            for key, value in measured.items()
            if key.startswith(marker)
        }
    return values


def _describe(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    meta: Mapping[str, Any],
    dataset: records.ReIDDataset,
) -> feature_set.FeatureSet:
    """Returns the features of a data set; its last argument varies between the rounds of corruptions."""
    return features_lib.describe_dataset(extractor, variables, dataset, meta)
