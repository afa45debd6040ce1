"""How far each frame has to be moved: the result of the alignment. No torch at run time, as in ``streamer.records``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

LARGE_ERROR = 0.5
"""px; a stated error beyond it is worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMotion:
    """How the shift differs over the field; see ``streamer.motion.field``."""

    coefficients: Tensor
    """(t, 2, n) float64 (y, x) px per Legendre product of ``field.ORDERS`` but the constant; 0 in the first frame."""
    shape: tuple[int, int]
    """(h, w) px of the field."""
    evidence: float
    """Logarithm of how much more probable the bending is than none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How far each frame has to be moved."""

    shifts: Tensor
    """(t, 2) float64 (y, x) in px as stored: moves the frame onto the reference, first frame (0, 0)."""
    information: float
    """Fisher information per frame, 1/px²: the inverse variance of one frame's shift."""
    trusted: bool
    """False: nothing shows that the frames share anything when moved so, and ``shifts`` is zero."""
    iterations: int
    local: LocalMotion | None = None
    """What is added to ``shifts`` over the field; None where nothing shows that the field bends."""
    converged: bool = True
    """False: the last step of the fit would still have moved something by more than 0.05 px."""
    errors: Tensor | None = None
    """(t,) float64 px: expected distance of each frame's shift from the truth, root mean square over the field, each
    place's mean over time removed; None where the motion is not trusted."""
    fixed_pattern: bool = False
    """The frames agree best unmoved, although the specimen did move: what stays with the detector rules the fit."""

    @property
    def model(self) -> Literal["none", "global", "local"]:
        """What is applied: nothing, one shift per frame, or shifts that differ over the field."""
        if not self.trusted:
            return "none"
        return "global" if self.local is None else "local"

    @property
    def error(self) -> float | None:
        """Root mean square of ``errors`` over the frames, px."""
        return None if self.errors is None else float(self.errors.square().mean().sqrt())

    @property
    def flags(self) -> tuple[str, ...]:
        """What a user should know about the alignment."""
        if not self.trusted:
            if self.fixed_pattern:
                return ("motion: a fixed pattern of the detector rules the fit",)
            return ("motion: too little information" if self.converged else "motion: the fit did not settle",)
        found = [] if self.converged else ["motion: the fit did not settle, its most probable shifts were applied"]
        if self.error is not None and self.error > LARGE_ERROR:
            found.append(f"motion: shifts are uncertain by {self.error:.1f} px, the frames contain little information")
        return tuple(found)
