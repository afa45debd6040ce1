"""Base weights: what a session starts from, learned from simulated sessions of many specimens.

Each specimen is a random protein, alone or several around an axis, seen at its own pixel size, dose and defocus, with
its own ice; every third field is as dirty as real ones are. Movies are treated as the daemon's are: summed in frame
groups, whitened, cropped to one band in Å, so that a particle has the same size in pixels whatever the magnification.
The last specimens are kept for the gate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from models.manifest import SIMULATED
from models.training.movie import TrainingMovie
from streamer.band import band_of
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.scenes.scene import scene
from streamer.simulation.specimen import Specimen, assembled, random_protein
from streamer.simulation.true_sums import recorded, true_sums
from streamer.sums.halves import group_sums

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from streamer.records import GroupSums
    from streamer.simulation.scenes.scene import Scene

RESOLUTION = 8.0
"""Å; fine end of the band, whatever the pixel size: 4 Å per pixel of the network."""
LOW = 100.0
"""Å; coarse end of the band."""
_SIDE, _FRAMES = 768, 10
_PIXEL_SIZES = (0.85, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
"""Å/px."""
_MOVIES = 3
"""Of each specimen."""
_DIRT = (
    *("crystal", "crystals", "crystal-edge", "frost", "carbon", "carbon-hole", "gold-hole", "waves-3", "gradient-20"),
    *("overlapping", "boiling", "crystals+waves-3", "crystal+carbon", "carbon+empty", "crystals+empty"),
)
"""Scenes of every third field. The weights that are shipped are older than these: 36,000 steps on clean fields."""


def simulated_movies(specimens: range, seed: int, device: torch.device | str = "cpu") -> Iterator[TrainingMovie]:
    """Movies of some specimens, numbered; those without significant signal are left out."""
    for number in specimens:
        specimen, scope = sample(number, seed)
        for index in range(_MOVIES):
            name = f"{SIMULATED}{seed}-{number}-{index}"
            movie = TrainingMovie(
                name, _sums(specimen, scope, [seed, number, index]), LOW, device, resolution=RESOLUTION
            )
            if movie.spectrum.significant:
                yield movie


def sample(number: int, seed: int) -> tuple[Specimen, Microscope]:
    """The specimen of a number, and how it is imaged."""
    rng = np.random.default_rng([seed, number, 7])
    symmetric = rng.random() < 0.4
    copies = int(rng.integers(2, 13)) if symmetric else 1
    whole = math.exp(rng.uniform(math.log(500.0), math.log(8000.0)))
    residues = max(120, round(whole / copies))
    part = random_protein(100_000 * seed + number, residues, int(rng.integers(1, 3 if symmetric else 9)))
    specimen = assembled(part, copies, dihedral=bool(rng.random() < 0.5)) if symmetric else part
    exposure = math.exp(rng.uniform(math.log(4.0), math.log(40.0)))
    return specimen, Microscope(
        shape=(_SIDE, _SIDE),
        n_frames=_FRAMES,
        pixel_size=float(rng.choice(_PIXEL_SIZES)),
        dose_per_frame=exposure / _FRAMES,
        voltage_kv=300.0 if rng.random() < 0.75 else 200.0,
        defocus_um=(0.5, 2.8),
        ice_contrast=float(rng.uniform(0.0, 0.05)),
        ice_thickness_angstrom=float(rng.uniform(200.0, 900.0)),
        coverage=float(rng.uniform(0.05, 0.5)),
        bend_px=0.0,
    )


def _sums(specimen: Specimen, scope: Microscope, seed: list[int]) -> GroupSums:
    """Group sums of one movie, summed with the true shifts: what is learned here is to denoise, not to align."""
    number = int(np.random.default_rng(seed).integers(1 << 31))
    dirt = np.random.default_rng([*seed, 11])
    if dirt.random() < 1.0 / 3.0:
        settings = {name: getattr(scope, name) for name in scope.__slots__}
        field: Field | Scene = scene(str(dirt.choice(_DIRT)), number, specimen=specimen, **settings)
    else:
        field = Field(scope, specimen, number)
    frames = recorded(field, Detector(scope.shape, number % 5))  # type: ignore[arg-type]
    band = band_of(scope.shape, scope.pixel_size, RESOLUTION, LOW)
    summed = true_sums(frames, field.truth().displacement, band)
    groups = group_sums(summed, band.small, scope.pixel_size, scope.voltage_kv)
    if groups is None:
        raise ValueError("too few frames for groups")
    return groups
