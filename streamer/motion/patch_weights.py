"""How much each patch counts: by what it knows, and by how far its frames agree with each other.

A patch with a crystal or an edge is bright in Fourier space and would rule the fit. If its frames say the same, it does
know more; if they contradict each other, because ice boils there or a lattice locks, it knows less than it seems to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from streamer.motion.patches import Steps

_PRIOR = 12.0
"""Numbers whose worth the expected scatter has beside what is seen."""
_ALONE = 2.0
"""How much farther than the median patch one may be from the field before it loses weight for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What to multiply the patches' free steps by, and what they then know."""

    of_step: Tensor
    """(p,) float64."""
    information: Tensor
    """(p,) float64, in units of ``Steps.information``."""
    slow: Tensor
    """(n,) float64: how much more than by counting the patches differ in each function of slow motion; at least 1."""


def weights_of(found: Steps, slow: Tensor, variance: Tensor) -> Weights:
    """Weigh patches by the inverse variance of their steps.

    A free step is the patch's own step times its share, so that of_step = share / scatter, and the information is
    share² / scatter, with the scatter in units of what counting gives an average patch. It is judged from fast motion,
    in which patches should not differ. In slow motion they differ for three reasons: the field bends more than its
    functions say, or damage changes what the frames share, which makes all less certain; or a patch is locked to a
    lattice or an edge, which makes that one less certain.

    Parameters
    ----------
    slow : (t, n) orthonormal functions of slow motion.
    variance : (2,) of a patch's free steps by counting, px².
    """
    free = found.free - found.free.mean(0)
    own = torch.einsum("tn,pta->pna", slow, free).square() / variance
    functions, patches = own.shape[1], len(free)
    numbers = 2.0 * max(0, free.shape[1] - 1 - functions) * (1.0 - 1.0 / max(2, patches))
    fast = (free.square() / variance).sum((1, 2)) - own.sum((1, 2))
    scatter = (_PRIOR + fast.clamp(min=0.0)) / (_PRIOR + numbers)
    own = own / scatter[:, None, None]
    alone = (_PRIOR + own.sum((1, 2))) / (_PRIOR + 2.0 * functions)
    alone = (alone / (_ALONE * alone.median())).clamp(min=1.0)
    scatter = scatter * alone
    differ = (own / alone[:, None, None]).sum((0, 2)) if patches > 1 else torch.zeros(functions, dtype=own.dtype)
    return Weights(
        of_step=found.share / scatter,
        information=found.share.square() / scatter,
        slow=((_PRIOR + differ) / (_PRIOR + 2.0 * max(0, patches - 1))).clamp(min=1.0),
    )
