"""A gain reference made from the movies themselves, where none was recorded.

The specimen is another one in every movie and the detector's pattern is the same: what the sums of unaligned frames
have in common is the pattern. Each sum is divided by its own smooth background, and two averages are kept, over every
other movie. What the two share is pattern, what they do not is noise: that gives the power S of the pattern and N of
the noise at each spatial frequency, those of rows and columns apart. The Wiener filter S/(S + N) of the average never
adds more than it removes, however few movies there are, and S·N/(S + N) is what stays: the certainty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from streamer import fourier

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE_PX = 32
"""Coarser structure than this belongs to the beam and the specimen, and is left alone."""
_BINS, _LINE_BINS = 16, 4
"""Of the spatial frequency; and of that along rows and along columns, which have far fewer coefficients."""
_SURE = 5.0
"""Standard errors by which a bin's pattern must exceed 0 to be corrected."""
_DARK = 0.2
"""Share of the mean below which a part of the field is a grid bar or beyond the beam."""
_DEAD, _HOT = 0.25, 2.0
"""Share of the counts of its surroundings from which a pixel counts as a defect."""
_CERTAIN = 6.0
"""Standard deviations of the noise by which it must be so."""
_HARMLESS = 0.01
"""Power of what is left, over that of a movie's counting noise, which changes no figure noticeably: SSNR by 0.01."""
_MOST = 10**6


class NotUsable(ValueError):
    """A movie's sum says nothing about the detector's pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeGain:
    """A gain reference and how far it is to be trusted."""

    values: NDArray[np.float32]
    """(h, w) to multiply frames by, mean 1; 0 at pixels that never count or always do."""
    movies: int
    spread: float
    """Relative standard deviation of the pattern from pixel to pixel, without the noise of its estimate."""
    left: float
    """The same of what is expected to stay in frames of other movies that are multiplied by it."""
    certainty: float
    """Correlation expected between this average and another one of as many movies: 0 noise, 1 pattern."""
    movies_needed: int
    """Number of such movies from which nothing stays that would change a figure noticeably; 0: the pattern is too weak
    to matter."""

    @property
    def is_flat(self) -> bool:
        """Whether no pattern is there beyond doubt: frames would stay as they are."""
        return bool((self.values == self.values.flat[0]).all())


@dataclass(slots=True)
class PatternSums:
    """What movies have shown of the pattern so far: two averages, each over every other movie."""

    shape: tuple[int, int]
    sums: NDArray[np.float32] = field(init=False)
    """(2, h, w): sums of each movie's deviation from its background, weighted by its counts per pixel."""
    weights: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Counts per pixel, summed over movies."""
    movies: int = 0

    def __post_init__(self) -> None:
        self.sums = np.zeros((2, *self.shape), np.float32)

    def add(self, total: NDArray[np.float32]) -> None:
        """Add a movie.

        Parameters
        ----------
        total : (h, w) sum of its frames as stored, which no gain has corrected.

        Raises
        ------
        NotUsable
            It says nothing about the pattern; nothing is added.
        """
        deviation, counts = deviation_of(total, self.shape)
        which = self.movies % 2
        self.sums[which] += np.float32(counts) * deviation
        self.weights[which] += counts
        self.movies += 1

    def made(self) -> MadeGain | None:
        """The gain so far; None with fewer than two movies."""
        if self.movies < 2:
            return None
        first, second = (torch.from_numpy(s / np.float32(w)) for s, w in zip(self.sums, self.weights, strict=True))
        share = self.weights[0] / sum(self.weights)
        average = share * first + (1.0 - share) * second
        # sensitivity of each pixel, relative to its surroundings; the two averages differ by noise alone
        noise = _CERTAIN * float((first - second).std()) * (share * (1.0 - share)) ** 0.5
        defects = (average < -max(1.0 - _DEAD, noise)) | (average > max(_HOT - 1.0, noise))
        first, second = first.masked_fill(defects, 0.0), second.masked_fill(defects, 0.0)
        powers = _Powers.of(first, second, share, self.shape)
        spectrum = torch.fft.rfft2(share * first + (1.0 - share) * second) * powers.filter(1.0)
        sensitivity = 1.0 + fourier.to_image(spectrum, self.shape)
        values = (1.0 / sensitivity.clamp(min=_DEAD)).masked_fill(defects, 0.0)
        values = values / values[~defects].mean()
        return MadeGain(
            values=values.numpy().astype(np.float32),
            movies=self.movies,
            spread=powers.spread,
            left=powers.left(1.0) ** 0.5,
            certainty=powers.certainty,
            movies_needed=powers.needed(self.movies),
        )


def deviation_of(total: NDArray[np.float32], shape: tuple[int, int]) -> tuple[NDArray[np.float32], float]:
    """A sum's deviation from its own smooth background, (h, w) relative, and its counts per pixel.

    Raises
    ------
    NotUsable
        It has another size, has been corrected, is empty or partly dark.
    """
    if total.shape != shape:
        raise NotUsable(f"has {total.shape[0]} × {total.shape[1]} px, the others have {shape[0]} × {shape[1]}")
    counts = float(total.mean())
    if not counts > 0:
        raise NotUsable("is empty")
    if not (total == np.rint(total)).all():
        raise NotUsable("is gain corrected already: its values are no counts")
    background = _background(total)
    if float(background.min()) < _DARK * counts:
        raise NotUsable("is partly dark: a grid bar, or the edge of the beam")
    return total / background - np.float32(1.0), counts


def _background(total: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) without what is finer than ``SCALE_PX``: means of blocks, interpolated."""
    height, width = total.shape
    blocks = max(1, round(height / SCALE_PX)), max(1, round(width / SCALE_PX))
    image = torch.from_numpy(np.ascontiguousarray(total, dtype=np.float32))[None, None]
    coarse = torch.nn.functional.adaptive_avg_pool2d(image, blocks)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return np.asarray(smooth[0, 0].numpy(), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Powers:
    """Power of pattern and noise per bin of spatial frequency; 1 in all of them is a variance of 1 per px."""

    bins: Tensor
    """(h, w//2+1) int64."""
    modes: Tensor
    """(bins,) share of all coefficients."""
    pattern: Tensor
    """(bins,) what two halves share, as measured; scatters around 0 where there is nothing."""
    noise: Tensor
    """(bins,) of the average over all movies."""
    error: Tensor
    """(bins,) standard error of ``pattern`` where there is none."""

    @classmethod
    def of(cls, first: Tensor, second: Tensor, share: float, shape: tuple[int, int]) -> _Powers:
        """Measure in two independent averages (h, w), the first of which has this share of the weight."""
        one, other = torch.fft.rfft2(first), torch.fft.rfft2(second)
        bins = _bins(shape)
        weights = fourier.hermitian_weights(shape[1]).expand(bins.shape).double()
        number = _binned(weights, bins)
        size = shape[0] * shape[1]
        cross = (one * other.conj()).real.double() / size
        pattern = _binned(cross * weights, bins) / number.clamp(min=1.0)
        differ = _binned((one - other).abs().double().square() / size * weights, bins) / number.clamp(min=1.0)
        # the difference has N (1/a + 1/b), the weighted mean N / (a + b) = difference · a b / (a + b)²
        # a bin of few coefficients may show less noise than there is: the average is the floor
        noise = differ.clamp(min=float((differ * number).sum() / number.sum()))
        return cls(
            bins=bins,
            modes=number / size,
            pattern=pattern,
            noise=differ * share * (1.0 - share),
            # of the real part of a product of two noises, over half as many independent coefficients
            error=noise * (share * (1.0 - share) / number.clamp(min=1.0)).sqrt(),
        )

    @property
    def believed(self) -> Tensor:
        """(bins,) power of the pattern where it is there beyond doubt, else 0."""
        return torch.where(self.pattern > _SURE * self.error, self.pattern, 0.0)

    def filter(self, times: float) -> Tensor:
        """Wiener filter (h, w//2+1) of an average of ``times`` as many movies."""
        wiener = self.believed / (self.believed + self.noise / times).clamp(min=1e-30)
        return wiener[self.bins].float()

    def left(self, times: float) -> float:
        """Variance per pixel of what stays after correction with ``times`` as many movies."""
        noise, believed = self.noise / times, self.believed
        kept = believed * noise / (believed + noise).clamp(min=1e-30)
        doubted = torch.where(believed > 0, 0.0, self.pattern)
        return float((kept * self.modes).sum()) + max(0.0, float((doubted * self.modes).sum()))

    @property
    def spread(self) -> float:
        """Relative standard deviation of the pattern."""
        return float(max(0.0, float((self.pattern * self.modes).sum())) ** 0.5)

    @property
    def certainty(self) -> float:
        """Share of the average's variance that is pattern."""
        pattern, noise = (float((power * self.modes).sum()) for power in (self.pattern, self.noise))
        return max(0.0, pattern) / max(pattern + noise, 1e-30)

    def needed(self, movies: int) -> int:
        """Number of movies like these from which what is left changes nothing."""
        harmless = _HARMLESS * float((self.noise * self.modes).sum()) * movies
        if float((self.believed * self.modes).sum()) <= harmless:
            return 0
        low, high = 1, _MOST
        while low < high:
            middle = (low + high) // 2
            known = torch.where(self.believed > 0, self.believed * self.noise, 0.0)
            noise = self.noise * (movies / middle)
            kept = known / self.noise.clamp(min=1e-30) * noise / (self.believed + noise).clamp(min=1e-30)
            if float((kept * self.modes).sum()) <= harmless:
                high = middle
            else:
                low = middle + 1
        return low


def _bins(shape: tuple[int, int]) -> Tensor:
    """Bin of each coefficient, (h, w//2+1): by distance from the origin; those of rows and of columns apart."""
    rows, columns = fourier.fftfreq_axes(shape)
    radius = fourier.radius(shape)
    number = (radius * (_BINS * 2.0**0.5)).long().clamp(max=_BINS - 1)
    line = (radius * (_LINE_BINS * 2.0)).long().clamp(max=_LINE_BINS - 1)
    number = torch.where(columns == 0, line + _BINS, number)
    return torch.where(rows == 0, line + _BINS + _LINE_BINS, number)


def _binned(values: Tensor, bins: Tensor) -> Tensor:
    """Sums of (h, w//2+1) values over bins."""
    sums = torch.zeros(_BINS + 2 * _LINE_BINS, dtype=torch.float64)
    return sums.index_add_(0, bins.flatten(), values.flatten())
