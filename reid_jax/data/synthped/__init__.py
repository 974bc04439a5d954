"""SynthPed, the embedded synthetic data set: people drawn from a seed, depicting no real person."""

from reid_jax.data.synthped.dataset import (
    DISTRACTOR,
    JUNK,
    LOOKS,
    SIZES,
    Elements,
    Pair,
    SampleSpec,
    Size,
    SynthPed,
    check_height,
)
from reid_jax.data.synthped.figure import PARTS

__all__ = [
    "DISTRACTOR",
    "JUNK",
    "LOOKS",
    "PARTS",
    "SIZES",
    "Elements",
    "Pair",
    "SampleSpec",
    "Size",
    "SynthPed",
    "check_height",
]
