"""The signal's power on the fine grid, ring by ring, from what a movie's halves have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from streamer.quality import estimators

if TYPE_CHECKING:
    from torch import Tensor

_SMOOTHING = (12, 32, 128)
"""Running means of the signal's power, from wide to narrow: half widths as shares of the rings."""
_NEIGHBOURS = 12
"""One in this many rings, to each side, decide together what is chance."""
_FIT_STEPS = 30


def smoothed(sums: Tensor, chance: Tensor, scale: Tensor) -> Tensor:
    """Ring sums over a scale, (rings,): as fine as they show more than chance, so that Thon rings stay in place.

    From a smooth trend to wide and then narrow running means; what each adds is shrunk by how much of it chance
    explains in the neighbourhood (empirical Bayes). ``chance`` is the variance of each sum.
    """
    curve = _trend(sums / scale, chance / scale.square())
    around = max(1, len(sums) // _NEIGHBOURS)
    for width in (max(1, len(sums) // share) for share in _SMOOTHING):
        weight = estimators.smooth(scale, width)
        added = estimators.smooth(sums - curve * scale, width) / weight
        expected = estimators.smooth(chance, width) / weight.square()
        seen = estimators.smooth(added.square(), around)
        real = seen - estimators.smooth(expected, around)
        curve = curve + added * (real / seen.clamp(min=1e-300)).clamp(0.0, 1.0)
    return curve


def _trend(values: Tensor, variance: Tensor) -> Tensor:
    """Power that falls with frequency, (rings,): a parabola as exponent, or a line where that would rise at the end."""
    place = torch.linspace(0.0, 1.0, len(values), dtype=torch.float64)
    basis = torch.stack([torch.ones_like(place), place, place**2], dim=1)
    found = _fitted(basis, values, variance)
    if float(found[2]) > 0.0 or float(found[1] + 2.0 * found[2]) > 0.0:
        basis = basis[:, :2]
        found = _fitted(basis, values, variance)
        found[1] = found[1].clamp(max=0.0)
    return torch.exp((basis @ found).clamp(-30.0, 30.0))


def _fitted(basis: Tensor, values: Tensor, variance: Tensor) -> Tensor:
    """Exponents (p,) of exp(basis · p) by Gauss-Newton; Thon rings count as scatter."""
    used = slice(max(2, len(values) // 16), None)  # coarser is the shape of particles, not a trend
    start = float(values[used][: len(values) // 4].mean().clamp(min=1e-9))
    found = torch.zeros(basis.shape[1], dtype=torch.float64)
    found[0], found[1] = math.log(start), -1.0
    for _ in range(_FIT_STEPS):
        model = torch.exp((basis @ found).clamp(-30.0, 30.0))
        weight = 1.0 / (variance + 0.25 * model.square())
        slope = (model[:, None] * basis)[used]
        normal = slope.T @ (weight[used, None] * slope) + 1e-3 * torch.eye(len(found), dtype=torch.float64)
        step = torch.linalg.solve(normal, slope.T @ (weight * (values - model))[used])
        found = found + step.clamp(-1.0, 1.0)
    return found
