"""SynthPed: synthetic pedestrians drawn from a seed, depicting no real person.

Two looks, each in two variants that share identities and protocol: `synthped` and `synthped_street`, whose people and
cameras are as hard for colors as photographs are; in `synthped_occluded` and `synthped_street_occluded` all queries are
occluded.
README.md describes layout, protocol and counts; `reid_jax.data.synthped` draws the images.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from reid_jax.data import synthped
from reid_jax.data.synthped import parallel_drawing

SPLITS = ("train", "query", "gallery")
DISJOINT_IDENTITIES = True  # between training and test
STREET_VERSION = "1.1.1"  # of the look "street", as in dataset.toml


class SynthPedConfig(tfds.core.BuilderConfig):
    """The configuration of the data set: look, variant, size, seed and height of the images."""

    def __init__(
        self,
        *,
        size: str = "demo",
        seed: int = 0,
        height: int = 128,
        occluded: bool = False,
        look: str = "plain",
        **kwargs: Any,
    ) -> None:
        """Stores the options and derives the name of the configuration from them.

        Args:
            size: "tiny", "demo", "large" or "huge".
            seed: the seed that determines the whole data set.
            height: height of the images in pixels, twice their width.
            occluded: hide part of the person in every query and in a tenth of the other images.
            look: "plain" or "street".
            **kwargs: further arguments of TFDS.
        """
        self.size, self.seed, self.height = size, int(seed), int(height)
        self.occluded, self.look = bool(occluded), look
        words = [look if look != "plain" else "", "occluded" if self.occluded else "", size, f"seed{self.seed}"]
        words.append(f"height{self.height}" if self.height != 128 else "")
        kwargs.setdefault("name", "_".join(word for word in words if word))
        kwargs.setdefault("description", f"{size}, seed {self.seed}{', queries occluded' if self.occluded else ''}.")
        if look == "street":
            kwargs.setdefault("version", STREET_VERSION)
        super().__init__(**kwargs)


def make_config(
    *, size: str = "demo", seed: int = 0, height: int = 128, occluded: bool = False, look: str = "plain"
) -> SynthPedConfig:
    """Returns the configuration of a size, a seed, a height and a variant.

    Raises:
        UserError: a height that SynthPed does not draw.
    """
    synthped.check_height(height)
    config = SynthPedConfig(size=size, seed=seed, height=height, occluded=occluded, look=look)
    # TFDS refuses a second object under the name of a listed configuration.
    return next((listed for listed in Builder.BUILDER_CONFIGS if listed.name == config.name), config)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of SynthPed, which reads and downloads no files."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "First version.",
        "1.1.1": "The look street alone: people are seen and dressed differently at the sites; larger families.",
    }
    BUILDER_CONFIGS: ClassVar = [
        SynthPedConfig(size=size, occluded=occluded, look=look)
        for look in ("plain", "street")
        for occluded in (False, True)
        for size in ("demo", "tiny", "large")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "parts": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "pid": np.int32,
                    "camid": np.int32,
                    "filename": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            citation=(pathlib.Path(__file__).parent / "CITATIONS.bib").read_text(encoding="utf-8"),
            license="MIT",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        config = self.builder_config
        height = config.height
        data = synthped.SynthPed(config.size, config.seed, config.occluded, height, height // 2, config.look)
        splits = {split: data.split(split) for split in SPLITS}
        self.info.metadata["pids"] = {split: [spec.pid for spec in specs] for split, specs in splits.items()}
        self.info.metadata["camids"] = {split: [spec.camid for spec in specs] for split, specs in splits.items()}
        self.info.metadata["filenames"] = {split: [spec.filename for spec in specs] for split, specs in splits.items()}
        return {split: self._generate_examples(data, specs) for split, specs in splits.items()}

    def _generate_examples(
        self, data: synthped.SynthPed, specs: list[synthped.SampleSpec]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (spec, (image, parts)) in enumerate(zip(specs, parallel_drawing.encoded(data, specs))):
            record = {"image": image, "parts": parts, "pid": spec.pid, "camid": spec.camid, "filename": spec.filename}
            yield index, record
