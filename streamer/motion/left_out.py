"""Where the frames that were left out would have been: between their neighbours.

Other programs read the file with all its frames, and expect a shift for each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from streamer.motion.track import Motion


def at_all_frames(motion: Motion, kept: Sequence[int] | None, n_frames: int) -> Motion:
    """The motion of all frames of a file.

    Parameters
    ----------
    motion : of the frames that were used.
    kept : their places in the file, from 0; None: they are all.
    n_frames : of the file.

    Returns
    -------
    Motion with shifts (n_frames, 2): on a straight line between the neighbours, as at the end beyond the ends.
    """
    if kept is None:
        return motion
    known, wanted = torch.tensor(kept, dtype=torch.float64), torch.arange(n_frames, dtype=torch.float64)
    after = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    before = torch.where(known[after] > wanted, after - 1, after).clamp(min=0)
    part = ((wanted - known[before]) / (known[after] - known[before]).clamp(min=1.0)).clamp(0.0, 1.0)

    def spread(values: Tensor) -> Tensor:
        share = part.reshape(-1, *[1] * (values.ndim - 1)).to(values.dtype)
        return torch.lerp(values[before], values[after], share)

    local = motion.local
    return replace(
        motion,
        shifts=spread(motion.shifts),
        errors=None if motion.errors is None else spread(motion.errors),
        local=None if local is None else replace(local, coefficients=spread(local.coefficients)),
    )
