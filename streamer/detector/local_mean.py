"""Images relative to their surroundings: what differs from pixel to pixel, without illumination and coarse detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLIP = 5.0
"""Standard deviations beyond which a pixel is a defect, which must not decide."""


def relative(image: NDArray[np.float32]) -> torch.Tensor:
    """(h, w) relative to the mean of the surrounding 5 × 5 px, less 1."""
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    around = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(pixels, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    floor = 1e-3 * float(pixels.mean())
    return (pixels / around.clamp(min=max(floor, 1e-30)) - 1.0)[0, 0]


def clipped(image: torch.Tensor) -> torch.Tensor:
    """(h, w) within five standard deviations: hot pixels and defects alone would decide otherwise."""
    limit = _CLIP * float(image.std())
    return image.clamp(-limit, limit)
