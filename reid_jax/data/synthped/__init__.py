"""SynthPed, the embedded synthetic data set: people drawn from a seed, depicting no real person."""

from reid_jax.data.synthped.dataset import DISTRACTOR, JUNK, SIZES, Elements, SampleSpec, Size, SynthPed
from reid_jax.data.synthped.figure import PARTS

__all__ = ["DISTRACTOR", "JUNK", "PARTS", "SIZES", "Elements", "SampleSpec", "Size", "SynthPed"]
