"""Frequency grids, crops, ring sums and shifts on the half-plane of ``torch.fft.rfft2``.

The only module that knows that the last axis has half of the frequencies. A *spectrum* is the unnormalised
``rfft2`` of a real (h, w) image: (…, h, w//2+1) complex64. Frequencies are fftfreq in cycles/px unless a name
says otherwise. Ring r contains all coefficients nearest to radius r/min(h, w) cycles/px.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shape = tuple[int, int]


def fftfreq_axes(shape: Shape, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Frequencies along both axes as (h, 1) and (1, w//2+1) float32 in cycles/px."""
    height, width = shape
    rows = torch.fft.fftfreq(height, device=device, dtype=torch.float32)[:, None]
    columns = torch.fft.rfftfreq(width, device=device, dtype=torch.float32)[None, :]
    return rows, columns


def radius(shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """Distance from the origin, (h, w//2+1) float32 in cycles/px."""
    rows, columns = fftfreq_axes(shape, device)
    return torch.sqrt(rows**2 + columns**2)


def hermitian_weights(width: int, device: torch.device | str = "cpu") -> Tensor:
    """How often each column of the half-plane occurs in the full plane: (w//2+1,) float32 of ones and twos."""
    weights = torch.full((width // 2 + 1,), 2.0, device=device)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights


def ring_count(shape: Shape) -> int:
    """Number of rings up to the Nyquist frequency of the shorter axis, the origin included."""
    return min(shape) // 2 + 1


def ring_index(shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """Ring of each coefficient, (h, w//2+1) int64; those beyond the last ring get ``ring_count(shape)``."""
    rings = torch.round(radius(shape, device) * min(shape)).to(torch.int64)
    return rings.clamp_(max=ring_count(shape))


def ring_frequencies(shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """Centre of each ring, (rings,) float64 in cycles/px."""
    return torch.arange(ring_count(shape), device=device, dtype=torch.float64) / min(shape)


def ring_sums(values: Tensor, shape: Shape) -> Tensor:
    """Sum a real half-plane over rings of the full plane.

    Parameters
    ----------
    values : (…, h, w//2+1) real.
    shape : (h, w) of the image.

    Returns
    -------
    (…, rings) float64, each interior column counted twice.
    """
    rings = ring_count(shape)
    index = ring_index(shape, values.device).flatten()
    weighted = (values * hermitian_weights(shape[1], values.device)).to(torch.float64).flatten(-2)
    sums = torch.zeros((*weighted.shape[:-1], rings + 1), dtype=torch.float64, device=values.device)
    sums.index_add_(-1, index, weighted)
    return sums[..., :rings]


def coefficient_counts(shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """Independent complex coefficients per ring, (rings,) float64: half of those in the full plane."""
    return ring_sums(torch.ones((shape[0], shape[1] // 2 + 1), device=device), shape) / 2.0


def from_rings(curve: Tensor, shape: Shape, device: torch.device | str | None = None) -> Tensor:
    """Spread a radial curve over the half-plane by linear interpolation.

    Parameters
    ----------
    curve : (rings,) real; beyond the last ring its last value is kept.
    shape : (h, w) of the image.

    Returns
    -------
    (h, w//2+1) float32.
    """
    place = device if device is not None else curve.device
    position = radius(shape, place) * min(shape)
    last = curve.numel() - 1
    lower = position.floor().clamp_(max=last)
    fraction = (position - lower).clamp_(max=1.0)
    low = lower.to(torch.int64)
    values = curve.to(device=place, dtype=torch.float32)
    return torch.lerp(values[low], values[(low + 1).clamp_(max=last)], fraction)


def shift_ramp(shape: Shape, shift: Tensor) -> Tensor:
    """Factor that moves an image by ``shift`` px towards larger indices.

    Parameters
    ----------
    shape : (h, w) of the image.
    shift : (2,) (y, x) in px.

    Returns
    -------
    (h, w//2+1) complex64: exp(−2πi (f_y s_y + f_x s_x)), cycles/px · px.
    """
    rows, columns = fftfreq_axes(shape, shift.device)
    y, x = shift.to(torch.float32)
    turn_rows, turn_columns = -2.0 * math.pi * rows * y, -2.0 * math.pi * columns * x
    one = torch.ones((), device=shift.device)
    return torch.polar(one, turn_rows) * torch.polar(one, turn_columns)


def _kept(size: int, new_size: int) -> tuple[int, int]:
    """Number of non-negative and negative frequencies that a crop or pad between two sizes keeps."""
    smaller = min(size, new_size)
    return (smaller + 1) // 2, (smaller - 1) // 2


def resize(spectrum: Tensor, shape: Shape, new_shape: Shape) -> Tensor:
    """Fourier-crop or -pad an image; pixel values keep their scale.

    Parameters
    ----------
    spectrum : (…, h, w//2+1) of an (h, w) image.
    new_shape : (h', w') wanted.

    Returns
    -------
    (…, h', w'//2+1). Nyquist lines of the smaller size are left at 0: they belong to no single frequency.
    """
    (height, width), (new_height, new_width) = shape, new_shape
    resized = spectrum.new_zeros((*spectrum.shape[:-2], new_height, new_width // 2 + 1))
    top, bottom = _kept(height, new_height)
    columns = _kept(width, new_width)[0]
    resized[..., :top, :columns] = spectrum[..., :top, :columns]
    if bottom:
        resized[..., -bottom:, :columns] = spectrum[..., -bottom:, :columns]
    return resized * ((new_height * new_width) / (height * width))


def upsampled(spectrum: Tensor, shape: Shape) -> Tensor:
    """Spectrum (2h, w+1) on the grid of half the pixel size of an (h, w) image, which contains nothing new.

    A pixel's centre lies between those of the four fine ones that it covers.
    """
    fine = (2 * shape[0], 2 * shape[1])
    return resize(spectrum, shape, fine) * shift_ramp(fine, torch.full((2,), 0.5, device=spectrum.device))


def to_image(spectrum: Tensor, shape: Shape) -> Tensor:
    """(…, h, w) float32 image of a half-plane spectrum; the size is always given, so that odd sizes survive."""
    image: Tensor = torch.fft.irfft2(spectrum, s=shape)
    return image


def cosine_taper(shape: Shape, border: float = 0.05, device: torch.device | str = "cpu") -> Tensor:
    """Window that falls to 0 over ``border`` of each side, (h, w) float32; keeps edges from leaking into rings."""
    rows, columns = (edge(size, 0, max(1, round(size * border)), device) for size in shape)
    return rows[:, None] * columns[None, :]


def edge(size: int, margin: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """0 over ``margin`` px at both ends, then a rise over ``width`` px; two that overlap there add up to 1."""
    place = torch.arange(size, device=device, dtype=torch.float32) + 0.5
    rise = ((torch.minimum(place, size - place) - margin) / width).clamp(0.0, 1.0)
    return 0.5 - 0.5 * torch.cos(math.pi * rise)
