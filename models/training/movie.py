"""A finished movie as a network learns from it: whitened frame-group sums, ready to be split.

Notation: r_A² = Σ_A w² of the frames in A; Σ_A w F has signal r_A² S and noise r_A² σ², so M_A = Σ_A/r_A has unit
noise after whitening, and Σ_B · r_A/r_B² has the same signal as M_A.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.settings import is_same_pixel_size
from streamer import dose, fourier
from streamer.band import MULTIPLE, Band, band_of
from streamer.ctf.transfer import ctf_2d
from streamer.quality import estimators
from streamer.records import GroupSums, HalfSums
from streamer.sums.group_files import find_groups, read_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from models.manifest import Manifest
    from streamer.ctf.transfer import Optics

_LEAST_SSNR = 1.0 / 30.0
_LEAST_GROUPS = 4
_COARSEST = 20.0
"""Å; particles are recognised by coarser detail, which is always learned."""


class TrainingMovie:
    """A movie's group sums, ready to be split."""

    def __init__(
        self,
        movie_id: str,
        sums: GroupSums,
        low: float,
        device: torch.device | str = "cpu",
        *,
        resolution: float | None = None,
        optics: Optics | None = None,
    ) -> None:
        """Whiten and measure once.

        Parameters
        ----------
        low : coarse end of the band, Å.
        resolution : fine end of the band, Å; None, or finer than that of the sums: theirs.
        optics : phases are flipped by the sign of this CTF; None: phases are left alone.
        """
        self.movie_id = movie_id
        self._optics = optics
        self.voltage_kv = sums.voltage_kv
        self.exposures = [torch.tensor(e, dtype=torch.float64) for e in sums.exposures]
        small = (int(sums.groups.shape[1]), int(sums.groups.shape[2]))
        self.band = Band(shape=sums.shape, small=small, pixel_size=sums.pixel_size, low=low)
        self._made: Band | None = None
        self.spectra = torch.fft.rfft2(sums.groups.to(device=device, dtype=torch.float32))
        if optics is not None:
            self.spectra = self.spectra * signs_of(self.band, optics, device)
        self._measure()
        if resolution is not None:
            self.crop(resolution)

    def crop(self, resolution: float) -> None:
        """Drop detail finer than ``resolution`` Å, if the band has any."""
        if 2.0 * self.band.band_pixel_size < resolution:
            kept = band_of(self.band.shape, self.band.pixel_size, resolution, self.band.low)
            self.spectra, self.band = fourier.resize(self.spectra, self.band.small, kept.small), kept
            if self._made is not None:
                self._made = band_of(self._made.shape, self._made.pixel_size, resolution, self._made.low)
            self._measure()

    def keep_part(self, most_px: int) -> None:
        """Keep only the middle of a larger field, as a micrograph of its own: bounds memory for any detector."""
        height, width = self.band.small
        if height * width <= most_px:
            return
        share = math.sqrt(most_px / (height * width))
        rows, columns = (max(MULTIPLE, int(size * share) // MULTIPLE * MULTIPLE) for size in (height, width))
        top, left = (height - rows) // 2, (width - columns) // 2
        images = fourier.to_image(self.spectra, (height, width))
        self.spectra = torch.fft.rfft2(images[:, top : top + rows, left : left + columns].contiguous())
        self._made = self._made or self.band
        whole = (round(self.band.shape[0] * rows / height), round(self.band.shape[1] * columns / width))
        self.band = Band(shape=whole, small=(rows, columns), pixel_size=self.band.pixel_size, low=self.band.low)
        self._measure()

    def _measure(self) -> None:
        """Curves and whitening from the groups as they are now."""
        small, device = self.band.small, self.spectra.device
        self.window = self.band.window(device)
        rings = fourier.ring_frequencies(small, device).float()
        rate = dose.decay_rate(rings, self.band.band_pixel_size, self.voltage_kv)
        groups = [dose.sum_of_squares(exposures, rate) for exposures in self.exposures]
        self.squares = torch.stack(groups).to(torch.float64)
        """(n, rings) Σw² of each group."""
        total = self.squares.sum(0)
        whole = self.spectra.sum(0)
        even = self.spectra[0::2].sum(0)
        norm = fourier.from_rings(total.sqrt(), small, device)
        halves = HalfSums(
            even=even / norm,
            odd=(whole - even) / norm,
            even_share=self.squares[0::2].sum(0) / total,
            shape=small,
            pixel_size=self.band.band_pixel_size,
        )
        self.spectrum = estimators.measure(halves)
        self.whitening = fourier.from_rings(1.0 / self.spectrum.noise.clamp(min=1e-12).sqrt(), small, device)
        self._total = total

    def __len__(self) -> int:
        return int(self.spectra.shape[0])

    def part(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whitened micrograph of some groups.

        Parameters
        ----------
        chosen : (n,) bool.

        Returns
        -------
        M (h', w'//2+1) spectrum with unit noise, W its Wiener filter as a half-plane, r² (rings,) its Σw².
        """
        squares = self.squares[chosen].sum(0)
        root = fourier.from_rings(squares.sqrt(), self.band.small, self.spectra.device)
        micrograph = self.spectra[chosen].sum(0) * (self.whitening / root)
        return micrograph, self.wiener(squares), squares

    def wiener(self, squares: Tensor) -> Tensor:
        """Wiener filter at the exposure of a part, (h', w'//2+1): the SSNR scales with Σw²."""
        ssnr = self.spectrum.ssnr_full * (squares / self._total)
        return fourier.from_rings(ssnr / (1.0 + ssnr), self.band.small, self.spectra.device)

    @property
    def can_teach(self) -> bool:
        """Whether it has signal, and enough groups to be split."""
        return self.spectrum.significant and len(self) >= _LEAST_GROUPS

    @property
    def made_for(self) -> Band:
        """Band of the whole field, even if only a part of it is kept."""
        return self._made or self.band

    @property
    def is_flipped(self) -> bool:
        """Whether phases are flipped by the CTF's sign."""
        return self._optics is not None

    def plain(self, chosen: Tensor) -> Tensor:
        """Whitened image (h', w') of a part, phases as the detector saw them."""
        micrograph, _, _ = self.part(chosen)
        if self._optics is not None:
            micrograph = micrograph * signs_of(self.band, self._optics, micrograph.device)
        return fourier.to_image(micrograph * self.window, self.band.small)

    def inputs(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images M and W·M of a part, each (h', w') and band-passed, and its Σw²."""
        micrograph, wiener, squares = self.part(chosen)
        both = torch.stack([micrograph, micrograph * wiener]) * self.window
        images = fourier.to_image(both, self.band.small)
        return images[0], images[1], squares

    def target(self, others: Tensor, squares: Tensor) -> Tensor:
        """Image (h', w') of other groups on the scale of a part with the given Σw²."""
        theirs = self.squares[others].sum(0)
        scale = fourier.from_rings(squares.sqrt() / theirs, self.band.small, self.spectra.device)
        spectrum = self.spectra[others].sum(0) * (self.whitening * scale * self.window)
        return fourier.to_image(spectrum, self.band.small)


def signs_of(band: Band, optics: Optics, device: torch.device | str = "cpu") -> Tensor:
    """(h', w'//2+1) float32 −1 where the CTF is negative, with its phase shift, else 1."""
    return torch.where(ctf_2d(band.small, band.band_pixel_size, optics, device) < 0.0, -1.0, 1.0)


def useful_resolution(movies: Sequence[TrainingMovie]) -> float:
    """Fine end in Å of the band worth learning in: 10 % beyond where the movies' mean SSNR falls below 1/30.

    Further out a network finds nothing, while every step costs more, and the noise there hides what it could learn:
    with 15 s of training, a band to 4 Å gained less than one to 8 Å on each of three specimens.
    """
    band = movies[0].band
    curve = torch.stack([movie.spectrum.ssnr_full for movie in movies]).mean(0).cpu()
    width = max(1, round(0.03 * len(curve)))
    pooled = estimators.smooth(curve, width) / estimators.smooth(torch.ones_like(curve), width)
    rings = fourier.ring_frequencies(band.small) / band.band_pixel_size
    useful = rings[(pooled >= _LEAST_SSNR) & (rings > 1.0 / band.low)]
    last = float(useful.max()) if len(useful) else 0.0
    finest = 2.0 * band.band_pixel_size
    if last <= 0.0:
        return max(finest, _COARSEST)
    return max(finest, min(_COARSEST, math.floor(10.0 / (1.1 * last)) / 10.0))


def movies_below(
    places: Iterable[Path],
    low: float,
    *,
    resolution: float | None = None,
    device: torch.device | str = "cpu",
    optics: Callable[[Path], Optics] | None = None,
) -> list[TrainingMovie]:
    """Movies to learn from in or below some directories, each once, in the order of their ids.

    Parameters
    ----------
    low, resolution, device : see ``TrainingMovie``.
    optics : returns a movie's optics for the path of its group sums; None: phases are left alone.
    """
    found: dict[str, TrainingMovie] = {}
    for path in find_groups(places):
        movie_id, sums = read_groups(path)
        made = None if optics is None else optics(path)
        movie = TrainingMovie(movie_id, sums, low, device, resolution=resolution, optics=made)
        if movie.can_teach:
            found[movie_id] = movie
    return [found[movie_id] for movie_id in sorted(found)]


def fits(movie: TrainingMovie, manifest: Manifest) -> bool:
    """Whether a movie can judge a version: it needs the same band and pixel size; base weights take any pixel size."""
    pixel_size = movie.band.pixel_size if manifest.general else manifest.pixel_size
    return is_made_for(movie.made_for, manifest.resolution, pixel_size)


def is_made_for(band: Band, resolution: float, pixel_size: float) -> bool:
    """Whether a movie's band is the one of ``band_of`` for ``resolution`` Å, at about this pixel size, Å/px."""
    made = band_of(band.shape, band.pixel_size, resolution, band.low)
    return made.small == band.small and is_same_pixel_size(band.pixel_size, pixel_size)


def common_resolution(bands: Sequence[Band], preferred: float) -> float | None:
    """Fine end in Å that yields all of these bands, ``preferred`` if it does; None if there is no such one.

    Sizes are rounded so that the net can halve them, so many resolutions yield the same band; the roundest is taken.
    """
    pixel_size = bands[0].pixel_size
    finest, coarsest = 0.0, math.inf
    for band in bands:
        for whole, small in zip(band.shape, band.small, strict=True):
            if small < whole // MULTIPLE * MULTIPLE:
                finest = max(finest, 2.0 * band.pixel_size * whole / (small + MULTIPLE / 2))
            if small > MULTIPLE:
                coarsest = min(coarsest, 2.0 * band.pixel_size * whole / (small - MULTIPLE / 2))
    # no limit on the fine side: the bands reach Nyquist
    middle = 0.5 * (finest + min(coarsest, 2.0 * finest)) or 2.0 * pixel_size
    for resolution in (preferred, *(round(middle, digits) for digits in range(4)), middle):
        if resolution > 0.0 and all(is_made_for(band, resolution, pixel_size) for band in bands):
            return resolution
    return None
