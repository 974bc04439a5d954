"""SynthPed, the embedded data set: people drawn by this project's own code from a seed, nobody depicted."""

from reid_jax.data.synthped.dataset import DISTRACTOR, JUNK, SIZES, Elements, SampleSpec, Size, SynthPed
from reid_jax.data.synthped.figure import PARTS

__all__ = ["DISTRACTOR", "JUNK", "PARTS", "SIZES", "Elements", "SampleSpec", "Size", "SynthPed"]
