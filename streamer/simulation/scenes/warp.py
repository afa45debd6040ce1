"""Resamples the grid of half pixels at the places of the camera's pixels, wherever the specimen has moved to.

Source: cubic B-splines (Unser 1999), evaluated as four bilinear look-ups (Ruijters et al. 2008).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from streamer import fourier

if TYPE_CHECKING:
    from torch import Tensor


def prefilter(shape: fourier.Shape, device: torch.device | str = "cpu") -> Tensor:
    """Factor (h, w//2+1) on a spectrum, so that the spline through its coefficients passes the image's own values."""
    rows, columns = fourier.fftfreq_axes(shape, device)
    return 9.0 / ((2.0 + torch.cos(2.0 * math.pi * rows)) * (2.0 + torch.cos(2.0 * math.pi * columns)))


def sampled(coefficients: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values of a spline.

    Parameters
    ----------
    coefficients : (H, W) of the prefiltered image.
    rows, columns : (h, w) places in px of that image, at least two from its edges.

    Returns
    -------
    (h, w) float32
    """
    height, width = coefficients.shape
    grid = torch.empty((1, *rows.shape, 2))
    result, across = torch.zeros_like(rows), _pair(columns)
    for row, row_weight in _pair(rows):
        grid[0, ..., 1] = row * (2.0 / (height - 1)) - 1.0
        for column, weight in across:
            grid[0, ..., 0] = column * (2.0 / (width - 1)) - 1.0
            result.addcmul_(row_weight * weight, _bilinear(coefficients, grid))
    return result


def _pair(place: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Two places whose linear interpolations, with these weights, add up to four samples of the cubic spline."""
    whole = torch.floor(place)
    part = place - whole
    square, rest = part * part, 1.0 - part
    first, fourth = rest * rest * rest / 6.0, square * part / 6.0
    second = 2.0 / 3.0 - square + 0.5 * square * part
    near = first + second
    far = 1.0 - near
    return [(whole - 1.0 + second / near, near), (whole + 1.0 + fourth / far, far)]


def _bilinear(image: Tensor, grid: Tensor) -> Tensor:
    found: Tensor = torch.nn.functional.grid_sample(
        image[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return found[0, 0]
