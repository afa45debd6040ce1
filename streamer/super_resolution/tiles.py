"""Overlapping square tiles of a field: cut out of moved frames, and blended into one image again.

A tile's data fade to 0 over its outer ``FADE`` px, because a Fourier transform treats it as periodic; that part
is not used. The next ``BLEND`` px are shared by neighbours, whose weights rise and fall so that they add up to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from streamer import fourier

FADE, BLEND = 12, 12


@dataclass(frozen=True)
class Tiles:
    """Tiles of ``side`` px that cover a field; the outer ones reach beyond it."""

    shape: fourier.Shape
    """(h, w) of the field, px."""
    side: int

    @cached_property
    def corners(self) -> Tensor:
        """(n, 2) int64 (y, x) px of each tile's first pixel; below 0 at the edges."""
        axes = [torch.arange(self._along(size)) * self.stride - (FADE + BLEND) for size in self.shape]
        return torch.cartesian_prod(*axes)

    @property
    def stride(self) -> int:
        """Distance from one tile to the next, px."""
        return self.side - 2 * FADE - BLEND

    def _along(self, size: int) -> int:
        """Number of tiles that cover ``size`` px."""
        return max(1, math.ceil((size - self.side + 2 * (FADE + BLEND)) / self.stride) + 1)

    def __len__(self) -> int:
        return len(self.corners)

    def centres(self) -> Tensor:
        """(n, 2) float64 (y, x) px: the middle of the part of each tile that is in the field."""
        first = (self.corners + FADE).clamp(min=0)
        last = torch.minimum(self.corners + self.side - FADE, torch.tensor(self.shape)) - 1
        return (first + last).to(torch.float64) / 2.0

    def inside(self, which: Tensor) -> Tensor:
        """(m, side, side) float32 of some tiles, (m,) int64: 1 where a pixel is in the field."""
        axes = []
        for axis, size in enumerate(self.shape):
            place = self.corners[which, axis, None] + torch.arange(self.side)
            axes.append(((place >= 0) & (place < size)).to(torch.float32))
        return axes[0][:, :, None] * axes[1][:, None, :]

    def cut(self, image: Tensor, moved: Tensor) -> Tensor:
        """Tiles of an image, each cut from where its content was.

        Parameters
        ----------
        image : (h, w) with mean 0, which is also its value beyond the edges.
        moved : (n, 2) int64 (y, x) px by which each tile's content has to be moved.

        Returns
        -------
        (n, side, side), faded towards its edges.
        """
        side, (height, width) = self.side, self.shape
        around = torch.nn.functional.pad(image, (side, side, side, side))
        first = (self.corners - moved + side).to(image.device)
        rows, columns = (first[:, axis].clamp(0, size + side) for axis, size in enumerate((height, width)))
        windows = around.unfold(0, side, 1).unfold(1, side, 1)
        fade = fourier.edge(side, 0, FADE, image.device)
        return windows[rows, columns] * (fade[:, None] * fade)

    def cut_fine(self, image: Tensor, which: Tensor) -> Tensor:
        """Some tiles, (m,) int64, of a (2h, 2w) image with mean 0: (m, 2·side, 2·side), faded as in ``cut``."""
        side = 2 * self.side
        around = torch.nn.functional.pad(image, (side, side, side, side))
        fade = fourier.edge(side, 0, 2 * FADE, image.device)
        corners = (2 * self.corners[which] + side).tolist()
        parts = torch.stack([around[y : y + side, x : x + side] for y, x in corners])
        return parts * (fade[:, None] * fade)

    def blend(self, parts: Tensor, upsampling: int = 1) -> Tensor:
        """One image from all tiles.

        Parameters
        ----------
        parts : (n, u·side, u·side) on a grid ``upsampling`` = u times as fine.

        Returns
        -------
        (u·h, u·w).
        """
        height, width = (size * upsampling for size in self.shape)
        weight = fourier.edge(upsampling * self.side, upsampling * FADE, upsampling * BLEND, parts.device)
        weighted = parts * (weight[:, None] * weight)
        blended = parts.new_zeros((height, width))
        for part, (y, x) in zip(weighted, (upsampling * self.corners).tolist(), strict=True):
            rows, columns = (
                slice(max(0, first), min(size, first + len(weight))) for first, size in ((y, height), (x, width))
            )
            blended[rows, columns] += part[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        return blended
