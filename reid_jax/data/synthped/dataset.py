"""SynthPed: the embedded synthetic data set for person re-identification, drawn from a seed.

The protocol is that of Market-1501: disjoint training and test identities, one query per identity and camera, a gallery
with distractors (pid 0: other people, never queried) and junk (pid -1: bad crops, removed before ranking), and file
names such as `0001_c1s1_000151_00.jpg`. Each image can be drawn by itself, in any order and in any process.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg

from reid_jax import errors
from reid_jax.data.synthped import cameras, canvas, figure, looks, occluders, people, pose, randomness, scenes, street

JUNK, DISTRACTOR = -1, 0


@dataclasses.dataclass(frozen=True)
class Size:
    """Counts of the data set; every identity appears in `cameras_per_identity` of the cameras."""

    train_identities: int
    test_identities: int
    cameras: int
    cameras_per_identity: int
    train_images: int  # per identity and camera
    gallery_images: int  # per test identity and camera, besides the query
    distractors: int  # people with pid 0, one image in each of their cameras
    junk: int


SIZES: dict[str, Size] = {
    "tiny": Size(8, 6, 3, 3, 2, 2, 3, 4),
    "demo": Size(96, 50, 4, 4, 4, 3, 30, 40),
    "large": Size(750, 750, 6, 4, 4, 3, 500, 600),
    "huge": Size(3000, 1500, 6, 4, 4, 3, 1000, 1200),
}
HEIGHTS = (64, 128, 256, 384)  # of prepared data sets
LOOKS: dict[str, looks.Look] = {"plain": looks.PlainLook(), "street": street.StreetLook()}


def check_height(height: int) -> None:
    """Raises a `UserError` for a height that data sets are not prepared at."""
    if height not in HEIGHTS:
        known = ", ".join(map(str, HEIGHTS))
        raise errors.UserError(f"expected the option height of SynthPed as one of {known}, got {height}.")


@dataclasses.dataclass(frozen=True)
class SampleSpec:
    """The specification of an image; `camid` counts from 0, and `person` numbers the people of its population."""

    split: str
    pid: int
    camid: int
    filename: str
    population: str  # "train" | "test", which `person` refers to
    person: int
    index: int
    occluder: str = ""
    junk: str = ""


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image with its occluder and without, equal in everything else.

    Attributes:
        image: uint8 `[H, W, 3]` as stored, before JPEG.
        parts: uint8 `[H, W]` labels of what is visible.
        clean_image: the image without the occluder.
        clean_parts: its labels.
    """

    image: np.ndarray
    parts: np.ndarray
    clean_image: np.ndarray
    clean_parts: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """The visible fraction of each part in the order of `figure.PARTS`, float32 `[8]`; NaN for a part not seen."""
        counts = [
            np.bincount(labels.ravel(), minlength=1 + len(figure.PARTS))[1:]
            for labels in (self.parts, self.clean_parts)
        ]
        fractions: np.ndarray = np.where(counts[1] > 0, counts[0] / np.maximum(counts[1], 1), np.nan)
        return fractions.astype(np.float32)


class SynthPed:
    """The data set; people, scenes and noise are drawn on first use and cached."""

    def __init__(
        self,
        size: str = "demo",
        seed: int = 0,
        occluded: bool = False,
        height: int = 128,
        width: int = 64,
        look: str | looks.Look = "plain",
    ) -> None:
        """Plans the data set.

        Args:
            size: a key of `SIZES`.
            seed: the seed that determines the whole data set.
            occluded: hide 25-60 % of the person in all queries and in a tenth of the other images.
            height: height of the images in pixels.
            width: width of the images in pixels.
            look: a key of `LOOKS`, or a look.
        """
        if size not in SIZES:
            raise errors.unknown("SynthPed size", size, SIZES)
        if isinstance(look, str) and look not in LOOKS:
            raise errors.unknown("SynthPed look", look, LOOKS)
        self.look = LOOKS[look] if isinstance(look, str) else look
        # For another process that draws the same.
        self.arguments = {
            "size": size,
            "seed": int(seed),
            "occluded": bool(occluded),
            "height": height,
            "width": width,
            "look": look,
        }
        self.size_name, self.size, self.seed, self.occluded = size, SIZES[size], int(seed), bool(occluded)
        self.height, self.width = height, width
        self._plans = {
            "train": self.look.plan(self.seed, "train", self.size.train_identities),
            "test": self.look.plan(self.seed, "test", self.size.test_identities + self.size.distractors),
        }
        total = self.size.train_identities + self.size.test_identities
        # Training and test pids are mixed, as in the benchmarks, so that labels must be computed from pids.
        self._pids = 1 + randomness.generator(self.seed, "pids").permutation(total)
        self._person = functools.lru_cache(maxsize=4096)(self._draw_person)
        self._camera = functools.lru_cache(maxsize=None)(self._draw_camera)

    def split(self, name: str) -> list[SampleSpec]:
        """Returns the specifications of "train", "query" or "gallery", sorted by file name."""
        makers = {"train": self._train, "query": self._query, "gallery": self._gallery}
        if name not in makers:
            raise errors.unknown("SynthPed split", name, makers)
        return sorted(makers[name](), key=lambda spec: spec.filename)

    def render(self, spec: SampleSpec) -> tuple[np.ndarray, np.ndarray]:
        """Draws an image as recorded by the camera, before JPEG compression.

        Returns:
            image: uint8 `[H, W, 3]` RGB.
            parts: uint8 `[H, W]`, 0 for background and occluders, 1…8 in the order of `figure.PARTS`.
        """
        camera, scene, noise = self._camera(spec.camid)
        shot = self._shot(spec)
        drawing = canvas.Canvas(self._background(scene, shot.track, shot.u))
        drawing.light = camera.light
        view = self.look.view(camera, shot)
        if spec.junk != "scene":
            if shot.u[20] < self.look.crowd or spec.junk == "pair":
                self._bystander(drawing, spec, view, shot.u)
            _ground_shadow(drawing, view, camera.light)
            figure.draw(drawing, self.look.worn(self._person(spec.population, spec.person), shot), view)
        if spec.occluder:
            self._occlude(drawing, spec, shot)
        return self.look.record(drawing, self._folds, camera, noise, shot)

    def render_pair(self, spec: SampleSpec) -> Pair:
        """Draws an image with its occluder and without; both are the same where the specification has none."""
        image, parts = self.render(spec)
        clean, clean_parts = self.render(dataclasses.replace(spec, occluder="")) if spec.occluder else (image, parts)
        return Pair(image, parts, clean, clean_parts)

    def encode(self, spec: SampleSpec) -> tuple[bytes, bytes]:
        """Draws an image and returns it as JPEG, at the quality of its camera, with its parts as PNG."""
        image, parts = self.render(spec)
        quality = self.look.quality(self._camera(spec.camid)[0], self._shot(spec))
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace="RGB")
        ok, png = cv2.imencode(".png", parts)
        assert ok, "PNG encoding of a parts mask failed"
        return jpeg, png.tobytes()

    def elements(self, name: str) -> Elements:
        """Returns a split as a sequence of elements that are drawn on access."""
        return Elements(self, self.split(name))

    # People and samples ---------------------------------------------------------------------------------------------

    def _draw_person(self, population: str, person: int) -> people.Person:
        family, member = self._plans[population][person]
        return self.look.person(self.seed, population, family, member)

    def person(self, spec: SampleSpec) -> people.Person:
        """Returns the person in an image."""
        return self._person(spec.population, spec.person)

    def _cameras_of(self, population: str, person: int) -> list[int]:
        size = self.size
        order = randomness.generator(self.seed, f"cameras/{population}", person).permutation(size.cameras)
        return sorted(int(camera) for camera in order[: size.cameras_per_identity])

    def _place(self, spec: SampleSpec) -> tuple[int, int, int]:
        """Returns the numbers that key the generator of an image: (person over both populations, camera, index)."""
        offset = 0 if spec.population == "train" else self.size.train_identities
        return offset + spec.person + (10**6 if spec.junk else 0), spec.camid, spec.index

    def _spec(self, split: str, pid: int, camid: int, population: str, person: int, index: int) -> SampleSpec:
        spec = SampleSpec(split, pid, camid, "", population, person, index)
        place = self._place(spec)
        u = randomness.generator(self.seed, "spec", *place).random(3).tolist()
        kinds = occluders.TRAIN_KINDS if population == "train" else occluders.TEST_KINDS
        hidden = self.occluded and (split == "query" or u[0] < 0.1)
        frame = 100 * (place[0] + 1) + 12 * index + int(8 * u[1])
        return dataclasses.replace(
            spec, filename=_file_name(pid, camid, frame), occluder=kinds[int(u[2] * len(kinds))] if hidden else ""
        )

    def _train(self) -> Iterator[SampleSpec]:
        for person in range(self.size.train_identities):
            pid = int(self._pids[person])
            for camid in self._cameras_of("train", person):
                for index in range(self.size.train_images):
                    yield self._spec("train", pid, camid, "train", person, index)

    def _query(self) -> Iterator[SampleSpec]:
        for person in range(self.size.test_identities):
            pid = int(self._pids[self.size.train_identities + person])
            for camid in self._cameras_of("test", person):
                yield self._spec("query", pid, camid, "test", person, 0)

    def _gallery(self) -> Iterator[SampleSpec]:
        size = self.size
        for person in range(size.test_identities):
            pid = int(self._pids[size.train_identities + person])
            for camid in self._cameras_of("test", person):
                for index in range(1, 1 + size.gallery_images):
                    yield self._spec("gallery", pid, camid, "test", person, index)
        for person in range(size.test_identities, size.test_identities + size.distractors):
            for camid in self._cameras_of("test", person):
                yield self._spec("gallery", DISTRACTOR, camid, "test", person, 0)
        kinds = ("legs", "upper", "scene", "pair")
        for number in range(size.junk):
            u = randomness.generator(self.seed, "junk", number).random(3).tolist()
            person, camid = int(u[0] * size.test_identities), int(u[1] * size.cameras)
            name = _file_name(JUNK, camid, 100 * (number + 1) + int(8 * u[2]))
            yield SampleSpec("gallery", JUNK, camid, name, "test", person, number, junk=kinds[number % 4])

    # An image -------------------------------------------------------------------------------------------------------

    def _draw_camera(self, camid: int) -> tuple[cameras.Camera, np.ndarray, np.ndarray]:
        camera = self.look.camera(self.seed, camid)
        scale = canvas.SUPERSAMPLE
        scene = scenes.make_scene(self.seed, camid, scale * self.height, scale * self.width)
        side = 2 * max(self.height, self.width)
        return camera, scene, cameras.noise_field(self.seed, camid, camera.noise, side)

    @functools.cached_property
    def _folds(self) -> np.ndarray:
        """The folds of clothes: smooth slanted streaks, uint8 `[2·drawing height, 2·drawing width]` around 16."""
        height, width = 2 * canvas.SUPERSAMPLE * self.height, 2 * canvas.SUPERSAMPLE * self.width
        rng = randomness.generator(self.seed, "folds")
        coarse = rng.integers(0, 256, (height // 10, width // 5)).astype(np.uint8)
        fine = rng.integers(0, 256, (height // 4, width // 3)).astype(np.uint8)
        layers = [
            cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.int32)
            for noise in (coarse, fine)
        ]
        return ((layers[0] * 2 + layers[1]) * 32 // (3 * 256)).astype(np.uint8)

    def _background(self, scene: np.ndarray, track: list[float], u: list[float]) -> np.ndarray:
        height, width = canvas.SUPERSAMPLE * self.height, canvas.SUPERSAMPLE * self.width
        row = int((scene.shape[0] - height) * (0.3 + 0.4 * u[0]))
        start = track[0] + 0.06 * (u[1] - 0.5)
        column = int((scene.shape[1] - width) * min(max(start, 0.0), 1.0))
        return scene[row : row + height, column : column + width].copy()

    def _shot(self, spec: SampleSpec) -> looks.Shot:
        place = self._place(spec)
        u = randomness.generator(self.seed, "image", *place).random(24).tolist()
        track = randomness.generator(self.seed, "track", *place[:-1]).random(8).tolist()
        height, width = canvas.SUPERSAMPLE * self.height, canvas.SUPERSAMPLE * self.width
        return looks.Shot(self.seed, place, u, track, spec.junk, height, width)

    def _occlude(self, drawing: canvas.Canvas, spec: SampleSpec, shot: looks.Shot) -> None:
        passer = None
        if spec.occluder == "pedestrian":
            passer = self._person("test", int(shot.u[21] * len(self._plans["test"])))
        rng = randomness.generator(self.seed, "occluder", *shot.place)
        occluders.occlude(drawing, spec.occluder, rng, passer)

    def _bystander(self, drawing: canvas.Canvas, spec: SampleSpec, view: pose.View, u: list[float]) -> None:
        """Draws another person behind or beside the first, without part labels."""
        population = self._plans[spec.population]
        other = self._person(spec.population, int(u[17] * len(population)))
        side = 1.0 if u[18] < 0.5 or spec.junk == "pair" else -1.0
        away = view.x + side * drawing.width * (0.38 + 0.25 * u[19])
        if spec.junk == "pair":
            away = drawing.width * 1.08
        scale = view.scale * (0.7 + 0.25 * u[22])
        figure.draw(
            drawing,
            other,
            dataclasses.replace(
                view,
                x=away,
                y=view.y - 0.6 * (view.scale - scale) * 0.4,
                scale=scale,
                yaw=6.28 * u[23],
                phase=view.phase + 2,
            ),
        )
        drawing.parts[:] = 0


class Elements(Sequence[dict[str, Any]]):
    """A split as dictionaries of `image` uint8 `[H, W, 3]`, `parts` uint8 `[H, W]`, `pid`, `camid` and `filename`."""

    def __init__(self, data: SynthPed, specs: Sequence[SampleSpec]) -> None:
        """Wraps the specifications of a split."""
        self._data, self.specs = data, specs
        self.pids = np.array([spec.pid for spec in specs], np.int32)
        self.camids = np.array([spec.camid for spec in specs], np.int32)
        self.filenames = tuple(spec.filename for spec in specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]  # no slices
        spec = self.specs[index]
        image, parts = self._data.render(spec)
        return {"image": image, "parts": parts, "pid": spec.pid, "camid": spec.camid, "filename": spec.filename}


def _file_name(pid: int, camid: int, frame: int) -> str:
    return f"{'-1' if pid < 0 else format(pid, '04d')}_c{camid + 1}s1_{frame:06d}_00.jpg"


def _ground_shadow(drawing: canvas.Canvas, view: pose.View, light: float) -> None:
    """Draws a soft shadow on the ground, away from the light."""
    scale = view.scale
    for grow, shade in ((1.0, 116), (0.75, 102), (0.5, 86)):
        x = view.x - light * 0.06 * scale * grow
        drawing.shadow(canvas.ellipse(x, view.y + 0.01 * scale, 0.17 * scale * grow, 0.032 * scale * grow), shade)
