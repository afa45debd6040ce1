"""Micrographs with a known CTF, and micrographs without one, for benchmarks/ctf.py and quick tests.

Weak-phase images at their full size, periodic over twice the field, so that waves leave and enter the field as they
do in a microscope. Amorphous ice with the structure factor of water, optionally particles, carbon, crystalline ice,
drift, a phase plate, a gain pattern; Poisson counts. The CTF here is written out in numpy, independently of the estimator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from streamer.simulation.specimen import ice_amplitude
from streamer.units import electron_wavelength


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is in the field, and the microscope."""

    size: tuple[int, int] = (1024, 1024)
    pixel_size: float = 1.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    defocus: tuple[float, float] = (8000.0, 25000.0)
    """Range of the mean, Å."""
    astigmatism: tuple[float, float] = (50.0, 700.0)
    """Range of U − V, Å."""
    phase_deg: tuple[float, float] = (0.0, 0.0)
    counts: float = 30.0
    """Electrons per pixel."""
    ice: float = 0.07
    """Standard deviation of the ice's contrast before CTF and envelope, per pixel of 1 Å."""
    b_factor: float = 40.0
    """Å², of amplitudes: exp(−B k²/4)."""
    particles: float = 0.15
    """Standard deviation of their contrast, coarse."""
    crystals: float = 0.0
    """Standard deviation of crystalline ice in sharp rings."""
    drift: float = 0.0
    """Length in Å of a straight, unseen movement during the exposure."""
    pattern: float = 0.0
    """Relative pattern of the detector's pixels."""
    second: tuple[float, float] = (0.0, 0.0)
    """Carbon: standard deviation of its contrast, and its height above the ice, Å."""
    with_ctf: bool = True
    tilt: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """CTF of a simulated micrograph; Å and degrees."""

    defocus: float
    astigmatism: float
    angle: float
    phase_deg: float = 0.0
    scene: Scene = field(default_factory=Scene)


def drawn(scene: Scene, rng: np.random.Generator) -> Truth:
    """A CTF of the scene's ranges."""
    return Truth(
        defocus=rng.uniform(*scene.defocus),
        astigmatism=rng.uniform(*scene.astigmatism),
        angle=rng.uniform(0.0, 180.0),
        phase_deg=rng.uniform(*scene.phase_deg),
        scene=scene,
    )


def micrograph(truth: Truth, rng: np.random.Generator) -> np.ndarray:
    """Counts of one micrograph, (h, w) float32."""
    scene = truth.scene
    height, width = scene.size
    image = np.zeros((height, width))
    shape = (2 * height, 2 * width)
    ky, kx = _frequencies(shape, scene.pixel_size)
    k = np.sqrt(kx**2 + ky**2)
    envelope = np.exp(-scene.b_factor * k**2 / 4.0)
    if scene.drift:
        way = scene.drift * (kx * math.cos(0.6) + ky * math.sin(0.6))
        envelope = envelope * np.sinc(way)
    noise = np.fft.rfft2(rng.standard_normal(shape))
    ice = ice_amplitude(k.astype(np.float32)).astype(np.float64)
    specimen = noise * ice * scene.ice / scene.pixel_size
    if scene.particles:
        coarse = 1.0 / (1.0 + (k * 60.0) ** 2)
        coarse *= scene.particles / math.sqrt(float((coarse**2).mean()))
        specimen = specimen + np.fft.rfft2(rng.standard_normal(shape)) * coarse
    if scene.crystals:
        specimen = specimen + np.fft.rfft2(rng.standard_normal(shape)) * _crystalline(k) * scene.crystals
    spectrum = specimen * envelope * (ctf(truth, ky, kx) if scene.with_ctf else 1.0)
    if scene.second[0]:
        carbon = np.fft.rfft2(rng.standard_normal(shape)) * scene.second[0] / (1.0 + (k / 0.15) ** 2)
        higher = replace(truth, defocus=truth.defocus + scene.second[1])
        spectrum = spectrum + carbon * envelope * ctf(higher, ky, kx)
    image = np.fft.irfft2(spectrum, s=shape)[:height, :width]
    expected = scene.counts * np.clip(1.0 + image, 0.0, None)
    counts = rng.poisson(expected).astype(np.float32)
    if scene.pattern:
        fixed = np.random.default_rng(11).standard_normal((height, width))
        counts *= (1.0 + scene.pattern * fixed).astype(np.float32)
    return counts


def ctf(truth: Truth, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
    """CTF at spatial frequencies in Å⁻¹; CTFFIND's convention. Source: Rohou & Grigorieff 2015, eq. 2-4."""
    scene = truth.scene
    wave, cs = electron_wavelength(scene.voltage_kv), scene.cs_mm * 1e7
    u = kx**2 + ky**2
    theta = np.arctan2(ky, kx)
    z = truth.defocus + 0.5 * truth.astigmatism * np.cos(2.0 * (theta - math.radians(truth.angle)))
    chi = math.pi * wave * z * u - 0.5 * math.pi * cs * wave**3 * u**2
    return -np.sin(chi + math.radians(truth.phase_deg) + math.asin(scene.amplitude_contrast))


def _frequencies(shape: tuple[int, int], pixel_size: float) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.fftfreq(shape[0], pixel_size)[:, None], np.fft.rfftfreq(shape[1], pixel_size)[None, :]


def _crystalline(k: np.ndarray) -> np.ndarray:
    """Amplitude of crystalline ice: rings 0.002 Å⁻¹ wide at 3.90, 3.66, 3.44 and 2.67 Å, unit variance in all."""
    rings = sum(np.exp(-(((k - 1.0 / d) / 0.002) ** 2)) for d in (3.90, 3.66, 3.44, 2.67))
    return np.sqrt(rings) / math.sqrt(float(rings.mean()))
