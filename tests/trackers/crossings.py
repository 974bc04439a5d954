"""A drawn video of people who walk, turn and cross behind each other and behind boards, with exact boxes.

    python -m tests.trackers.crossings --seed 0 --output video-0     # frames.npz, and preview.jpg to look at

People and camera are SynthPed's, of identities that no data set has; most people have one look-alike among the others.
A person is detected in a frame where at least `VISIBLE` of its pixels can be seen; its box is exact and covers
also what is hidden.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
from typing import Any

import cv2
import numpy as np

from reid_jax.data.synthped import cameras, canvas, dataset, figure, people, pose, randomness, scenes

HEIGHT, WIDTH = 384, 640
FRAMES, PEOPLE, BOARDS = 240, 10, 2
VISIBLE = 0.4
_POPULATION_SEED = 7_000  # added to the seed of a video, so that nobody in it is in a data set


@dataclasses.dataclass
class _Walker:
    """A person on the way; lengths in pixels of the canvas."""

    person: people.Person
    ground: float  # row of the feet, which also says how near the person is
    scale: float
    x: float
    heading: float  # -1 to the left, 1 to the right
    speed: float
    yaw: float
    phase: float
    resting: int = 0  # frames until it walks on

    def step(self, rng: np.random.Generator, width: int) -> None:
        """Goes on by a frame; turns round at the edges and now and then, rests now and then."""
        draws = rng.random(4)
        at_edge = (self.x - 0.5 * width) * self.heading > 0.45 * width
        if at_edge or draws[0] < 0.012:
            self.heading = -self.heading
        if draws[1] < 0.006:
            self.resting = 8 + int(12 * draws[2])
        self.yaw += 0.35 * (self.heading * math.pi / 2 - self.yaw) + 0.12 * (draws[3] - 0.5)
        if self.resting:
            self.resting -= 1
            return
        self.x += self.heading * self.speed
        self.phase += 2 * math.pi * self.speed / (0.75 * self.scale)

    def view(self, tilt: float) -> pose.View:
        """Returns the pose in the frame."""
        stride = 0.05 if self.resting else 0.38
        return pose.View(self.yaw, self.phase, stride, "", 0.05, self.scale, self.x, self.ground, tilt)


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames and what is true of them.

    Attributes:
        frames: uint8 RGB [F, H, W, 3].
        rows: float32 [N, 6]: frame, identity, left, top, right, bottom of each detection, sorted by frame.
        hidden: number of (person, frame) pairs without a detection.
    """

    frames: np.ndarray
    rows: np.ndarray
    hidden: int

    def save(self, path: pathlib.Path) -> None:
        """Writes the video as `.npz`."""
        np.savez(path, frames=self.frames, rows=self.rows, hidden=self.hidden)


def draw(seed: int, frames: int = FRAMES, count: int = PEOPLE) -> Video:
    """Returns the video of a seed.

    Args:
        seed: determines people, camera, scene and ways.
        frames: number of frames.
        count: number of people.
    """
    rng = randomness.generator(seed, "crossings")
    camera = cameras.make_camera(seed, 0)
    height, width = canvas.SUPERSAMPLE * HEIGHT, canvas.SUPERSAMPLE * WIDTH
    scene = scenes.make_scene(seed, 0, height, -(-width // 8))[-height:, :width]
    noise = cameras.noise_field(seed, 0, camera.noise, 2 * WIDTH)
    table = cameras.tone_table(camera, 1.0, 0.0)
    walkers = _walkers(seed, count, height, width, rng)
    boards = _boards(height, width, rng)
    images, rows, hidden = [], [], 0
    for number in range(frames):
        drawing = canvas.Canvas(scene.copy())
        drawing.light = camera.light
        owner, full = _paint(drawing, walkers, boards, camera)
        image = _developed(drawing)
        row, column = rng.integers(0, 2 * WIDTH - WIDTH, 2)
        grain = noise[row : row + HEIGHT, column : column + WIDTH]
        images.append(cameras.expose(image, camera, table, camera.blur, grain))
        for identity, mask in enumerate(full):
            seen = int((owner == identity + 1).sum())
            if seen and seen >= VISIBLE * mask.sum():
                rows.append((number, identity, *_box(mask)))
            else:
                hidden += 1
        for walker in walkers:
            walker.step(rng, width)
    return Video(np.stack(images), np.asarray(rows, np.float32), hidden)


def _walkers(seed: int, count: int, height: int, width: int, rng: np.random.Generator) -> list[_Walker]:
    """Returns the people, the farthest first."""
    plan = people.family_plan(seed + _POPULATION_SEED, "test", 2 * count)[::2]  # one or two of each family
    found = []
    for family, member in plan:
        u = rng.random(5)
        ground = height * (0.62 + 0.36 * u[0])
        heading = 1.0 if u[2] < 0.5 else -1.0
        scale = 0.46 * ground
        speed = scale * (0.02 + 0.02 * u[3])
        person = people.family_member(seed + _POPULATION_SEED, "test", family, member)
        start = width * (0.08 + 0.84 * u[1])
        found.append(_Walker(person, ground, scale, start, heading, speed, heading * math.pi / 2, 6.28 * u[4]))
    return sorted(found, key=lambda walker: walker.ground)


def _boards(height: int, width: int, rng: np.random.Generator) -> list[tuple[float, float, float, Any]]:
    """Returns ground row, left, right and color of the boards."""
    found = []
    for place in range(BOARDS):
        u = rng.random(5)
        left = width * ((place + 0.25 + 0.4 * u[0]) / BOARDS)
        color = tuple(int(60 + 120 * value) for value in u[2:])
        found.append((height * (0.84 + 0.08 * u[1]), left, left + 0.13 * width, color))
    return found


def _paint(
    drawing: canvas.Canvas,
    walkers: list[_Walker],
    boards: list[tuple[float, float, float, Any]],
    camera: cameras.Camera,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draws everything from far to near.

    Returns:
        The number of the visible person by pixel, from 1, and the mask of each whole person.
    """
    owner = np.zeros(drawing.parts.shape, np.uint8)
    body = np.zeros(drawing.parts.shape, bool)
    full: list[np.ndarray] = [np.empty(0)] * len(walkers)
    things = [(walker.ground, number, None) for number, walker in enumerate(walkers)]
    things += [(board[0], -1, board) for board in boards]
    for _, number, board in sorted(things, key=lambda thing: thing[0]):
        drawing.parts[:] = 0
        if board is None:
            view = walkers[number].view(camera.tilt)
            dataset._ground_shadow(drawing, view, camera.light)
            figure.draw(drawing, walkers[number].person, view)
            full[number] = drawing.parts > 0
        else:
            ground, left, right, color = board
            corners = [(left, ground - 0.42 * ground), (right, ground - 0.42 * ground), (right, ground), (left, ground)]
            drawing.polygon(corners, color, 1, canvas.NEUTRAL_SHADE)
        mask = drawing.parts > 0
        owner[mask], body[mask] = number + 1, board is None
    drawing.parts[:] = body
    return owner, full


def _developed(drawing: canvas.Canvas) -> np.ndarray:
    """Returns the image at the final size, with its shade applied."""
    shade = cv2.GaussianBlur(drawing.shade, (7, 7), 2.0)
    lit = cv2.multiply(drawing.color, cv2.merge([shade, shade, shade]), scale=1.0 / canvas.NEUTRAL_SHADE)
    return cv2.resize(lit, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Returns left, top, right, bottom of a mask at the final size."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / canvas.SUPERSAMPLE
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom


def preview(video: Video, every: int = 30) -> np.ndarray:
    """Returns some frames with the boxes and numbers of the people, one below the other, RGB."""
    shown = []
    for number in range(0, len(video.frames), every):
        image = video.frames[number].copy()
        for _, identity, *box in video.rows[video.rows[:, 0] == number].tolist():
            left, top, right, bottom = map(round, box)
            cv2.rectangle(image, (left, top), (right, bottom), (255, 255, 0), 1)
            cv2.putText(image, str(int(identity)), (left, top - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1)
        shown.append(image)
    return np.concatenate(shown)


def main() -> None:
    """Draws the video of a seed into a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    video = draw(args.seed)
    video.save(args.output / "frames.npz")
    cv2.imwrite(str(args.output / "preview.jpg"), preview(video)[:, :, ::-1])
    print(f"{len(video.frames)} frames, {len(video.rows)} detections, {video.hidden} hidden")


if __name__ == "__main__":
    main()
