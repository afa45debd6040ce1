"""Contrast transfer function in the field's convention.

Computed by torch-ctf; here only its sign and parametrisation are turned into CTFFIND's and RELION's: the value at
the origin is minus the amplitude contrast, so that protein is dark at underfocus. Defocus in µm, positive underfocus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_ctf import calculate_ctf_2d

if TYPE_CHECKING:
    from streamer.fourier import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """What determines the CTF of one micrograph."""

    defocus_u_um: float
    """Larger defocus, µm."""
    defocus_v_um: float
    astigmatism_angle_deg: float
    """From +x to the defocus_u axis, degrees."""
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    phase_shift_deg: float = 0.0


def ctf_2d(shape: Shape, pixel_size: float, optics: Optics, device: torch.device | str = "cpu") -> Tensor:
    """Contrast transfer function on the half-plane.

    Parameters
    ----------
    shape : (h, w) of the image, px.
    pixel_size : Å/px.

    Returns
    -------
    (h, w//2+1) float32, minus the amplitude contrast at the origin.

    Source: Rohou & Grigorieff 2015, eq. 2-4, by way of torch-ctf.
    """
    ctf: Tensor = calculate_ctf_2d(
        defocus=torch.tensor((optics.defocus_u_um + optics.defocus_v_um) / 2.0, device=device),
        astigmatism=(optics.defocus_u_um - optics.defocus_v_um) / 2.0,
        astigmatism_angle=optics.astigmatism_angle_deg,
        voltage=optics.voltage_kv,
        spherical_aberration=optics.cs_mm,
        amplitude_contrast=optics.amplitude_contrast,
        phase_shift=optics.phase_shift_deg,
        pixel_size=pixel_size,
        image_shape=shape,
        rfft=True,
        fftshift=False,
    )
    return -ctf.to(torch.float32)
