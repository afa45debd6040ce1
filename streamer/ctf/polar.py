"""Power spectra averaged in polar cells: what the estimate of the CTF is fitted to.

A whole field has millions of coefficients, but defocus and astigmatism vary slowly with direction, and the rings are
periodic in k². So power is averaged on the device in cells uniform in k² and angle; 200 kB go to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from streamer import fourier

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS, SECTORS = 1024, 48
"""Cells along k² and along the half turn; both are merged further before a fit, as far as the rings allow."""
TAPER = 1.0 / 16.0
"""Share of each edge over which the image fades; a periodogram without it leaks along the axes."""
_FINEST = 0.48
"""Cycles/px; what is finer has been interpolated, cropped or aliased."""
_CROSS = 2.0
"""Cycles over the field; coefficients this near an axis contain what the edges leak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A power spectrum in polar cells; arrays are (bins, sectors) float64."""

    counts: NDArray[np.float64]
    """Independent coefficients in each cell; 0: empty or rejected."""
    power: NDArray[np.float64]
    """Mean power."""
    u: NDArray[np.float64]
    """Mean k², Å⁻²; the centre of the bin where the cell is empty."""
    cos2: NDArray[np.float64]
    """Mean of cos 2θ, with θ from +x to the direction of the spatial frequency."""
    sin2: NDArray[np.float64]
    lowest: float
    """Lower edge of the first bin, Å⁻²."""
    du: float
    """Width of a bin, Å⁻²."""
    dtheta: float
    """Width of a sector, rad."""
    extent: tuple[float, float] | None
    """Height and width of the field in Å; None for a picture of a spectrum, whose field is unknown."""

    spacing: float
    """From one independent coefficient to the next, Å⁻¹."""

    @property
    def edges(self) -> tuple[float, float]:
        """Lowest and highest k² of the bins, Å⁻²."""
        return self.lowest, self.lowest + len(self.u) * self.du


@dataclass(frozen=True, slots=True)
class _Table:
    """Which cell each coefficient of a cropped half-plane belongs to."""

    cell: Tensor
    """(rows, columns) int64; the last number is that of no cell."""
    counts: NDArray[np.float64]
    u: NDArray[np.float64]
    cos2: NDArray[np.float64]
    sin2: NDArray[np.float64]
    lowest: float
    du: float


def band_of(pixel_size: float, coarse: float, fine: float) -> tuple[float, float]:
    """Spatial frequencies in Å⁻¹ between two resolutions in Å, as far as the pixels go."""
    return 1.0 / coarse, min(1.0 / fine, _FINEST / pixel_size)


def is_wide_enough(band: tuple[float, float]) -> bool:
    """Whether a band of spatial frequencies can hold rings at all: coarse pixels may leave nothing of it."""
    return band[1] > 1.5 * band[0]


def cells_of_image(image: Tensor, pixel_size: float, band: tuple[float, float], weight: Tensor | None = None) -> Cells:
    """Periodogram of a whole field, or of a part of it.

    Parameters
    ----------
    image : (h, w) real, any scale; the mean is removed and the edges are faded.
    pixel_size : Å/px.
    band : lowest and highest spatial frequency, Å⁻¹.
    weight : (h, w) 0 to 1, how much each place counts; None: all alike.
    """
    shape = (int(image.shape[0]), int(image.shape[1]))
    field = image.to(torch.float32)
    window, share = fourier.cosine_taper(shape, TAPER, field.device), 1.0
    if weight is None:
        field = (field - field.mean()) * window
    else:
        whole, window = window, window * weight.to(field.device)
        share = _independent(window) / _independent(whole)
        field = (field - (field * weight).sum() / weight.sum()) * window
    rows, columns = _reach(shape, pixel_size, band[1])
    # columns beyond the band need no second transform
    partial = torch.fft.rfft(field, dim=1)[:, :columns]
    spectrum = torch.fft.fft(partial, dim=0)
    power = spectrum.real.square() + spectrum.imag.square()
    kept = torch.cat([power[: rows + 1], power[shape[0] - rows :]])
    table = _table(shape, pixel_size, band, str(kept.device))
    cells = _averaged(kept, table, 1.0 / (min(shape) * pixel_size), (shape[0] * pixel_size, shape[1] * pixel_size))
    return cells if weight is None else replace(cells, counts=cells.counts * share)


def _independent(window: Tensor) -> float:
    """Pixels of a full field whose periodogram scatters as much as that of this window; Welch 1967."""
    squares = window.square()
    return float(squares.sum() ** 2 / squares.square().sum())


def cells_of_picture(picture: Tensor, pixel_size: float, band: tuple[float, float]) -> Cells:
    """Cells of a power spectrum that another program wrote, (h, w) with frequency 0 at (h//2, w//2).

    Its two halves are the same numbers, so one of them is used. Amplitudes and powers both do: only the envelope of
    the rings differs, and how much the values scatter is measured.
    """
    shape = (int(picture.shape[0]), int(picture.shape[1]))
    rows, columns = _reach(shape, pixel_size, band[1])
    half = torch.fft.ifftshift(picture.to(torch.float32))[:, :columns]
    kept = torch.cat([half[: rows + 1], half[shape[0] - rows :]])
    table = _table(shape, pixel_size, band, str(kept.device))
    return _averaged(kept, table, 1.0 / (min(shape) * pixel_size), None)


def _reach(shape: fourier.Shape, pixel_size: float, highest: float) -> tuple[int, int]:
    """Rows on each side of 0, and columns from 0 on, that the band touches."""
    rows, columns = (int(np.floor(highest * size * pixel_size)) for size in shape)
    return min(rows, (shape[0] - 1) // 2), min(columns + 1, shape[1] // 2)


@lru_cache(maxsize=6)
def _table(shape: fourier.Shape, pixel_size: float, band: tuple[float, float], device: str) -> _Table:
    rows, columns = _reach(shape, pixel_size, band[1])
    y = torch.cat([torch.arange(rows + 1), torch.arange(-rows, 0)]).to(device, torch.float64)[:, None]
    x = torch.arange(columns, device=device, dtype=torch.float64)[None, :]
    ky, kx = y / (shape[0] * pixel_size), x / (shape[1] * pixel_size)
    u = ky**2 + kx**2
    low, high = band[0] ** 2, band[1] ** 2
    du = (high - low) / BINS
    angle = torch.remainder(torch.atan2(ky, kx), torch.pi)
    radial = ((u - low) / du).floor()
    sector = (angle * (SECTORS / torch.pi)).floor().clamp(max=SECTORS - 1)
    kept = (radial >= 0) & (radial < BINS) & (y.abs() >= _CROSS) & (x >= _CROSS)
    cell = torch.where(kept, radial * SECTORS + sector, BINS * SECTORS).to(torch.int64)
    sums = [_sums(values, cell) for values in (torch.ones_like(u), u, torch.cos(2 * angle), torch.sin(2 * angle))]
    counts, total_u, total_cos, total_sin = sums
    centre_u = np.broadcast_to((low + (np.arange(BINS) + 0.5) * du)[:, None], counts.shape)
    centre = np.broadcast_to((np.arange(SECTORS) + 0.5) * np.pi / SECTORS, counts.shape)
    whole = np.maximum(counts, 1.0)
    return _Table(
        cell=cell,
        counts=counts,
        u=np.where(counts > 0, total_u / whole, centre_u),
        cos2=np.where(counts > 0, total_cos / whole, np.cos(2 * centre)),
        sin2=np.where(counts > 0, total_sin / whole, np.sin(2 * centre)),
        lowest=low,
        du=du,
    )


def _sums(values: Tensor, cell: Tensor) -> NDArray[np.float64]:
    """Sum over each cell, (bins, sectors)."""
    sums = torch.zeros(BINS * SECTORS + 1, dtype=torch.float64, device=values.device)
    sums.scatter_add_(0, cell.flatten(), values.to(torch.float64).flatten())
    found: NDArray[np.float64] = sums[:-1].reshape(BINS, SECTORS).cpu().numpy()
    return found


def _averaged(power: Tensor, table: _Table, spacing: float, extent: tuple[float, float] | None) -> Cells:
    sums = _sums(power, table.cell)
    mean = sums / np.maximum(table.counts, 1.0)
    scale = mean[table.counts > 0].mean() if table.counts.any() else 1.0
    return Cells(
        counts=table.counts,
        power=mean / (scale if scale > 0 else 1.0),
        u=table.u,
        cos2=table.cos2,
        sin2=table.sin2,
        lowest=table.lowest,
        du=table.du,
        dtheta=np.pi / SECTORS,
        extent=extent,
        spacing=spacing,
    )
