"""Coarse maps of a field: smoothing, growing and shrinking regions, (rows, columns) each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from streamer.detector.components import connected

if TYPE_CHECKING:
    from torch import Tensor


def halved(image: Tensor) -> Tensor:
    """Means of 2 × 2."""
    return functional.avg_pool2d(image[None, None], 2)[0, 0]


def blur(image: Tensor, sigma: float, where: Tensor | None = None) -> Tensor:
    """Gaussian mean with a standard deviation in cells, over the cells of ``where``, up to the edge of the field."""
    reach = max(1, round(2.5 * sigma))
    place = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    weights = torch.exp(-0.5 * (place / sigma) ** 2)
    known = torch.ones_like(image) if where is None else where.float()
    both = torch.stack([image * known, known])[:, None]
    both = functional.conv2d(both, weights[None, None, :, None], padding=(reach, 0))
    both = functional.conv2d(both, weights[None, None, None, :], padding=(0, reach))[:, 0]
    return both[0] / both[1].clamp(min=1e-9)


def grown(region: Tensor, steps: int) -> Tensor:
    """A region with all cells within some steps of it, by turns along the axes and with diagonals: an octagon."""
    for step in range(steps):
        wide = region.float()[None, None]
        if step % 2:
            region = functional.max_pool2d(wide, 3, 1, 1)[0, 0] > 0
        else:
            rows = functional.max_pool2d(wide, (3, 1), 1, (1, 0))
            columns = functional.max_pool2d(wide, (1, 3), 1, (0, 1))
            region = torch.maximum(rows, columns)[0, 0] > 0
    return region


def shrunk(region: Tensor, steps: int) -> Tensor:
    """A region without all cells within some steps of another; the edge of the field is no other."""
    return ~grown(~region, steps)


def parts(region: Tensor) -> list[Tensor]:
    """Connected parts of a region as index tensors (n, 2) of rows and columns."""
    places = torch.nonzero(region).numpy()
    return [torch.from_numpy(part) for part in connected(places, (region.shape[0], region.shape[1]))]


def region_of(places: Tensor, shape: torch.Size) -> Tensor:
    """(rows, columns) bool from (n, 2) rows and columns."""
    region = torch.zeros(shape, dtype=torch.bool)
    region[places[:, 0], places[:, 1]] = True
    return region
