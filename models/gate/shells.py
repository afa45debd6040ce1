"""Figures of a network by shell, pooled over the movies that it is judged on: for its manifest, and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.manifest import ShellFigures
from streamer import fourier
from streamer.quality import estimators

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.band import Band

_SHELLS = 12
"""Number of shells, equally wide in spatial frequency, from the coarse to the fine end of the band."""
_COARSEST = 100.0
"""Å."""


def shell_sums(estimates: Tensor, band: Band, finest: float) -> Tensor:
    """Ring sums (…, rings) of one movie, summed over the shells up to ``finest`` Å: (…, shells)."""
    frequency = fourier.ring_frequencies(band.small) / band.band_pixel_size
    edges = torch.linspace(1.0 / _COARSEST, 1.0 / finest, _SHELLS + 1, dtype=torch.float64)
    inside = (frequency[None] >= edges[:-1, None]) & (frequency[None] < edges[1:, None])
    return estimates @ inside.to(estimates).T


def shell_figures(sums: Sequence[Tensor], finest: float) -> list[ShellFigures]:
    """Figures from the shell sums of some movies, each (2, 7, shells): the Wiener filter's, then the network's."""
    wiener, net = (estimators.ratios(part) for part in torch.stack(list(sums)).sum(0).cpu())
    edges = torch.linspace(1.0 / _COARSEST, 1.0 / finest, _SHELLS + 1, dtype=torch.float64)
    transferred = net.gamma**2 * net.signal
    return [
        ShellFigures(
            resolution=(round(1.0 / float(low), 2), round(1.0 / float(high), 2)),
            gamma=_rounded(net.gamma[n]),
            bias_ratio=_rounded(net.bias[n] / transferred[n]),
            snbr=_rounded(net.snbr[n]),
            snbr_wiener=_rounded(wiener.snbr[n]),
        )
        for n, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
    ]


def _rounded(value: Tensor) -> float | None:
    number = estimators.finite(value)
    return None if number is None else round(number, 5)
