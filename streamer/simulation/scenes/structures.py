"""Particles of the kinds that sessions are about: small, large, in membranes, in filaments; made by a seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from streamer.simulation.specimen import Specimen, random_protein

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

_RESIDUE_KDA = 0.11
_LIPID_FACTOR = 40.0
"""Scattering factor at zero angle of a lipid's head group, Å: phosphate, glycerol and choline, some 25 atoms."""
_LIPID_AREA = 65.0
"""Å² of membrane per lipid and leaflet."""
_HEADS_APART = 38.0
"""Å between the head groups of the two leaflets."""


def small(seed: int) -> Specimen:
    """60 to 95 kDa in two domains."""
    kda = np.random.default_rng([seed, 31]).uniform(60.0, 95.0)
    return random_protein(seed, residues=round(kda / _RESIDUE_KDA), domains=2)


def virus(seed: int) -> Specimen:
    """Sixty copies of a protein on an icosahedral shell, 300 to 450 Å wide and empty."""
    rng = np.random.default_rng([seed, 32])
    part = _oriented(random_protein(seed, residues=500, domains=2), rng)
    radius = float(rng.uniform(125.0, 190.0))
    axis = np.array([0.0, 0.30, 1.0])
    unit = part.positions + radius * axis / np.linalg.norm(axis)
    shell = np.concatenate([unit @ rotation.T for rotation in icosahedral()])
    return Specimen(f"virus-{seed}", shell.astype(np.float32), np.tile(part.factors, 60))


def membrane(seed: int) -> Specimen:
    """100 to 200 kDa of protein through a micelle of detergent, whose head groups make a halo about it."""
    rng = np.random.default_rng([seed, 33])
    protein = random_protein(seed, residues=round(rng.uniform(100.0, 200.0) / _RESIDUE_KDA), domains=3)
    axes = rng.uniform(42.0, 52.0) * np.array([1.0, 1.0, 0.5])
    shell = rng.normal(size=(1500, 3))
    shell = shell / np.linalg.norm(shell, axis=1, keepdims=True) * axes + rng.normal(scale=2.0, size=(1500, 3))
    positions = np.concatenate([protein.positions, shell]).astype(np.float32)
    factors = np.concatenate([protein.factors, np.full(1500, 0.5 * _LIPID_FACTOR, np.float32)])
    return Specimen(f"membrane-{seed}", positions, factors)


def vesicle(seed: int, radius: float) -> Specimen:
    """Head groups of the two leaflets of a vesicle; the tails hardly differ from ice."""
    rng = np.random.default_rng([seed, 34])
    leaflets = []
    for middle in (radius - _HEADS_APART / 2.0, radius + _HEADS_APART / 2.0):
        number = round(4.0 * math.pi * middle**2 / _LIPID_AREA)
        direction = rng.normal(size=(number, 3))
        height = middle + rng.normal(scale=2.5, size=(number, 1))
        leaflets.append(direction / np.linalg.norm(direction, axis=1, keepdims=True) * height)
    positions = np.concatenate(leaflets).astype(np.float32)
    return Specimen(f"vesicle-{seed}", positions, np.full(len(positions), _LIPID_FACTOR, np.float32))


def actin(seed: int) -> Specimen:
    """One subunit, 42 kDa, beside the axis z of a thin filament."""
    part = _oriented(random_protein(seed, residues=375, domains=2), np.random.default_rng([seed, 35]))
    return Specimen(f"actin-{seed}", part.positions + np.array([24.0, 0.0, 0.0], np.float32), part.factors)


def tube(seed: int) -> Specimen:
    """One turn of thirteen subunits of 50 kDa about the axis z of a hollow tube 250 Å wide, rising as it goes round."""
    part = _oriented(random_protein(seed, residues=450, domains=1), np.random.default_rng([seed, 36]))
    turn = []
    for n in range(13):
        angle = 2.0 * math.pi * n / 13
        cos, sin = math.cos(angle), math.sin(angle)
        moved = part.positions + np.array([105.0, 0.0, 40.9 * 1.5 * n / 13])
        turn.append(moved @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]))
    positions = np.concatenate(turn)
    positions[:, 2] -= positions[:, 2].mean()
    return Specimen(f"tube-{seed}", positions.astype(np.float32), np.tile(part.factors, 13))


FILAMENTS = {"actin": (27.6, -166.6), "tubes": (40.9, 0.0)}
"""Rise in Å and twist in degrees from one unit to the next."""

STRUCTURES: Mapping[str, Callable[[int], Specimen]] = {
    "small": small,
    "virus": virus,
    "membrane": membrane,
    "actin": actin,
    "tubes": tube,
}


def icosahedral() -> list[NDArray[np.float64]]:
    """The sixty rotations (3, 3) of an icosahedron with a twofold axis along z."""
    golden = (1.0 + math.sqrt(5.0)) / 2.0
    makers = [_turn(np.array([0.0, 1.0, golden]), 2.0 * math.pi / 5.0), _turn(np.ones(3), 2.0 * math.pi / 3.0)]
    group = [np.eye(3)]
    for known in group:  # grows while it is walked through, until nothing new comes
        for maker in makers:
            other = maker @ known
            if not any(np.allclose(other, member, atol=1e-6) for member in group):
                group.append(other)
    return group


def _turn(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rotation matrix (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
    return turn


def _oriented(part: Specimen, rng: np.random.Generator) -> Specimen:
    """The same part turned at random."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    return Specimen(part.name, (part.positions @ q.T).astype(np.float32), part.factors)
