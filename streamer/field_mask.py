"""Which part of a field of view is not specimen: contamination crystals, carbon, gold, holes without ice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SPECIMEN, CRYSTAL, CARBON, GOLD, VACUUM = range(5)
KINDS = ("specimen", "crystal", "carbon", "gold", "vacuum")
"""Names of the values of a mask; ``specimen`` is everything that is not named, empty ice too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMask:
    """What in a micrograph is not specimen, on a coarse grid."""

    kinds: Tensor
    """(rows, columns) uint8: index into ``KINDS``. A cell covers h/rows × w/columns px of the micrograph."""
    shape: tuple[int, int]
    """Size of the micrograph in px."""
    pixel_size: float
    """Å/px of the micrograph."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is masked."""
        return not bool((self.kinds != SPECIMEN).any())

    @property
    def shares(self) -> dict[str, float]:
        """Share of the field of each kind that is there, 0 to 1, without ``specimen``."""
        counts = torch.bincount(self.kinds.flatten().to(torch.int64), minlength=len(KINDS)).tolist()
        number = self.kinds.numel()
        return {name: counts[i] / number for i, name in enumerate(KINDS) if i != SPECIMEN and counts[i]}

    @property
    def usable(self) -> float:
        """Share of the field that is not masked, 0 to 1."""
        return float((self.kinds == SPECIMEN).float().mean())

    def masked(self, *kinds: int) -> Tensor:
        """(rows, columns) bool of the cells of some kinds; of all but specimen if none is given."""
        if not kinds:
            return self.kinds != SPECIMEN
        return torch.stack([self.kinds == kind for kind in kinds]).any(0)

    def at(self, shape: tuple[int, int]) -> Tensor:
        """What is masked, (h, w) bool on any grid over the same field."""
        rows, columns = (
            ((torch.arange(size, device=self.kinds.device) + 0.5) * cells / size).long()
            for size, cells in zip(shape, self.kinds.shape, strict=True)
        )
        return self.masked()[rows[:, None], columns[None, :]]

    def weight(self, shape: tuple[int, int], margin: float = 20.0, width: float = 40.0) -> Tensor:
        """How much each place counts, (h, w) float32: 0 in what is masked and near it, 1 far from it; all 1 if clean.

        Parameters
        ----------
        shape : of any grid over the same field.
        margin : Å around what is masked that is 0 too.
        width : Å over which it rises from 0 to 1, by half a cosine.
        """
        if self.is_clean:
            return torch.ones(shape, device=self.kinds.device)
        cells = self.kinds.shape
        steps = [size * self.pixel_size / n for size, n in zip(self.shape, cells, strict=True)]
        away = _distance(self.masked(), (steps[0], steps[1]), margin + width)
        # between the centres of cells
        smooth = torch.nn.functional.interpolate(
            away[None, None], size=shape, mode="bilinear", align_corners=False
        )[0, 0]  # fmt: skip
        rise = ((smooth - margin) / width).clamp(0.0, 1.0)
        return 0.5 - 0.5 * torch.cos(math.pi * rise)


def clean_mask(shape: tuple[int, int], pixel_size: float) -> FieldMask:
    """A mask of nothing."""
    return FieldMask(kinds=torch.zeros((1, 1), dtype=torch.uint8), shape=shape, pixel_size=pixel_size)


def _distance(masked: Tensor, step: tuple[float, float], limit: float) -> Tensor:
    """Å from the nearest masked cell's edge, (rows, columns) float32, right up to ``limit`` and no less beyond it."""
    reach = [math.ceil(limit / one) + 1 for one in step]
    large = limit + max(step)
    cost = torch.where(masked, 0.0, torch.inf).float()
    # the square of the distance is a sum over both axes: the nearest along a row, then along a column
    along = _nearest(cost, reach[1], step[1], 1)
    squares = _nearest(along, reach[0], step[0], 0)
    return (squares.sqrt() - 0.5 * min(step)).clamp(0.0, large)


def _nearest(cost: Tensor, reach: int, step: float, axis: int) -> Tensor:
    best = cost
    size = cost.shape[axis]
    for move in range(1, min(reach, size - 1) + 1):
        ahead, behind = (cost.new_full(cost.shape, torch.inf) for _ in range(2))
        ahead.narrow(axis, 0, size - move).copy_(cost.narrow(axis, move, size - move))
        behind.narrow(axis, move, size - move).copy_(cost.narrow(axis, 0, size - move))
        best = torch.minimum(best, torch.minimum(ahead, behind) + (move * step) ** 2)
    return best
