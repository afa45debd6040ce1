"""How far each frame has to be moved: shifts by maximum likelihood, global and over the field.

Input: corrected frames. Output: a ``Motion``. A shift moves the frame onto the reference, which is the first
frame's position: (y, x) in px as stored, positive towards larger indices; the specimen's displacement is its negative.

Two steps. Coarse: each frame, binned, is correlated with the sum of the others, low-passed, and the track smoothed.
Fine: all pairs of frames and all patches together (``patches``), for one smooth field (``fit``). Movies of very many
frames are estimated from sums of neighbouring ones, so that memory grows with the image and not with the frame count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from streamer.motion import fixed_pattern
from streamer.motion.fit import GLOBAL_FUNCTIONS, LOCAL_FUNCTIONS, Fit, OverPlace, OverTime
from streamer.motion.jumps import jumps_of
from streamer.motion.patches import PATCH, Grid, Layout, Patches, power_of
from streamer.motion.track import LocalMotion, Motion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.settings import MotionSettings

_MOST_GROUPS = 48
"""Maximum number of frame sums that are fitted."""
_FIRST_BAND, _BAND = 0.12, 0.37
"""cycles/px. Beyond the second, pixel corners and detector noise dominate."""
_FIRST_STEPS, _MOST_STEPS = 2, 12
_NEAR, _SMALL_STEP, _SETTLED = 0.2, 0.02, 0.05
"""px, of the last step: below it bending is sought, below it steps end, and above it the fit has not settled."""
_WITHIN = 0.25
"""Part of the expected error, where that is more: what a last step leaves is less than itself."""
_HIGHEST_ORDER, _KNOWN_PER_COEFFICIENT = 3, 30.0
"""Order of the Legendre products; and information per frame, 1/px², times frames, for each coefficient, below which the
track is fitted by itself first."""
_SURE_BEND, _LARGE_BEND = 3.0, 0.1
"""Evidence from which on any bending is applied; and px, root mean square, from which on it need only be likely."""
_CHANCE, _CHANCE_PER_FRAME, _LEAST_INFORMATION = 40.0, 2.0, 1.5
"""Likelihood that fits of noise do not reach, see ``_evidence_of_chance``; and 1/px² about the track, below which the
model of a step is not valid."""
_COARSE_ROUNDS, _COARSE_ENOUGH = 4, 0.5
"""Rounds, and px by which the coarse track may still change; the fit takes over from there."""
_POOLED, _LEAST_POOLS, _CLEAR_PEAK = (2, 4, 8), 5, 6.0
"""Frames moved together, minimum number of pools, and standard deviations by which a peak should stand out."""
_COARSE_STEPS = 8
_JUMP, _SURE_PEAK = 1.5, 8.0
"""px from the smooth track, and standard deviations of the correlation, beyond which a frame has jumped."""


def estimate_motion(
    frame: Callable[[int], Tensor],
    n_frames: int,
    pixel_size: float,
    settings: MotionSettings,
    *,
    kept: Sequence[int] | None = None,
) -> Motion:
    """Estimate the motion of a movie, in two passes over its frames.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    n_frames : number of frames.
    pixel_size : Å/px.
    kept : when each frame was taken, in frames of the file, where some of these are left out.

    Returns
    -------
    Motion whose shifts are as large as the frames make probable: zero where nothing shows that they share anything,
    and the same over the whole field where nothing shows that it bends. What remains uncertain is in its ``errors``.
    """
    zero = torch.zeros((n_frames, 2), dtype=torch.float64)
    if n_frames == 1:
        return Motion(shifts=zero, information=0.0, trusted=False, iterations=0)
    groups = _groups(n_frames)
    taken = torch.tensor(range(n_frames) if kept is None else kept, dtype=torch.float64)
    taken = taken - taken[0]
    times, last = torch.stack([taken[group].mean() for group in groups]), float(taken[-1])

    def grouped(index: int) -> Tensor:
        first, *others = (frame(i) for i in range(groups[index].start, groups[index].stop))
        return sum(others, first)

    over_time = OverTime(times, last, GLOBAL_FUNCTIONS)
    limit = settings.max_shift_angstrom / pixel_size
    coarse, shape, device = _coarse(grouped, over_time, len(groups), settings.b_factor, limit)
    most = torch.tensor(shape) // 8
    whole = torch.minimum(torch.maximum(coarse.round().to(torch.int64), -most), most)
    layout = Layout(shape, whole)
    patches = Patches.empty(layout, len(groups), _BAND, device)
    for index in range(len(groups)):
        patches.set(index, grouped(index))
    patches.close()
    bends = OverTime(times, last, LOCAL_FUNCTIONS)
    fit = Fit(coarse, whole, over_time, bends, OverPlace(layout, 0))
    first = patches.cropped(_FIRST_BAND)
    for _ in range(_FIRST_STEPS):
        fit.step(first)
    del first
    fit, largest = _settled(fit, patches, bends)
    return _judged(fit, largest, frame, taken, groups, Limits(shape, limit, settings.min_information))


class Limits(NamedTuple):
    """What a fit is held to."""

    shape: tuple[int, int]
    farthest: float
    """px from the mean."""
    information: float


def _judged(
    fit: Fit, largest: float, frame: Callable[[int], Tensor], taken: Tensor, groups: list[slice], limits: Limits
) -> Motion:
    """What is believed of a fit, whose last step was ``largest`` px."""
    bends = fit.bend_evidence > (_SURE_BEND if fit.bent_by() < _LARGE_BEND else 0.0)
    shifts, local, errors = _of_frames(fit, taken, groups, bent=bends)
    information = fit.known() * (1.0 - 1.0 / len(groups))
    about_track = information * len(groups) / min(len(groups), GLOBAL_FUNCTIONS - 1)
    farthest = float((shifts - shifts.mean(0)).norm(dim=1).max())
    # a fixed pattern has been taken out of the fit; its likelihood says nothing
    shown = math.isnan(fit.likelihood) or fit.likelihood > _evidence_of_chance(len(groups))
    known = shown and about_track >= max(limits.information, _LEAST_INFORMATION) and farthest <= limits.farthest
    ruled = known and fixed_pattern.is_still(shifts) and fixed_pattern.rules(frame, len(taken))
    trusted, converged = known and not ruled, largest < max(_SETTLED, _WITHIN * fit.expected_error())
    return Motion(
        shifts=shifts if trusted else torch.zeros_like(shifts),
        information=information,
        trusted=trusted,
        iterations=fit.iterations,
        local=LocalMotion(coefficients=local, shape=limits.shape, evidence=fit.bend_evidence)
        if trusted and bends
        else None,
        converged=converged,
        fixed_pattern=ruled,
        errors=(errors.square() + (0.0 if converged else largest**2)).sqrt() if trusted else None,
    )


def _evidence_of_chance(n: int) -> float:
    """Likelihood that a fit of ``n`` frames of noise alone does not reach."""
    return _CHANCE + _CHANCE_PER_FRAME * n


def motion_lengths(shifts: Tensor, pixel_size: float, early_frames: int | None) -> tuple[float, float, float]:
    """Total, early and late motion in Å: sums of frame-to-frame distances, as RELION accumulates them.

    Parameters
    ----------
    shifts : (t, 2) px.
    early_frames : number of frames counted as early; None when the exposure is unknown: all motion is late.
    """
    steps = (shifts[1:] - shifts[:-1]).norm(dim=1) * pixel_size
    early = float(steps[: max(0, (early_frames or 0) - 1)].sum())
    total = float(steps.sum())
    return total, early, total - early


def _settled(fit: Fit, patches: Patches, bends: OverTime) -> tuple[Fit, float]:
    """Fit the whole band: one shift per frame first where little is known, then a field that bends.

    Returns
    -------
    The fit and its last step in px.
    """
    bending = Fit(fit.shifts, patches.layout.whole, fit.times, bends, OverPlace(patches.layout, _HIGHEST_ORDER))
    if fit.known() * len(fit.shifts) < _KNOWN_PER_COEFFICIENT * bending.bend.numel():
        _converge(fit, patches, _NEAR)
        bending = Fit(fit.shifts, patches.layout.whole, fit.times, bends, bending.place)
    return bending, _converge(bending, patches, _SMALL_STEP)


def _converge(fit: Fit, patches: Patches, small: float) -> float:
    """Step until all moves are below ``small`` px, or far below what remains uncertain; returns the last step.

    Single frames may leave the field.

    Where that takes too long, the most probable of all that was seen is what remains.
    """
    largest = fit.step(patches)
    best, most = fit.state(), -math.inf
    for _ in range(_MOST_STEPS):
        before = fit.state()
        largest = fit.step(patches, jitter=True)
        if not fit.likelihood < most:
            best, most = before, fit.likelihood
        if largest < max(small, _WITHIN * fit.expected_error()):
            return largest
    fit.restore(best)
    return largest


def _groups(n_frames: int) -> list[slice]:
    """Neighbouring frames that are estimated as one."""
    each = -(-n_frames // _MOST_GROUPS)
    return [slice(start, min(start + each, n_frames)) for start in range(0, n_frames, each)]


def _binning(shape: tuple[int, int]) -> int:
    """Px that are averaged for the coarse step: fields of 512 to 4096 px keep everything below 0.125 cycles/px."""
    shorter = min(shape)
    return 4 * max(1, round(shorter / 4096)) if shorter >= 512 else 2 if shorter >= 256 else 1


def _binned(image: Tensor, factor: int) -> Tensor:
    """Means over squares of ``factor`` px; incomplete squares at the edges are left out."""
    height, width = (size // factor for size in image.shape)
    # rows first: they are contiguous in memory
    rows = image[: height * factor].view(height, factor, -1).sum(1)[:, : width * factor]
    return rows.reshape(height, width, factor).sum(2) / factor**2


def _coarse(
    frame: Callable[[int], Tensor], over_time: OverTime, n: int, b_factor: float, limit: float
) -> tuple[Tensor, tuple[int, int], torch.device]:
    """Smoothed global shifts (t, 2) float64 px, the frames' shape, and their device."""
    spectra = []
    for index in range(n):
        image = frame(index)
        factor = _binning((image.shape[0], image.shape[1]))
        small = _binned(image, factor)
        grid = Grid(list(small.shape), min(0.5, _FIRST_BAND * factor), image.device)
        spectra.append(grid.kept(torch.fft.rfft2(small)))
    shape, device = (image.shape[0], image.shape[1]), image.device
    stack = torch.stack(spectra)
    # whitened by the frames' mean power: a few strong low frequencies would otherwise dominate
    power = torch.view_as_real(stack).square().sum(-1).mean(0)
    weight = torch.exp(-b_factor / 4.0 * (grid.radius / factor) ** 2) * grid.mask
    weight = weight / power.clamp(min=max(float(power.max()) * 1e-12, 1e-30))
    whitened = stack * weight.sqrt()
    shifts, clearness = _track(whitened, grid, small.shape, over_time, factor, limit, 1)
    if clearness >= _CLEAR_PEAK or len(stack) < _LEAST_POOLS:
        return shifts, shape, device
    # frames of few electrons show no peak by themselves: move neighbours together, or nothing at first
    starts = [shifts, torch.zeros_like(shifts)]
    for pooled in _POOLED:
        if len(stack) >= _LEAST_POOLS * pooled:
            starts.append(_track(whitened, grid, small.shape, over_time, factor, limit, pooled)[0])
    return factor * _likeliest(stack, grid, [start / factor for start in starts], over_time), shape, device


def _likeliest(stack: Tensor, grid: Grid, starts: list[Tensor], over_time: OverTime) -> Tensor:
    """Of some tracks (t, 2) px of the binned frames, the one on which the frames share most after a fit."""
    still = torch.zeros((len(stack), 2), dtype=torch.int64)
    layout = Layout((2 * PATCH, 2 * PATCH), still, patch=2 * PATCH)
    best, most = starts[0], -1.0
    for start in starts:
        patches = Patches(layout, grid, stack[None].clone(), stack.sum(0)[None], power_of(stack).sum(0)[None])
        fit = Fit(start, still, over_time, over_time, OverPlace(layout, 0))
        for _ in range(_COARSE_STEPS):
            fit.step(patches)
        shared = float(fit.information.diagonal().mean())
        if shared > most:
            best, most = fit.shifts, shared
    return best


def _track(
    spectra: Tensor, grid: Grid, size: torch.Size, over_time: OverTime, factor: int, limit: float, pooled: int
) -> tuple[Tensor, float]:
    """Smoothed shifts (t, 2) px from leave-one-out peaks of ``pooled`` frames each, and their median height."""
    n = len(spectra)
    pool = torch.arange(n) // pooled
    number = int(pool[-1]) + 1
    shifts = torch.zeros((n, 2), dtype=torch.float64)
    for _ in range(_COARSE_ROUNDS):
        along_rows, along_columns = grid.ramps(shifts / factor)
        moved = spectra * along_rows * along_columns
        groups = torch.zeros_like(moved[:number]).index_add_(0, pool.to(moved.device), moved)
        total = groups.sum(0)
        peaks = [_peak(one.conj() * (total - one), size, limit / factor) for one in groups]
        # the others are as far on the other side of the mean: two frames meet half-way
        step = (factor * (number - 1.0) / number) * torch.stack([place for place, _ in peaks])
        found = shifts + step[pool]
        heights = torch.tensor([height for _, height in peaks])
        before, shifts = shifts, _without_outliers(found - found.mean(0), heights[pool], over_time)
        shifts = shifts - shifts.mean(0)
        if float((shifts - before).norm(dim=1).max()) < _COARSE_ENOUGH:
            break
    return shifts, float(heights.median())


def _without_outliers(found: Tensor, heights: Tensor, over_time: OverTime) -> Tensor:
    """The smooth track through peaks (t, 2) px; a frame far off it stays where it is if its peak is beyond doubt."""
    smooth = over_time.smooth(found) + jumps_of(found, over_time.values)[0]
    jumped = ((found - smooth).norm(dim=1) > _JUMP) & (heights > _SURE_PEAK)
    return torch.where(jumped[:, None], found, smooth)


def _peak(cross: Tensor, size: torch.Size, limit: float) -> tuple[Tensor, float]:
    """The highest point of a correlation within ``limit`` px, refined by a parabola, and how far it stands out.

    Parameters
    ----------
    cross : (rows, columns) kept part of the half-plane of an image of ``size`` px.

    Returns
    -------
    (2,) float64 (y, x) px, and the height in standard deviations of the correlation.
    """
    height, width = cross.shape[0], 2 * cross.shape[1] - 1
    correlation = torch.fft.irfft2(cross, s=(height, width))
    scale = size[0] / height, size[1] / width
    y = torch.fft.fftfreq(height, 1.0 / height, device=cross.device)[:, None] * scale[0]
    x = torch.fft.fftfreq(width, 1.0 / width, device=cross.device)[None, :] * scale[1]
    inside = torch.where(y**2 + x**2 <= limit**2, correlation, correlation.min())
    row, column = divmod(int(inside.argmax()), width)

    def offset(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
        bend = (before - 2.0 * at + after).clamp(max=-1e-30)
        return (0.5 * (before - after) / bend).clamp(-0.5, 0.5)

    at = correlation[row, column]
    dy = offset(correlation[row - 1, column], at, correlation[(row + 1) % height, column])
    dx = offset(correlation[row, column - 1], at, correlation[row, (column + 1) % width])
    peak = torch.stack([y[row, 0] + dy * scale[0], x[0, column] + dx * scale[1]])
    return peak.to(device="cpu", dtype=torch.float64), float(at / correlation.std().clamp(min=1e-30))


def _of_frames(fit: Fit, frames: Tensor, groups: list[slice], *, bent: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Global shifts (t, 2) and Legendre coefficients (t, 2, orders − 1) at times ``frames``, zero at the first.

    And (t,) px the errors of these shifts, or, unless ``bent``, of the global ones alone.
    """
    group = torch.tensor([index for index, part in enumerate(groups) for _ in range(part.start, part.stop)])
    shifts = fit.times.at(frames) @ (fit.times.values.T @ fit.track) + fit.jitter[group]
    products = torch.einsum("tn,jna->taj", fit.bends.at(frames), fit.place.products(fit.bend))
    shifts = shifts + products[:, :, 0]
    errors = fit.error[0 if bent else 1].sqrt()[group]
    return shifts - shifts[0], (products - products[0])[:, :, 1:], errors
