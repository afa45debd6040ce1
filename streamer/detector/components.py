"""Connected pixels, from a list of them: enough for defects, which are few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def connected(pixels: NDArray[np.int64], shape: tuple[int, int]) -> list[NDArray[np.int64]]:
    """Group (n, 2) rows and columns into sets that touch, corners included; sorted by their first pixel."""
    if not len(pixels):
        return []
    width = shape[1] + 2
    # a frame of one pixel, so that the ends of two rows are not neighbours
    flat = np.unique((pixels[:, 0] + 1) * width + pixels[:, 1] + 1)
    label = np.arange(len(flat))
    pairs = []
    for step in (1, width - 1, width, width + 1):
        place = np.searchsorted(flat, flat + step).clip(max=len(flat) - 1)
        pairs.append(np.stack([np.flatnonzero(flat[place] == flat + step), place[flat[place] == flat + step]]))
    left, right = np.concatenate(pairs, axis=1)
    while True:
        before = label.copy()
        lower = np.minimum(label[left], label[right])
        np.minimum.at(label, left, lower)
        np.minimum.at(label, right, lower)
        label = label[label]
        if np.array_equal(label, before):
            break
    order = np.argsort(label, kind="stable")
    places = np.stack([flat // width - 1, flat % width - 1], axis=1)[order]
    return np.split(places, np.flatnonzero(np.diff(label[order])) + 1)
