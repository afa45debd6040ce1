"""What is remembered of one frame while a movie is read: enough to tell whether it carries information."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_ROWS = 128
"""At least so many rows of a frame are looked at, evenly spread; all rows of smaller ones."""
BLOCKS = 8
_STRANGE_BLOCKS = 8
"""Of the 64 blocks, so many at each end are no evidence of a frame's level: a few hot pixels can be in them."""
BANDS = 32
"""Parts along each axis whose levels are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLook:
    """What is remembered of one frame."""

    any: bool
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
            any=constant != 0.0,
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
