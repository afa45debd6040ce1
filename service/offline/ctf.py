"""The CTF of one image: what the command ctf does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer.ctf import picture, polar
from streamer.ctf.estimate import Estimate, SearchRange, estimate_ctf
from streamer.ctf.lens import Lens, lens_of
from streamer.errors import MovieCorrupt, UsageError
from streamer.quality.images import image_of
from streamer.writers.thumbnail import encode_png

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from service.config import Config
    from streamer.transfer_figures import CtfFigures

_ASSUMED_KV = 300.0
_LEAST_PX = 64
_CENTRE_PX = 2
"""Around frequency 0, where programs leave what they like."""
_SAME_HALVES = 0.9
"""Least correlation of the two halves of a centred spectrum, which are the same numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CtfRequest:
    """What is asked of which image."""

    image: Path
    is_power_spectrum: bool
    fit_band: tuple[float, float]
    """Coarse and fine end, Å."""
    defocus_um: tuple[float, float]
    phase_shift: tuple[float, float]
    """Degrees; 0 twice: no phase plate."""


def ctf_of(request: CtfRequest, config: Config, *, with_picture: bool) -> tuple[CtfFigures, bytes | None]:
    """Figures of an image, and a picture of its spectrum and the fit (SVG) where one is asked for.

    Raises
    ------
    UsageError, MovieCorrupt
        If the request contradicts itself, or the image cannot be used.
    """
    _check_ranges(request)
    image, told = image_of(request.image)
    pixel_size = config.movie.pixel_size or told
    if pixel_size is None:
        hint = "give --pixel-size in Å/px"
        raise UsageError("the pixel size is unknown", where=request.image, hint=hint)
    _check_image(image, request)
    band = polar.band_of(pixel_size, *request.fit_band)
    if not polar.is_wide_enough(band):
        raise UsageError(
            "the pixels are too coarse for the band of the fit",
            where=request.image,
            expected=f"detail finer than {request.fit_band[0] / 1.5:.3g} Å",
            found=f"{pixel_size:g} Å/px, which end at {1.0 / band[1]:.3g} Å",
            hint="check --pixel-size, or give a coarser --fit-band, such as 60 12",
        )
    movie, flags = config.movie, []
    if movie.voltage_kv is None:
        flags.append(f"voltage: not given, {_ASSUMED_KV:g} kV is assumed; the defocus depends on it (--voltage-kv)")
    lens = lens_of(movie.voltage_kv or _ASSUMED_KV, movie.cs_mm, movie.amplitude_contrast)
    low, high = request.defocus_um
    within = SearchRange(defocus=(low * 1e4, high * 1e4), phase_shift=request.phase_shift)
    if request.is_power_spectrum:
        spectra = {"picture": polar.cells_of_picture(image, pixel_size, band)}
    else:
        spectra = {"sum": polar.cells_of_image(image, pixel_size, band)}
    found = estimate_ctf(spectra, lens, within)
    figures = replace(found.figures, flags=(*flags, *found.figures.flags))
    return figures, _drawing(found, lens, image, pixel_size, request) if with_picture else None


def _check_ranges(request: CtfRequest) -> None:
    coarse, fine = request.fit_band
    if not coarse > 1.5 * fine:
        raise UsageError(
            "the band of the fit is too narrow",
            where="--fit-band",
            expected="the coarse end first, at least 1.5 times the fine one",
            found=f"{coarse:g} {fine:g}",
            hint="give resolutions in Å, such as 30 5",
        )
    low, high = request.defocus_um
    if not high > low:
        raise UsageError(
            "the range of defocus is empty",
            where="--defocus-range",
            expected="minimum, then maximum",
            found=f"{low:g} {high:g}",
            hint="give underfocus in µm, such as 0.5 3",
        )
    if request.phase_shift[1] < request.phase_shift[0]:
        raise UsageError(
            "the range of the phase shift is empty",
            where="--phase-shift",
            expected="minimum, then maximum",
            found=f"{request.phase_shift[0]:g} {request.phase_shift[1]:g}",
            hint="give degrees, such as 0 180",
        )


def _check_image(image: Tensor, request: CtfRequest) -> None:
    if min(image.shape) < _LEAST_PX:
        raise UsageError(
            "the image is too small to show rings",
            where=request.image,
            expected=f"at least {_LEAST_PX} × {_LEAST_PX} px",
            found=" × ".join(map(str, image.shape)) + " px",
            hint="give the whole micrograph",
        )
    if not bool(torch.isfinite(image).all()):
        hint = "write the image again: some of its pixels are not numbers"
        raise MovieCorrupt("contains values that are not finite", where=request.image, hint=hint)
    if float(image.min()) == float(image.max()):
        hint = "check that the file was written completely"
        raise MovieCorrupt("all pixels are the same", where=request.image, hint=hint)
    if request.is_power_spectrum:
        _check_spectrum(image, request.image)


def _check_spectrum(image: Tensor, where: Path) -> None:
    """A centred power spectrum is nowhere negative, and the same on both sides of its centre."""
    height, width = image.shape
    rows, columns = (torch.arange(size) - size // 2 for size in (height, width))
    away = (rows.abs()[:, None] > _CENTRE_PX) & (columns.abs()[None, :] > _CENTRE_PX)
    if bool((image[away] < 0).any()):
        raise UsageError(
            "is no power spectrum: some values are negative",
            where=where,
            expected="powers or amplitudes",
            found=f"{float(image[away].min()):.3g}",
            hint="give powers or amplitudes, not their logarithm or what is left without the background; "
            "for a micrograph leave --power-spectrum out",
        )
    inner = image[1 - height % 2 :, 1 - width % 2 :]
    both = away[1 - height % 2 :, 1 - width % 2 :]
    pair = torch.stack([inner[both], torch.flip(inner, (0, 1))[both]]).double()
    agreement = float(torch.corrcoef(pair)[0, 1])
    if not agreement > _SAME_HALVES:
        raise UsageError(
            "is no centred power spectrum: its two halves differ",
            where=where,
            expected="the same values on both sides of the centre",
            found=f"a correlation of {agreement:.2f}",
            hint="shift frequency 0 to the centre; for a micrograph leave --power-spectrum out",
        )


def _drawing(found: Estimate, lens: Lens, image: Tensor, pixel_size: float, request: CtfRequest) -> bytes:
    """SVG of the spectrum, half data and half fit, and of the curve along the spatial frequency."""
    if request.is_power_spectrum:
        spectrum = picture.centred(image.numpy().astype(np.float64), pixel_size)
    else:
        spectrum = picture.tiled(image.numpy(), pixel_size)
    shown = picture.with_fit(spectrum, found, lens)
    png = encode_png(shown.values, longer_side_px=len(shown.values))
    return picture.svg(png, shown.highest, found).encode()
