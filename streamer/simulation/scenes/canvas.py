"""Where things lie: the camera's pixels, the wider grid of half pixels that is drawn on, and Å from the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamer import fourier

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COARSE = 8
"""Fine pixels to one of the grid on which what is smooth is drawn."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A camera's frame inside a grid that is wider by what may drift into it."""

    shape: tuple[int, int]
    """(h, w) of a frame, px."""
    pixel_size: float
    """Å/px."""
    reach: float
    """Largest displacement, px."""

    @property
    def padded(self) -> tuple[int, int]:
        """(H, W) of the wider grid in px of the camera."""
        height, width = (-(-math.ceil(size + 2 * self.reach) // 32) * 32 for size in self.shape)
        return height, width

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the frame's first pixel in the wider grid."""
        return (self.padded[0] - self.shape[0]) // 2, (self.padded[1] - self.shape[1]) // 2

    @property
    def fine(self) -> tuple[int, int]:
        """(2H, 2W) of the grid of half pixels."""
        return 2 * self.padded[0], 2 * self.padded[1]

    @property
    def step(self) -> float:
        """Half a pixel, Å."""
        return self.pixel_size / 2.0

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width of the frame, Å."""
        return self.shape[0] * self.pixel_size, self.shape[1] * self.pixel_size

    def axes(self, every: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Positions y (n, 1) and x (1, m) of every n-th fine pixel, Å from the frame's middle."""
        axes = []
        for size, first, wide in zip(self.shape, self.origin, self.fine, strict=True):
            place = (np.arange(0, wide, every) + (every - 1) / 2.0) / 2.0 - 0.25 - first - (size - 1) / 2.0
            axes.append((place * self.pixel_size).astype(np.float32))
        return axes[0][:, None], axes[1][None, :]

    def smooth_noise(self, rng: np.random.Generator, shortest: float, longest: float) -> NDArray[np.float32]:
        """(2H, 2W) random surface with wavelengths in a range in Å, mean 0 and standard deviation 1 in the frame."""
        every = max(1, min(_COARSE, int(shortest / (4.0 * self.step))))
        shape = tuple(-(-size // every) for size in self.fine)
        rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
        frequency = np.hypot(rows, columns) / (every * self.step)
        # waves longer than the grid do not fit on it
        longest = min(longest, max(shape) * every * self.step)
        band = (frequency <= 1.0 / min(shortest, 0.7 * longest)) & (frequency >= 0.999 / longest)
        surface = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * band, s=shape)
        return self.normalised(self.enlarged(surface, every))

    def normalised(self, surface: NDArray[np.floating]) -> NDArray[np.float32]:
        """Mean 0 and standard deviation 1 within the frame."""
        seen = self.in_frame(surface)
        result: NDArray[np.float32] = ((surface - seen.mean()) / max(float(seen.std()), 1e-12)).astype(np.float32)
        return result

    def enlarged(self, surface: NDArray[np.floating], every: int) -> NDArray[np.float32]:
        """(2H, 2W) from a value for every n-th fine pixel, linearly between them."""
        if every == 1:
            return surface.astype(np.float32)
        size = (surface.shape[0] * every, surface.shape[1] * every)
        small = torch.from_numpy(np.ascontiguousarray(surface, dtype=np.float32))[None, None]
        wide = torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)[0, 0].numpy()
        enlarged: NDArray[np.float32] = wide[: self.fine[0], : self.fine[1]]
        return enlarged

    def grain(self, rng: np.random.Generator, width: float) -> NDArray[np.float32]:
        """(2H, 2W) noise of standard deviation 1, blurred by a Gaussian of this standard deviation in Å."""
        noise = torch.fft.rfft2(torch.from_numpy(rng.standard_normal(self.fine, dtype=np.float32)))
        noise *= torch.exp(-2.0 * (math.pi * width / self.step * fourier.radius(self.fine)) ** 2)
        blurred = fourier.to_image(noise, self.fine).numpy()
        grain: NDArray[np.float32] = blurred / blurred.std()
        return grain

    def closed(self, values: NDArray[np.float32], pixels: int) -> NDArray[np.float32]:
        """Fine grid (2H, 2W) whose first and last pixels of the camera pass over into each other: it has no edge."""
        closed = values.copy()
        ramp = np.arange(1, pixels + 1, dtype=np.float32)[:, None] / pixels
        for view in (closed, closed.T):
            step = (view[0] - view[-1]) / 2.0
            view[-pixels:] += ramp * step
            view[:pixels] -= ramp[::-1] * step
        return closed

    def in_frame(self, values: NDArray[Any]) -> NDArray[Any]:
        """(2h, 2w) part of a fine grid (2H, 2W) that the first frame shows."""
        (top, left), (height, width) = self.origin, self.shape
        return values[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]

    def mask(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(h, w) pixels of the frame of which at least half is covered, from a fine grid (2H, 2W)."""
        height, width = self.shape
        share: NDArray[np.bool_] = (
            self.in_frame(values).reshape(height, 2, width, 2).mean((1, 3), dtype=np.float32) >= 0.5
        )
        return share
