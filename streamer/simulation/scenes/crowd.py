"""Where particles lie: apart, crowded or over each other, at several heights, along filaments, on vesicles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from streamer import fourier
from streamer.simulation.projection import add_projection
from streamer.simulation.scenes.imaging import weak_transfer
from streamer.simulation.scenes.structures import FILAMENTS, vesicle
from streamer.simulation.specimen import Specimen, phase_of_atom, random_rotations, solvent_contrast

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.ctf.transfer import Optics
    from streamer.simulation.movie import Microscope
    from streamer.simulation.scenes.canvas import Canvas
    from streamer.simulation.scenes.recipe import Recipe

Array = NDArray[np.float32]
_SLAB = 100.0
"""Å of height that share one defocus."""
_PERSISTENCE = 40_000.0
"""Å over which a filament forgets its direction."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Particles of one field; n of them, those outside the frame included."""

    specimen: Specimen | None
    centres: Array
    """(n, 2) y, x in px of the canvas' wider grid."""
    heights: Array
    """(n,) Å along the beam; higher is more underfocus."""
    rotations: Array
    """(n, 3, 3)."""
    paths: tuple[Array, ...] = ()
    """Axis of each filament, (m, 2) y, x in px of the wider grid."""
    vesicles: tuple[tuple[Specimen, Array, float], ...] = ()
    """Membrane, centre and height of each vesicle."""


NOBODY = Crowd(None, np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 3, 3), np.float32))


def crowd(
    recipe: Recipe, specimen: Specimen | None, scope: Microscope, canvas: Canvas, free: NDArray[np.bool_], seed: int
) -> Crowd:
    """Place what a recipe asks for; no particle's centre lies where ``free`` (2H, 2W) is false."""
    if specimen is None or recipe.empty:
        return NOBODY
    rng = np.random.default_rng([seed, 61])
    coverage = scope.coverage if recipe.coverage is None else recipe.coverage
    if recipe.specimen in FILAMENTS:
        return _filaments(specimen, FILAMENTS[recipe.specimen], coverage, canvas, free, rng)
    if recipe.vesicles:
        return _on_vesicles(specimen, coverage, canvas, free, rng, seed)
    centres = _apart(recipe.spacing, specimen.diameter / canvas.pixel_size, coverage, canvas, free, rng)
    heights = rng.uniform(-0.5, 0.5, len(centres)) * recipe.height_spread
    return Crowd(specimen, centres, heights.astype(np.float32), random_rotations(rng, len(centres)))


def contrast(crowd: Crowd, scope: Microscope, canvas: Canvas, optics: Optics) -> Tensor:
    """Relative contrast (2H, 2W) of all particles, each slab of heights with its own defocus."""
    total = torch.zeros((canvas.fine[0], canvas.fine[1] // 2 + 1), dtype=torch.complex64)
    objects = [(member, centre, height) for member, centre, height in crowd.vesicles]
    slabs = np.unique(np.rint(np.concatenate([crowd.heights, [h for *_, h in objects]]) / _SLAB)).astype(int)
    frequency = (fourier.radius(canvas.fine) / canvas.step).numpy()
    scale = phase_of_atom(scope.voltage_kv) / canvas.step**2
    solvent = torch.from_numpy(solvent_contrast(frequency)) * scale
    for slab in slabs:
        image = np.zeros(canvas.fine, np.float32)
        for number in np.flatnonzero(np.rint(crowd.heights / _SLAB) == slab):
            assert crowd.specimen is not None  # noqa: S101 - heights without a specimen do not exist
            add_projection(image, crowd.specimen, crowd.rotations[number], crowd.centres[number], canvas.step)
        for member, centre, height in objects:
            if round(height / _SLAB) == slab:
                add_projection(image, member, np.eye(3), centre, canvas.step)
        there = at_height(optics, slab * _SLAB)
        total += torch.fft.rfft2(torch.from_numpy(image)) * weak_transfer(canvas.fine, canvas.step, scope, there)
    total *= solvent
    total[0, 0] = 0.0
    return fourier.to_image(total, canvas.fine)


def at_height(optics: Optics, height: float) -> Optics:
    """Optics for what lies higher by ``height`` Å."""
    more = height * 1e-4
    return replace(optics, defocus_u_um=optics.defocus_u_um + more, defocus_v_um=optics.defocus_v_um + more)


def _is_free(points: NDArray[np.floating], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each point (n, 2) in px of the wider grid lies where particles may be."""
    rows, columns = ((np.rint(2.0 * points[:, axis] + 0.5).astype(int) % free.shape[axis]) for axis in (0, 1))
    result: NDArray[np.bool_] = free[rows, columns]
    return result


def _apart(
    spacing: float,
    diameter: float,
    coverage: float,
    canvas: Canvas,
    free: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Array:
    """(n, 2) centres by random sequential adsorption on a torus; diameter in px."""
    size = np.array(canvas.padded, dtype=np.float64)
    wanted = max(1, round(coverage * size.prod() / (math.pi / 4.0 * diameter**2)))
    candidates = rng.random((40 * wanted, 2)) * size
    candidates = candidates[_is_free(candidates, free)]
    if spacing == 0.0:
        return candidates[: round(wanted * free.mean())].astype(np.float32)
    centres = np.zeros((wanted, 2))
    found = 0
    for candidate in candidates:
        if found == wanted:
            break
        apart = np.abs(centres[:found] - candidate)
        apart = np.minimum(apart, size - apart)
        if ((apart**2).sum(1) >= (spacing * diameter) ** 2).all():
            centres[found] = candidate
            found += 1
    return centres[:found].astype(np.float32)


def _filaments(
    unit: Specimen,
    helix: tuple[float, float],
    coverage: float,
    canvas: Canvas,
    free: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Crowd:
    """Filaments that cross the whole field, with a unit at every rise; broken where the field is not free."""
    rise, twist = helix
    wide = 2.0 * float(np.quantile(np.linalg.norm(unit.positions[:, :2], axis=1), 0.99))
    height, width = (side * canvas.pixel_size for side in canvas.padded)
    diagonal = math.hypot(height, width)
    number = max(1, round(coverage * height * width / (wide * 0.75 * diagonal)))
    centres, rotations, paths = [], [], []
    for _ in range(number):
        path, angles = _path(height, width, rise, rng)
        points = path / canvas.pixel_size
        inside = np.asarray(((points >= 0) & (points < np.array(canvas.padded))).all(1))
        inside[inside] &= _is_free(points[inside], free)
        begin = rng.uniform(0.0, 2.0 * math.pi)
        turns = begin + math.radians(twist) * np.arange(len(path))
        paths.append(points[inside].astype(np.float32))
        centres.append(points[inside])
        rotations += [_along(a, t) for a, t in zip(angles[inside], turns[inside], strict=True)]
    placed = np.concatenate(centres).astype(np.float32)
    turned = np.array(rotations, np.float32).reshape(-1, 3, 3)
    return Crowd(unit, placed, np.zeros(len(placed), np.float32), turned, tuple(paths))


def _path(
    height: float, width: float, rise: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (m, 2) y, x in Å a rise apart, and the direction from +x at each: through a random point, both ways."""
    steps = math.ceil(math.hypot(height, width) / rise)
    middle = rng.uniform(0.1, 0.9, 2) * [height, width]
    bends = rng.normal(0.0, math.sqrt(2.0 * rise / _PERSISTENCE), 2 * steps)
    angle = rng.uniform(0.0, 2.0 * math.pi) + np.cumsum(bends)
    angle -= angle[steps] - angle[0]
    way = np.cumsum(rise * np.stack([np.sin(angle), np.cos(angle)], 1), 0)
    return middle + way - way[steps], angle


def _along(angle: float, turn: float) -> NDArray[np.float64]:
    """Rotation that lays the axis z into the plane, ``angle`` from +x, after a turn about it."""
    cos, sin = math.cos(angle), math.sin(angle)
    lay = np.array([[-sin, 0.0, cos], [cos, 0.0, sin], [0.0, 1.0, 0.0]])
    c, s = math.cos(turn), math.sin(turn)
    result: NDArray[np.float64] = lay @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return result


def _on_vesicles(
    specimen: Specimen, coverage: float, canvas: Canvas, free: NDArray[np.bool_], rng: np.random.Generator, seed: int
) -> Crowd:
    """Vesicles of 180 to 450 Å radius, smaller on a small field, with particles through their membranes."""
    size = np.array(canvas.padded, dtype=np.float64)
    area, wanted = 0.0, coverage * size.prod() * canvas.pixel_size**2
    vesicles: list[tuple[Specimen, Array, float]] = []
    places: list[NDArray[np.float64]] = []
    radii: list[float] = []
    centres, heights, rotations = [], [], []
    for candidate in rng.random((400, 2)) * size:
        radius = float(rng.uniform(0.4, 1.0)) * min(450.0, 0.3 * min(canvas.extent))
        gap = [
            np.linalg.norm(candidate - p) * canvas.pixel_size - r - radius for p, r in zip(places, radii, strict=True)
        ]
        if area >= wanted or not _is_free(candidate[None], free)[0] or any(g < 60.0 for g in gap):
            continue
        places.append(candidate)
        radii.append(radius)
        area += math.pi * radius**2
        height = float(rng.uniform(-200.0, 200.0))
        member = vesicle(seed * 1000 + len(vesicles), radius)
        vesicles.append((member, candidate.astype(np.float32), height))
        for _ in range(max(1, round(4.0 * (radius / specimen.diameter) ** 2))):
            outward = rng.normal(size=3)
            outward /= np.linalg.norm(outward)
            across = np.cross(outward, rng.normal(size=3))
            across /= np.linalg.norm(across)
            rotations.append(np.stack([across, np.cross(outward, across), outward], 1))
            centres.append(candidate + radius * outward[1::-1] / canvas.pixel_size)
            heights.append(height + radius * outward[2])
    return Crowd(
        specimen,
        np.array(centres, np.float32).reshape(-1, 2),
        np.array(heights, np.float32),
        np.array(rotations, np.float32).reshape(-1, 3, 3),
        vesicles=tuple(vesicles),
    )
