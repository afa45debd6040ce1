"""How much of some measured coefficients to believe, and how wrong they are then.

Each was measured with a known variance σ². What size the true ones have is not known but judged from all of them
together: none at all, or one of some profiles times a scale, which is anything from nothing of note to a largest
one, evenly in its logarithm. Under each of these a coefficient of variance v is multiplied by v/(v + σ²); the result is
the average, weighted by how probable the profile and its scale are. What remains uncertain is thus part of the stated
error, and a few coefficients are believed less readily than many that say the same.
Source: Bayesian model averaging with a hierarchical prior, summed over a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALLEST = 0.02
"""px; a motion below it does no harm, and is as good as none."""
_SCALES = 25
_NONE = 0.2
"""Prior probability that there is nothing of a kind at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """What is left of some coefficients, (n,) float64."""

    factor: Tensor
    """By which each is multiplied."""
    error: Tensor
    """Expected square of its distance from the truth then."""
    square: Tensor
    """Expected square of the true coefficient."""
    evidence: float
    """Logarithm of how much more probable the coefficients are than if all were zero."""


def believed(asked: Tensor, variance: Tensor, unit: float, largest: float, profiles: Tensor | None = None) -> Believed:
    """Shrink coefficients that belong together.

    Parameters
    ----------
    asked, variance : (n,) float64 measured coefficients and their σ².
    unit : size of a coefficient whose motion is 1 px, root mean square.
    largest : px; nothing of the kind moves farther.
    profiles : (k, n) relative sizes; None: all alike.
    """
    if asked.numel() == 0:
        return Believed(factor=asked, error=asked, square=asked, evidence=0.0)
    profiles = torch.ones((1, len(asked)), dtype=torch.float64) if profiles is None else profiles
    scale = torch.logspace(math.log10(_SMALLEST), math.log10(largest), _SCALES, dtype=torch.float64)
    spread = (profiles[:, None] * (unit * scale)[:, None]).square().flatten(0, 1)
    spread = torch.cat([torch.zeros_like(spread[:1]), spread])
    prior = torch.full((len(spread),), math.log((1.0 - _NONE) / (len(spread) - 1)), dtype=torch.float64)
    prior[0] = math.log(_NONE)
    total = variance + spread
    each = -0.5 * (total.log() + asked.square() / total).sum(1)
    weight = torch.softmax(each + prior, 0)[:, None]
    share = spread / total
    factor = (weight * share).sum(0)
    error = (weight * (share * variance + (share - factor).square() * asked.square())).sum(0)
    evidence = torch.logsumexp(each[1:], 0) - math.log(len(each) - 1) - each[0]
    return Believed(factor=factor, error=error, square=error + (factor * asked).square(), evidence=float(evidence))
