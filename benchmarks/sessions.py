"""Simulated sessions with a truth: what a night at the microscope gives, one movie after the other.

Movies of one session differ as real ones do: defocus, how many particles, how thick the ice. Each is simulated, summed
with its true shifts and kept as the daemon keeps it; ``PLACE`` keeps them between runs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.denoise import SPECIMENS
from benchmarks.harness import simulated
from streamer.band import band_of
from streamer.detector import correction
from streamer.quality import estimators
from streamer.quality.texture import structure, texture
from streamer.records import Gain, GroupSums, HalfSums, Spectrum
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import Specimen, apoferritin, random_protein
from streamer.simulation.true_sums import true_sums
from streamer.sums import halves

if TYPE_CHECKING:
    from streamer.movie_record import ModelScore

PLACE = Path(os.environ.get("STREAMER_SESSIONS", Path(tempfile.gettempdir()) / "streamer-sessions"))


@dataclass(frozen=True)
class Sample:
    """What lies in the microscope, and how it is looked at."""

    specimen: str
    dose: float = 10.0
    """e⁻/Å² of a movie."""
    defocus_um: tuple[float, float] = (0.7, 2.0)
    coverage: tuple[float, float] = (0.15, 0.4)
    ice_contrast: tuple[float, float] = (0.015, 0.04)
    pixel_size: float = 1.5
    side: int = 1024
    gain: bool = True
    """Whether the detector's pattern is taken out."""

    @property
    def name(self) -> str:
        """Of its directory."""
        low, high = self.defocus_um
        parts = [self.specimen, f"{self.dose:g}", f"{low:g}-{high:g}", f"{self.pixel_size:g}", f"{self.side}"]
        return "_".join([*parts, f"{self.coverage[0]:g}", *([] if self.gain else ["raw"])])


@dataclass
class SessionMovie:
    """A movie as the daemon has it after alignment."""

    name: str
    sums: HalfSums
    spectrum: Spectrum
    groups: GroupSums
    truth: Tensor
    """Tapered spectrum of what there is to find."""


def specimen_of(name: str) -> Specimen:
    """One of ``benchmarks.denoise``, apoferritin, or ``r<seed>-<residues>-<domains>``."""
    if name in SPECIMENS:
        return SPECIMENS[name]()
    if name == "apoferritin":
        return apoferritin()
    seed, residues, domains = (int(part) for part in name.removeprefix("r").split("-"))
    return random_protein(seed, residues, domains)


def movie_of(sample: Sample, index: int) -> SessionMovie:
    """The index-th movie of a sample, the same whenever it is asked for."""
    path = PLACE / sample.name / f"{index:04d}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        torch.save(_made(sample, index), temporary)
        temporary.replace(path)
    kept = torch.load(path, weights_only=True)
    groups, shape = kept["groups"], (sample.side, sample.side)
    sums = HalfSums(
        even=kept["even"], odd=kept["odd"], even_share=kept["even_share"], shape=shape, pixel_size=sample.pixel_size
    )
    return SessionMovie(
        name=f"{sample.name}/{index:04d}",
        sums=sums,
        spectrum=estimators.measure(sums),
        groups=GroupSums(
            groups=groups,
            exposures=tuple(tuple(e) for e in kept["exposures"].tolist()),
            shape=shape,
            pixel_size=sample.pixel_size,
            voltage_kv=300.0,
        ),
        truth=kept["truth"],
    )


def record_of(
    name: str, sums: HalfSums, spectrum: Spectrum, electrons: float = 0.0, score: ModelScore | None = None
) -> SimpleNamespace:
    """What the specimen watch reads of a movie's record; ``electrons`` per pixel and movie, 0: not told."""
    mask = estimators.band_mask(sums.shape, sums.pixel_size, 100.0, 6.0)
    halves = tuple(estimators.tapered(half, sums.shape) for half in (sums.even, sums.odd))
    snr = float(estimators.pooled(estimators.estimate(halves, halves, sums.shape), mask).snr)  # type: ignore[arg-type]
    look = texture(sums)
    metrics = SimpleNamespace(
        texture=look,
        structure=None if look is None else structure(look, sums.shape, sums.pixel_size),
        ssnr_full=2.0 * snr,
        mean_counts=electrons,
        empty=None,
        score=score,
    )
    return SimpleNamespace(
        movie_id=name,
        path=name,
        metrics=metrics,
        source=SimpleNamespace(pixel_size=sums.pixel_size, n_frames=1),
        restoration="wiener" if spectrum.significant else "none",
    )


def _made(sample: Sample, index: int) -> dict[str, Tensor]:
    """Simulate, sum with the true shifts."""
    seed = [*(ord(letter) for letter in sample.name), index]
    rng = np.random.default_rng(seed)
    defocus = float(rng.uniform(*sample.defocus_um))
    scope = Microscope(
        shape=(sample.side, sample.side),
        n_frames=10,
        pixel_size=sample.pixel_size,
        dose_per_frame=sample.dose / 10.0,
        defocus_um=(defocus - 0.02, defocus + 0.02),
        ice_contrast=float(rng.uniform(*sample.ice_contrast)),
        ice_thickness_angstrom=float(rng.uniform(300.0, 700.0)),
        coverage=float(rng.uniform(*sample.coverage)),
        bend_px=0.0,
    )
    movie = simulated(scope, specimen_of(sample.specimen), int(rng.integers(1 << 31)))
    if not sample.gain:
        flat = Gain(path="none", sha256="", values=np.ones(scope.shape, dtype=np.float32))
        movie.frames = replace(movie.frames, gain=flat, defects=correction.defects_of(flat, movie.frames.hot_pixels))
    band = band_of(scope.shape, scope.pixel_size, 6.0, 100.0)
    fused = true_sums(movie.frames, movie.truth.displacement, band)
    groups = halves.group_sums(fused, band.small, scope.pixel_size, scope.voltage_kv)
    sums = halves.half_sums(fused, scope.pixel_size, scope.voltage_kv)
    if groups is None:
        raise ValueError("too few frames")
    return {
        "groups": groups.groups,
        "exposures": torch.tensor(groups.exposures),
        "even": sums.even,
        "odd": sums.odd,
        "even_share": sums.even_share,
        "truth": estimators.tapered(movie.expected(), scope.shape),
    }
