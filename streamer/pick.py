"""Particles by a Laplacian of Gaussian: blobs of a given diameter, darker than their surroundings.

Works on any micrograph. The threshold comes from the micrograph itself: the heights of all peaks fall into two classes,
chance and particles, and the level that separates them best is used. A micrograph without any particle has only
one class; the caller should not pick where the halves showed no signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamer import fourier

_SPACING = 0.8
"""Minimum distance of two picks, in diameters; the better one stays."""
_EDGE = 0.4
"""Picks nearer to the edge than this share of the diameter are truncated particles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """Positions in px of the micrograph as written, best first."""

    x: list[float]
    y: list[float]
    score: list[float]
    """Height of the peak divided by the level that separates particles from chance; at least the threshold."""


def pick(image: Tensor, pixel_size: float, diameter: float, *, threshold: float = 1.0) -> Picks:
    """Find dark blobs.

    Parameters
    ----------
    image : (h, w) micrograph, protein darker than ice.
    pixel_size : Å/px.
    diameter : of the particle, Å.
    threshold : in units of the separating level; larger is stricter.

    Source: scale-normalised Laplacian of Gaussian (Lindeberg 1998), to which a disc of radius r answers most at
    σ = r/√2; level by Otsu 1979.
    """
    height, width = image.shape
    if not 0.0 < diameter < 0.5 * pixel_size * min(height, width):
        raise ValueError(f"a diameter of {diameter:g} Å does not fit into {height} × {width} px of {pixel_size:g} Å")
    sigma = diameter / (2.0 * math.sqrt(2.0) * pixel_size)
    # the filter passes next to nothing beyond 1/σ cycles/px
    small = (_coarse(height, sigma), _coarse(width, sigma))
    square = (2.0 * math.pi * fourier.radius((height, width), image.device)) ** 2
    # −∇² is a positive factor in Fourier space: the sign makes dark blobs into peaks
    spectrum = torch.fft.rfft2(image - image.mean()) * (-(sigma**2) * square * torch.exp(-(sigma**2) * square / 2.0))
    response = fourier.to_image(fourier.resize(spectrum, (height, width), small), small)
    step = torch.tensor([height / small[0], width / small[1]], dtype=torch.float64, device=image.device)
    reach = max(1, round(0.25 * diameter / pixel_size / float(step.max())))
    highest = torch.nn.functional.max_pool2d(response[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    peaks = torch.nonzero((response == highest) & (response > response.median()))
    heights = response[peaks[:, 0], peaks[:, 1]] - response.median()
    scores = heights / max(separating_level(heights), 1e-30)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= threshold]
    return _keep_apart(peaks[order] * step, scores[order], (height, width), diameter / pixel_size)


def separating_level(heights: Tensor) -> float:
    """Level between two classes of values that leaves the least variance within them (Otsu 1979)."""
    values = torch.sort(heights.double()).values
    if len(values) < 2:
        return 0.0
    number = torch.arange(1, len(values), dtype=torch.float64, device=values.device)
    below = torch.cumsum(values, 0)[:-1]
    mean_below, mean_above = below / number, (values.sum() - below) / (len(values) - number)
    between = number * (len(values) - number) * (mean_above - mean_below) ** 2
    best = int(between.argmax())
    return float((values[best] + values[best + 1]) / 2.0)


def _coarse(size: int, sigma: float) -> int:
    return min(size, max(32, 2 * math.ceil(size / sigma)))


def _keep_apart(positions: Tensor, scores: Tensor, shape: tuple[int, int], diameter: float) -> Picks:
    """Drop picks that are cut by the edge or too close to a better one; positions (n, 2) y, x in px."""
    kept: list[tuple[float, float, float]] = []
    edge = _EDGE * diameter
    for (y, x), score in zip(positions.tolist(), scores.tolist(), strict=True):
        inside = edge <= y < shape[0] - edge and edge <= x < shape[1] - edge
        if inside and all(math.hypot(y - v, x - u) >= _SPACING * diameter for v, u, _ in kept):
            kept.append((y, x, score))
    return Picks(x=[x for _, x, _ in kept], y=[y for y, _, _ in kept], score=[s for _, _, s in kept])
