"""From what lies in the beam to its image: weak objects by the CTF, strong ones as a wave.

Protein and ice change the beam little: their contrast is linear. Crystals and films take away much of it and turn its
phase by radians, so their wave √T · exp(iφ) goes through the lens and is squared: darkness, Fresnel fringes and Thon
rings all come of that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from streamer import fourier
from streamer.ctf.transfer import Optics, ctf_2d

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.simulation.movie import Microscope


def weak_transfer(shape: fourier.Shape, step: float, scope: Microscope, optics: Optics) -> Tensor:
    """Contrast per phase shift (h, w//2+1): CTF, envelope, and what inelastic scattering leaves."""
    frequency = fourier.radius(shape) / step
    envelope = torch.exp(-scope.b_factor / 4.0 * frequency**2 - scope.ice_thickness_angstrom / 3100.0)
    return 2.0 * ctf_2d(shape, step, optics) * envelope


def strong_image(transmission: Tensor, phase: Tensor, step: float, scope: Microscope, optics: Optics) -> Tensor:
    """Intensity (h, w) over that of the beam behind plain ice.

    Parameters
    ----------
    transmission : (h, w) share of the electrons that are not lost, 1 for plain ice.
    phase : (h, w) rad beyond that of plain ice.
    step : Å/px.

    Source: Reimer & Kohl 2008, ch. 6: ψ′ = FT⁻¹[FT(ψ) · exp(−iχ)]; the wave aberration's sine and cosine are those of
    the product's own CTF without amplitude contrast.
    """
    shape = (int(phase.shape[0]), int(phase.shape[1]))
    sine = _whole_plane(-ctf_2d(shape, step, replace(optics, amplitude_contrast=0.0)), shape)
    quarter = replace(optics, amplitude_contrast=0.0, phase_shift_deg=optics.phase_shift_deg + 90.0)
    cosine = _whole_plane(-ctf_2d(shape, step, quarter), shape)
    rows = torch.fft.fftfreq(shape[0])[:, None] / step
    columns = torch.fft.fftfreq(shape[1])[None, :] / step
    envelope = torch.exp(-scope.b_factor / 4.0 * (rows**2 + columns**2))
    transfer = torch.complex(cosine * envelope, sine * envelope)
    transfer[0, 0] = 1.0  # a phase plate leaves the unscattered beam where it is
    wave = torch.polar(transmission.clamp(min=0.0).sqrt(), phase)
    image: Tensor = torch.fft.ifft2(torch.fft.fft2(wave) * transfer).abs() ** 2
    return image


def _whole_plane(half: Tensor, shape: fourier.Shape) -> Tensor:
    """(h, w) from the half-plane of a function that is the same at k and −k."""
    height, width = shape
    mirrored = half[(-torch.arange(height)) % height][:, 1 : (width + 1) // 2].flip(1)
    return torch.cat([half, mirrored], dim=1)
