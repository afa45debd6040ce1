"""How the specimen moves, by name: the drifts that microscopes show, from standing still to a crack through the ice.

A displacement d is where a point p of the first frame is found later, minus p: (y, x) in px. The drift is the mean
over the field; what bends, turns or breaks comes on top of it with mean 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamer.errors import UsageError
from streamer.simulation.movie import Microscope, drift_track

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array = NDArray[np.float32]
_BEND_TERMS = 9


@dataclass(frozen=True, slots=True)
class Crack:
    """A straight line whose two sides go different ways."""

    angle: float
    """Of the line's normal from +x, rad."""
    place: float
    """Distance of the line from the field's middle along the normal, shares of the diagonal."""
    apart: Array
    """(t, 2) displacement of the normal's side against the other, px."""


@dataclass(frozen=True, slots=True)
class Movement:
    """Where everything is in every frame."""

    shape: tuple[int, int]
    drift: Array
    """(t, 2) mean displacement, px, first frame (0, 0)."""
    bend: Array
    """(2, 9) coefficients in px of u, v, uv, u², v², u³, u²v, uv², v³; u = x/w − ½, v = y/h − ½."""
    amplitude: Array
    """(t,) what multiplies ``bend``; first frame 0."""
    crack: Crack | None = None

    @property
    def rigid(self) -> bool:
        """Whether the field moves as one piece."""
        return self.crack is None and not (self.bend.any() and self.amplitude.any())

    def local(self, frame: int, points: NDArray[np.floating]) -> Array:
        """Displacement beyond the drift of points (…, 2) (y, x) in px of the first frame, (…, 2) px."""
        height, width = self.shape
        v, u = (points[..., 0] + 0.5) / height - 0.5, (points[..., 1] + 0.5) / width - 0.5
        moved = np.zeros(points.shape, dtype=np.float32)
        if self.amplitude[frame] != 0.0 and self.bend.any():
            for axis in (0, 1):
                a, b, c, d, e, f, g, h, i = (float(x) for x in self.amplitude[frame] * self.bend[axis])
                # the polynomial by Horner's rule: powers of whole images cost more than everything else
                along = a + u * (d + u * f) + v * (c + u * g + v * h)
                moved[..., axis] = u * along + v * (b + v * (e + v * i)) - (d + e) / 12.0
        if self.crack is not None and self.crack.apart[frame].any():
            side = self.side(v, u) - _share(self)
            moved += side[..., None] * self.crack.apart[frame]
        return moved

    def side(self, v: NDArray[np.floating], u: NDArray[np.floating]) -> Array:
        """1 beyond the crack, 0 on this side of it."""
        beyond = self.from_crack(v, u) > 0.0
        return np.asarray(beyond, dtype=np.float32)

    def from_crack(self, v: NDArray[np.floating], u: NDArray[np.floating]) -> Array:
        """Signed distance from the crack's line, px."""
        if self.crack is None:
            raise ValueError("no crack")
        height, width = self.shape
        along = u * width * math.cos(self.crack.angle) + v * height * math.sin(self.crack.angle)
        distance: Array = np.asarray(along - self.crack.place * math.hypot(height, width), dtype=np.float32)
        return distance

    def at(self, frame: int, points: NDArray[np.floating]) -> Array:
        """Displacement of points (…, 2) (y, x) of the first frame, (…, 2) px."""
        moved: Array = self.local(frame, points) + self.drift[frame]
        return moved

    def origins(self, frame: int, places: NDArray[np.floating]) -> Array:
        """Points of the first frame that lie at places (…, 2) of a later one, px."""
        settled: Array = (places - self.drift[frame]).astype(np.float32)
        if self.rigid:
            return settled
        found = settled
        for _ in range(2):  # within a field the local part changes by a hundredth of itself over its own length
            found = settled - self.local(frame, found)
        return found

    @property
    def reach(self) -> float:
        """Largest displacement of any point, px."""
        corners = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 5) for n in self.shape), indexing="ij"), -1)
        return max(float(np.abs(self.at(t, corners)).max()) for t in range(len(self.drift)))


def _share(movement: Movement) -> float:
    """Share of the field beyond the crack."""
    v, u = np.linspace(-0.5, 0.5, 65)[:, None], np.linspace(-0.5, 0.5, 65)[None, :]
    return float(movement.side(v, u).mean())


def _saturating(n: int) -> Array:
    amplitude = 1.0 - np.exp(-np.arange(n) / max(1.0, n / 4.0))
    return (amplitude / max(float(amplitude[-1]), 1e-9)).astype(np.float32)


def _bent(rng: np.random.Generator, largest: float) -> Array:
    """(2, 9) random coefficients up to second order whose largest displacement in a corner is given, px."""
    bend = np.zeros((2, _BEND_TERMS))
    bend[:, :5] = rng.normal(size=(2, 5)) * np.array([1.0, 1.0, 1.5, 1.5, 1.5])
    corners = np.array([(u, v, u * v, u**2 - 1 / 12, v**2 - 1 / 12) for v in (-0.5, 0.5) for u in (-0.5, 0.5)])
    bend *= largest / np.abs(corners @ bend[:, :5].T).max()
    return bend.astype(np.float32)


def _movement(scope: Microscope, rng: np.random.Generator, drift: NDArray[np.floating], bend_px: float) -> Movement:
    n = scope.n_frames
    bend = _bent(rng, bend_px) if bend_px > 0.0 else np.zeros((2, _BEND_TERMS), np.float32)
    return Movement(scope.shape, (drift - drift[0]).astype(np.float32), bend, _saturating(n))


def _jitter(scope: Microscope, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(0.0, scope.jitter_px, (scope.n_frames, 2))


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0.0, 2.0 * math.pi)
    return np.array([math.sin(angle), math.cos(angle)])


def _drift(scope: Microscope, rng: np.random.Generator) -> Movement:
    return _movement(scope, rng, drift_track(scope, rng), scope.bend_px)


def _still(scope: Microscope, rng: np.random.Generator) -> Movement:
    return _movement(scope, rng, np.zeros((scope.n_frames, 2)), 0.0)


def _bend(scope: Microscope, rng: np.random.Generator) -> Movement:
    """A smooth way of some px that turns by 90 to 150° half way, over a field that bends."""
    n = scope.n_frames
    turn = math.radians(rng.uniform(90.0, 150.0)) * rng.choice([-1.0, 1.0])
    angle = rng.uniform(0.0, 2 * math.pi) + turn / (
        1.0 + np.exp(-(np.arange(n) - rng.uniform(0.35, 0.65) * n) * 12 / n)
    )
    steps = rng.uniform(5.0, 9.0) / n * np.stack([np.sin(angle), np.cos(angle)], 1)
    return _movement(scope, rng, np.cumsum(steps, 0) + _jitter(scope, rng), max(scope.bend_px, 1.2))


def _far(scope: Microscope, rng: np.random.Generator) -> Movement:
    """60 px in all, faster at first."""
    way = 60.0 * (1.0 - np.exp(-1.5 * np.linspace(0.0, 1.0, scope.n_frames))) / (1.0 - math.exp(-1.5))
    return _movement(scope, rng, way[:, None] * _direction(rng) + _jitter(scope, rng), scope.bend_px)


def _jump(scope: Microscope, rng: np.random.Generator) -> Movement:
    """12 px from one frame to the next, somewhere in the middle half."""
    n = scope.n_frames
    first = int(rng.integers(max(1, n // 4), max(2, 3 * n // 4)))
    after = (np.arange(n) >= first)[:, None] * 12.0 * _direction(rng)
    return _movement(scope, rng, drift_track(scope, rng) + after, scope.bend_px)


def _reversal(scope: Microscope, rng: np.random.Generator) -> Movement:
    """8 px there and back again."""
    phase = np.linspace(0.0, 1.0, scope.n_frames)
    way = 8.0 * (1.0 - np.abs(2.0 * phase - 1.0))
    return _movement(scope, rng, way[:, None] * _direction(rng) + _jitter(scope, rng), scope.bend_px)


def _vibration(scope: Microscope, rng: np.random.Generator) -> Movement:
    """A swing of 1.5 px each way within some frames, on top of the drift."""
    period, phase = rng.uniform(2.5, 6.0), rng.uniform(0.0, 2.0 * math.pi)
    swing = 1.5 * np.sin(2.0 * math.pi * np.arange(scope.n_frames) / period + phase)
    return _movement(scope, rng, drift_track(scope, rng) + swing[:, None] * _direction(rng), scope.bend_px)


def _rotation(scope: Microscope, rng: np.random.Generator) -> Movement:
    """A turn of 0.35° about the middle, and doming: the field widens by a pixel or so in its corners."""
    height, width = scope.shape
    movement = _movement(scope, rng, drift_track(scope, rng), 0.0)
    bend = np.zeros((2, _BEND_TERMS), np.float32)
    turn, dome = math.radians(0.35) * rng.choice([-1.0, 1.0]), rng.uniform(1.0, 2.0)
    bend[0, 0], bend[1, 1] = turn * width, -turn * height
    bend[0, 1], bend[1, 0] = dome, dome
    bend[0, [6, 8]], bend[1, [5, 7]] = -0.8 * dome, -0.8 * dome
    return replace(movement, bend=bend)


def _crack(scope: Microscope, rng: np.random.Generator) -> Movement:
    """The ice breaks along a line within the first third, and its sides go apart by 4 px."""
    n = scope.n_frames
    angle = rng.uniform(0.0, 2.0 * math.pi)
    begin = rng.uniform(0.05, 0.33) * n
    opened = 1.0 - np.exp(-np.maximum(np.arange(n) - begin, 0.0) / (n / 6.0))
    normal = np.array([math.sin(angle), math.cos(angle)])
    along = np.array([math.cos(angle), -math.sin(angle)]) * rng.uniform(-0.5, 0.5)
    way = (normal + along) * 4.0 / np.linalg.norm(normal + along)
    crack = Crack(angle, float(rng.uniform(-0.15, 0.15)), (opened[:, None] * way).astype(np.float32))
    return replace(_movement(scope, rng, drift_track(scope, rng), 0.0), crack=crack)


@dataclass(frozen=True, slots=True)
class Motion:
    """One of the named motions."""

    movement: Callable[[Microscope, np.random.Generator], Movement]
    exposure: Callable[[Microscope], Microscope] = lambda scope: scope
    """What it changes about how the movie is taken."""


def _few(scope: Microscope) -> Microscope:
    return replace(scope, n_frames=8, dose_per_frame=scope.dose_per_frame * scope.n_frames / 8.0)


MOTIONS: Mapping[str, Motion] = {
    "drift": Motion(_drift),
    "still": Motion(_still),
    "bend": Motion(_bend),
    "far": Motion(_far),
    "jump": Motion(_jump),
    "reversal": Motion(_reversal),
    "vibration": Motion(_vibration),
    "rotation": Motion(_rotation),
    "crack": Motion(_crack),
    "low-dose": Motion(_drift, lambda scope: replace(scope, dose_per_frame=10.0 / scope.n_frames)),
    "few-frames": Motion(_drift, _few),
    "many-frames": Motion(_drift, lambda scope: replace(scope, n_frames=200, dose_per_frame=0.2)),
}
"""low-dose: 10 e⁻/Å² in all; few-frames: 8 frames with the dose of all; many-frames: 200 frames of 0.2 e⁻/Å²."""


def motion_of(name: str) -> Motion:
    """One of the named motions.

    Raises
    ------
    UsageError
        There is no such motion.
    """
    if name not in MOTIONS:
        raise UsageError(
            "unknown motion", where="--motion", expected=", ".join(MOTIONS), found=name, hint="choose one of these"
        )
    return MOTIONS[name]
