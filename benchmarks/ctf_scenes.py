"""Micrographs with a known CTF, and micrographs without one, for benchmarks/ctf.py and quick tests.

Weak-phase images at their full size, periodic over twice the field, so that waves leave and enter the field as they
do in a microscope. Amorphous ice with the structure factor of water, optionally particles, carbon, crystalline ice,
drift, a phase plate, a gain pattern; Poisson counts. The CTF here is written out apart from the estimator's.
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
    ice: float = 0.2
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
    noise = np.fft.rfft2(rng.standard_normal(shape))
    envelope = _envelope(scene, ky, kx)
    specimen = noise * ice_amplitude(k.astype(np.float32)).astype(np.float64) * scene.ice / scene.pixel_size
    if scene.particles:
        specimen = specimen + np.fft.rfft2(rng.standard_normal(shape)) * _of_particles(scene, k)
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


def envelope_of(scene: Scene, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
    """Amplitude of ice and particles per unit of white noise, envelope included, CTF not."""
    k = np.sqrt(kx**2 + ky**2)
    ice = ice_amplitude(k.astype(np.float32)) * scene.ice / scene.pixel_size
    return np.sqrt(ice**2 + _of_particles(scene, k) ** 2) * _envelope(scene, ky, kx)


def _envelope(scene: Scene, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
    envelope = np.exp(-scene.b_factor * (kx**2 + ky**2) / 4.0)
    if scene.drift:
        envelope = envelope * np.sinc(scene.drift * (kx * math.cos(0.6) + ky * math.sin(0.6)))
    return envelope


def _of_particles(scene: Scene, k: np.ndarray) -> np.ndarray:
    """Amplitude of compact objects of some 60 Å per unit of white noise."""
    fine = np.linspace(0.0, 0.7 / scene.pixel_size, 20_000)
    # variance of a noise field shaped like this: the mean of its square over the plane of frequencies
    variance = np.trapezoid((1.0 + (60.0 * fine) ** 2) ** -2.0 * 2.0 * math.pi * fine, fine) * scene.pixel_size**2
    return scene.particles / math.sqrt(variance) / (1.0 + (60.0 * k) ** 2)


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


_BASE = Scene(counts=40.0, b_factor=60.0, ice=0.14)
SCENES = {
    "base": _BASE,
    "phase plate": replace(_BASE, phase_deg=(5.0, 175.0)),
    "200 kV": replace(_BASE, voltage_kv=200.0, cs_mm=1.4),
    "ice rings .05": replace(_BASE, crystals=0.05),
    "ice rings .2": replace(_BASE, crystals=0.2),
    "0.25-0.6 µm": replace(_BASE, defocus=(2500.0, 6000.0), astigmatism=(50.0, 400.0)),
    "3.8-5.8 µm": replace(_BASE, defocus=(38000.0, 58000.0)),
    "a quarter of the dose": replace(_BASE, counts=10.0, ice=0.2),
    "carbon": replace(_BASE, second=(0.1, 0.0)),
    "drift 3 Å": replace(_BASE, drift=3.0),
    "drift 6 Å": replace(_BASE, drift=6.0),
    "gain pattern 5 %": replace(_BASE, pattern=0.05),
    "astigmatism 1500-2500 Å": replace(_BASE, astigmatism=(1500.0, 2500.0)),
    "0.5 Å pixels": replace(_BASE, pixel_size=0.5, size=(2048, 2048), counts=10.0),
    "1.8 Å pixels": replace(_BASE, pixel_size=1.8),
    "not square, odd": replace(_BASE, size=(1009, 1322)),
}
EMPTY = ("white", "aggregate", "crystal spots", "discs", "edge", "gain pattern", "ice in focus", "crystalline ice")


def empty(kind: str, rng: np.random.Generator, size: int = 768) -> np.ndarray:
    """A field without a CTF, 1 Å/px, 30 e⁻/px: (size, size) float32."""
    ky, kx = _frequencies((size, size), 1.0)
    k = np.hypot(ky, kx)
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))

    def noise(amplitude: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * amplitude, s=(size, size))

    if kind == "aggregate":
        image = noise(rng.uniform(2.0, 30.0) / (1.0 + (k * 60.0) ** 2))
    elif kind == "crystal spots":
        image = sum(0.05 * rng.uniform(0.3, 2.0) * _wave(x, y, rng) for _ in range(30))
    elif kind == "discs":
        image = -sum(rng.uniform(0.2, 0.9) * _disc(x, y, rng) for _ in range(rng.integers(1, 12)))
    elif kind == "edge":
        angle = rng.uniform(0.0, math.pi)
        across = (x - size / 2) * math.cos(angle) + (y - size / 2) * math.sin(angle)
        image = -rng.uniform(0.3, 1.0) * (across > rng.uniform(-200.0, 200.0))
    elif kind == "gain pattern":
        image = 0.1 * np.random.default_rng(3).standard_normal((size, size)) + 0.05 * ((x // 64) % 2)
    elif kind == "ice in focus":
        image = noise(ice_amplitude(k.astype(np.float32)) * 0.15)
    elif kind == "crystalline ice":
        image = noise(_crystalline(k) * rng.uniform(0.05, 0.2))
    return rng.poisson(30.0 * np.clip(1.0 + image, 0.0, None)).astype(np.float32)


def _wave(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    f, angle = rng.uniform(0.1, 0.32), rng.uniform(0.0, math.pi)
    return np.cos(2.0 * math.pi * f * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0.0, 6.0))


def _disc(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(x)
    return (y - rng.uniform(0, size)) ** 2 + (x - rng.uniform(0, size)) ** 2 < rng.uniform(10, 150) ** 2
