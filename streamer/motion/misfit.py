"""How far patches are from a field, as their neighbours confirm.

What counting, damage or a lattice does to one patch, it does to that one. Where neighbours are off in the same
direction, the specimen moved as no function of the field does, as at a crack, or as shrinkage has taken away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from streamer.motion.patch_weights import Weights

_CHANCE = 1.0
"""Standard deviations of chance, see ``confirmed``."""


def neighbours(number: list[int]) -> Tensor:
    """(m, 2) indices of adjacent patches of a grid of ``number`` rows and columns."""
    index = torch.arange(number[0] * number[1]).view(*number)
    along = torch.stack([index[:, :-1].flatten(), index[:, 1:].flatten()], dim=1)
    down = torch.stack([index[:-1].flatten(), index[1:].flatten()], dim=1)
    return torch.cat([along, down])


def confirmed(left: Tensor, weights: Weights, pairs: Tensor, variance: Tensor) -> Tensor:
    """Mean square of what patches are off, by the products of neighbours.

    Shrunk by what chance alone would show: with σ its standard deviation, a mean square P is multiplied by
    1 − (σ/P)², and is 0 below σ.

    Parameters
    ----------
    left : (p, n, 2) px, coefficients of functions of time, what each patch's own step asks for, times its information.
    pairs : (m, 2) neighbours.
    variance : (2,) px², of such a coefficient for information 1.

    Returns
    -------
    (n,) px², both axes together.
    """
    if len(pairs) == 0:
        return torch.zeros(left.shape[1], dtype=torch.float64)
    one, other = pairs.T
    # as the patches' mean is the global track's
    left = left - weights.information[:, None, None] * (left.sum(0) / weights.information.sum())
    both = weights.information[one] * weights.information[other]
    found = (left[one] * left[other]).sum((0, 2)) / both.sum()
    chance = weights.slow * (variance.square().sum() * both.sum()).sqrt() / both.sum()
    found = found.clamp(min=1e-30)
    shown: Tensor = found * (1.0 - (_CHANCE * chance / found).square()).clamp(min=0.0)
    return shown
