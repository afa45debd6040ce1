"""What the simulated microscope looks at: atoms of a real protein or of a random one, and amorphous ice.

Coordinates are in Å, centred; each atom carries its electron scattering factor at zero angle in Å, which fixes the
phase shift that it adds: σ · h²/(2π m e) · f(0), in rad·Å².
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import gemmi
import numpy as np

from streamer.errors import UsageError
from streamer.units import interaction_constant

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_POTENTIAL_PER_FACTOR = 47.878
"""h²/(2π m e) in V·Å², so that ∫V = 47.878 · f(0). Source: Peng 1999, eq. 4."""
_SCATTERING_FACTOR = {
    "H": 0.529,
    "C": 2.509,
    "N": 2.211,
    "O": 1.983,
    "NA": 4.778,
    "MG": 5.207,
    "P": 5.488,
    "S": 5.161,
}
"""Electron scattering factors at zero angle, Å. Source: Doyle & Turner 1968."""
_HYDROGENS_PER_ATOM = 1.0
"""Hydrogens are seldom deposited; protein has about one per heavier atom."""
_DISPLACED_ICE = 0.58
"""Mean inner potential of vitreous ice over that of protein: 4.5 V / 7.8 V, from the densities and factors above."""
_ICE_SMOOTHING = 2.5
"""Standard deviation in Å of the ice that an atom displaces."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A particle."""

    name: str
    positions: NDArray[np.float32]
    """(n, 3) x, y, z in Å, centred."""
    factors: NDArray[np.float32]
    """(n,) electron scattering factor at zero angle, Å."""

    @property
    def diameter(self) -> float:
        """Diameter in Å of the sphere that contains 99 % of the atoms."""
        return 2.0 * float(np.quantile(np.linalg.norm(self.positions, axis=1), 0.99))


def apoferritin() -> Specimen:
    """Human apoferritin, 24 chains, 1.25 Å cryo-EM structure. Source: PDB 6Z6U (Yip et al. 2020), CC0."""
    with as_file(files("streamer") / "data" / "6z6u.pdb.gz") as path:
        return read_model(path)


def read_model(path: Path) -> Specimen:
    """Any atomic model that gemmi reads (PDB, mmCIF, gzipped or not)."""
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"no atomic model could be read: {error}", where=path, hint="give a PDB or mmCIF file"
        ) from error
    sites = [site for model in list(structure)[:1] for site in model.all()]
    atoms = [(site.atom.pos.tolist(), site.atom.element.name.upper()) for site in sites]
    if not atoms:
        raise UsageError("the atomic model is empty", where=path, hint="give a PDB or mmCIF file with atoms in it")
    positions = np.array([position for position, _ in atoms], dtype=np.float32)
    hydrogens = 0.0 if any(element == "H" for _, element in atoms) else _HYDROGENS_PER_ATOM * _SCATTERING_FACTOR["H"]
    factors = np.array([_SCATTERING_FACTOR.get(element, 2.5) + hydrogens for _, element in atoms], dtype=np.float32)
    return Specimen(path.name.split(".")[0], positions - positions.mean(0), factors)


def random_protein(seed: int, residues: int = 2400, domains: int = 5) -> Specimen:
    """Globular domains of a confined random chain, arranged without symmetry: a protein that nothing was tuned for.

    Residues are 3.8 Å apart along the chain; each is eight atoms within 2 Å; a domain has 134 Å³ per residue
    (protein density, 0.81 Da/Å³).
    """
    rng = np.random.default_rng([seed, 20])
    per_domain = rng.multinomial(residues, rng.dirichlet(np.full(domains, 6.0)))
    centre, chain = np.zeros(3), []
    for length in per_domain:
        sphere = (3.0 * 134.0 * length / (4.0 * math.pi)) ** (1.0 / 3.0)
        point = centre.copy()
        for _ in range(length):
            step = rng.normal(size=3)
            point = point + 3.8 * step / np.linalg.norm(step)
            distance = float(np.linalg.norm(point - centre))
            if distance > sphere:  # turn back into the domain
                point = centre + (point - centre) * (2.0 * sphere - distance) / distance
            chain.append(point)
        direction = rng.normal(size=3) * np.array([1.0, 0.7, 0.4])
        centre = centre + direction / np.linalg.norm(direction) * sphere * 1.7
    atoms = np.repeat(np.array(chain), 8, axis=0) + rng.normal(scale=1.2, size=(8 * residues, 3))
    factors = np.full(len(atoms), 2.35 + _HYDROGENS_PER_ATOM * _SCATTERING_FACTOR["H"], dtype=np.float32)
    return Specimen(f"random-{seed}", (atoms - atoms.mean(0)).astype(np.float32), factors)


def assembled(part: Specimen, copies: int, *, dihedral: bool = False) -> Specimen:
    """Copies of a part around an axis, as close as their diameters allow; ``dihedral`` adds the same upside down."""
    angles = 2.0 * math.pi * np.arange(copies) / copies
    half = 0.4 * part.diameter
    radius = 0.0 if copies == 1 else half / math.sin(math.pi / copies)
    rings = []
    for side in (1.0, -1.0) if dihedral else (1.0,):
        unit = part.positions * np.array([1.0, side, side]) + np.array([radius, 0.0, side * half * dihedral])
        for angle in angles:
            cos, sin = math.cos(angle), math.sin(angle)
            rings.append(unit @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]))
    positions = np.concatenate(rings)
    symmetry = f"{'D' if dihedral else 'C'}{copies}"
    factors = np.tile(part.factors, len(rings))
    return Specimen(f"{part.name}-{symmetry}", (positions - positions.mean(0)).astype(np.float32), factors)


def phase_of_atom(voltage_kv: float) -> float:
    """Phase shift in rad·Å² per Å of scattering factor."""
    return interaction_constant(voltage_kv) * _POTENTIAL_PER_FACTOR


def solvent_contrast(spatial_frequency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factor on the protein's potential for the ice that it displaces; (…) for frequencies in 1/Å.

    Fine detail keeps its full contrast, coarse shape loses the ice's share.
    """
    smooth: NDArray[np.float32] = np.exp(-2.0 * (math.pi * _ICE_SMOOTHING) ** 2 * spatial_frequency**2)
    return 1.0 - _DISPLACED_ICE * smooth


def ice_amplitude(spatial_frequency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shape of amorphous ice in amplitude over frequency in 1/Å: low compressibility, ring at 3.7 Å, then flat.

    Source: the structure factor of vitreous water as widely measured; here two terms, relative units.
    """
    ring = np.exp(-(((spatial_frequency - 1.0 / 3.7) / 0.035) ** 2))
    floor = 0.25 + 0.75 / (1.0 + np.exp(-(spatial_frequency - 0.22) / 0.03))
    amplitude: NDArray[np.float32] = np.sqrt(floor + 1.2 * ring).astype(np.float32)
    return amplitude


def random_rotations(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """(count, 3, 3) rotation matrices, uniform. Source: Shoemake 1992 (uniform quaternions)."""
    q = rng.normal(size=(count, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows, dtype=np.float32), 2, 0)
