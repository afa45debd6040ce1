"""Steps in a track: the stage or the specimen jumps between two frames, and stays where it then is.

Smooth functions of time do not follow a jump, and frame by frame it is believed only where each frame is sure. As a
step it is one more function of time, of which all frames know something.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MOST = 2
"""Jumps of one movie."""
_SURE = 8.0
"""Evidence, beyond what the choice of the frame costs, from which on a jump is believed."""
_LEAST_FREEDOM = 8
"""Numbers that must remain beside the smooth track, to tell a jump from it."""


def jumps_of(track: Tensor, smooth: Tensor, variance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Steps that a measured track shows beyond its smooth part.

    The evidence is the gain in likelihood with the scatter as counted or as it is seen, whichever says less: frames
    that vibrate do not jump.

    Parameters
    ----------
    track : (t, 2) px.
    smooth : (t, n) orthonormal functions of time, without the constant.
    variance : (2,) px² of a frame's shift; None: unknown.

    Returns
    -------
    (t, 2) px the steps' part beyond constant and smooth functions, and (t,) px² the expected square of its error.
    """
    n = len(track)
    steps, error = torch.zeros_like(track), torch.zeros(n, dtype=torch.float64)
    known = torch.cat([torch.full((n, 1), n**-0.5, dtype=torch.float64), smooth], dim=1)
    left = track - known @ (known.T @ track)
    for _ in range(_MOST):
        freedom = 2.0 * (n - known.shape[1])
        if freedom < _LEAST_FREEDOM:
            break
        functions = torch.ones((n, n), dtype=torch.float64).tril()[:, 1:]
        functions = functions - known @ (known.T @ functions)
        norms = functions.norm(dim=0)
        functions = functions / norms.clamp(min=1e-9) * (norms > 1e-3)
        asked = functions.T @ left
        scatter = left.square().sum().clamp(min=1e-30)
        gained = asked.square().sum(1)
        evidence = 0.5 * freedom * (scatter / (scatter - gained).clamp(min=1e-9 * scatter)).log()
        if variance is not None:
            evidence = torch.minimum(evidence, 0.5 * (asked.square() / variance).sum(1))
        at = int(evidence.argmax())
        if float(evidence[at]) < _SURE + math.log(n - 1):
            break
        one = functions[:, at]
        steps = steps + one[:, None] * asked[at]
        seen = float((scatter - gained[at]) / (freedom - 2.0))
        error = error + one.square() * max(seen, 0.0 if variance is None else float(variance.mean())) * 2.0
        known = torch.cat([known, one[:, None]], dim=1)
        left = left - one[:, None] * asked[at]
    return steps, error
