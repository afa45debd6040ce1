"""What answers to a particle: a dark blob of its size, and detail that the ice around it lacks.

Both are computed on a coarse grid of about twenty pixels per particle, free of what is wider than a particle. The blob
is coherent and finds particles of any strength; the detail is the local power between 80 and 20 Å, which neither waves
of thickness nor a gradient contain, and which a particle has in every orientation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamer import fourier

_GRID_PER_DIAMETER = 20.0
_BLOB = 0.8
"""Size of the blob in particle diameters: the sphere that holds all atoms is wider than what is dark."""
_DETAIL_ANGSTROM = (80.0, 20.0)
_DETAIL_REACH = 0.21
"""Standard deviation of the window in which detail is counted, in diameters; three times as much is taken off."""
_LARGEST = 5.0
"""Pixels further than this many standard deviations from their surroundings are not protein."""
_LEAST_OPEN = 0.99
"""Share of a coarse pixel that must be open for it to count."""
_RIM = 0.3
"""Diameters around what is not specimen that are left out with it: its rim and fringes look like particles."""
_WHITE = 2.5
"""Noise counts as white while halving the grid changes its power by less than this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """A micrograph on the coarse grid, dark positive, without what is wider than a particle."""

    image: Tensor
    """(h, w) float32."""
    open: Tensor
    """(h, w) bool: True where a particle may be looked for."""
    step: int
    """px of the micrograph per coarse px."""
    diameter: float
    """Coarse px."""
    pixel_size: float
    """Å per coarse px."""
    noise: float | None
    """Variance of a coarse pixel by noise alone; None where the noise is not white, as in a restored image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What answers, (h, w) float32 each, in any unit."""

    blob: Tensor
    detail: Tensor


def coarse(image: Tensor, pixel_size: float, diameter: float, usable: Tensor | None = None) -> Coarse:
    """Bring a micrograph onto the coarse grid.

    Parameters
    ----------
    image : (h, w) micrograph, protein darker than ice.
    pixel_size, diameter : Å/px and Å.
    usable : (h, w) bool, False where the field shows no specimen; None: it does everywhere.
    """
    step = max(1, round(diameter / (_GRID_PER_DIAMETER * pixel_size)))
    binned = _binned(image.to(torch.float32), step)
    opened = torch.ones_like(binned, dtype=torch.bool)
    if usable is not None:
        opened = _binned(usable.to(torch.float32), step) >= _LEAST_OPEN
    width = diameter / pixel_size / step
    if usable is not None and not bool(opened.all()):
        reach = max(1, round(_RIM * width))
        shut = torch.nn.functional.max_pool2d((~opened).to(torch.float32)[None, None], 2 * reach + 1, 1, reach)[0, 0]
        opened = shut == 0
    weight = opened.to(torch.float32)
    share = _blurred(weight, width).clamp_min(1e-3)
    filled, kept, limit = binned, torch.zeros_like(binned), binned.new_zeros(())
    for _ in range(2):
        background = _blurred(filled * weight, width) / share
        kept = (filled - background) * weight
        inside = kept[opened].abs()
        limit = _LARGEST * 1.4826 * (inside.median() if len(inside) else kept.new_zeros(()))
        kept = torch.minimum(torch.maximum(kept, -limit), limit)
        filled = torch.where(opened, background + kept, filled)
    return Coarse(
        image=-kept,
        open=opened,
        step=step,
        diameter=width,
        pixel_size=pixel_size * step,
        noise=_white_noise(image, step),
    )


def answer(view: Coarse) -> Response:
    """Blob and detail of a coarse micrograph; edges are mirrored."""
    margin = min(math.ceil(view.diameter), *(size - 1 for size in view.image.shape))
    padded = torch.nn.functional.pad(view.image[None, None], (margin,) * 4, mode="reflect")[0, 0]
    found = _filtered(padded, view.diameter, view.pixel_size)
    inner = slice(margin, -margin)
    return Response(blob=found.blob[inner, inner], detail=found.detail[inner, inner])


def answer_to_noise(view: Coarse, noise: float, side: int = 448) -> Response:
    """What white noise of this variance gives, (side, side); the same at every call."""
    generator = torch.Generator().manual_seed(27)
    image = torch.randn((side, side), generator=generator).to(view.image.device) * math.sqrt(noise)
    image = image - _blurred(image, view.diameter)
    return _filtered(image, view.diameter, view.pixel_size)


def _filtered(image: Tensor, diameter: float, pixel_size: float) -> Response:
    """Both responses of an image that is taken as periodic.

    Source of the blob: the Laplacian of Gaussian (Lindeberg 1998) taken twice, which falls as k⁴ towards the
    background; a disc of radius r answers most at σ = r for it.
    """
    shape = (int(image.shape[0]), int(image.shape[1]))
    radius = fourier.radius(shape, image.device)
    spectrum = torch.fft.rfft2(image)
    sigma = _BLOB * diameter / 2.0
    blob = spectrum * (sigma * radius) ** 4 * torch.exp(-2.0 * (math.pi * sigma * radius) ** 2)
    low, high = _detail_band(diameter, pixel_size)
    band = 1.0 / (1.0 + (low / radius.clamp_min(1e-6)) ** 8) / (1.0 + (radius / high) ** 8)
    power = fourier.to_image(spectrum * band, shape) ** 2
    # what stands out by far is one crystal or speck, not the detail of many particles
    power = torch.minimum(power, torch.quantile(power.flatten()[::7], 0.99))
    near = torch.exp(-2.0 * (math.pi * _DETAIL_REACH * diameter * radius) ** 2)
    wide = torch.exp(-2.0 * (math.pi * 3.0 * _DETAIL_REACH * diameter * radius) ** 2)
    detail = torch.fft.rfft2(power) * (near - wide)
    return Response(blob=fourier.to_image(blob, shape), detail=fourier.to_image(detail, shape))


def _detail_band(diameter: float, pixel_size: float) -> tuple[float, float]:
    """Frequencies of the detail in cycles per coarse px, below what the grid can hold."""
    coarse_end = min(_DETAIL_ANGSTROM[0], 0.6 * diameter * pixel_size)
    low, high = pixel_size / coarse_end, min(0.45, pixel_size / _DETAIL_ANGSTROM[1])
    return min(low, 0.6 * high), high


def _binned(image: Tensor, step: int) -> Tensor:
    height, width = (size // step for size in image.shape)
    return image[: height * step, : width * step].reshape(height, step, width, step).mean((1, 3))


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of an (h, w) image in which nothing lies beyond the edges."""
    reach = math.ceil(3.0 * sigma)
    place = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-(place**2) / (2.0 * sigma**2))
    kernel = kernel / kernel.sum()
    rows = torch.nn.functional.conv2d(image[None, None], kernel[None, None, :, None], padding=(reach, 0))
    return torch.nn.functional.conv2d(rows, kernel[None, None, None, :], padding=(0, reach))[0, 0]


def _white_noise(image: Tensor, step: int) -> float | None:
    """Variance of a pixel on the coarse grid by noise, from differences of neighbours; None where it is not white."""
    fine, halved = (_pixel_variance(_binned(image.to(torch.float32), n)) for n in (1, 2))
    if not 0.0 < fine < math.inf or not 1.0 / _WHITE < 4.0 * halved / fine < _WHITE:
        return None
    return fine / step**2


def _pixel_variance(image: Tensor) -> float:
    """Variance of white noise, from the median square of the mixed second difference, which has four times as much."""
    if min(image.shape) < 2:
        return 0.0
    mixed = image[1:, 1:] - image[1:, :-1] - image[:-1, 1:] + image[:-1, :-1]
    return float(mixed.flatten()[::5].square().median()) / (4.0 * 0.4549)
