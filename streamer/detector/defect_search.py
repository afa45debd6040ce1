"""Defects wider than one pixel, found in the sum of a movie's gain-corrected frames: columns, rows and clusters.

A defect belongs to the detector: its edges are those of pixels, so the value changes from one pixel to the next and
not before or after. A specimen's edges are blurred by the detector, by its drift during the movie and by defocus, and
run along rows or columns only by chance. Three kinds are looked for: long rectangles one way or the other, too faint
for any single pixel to tell; touching pixels each of which chance cannot explain, in any shape; and faint rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer.detector.background import CELL, Background, background_of, binned
from streamer.detector.components import connected
from streamer.detector.correction import find_hot_pixels
from streamer.detector.rectangles import Rectangle, rectangle_around

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

_LENGTHS = (32, 128, 512, 2048)
"""px of a column or row that are averaged; beyond the last, all of it."""
_WIDTHS, _GAP, _SIDE = (1, 3), 5, 8
"""px: widths of lines, from a line to what it is compared with on both sides, and how wide that is."""
_BIN, _LARGEST_SQUARE = 4, 8
"""px that are averaged, and the side of the largest square in these."""
_SURE = 6.0
"""Standard deviations of a line or a square beyond which it is looked at; how far they scatter is measured."""
_MOST_CANDIDATES = 60
_MOST_COMPONENTS = 2_000
_LARGEST = 160
"""px; a cluster is at most this wide, along one axis."""
_BRIGHTER = 2.5
"""Times the level around, beyond which no specimen reaches."""
_DEAD = 0.05
_LEAK, _SPECIMENS_LEAK = 0.15, 0.02
"""Share of its contrast by which the pixels just outside may differ from those farther away: of what only a detector
shows, and of what could be a specimen's."""
_HYSTERESIS, _STEP = 4.5, 6.0
"""Standard deviations by which pixels at the edge of a cluster are part of it, and by which a cluster must differ from
what is right around it."""
_OFF = 100.0
"""Threshold of hot pixels from which nothing is looked for."""
_SUSPICIOUS, _MOST_EMPTY = 0.03, 0.5
"""Share of the pixels beyond which the gain, rather than the camera, is likely to be wrong; and of those without a
count beyond which the others are too few to show a shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defects:
    """What a movie's own data show."""

    places: NDArray[np.int64]
    """(n, 2) rows and columns, sorted."""
    wide: int
    """How many of them are not hot pixels, but parts of columns, rows and clusters, or dead."""

    def flags(self, size: int) -> tuple[str, ...]:
        """What a user should know, for frames of ``size`` px."""
        share = len(self.places) / size
        if share < _SUSPICIOUS:
            return ()
        return (f"gain: {100.0 * share:.1f} % of the pixels look defective; is this the right gain reference?",)


def find_defects(total: Image, known: NDArray[np.bool_], hot_pixel_sigma: float, upsampling: int = 1) -> Defects:
    """Find a detector's defects in a movie's own data.

    Parameters
    ----------
    total : (h, w) gain-corrected sum of all frames.
    known : (h, w), defects that are known already.
    hot_pixel_sigma : see ``find_hot_pixels``; from 100 on, nothing wider is looked for.
    upsampling : how many px of the grid one of the detector's is along each axis; wide defects fill whole ones.
    """
    hot = find_hot_pixels(total, hot_pixel_sigma)
    if hot_pixel_sigma >= _OFF or float((total == 0).mean()) > _MOST_EMPTY:
        return Defects(places=hot, wide=0)
    wide = _wide_on_grid(total, known, hot, upsampling)
    if wide.any():
        # next to a dead column every pixel looks hot
        filled = total.copy()
        places = np.argwhere(wide | known)
        _fill(filled, places, background_of(total, places))
        hot = find_hot_pixels(filled, hot_pixel_sigma)
        wide[hot[:, 0], hot[:, 1]] = False
    places = np.concatenate([hot, np.argwhere(wide).astype(np.int64)]) if wide.any() else hot
    return Defects(places=np.unique(places, axis=0) if wide.any() else hot, wide=int(wide.sum()))


def _wide_on_grid(total: Image, known: NDArray[np.bool_], hot: NDArray[np.int64], upsampling: int) -> NDArray[np.bool_]:
    """(h, w), true at defects that are neither known nor hot pixels."""
    if upsampling == 1:
        return _wide(total, known, hot)
    coarse = binned(total, upsampling)
    told = binned(known.astype(np.float32), upsampling) >= upsampling**2
    found = _wide(coarse, told, np.unique(hot // upsampling, axis=0)) if min(coarse.shape) else told
    fine = found.repeat(upsampling, 0).repeat(upsampling, 1)
    whole = np.zeros(total.shape, dtype=bool)
    whole[: fine.shape[0], : fine.shape[1]] = fine
    whole[hot[:, 0], hot[:, 1]] = False
    return whole & ~known


def _wide(total: Image, known: NDArray[np.bool_], hot: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(h, w), true at defects wider than one pixel, and at single dead ones."""
    found = np.zeros(total.shape, dtype=bool)
    if min(total.shape) < 2 * CELL:
        return found
    places = np.argwhere(known)
    background = background_of(total, places)
    image = total.copy()
    _fill(image, places, background)
    strong, single = _strong(image, background, hot)
    for pixels in single:
        if _is_dead(image, pixels[0], background):
            found[pixels[0, 0], pixels[0, 1]] = True
    if single:
        _fill(image, np.concatenate(single), background)
    for along in (0, 1):
        _add_rectangles(image, found, background, _lines(image, along))
    for pixels in strong:
        _add_component(image, found, background, pixels)
    _add_rectangles(image, found, background, _squares(image, background))
    found[hot[:, 0], hot[:, 1]] = False
    return found & ~known


def _strong(
    image: Image, background: Background, hot: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Touching pixels that chance cannot explain, too high (hot ones among them) or too low, and those alone."""
    lowest, highest = background.limits()
    together: list[NDArray[np.int64]] = []
    alone: list[NDArray[np.int64]] = []
    high: list[NDArray[np.int64]] = [hot]
    low: list[NDArray[np.int64]] = []
    columns = background.cell(np.arange(image.shape[1]), 1)
    for start in range(0, image.shape[0], CELL):
        part, row = image[start : start + CELL], background.cell(start, 0)
        for found, beyond in ((high, part > highest[row][columns]), (low, part < lowest[row][columns])):
            if beyond.any():
                found.append(np.argwhere(beyond) + np.array([start, 0]))
    for places in (high, low):
        if places:
            for pixels in connected(np.concatenate(places), image.shape):
                (alone if len(pixels) == 1 else together).append(pixels)
    together.sort(key=len, reverse=True)
    return together[:_MOST_COMPONENTS], alone


def _is_dead(image: Image, place: NDArray[np.int64], background: Background) -> bool:
    """Whether a pixel alone is too low, also for the pixels next to it: a small dark thing has dark neighbours."""
    row, column = place
    near = image[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    level = float(background.at(slice(row, row + 1), slice(column, column + 1))[0, 0])
    around = (float(near.sum()) - float(image[row, column])) / max(near.size - 1, 1)
    return float(image[row, column]) < _DEAD * level and around > 0.7 * level


def _fill(image: Image, places: NDArray[np.int64], background: Background) -> None:
    """Put the level around in place of some pixels, in place."""
    rows, columns = (background.cell(places[:, axis], axis) for axis in (0, 1))
    image[places[:, 0], places[:, 1]] = background.level[rows, columns]


def _add_rectangles(
    image: Image, found: NDArray[np.bool_], background: Background, candidates: list[Rectangle]
) -> None:
    """Fit a rectangle to each candidate that is not explained yet; those that prove to be the detector's are added."""
    looked_at = np.zeros(image.shape, dtype=bool) if candidates else found
    tried = 0
    for seed in candidates:
        if looked_at[seed.middle] or found[seed.middle]:
            continue
        if (tried := tried + 1) > _MOST_CANDIDATES:
            break
        rectangle = rectangle_around(image, background, seed)
        part = (seed if rectangle is None else rectangle).slices
        looked_at[part] = True
        if rectangle is not None:
            found[part] = True
            image[part] = background.at(*part)


def _add_component(image: Image, found: NDArray[np.bool_], background: Background, pixels: NDArray[np.int64]) -> None:
    """Add touching pixels whose outline is sharp; with them, pixels at their edge that are beyond chance."""
    pixels = pixels[~found[pixels[:, 0], pixels[:, 1]]]
    if len(pixels) < 2 or min(np.ptp(pixels, axis=0)) >= _LARGEST:
        return
    low, high = (pixels.min(0) - 5).clip(min=0), pixels.max(0) + 6
    part = slice(low[0], min(high[0], image.shape[0])), slice(low[1], min(high[1], image.shape[1]))
    values = image[part]
    inside = np.zeros(values.shape, dtype=bool)
    inside[pixels[:, 0] - low[0], pixels[:, 1] - low[1]] = True
    once = _grown(inside)
    ring, far = once & ~inside, _grown(_grown(_grown(once))) & ~_grown(once)
    if not far.any() or not ring.any():
        return
    around, middle = float(values[far].mean()), float(np.median(values[inside]))
    spread = background.spread_at(*pixels.mean(0))
    sign = 1.0 if middle > around else -1.0
    leak = sign * (float(values[ring].mean()) - around)
    beyond_specimens = middle > _BRIGHTER * around if sign > 0 else middle < _DEAD * around
    share = _LEAK if beyond_specimens and background.is_counted else _SPECIMENS_LEAK
    chance = 3.0 * spread / float(ring.sum()) ** 0.5
    # inside a dark thing of the specimen's, the darkest pixels hardly differ from their neighbours
    if not beyond_specimens and abs(middle - around) < _STEP * spread:
        return
    if leak > max(chance, 0.5 * spread) + share * abs(middle - around):
        return
    inside |= ring & (sign * (values - around) > _HYSTERESIS * spread)
    found[part] |= inside
    image[part][inside] = around


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With all that touches it, corners included."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    rows = grown.copy()
    grown[:, 1:] |= rows[:, :-1]
    grown[:, :-1] |= rows[:, 1:]
    return grown


def _lines(image: Image, along: int) -> list[Rectangle]:
    """Pieces of columns (``along`` 0) or rows (1) that differ from both of their sides, the surest first."""
    turned = torch.from_numpy(image if along == 0 else image.T)
    length = turned.shape[0]
    found: list[tuple[float, Rectangle]] = []
    step = _LENGTHS[0] // 2
    if length < _LENGTHS[0] or turned.shape[1] < 4 * (_GAP + _SIDE):
        return []
    # halves of the shortest pieces; longer ones are sums of these
    rows = turned[: length // step * step].reshape(-1, step, turned.shape[1]).mean(1)
    for pooled in (*(size for size in _LENGTHS if size < length), length // step * step):
        number = pooled // step
        pieces = rows.unfold(0, number, max(1, number // 2)).mean(-1)
        for width in _WIDTHS:
            excess = _excess(pieces, width)
            places = np.argwhere(np.abs(excess) > _SURE)
            heights = np.abs(excess[places[:, 0], places[:, 1]])
            for index in np.argsort(-heights, kind="stable")[: 20 * _MOST_CANDIDATES]:
                row, column = (int(place) for place in places[index])
                first = row * max(1, number // 2) * step
                line = Rectangle(first, first + pooled, column, column + width)
                found.append((float(heights[index]), line if along == 0 else line.turned()))
    found.sort(key=lambda one: -one[0])
    return [rectangle for _, rectangle in found]


def _excess(pieces: torch.Tensor, width: int) -> Image:
    """By how much lines of some px differ from the nearer of their two sides, in standard deviations.

    Parameters
    ----------
    pieces : (n, w), one px wide each.

    Returns
    -------
    (n, w − width + 1), 0 where a line is between its sides; how far they scatter is measured.
    """
    sides = pieces
    for step in (1, 2, 4):
        sides = sides[:, step:] + sides[:, :-step]
    sides = sides / _SIDE
    lines = pieces if width == 1 else (pieces[:, 2:] + pieces[:, 1:-1] + pieces[:, :-2]) / width
    reach, number = _GAP + _SIDE - 1, lines.shape[1]
    # where a side is beyond the edge, the other one counts twice
    by_right = torch.empty_like(lines)
    by_right[:, : number - reach] = lines[:, : number - reach] - sides[:, _GAP + width - 1 :]
    by_right[:, number - reach :] = lines[:, number - reach :] - sides[:, number - 2 * reach : number - reach]
    by_left = by_right.clone()
    by_left[:, reach:] = lines[:, reach:] - sides[:, : number - reach]
    mean = (by_left + by_right) / 2.0
    spread = mean.flatten()[:: max(1, mean.numel() // 100_000)].abs().median().clamp(min=1e-12) / 0.6745
    # what both sides agree on: their difference from the mean is taken off, and nothing is left where they disagree
    nearer = mean.abs() - (by_left - by_right).abs() / 2.0
    excess: Image = (nearer.clamp_(min=0.0) * mean.sign() / spread).numpy()
    return excess


def _squares(image: Image, background: Background) -> list[Rectangle]:
    """Squares that differ from the level around, the surest first."""
    small = torch.from_numpy(binned(image, _BIN))
    whole = slice(0, small.shape[0] * _BIN), slice(0, small.shape[1] * _BIN)
    level = torch.from_numpy(background.at(*whole, step=_BIN))
    small = small / _BIN**2 - level
    if background.is_counted:
        small = small / level.clamp(min=1e-6).sqrt()
    found: list[tuple[float, Rectangle]] = []
    side = 1
    while min(small.shape) > side:
        middle = small.flatten()[:: max(1, small.numel() // 100_000)]
        spread = (middle - middle.median()).abs().median().clamp(min=1e-12) / 0.6745
        heights = small.abs() / spread
        places = torch.nonzero(heights > _SURE)
        high = heights[places[:, 0], places[:, 1]]
        for index in high.argsort(descending=True, stable=True)[: 20 * _MOST_CANDIDATES].tolist():
            y, x = (_BIN * int(place) for place in places[index])
            found.append((float(high[index]), Rectangle(y, y + side * _BIN, x, x + side * _BIN)))
        if side == _LARGEST_SQUARE:
            break
        # means over squares of twice the side, at every place
        small = (small[:-side, :-side] + small[side:, :-side] + small[:-side, side:] + small[side:, side:]) / 4.0
        side *= 2
    found.sort(key=lambda one: -one[0])
    return [rectangle for _, rectangle in found]
