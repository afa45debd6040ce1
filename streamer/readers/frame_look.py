"""What is remembered of one frame while a movie is read: enough to tell whether it carries information."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Texture = NDArray[np.float32]

_ROWS = 128
"""At least so many rows of a frame are looked at, evenly spread; all rows of smaller ones."""
BLOCKS = 8
_STRANGE_BLOCKS = 8
"""Of the 64 blocks, so many at each end are no evidence of a frame's level: a few hot pixels can be in them."""
BANDS = 32
"""Parts along each axis whose levels are remembered."""

_COMPARED_ROWS, _COMPARED_BANDS = 64, 4
"""At most so many rows of a frame are compared, in bands: a part of a frame may be a copy."""
_FEWEST = 40
"""Numbers in a band that are not the usual one: fewer may be alike by chance."""
_TAILS = 4.0
"""Standard deviations beyond which pixels are hot, dead or hit by something else, and not compared."""
_DISTINCT = 0.05
"""Share of what usually distinguishes two frames, below which one is a copy of the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLook:
    """What is remembered of one frame."""

    constant: float | None
    """The value of all pixels, where they have one."""
    rows: Array
    """(32,) mean of bands of rows."""
    columns: Array
    level: float
    """Mean of the blocks that are not the strangest."""
    variance: float
    """Within blocks, likewise."""
    error: float
    """Standard error of the level."""
    filled: int
    """Pixels with counts."""
    negative: bool
    """Whether a number is below zero."""
    sample: bytes
    """The rows that were looked at, hashed: the same frame has the same."""

    @property
    def any(self) -> bool:
        """Whether anything but zeros is in it."""
        return self.constant != 0.0

    @classmethod
    def at(cls, frame: np.ndarray) -> FrameLook:
        """Look at an (h, w) frame as stored."""
        step = max(1, frame.shape[0] // _ROWS)
        seen = np.ascontiguousarray(frame[::step])
        first = seen.flat[0]
        constant = float(first) if bool((seen == first).all() and (frame == first).all()) else None
        values = seen.astype(np.float64)
        means, squares = _in_blocks(values), _in_blocks(values * values)
        level, variance = _usual(means), max(0.0, _usual(squares - means**2))
        return cls(
            constant=constant,
            rows=parts(values.mean(1), BANDS),
            columns=parts(values.mean(0), BANDS),
            level=level,
            variance=variance,
            error=(variance / values.size) ** 0.5,
            filled=int(np.count_nonzero(seen)),
            negative=bool(seen.min() < 0),
            sample=hashlib.blake2b(seen.tobytes(), digest_size=16).digest(),
        )


def _in_blocks(values: Array) -> Array:
    """Means of at most 8 × 8 blocks, flat and sorted by place."""
    starts = [np.unique(np.arange(BLOCKS) * size // BLOCKS) for size in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    heights, widths = (np.diff(np.append(start, size)) for start, size in zip(starts, values.shape, strict=True))
    means: Array = sums / (heights[:, None] * widths[None, :])
    return means.ravel()


def _usual(blocks: Array) -> float:
    """Mean without the strangest blocks at both ends."""
    strange = _STRANGE_BLOCKS * len(blocks) // BLOCKS**2
    return float(np.sort(blocks)[strange : len(blocks) - strange].mean())


def parts(profile: Array, number: int) -> Array:
    """Mean of ``number`` parts of a profile, of its points where there are fewer."""
    starts = np.unique(np.arange(number) * len(profile) // number)
    return np.add.reduceat(profile, starts) / np.diff(np.append(starts, len(profile)))


def texture(frame: np.ndarray, look: FrameLook) -> Texture:
    """(4, n) differences between neighbours along rows, in bands of an (h, w) frame: its noise, and little else."""
    n = min(frame.shape[0], _COMPARED_ROWS) // _COMPARED_BANDS * _COMPARED_BANDS
    rows = np.arange(n) * frame.shape[0] // n
    reach = _TAILS * look.variance**0.5 + 1.0
    values = frame[rows].astype(np.float32)
    usual = np.where(np.abs(values - look.level) <= reach, values, np.float32(look.level))
    return np.diff(usual, axis=1).reshape(_COMPARED_BANDS, -1)


def unlikeness(one: Texture, other: Texture) -> float:
    """1 less the correlation of two frames' noise, in that band where they are most alike; nan where it is unknown."""
    known = [
        1.0 - float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5
        for a, b in zip(one, other, strict=True)
        if min(np.count_nonzero(a), np.count_nonzero(b)) >= _FEWEST
    ]
    return min(known, default=float("nan"))


def near_copies(unlike: Sequence[float]) -> set[int]:
    """Frames that repeat the one before them, though not to the last pixel: read twice, or corrected when saved.

    The noise of two exposures is never the same; that of a copy is, also where a column was mended, numbers were scaled
    or rounded, or only a part of the frame was new. Patterns that all frames share are no evidence.

    Parameters
    ----------
    unlike : (t − 1,) how unlike a frame is to the one before, from the second frame on.
    """
    values = np.array(unlike)
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return set()
    # an upper quartile: many frames may be doubled
    usual = float(np.quantile(known, 0.75))
    return {index + 1 for index, value in enumerate(values) if value < _DISTINCT * usual}
