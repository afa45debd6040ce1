"""The fine image by cryo-ZSSR as published, judged by the same frames as fusion is.

The network makes an image from the averages of all frames. To judge it, it is applied again to averages of the even and
of the odd frames alone, on a few tiles, and what it adds beyond the physical Nyquist frequency there is compared with
the other half's frames. A network trained on this very movie has seen both halves, though only at twice the pixel size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from streamer.records import SuperResolution
from streamer.super_resolution.averages import Averages, average
from streamer.super_resolution.verdict import judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from streamer.motion.track import Motion
    from streamer.super_resolution.accumulate import AliasSums
    from streamer.super_resolution.fusion import Fusion
    from streamer.super_resolution.networks import ZssrNetwork

LEAST_FRAMES = 4
"""Early and late ones in each half."""
_MARGIN = 8
"""px around a tile that the network sees."""


def super_resolve_averages(
    network: ZssrNetwork,
    whole: Averages,
    frame: Callable[[int], Tensor],
    motion: Motion,
    resolver: Fusion,
    *,
    min_diversity: float,
) -> SuperResolution:
    """Make the fine image of a movie from averages of its frames and judge it.

    Parameters
    ----------
    whole : averages of all frames.
    frame : returns corrected frame i, (h, w) float32.
    resolver : ``Fusion`` of the movie's sums; used for judging only.

    Returns
    -------
    SuperResolution with the (2h, 2w) image on the scale of the plain micrograph at the origin (√frames).
    """
    apply, sums = network(whole), resolver.sums
    chosen = sums.training_tiles
    halves = []
    for parity in (0, 1):
        part = average(frame, motion, torch.arange(parity, len(motion.shifts), 2))
        halves.append(_on_tiles(apply, replace(part, scale=whole.scale), sums, chosen))
    found, control = resolver.confirmation_of(halves, chosen)
    # the halves of the fused image say nothing about this one
    verdict = judged(found, control, None, sums.exposures, motion.shifts, min_diversity)
    image = (apply(whole) + sums.mean) * math.sqrt(len(sums.parity))
    return SuperResolution(image=image, verdict=replace(verdict, method="zssr", model=network.reference))


def _on_tiles(apply: Callable[[Averages], Tensor], averages: Averages, sums: AliasSums, chosen: Tensor) -> Tensor:
    """The network's image (2h, 2w) on some tiles, 0 elsewhere."""
    height, width = averages.whole.shape
    image = averages.whole.new_zeros((2 * height, 2 * width))
    for top, left in sums.tiles.corners[chosen].tolist():
        near, seen = (
            [slice(max(0, first - wide), min(size, first + sums.tiles.side + wide)) for first, size in ends]
            for wide, ends in ((0, ((top, height), (left, width))), (_MARGIN, ((top, height), (left, width))))
        )
        part = apply(averages.window(*seen))
        inner = [slice(2 * (n.start - s.start), 2 * (n.stop - s.start)) for n, s in zip(near, seen, strict=True)]
        image[2 * near[0].start : 2 * near[0].stop, 2 * near[1].start : 2 * near[1].stop] = part[inner[0], inner[1]]
    return image
