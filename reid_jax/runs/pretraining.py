"""What a run of masked pretraining reports in addition: probes of the frozen encoder, drawings, and encoder files.

Models with `draws_masked = True` are evaluated. The labeled set is that of `data.name`; where training images come from
elsewhere (`data.sources`), its own training images serve the linear probe and the cameras' averages, and no training.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.config import sections
from reid_jax.data import feature_set, image_io, records
from reid_jax.evaluation import frozen_probes, ranking
from reid_jax.inference import extractor as extractor_lib
from reid_jax.runs import baselines, encoder_files, masked_drawing

MOST_MAPPED = 4096  # numbers of a plain feature that is mapped
MOST_FITTED = 4096


def is_pretraining(model: Any) -> bool:
    """Returns whether a model is pretrained by masks."""
    return bool(getattr(model, "draws_masked", False))


class Pretraining:
    """Probes, drawings and files of a run.

    Args:
        model: the masked autoencoder.
        settings: settings of the run.
        dataset: the run's data set: the training images that are seen, and the test images.
        extractor: of the model.
    """

    def __init__(
        self,
        model: Any,
        settings: config_lib.Settings,
        dataset: records.ReIDDataset,
        extractor: extractor_lib.Extractor,
    ) -> None:
        self.model, self.settings, self.dataset, self.extractor = model, settings, dataset, extractor

    @functools.cached_property
    def labeled(self) -> records.ReIDDataset:
        """The labeled set with its own training images."""
        return build.open_own(self.settings.data) if self.settings.data.sources else self.dataset

    @functools.cached_property
    def drawer(self) -> masked_drawing.Drawer:
        """Draws test images."""
        return masked_drawing.Drawer(self.model, self.settings, self.labeled)

    def probes(self, variables: build.Variables, features: feature_set.FeatureSet) -> dict[str, float]:
        """Returns scores of the frozen features: without their cameras' means, and behind a linear map.

        Args:
            variables: variables of the model.
            features: those of the test images.

        Returns:
            "<data set>/centered/mAP", "<data set>/linear/mAP" and the like.
        """
        name, evals = self.dataset.name, self.settings.evals
        found = {"centered": frozen_probes.centered(features)}
        train = self.labeled.split("train")
        if len(np.unique(train.pids)) > 1:
            trained = self.extractor.split(variables, train).features
            found["linear"] = frozen_probes.linear(features, frozen_probes.discriminant(trained, train.pids))
        scores: dict[str, float] = {}
        for probe, each in found.items():
            scores |= _ranked(each, evals).scores(f"{name}/{probe}")
        return scores

    def baselines(self, variables: build.Variables, start: str, features: feature_set.FeatureSet) -> dict[str, float]:
        """Returns what the linear map makes of features before training, and of pixels and colors.

        Args:
            variables: variables before training.
            start: name of that baseline.
            features: theirs, of the test images.

        Returns:
            "<data set>/baseline/<name>_linear/mAP" and the like.
        """
        train = self.labeled.split("train")
        if len(np.unique(train.pids)) < 2:
            return {}
        sets = {start: (features, self.extractor.split(variables, train).features)}
        images = np.stack(
            [
                image_io.resize(train.image(row), *self._size(), self.extractor.size["interpolation"])
                for row in self._rows()
            ]
        )
        for name, describe in baselines.SIMPLE_FEATURES.items():
            tested = baselines.extract_simple(describe, self.dataset, self.extractor.size)
            if tested.query_features.shape[1] <= MOST_MAPPED:
                sets[name] = (tested, describe(images))
        scores: dict[str, float] = {}
        for name, (tested, trained) in sets.items():
            pids = train.pids if name == start else train.pids[self._rows()]
            mapped = frozen_probes.linear(tested, frozen_probes.discriminant(trained, pids))
            scores |= _ranked(mapped, self.settings.evals).scores(f"{self.dataset.name}/baseline/{name}_linear")
        return scores

    def _size(self) -> tuple[int, int]:
        return self.extractor.size["height"], self.extractor.size["width"]

    def _rows(self) -> np.ndarray:
        """Returns the labeled training images that the maps of plain features are fitted to."""
        count = len(self.labeled.split("train"))
        return np.unique(np.linspace(0, count - 1, min(MOST_FITTED, count)).astype(int))

    def during(self, variables: build.Variables, features: feature_set.FeatureSet) -> dict[str, float]:
        """Returns the scores of an evaluation during training: the probes, and PSNR for the masks of training."""
        drawn = self.drawer.drawings(variables, (self.model.mask_kind,)).scores
        return {**self.probes(variables, features), **self._named(drawn)}

    def _named(self, scores: Mapping[str, float]) -> dict[str, float]:
        return {f"{self.dataset.name}/drawn/{name}": value for name, value in scores.items()}

    def finish(
        self,
        variables: build.Variables,
        features: feature_set.FeatureSet,
        folder: pathlib.Path,
        *,
        step: int,
        images: int,
        complete: bool,
    ) -> tuple[dict[str, float], masked_drawing.Drawings]:
        """Returns the final scores and drawings; writes encoder and decoder where training is complete."""
        drawings = self.drawer.drawings(variables)
        if complete:
            encoder_files.write_all(folder, variables, self.meta(step, images))
        return {**self.probes(variables, features), **self._named(drawings.scores)}, drawings

    def meta(self, step: int, images: int) -> dict[str, Any]:
        """Returns the `meta` of an encoder file."""
        return encoder_files.description(self.settings, self.model, self.dataset, step, images)


def _ranked(features: feature_set.FeatureSet, evals: sections.Evals) -> ranking.RankingResult:
    return ranking.evaluate(features, metric=evals.metric, ap=evals.ap, same_camera_filter=evals.same_camera_filter)


def summary(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the final table about drawings."""
    name = result["dataset"]
    lines = []
    for key in result:
        prefix, _, column = key.rpartition("/")
        if column == "drawn" and prefix.startswith(f"{name}/drawn/") and not prefix.endswith("/pattern"):
            fills = ("mean_fill", "camera_fill", "smooth_fill")
            drawn, mean, camera, smooth = (result[f"{prefix}/{each}"] for each in ("drawn", *fills))
            lines.append(
                f"  PSNR, {prefix.removeprefix(f'{name}/drawn/').replace('/', ' masks, ')}: drawn {drawn:.2f} dB; mean "
                f"color {mean:.2f}, average of the camera {camera:.2f}, smooth {smooth:.2f}"
            )
    return lines
