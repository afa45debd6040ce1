"""Atoms of a particle, looked at along the beam, added to an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.simulation.specimen import Specimen


def add_projection(
    image: NDArray[np.float32],
    specimen: Specimen,
    rotation: NDArray[np.floating],
    centre: NDArray[np.floating],
    step: float,
) -> None:
    """Add the scattering factors of a particle to an image with periodic edges, in place.

    Parameters
    ----------
    image : (2H, 2W) sum of scattering factors per fine pixel: every atom is spread over its four nearest pixels.
    rotation : (3, 3) specimen's x, y, z to the microscope's.
    centre : (y, x) in px of the camera, which are two fine pixels wide.
    step : fine pixel, Å.
    """
    height, width = image.shape
    reach = math.ceil(float(np.linalg.norm(specimen.positions, axis=1).max()) / step) + 2
    side = 2 * reach + 1
    # a coarse pixel's centre is between its two fine pixels, half a fine pixel from each
    middle = 2.0 * centre[::-1] + 0.5
    corner = np.floor(middle).astype(np.int64) - reach
    x, y = (rotation[:2] @ specimen.positions.T) / step + (middle - corner)[:, None]
    column, row = x.astype(np.int64), y.astype(np.int64)
    dx, dy = x - column, y - row
    stamp = np.zeros(side * side)
    for oy, wy in ((0, 1.0 - dy), (1, dy)):
        for ox, wx in ((0, 1.0 - dx), (1, dx)):
            index = (row + oy) * side + column + ox
            stamp += np.bincount(index, specimen.factors * wy * wx, minlength=side * side)
    rows, columns = ((corner[i] + np.arange(side)) % size for i, size in ((1, height), (0, width)))
    image[np.ix_(rows, columns)] += stamp.reshape(side, side)
