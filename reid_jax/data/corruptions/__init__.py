"""The twenty corruptions of the ReID robustness benchmark, each at five severities.

    draws = sampling.sample("fog", 3, image.shape[:2], rng)      # all random numbers
    corrupted = sampling.apply("fog", 3, image, draws)           # deterministic: the same draws give the same bytes

`sampling` samples and applies corruptions by name, and draws type and severity of an image from its file name. `splits`
corrupts a split for evaluation, and `training` is the transform for training. The parameters are at the top of `noise`,
`blur`, `weather`, `frost` and `digital`.

References:
    Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
    2019 (code: Apache-2.0; with the parameters of the package `imagecorruptions` 1.1.2).
    Chen, Wang and Zheng, Benchmarks for Corruption Invariant Person Re-identification, NeurIPS 2021 Datasets and
    Benchmarks, arXiv 2111.00880 (code: MIT): the protocol, and rain after Albumentations (MIT).
"""

from reid_jax.data.corruptions import blur, digital, frost, noise, weather
from reid_jax.data.corruptions.filters import no_draws

# (family, sample, apply) by name, in the order of the benchmark.
CORRUPTIONS = {
    "gaussian_noise": ("noise", noise.sample_gaussian, noise.gaussian),
    "shot_noise": ("noise", noise.sample_shot, noise.shot),
    "impulse_noise": ("noise", noise.sample_impulse, noise.impulse),
    "defocus_blur": ("blur", no_draws, blur.defocus),
    "glass_blur": ("blur", blur.sample_glass, blur.glass),
    "motion_blur": ("blur", blur.sample_motion, blur.motion),
    "zoom_blur": ("blur", no_draws, blur.zoom),
    "snow": ("weather", weather.sample_snow, weather.snow),
    "frost": ("weather", frost.sample, frost.apply),
    "fog": ("weather", weather.sample_fog, weather.fog),
    "brightness": ("weather", no_draws, weather.brightness),
    "contrast": ("digital", no_draws, digital.contrast),
    "elastic_transform": ("digital", digital.sample_elastic, digital.elastic),
    "pixelate": ("digital", no_draws, digital.pixelate),
    "jpeg_compression": ("digital", no_draws, digital.jpeg),
    "speckle_noise": ("noise", noise.sample_speckle, noise.speckle),
    "gaussian_blur": ("blur", no_draws, blur.gaussian),
    "spatter": ("weather", weather.sample_spatter, weather.spatter),
    "saturate": ("digital", no_draws, digital.saturate),
    "rain": ("weather", weather.sample_rain, weather.rain),
}
FAMILIES = ("noise", "blur", "weather", "digital")
SEVERITIES = (1, 2, 3, 4, 5)
