"""Movies with a known truth: a specimen drifts, bends and is damaged while a counting detector watches.

One movie is: atoms projected at random orientations onto a grid of half the pixel size, plus amorphous ice; CTF with
astigmatism and envelope; a frame is that image moved by drift and bend, damaged by the exposure so far, blurred by the
detector, integrated over its pixels, counted (Poisson) with each pixel's own efficiency. Weak-phase approximation, all
particles at one height, ice that moves with the specimen and does not boil, no inelastic background, no coincidence
loss. Arrays are (y, x); displacements d are of the specimen in px, so a frame's shift is −d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer import dose, fourier
from streamer.ctf.transfer import Optics, ctf_2d
from streamer.simulation.projection import add_projection
from streamer.simulation.specimen import (
    Specimen,
    ice_amplitude,
    phase_of_atom,
    random_rotations,
    solvent_contrast,
)
from streamer.units import electrons_per_pixel

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = NDArray[np.float32]
_TAYLOR_ORDER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Microscope:
    """How movies are taken; the defaults are a 300 kV microscope with a counting camera at low magnification."""

    shape: tuple[int, int] = (1024, 1024)
    """Frame height and width, px."""
    n_frames: int = 32
    pixel_size: float = 1.5
    """Å/px."""
    dose_per_frame: float = 0.65
    """e⁻/Å²."""
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    defocus_um: tuple[float, float] = (0.8, 2.0)
    """Range of the mean defocus, µm."""
    astigmatism_um: float = 0.03
    """Largest half-difference of the two defoci, µm."""
    phase_shift_deg: float = 0.0
    """Of a phase plate."""
    b_factor: float = 80.0
    """Envelope of atoms, motion within a frame and coherence together, Å²: exp(−B k²/4)."""
    drift_start: float = 1.2
    """Å per e⁻/Å² at the first electron; falls with a decay exposure of 4 e⁻/Å²."""
    drift_end: float = 0.25
    """Å per e⁻/Å² late in the exposure."""
    jitter_px: float = 0.05
    """Standard deviation of each frame's position about the smooth track, px."""
    bend_px: float = 0.8
    """Largest extra displacement in a corner over the whole movie, px."""
    ice_contrast: float = 0.03
    """Standard deviation of the ice's image over the mean."""
    ice_thickness_angstrom: float = 500.0
    """Scatters exp(−thickness / 3100 Å) of the electrons inelastically (300 kV): they count, but carry no contrast."""
    coverage: float = 0.3
    """Share of the field that particles cover, at most; none is nearer to another than 1.05 diameters."""
    damage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What was really there."""

    image: Array
    """(2h, 2w) relative contrast before damage, in the position of the first frame, on pixels half as large."""
    displacement: Array
    """(t, 2) drift of the field's mean, (y, x) in px, first frame (0, 0)."""
    bend: Array
    """(2, 5) coefficients of u, v, uv, u², v² in the displacement's y and x parts; u = x/w − ½, v = y/h − ½."""
    bend_amplitude: Array
    """(t,) what multiplies ``bend``, first frame 0."""
    particles: Array
    """(n, 2) centres (y, x) in px in the position of the first frame, those inside the field."""
    rotations: Array
    """(n, 3, 3) of these particles: specimen's x, y, z to the microscope's, whose z is the beam."""
    diameter: float
    """Å."""
    optics: Optics


class Detector:
    """A counting camera with its own pattern; the same seed is the same camera."""

    def __init__(self, shape: tuple[int, int], seed: int, *, hot: float = 2e-5, dead: float = 2e-5) -> None:
        rng = np.random.default_rng([seed, 1])
        height, width = shape
        efficiency = 1.0 + 0.05 * rng.standard_normal(shape)
        efficiency *= 1.0 + 0.02 * rng.standard_normal((1, width)) + 0.01 * rng.standard_normal((height, 1))
        efficiency[: height // 2] *= 1.03  # two read-out halves seldom agree
        efficiency[rng.random(shape) < dead] = 0.0
        self.efficiency: Array = efficiency.clip(min=0.0).astype(np.float32)
        self.hot_counts: Array = np.where(rng.random(shape) < hot, rng.uniform(3.0, 15.0, shape), 0.0).astype(
            np.float32
        )
        self._flat_noise = 1.0 + 0.005 * rng.standard_normal(shape)

    def gain_reference(self) -> Array:
        """(h, w) float32 by which the counts are multiplied, as a flat exposure gives it; 0 at dead pixels."""
        flat = self.efficiency * self._flat_noise
        alive = flat > 0
        gain = np.zeros_like(flat)
        gain[alive] = flat[alive].mean() / flat[alive]
        return gain.astype(np.float32)

    def transfer(self, fftfreq: Tensor) -> Tensor:
        """Transfer beyond the pixel's own box at fftfreq in cycles/px: 0.70 at Nyquist.

        Source: the K2's measured 0.45 at Nyquist (300 kV) over the box's 0.64.
        """
        return torch.exp(-1.43 * fftfreq**2)


def drift_track(scope: Microscope, rng: np.random.Generator) -> Array:
    """(t, 2) drift in px: fast at first, slower later, along a slowly turning direction, with jitter."""
    exposure = scope.dose_per_frame * np.arange(scope.n_frames)
    speed = scope.drift_end + (scope.drift_start - scope.drift_end) * np.exp(-exposure / 4.0)
    angle = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.02) * np.arange(scope.n_frames)
    steps = (speed * scope.dose_per_frame / scope.pixel_size)[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    track = np.concatenate([np.zeros((1, 2)), np.cumsum(steps[:-1], 0)])
    track[1:] += rng.normal(0.0, scope.jitter_px, (scope.n_frames - 1, 2))
    return track.astype(np.float32)


def _bend_basis(v: Array, u: Array) -> list[Array]:
    """u, v, uv, u², v² with the field's mean removed, so that the drift is the field's mean displacement."""
    return [u, v, u * v, u**2 - 1.0 / 12.0, v**2 - 1.0 / 12.0]


class Field:
    """One field of view: what the specimen looks like, ready to be moved, damaged and counted."""

    def __init__(
        self,
        scope: Microscope,
        specimen: Specimen | None,
        seed: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """Simulate a field; ``specimen`` None is empty ice."""
        self.scope, self.device = scope, torch.device(device)
        self._rng = np.random.default_rng([seed, 2])
        self.displacement = drift_track(scope, self._rng)
        reach = float(np.abs(self.displacement).max()) + scope.bend_px + 4.0
        height, width = scope.shape
        self._padded = tuple(-(-math.ceil(size + 2 * reach) // 32) * 32 for size in (height, width))
        self._origin = ((self._padded[0] - height) // 2, (self._padded[1] - width) // 2)
        self._fine = (2 * self._padded[0], 2 * self._padded[1])
        low, high = scope.defocus_um
        mean, half = self._rng.uniform(low, high), self._rng.uniform(0.0, scope.astigmatism_um)
        self.optics = Optics(
            defocus_u_um=mean + half,
            defocus_v_um=mean - half,
            astigmatism_angle_deg=float(self._rng.uniform(0.0, 180.0)),
            voltage_kv=scope.voltage_kv,
            cs_mm=scope.cs_mm,
            amplitude_contrast=scope.amplitude_contrast,
            phase_shift_deg=scope.phase_shift_deg,
        )
        amplitude = 1.0 - np.exp(-np.arange(scope.n_frames) / max(1.0, scope.n_frames / 4.0))
        self.bend_amplitude = amplitude.astype(np.float32)
        self.bend = self._draw_bend()
        self.specimen = specimen
        self.centres = self._place(specimen) if specimen is not None else np.zeros((0, 2), np.float32)
        self.rotations = np.zeros((0, 3, 3), np.float32)
        self._series = self._bent_series(self._contrast())

    def _draw_bend(self) -> Array:
        """(2, 5) coefficients whose largest displacement in a corner is ``bend_px``."""
        bend = self._rng.normal(size=(2, 5)) * np.array([1.0, 1.0, 1.5, 1.5, 1.5])
        corners = np.array([_bend_basis(v, u) for v in (-0.5, 0.5) for u in (-0.5, 0.5)])  # type: ignore[arg-type]
        largest = np.abs(corners @ bend.T).max() * max(float(self.bend_amplitude.max()), 1e-9)
        scaled: Array = (bend * self.scope.bend_px / largest).astype(np.float32)
        return scaled

    def _place(self, specimen: Specimen) -> Array:
        """(n, 2) centres (y, x) in px of the padded field, by random sequential adsorption on a torus."""
        diameter = specimen.diameter / self.scope.pixel_size
        size = np.array(self._padded, dtype=np.float64)
        wanted = round(self.scope.coverage * size.prod() / (math.pi / 4.0 * diameter**2))
        centres = np.zeros((0, 2))
        for candidate in self._rng.random((40 * wanted, 2)) * size:
            if len(centres) == wanted:
                break
            apart = np.abs(centres - candidate)
            apart = np.minimum(apart, size - apart)
            if (np.hypot(apart[:, 0], apart[:, 1]) >= 1.05 * diameter).all():
                centres = np.vstack([centres, candidate])
        return centres.astype(np.float32)

    def _projection(self, specimen: Specimen) -> Tensor:
        """Sum of scattering factors per fine pixel, (2H, 2W)."""
        image = np.zeros(self._fine, dtype=np.float32)
        self.rotations = random_rotations(self._rng, len(self.centres))
        for centre, rotation in zip(self.centres, self.rotations, strict=True):
            add_projection(image, specimen, rotation, centre, self.scope.pixel_size / 2.0)
        return torch.from_numpy(image).to(self.device)

    def _contrast(self) -> Tensor:
        """Relative contrast of the undamaged specimen with half of its bend, (2H, 2W)."""
        scope, step = self.scope, self.scope.pixel_size / 2.0
        frequency = fourier.radius(self._fine, self.device) / step
        numpy_frequency = frequency.cpu().numpy()
        transfer = 2.0 * ctf_2d(self._fine, step, self.optics, self.device)
        transfer = transfer * torch.exp(-scope.b_factor / 4.0 * frequency**2 - scope.ice_thickness_angstrom / 3100.0)
        spectrum = torch.zeros(frequency.shape, dtype=torch.complex64, device=self.device)
        if self.specimen is not None:
            phase = torch.fft.rfft2(self._projection(self.specimen)) * (phase_of_atom(scope.voltage_kv) / step**2)
            spectrum += phase * torch.from_numpy(solvent_contrast(numpy_frequency)).to(self.device) * transfer
        if scope.ice_contrast > 0:
            noise = torch.from_numpy(self._rng.standard_normal(self._fine, dtype=np.float32)).to(self.device)
            shaped = (
                torch.fft.rfft2(noise) * torch.from_numpy(ice_amplitude(numpy_frequency)).to(self.device) * transfer
            )
            spectrum += shaped * (scope.ice_contrast / fourier.to_image(shaped, self._fine).std())
        spectrum[0, 0] = 0.0
        return fourier.to_image(spectrum, self._fine)

    def _bend_fields(self) -> tuple[Tensor, Tensor]:
        """Displacement (y, x) in fine px per unit of bend amplitude, each (2H, 2W)."""
        (height, width), (top, left) = self.scope.shape, self._origin
        v = ((np.arange(self._fine[0]) / 2.0 - 0.25 - top) / height - 0.5).astype(np.float32)[:, None]
        u = ((np.arange(self._fine[1]) / 2.0 - 0.25 - left) / width - 0.5).astype(np.float32)[None, :]
        basis = _bend_basis(v, u)
        parts = [sum(2.0 * float(c) * b for c, b in zip(row, basis, strict=True)) for row in self.bend]
        return tuple(torch.from_numpy(np.broadcast_to(p, self._fine).copy()).to(self.device) for p in parts)  # type: ignore[return-value]

    def _bent_series(self, contrast: Tensor) -> Tensor:
        """Spectra D_n with image(a) = Σ_n a^n D_n for a bend of a about the middle state, (4, 2H, W+1).

        The Taylor series of C(r − a b(r)) in a: D_n = (−1)^n/n! Σ_j binom(n, j) b_y^(n−j) b_x^j ∂_y^(n−j) ∂_x^j C.
        """
        spectrum: Tensor = torch.fft.rfft2(contrast)
        if self.scope.bend_px == 0.0:
            return spectrum[None]
        rows, columns = (2j * math.pi * f for f in fourier.fftfreq_axes(self._fine, self.device))
        by, bx = self._bend_fields()
        series = [spectrum]
        for n in range(1, _TAYLOR_ORDER + 1):
            term = torch.zeros_like(contrast)
            for j in range(n + 1):
                derivative = fourier.to_image(spectrum * rows ** (n - j) * columns**j, self._fine)
                term += math.comb(n, j) * by ** (n - j) * bx**j * derivative
            series.append(torch.fft.rfft2(term) * ((-1.0) ** n / math.factorial(n)))
        return torch.stack(series)

    def _at(self, amplitude: float, series: Tensor) -> Tensor:
        """Sum of a series in the bend amplitude, (2H, W+1)."""
        middle = amplitude - float(self.bend_amplitude.mean())
        spectrum = series[0].clone()
        for n, term in enumerate(series[1:], start=1):
            spectrum.add_(term, alpha=middle**n)
        return spectrum

    def expected(self, detector: Detector) -> Iterator[Tensor]:
        """Mean counts of each frame before pixel efficiencies, (h, w) float32."""
        scope, (height, width), (top, left) = self.scope, self.scope.shape, self._origin
        radius = fourier.radius(self._fine, self.device)
        rows, columns = fourier.fftfreq_axes(self._fine, self.device)
        # mean over the two fine pixels of a detector pixel along each axis, then the detector's blur
        fixed = (1.0 + torch.exp(2j * math.pi * rows)) / 2.0 * ((1.0 + torch.exp(2j * math.pi * columns)) / 2.0)
        series = self._series * (fixed * detector.transfer(2.0 * radius))
        rate = electrons_per_pixel(scope.dose_per_frame, scope.pixel_size)
        decay = dose.decay_rate(radius, scope.pixel_size / 2.0, scope.voltage_kv) * float(scope.damage)
        damage, per_frame = (torch.exp(-decay * (scope.dose_per_frame * part)) for part in (0.5, 1.0))
        for amplitude, displacement in zip(self.bend_amplitude, self.displacement, strict=True):
            spectrum = self._at(float(amplitude), series).mul_(damage)
            damage.mul_(per_frame)
            for axis, moved in zip((rows, columns), displacement, strict=True):
                spectrum.mul_(torch.exp(-2j * math.pi * axis * (2.0 * float(moved))))
            contrast = _every_second(spectrum, self._fine)[top : top + height, left : left + width]
            yield (rate * (1.0 + contrast)).clamp_(min=0.0)

    def frames(self, detector: Detector) -> Iterator[NDArray[np.uint8]]:
        """The counts, frame by frame, (h, w) uint8."""
        efficiency, hot = (torch.from_numpy(a).to(self.device) for a in (detector.efficiency, detector.hot_counts))
        generator = torch.Generator(device=self.device).manual_seed(int(self._rng.integers(2**62)))
        for expected in self.expected(detector):
            counts = torch.poisson(expected * efficiency + hot, generator=generator)
            yield counts.clamp_(max=255.0).to(torch.uint8).cpu().numpy()

    def truth(self) -> Truth:
        """What the frames were made from."""
        (height, width), (top, left) = self.scope.shape, self._origin
        image = fourier.to_image(self._at(float(self.bend_amplitude[0]), self._series), self._fine)
        centres = self._first_frame_centres()
        inside = ((centres >= 0) & (centres < np.array(self.scope.shape))).all(1)
        image = image[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
        return Truth(
            image=image.cpu().numpy(),
            displacement=self.displacement,
            bend=self.bend,
            bend_amplitude=self.bend_amplitude - self.bend_amplitude[0],
            particles=centres[inside],
            rotations=self.rotations[inside],
            diameter=self.specimen.diameter if self.specimen is not None else 0.0,
            optics=self.optics,
        )

    def _first_frame_centres(self) -> Array:
        """Centres in the first frame's position and coordinates."""
        size = np.array(self.scope.shape, dtype=np.float32)
        centres = self.centres - np.array(self._origin, dtype=np.float32)
        v, u = (centres / size - 0.5).T
        basis = np.stack(_bend_basis(v, u), axis=-1)
        moved: Array = centres + basis @ self.bend.T * (self.bend_amplitude[0] - self.bend_amplitude.mean())
        return moved.astype(np.float32)


def _every_second(spectrum: Tensor, shape: tuple[int, int]) -> Tensor:
    """The image at even rows and columns, (h/2, w/2): each coarse frequency is the sum of its four aliases."""
    height, width = shape[0] // 2, shape[1] // 2
    half = width // 2 + 1
    rows = spectrum[:height] + spectrum[height:]
    mirrored = rows[(-torch.arange(height, device=rows.device)) % height]
    folded = rows[:, :half] + mirrored[:, width - half + 1 :].flip(1).conj()[:, :half]
    return fourier.to_image(folded, (height, width)) / 4.0
