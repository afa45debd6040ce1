"""What a field may have in it: one switch for each, and all of them off is a clean field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that is in a field beside what the microscope's settings say. Lengths in Å."""

    # ------------------------------------------------------------------------------------------ what is not specimen
    crystals: int = 0
    """Contamination crystals that lie with their centre in the field."""
    crystals_at_edge: int = 0
    """Crystals that the field's edge cuts."""
    crystal_size: tuple[float, float] = (150.0, 500.0)
    """Smallest and largest diameter; a crystal is never wider than half of the field's shorter side."""
    carbon: float = 0.0
    """Share of the field that is carbon film."""
    gold: float = 0.0
    """Share of the field that is gold film."""
    curved: bool = False
    """Whether the film's edge is a hole's rim, or straight."""
    torn: float = 0.0
    """Share of the field where the ice is broken and nothing is left."""

    # --------------------------------------------------------------------------------------------------------- the ice
    waves: float = 0.0
    """Standard deviation of the mean counts by waves of the thickness, over the mean."""
    gradient: float = 0.0
    """Change of the mean counts by thickness from one end of the field to the other, over the mean."""
    boiling: float = 0.0
    """Mean square displacement of the ice's molecules along each axis, Å² per e⁻/Å²; 0: the ice stands."""

    # --------------------------------------------------------------------------------------------------- the specimen
    specimen: str | None = None
    """Name in ``structures.STRUCTURES`` of what this kind of field is about; None: whatever the session has."""
    empty: bool = False
    """No particles, whatever the specimen."""
    coverage: float | None = None
    """Share of the field that particles cover; None: as the microscope's settings say."""
    spacing: float = 1.05
    """Least distance of two particles' centres in diameters; 0: they may lie over each other."""
    height_spread: float = 0.0
    """Particles lie between −½ and +½ of this along the beam."""
    vesicles: bool = False
    """Particles sit in the membranes of vesicles."""

    motion: str | None = None
    """Name in ``motions.MOTIONS``; None: the usual drift."""
    scope: tuple[tuple[str, object], ...] = ()
    """Settings of the microscope that belong to this kind of field, by their names in ``Microscope``."""

    @property
    def dirty(self) -> bool:
        """Whether anything lies in the field that is neither ice nor specimen, or the ice is torn."""
        return bool(self.crystals or self.crystals_at_edge or self.carbon or self.gold or self.torn)
