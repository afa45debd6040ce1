"""From counts as stored to corrected frames: gain, defects and hot pixels.

A defect's value is replaced by that of a good neighbour, a different one in each frame, so that the counting statistics
survive; frame and pixel alone determine which one, so that the same movie always gives the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from streamer.errors import MovieCorrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.frame_stack import FrameSource
    from streamer.records import Gain

_NEIGHBOURS = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Turns stored counts into corrected frames on one device."""

    gain: Tensor | None
    """(h, w) float32."""
    defects: Tensor
    """(n,) int64 flat positions."""
    sources: Tensor
    """(n, k) int64 flat positions of good neighbours, repeated cyclically; −1 where a defect has none."""

    def frame(self, counts: FrameSource, index: int) -> Tensor:
        """Corrected frame ``index`` of (t, h, w) counts: (h, w) float32 on the correction's device."""
        raw = torch.from_numpy(counts[index].astype(np.float32)).to(self.defects.device)
        if self.gain is not None:
            raw.mul_(self.gain)
        if self.defects.numel():
            flat = raw.flatten()
            turn = (index * 5 + 3 * torch.arange(len(self.defects), device=flat.device)) % self.sources.shape[1]
            source = self.sources.gather(1, turn[:, None])[:, 0]
            values = torch.where(source >= 0, flat[source.clamp(min=0)], flat.mean())
            flat[self.defects] = values
        return raw


def find_hot_pixels(total: NDArray[np.float32], sigma: float) -> NDArray[np.int64]:
    """Pixels far above their eight neighbours.

    Parameters
    ----------
    total : (h, w) gain-corrected sum of all frames.
    sigma : threshold in standard deviations of the difference, which is measured by its median and, where all values
        are counts, scales with the square root of the neighbours' mean.

    Returns
    -------
    (n, 2) rows and columns.
    """
    image = torch.from_numpy(total)
    padded = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode="reflect")
    around = (torch.nn.functional.avg_pool2d(padded, 3, stride=1)[0, 0] * 9.0 - image) / 8.0
    scale = (around / around.mean().clamp(min=1e-12)).clamp(min=0.05).sqrt() if float(image.min()) >= 0 else 1.0
    excess = (image - around) / scale
    spread = excess.abs().flatten()[:: max(1, excess.numel() // 200_000)].median() / 0.6745
    hot = torch.nonzero(excess > sigma * spread.clamp(min=1e-12))
    return hot.numpy().astype(np.int64)


def defects_of(gain: Gain | None, hot: NDArray[np.int64], listed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """(n, 2) rows and columns of zero-gain, hot and listed (h, w) pixels, sorted, each once."""
    places = [hot]
    if gain is not None:
        places.append(np.argwhere(gain.values == 0).astype(np.int64))
    if listed is not None:
        places.append(np.argwhere(listed).astype(np.int64))
    return np.unique(np.concatenate(places), axis=0)


def correction_for(
    shape: tuple[int, int], gain: Gain | None, defects: NDArray[np.int64], device: torch.device | str = "cpu"
) -> Correction:
    """Prepare the correction of frames of (h, w) px on a device."""
    height, width = shape
    if len(defects) > 0.1 * height * width:
        raise MovieCorrupt(
            "more than a tenth of the pixels are defects",
            found=str(len(defects)),
            hint="check the list or map of defects and the gain reference: is it of this camera and mode?",
        )
    bad = np.zeros(shape, dtype=bool)
    bad[defects[:, 0], defects[:, 1]] = True
    near = defects[:, None, :] + np.array(_NEIGHBOURS)[None]
    inside = ((near >= 0) & (near < np.array(shape))).all(-1)
    clipped = near.clip(0, np.array(shape) - 1)
    good = inside & ~bad[clipped[..., 0], clipped[..., 1]]
    flat = np.where(good, clipped[..., 0] * width + clipped[..., 1], -1)
    order = np.argsort(~good, axis=1, kind="stable")
    number = good.sum(1)
    cyclic = np.arange(len(_NEIGHBOURS))[None, :] % np.maximum(number, 1)[:, None]
    sources = np.take_along_axis(np.take_along_axis(flat, order, 1), cyclic, 1)
    return Correction(
        gain=None if gain is None else torch.from_numpy(gain.values).to(device),
        defects=torch.from_numpy(defects[:, 0] * width + defects[:, 1]).to(device),
        sources=torch.from_numpy(sources).to(device),
    )
