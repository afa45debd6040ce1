"""What a detector's pixels show on average around each place, and how far chance moves a single one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

CELL = 16
"""px; side of the squares whose means are taken."""
_AROUND = 9
"""Cells along each side of the square whose median is taken: defects up to half of that wide do not move it."""
_CHANCE = 30.0
"""−ln of the probability, for one pixel, of a value that counts as impossible: 1e-13."""
_GAUSSIAN = 8.5
"""Standard deviations of the same where values are no counts, with a margin for tails."""
_LEAST_COUNTING = 0.25
"""Variance over the mean, below which values are not counts, but scaled."""
_ROUNDS, _TABLE = 30, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """The local level of an image and its noise."""

    level: Image
    """(h//16, w//16) median of the means of the squares around."""
    spread: Image
    """The same: standard deviation of one pixel."""
    is_counted: bool
    """No value is below 0: the spread grows as the root of the level."""

    def at(self, rows: slice, columns: slice, step: int = 1) -> Image:
        """The level (rows, columns) interpolated between the squares' centres, or every ``step`` px of it."""
        along_rows, along_columns = (
            _weights(cells, np.arange(part.start, part.stop, step) + (step - 1) / 2.0)
            for cells, part in zip(self.level.shape, (rows, columns), strict=True)
        )
        return np.asarray(along_rows @ self.level @ along_columns.T, dtype=np.float32)

    def mean_of_rows(self, rows: slice, columns: slice) -> Image:
        """The level of some columns, averaged over rows."""
        along_rows = _weights(self.level.shape[0], np.arange(rows.start, rows.stop)).mean(0)
        level: Image = _weights(self.level.shape[1], np.arange(columns.start, columns.stop)) @ (along_rows @ self.level)
        return level

    def mean_of_columns(self, rows: slice, columns: slice) -> Image:
        """The level of some rows, averaged over columns."""
        along_columns = _weights(self.level.shape[1], np.arange(columns.start, columns.stop)).mean(0)
        level: Image = _weights(self.level.shape[0], np.arange(rows.start, rows.stop)) @ (self.level @ along_columns)
        return level

    def spread_at(self, row: float, column: float) -> float:
        """Standard deviation of the pixels at a place."""
        return float(self.spread[self.cell(row, 0), self.cell(column, 1)])

    def cell(self, places: Any, axis: int) -> Any:
        """Which row or column of cells some rows or columns of pixels belong to."""
        return np.minimum(np.asarray(places).astype(np.int64) // CELL, self.level.shape[axis] - 1)

    def limits(self) -> tuple[Image, Image]:
        """Per square, values that chance hardly reaches: from below and from above; −∞ where it may reach 0.

        For counts by Chernoff's bound: P(X ≥ k) and P(X ≤ k) are at most exp(−(k ln(k/m) − k + m)).
        """
        if not self.is_counted:
            return self.level - _GAUSSIAN * self.spread, self.level + _GAUSSIAN * self.spread
        scale = float((self.spread**2 / self.level.clip(min=1e-12)).max())
        means = (self.level / scale).clip(min=1e-6).astype(np.float64)
        some = np.geomspace(float(means.min()), float(means.max()) * (1.0 + 1e-9), _TABLE)
        far = some + np.sqrt(2.0 * _CHANCE * some) + 2.0 * _CHANCE
        highest = np.interp(means, some, _bisected(some, some, far)) * scale
        lowest = np.where(means > _CHANCE, np.interp(means, some, _bisected(some, some, 1e-9 * some)) * scale, -np.inf)
        return lowest.astype(np.float32), highest.astype(np.float32)


def background_of(image: Image, unknown: NDArray[np.int64]) -> Background:
    """Measure the level and the noise of an image.

    Parameters
    ----------
    image : (h, w), at least one cell along each axis.
    unknown : (n, 2) rows and columns of pixels that say nothing.
    """
    cells = binned(binned(image, 4), CELL // 4)
    number = np.full(cells.shape, float(CELL**2), dtype=np.float32)
    rows, columns = unknown[:, 0] // CELL, unknown[:, 1] // CELL
    counted = (rows < cells.shape[0]) & (columns < cells.shape[1])
    place = rows[counted], columns[counted]
    np.subtract.at(number, place, 1.0)
    np.subtract.at(cells, place, image[unknown[counted, 0], unknown[counted, 1]])
    means = np.where(number > 0, cells / number.clip(min=1.0), np.nan).astype(np.float32)
    level = _median_around(means)
    is_counted = bool(image.min() >= 0)
    ratio = _noise(image, level, is_counted=is_counted)
    spread = np.sqrt(ratio * (level if is_counted else np.ones_like(level))).clip(min=1e-12)
    return Background(level=level, spread=spread.astype(np.float32), is_counted=is_counted)


def binned(image: Image, factor: int) -> Image:
    """Sums over squares; incomplete ones at the far edges are left out."""
    height, width = (size // factor for size in image.shape)
    # rows first: they are contiguous in memory
    rows = image[: height * factor].reshape(height, factor, -1).sum(1)[:, : width * factor]
    sums: Image = rows.reshape(height, width, factor).sum(2)
    return sums


def _noise(image: Image, level: Image, *, is_counted: bool) -> float:
    """Variance of one pixel, over the level where values are counts; there at least that of counting."""
    lines = np.arange(0, image.shape[0], max(1, min(image.size // 1_000_000, image.shape[0] // 8)))
    columns = np.arange(image.shape[1] // 2) * 2
    near = image[lines][:, columns] - image[lines][:, columns + 1]
    if is_counted:
        rows, places = (np.minimum(p // CELL, n - 1) for p, n in zip((lines, columns), level.shape, strict=True))
        near = near / np.sqrt(level[rows][:, places].clip(min=1e-6))
    # a trimmed variance: the median of few counts is one of few values
    rough = float(np.quantile(np.abs(near), 0.9)) / 1.645
    variance = float(np.mean(np.clip(near, -4.0 * rough, 4.0 * rough) ** 2)) / 2.0
    return max(variance, 1.0 if is_counted and variance > _LEAST_COUNTING else 1e-12)


def _median_around(means: Image) -> Image:
    """Median of 9 × 9 cells, those that are not known left out."""
    half = _AROUND // 2
    padded = np.pad(means, half, mode="symmetric" if min(means.shape) > half else "edge")
    # every other cell says as much, in a quarter of the time
    windows = torch.from_numpy(padded).unfold(0, _AROUND, 1).unfold(1, _AROUND, 1)[..., ::2, ::2]
    median = windows.reshape(*means.shape, -1).nanmedian(-1).values.numpy()
    whole = np.nanmedian(means) if np.isfinite(means).any() else 0.0
    return np.where(np.isfinite(median), median, whole).astype(np.float32)


def _weights(cells: int, pixels: NDArray[np.float64]) -> NDArray[np.float32]:
    """(pixels, cells) weights of linear interpolation between the centres of cells."""
    place = ((pixels + 0.5) / CELL - 0.5).clip(0, cells - 1)
    first = np.minimum(place.astype(np.int64), max(cells - 2, 0))
    weights = np.zeros((len(place), cells), dtype=np.float32)
    along = np.arange(len(place))
    weights[along, first] = 1.0 - (place - first)
    weights[along, np.minimum(first + 1, cells - 1)] += place - first
    return weights


def _bisected(mean: NDArray[np.float64], near: NDArray[np.float64], far: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where k ln(k/m) − k + m reaches the bound, between ``near`` (below it) and ``far`` (above it)."""
    for _ in range(_ROUNDS):
        middle = (near + far) / 2.0
        beyond = middle * np.log(middle / mean) - middle + mean > _CHANCE
        near, far = np.where(beyond, near, middle), np.where(beyond, middle, far)
    return far
