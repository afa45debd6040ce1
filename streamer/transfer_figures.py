"""What is known of a micrograph's CTF, as it is published. No torch: whoever reads records uses this too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["none", "weak", "good"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CtfFigures:
    """What is known of a micrograph's CTF; CTFFIND's and RELION's convention. None: not known.

    Every ``_sd`` is a standard deviation: what chance and structure may have done, not what wrong constants do.
    """

    state: State
    """``none``: no rings, and no defocus is stated; ``weak``: look at it; ``good``."""
    defocus_u_angstrom: float | None = None
    """Larger defocus, Å, positive underfocus."""
    defocus_u_sd_angstrom: float | None = None
    defocus_v_angstrom: float | None = None
    defocus_v_sd_angstrom: float | None = None
    defocus_sd_angstrom: float | None = None
    """Of the mean of both, which is known better than either."""
    astigmatism_angstrom: float | None = None
    """U − V, Å."""
    astigmatism_sd_angstrom: float | None = None
    """Along the direction found."""
    astigmatism_angle_deg: float | None = None
    """From +x towards +y to the direction of U, above −90 to 90."""
    astigmatism_angle_sd_deg: float | None = None
    phase_shift_deg: float | None = None
    """Additional phase shift; 0 without a phase plate."""
    phase_shift_sd_deg: float | None = None
    """None where the phase shift was not fitted."""
    score: float | None = None
    """Correlation of observed and fitted rings, averaged at equal phase, over the band; 1: nothing else is there."""
    gain: float | None = None
    """Log-likelihood that the rings add to the same spectrum without rings, natural units."""
    search_score: float | None = None
    """Height of the peak over defocus in standard deviations of chance."""
    fit_resolution_angstrom: float | None = None
    """To where the rings are followed: half the fitted depth, three standard errors, in bands of 0.02 Å⁻¹."""
    ctffind_resolution_angstrom: float | None = None
    """CTFFIND's convention: where the correlation with the rings falls below 0.5."""
    cryosparc_resolution_angstrom: float | None = None
    """cryoSPARC's: 0.3."""
    ice_ring_excess: float | None = None
    """Largest excess of power at a ring of crystalline ice over its neighbourhood; None: no such ring in the band."""
    ice_ring_excess_sd: float | None = None
    ice_ring_angstrom: float | None = None
    """Which ring."""
    anisotropy_b_angstrom2: float | None = None
    """Difference of the B-factors of two directions, as drift causes, Å²."""
    anisotropy_b_sd_angstrom2: float | None = None
    anisotropy_angle_deg: float | None = None
    """Direction in which fine detail is weakest, from +x towards +y, above −90 to 90."""
    spectrum: str = "sum"
    """Which spectrum was fitted: ``sum``, ``groups`` (mean over groups of frames) or ``picture``."""
    fit_band_angstrom: tuple[float, ...] = ()
    """Coarse and fine end of the band, Å."""
    flags: tuple[str, ...] = ()

    @property
    def defocus_angstrom(self) -> float | None:
        """Mean of both, Å."""
        u, v = self.defocus_u_angstrom, self.defocus_v_angstrom
        return None if u is None or v is None else 0.5 * (u + v)
