"""A frame moved by a shift that varies over the field, by bicubic interpolation.

A whole-pixel shift and a phase would be exact but allow only one shift; tiles small enough for that cost four times as
much. Interpolation weakens high frequencies, in signal and noise alike; the sum's noise is made white again by dividing
by the root of the mean power that interpolation leaves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer.motion.field import ORDERS, legendre_of

if TYPE_CHECKING:
    from streamer.motion.track import LocalMotion

_BANDS = 16
"""Bands of rows, processed in parallel."""
_FRACTIONS = 32
_SHARPNESS = -0.75
"""a of the cubic convolution kernel (Keys 1981) as torch has it."""


class Warp:
    """Moves the frames of one movie."""

    def __init__(self, shifts: Tensor, local: LocalMotion, device: torch.device) -> None:
        """Take global shifts (t, 2) float64 (y, x) px and what is added to them over the field."""
        self._shape = local.shape
        height, width = local.shape
        self._y, self._x = (legendre_of(torch.arange(size), size) for size in local.shape)
        self._band = -(-height // _BANDS)
        rows = torch.zeros((_BANDS * self._band, 4))
        rows[:height] = self._y.T
        self._rows = rows.to(device)
        # Legendre products by their orders along y and x; the coordinate itself is that of order one
        self._shifts = torch.zeros((len(shifts), 2, 4, 4), dtype=torch.float64)
        self._shifts[:, :, 0, 0] = shifts
        for n, (i, j) in enumerate(ORDERS[1:]):
            self._shifts[:, :, i, j] = local.coefficients[:, :, n]
        self._device = device
        # reused for each frame: allocating memory of this size costs more than the computation
        self._grid = torch.empty((_BANDS * self._band, 2 * width), device=device)
        self._centred = torch.empty(local.shape, device=device)

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """Frame ``index``, (h, w) float32, on the reference; pixels that enter at an edge get its mean."""
        height, width = self._shape
        y, x = (-2.0 / size * self._shifts[index, axis] for axis, size in enumerate(self._shape))
        y[1, 0] += 1.0
        x[0, 1] += 1.0
        columns = torch.stack([x @ self._x, y @ self._x], dim=-1).flatten(1).to(self._device, torch.float32)
        torch.mm(self._rows, columns, out=self._grid)
        mean = image.mean()
        torch.sub(image, mean, out=self._centred)
        moved = torch.nn.functional.grid_sample(
            self._centred[None, None].expand(_BANDS, -1, -1, -1),
            self._grid.view(_BANDS, self._band, width, 2),
            mode="bicubic",
            align_corners=False,
        )
        return moved.view(-1, width)[:height].add_(mean)

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Factors for (h,) rows and (w//2+1,) columns of the sum's spectrum that make its noise white, float32."""
        places = [torch.linspace(0, size - 1, 9).round().to(torch.int64) for size in self._shape]
        y, x = self._y[:, places[0]], self._x[:, places[1]]
        found = torch.einsum("taij,iy,jx->atyx", self._shifts, y, x).flatten(1)
        frequencies = torch.fft.fftfreq(self._shape[0]), torch.fft.rfftfreq(self._shape[1])
        rows, columns = (
            _mean_power(found[axis], frequencies[axis]).rsqrt().to(self._device, torch.float32) for axis in (0, 1)
        )
        return rows, columns


def _mean_power(shifts: Tensor, fftfreq: Tensor) -> Tensor:
    """Mean over shifts (n,) px of the power that interpolation leaves of white noise at (f,) cycles/px, float64."""
    number = torch.bincount((shifts.remainder(1.0) * _FRACTIONS).to(torch.int64) % _FRACTIONS, minlength=_FRACTIONS)
    fraction = (torch.arange(_FRACTIONS, dtype=torch.float64) + 0.5) / _FRACTIONS
    taps = torch.arange(-1, 3, dtype=torch.float64)
    weights = _kernel(fraction[:, None] - taps)
    turn = torch.exp(2j * math.pi * fftfreq.to(torch.complex128) * taps[:, None])
    power = (weights.to(torch.complex128) @ turn).abs().square()
    return (number[:, None] * power).sum(0) / number.sum()


def _kernel(distance: Tensor) -> Tensor:
    """Cubic convolution at a distance in px (Keys 1981, eq. 8)."""
    d, a = distance.abs(), _SHARPNESS
    near = (a + 2.0) * d**3 - (a + 3.0) * d**2 + 1.0
    far = a * (d**3 - 5.0 * d**2 + 8.0 * d - 4.0)
    return torch.where(d <= 1.0, near, torch.where(d < 2.0, far, 0.0))
