"""Conversions between the field's units, each in one place.

Å and px, e⁻/px and e⁻/Å², cycles/px and 1/Å. No torch: the main process uses this too.
"""

from __future__ import annotations


def dose_per_frame(electrons_per_pixel: float, pixel_size: float) -> float:
    """Exposure of one frame in e⁻/Å² from its mean counts in e⁻/px and the pixel size in Å/px."""
    return electrons_per_pixel / pixel_size**2


def electrons_per_pixel(dose_per_frame: float, pixel_size: float) -> float:
    """Mean counts of one frame in e⁻/px from its exposure in e⁻/Å² and the pixel size in Å/px."""
    return dose_per_frame * pixel_size**2


def fftfreq_to_spatial_frequency(fftfreq: float, pixel_size: float) -> float:
    """Cycles/px to 1/Å."""
    return fftfreq / pixel_size


def resolution_to_fftfreq(resolution: float, pixel_size: float) -> float:
    """Resolution in Å to cycles/px."""
    return pixel_size / resolution


def nyquist(pixel_size: float) -> float:
    """Finest resolution in Å that a pixel size in Å/px can hold."""
    return 2.0 * pixel_size


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
