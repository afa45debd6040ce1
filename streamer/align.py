"""Where each frame has to be moved: global shifts by maximum likelihood.

In come corrected frames, out comes a ``Motion``. A shift moves the frame onto the reference, which is the first
frame's position: (y, x) in px as stored, positive towards larger indices; the specimen's displacement is its negative.

Two steps. Coarse: each frame is correlated with the sum of the others, low-passed, and the track smoothed. Fine: all
pairs of frames together, weighted by their measured SSNR, by Gauss-Newton on a track of a few smooth functions. Lines
through the origin of Fourier space are left out, because rows, columns and edges of a detector live there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import fourier
from streamer.records import Motion

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.settings import MotionSettings

_COARSE_BAND = 0.12
"""cycles/px."""
_FINE_BAND = 0.25
"""cycles/px; the whole band carries little more for a global shift."""
_MOST_COEFFICIENTS = 400_000
"""Per frame: bounds the memory for large fields, which do not need their fine band."""
_TRACK_FUNCTIONS = 6
_SMOOTHED_RINGS = 7


def estimate_motion(
    frame: Callable[[int], Tensor], n_frames: int, pixel_size: float, settings: MotionSettings
) -> Motion:
    """Estimate global shifts of a movie.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    n_frames : number of frames.
    pixel_size : Å/px.

    Returns
    -------
    Motion whose shifts are zero where the information about the smooth track is below ``settings.min_information``.
    A frame need not be known well by itself: noise fits a few frames at will, but hardly a long smooth track.

    Source: joint all-pairs likelihood as in Zheng et al. 2017 and Grant & Grigorieff 2015 (leave-one-out sums),
    solved in the track's coefficients instead of by picking peaks.
    """
    first = frame(0)
    shape = (first.shape[0], first.shape[1])
    if n_frames == 1:
        zero = torch.zeros((1, 2), dtype=torch.float64)
        return Motion(shifts=zero, information=0.0, trusted=False, iterations=0)
    band = min(_FINE_BAND, math.sqrt(_MOST_COEFFICIENTS / (2.0 * shape[0] * shape[1])))
    small = (_even(shape[0] * 2 * band), _even(shape[1] * 2 * band))
    spectra = torch.stack(
        [fourier.resize(torch.fft.rfft2(frame(i) if i else first), shape, small) for i in range(n_frames)]
    )
    grid = _Grid(shape, small, spectra.device)
    limit = settings.max_shift_angstrom / pixel_size
    coarse = (min(small[0], _even(shape[0] * 2 * _COARSE_BAND)), min(small[1], _even(shape[1] * 2 * _COARSE_BAND)))
    coarse_grid = _Grid(shape, coarse, spectra.device)
    shifts = _coarse(fourier.resize(spectra, small, coarse), coarse_grid, shape, settings.b_factor, limit)
    shifts, information, iterations = _fine(spectra, grid, shifts)
    about_track = information * n_frames / min(n_frames, _TRACK_FUNCTIONS)
    farthest = float((shifts - shifts.mean(0)).norm(dim=1).max())
    trusted = about_track >= settings.min_information and farthest <= limit
    shifts = shifts - shifts[0] if trusted else torch.zeros_like(shifts)
    return Motion(shifts=shifts.cpu(), information=information, trusted=trusted, iterations=iterations)


def motion_lengths(shifts: Tensor, pixel_size: float, early_frames: int | None) -> tuple[float, float, float]:
    """Total, early and late motion in Å: sums of frame-to-frame distances, as RELION accumulates them.

    Parameters
    ----------
    shifts : (t, 2) px.
    early_frames : number of frames counted as early; None when the exposure is unknown: all is late.
    """
    steps = (shifts[1:] - shifts[:-1]).norm(dim=1) * pixel_size
    early = float(steps[: max(0, (early_frames or 0) - 1)].sum())
    total = float(steps.sum())
    return total, early, total - early


def _even(size: float) -> int:
    """Nearest even size of at least 16."""
    return max(16, 2 * round(size / 2.0))


class _Grid:
    """Frequencies of the cropped spectra, in cycles per px of the whole frame."""

    def __init__(self, shape: fourier.Shape, small: fourier.Shape, device: torch.device) -> None:
        rows, columns = fourier.fftfreq_axes(small, device)
        self.small = small
        self.rows = rows * (small[0] / shape[0])
        self.columns = columns * (small[1] / shape[1])
        self.radius = torch.sqrt(self.rows**2 + self.columns**2)
        self.limit = 0.5 * min(small[0] / shape[0], small[1] / shape[1])
        off_axes = (self.rows != 0) & (self.columns != 0)
        self.mask = off_axes & (self.radius < self.limit)
        self.width = 1.0 / min(shape)
        self.ring = torch.round(self.radius / self.width).to(torch.int64)

    def moved(self, spectra: Tensor, shifts: Tensor) -> Tensor:
        """Spectra (t, h', w'//2+1) moved by (t, 2) px of the whole frame."""
        turn = -2.0 * math.pi
        y, x = shifts.to(device=spectra.device, dtype=torch.float32).T
        one = torch.ones((), device=spectra.device)
        along_rows = torch.polar(one, turn * y[:, None, None] * self.rows)
        along_columns = torch.polar(one, turn * x[:, None, None] * self.columns)
        return (spectra * along_rows).mul_(along_columns)


def _track_basis(n_frames: int) -> Tensor:
    """(t, functions) float64: Chebyshev polynomials of log time, orthonormal; first motion is fast, later slow."""
    functions = min(n_frames, _TRACK_FUNCTIONS)
    time = torch.log1p(torch.arange(n_frames, dtype=torch.float64) / 3.0)
    position = 2.0 * time / time[-1] - 1.0
    orders = [torch.special.chebyshev_polynomial_t(position, order) for order in range(functions)]
    orthonormal: Tensor = torch.linalg.qr(torch.stack(orders, dim=1)).Q
    return orthonormal


def _coarse(spectra: Tensor, grid: _Grid, shape: fourier.Shape, b_factor: float, limit: float) -> Tensor:
    """(t, 2) float64: leave-one-out correlation, four rounds, each smoothed over time."""
    weight = torch.exp(-b_factor / 4.0 * grid.radius**2) * grid.mask
    # whitened by the frames' mean power: a few strong low frequencies would otherwise decide alone
    power = (spectra.real**2 + spectra.imag**2).mean(0)
    weight = weight / power.clamp(min=float(power.max()) * 1e-12)
    basis = _track_basis(len(spectra)).to(spectra.device)
    shifts = torch.zeros((len(spectra), 2), dtype=torch.float64, device=spectra.device)
    scale = torch.tensor([shape[0] / grid.small[0], shape[1] / grid.small[1]], dtype=torch.float64)
    for _ in range(4):
        moved = grid.moved(spectra, shifts)
        total = moved.sum(0)
        steps = [_peak(one.conj() * (total - one) * weight, grid.small, scale, limit) for one in moved]
        found = shifts + torch.stack(steps).to(spectra.device)
        shifts = basis @ (basis.T @ found)
        shifts = shifts - shifts.mean(0)
    return shifts


def _peak(cross: Tensor, small: fourier.Shape, scale: Tensor, limit: float) -> Tensor:
    """(2,) px of the whole frame: the highest point of a correlation within ``limit``, refined by a parabola."""
    correlation = fourier.to_image(cross, small)
    height, width = small
    y = torch.fft.fftfreq(height, 1.0 / height, device=cross.device)[:, None] * float(scale[0])
    x = torch.fft.fftfreq(width, 1.0 / width, device=cross.device)[None, :] * float(scale[1])
    inside = torch.where(y**2 + x**2 <= limit**2, correlation, correlation.min())
    row, column = divmod(int(inside.argmax()), width)

    def offset(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
        bend = (before - 2.0 * at + after).clamp(max=-1e-30)
        return (0.5 * (before - after) / bend).clamp(-0.5, 0.5)

    at = correlation[row, column]
    dy = offset(correlation[row - 1, column], at, correlation[(row + 1) % height, column])
    dx = offset(correlation[row, column - 1], at, correlation[row, (column + 1) % width])
    peak = torch.stack([y[row, 0] + dy * float(scale[0]), x[0, column] + dx * float(scale[1])])
    return peak.to(device="cpu", dtype=torch.float64)


def _ssnr_weight(moved: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Per coefficient: the likelihood's weight 2s/((1+Ts) P_N), and the signal power P_S of one frame.

    With s = P_S/P_N per ring; P_S = (|ΣY|² − Σ|Y|²)/(T(T−1)), the mean over all pairs of frames, shrunk by what chance
    alone would show: with σ its standard deviation for pure noise it is multiplied by 1 − (2σ/P_S)², and is 0 below
    2σ. Rings that hold nothing would otherwise vouch for any track that noise prefers.
    """
    n = len(moved)
    total = moved.sum(0)
    each = torch.view_as_real(moved).square().sum((0, -1))
    pairs = (total.real**2 + total.imag**2 - each) / (n * (n - 1.0))
    rings = int(grid.ring.max()) + 1
    index, mask = grid.ring.flatten(), grid.mask.flatten().to(torch.float64)

    def ring_sum(values: Tensor) -> Tensor:
        sums = torch.zeros(rings, dtype=torch.float64, device=values.device)
        return sums.index_add_(0, index, values.flatten().to(torch.float64) * mask)

    counts = ring_sum(torch.ones_like(pairs))
    # smoothed alike, so that the difference is never negative where the spectrum is steep
    found, power = (_smooth(ring_sum(values) / counts.clamp(min=1.0)) for values in (pairs, each / n))
    noise = torch.maximum(power - found.clamp(min=0.0), 1e-6 * power).clamp(min=1e-30)
    chance = noise / (n * (n - 1.0) * _smooth(counts).clamp(min=1.0) * _SMOOTHED_RINGS).sqrt()
    signal = found.clamp(min=0.0) * (1.0 - (2.0 * chance / found.clamp(min=1e-30)) ** 2).clamp(min=0.0)
    ratio = signal / noise
    weight = 2.0 * ratio / ((1.0 + n * ratio) * noise)
    return (weight[grid.ring] * grid.mask).to(torch.float32), (signal[grid.ring] * grid.mask).to(torch.float32)


def _smooth(curve: Tensor) -> Tensor:
    """Running mean of a radial curve, edges repeated."""
    half_width = _SMOOTHED_RINGS // 2
    padded = torch.cat([curve[:1].expand(half_width), curve, curve[-1:].expand(half_width)])
    return padded.unfold(0, _SMOOTHED_RINGS, 1).mean(-1)


def _fine(spectra: Tensor, grid: _Grid, shifts: Tensor, most: int = 8) -> tuple[Tensor, float, int]:
    """Gauss-Newton on the all-pairs likelihood: first for a smooth track, then for each frame's distance from it.

    The second part is shrunk by what the data themselves show of it: with u_t the free step of frame t and 1/I its
    variance by counting alone, the jitter's variance is mean(u²) − 1/I and the step kept is u times its share.
    """
    basis = _track_basis(len(spectra)).to(spectra.device)[:, 1:]  # without the constant, which no pair can see
    information, iterations = 0.0, 0
    for iterations in range(1, most + 1):
        free, information = _free_steps(spectra, grid, shifts)
        if information <= 0.0:
            return shifts, 0.0, iterations
        step = basis @ (basis.T @ free)
        largest = float(step.norm(dim=1).max())
        shifts = shifts + step * min(1.0, 1.0 / max(largest, 1e-12))
        if largest < 0.003:
            break
    for _ in range(2):
        free, information = _free_steps(spectra, grid, shifts)
        if information <= 0.0:
            return shifts, 0.0, iterations
        jitter = max(0.0, float((free**2).mean()) - 1.0 / information)
        shifts = shifts + free * (jitter / (jitter + 1.0 / information))
    return shifts, information, iterations


def _free_steps(spectra: Tensor, grid: _Grid, shifts: Tensor) -> tuple[Tensor, float]:
    """Newton step of every frame by itself, (t, 2) px, and the information per frame, 1/px².

    Maximised is L = ½ Σ_k w |R|², R = Σ_t Z_t, Z_t = Y_t exp(−2πi k·s_t): ∂L/∂s_t = 2π Σ_k w k Im(R* Z_t), in which
    a frame's product with itself has no part. The expected Hessian is −(T·1 − 11ᵀ) ⊗ M, M = (2π)² Σ_k w P_S k kᵀ, so
    the step is M⁻¹ ∂L/∂s_t / T and the information that the other frames hold about one is (T − 1) M. Sums are over
    the half-plane: the other half holds the same coefficients once more, and no information.
    """
    n = len(spectra)
    moved = grid.moved(spectra, shifts)
    weight, signal = _ssnr_weight(moved, grid)
    slope = 2.0 * math.pi * weight * (moved.sum(0).conj() * moved).imag
    along_y, along_x = slope.sum(2) @ grid.rows[:, 0], slope.sum(1) @ grid.columns[0]
    gradient = torch.stack([along_y, along_x], dim=1).double()
    curvature = (2.0 * math.pi) ** 2 * weight * signal
    products = (grid.rows**2, grid.rows * grid.columns, grid.columns**2)
    yy, yx, xx = (float((curvature * product).sum()) for product in products)
    if yy * xx - yx**2 <= 0.0:
        return torch.zeros_like(shifts), 0.0
    matrix = torch.tensor([[yy, yx], [yx, xx]], dtype=torch.float64, device=spectra.device)
    return gradient @ torch.linalg.inv(matrix) / n, (n - 1) * 0.5 * (yy + xx)
