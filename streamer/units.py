"""Conversions between the field's units, each in one place.

e⁻/px and e⁻/Å², kV and the electrons' wavelength and interaction. No torch: the main process uses this too.
"""

from __future__ import annotations


def electrons_per_pixel(dose_per_frame: float, pixel_size: float) -> float:
    """Mean counts of one frame in e⁻/px from its exposure in e⁻/Å² and the pixel size in Å/px."""
    return dose_per_frame * pixel_size**2


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic electron wavelength in Å for an acceleration voltage in kV.

    Source: λ = h / √(2 m e V (1 + e V / 2 m c²)) with CODATA constants.
    """
    volts = voltage_kv * 1e3
    return float(12.264259 / (volts * (1.0 + 0.97847538e-6 * volts)) ** 0.5)


def interaction_constant(voltage_kv: float) -> float:
    """Phase shift in rad per V·Å of projected potential: σ = 2π m e λ / h².

    Source: Kirkland, Advanced Computing in Electron Microscopy, eq. 5.6; 6.53e-4 rad/(V·Å) at 300 kV.
    """
    rest_kev = 510.99895
    wavelength = electron_wavelength(voltage_kv)
    relativistic = (rest_kev + voltage_kv) / (2.0 * rest_kev + voltage_kv)
    return 2.0 * 3.141592653589793 / (wavelength * voltage_kv * 1e3) * relativistic
