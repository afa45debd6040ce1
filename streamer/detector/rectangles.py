"""A rectangle of pixels that differs from its surroundings: fitted, and tested for being the detector's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.detector.background import Background

    Image = NDArray[np.float32]

_REACH = 48
"""px beyond a rectangle in which its edges are looked for, in each round."""
_ROUNDS = 8
_LARGEST = 160
_SCORE, _SHARP = 9.5, 5.0
"""Standard deviations by which a rectangle must differ from what is around it, and its outermost pixels from those
just outside."""
_LEASTS = ((256, 0.03), (64, 0.1), (0, 0.25))
"""Share of the level by which lines of at least some px must differ: shorter ones, and what is wider than an eighth of
its length, could be a specimen's. Fainter things do no harm."""
_SLENDER, _BEYOND_DOUBT, _STRONG = 8, 0.08, 0.4
_EDGE, _MOST_EDGE, _ONE_EDGE, _LEAK, _CORNERS = 0.75, 1.6, 0.5, 0.2, 0.6
"""Shares of the contrast: of the step at all edges, at least and at most, of that at each single one, of what the
first pixels outside show, and of the corners."""
_FAR = 4
"""px outside to which the first is compared."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows and columns, the last ones not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """As an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def middle(self) -> tuple[int, int]:
        """The pixel in the middle."""
        return (self.top + self.bottom) // 2, (self.left + self.right) // 2

    @property
    def area(self) -> int:
        """Number of px."""
        return (self.bottom - self.top) * (self.right - self.left)

    def turned(self) -> Rectangle:
        """Rows for columns."""
        return Rectangle(self.left, self.right, self.top, self.bottom)


def rectangle_around(image: Image, background: Background, seed: Rectangle) -> Rectangle | None:
    """Fit a rectangle that differs from its surroundings, from a first guess; None if it is not the detector's.

    Parameters
    ----------
    image : (h, w).
    background : its level and noise.
    """
    residual = image[seed.slices] - background.at(*seed.slices)
    contrast = float(residual.mean())
    found = seed
    for _ in range(_ROUNDS):
        before = found
        left, right, contrast = _interval(image, background, found, contrast)
        found = Rectangle(found.top, found.bottom, left, right)
        top, bottom, contrast = _interval(image.T, _Turned(background), found.turned(), contrast)
        found = Rectangle(top, bottom, found.left, found.right)
        if found == before or contrast == 0.0:
            break
    if contrast == 0.0 or min(found.bottom - found.top, found.right - found.left) > _LARGEST:
        return None
    return found if _is_the_detectors(image, background, found) else None


class _Turned:
    """A background with rows for columns."""

    def __init__(self, background: Background) -> None:
        self._background = background

    def mean_of_rows(self, rows: slice, columns: slice) -> Image:
        return self._background.mean_of_columns(columns, rows)


def _interval(
    image: Image, background: Background | _Turned, found: Rectangle, contrast: float
) -> tuple[int, int, float]:
    """The columns that belong to a rectangle of given rows, and by how much they differ from the others.

    With the contrast known, the likeliest interval is that of the largest sum of (value − half the contrast).
    """
    reach = max(_REACH, found.right - found.left)
    start, stop = max(0, found.left - reach), min(image.shape[1], found.right + reach)
    rows, columns = slice(found.top, found.bottom), slice(start, stop)
    level = background.mean_of_rows(rows, columns)
    profile = image[rows, columns].mean(0, dtype=np.float64) - level
    outside = np.ones(len(profile), dtype=bool)
    outside[found.left - start : found.right - start] = False
    if outside.sum() >= 8:
        profile = profile - np.median(profile[outside])
    sign = 1.0 if contrast > 0 else -1.0
    gains = np.concatenate([[0.0], np.cumsum(sign * profile - abs(contrast) / 2.0)])
    lowest = np.minimum.accumulate(gains)
    end = int(np.argmax(gains[1:] - lowest[:-1])) + 1
    first = int(np.argmin(gains[:end]))
    if gains[end] <= gains[first]:
        return found.left, found.right, 0.0
    return start + first, start + end, float(profile[first:end].mean())


def _is_the_detectors(image: Image, background: Background, found: Rectangle) -> bool:
    """Whether all edges are as sharp as pixels are, and the corners belong to it."""
    inside = image[found.slices]
    mean, spread = float(inside.mean()), background.spread_at(*found.middle)
    if background.is_counted:
        # at the edge of something dark the level around is too low for what is bright
        level = float(background.level[background.cell(found.middle[0], 0), background.cell(found.middle[1], 1)])
        spread *= max(1.0, mean / max(level, 1e-12)) ** 0.5
    steps, weights, leaks, farther = [], [], [], []
    for first, outside in _sides(image, found):
        steps.append(float(first.mean()) - float(outside[0].mean()))
        leaks.append(float(outside[0].mean()) - float(outside[1:].mean()))
        farther.append(float(outside[1:].mean()))
        weights.append(float(first.size))
    if not weights:
        return False
    weight = np.array(weights) / sum(weights)
    contrast = mean - float(np.dot(weight, farther))
    if contrast == 0.0 or abs(contrast) * found.area**0.5 < _SCORE * spread:
        return False
    chances = 1.414 * spread / abs(contrast) / np.sqrt(weights)
    edges, chance = float(np.dot(weight, steps)) / contrast, 1.414 * spread / abs(contrast) / sum(weights) ** 0.5
    least_steps = np.maximum(_ONE_EDGE - 2.0 * chances, np.where(chances < _ONE_EDGE / 2.0, _ONE_EDGE / 2.0, -np.inf))
    leak = float(np.dot(weight, leaks)) / contrast
    sharp = edges - 3.0 * chance > _ONE_EDGE and leak + chance < _LEAK
    least = _BEYOND_DOUBT if sharp else 1.0
    # the more it differs, the less it can be a specimen's
    doubt = 0.5 if abs(contrast) < _STRONG * abs(mean - contrast) else -0.5
    return (
        abs(contrast) > min(least, _least_contrast(found, image.shape)) * abs(mean - contrast)
        and max(_EDGE + doubt * chance, _SHARP * chance) < edges < _MOST_EDGE + chance
        and bool((np.array(steps) / contrast > least_steps).all())
        and leak < _LEAK + 2.0 * chance
        and _is_full(inside, mean - contrast, contrast, spread)
    )


def _least_contrast(found: Rectangle, shape: tuple[int, int]) -> float:
    """Share of the level by which a rectangle must differ at least."""
    height, width = found.bottom - found.top, found.right - found.left
    if max(height, width) < _SLENDER * min(height, width):
        return _LEASTS[-1][1]
    if (height, width)[int(width > height)] == shape[int(width > height)]:
        return _LEASTS[0][1]
    return next(share for length, share in _LEASTS if max(height, width) >= length)


def _sides(image: Image, found: Rectangle) -> list[tuple[Image, Image]]:
    """Per edge that has something outside, the outermost line inside, and lines outside from near to far."""
    found_sides = []
    for turned, part in ((image, found), (image.T, found.turned())):
        columns = slice(part.left, part.right)
        if part.top >= 2:
            found_sides.append((turned[part.top, columns], turned[max(0, part.top - _FAR) : part.top, columns][::-1]))
        if part.bottom + 2 <= turned.shape[0]:
            outside = turned[part.bottom : part.bottom + _FAR, columns]
            found_sides.append((turned[part.bottom - 1, columns], outside))
    return found_sides


def _is_full(inside: Image, around: float, contrast: float, spread: float) -> bool:
    """Whether the corners, and every quarter of the longer side, differ from what is around as all of it does."""
    height, width = (-(-size // 6) for size in inside.shape)
    corners = np.concatenate(
        [
            inside[rows, columns].ravel()
            for rows in (slice(height), slice(-height, None))
            for columns in (slice(width), slice(-width, None))
        ]
    )
    longer = inside if inside.shape[0] >= inside.shape[1] else inside.T
    parts = [corners, *np.array_split(longer, min(4, longer.shape[0]))]
    shares = [(float(part.mean()) - around) / contrast for part in parts]
    chances = [spread / abs(contrast) / part.size**0.5 for part in parts]
    return all(share > _CORNERS - 2.0 * chance for share, chance in zip(shares, chances, strict=True))
