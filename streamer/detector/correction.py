"""From counts as stored to corrected frames: gain, defects and hot pixels.

A defect's value is replaced by that of a good neighbour, a different one in each frame, so that the counting statistics
survive; frame and pixel alone determine which one, so that the same movie always gives the same result. Inside a wide
defect the good pixels are farther away: they are drawn from a square just large enough to hold some.
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

_FEWEST = 6
"""Good neighbours within 2 px below which others are drawn from farther away: one or two would be copied again and
again, and a wide defect would have none. A defect by itself has 8 in the image's corner."""
_REACHES, _DRAWN = (4, 8, 16, 32, 64, 128), 96
"""px, and number of places that are looked at in each of these."""
_CHUNK, _ROWS = 20_000, 32
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


_SPARSE, _FEWEST_COUNTS = 0.35, 8.0
"""Share of empty pixels, at about one count per pixel, beyond which a hot one needs so many counts."""


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
    height, is_counted, excess = len(total), float(image.min()) >= 0, torch.empty_like(image)
    mean = image.mean(dtype=torch.float64).clamp(min=1e-12).to(image.dtype)
    for start in range(0, height, _ROWS):  # what fits a CPU's cache is four times as fast
        stop = min(start + _ROWS, height)
        part, edges = image[start:stop], (1, 1, int(start == 0), int(stop == height))
        with_edges = image[max(0, start - 1) : stop + 1]
        padded = torch.nn.functional.pad(with_edges[None, None], edges, mode="reflect")
        around = (torch.nn.functional.avg_pool2d(padded, 3, stride=1)[0, 0] * 9.0 - part) / 8.0
        scale = (around / mean).clamp(min=0.05).sqrt() if is_counted else 1.0
        excess[start:stop] = (part - around) / scale
    spread = excess.flatten()[:: max(1, excess.numel() // 200_000)].abs().median() / 0.6745
    hot = excess > sigma * spread.clamp(min=1e-12)
    if float((image == 0).mean(dtype=torch.float32)) > _SPARSE:
        # most pixels are empty: their median says nothing about the others, and a few counts are no evidence
        hot &= image >= _FEWEST_COUNTS * image[image > 0].median() if bool((image > 0).any()) else False
    return torch.nonzero(hot).numpy().astype(np.int64)


def known_defects(
    shape: tuple[int, ...], gain: Gain | None, listed: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """(h, w), true where the gain is 0 or a list names the pixel."""
    known = np.zeros(shape, dtype=bool) if gain is None else gain.values == 0
    return known if listed is None else known | listed


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
    for chunk in np.array_split(few := np.flatnonzero(number < _FEWEST), len(few) // _CHUNK + 1):
        _draw_from_afar(sources, chunk, defects, bad)
    return Correction(
        gain=None if gain is None else torch.from_numpy(gain.values).to(device),
        defects=torch.from_numpy(defects[:, 0] * width + defects[:, 1]).to(device),
        sources=torch.from_numpy(sources).to(device),
    )


def _draw_from_afar(
    sources: NDArray[np.int64], chosen: NDArray[np.int64], defects: NDArray[np.int64], bad: NDArray[np.bool_]
) -> None:
    """Give some defects sources from the smallest square around them in which enough of the pixels drawn are good."""
    height, width = bad.shape
    draw = np.random.default_rng(1)  # always the same numbers, so that a movie always gives the same result
    for reach in _REACHES:
        if not len(chosen):
            return
        near = defects[chosen][:, None, :] + draw.integers(-reach, reach + 1, (len(chosen), _DRAWN, 2))
        inside = ((near >= 0) & (near < np.array(bad.shape))).all(-1)
        near = near.clip(0, np.array([height, width]) - 1)
        good = inside & ~bad[near[..., 0], near[..., 1]]
        number = good.sum(1)
        enough = number >= (_FEWEST if reach < _REACHES[-1] else 1)
        flat = np.where(good, near[..., 0] * width + near[..., 1], -1)[enough]
        first = np.argsort(~good[enough], axis=1, kind="stable")
        cyclic = np.arange(sources.shape[1])[None, :] % number[enough][:, None]
        sources[chosen[enough]] = np.take_along_axis(np.take_along_axis(flat, first, 1), cyclic, 1)
        chosen = chosen[~enough]
