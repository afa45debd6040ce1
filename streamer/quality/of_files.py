"""Halves of any program, and a denoiser's outputs for them: the command ``quality``.

One pair of files, or two directories of them, matched by name. Figures are pooled over all micrographs
before any ratio is taken, with intervals over micrographs (over tiles where there is one), and with the checks of
``streamer.quality.checks``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import torch
from msgspec import Struct
from torch import Tensor

from streamer import fourier
from streamer.ctf.table import optics_of, read_optics
from streamer.ctf.transfer import ctf_2d
from streamer.errors import UsageError
from streamer.quality import estimators, intervals
from streamer.quality.checks import LEAST_COEFFICIENTS, Check, ctf_zeros, fine_end, leak, other_micrograph
from streamer.quality.half_files import HalfFiles, check_pair, geometry, half_files, may_be_raised
from streamer.quality.images import same_size

if TYPE_CHECKING:
    from pathlib import Path

_FIGURES = ("gamma", "bias", "bias_total", "noise", "snbr", "snr_denoised", "sbr")
"""Of a denoiser; ``snr`` is the halves' own."""
_ICE = 40.0
"""Å; anything coarser is ice and illumination, at the CTF's zeros too."""
_FEW = 2
"""Number of micrographs from which intervals are over micrographs."""
_NOTHING = 1e-10
"""Power of a coefficient over the mean power, below which it is rounding."""


class QualityResult(Struct, frozen=True, kw_only=True):
    """What ``quality --json`` prints."""

    shells: list[dict[str, float | None]]
    pooled: dict[str, float | None]
    intervals: dict[str, list[float | None]] = {}
    """Figure of ``pooled`` → lower and upper end, 95 %."""
    intervals_over: str = ""
    """``micrographs``, or ``tiles`` of the only one."""
    micrographs: int = 1
    checks: list[dict[str, bool | float | str | None]] = []
    """Name, ok, value, limit, meaning."""
    pattern_may_raise: int | None = None
    """Number of micrographs whose figures the detector's pattern may have raised, by the records beside their halves;
    None: no half has a record beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shells:
    """Shells that all micrographs share."""

    width: float
    """1/Å."""
    count: int

    @property
    def frequency(self) -> Tensor:
        """(shells,) 1/Å."""
        return torch.arange(self.count, dtype=torch.float64) * self.width

    def gather(self, rings: Tensor, shape: fourier.Shape, pixel_size: float) -> Tensor:
        """Add rings (…, rings) of one micrograph to shells (…, shells)."""
        frequency = fourier.ring_frequencies(shape) / pixel_size
        index = torch.round(frequency / self.width).to(torch.int64)
        kept = index < self.count
        sums = torch.zeros((*rings.shape[:-1], self.count), dtype=torch.float64)
        return sums.index_add_(-1, index[kept], rings[..., kept].double())


def quality_of(
    even: Path,
    odd: Path,
    denoised_even: Path | None,
    denoised_odd: Path | None,
    band: tuple[float, float],
    pixel_size: float | None = None,
    ctf: Path | None = None,
) -> QualityResult:
    """Figures of pairs of halves, and of a denoiser's outputs for them.

    Parameters
    ----------
    even, odd, denoised_even, denoised_odd : MRC images, or directories of them.
    band : coarse and fine end in Å.
    pixel_size : Å/px; None: as the headers say.
    ctf : STAR file with the defocus of the micrographs, for the check at the CTF's zeros.
    """
    sets = half_files(even, odd, denoised_even, denoised_odd)
    sizes = [geometry(one.even, pixel_size) for one in sets]
    width = max(1.0 / (min(shape) * pixel) for shape, pixel in sizes)
    finest = min(0.5 / pixel for _, pixel in sizes)
    shells = _Shells(width=width, count=int(finest / width + 1e-6) + 1)
    low, high = band[0], max(band[1], 1.0 / finest)
    mask = (shells.frequency >= 1.0 / low) & (shells.frequency <= 1.0 / high + 1e-12) & (shells.frequency > 0)
    if not bool(mask.any()):
        raise UsageError(
            "the band contains no ring",
            where="--band",
            expected="low > high, both in Å",
            found=f"{band[0]:g} and {band[1]:g} Å",
            hint="give the coarse end first, as in --band 100 6; it has to be coarser than twice the pixel size",
        )
    judged = _Judged(shells, ctf, (low, high))
    for one, (_, pixel) in zip(sets, sizes, strict=True):
        judged.add(one, pixel)
    found = judged.result(mask, (low, high))
    return msgspec.structs.replace(found, pattern_may_raise=may_be_raised(sets))


class _Judged:
    """Sums over micrographs as they are read, one after the other."""

    def __init__(self, shells: _Shells, ctf: Path | None, band: tuple[float, float]) -> None:
        self._shells, self._ctf_file, self._band = shells, ctf, band
        self._optics = {} if ctf is None else read_optics(ctf)
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._powers: list[Tensor] = []
        """Of the halves as they are, (2, shells)."""
        self._cross: list[tuple[Tensor, Tensor, Tensor]] = []
        """Cross power, root of the product of the powers, and counts, of halves of neighbours."""
        self._tiles: Tensor | None = None
        self._tile_band = torch.zeros(0, dtype=torch.bool)
        self._ctf: list[Check] = []
        self._previous: tuple[Tensor, fourier.Shape] | None = None
        self._has_denoised = False

    def add(self, one: HalfFiles, pixel: float) -> None:
        """Read a micrograph's images and keep their sums."""
        images, _ = same_size(one.paths)
        check_pair(images[:2], one.odd, "the two halves are the same image")
        check_pair(images[2:], one.paths[-1], "the two denoised halves are the same image")
        self._has_denoised = len(images) == 4
        shape = (int(images[0].shape[0]), int(images[0].shape[1]))
        whole = [torch.fft.rfft2(image) for image in images]
        # before the taper, which spreads what is there over its neighbours
        powers = torch.stack([estimators.covariance(half, half, shape) for half in whole[:2]])
        self._powers.append(self._shells.gather(powers, shape, pixel) / (shape[0] * shape[1]) ** 2)
        spectra = [estimators.tapered(one, shape) for one in whole]
        halves = spectra[0], spectra[1]
        rings = estimators.estimate(halves, (spectra[2], spectra[3]) if self._has_denoised else halves, shape)
        # variance per pixel in the rings (Parseval), corrected for what the taper removed
        scale = _per_pixel(shape)
        self._sums.append(self._shells.gather(rings, shape, pixel) * scale)
        self._counts.append(self._shells.gather(fourier.coefficient_counts(shape), shape, pixel))
        self._compare_with_previous(halves, shape, pixel)
        if self._ctf_file is not None:
            optics = optics_of(self._optics, one.even.name, self._ctf_file)
            self._ctf.append(self._at_zeros(halves, ctf_2d(shape, pixel, optics), shape, pixel))
        if self._tiles is None:
            tile = intervals.tile_shape(shape)
            self._tiles = intervals.tile_sums(images) * _per_pixel(tile) / 16.0
            self._tile_band = estimators.band_mask(tile, pixel, *self._band)

    def _compare_with_previous(self, halves: tuple[Tensor, Tensor], shape: fourier.Shape, pixel: float) -> None:
        if self._previous is not None and self._previous[1] == shape:
            before = self._previous[0]
            products = [estimators.covariance(a, b, shape) for a, b in ((before, halves[1]), (before, before),
                                                                    (halves[1], halves[1]))]  # fmt: skip
            cross, one, other = (self._shells.gather(p, shape, pixel) for p in products)
            self._cross.append((cross, (one * other).sqrt(), self._counts[-1]))
        self._previous = halves[0], shape

    def _at_zeros(self, halves: tuple[Tensor, Tensor], ctf: Tensor, shape: fourier.Shape, pixel: float) -> Check:
        within = (pixel / min(self._band[0], _ICE), pixel / self._band[1])
        return ctf_zeros(*halves, ctf, shape, within)

    def result(self, mask: Tensor, band: tuple[float, float]) -> QualityResult:
        """All figures."""
        sums, counts = torch.stack(self._sums), torch.stack(self._counts)
        together, each = estimators.pooled(sums.sum(0), mask), estimators.ratios(sums.sum(0))
        several = len(sums) >= _FEW
        over_shells = intervals.bootstrap(sums) if several else {}
        if several:
            ends = intervals.bootstrap(sums[:, :, mask].sum(-1))
        else:
            ends = self._over_tiles(together)
        names = ("snr", *(_FIGURES if self._has_denoised else ()))
        return QualityResult(
            shells=self._table(sums.sum(0), each, over_shells),
            pooled={
                "snr_half": estimators.finite(together.snr),
                "ssnr_full": estimators.finite(2.0 * together.snr),
                "band_low_angstrom": band[0],
                "band_high_angstrom": band[1],
                **(
                    {name: estimators.finite(getattr(together, name)) for name in _FIGURES}
                    if self._has_denoised
                    else {}
                ),
            },
            intervals={
                "snr_half" if name == "snr" else name: [estimators.finite(end) for end in ends[name]] for name in names
            },
            intervals_over="micrographs" if several else "tiles",
            micrographs=len(sums),
            checks=[asdict(check) for check in self._checks(sums, counts, each, over_shells)],
        )

    def _table(
        self, sums: Tensor, each: estimators.Estimates, over: dict[str, intervals.Interval]
    ) -> list[dict[str, float | None]]:
        power = (sums[1] * sums[2]).sqrt()
        frc = torch.where(power > 0, sums[0] / power.clamp(min=1e-300), 0.0)
        columns = {"spatial_frequency": self._shells.frequency, "frc": frc}
        columns |= {"ssnr_half": estimators.ssnr_half(frc), "ssnr_full": estimators.ssnr_full(frc)}
        if self._has_denoised:
            for name in _FIGURES:
                columns[name] = getattr(each, name)
                if over:
                    columns[f"{name}_lower"], columns[f"{name}_upper"] = over[name]
        empty = _holds_nothing(torch.stack(self._powers).sum(0), torch.stack(self._counts).sum(0))
        for name, values in columns.items():
            if name != "spatial_frequency":
                columns[name] = torch.where(empty, torch.nan, values.double())
        rows = torch.stack(list(columns.values()), dim=1).tolist()
        return [
            {name: estimators.finite(round(v, 6) if name == "spatial_frequency" else v)
             for name, v in zip(columns, row, strict=True)} for row in rows
        ]  # fmt: skip

    def _over_tiles(self, together: estimators.Estimates) -> dict[str, intervals.Interval]:
        """Spread among the tiles, about the figure of the whole field."""
        if self._tiles is None or not bool(self._tile_band.any()):
            return {name: (torch.tensor(torch.nan), torch.tensor(torch.nan)) for name in intervals.FIGURES}
        pooled = self._tiles[:, :, self._tile_band].sum(-1)
        middle = estimators.ratios(pooled.sum(0))
        return {
            name: tuple(getattr(together, name) + (end - getattr(middle, name)) for end in ends)
            for name, ends in intervals.bootstrap(pooled).items()
        }

    def _checks(
        self, sums: Tensor, counts: Tensor, each: estimators.Estimates, over: dict[str, intervals.Interval]
    ) -> list[Check]:
        checks = [fine_end(sums.sum(0), counts.sum(0))]
        if self._has_denoised:
            if not over and self._tiles is not None:
                tile_counts = self._tiles.new_full(self._tiles.shape[-1:], LEAST_COEFFICIENTS)
                tiled = estimators.ratios(self._tiles.sum(0))
                checks += leak(tiled, intervals.bootstrap(self._tiles), tile_counts * self._tile_band)
            else:
                checks += leak(each, over, counts.sum(0))
        if self._cross:
            checks.append(other_micrograph(*(torch.stack(part) for part in zip(*self._cross, strict=True))))
        if self._ctf:
            worst = max(self._ctf, key=_excess)
            checks.append(replace(worst, ok=all(check.ok for check in self._ctf)))
        return checks


def _excess(check: Check) -> float:
    """How far a check's value is beyond its limit; one that could not be made is never the worst."""
    return -math.inf if check.value is None or check.limit is None else check.value - check.limit


def _holds_nothing(powers: Tensor, counts: Tensor) -> Tensor:
    """Which shells hold nothing but rounding: that of the mean, which is taken off, and those a program has emptied.

    Parameters
    ----------
    powers : (2, shells) of the halves, not tapered.
    counts : (shells,) independent coefficients.
    """
    power = powers / counts.clamp(min=1e-12)
    level = powers[:, 1:].sum(-1, keepdim=True) / counts[1:].sum().clamp(min=1.0)
    empty = (power <= _NOTHING * level).any(0) | (counts <= 0)
    empty[0] = True
    return empty


def _per_pixel(shape: fourier.Shape) -> float:
    taper = float((fourier.cosine_taper(shape) ** 2).mean())
    return 1.0 / (taper * (shape[0] * shape[1]) ** 2)
