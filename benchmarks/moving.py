"""Movies whose specimen moves in every way that microscopes show, clean or dirty, with a known truth.

A noise-free image on a grid twice as fine, from ``streamer.simulation`` with its optics and protein, is sampled by
cubic convolution at r − d(r, t), fades with the exposure, and is counted by a camera with a pattern, whose gain
reference goes with the movie. Crystals, carbon, gold and boiling ice are added to the image; they move with the
specimen, and the boiling ice with nothing.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import dose, fourier
from streamer.detector.correction import correction_for
from streamer.records import Gain
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import Specimen, apoferritin, random_protein

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MARGIN = 64
"""px around the field that frames may reach into; movies that go farther are larger by that."""
_FADING = 4
"""Exposures at which the damaged image is made; in between it is mixed."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of movie."""

    motion: str
    shape: tuple[int, int] = (768, 768)
    n_frames: int = 24
    pixel_size: float = 1.2
    dose: float = 1.0
    """e⁻/Å² per frame."""
    defocus_um: tuple[float, float] = (1.0, 2.0)
    protein: str = "random"
    """random, small (81 kDa), apoferritin, or none."""
    coverage: float = 0.3
    ice: float = 0.03
    scale: float = 1.0
    """Of all contrast."""
    jitter: float = 0.0
    """px per axis, of every frame."""
    dirt: tuple[str, ...] = field(default_factory=tuple)
    damage: bool = True

    @property
    def margin(self) -> int:
        """Room around the field, px."""
        return MARGIN if self.motion != "far" else 96


def displacement(case: Case, seed: int) -> Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """Where the specimen's points (y, x) px have gone by a frame."""
    rng = np.random.default_rng([seed, 7])
    n, (height, width) = case.n_frames, case.shape
    angle = rng.uniform(0, 2 * np.pi)
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    t = np.arange(n) * (24.0 / n)
    fast, slow = 1 - np.exp(-t / 4), t / 24
    jitter = rng.normal(0, case.jitter, (n, 2)) if case.jitter else np.zeros((n, 2))
    track = 5.5 * fast[:, None] * along + 1.6 * (slow - 0.6 * np.sin(2 * slow))[:, None] * across + jitter
    bend = rng.normal(size=(2, 5)) * np.array([1.0, 1.0, 2.5, 2.5, 2.5]) * 0.9
    grown = 1 - np.exp(-t / 8)
    kind = case.motion
    if kind == "still":
        track, grown = jitter, 0 * grown
    elif kind == "drift":
        grown = 0 * grown
    elif kind == "far":
        track, grown = track + 55.0 * slow[:, None] * along, 0 * grown
    elif kind == "jump":
        track, grown = track + 12.0 * (np.arange(n) >= rng.integers(n // 4, 3 * n // 4))[:, None] * across, 0 * grown
    elif kind == "reversal":
        track, grown = 5.0 * np.sin(2.2 * np.pi * slow)[:, None] * along + 2.0 * fast[:, None] * across, 0 * grown
    elif kind == "vibration":
        phase = rng.uniform(0, 2 * np.pi)
        track, grown = track + 1.0 * np.sin(2.1 * np.arange(n) + phase)[:, None] * across, 0 * grown
    rotation = np.deg2rad(0.35) * grown if kind == "rotation" else 0 * grown
    doming = 3.0 * grown if kind == "rotation" else 0 * grown
    if kind == "rotation":
        bend = 0 * bend
    crack = 2.0 * grown if kind == "crack" else 0 * grown
    side = np.array([np.sin(angle + 1.0), np.cos(angle + 1.0)])
    if kind == "crack":
        bend = 0 * bend

    def there(y: np.ndarray, x: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
        v, u = (y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5
        basis = [u, v, u * v, u**2 - 1 / 12, v**2 - 1 / 12]
        far = [grown[frame] * sum(c * b for c, b in zip(row, basis, strict=True)) for row in bend]
        ry, rx = y - height / 2, x - width / 2
        radius = (u**2 + v**2) * doming[frame]
        open_ = crack[frame] * np.tanh((v * side[0] + u * side[1]) * 40) * 0.5
        return (
            track[frame, 0] + far[0] + rotation[frame] * rx + radius * 2 * v + open_ * across[0],
            track[frame, 1] + far[1] - rotation[frame] * ry + radius * 2 * u + open_ * across[1],
        )

    return there


@dataclass(frozen=True)
class Moving:
    """A movie and its truth."""

    case: Case
    counts: np.ndarray
    gain: np.ndarray
    there: Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]

    def frame(self) -> Callable[[int], torch.Tensor]:
        """Corrected frames."""
        gain = Gain(path="simulated", sha256="", values=self.gain)
        correction = correction_for(self.case.shape, gain, np.zeros((0, 2), dtype=np.int64))
        return lambda index: correction.frame(self.counts, index)

    def truth(self, points: torch.Tensor) -> torch.Tensor:
        """(t, n, 2) shifts (y, x) px at (n, 2) points of the first frame."""
        y, x = points.numpy().T
        moved = [np.stack(self.there(y, x, t), -1) for t in range(self.case.n_frames)]
        return -torch.from_numpy(np.stack(moved))


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def _protein(name: str, seed: int) -> Specimen | None:
    if name == "apoferritin":
        return apoferritin()
    if name == "none":
        return None
    return random_protein(seed, 735 if name == "small" else 2400)


def _canvas(case: Case, seed: int) -> np.ndarray:
    """(2H, 2W) relative contrast, margins included."""
    height, width = (size + 2 * case.margin for size in case.shape)
    scope = Microscope(
        shape=(height, width),
        n_frames=1,
        pixel_size=case.pixel_size,
        defocus_um=case.defocus_um,
        bend_px=0.0,
        drift_start=0.0,
        drift_end=0.0,
        jitter_px=0.0,
        coverage=case.coverage,
        ice_contrast=case.ice,
    )
    image = Field(scope, _protein(case.protein, seed % 5), seed).truth().image * case.scale
    return image if not case.dirt else _dirty(image, case, np.random.default_rng([seed, 9]))


def _dirty(image: np.ndarray, case: Case, rng: np.random.Generator) -> np.ndarray:
    """Contamination, carbon or gold on top of it; fluxes multiply."""
    height, width = image.shape
    y, x = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    rough = torch.fft.irfft2(
        torch.fft.rfft2(torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32)))
        * torch.exp(-((fourier.radius(image.shape) / 0.01) ** 2)),
        s=image.shape,
    ).numpy()
    rough /= rough.std()
    fine = torch.fft.irfft2(
        torch.fft.rfft2(torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32)))
        * torch.exp(-((fourier.radius(image.shape) / 0.12) ** 2)),
        s=image.shape,
    ).numpy()
    fine /= fine.std()
    through = np.ones_like(image)
    for kind in case.dirt:
        if kind in ("crystal", "crystals"):
            for _ in range(1 if kind == "crystal" else 6):
                cy, cx = rng.uniform(0.1, 0.9, 2) * image.shape
                size = rng.uniform(0.06, 0.14) * height
                inside = 1 / (1 + np.exp((np.hypot(y - cy, x - cx) - size - 0.12 * size * rough) / 3.0))
                lattice = np.cos(2 * np.pi * (0.13 * x + 0.07 * y)) + np.cos(2 * np.pi * (0.02 * x - 0.15 * y))
                through *= 1 - inside * (rng.uniform(0.25, 0.5) + 0.04 * lattice + 0.03 * rough)
        elif kind in ("carbon", "gold"):
            angle = rng.uniform(0, 2 * np.pi)
            along = (y - height / 2) * np.sin(angle) + (x - width / 2) * np.cos(angle) - 0.22 * height
            inside = 1 / (1 + np.exp(-(along + 4.0 * rough) / 3.0))
            through *= 1 - inside * ((0.25 if kind == "carbon" else 0.8) + (0.05 if kind == "carbon" else 0.02) * fine)
        elif kind == "waves":
            through *= 1 + 0.03 * rough
    return ((1 + image) * through - 1).astype(np.float32)


def simulate(case: Case, seed: int, cache: Path | None = None) -> Moving:
    """Make a movie; its noise-free image is kept in ``cache``."""
    there = displacement(case, seed)
    still = replace(case, motion="far" if case.motion == "far" else "", n_frames=0, dose=0.0, jitter=0.0)
    file = None if cache is None else cache / f"{_name(repr(still))}_{seed}.npy"
    if file is not None and file.is_file():
        image = np.load(file)
    else:
        image = _canvas(case, seed)
        if file is not None:
            cache.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
            np.save(file, image)
    camera = Detector(case.shape, seed % 3, hot=0.0, dead=0.0)
    return Moving(
        case=case, counts=_expose(image, case, there, camera, seed), gain=camera.gain_reference(), there=there
    )


def _expose(image: np.ndarray, case: Case, there: Callable, camera: Detector, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    shape = (image.shape[0], image.shape[1])
    rows, columns = fourier.fftfreq_axes(shape, torch.device("cpu"))
    radius = fourier.radius(shape)
    box = torch.sinc(2.0 * rows) * torch.sinc(2.0 * columns) * camera.transfer(2.0 * radius)
    spectrum = torch.fft.rfft2(torch.from_numpy(image)) * box
    decay = dose.decay_rate(radius, case.pixel_size / 2.0, 300.0) * float(case.damage)
    last = case.dose * case.n_frames
    faded = [torch.fft.irfft2(spectrum * torch.exp(-decay * last * n / _FADING), s=shape) for n in range(_FADING + 1)]
    height, width = case.shape
    y, x = np.meshgrid(np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64), indexing="ij")
    generator = torch.Generator().manual_seed(seed)
    efficiency, hot = torch.from_numpy(camera.efficiency), torch.from_numpy(camera.hot_counts)
    rate = case.dose * case.pixel_size**2
    boil = torch.exp(-((fourier.radius(case.shape) / 0.1) ** 2))
    frames = []
    for t in range(case.n_frames):
        part = _FADING * (t + 0.5) / case.n_frames
        low = min(int(part), _FADING - 1)
        canvas = torch.lerp(faded[low], faded[low + 1], part - low)
        dy, dx = there(y, x, t)
        ay, ax = 2.0 * (y - dy + case.margin) + 0.5, 2.0 * (x - dx + case.margin) + 0.5
        grid = torch.from_numpy(np.stack([(2 * ax + 1) / shape[1] - 1, (2 * ay + 1) / shape[0] - 1], -1)).float()
        seen = torch.nn.functional.grid_sample(
            canvas[None, None], grid[None], mode="bicubic", padding_mode="border", align_corners=False
        )[0, 0]
        if "boiling" in case.dirt:
            bubbles = torch.fft.irfft2(
                torch.fft.rfft2(torch.randn(case.shape, generator=generator)) * boil, s=case.shape
            )
            seen = seen + 0.03 * bubbles / bubbles.std()
        counts = torch.poisson((rate * (1.0 + seen)).clamp(min=0) * efficiency + hot, generator=generator)
        frames.append(counts.clamp(max=127).to(torch.uint8).numpy())
    return np.stack(frames)
