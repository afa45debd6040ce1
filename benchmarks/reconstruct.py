"""Particles at their true places and poses, a map of each half by RELION, and its FSC: what an image is worth in 3-D.

The poses are the simulation's. A map of the even movies' particles and one of the odd movies' share neither particles
nor frames; the other comparison is the atomic model itself. Nothing is compared with a map from the same movies.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mrcfile
import numpy as np

from streamer.simulation.specimen import solvent_contrast

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.ctf.transfer import Optics
    from streamer.simulation.movie import Truth
    from streamer.simulation.specimen import Specimen

_HEADER = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
_rlnImageSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImageDimensionality #7
1 {pixel_size:.6f} {box} {voltage:g} {cs:g} {ac:g} 2

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnPhaseShift #10
_rlnOpticsGroup #11
"""


def euler_angles(rotation: NDArray[np.float32]) -> tuple[float, float, float]:
    """RELION's rot, tilt, psi in degrees of a rotation from the map's to the microscope's coordinates."""
    r = rotation.astype(float)
    tilt = np.arccos(np.clip(r[2, 2], -1.0, 1.0))
    if abs(r[2, 2]) > 1.0 - 1e-9:
        rot, psi = 0.0, np.arctan2(r[0, 1], r[0, 0])
    else:
        rot, psi = np.arctan2(r[2, 1], r[2, 0]), np.arctan2(r[1, 2], -r[0, 2])
    return float(np.degrees(rot)), float(np.degrees(tilt)), float(np.degrees(psi))


@dataclass
class Particles:
    """The particles of one arm and one half, as they are collected."""

    directory: Path
    box: int
    pixel_size: float

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._images: list[NDArray[np.float32]] = []
        self._lines: list[str] = []

    def add(self, image: NDArray[np.float32], truth: Truth, upsampling: int) -> None:
        """Cut the particles of one image whose pixels are ``upsampling`` times as fine as the movie's."""
        optics, half = truth.optics, self.box // 2
        self._optics = optics
        for centre, rotation in zip(truth.particles, truth.rotations, strict=True):
            # a coarse pixel's centre lies in the middle of the finer ones
            place = upsampling * centre.astype(float) + (upsampling - 1) / 2.0
            corner = np.round(place).astype(int) - half
            if (corner < 0).any() or (corner + self.box > image.shape).any():
                continue
            cut = image[corner[0] : corner[0] + self.box, corner[1] : corner[1] + self.box]
            self._images.append(cut - cut.mean())
            dy, dx = -(place - corner - half) * self.pixel_size
            rot, tilt, psi = euler_angles(rotation)
            defocus = (1e4 * optics.defocus_u_um, 1e4 * optics.defocus_v_um, optics.astigmatism_angle_deg)
            numbers = (rot, tilt, psi, dx, dy, *defocus, 0.0)
            name = f"{len(self._images):06d}@{self.directory / 'particles.mrcs'}"
            self._lines.append(f"{name} " + " ".join(f"{n:.5f}" for n in numbers) + " 1")

    def __len__(self) -> int:
        return len(self._images)

    def reconstruct(self, relion: Path, symmetry: str) -> None:
        """Write the stack and let RELION make a map of it."""
        with mrcfile.new(self.directory / "particles.mrcs", overwrite=True) as file:
            file.set_data(np.stack(self._images).astype(np.float32))
            file.set_image_stack()
            file.voxel_size = self.pixel_size
        optics: Optics = self._optics
        header = _HEADER.format(
            pixel_size=self.pixel_size,
            box=self.box,
            voltage=optics.voltage_kv,
            cs=optics.cs_mm,
            ac=optics.amplitude_contrast,
        )
        star = self.directory / "particles.star"
        star.write_text(header + "\n".join(self._lines) + "\n", encoding="utf-8")
        self._images.clear()
        command = [relion, "--i", star, "--o", self.map, "--ctf", "--sym", symmetry, "--j", "1"]
        libraries = relion.parent / "lib"
        environment = os.environ | ({"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {})
        with (self.directory / "log").open("wb") as log:
            subprocess.run([str(part) for part in command], stdout=log, stderr=log, env=environment, check=False)
        (self.directory / "particles.mrcs").unlink()

    @property
    def map(self) -> Path:
        """Where RELION writes."""
        return self.directory / "map.mrc"


def read_map(path: Path) -> NDArray[np.float32]:
    with mrcfile.open(path) as file:
        return np.array(file.data, dtype=np.float32)


def model_map(specimen: Specimen, box: int, pixel_size: float) -> NDArray[np.float32]:
    """The specimen's density in ice; what scales its shells does not matter to an FSC."""
    middle = box // 2
    place = specimen.positions[:, ::-1] / pixel_size + middle
    low = np.floor(place).astype(int)
    rest = place - low
    density = np.zeros((box, box, box), np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod([rest[:, i] if c else 1.0 - rest[:, i] for i, c in enumerate(corner)], axis=0)
        np.add.at(density, tuple((low + corner).T), specimen.factors * weight)
    frequency = _radius(box) / pixel_size
    spectrum = np.fft.rfftn(density) * solvent_contrast(frequency.astype(np.float32))
    return np.fft.irfftn(spectrum, s=density.shape).astype(np.float32)


def fsc(one: NDArray[np.float32], other: NDArray[np.float32], diameter_px: float) -> NDArray[np.float64]:
    """Fourier shell correlation, shells of one voxel, within a soft sphere."""
    box = one.shape[0]
    axis = np.arange(box) - box // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = np.clip((diameter_px / 2.0 + 8.0 - distance) / 8.0, 0.0, 1.0)
    a, b = (np.fft.rfftn(volume * mask) for volume in (one, other))
    shell = np.round(_radius(box) * box).astype(int)
    sums = [np.bincount(shell.ravel(), values.ravel()) for values in ((a * b.conj()).real, abs(a) ** 2, abs(b) ** 2)]
    return (sums[0] / np.sqrt(sums[1] * sums[2] + 1e-30))[: box // 2 + 1]


def resolution(curve: NDArray[np.float64], box: int, pixel_size: float, threshold: float) -> float:
    """Å at which a curve first falls below a threshold, linear between shells; Nyquist where it never does."""
    for shell in range(3, len(curve)):
        if curve[shell] < threshold:
            above = curve[shell - 1]
            at = shell - 1 + (above - threshold) / max(above - curve[shell], 1e-9)
            return box * pixel_size / at
    return 2.0 * pixel_size


def _radius(box: int) -> NDArray[np.float64]:
    f, r = np.fft.fftfreq(box), np.fft.rfftfreq(box)
    return np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + r**2)
