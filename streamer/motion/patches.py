"""The fit of all frames at once: spectra of patches, weighted by their SSNR, moved by one smooth field.

A movie is cut into abutting patches of about 128 px, each frame at its rounded coarse shift, without a taper. Maximised
is L = ½ Σ_p Σ_k w |R|², R = Σ_t Z_t, Z_t = Y_t exp(−2πi k·s_pt): ∂L/∂s_pt = 2π Σ_k w k Im(R* Z_t), in which a frame's
product with itself does not occur. The expected Hessian of a patch is −(T·1 − 11ᵀ) ⊗ M, M = (2π)² Σ_k w P_S k kᵀ, the
same for all patches because the SSNR is pooled over them. Sums are over the half-plane: the other half has the same
coefficients once more, and no information. The axes of Fourier space are left out, because detector rows, columns and
the patches' edges show up there.
Source: the likelihood of all pairs as in Grant & Grigorieff 2015 and Zheng et al. 2017, without picking peaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCH = 128
"""px; smaller ones have too few coefficients, larger ones bend internally."""
_MOST_COEFFICIENTS = 60_000_000
"""Over all patches and frames, 0.5 GB: larger fields have more patches and need less of their band."""
_SMOOTHED_RINGS = 3
_ALIKE = 0.9
"""Overlap of what moves and what does not, above which they cannot be separated."""
_LEAST_SHARE = 0.1
_SURE_PATTERN = 10.0
"""Standard deviations, over all rings, at which a pattern that stays with the detector is believed."""
_SMOOTHED_PX, _SURE_EDGE = 9, 2.0
"""px along a patch's edge; and how often the noise's power what is at the edges must exceed."""
_CHUNK, _CHUNK_ON_GPU = 4, 256
"""Patches at a time: few enough for intermediate results to stay in a CPU's cache, enough to keep a GPU busy."""


class Layout:
    """Where the patches are, the same in all frames except for the whole px of their shifts."""

    def __init__(self, shape: tuple[int, int], whole: Tensor, patch: int = PATCH) -> None:
        """Fill the part of the field that all frames contain.

        Parameters
        ----------
        shape : (h, w) px of the frames.
        whole : (t, 2) int64 shifts. What belongs at p is at p − s in a frame: its windows move by −s.
        patch : approximate side of a patch, px.
        """
        self.shape = shape
        self.whole = whole
        low, high = whole.amax(0).clamp(min=0), whole.amin(0).clamp(max=0).neg()
        room = [size - int(a) - int(b) for size, a, b in zip(shape, low, high, strict=True)]
        self.number = [max(1, round(size / patch)) for size in room]
        self.size = [size // n // 2 * 2 for size, n in zip(room, self.number, strict=True)]
        spare = [r - n * s for r, n, s in zip(room, self.number, self.size, strict=True)]
        self.start = [int(low[axis]) + spare[axis] // 2 for axis in (0, 1)]

    def __len__(self) -> int:
        return self.number[0] * self.number[1]

    def cut(self, frame: Tensor, index: int) -> Tensor:
        """(patches, py, px) of one frame."""
        (ny, nx), (py, px) = self.number, self.size
        y, x = (self.start[axis] - int(self.whole[index, axis]) for axis in (0, 1))
        window = frame[y : y + ny * py, x : x + nx * px]
        return window.reshape(ny, py, nx, px).permute(0, 2, 1, 3).reshape(ny * nx, py, px)

    def centres(self) -> Tensor:
        """(patches, 2) float64 (y, x) px."""
        y, x = (
            self.start[axis] + (torch.arange(self.number[axis], dtype=torch.float64) + 0.5) * self.size[axis] - 0.5
            for axis in (0, 1)
        )
        return torch.cartesian_prod(y, x).reshape(-1, 2)


class Grid:
    """Frequencies of the kept part of a patch's spectrum, in cycles/px."""

    def __init__(self, size: list[int], band: float, device: torch.device) -> None:
        self.top, self.columns_kept = (min(s // 2 - 1, max(1, int(band * s))) for s in size)
        self.band = band
        indices = torch.cat([torch.arange(self.top + 1), torch.arange(-self.top, 0)]).to(device)
        self.rows = (indices / size[0])[:, None]
        self.columns = (torch.arange(self.columns_kept + 1, device=device) / size[1])[None, :]
        radius = torch.sqrt(self.rows**2 + self.columns**2)
        self.mask = (self.rows != 0) & (self.columns != 0) & (radius <= band)
        self.ring = torch.round(radius * PATCH).to(torch.int64)
        self.radius = radius

    def kept(self, spectra: Tensor) -> Tensor:
        """Crop (…, rows, columns) half-plane spectra of any larger band."""
        kept = spectra.new_empty((*spectra.shape[:-2], *self.mask.shape))
        columns = self.columns_kept + 1
        kept[..., : self.top + 1, :] = spectra[..., : self.top + 1, :columns]
        kept[..., self.top + 1 :, :] = spectra[..., -self.top :, :columns]
        return kept

    def leaked(self, over_rows: Tensor, over_columns: Tensor) -> Tensor:
        """Kept spectra of smooth images whose opposite edges differ by (p, w) from last to first row, and (p, h).

        Source: the smooth part of an image in the periodic plus smooth decomposition (Moisan 2011).
        """
        rows = torch.fft.rfft(over_rows)[:, None, : self.columns_kept + 1]
        columns = torch.fft.fft(over_columns)
        columns = torch.cat([columns[:, : self.top + 1], columns[:, -self.top :]], dim=1)[:, :, None]
        along_rows, along_columns = (2.0 * math.pi * f for f in (self.rows, self.columns))
        one = torch.ones((), device=self.rows.device)
        curve = (2.0 * torch.cos(along_rows) + 2.0 * torch.cos(along_columns) - 4.0).clamp(max=-1e-9)
        both = rows * (1.0 - torch.polar(one, along_rows)) + columns * (1.0 - torch.polar(one, along_columns))
        leaked: Tensor = both / curve
        return leaked

    def ramps(self, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """exp(−2πi k·s) along rows (…, rows, 1) and columns (…, 1, columns) for shifts (…, 2) px."""
        turn = (-2.0 * math.pi) * shifts.to(device=self.rows.device, dtype=torch.float32)
        one = torch.ones((), device=self.rows.device)
        along_rows = torch.polar(one, turn[..., 0, None, None] * self.rows)
        return along_rows, torch.polar(one, turn[..., 1, None, None] * self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Result of one pass over all patches."""

    free: Tensor
    """(p, t, 2) float64 px: Newton step of each patch of each frame by itself, very noisy."""
    information: Tensor
    """(2, 2) float64, T·M: information about one coefficient of a patch's track, 1/px²."""
    share: Tensor
    """(p,) float64: each patch's information relative to that; 1 on average."""
    likelihood: float
    """Logarithm of how much more probable the patches are than if the frames shared nothing; NaN where a fixed pattern
    is part of what they share."""


class Patches:
    """Spectra of a movie's patches, (p, t, rows, columns), kept at the shifts that were last applied."""

    def __init__(self, layout: Layout, grid: Grid, spectra: Tensor, still: Tensor, each: Tensor) -> None:
        self.layout, self.grid, self.spectra = layout, grid, spectra
        self._still, self._each = still, each
        self._jumps = [torch.zeros((2, len(layout), side), device=spectra.device) for side in layout.size[::-1]]
        self._applied = torch.zeros((len(layout), spectra.shape[1], 2), dtype=torch.float64)

    @classmethod
    def empty(cls, layout: Layout, n_frames: int, band: float, device: torch.device) -> Patches:
        """Make room for ``set`` to fill. A band too large for memory is narrowed."""
        most = _MOST_COEFFICIENTS / (len(layout) * n_frames * layout.size[0] * layout.size[1])
        grid = Grid(layout.size, min(band, math.sqrt(most / 2.0)), device)
        kept = grid.mask.shape
        spectra = torch.empty((len(layout), n_frames, *kept), dtype=torch.complex64, device=device)
        still = torch.zeros((len(layout), *kept), dtype=torch.complex64, device=device)
        return cls(layout, grid, spectra, still, torch.zeros(still.shape, device=device))

    def set(self, index: int, frame: Tensor) -> None:
        """Cut and transform one frame."""
        cut = self.layout.cut(frame, index)
        spectra = self.grid.kept(torch.fft.rfft2(cut))
        for jumps, one in zip(self._jumps, (cut[:, -1] - cut[:, 0], cut[:, :, -1] - cut[:, :, 0]), strict=True):
            smooth = torch.nn.functional.avg_pool1d(one, _SMOOTHED_PX, 1, _SMOOTHED_PX // 2, count_include_pad=False)
            jumps[0] += smooth
            jumps[1] += smooth.square()
        along_rows, along_columns = self.grid.ramps(-self.layout.whole[index])
        self.spectra[:, index] = spectra
        self._still += spectra.mul_(along_rows * along_columns)

    def close(self) -> None:
        """After the last ``set``: take out what stays with the patches because their opposite edges differ.

        A crystal's edge, or gold, would otherwise hold the frames where they were cut. Of the mean over all frames,
        smooth, and only as far as it is beyond noise, because frames would share that.
        """
        n = self.spectra.shape[1]
        means, noise = [total / n for total, _ in self._jumps], 0.0
        for mean, (_, squares) in zip(means, self._jumps, strict=True):
            noise = noise + (squares / n - mean.square()).mean(1) / max(1, n - 1)
        level = _SURE_EDGE * noise / sum(mean.square().mean(1) for mean in means).clamp(min=1e-30)
        leaked = self.grid.leaked(*((1.0 - level).clamp(min=0.0)[:, None] * mean for mean in means))
        for part in self._parts():
            spectra = self.spectra[part].sub_(leaked[part, None])
            self._each[part] = power_of(spectra).sum(1)
        along_rows, along_columns = self.grid.ramps(-self.layout.whole)
        self._still -= leaked * (along_rows * along_columns).sum(0)

    def cropped(self, band: float) -> Patches:
        """The same patches, as they were cut, with less of their spectra."""
        grid = Grid(self.layout.size, min(band, self.grid.band), self.spectra.device)
        return Patches(self.layout, grid, grid.kept(self.spectra), grid.kept(self._still), grid.kept(self._each))

    def steps(self, shifts: Tensor) -> Steps:
        """Shift the spectra to (p, t, 2) px beyond where they were cut, in place; returns Newton steps from there."""
        further, self._applied = shifts - self._applied, shifts
        sums = []
        for part in self._parts():
            along_rows, along_columns = self.grid.ramps(further[part])
            sums.append(_sum_of_frames(self.spectra[part].mul_(along_rows).mul_(along_columns)))
        return self._steps(torch.cat(sums))

    def _steps(self, moving: Tensor) -> Steps:
        n, grid = self.spectra.shape[1], self.grid
        along_rows, along_columns = self._ramps()
        turned = along_rows.mT @ along_columns
        signal, pattern, noise, likelihood = self._powers(moving, turned)
        ratio = signal / noise
        share = ratio / (1.0 + n * ratio)
        weight = (2.0 * math.pi) * 2.0 * share / noise
        if bool((pattern > 0).any()):
            excess = pattern / noise
            power = power_of(turned)
            fixed = excess * (self._still - share * turned.conj() * moving) / (1.0 + excess * (n - share * power))
            moving = moving - turned * fixed
        else:
            fixed = None
        toward = moving.conj() * weight
        both = torch.stack([toward * grid.rows, toward * grid.columns], dim=-1)
        gradient = torch.cat([(self.spectra[p].flatten(2) @ both[p].flatten(1, 2)).imag for p in self._parts()])
        if fixed is not None:
            toward = toward * fixed
            y = (along_columns @ toward.mT * along_rows * grid.rows[:, 0]).sum(-1)
            x = (along_rows @ toward * along_columns * grid.columns[0]).sum(-1)
            gradient = gradient - torch.stack([y.imag, x.imag], dim=-1)
        curvature = 2.0 * math.pi * (weight * signal).double()
        yy, yx, xx = (
            float((curvature * product).sum()) for product in (grid.rows**2, grid.rows * grid.columns, grid.columns**2)
        )
        information = n * torch.tensor([[yy, yx], [yx, xx]], dtype=torch.float64)
        if yy * xx - yx**2 <= 0.0:
            nothing = torch.zeros(gradient.shape, dtype=torch.float64)
            share = torch.ones(len(nothing)).double()
            return Steps(free=nothing, information=torch.zeros_like(information), share=share, likelihood=likelihood)
        return Steps(
            free=gradient.double().cpu() @ torch.linalg.inv(information),
            information=information,
            share=self._share(moving, weight),
            likelihood=likelihood if fixed is None else math.nan,
        )

    def _share(self, moving: Tensor, weight: Tensor) -> Tensor:
        """Information of each patch's own pairs of frames about its shifts, (p,), scaled to a mean of 1."""
        knows = weight * self.grid.radius**2
        power = power_of(moving)
        # each less its own noise: behind a crystal or gold there is less of it
        shared = (power - self._each).mul_(knows).sum((1, 2)).double()
        share = shared / shared.mean().clamp(min=1e-30)
        # what counting alone would scatter: |R|² as much as its mean
        chance = (knows * power.mean(0)).square().sum().double() / shared.mean().clamp(min=1e-30) ** 2
        scatter = (share - 1.0).square().mean().clamp(min=1e-30)
        share = (1.0 + (1.0 - chance / scatter).clamp(min=0.0) * (share - 1.0)).clamp(min=_LEAST_SHARE)
        return (share / share.mean()).cpu()

    def _ramps(self) -> tuple[Tensor, Tensor]:
        """Phases by which a fixed pattern has been turned: (p, t, rows) and (p, t, columns)."""
        along_rows, along_columns = self.grid.ramps(self._applied + self.layout.whole)
        return along_rows[..., 0], along_columns[..., 0, :]

    def _powers(self, moving: Tensor, turned: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Power of one frame's specimen, fixed pattern and noise per coefficient, (rows, columns) float32.

        And the likelihood of ``Steps``.

        With R = Σ Z_t the sum of what was moved, U = Σ Y_t that of what was not, and g = Σ_t exp(−2πi k·s_t), pairs
        of frames share on average |R|² − Σ|Y|² = T(T−1) P_S + (|g|² − T) P_F and, conversely,
        |U|² − Σ|Y|² = (|g|² − T) P_S + T(T−1) P_F: two equations per ring. Where hardly anything moved the two cannot
        be separated, and everything is attributed to the specimen.

        Both are shrunk by what chance alone would show: with σ its standard deviation for pure noise they are
        multiplied by 1 − (2σ/P)², and are 0 below 2σ. Rings without signal would otherwise support any track.
        """
        n, patches = self.spectra.shape[1], len(self.layout)
        index, mask = self.grid.ring.flatten(), self.grid.mask.flatten().to(torch.float64)

        def ring_sum(values: Tensor) -> Tensor:
            sums = torch.zeros(int(index.max()) + 1, dtype=torch.float64, device=values.device)
            return _smooth(sums.index_add_(0, index, values.flatten().to(torch.float64) * mask))

        counts = patches * ring_sum(torch.ones_like(mask))
        each = ring_sum(self._each.sum(0))
        moved, still, diverse = (ring_sum(power_of(one).sum(0)) for one in (moving, self._still, turned))
        own, cross = n * (n - 1.0) * counts, diverse - n * counts
        told_apart = (cross.abs() < _ALIKE * own).to(torch.float64)
        cross = cross * told_apart
        scale = own**2 - cross**2
        chance_of = (each / n / counts.clamp(min=1e-9)) * own.clamp(min=1e-9).sqrt() / _SMOOTHED_RINGS**0.5
        chance = chance_of * own / scale.clamp(min=1e-30)
        specimen, fixed = (
            (own * one - cross * other) / scale.clamp(min=1e-30)
            for one, other in ((moved - each, still - each), (still - each, moved - each))
        )
        signal, pattern = _shown(specimen, chance), _shown(fixed, chance) * told_apart
        # where the specimen is hardly known, it would now and then be mistaken for a pattern
        precision = told_apart / chance.clamp(min=1e-30) ** 2
        if float((fixed * precision).sum()) < _SURE_PATTERN * float(precision.sum()) ** 0.5:
            pattern = torch.zeros_like(pattern)
        power = each / n / counts.clamp(min=1e-9)
        noise = torch.maximum(power - signal - pattern, 1e-6 * power).clamp(min=1e-30)
        ring, kept = self.grid.ring, self.grid.mask
        likelihood = _likelihood(moved, each, counts, n)
        return (signal[ring] * kept).float(), (pattern[ring] * kept).float(), noise[ring].float(), likelihood

    def _parts(self) -> Iterator[slice]:
        chunk = _CHUNK if self.spectra.device.type == "cpu" else _CHUNK_ON_GPU
        return (slice(start, start + chunk) for start in range(0, len(self.spectra), chunk))


def _sum_of_frames(spectra: Tensor) -> Tensor:
    """(p, rows, columns) of (p, t, rows, columns)."""
    return torch.view_as_complex(torch.view_as_real(spectra).sum(1))


def power_of(spectra: Tensor) -> Tensor:
    """|Y|² of complex spectra, float32."""
    # of complex numbers a reduction is ten times slower
    return torch.view_as_real(spectra).square().sum(-1)


def _likelihood(moved: Tensor, each: Tensor, counts: Tensor, n: int) -> float:
    """Of ``n`` frames that share a signal in each ring, at its most probable power, over that of none.

    Parameters
    ----------
    moved, each, counts : (rings,) Σ |Σ_t Z_t|², Σ Σ_t |Y_t|² and number of coefficients.

    Source: complex normal distributions; the sum of frames has the variance N + T S, all else N.
    """
    counts = counts.clamp(min=1e-9)
    mean = (each / counts / n).clamp(min=1e-30)
    together = torch.maximum(moved / counts / n, mean)
    alone = ((n * mean - together) / (n - 1.0)).clamp(min=1e-6 * mean)
    return float((counts * (n * mean.log() - (n - 1.0) * alone.log() - together.log())).sum())


def _shown(power: Tensor, chance: Tensor) -> Tensor:
    """The part of a power that exceeds chance, see ``Patches._powers``."""
    found = power.clamp(min=0.0)
    return found * (1.0 - (2.0 * chance / found.clamp(min=1e-30)) ** 2).clamp(min=0.0)


def _smooth(curve: Tensor) -> Tensor:
    """Running mean of a radial curve, edges repeated."""
    half_width = _SMOOTHED_RINGS // 2
    padded = torch.cat([curve[:1].expand(half_width), curve, curve[-1:].expand(half_width)])
    return padded.unfold(0, _SMOOTHED_RINGS, 1).mean(-1)
