"""Smooth courses over spatial frequency: clamped cubic B-splines, and what their curvature costs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLINES = 10
"""Coefficients of a course over the band."""
_RIDGE = 0.3
"""Of the coefficients' second differences: curvature that the data do not ask for costs."""


def spline_basis(k: NDArray[np.float64], splines: int = SPLINES) -> NDArray[np.float64]:
    """Basis uniform over the range of an ascending k: (len(k), splines), rows add up to 1. Source: de Boor 1972."""
    x = (k - k[0]) / max(float(k[-1] - k[0]), 1e-30)
    knots = np.concatenate([np.zeros(3), np.linspace(0.0, 1.0, splines - 2), np.ones(3)])
    piece = np.minimum(np.searchsorted(knots, x, side="right"), len(knots) - 4) - 1
    values = np.zeros((len(x), len(knots) - 1))
    values[np.arange(len(x)), piece] = 1.0
    for degree in (1, 2, 3):
        smoother = np.zeros((len(x), len(knots) - 1 - degree))
        for i in range(smoother.shape[1]):
            rise, fall = knots[i + degree] - knots[i], knots[i + degree + 1] - knots[i + 1]
            if rise > 0:
                smoother[:, i] += (x - knots[i]) / rise * values[:, i]
            if fall > 0:
                smoother[:, i] += (knots[i + degree + 1] - x) / fall * values[:, i + 1]
        values = smoother
    return values


@lru_cache(maxsize=1)
def roughness() -> NDArray[np.float64]:
    """Quadratic form of the second differences, (10, 10), with a trace of the values themselves."""
    second = np.diff(np.eye(SPLINES), 2, axis=0)
    found: NDArray[np.float64] = 2.0 * _RIDGE * second.T @ second + 1e-6 * np.eye(SPLINES)
    return found
