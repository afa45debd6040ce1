"""Micrographs by the hundred: the sum alone, simulated at once, where neither frames nor motion matter.

A field is made of 40 projections of a specimen at most, placed with rotations by right angles and mirrored; CTF,
envelope, ice, and noise of the electrons that arrive. Dirt takes electrons away: crystals (hexagons and lumps), carbon
and gold beyond an edge, waves and gradients of thickness. Filaments are segments in a row; a virus is a shell of
subunits with or without a genome; membrane proteins carry a belt. Figures that depend on frames are not to be had here.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import rotate

from streamer import fourier
from streamer.ctf.transfer import Optics, ctf_2d
from streamer.field_mask import CARBON, CRYSTAL, GOLD, FieldMask
from streamer.records import HalfSums
from streamer.simulation.specimen import (
    Specimen,
    apoferritin,
    assembled,
    ice_amplitude,
    phase_of_atom,
    random_protein,
    random_rotations,
    read_model,
    solvent_contrast,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

PIXEL, SIDE = 2.4, 640
"""Å/px and px: a field of 1536 Å; everything that is asked of it ends at 10 Å."""
MODELS = Path(__file__).parent.parent.parent / "shared" / "data" / "models" / "bm5"
"""230 deposited proteins and complexes; where they are not at hand, ``bm5-`` specimens cannot be made."""
_SEGMENT = 400.0
"""Å of a filament in a piece."""
_FILAMENTS = {
    "actin": (375, 27.5, -166.7, 20.0, 1),
    "tube": (450, 41.0, 0.0, 115.0, 13),
    "rod": (158, 1.41, 22.03, 60.0, 1),
    "amyloid": (60, 4.8, -1.0, 15.0, 2),
}
"""Residues of a subunit, rise in Å, twist in degrees, radius in Å, strands."""
_CELL = 3
"""Pixels of the true mask's cells, after the field is halved."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How fields of a session are taken, and what lies in them; a range is drawn from anew for each field."""

    defocus_um: Span = (0.7, 2.0)
    coverage: Span = (0.15, 0.4)
    overlapping: bool = False
    ice_contrast: Span = (0.015, 0.04)
    dose: float = 10.0
    phase_shift_deg: float = 0.0
    crystals: tuple[int, int] = (0, 0)
    carbon: float = 0.0
    """Share of fields with a film's edge."""
    gold: float = 0.0
    waves: float = 0.0
    """Standard deviation of the thickness over the mean counts."""
    gradient: float = 0.0


LOOKS = {
    "clean": Look(),
    "crystal": Look(crystals=(1, 1)),
    "crystals": Look(crystals=(6, 6)),
    "waves-3": Look(waves=0.03),
    "waves-1": Look(waves=0.01),
    "carbon": Look(carbon=0.5),
    "mixed": Look(crystals=(0, 3), carbon=0.15, gold=0.05, gradient=0.05, waves=0.007),
    "plate": Look(phase_shift_deg=90.0, defocus_um=(0.3, 1.0)),
    "crowded": Look(coverage=(0.5, 0.8), overlapping=True),
}


@dataclass
class Quick:
    """A micrograph and what in it is not specimen."""

    sums: HalfSums
    mask: FieldMask


@dataclass
class _Canvas:
    """A field while it is drawn."""

    rng: np.random.Generator
    transmission: Image = field(default_factory=lambda: np.ones((SIDE, SIDE), np.float32))
    dirt: Image = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.float32))
    """Phase of what is not specimen."""
    rough: Image = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.float32))
    """Contrast of the amorphous matter."""
    kinds: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8))

    def cover(self, shape: Image, absorbed: float, phase: float, kind: int) -> None:
        """Put something that takes electrons away into the beam."""
        self.transmission *= 1.0 - absorbed * shape
        self.dirt += shape * absorbed * phase
        self.kinds[shape > 0.05] = kind


def specimen_of(name: str) -> Specimen:
    """One by name: ``apo``, ``bm5-number``, ``r<seed>-residues-domains``, or a kind with the numbers that it takes."""
    kind, *numbers = name.split("-")
    given = [int(number) for number in numbers]
    if kind == "apo":
        return apoferritin()
    if kind == "bm5":
        return read_model(sorted(MODELS.glob("*.gz"))[given[0]])
    if kind == "asm":
        return assembled(random_protein(given[0], given[1], 2), given[2], dihedral=True)
    if kind == "virus":
        return _virus(*given)
    if kind == "belt":
        return _membrane_protein(*given)
    if kind in _FILAMENTS:
        return _filament(kind, given[0])
    return random_protein(int(kind[1:]), given[0], given[1])


def quick_field(name: str, look: Look, session: str, index: int) -> Quick:
    """The index-th field of a session, the same whenever it is asked for."""
    rng = np.random.default_rng([zlib.crc32(f"{name} {session}".encode()), index])
    canvas = _Canvas(rng)
    phase = _placed(name, look, rng)
    defocus, astigmatism = rng.uniform(*look.defocus_um), rng.uniform(0.0, 0.03)
    optics = Optics(
        defocus_u_um=defocus + astigmatism,
        defocus_v_um=defocus - astigmatism,
        astigmatism_angle_deg=float(rng.uniform(0.0, 180.0)),
        voltage_kv=300.0,
        cs_mm=2.7,
        amplitude_contrast=0.1,
        phase_shift_deg=look.phase_shift_deg,
    )
    canvas.rough += np.float32(rng.uniform(*look.ice_contrast))
    _soil(canvas, look)
    return _exposed(canvas, phase, optics, look)


def _exposed(canvas: _Canvas, phase: Image, optics: Optics, look: Look) -> Quick:
    """Image, count, and split into halves."""
    rng, shape = canvas.rng, (SIDE, SIDE)
    frequency = fourier.radius(shape) / PIXEL
    transfer = 2.0 * ctf_2d(shape, PIXEL, optics, "cpu") * torch.exp(-100.0 / 4.0 * frequency**2)
    solvent = torch.from_numpy(solvent_contrast(frequency.numpy()))
    inelastic = math.exp(-rng.uniform(300.0, 700.0) / 3100.0)
    waves = torch.fft.rfft2(torch.from_numpy(phase)) * (phase_of_atom(300.0) / PIXEL**2 * inelastic) * solvent
    waves = (waves + torch.fft.rfft2(torch.from_numpy(0.3 * canvas.dirt))) * transfer
    waves[0, 0] = 0.0
    ice = torch.fft.rfft2(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)))
    ice = ice * torch.from_numpy(ice_amplitude(frequency.numpy())) * transfer
    ice[0, 0] = 0.0
    amorphous = fourier.to_image(ice, shape).numpy()
    contrast = fourier.to_image(waves, shape).numpy() + amorphous / amorphous.std() * canvas.rough
    expected = np.clip(canvas.transmission * (1.0 + contrast), 0.01, None) * (0.5 * look.dose * PIXEL**2)
    even, odd = (
        torch.fft.rfft2(torch.from_numpy(expected + np.sqrt(expected) * rng.standard_normal(shape, dtype=np.float32)))
        for _ in range(2)
    )
    share = torch.full((fourier.ring_count(shape),), 0.5)
    sums = HalfSums(even=even, odd=odd, even_share=share, shape=shape, pixel_size=PIXEL)
    cells = torch.nn.functional.max_pool2d(torch.from_numpy(canvas.kinds).float()[None, None], 2 * _CELL)[0, 0]
    return Quick(sums, FieldMask(kinds=cells.to(torch.uint8), shape=shape, pixel_size=PIXEL))


# ------------------------------------------------------------------------------------------------------- specimens


def _virus(seed: int, radius: int, subunits: int, residues: int) -> Specimen:
    rng = np.random.default_rng([seed, 77])
    unit = random_protein(seed, residues, 2)
    order = np.arange(subunits) + 0.5
    z, turn = 1.0 - 2.0 * order / subunits, math.pi * (1.0 + math.sqrt(5.0)) * order
    around = np.sqrt(1.0 - z * z)
    centres = radius * np.stack([around * np.cos(turn), around * np.sin(turn), z], 1)
    turned = [unit.positions @ r.T + c for r, c in zip(random_rotations(rng, subunits), centres, strict=True)]
    factors = [np.tile(unit.factors, subunits)]
    if rng.random() < 0.7:
        atoms = subunits * residues * 3
        inside = rng.normal(size=(atoms, 3))
        far = (radius - unit.diameter / 2.0) * rng.random(atoms) ** (1.0 / 3.0)
        turned.append(inside * (far / np.linalg.norm(inside, axis=1))[:, None])
        factors.append(np.full(atoms, unit.factors.mean()))
    return _made(f"virus-{seed}", turned, factors)


def _membrane_protein(seed: int, residues: int) -> Specimen:
    unit, rng = random_protein(seed, residues, 2), np.random.default_rng(seed)
    angle, radius = rng.uniform(0.0, 2.0 * math.pi, 3 * residues), rng.uniform(25.0, 45.0, 3 * residues)
    belt = np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-18.0, 18.0, len(angle))], 1)
    return _made(f"belt-{seed}", [unit.positions, belt], [unit.factors, np.full(len(belt), 2.2)])


def _filament(kind: str, seed: int) -> Specimen:
    """A piece along x."""
    residues, rise, twist, radius, strands = _FILAMENTS[kind]
    unit, pieces = random_protein(seed, residues, 1), []
    for step in range(int(_SEGMENT / rise)):
        for strand in range(strands):
            turned = (unit.positions + np.array([0.0, radius, 0.0])) @ _about_x(
                math.radians(twist * step + 360.0 * strand / strands)
            ).T
            pieces.append(turned + np.array([step * rise - _SEGMENT / 2.0, 0.0, 0.0]))
    return _made(f"{kind}-{seed}", pieces, [np.tile(unit.factors, len(pieces))])


def _made(name: str, positions: list[NDArray[np.floating]], factors: list[NDArray[np.floating]]) -> Specimen:
    return Specimen(name, np.concatenate(positions).astype(np.float32), np.concatenate(factors).astype(np.float32))


def _about_x(angle: float) -> NDArray[np.floating]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])


@cache
def _projections(name: str) -> tuple[float, tuple[Image, ...]]:
    """Diameter in Å, and sums of scattering factors per pixel: every atom spread over its four nearest."""
    specimen, rng = specimen_of(name), np.random.default_rng(zlib.crc32(name.encode()))
    count = 16 if len(specimen.positions) > 300_000 else 24 if len(specimen.positions) > 100_000 else 40
    along = name.split("-")[0] in _FILAMENTS
    turns = [_about_x(rng.uniform(0.0, 2.0 * math.pi)) for _ in range(count)] if along else random_rotations(rng, count)
    reach = math.ceil(float(np.linalg.norm(specimen.positions, axis=1).max()) / PIXEL) + 2
    side, found = 2 * reach + 1, []
    for turn in turns:
        x, y = (turn[:2] @ specimen.positions.T) / PIXEL + reach
        column, row = x.astype(np.int64), y.astype(np.int64)
        image = np.zeros(side * side)
        for down, wy in ((0, 1.0 - y + row), (1, y - row)):
            for right, wx in ((0, 1.0 - x + column), (1, x - column)):
                index = (row + down) * side + column + right
                image += np.bincount(index, specimen.factors * wy * wx, minlength=side * side)
        found.append(image.reshape(side, side).astype(np.float32))
    return specimen.diameter, tuple(found)


def _placed(name: str, look: Look, rng: np.random.Generator) -> Image:
    """Scattering factors per pixel of a field on a torus."""
    diameter, stamps = _projections(name)
    image = np.zeros((SIDE, SIDE), np.float32)
    if name.split("-")[0] in _FILAMENTS:
        for _ in range(int(rng.integers(8, 25)) + 1):
            _lay(image, stamps, rng)
        return image
    apart = 0.0 if look.overlapping else 1.05 * diameter / PIXEL
    wanted = max(1, round(rng.uniform(*look.coverage) * SIDE**2 / (math.pi / 4.0 * (diameter / PIXEL) ** 2)))
    centres = np.zeros((0, 2))
    for candidate in rng.random((30 * wanted, 2)) * SIDE:
        if len(centres) == wanted:
            break
        away = np.abs(centres - candidate)
        away = np.minimum(away, SIDE - away)
        if (np.hypot(away[:, 0], away[:, 1]) >= apart).all():
            centres = np.vstack([centres, candidate])
    for y, x in centres:
        stamp = np.rot90(stamps[rng.integers(len(stamps))], int(rng.integers(4)))
        _stamp(image, stamp.T if rng.random() < 0.5 else stamp, y, x)
    return image


def _lay(image: Image, stamps: tuple[Image, ...], rng: np.random.Generator) -> None:
    """One filament, slightly bent, piece by piece."""
    angle, bend, length = rng.uniform(0.0, 180.0), 2.0 * rng.normal(), rng.uniform(800.0, 4000.0)
    y, x = rng.uniform(0.0, SIDE, 2)
    for _ in range(int(length / _SEGMENT)):
        _stamp(image, rotate(stamps[rng.integers(len(stamps))], -angle, reshape=False, order=1), y, x)
        y += math.sin(math.radians(angle)) * _SEGMENT / PIXEL
        x += math.cos(math.radians(angle)) * _SEGMENT / PIXEL
        angle += bend
        if not (-100.0 < y < SIDE + 100.0 and -100.0 < x < SIDE + 100.0):
            return


def _stamp(image: Image, stamp: Image, y: float, x: float) -> None:
    half = stamp.shape[0] // 2
    rows, columns = ((np.arange(-half, half + 1) + int(place)) % SIDE for place in (y, x))
    image[np.ix_(rows, columns)] += stamp


# ------------------------------------------------------------------------------------------------------------ dirt


def _soil(canvas: _Canvas, look: Look) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(look.crystals[0], look.crystals[1] + 1))):
        canvas.cover(_lump(rng), rng.uniform(0.08, 0.5), rng.uniform(0.3, 1.0), CRYSTAL)
    rows, columns = np.mgrid[:SIDE, :SIDE] * PIXEL
    if look.waves:
        thickness = np.zeros((SIDE, SIDE))
        for _ in range(int(rng.integers(1, 4))):
            length = math.exp(rng.uniform(math.log(150.0), math.log(1500.0)))
            angle, start = rng.uniform(0.0, 2.0 * math.pi, 2)
            along = rows * math.sin(angle) + columns * math.cos(angle)
            thickness += np.sin(2.0 * math.pi * along / length + start)
        canvas.transmission *= (1.0 + look.waves * thickness / thickness.std()).astype(np.float32)
    if look.gradient:
        angle, slope = rng.uniform(0.0, 2.0 * math.pi), look.gradient * rng.random()
        along = rows * math.sin(angle) + columns * math.cos(angle)
        canvas.transmission *= (1.0 + slope * (along / (SIDE * PIXEL) - 0.5)).astype(np.float32)
    for share, kind, absorbed, rough in (
        (look.carbon, CARBON, (0.04, 0.2), (0.05, 0.12)),
        (look.gold, GOLD, (0.5, 0.95), (0.02, 0.05)),
    ):
        if rng.random() < share:
            film = _beyond_an_edge(rng)
            canvas.cover(film, rng.uniform(*absorbed), 0.5, kind)
            canvas.rough = canvas.rough * (1.0 - film) + film * np.float32(rng.uniform(*rough))


def _lump(rng: np.random.Generator) -> Image:
    """A hexagon or an irregular lump of 80 to 300 Å radius with a soft outline, 0 to 1."""
    (y, x), radius = rng.uniform(0.0, SIDE, 2), rng.uniform(80.0, 300.0) / PIXEL
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle, far = np.arctan2(rows - y, columns - x), np.hypot(rows - y, columns - x)
    if rng.random() < 0.5:
        waves = [0.12 * rng.normal() * np.cos(m * angle + rng.uniform(0.0, 6.28)) for m in (2, 3, 4, 5)]
        outline = radius * (1.0 + sum(waves))
    else:
        sector = (angle - rng.uniform(0.0, math.pi / 3.0)) % (math.pi / 3.0) - math.pi / 6.0
        outline = radius * math.cos(math.pi / 6.0) / np.cos(sector)
    return _soft((outline - far) * PIXEL / 8.0)


def _beyond_an_edge(rng: np.random.Generator) -> Image:
    """A film outside of a round hole whose edge crosses the field, 0 to 1."""
    radius, angle = rng.uniform(3000.0, 8000.0) / PIXEL, rng.uniform(0.0, 2.0 * math.pi)
    inward = radius - SIDE / 2.0 + rng.uniform(0.08, 0.4) * SIDE
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2.0
    far = np.hypot(rows + inward * math.sin(angle), columns + inward * math.cos(angle))
    return _soft((far - radius) * PIXEL / 10.0)


def _soft(inside: NDArray[np.floating]) -> Image:
    edge: Image = (1.0 / (1.0 + np.exp(-np.clip(inside, -30.0, 30.0)))).astype(np.float32)
    return edge
