"""What an estimate of the CTF takes for granted: the microscope's constants, in the units of the fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamer.units import electron_wavelength


@dataclass(frozen=True, slots=True)
class Lens:
    """Constants of the microscope."""

    wavelength: float
    """Å."""
    cs: float
    """Spherical aberration, Å."""
    contrast_phase: float
    """Phase shift that stands for the amplitude contrast w, asin w, rad."""

    @property
    def aberration(self) -> float:
        """Factor of k⁴ in the phase of the rings, rad Å⁴: π Cs λ³."""
        return math.pi * self.cs * self.wavelength**3

    @property
    def per_defocus(self) -> float:
        """Phase of the rings per defocus and k², rad Å: 2π λ."""
        return 2.0 * math.pi * self.wavelength


def lens_of(voltage_kv: float, cs_mm: float, amplitude_contrast: float) -> Lens:
    """Lens from the constants as people state them."""
    return Lens(electron_wavelength(voltage_kv), cs_mm * 1e7, math.asin(amplitude_contrast))
