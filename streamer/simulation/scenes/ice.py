"""The ice itself: how thick it is from place to place, its grain, and how the grain changes under the beam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import fourier
from streamer.simulation.scenes.imaging import weak_transfer
from streamer.simulation.specimen import ice_amplitude

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from streamer.ctf.transfer import Optics
    from streamer.simulation.movie import Microscope
    from streamer.simulation.scenes.canvas import Canvas
    from streamer.simulation.scenes.recipe import Recipe


def thickness(recipe: Recipe, canvas: Canvas, seed: int) -> NDArray[np.float32] | None:
    """Counts over their mean (2H, 2W) by waves and gradient of the thickness; None where it is even.

    The waves are 300 to 2500 Å long, as far as they fit on the field; mean 1 within the frame.
    """
    if recipe.waves == 0.0 and recipe.gradient == 0.0:
        return None
    rng = np.random.default_rng([seed, 51])
    surface = recipe.waves * canvas.smooth_noise(rng, 300.0, min(2500.0, 2.0 * max(canvas.extent)))
    angle = rng.uniform(0.0, 2.0 * math.pi)
    y, x = canvas.axes()
    height, width = canvas.extent
    ends = abs(height * math.sin(angle)) + abs(width * math.cos(angle))
    surface = surface + recipe.gradient * (y * math.sin(angle) + x * math.cos(angle)) / ends
    result: NDArray[np.float32] = (1.0 + surface).clip(0.05).astype(np.float32)
    return result


def grain(scope: Microscope, canvas: Canvas, optics: Optics, seed: int) -> Tensor:
    """Contrast (2H, 2W) of ice that stands; its standard deviation over the mean is the microscope's setting."""
    if scope.ice_contrast == 0.0:
        return torch.zeros(canvas.fine)
    noise = np.random.default_rng([seed, 52]).standard_normal(canvas.fine, dtype=np.float32)
    spectrum = torch.fft.rfft2(torch.from_numpy(noise)) * _shape(canvas.fine, canvas.step, scope, optics)
    spectrum[0, 0] = 0.0
    image = fourier.to_image(spectrum, canvas.fine)
    return image * (scope.ice_contrast / image.std())


def boiling(scope: Microscope, canvas: Canvas, optics: Optics, mobility: float, seed: int) -> Iterator[Tensor]:
    """Spectrum (H, W//2+1) of the contrast of ice whose molecules wander, frame after frame, on the camera's pixels.

    A wave of frequency k keeps exp(−2π² k² · mobility · dose) of itself from frame to frame and the rest is new;
    mobility in Å² per e⁻/Å² along each axis.
    Source: diffusion under the beam, McMullan et al. 2015 (1 Å per 1 e⁻/Å²).
    """
    rng = np.random.default_rng([seed, 53])
    shape, pixel = canvas.padded, scope.pixel_size
    transfer = _shape(shape, pixel, scope, optics)
    frequency = fourier.radius(shape) / pixel
    kept = torch.exp(-2.0 * math.pi**2 * frequency**2 * mobility * scope.dose_per_frame)
    fresh = torch.sqrt(1.0 - kept**2)
    scale, state = 0.0, torch.zeros(frequency.shape, dtype=torch.complex64)
    for number in range(scope.n_frames):
        noise = torch.fft.rfft2(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)))
        state = noise if number == 0 else state * kept + noise * fresh
        spectrum = state * transfer
        spectrum[0, 0] = 0.0
        scale = scale or scope.ice_contrast / max(float(fourier.to_image(spectrum, shape).std()), 1e-12)
        yield spectrum * scale


def _shape(shape: fourier.Shape, step: float, scope: Microscope, optics: Optics) -> Tensor:
    amplitude = ice_amplitude((fourier.radius(shape) / step).numpy())
    return torch.from_numpy(amplitude) * weak_transfer(shape, step, scope, optics)
