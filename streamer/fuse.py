"""Frames to sums, on the physical grid or on the grid of half the pixel size, in one pass over the frames.

A frame with shift s is moved by s: its whole pixels in real space, edges filled with the frame's mean, the rest as a
phase. On the physical grid the result is Σ w F. On the fine grid every coarse frequency holds four aliased fine ones;
a frame's sub-pixel shift turns them against each other by exp(−2πi Δ·s), Δ ∈ {0, 1}², so that many frames separate
them. Normal equations per coarse frequency: K X = B with the 4×4 Hermitian matrix

    B(F) = Σ_t conj(A_t(F)) Y_t(F mod 1),   K_ab = Σ_t conj(A_t(F_a)) A_t(F_b),   A_t(F) = w_t(F) h(F) exp(2πi F·s_t)

with w the exposure filter and h the detector's integration over its pixel. K depends on the frequency only through
h and the decay rates z of its two sides, K_ab = h_a* h_b G_Δ(z_a + z_b), G_Δ(z) = Σ_t exp(−N_t z − 2πi Δ·s_t): a
table of nine curves in closed form instead of a sum over frames at every frequency.
Source: MAP estimation as in Hardie et al. 1997; the alias algebra is Tsai & Huang 1984.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import dose, fourier
from streamer.errors import StageError
from streamer.warp import Warp

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.records import LocalMotion

_TABLE = 257


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """Accumulated sums of a movie, even and odd frames apart."""

    even: Tensor
    """Unnormalised Σ w F over frames 0, 2, 4, …: (h, w//2+1), or on the fine grid (2h, w+1) with h(F) = 1 left out."""
    odd: Tensor
    groups: Tensor
    """(n, h', w'//2+1) sums of every n-th frame, cropped to the training band; n may be 0."""
    shape: fourier.Shape
    """Of the physical grid."""
    fractions: Tensor
    """(t, 2) sub-pixel part of the shifts, −½…½ px."""
    exposures: Tensor
    """(t,) e⁻/Å² at the end of each frame."""


def fuse(
    frame: Callable[[int], Tensor],
    shifts: Tensor,
    exposures: Tensor,
    *,
    pixel_size: float,
    voltage_kv: float,
    upsampling: int,
    local: LocalMotion | None = None,
    group_shape: fourier.Shape | None = None,
    n_groups: int = 0,
) -> Fused:
    """Accumulate all frames in one pass; memory does not grow with their number.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    shifts : (t, 2) float64 (y, x) px, moving each frame onto the reference.
    exposures : (t,) e⁻/Å² at the end of each frame, zeros for no weighting.
    pixel_size, voltage_kv : Å/px and kV.
    upsampling : 1 for the physical grid, 2 for the grid of half the pixel size.
    local : what is added to the shifts over the field; of the physical grid only, because interpolation would mix
        the aliases that the fine grid is made of.
    group_shape, n_groups : crop and number of interleaved group sums for training, of the physical grid.
    """
    first = frame(0)
    height, width = first.shape
    device = first.device
    fine = (height * upsampling, width * upsampling)
    rate = dose.decay_rate(fourier.radius(fine, device) * upsampling, pixel_size, voltage_kv)
    weighted = bool((exposures > 0).any())
    whole = torch.round(shifts)
    fractions = (shifts - whole).to(device)
    halves = torch.zeros((2, fine[0], fine[1] // 2 + 1), dtype=torch.complex64, device=device)
    small = group_shape or (2, 2)
    groups = torch.zeros((n_groups, small[0], small[1] // 2 + 1), dtype=torch.complex64, device=device)
    warp = None if local is None or upsampling > 1 else Warp(shifts, local, device)
    for t in range(len(shifts)):
        image = first if t == 0 else frame(t)
        if warp is not None:
            spectrum = torch.fft.rfft2(warp(image, t))
        else:
            spectrum = _spectrum(_move_whole_pixels(image, int(whole[t, 0]), int(whole[t, 1])), upsampling)
            spectrum *= fourier.shift_ramp(fine, upsampling * fractions[t])
        if weighted:
            spectrum *= torch.exp(-float(exposures[t]) * rate)
        halves[t % 2] += spectrum
        if n_groups:
            groups[t % n_groups] += fourier.resize(spectrum, (height, width), small)
    if warp is not None:
        rows, columns = warp.whitening()
        halves *= rows[:, None] * columns
    return Fused(
        even=halves[0],
        odd=halves[1],
        groups=groups,
        shape=(height, width),
        fractions=fractions,
        exposures=exposures,
    )


def _spectrum(image: Tensor, upsampling: int) -> Tensor:
    """Half-plane on a grid ``upsampling`` times as fine: what a coarse frequency holds stands at all its aliases."""
    spectrum: Tensor
    if upsampling == 1:
        spectrum = torch.fft.rfft2(image)
        return spectrum
    _height, width = image.shape
    columns = torch.arange(width * upsampling // 2 + 1, device=image.device) % width
    spectrum = torch.fft.fft2(image)[:, columns].repeat(upsampling, 1)
    return spectrum


def _move_whole_pixels(frame: Tensor, y: int, x: int) -> Tensor:
    """Move an image by whole px towards larger indices; what comes in at the edge is its mean."""
    if y == 0 and x == 0:
        return frame
    height, width = frame.shape
    moved = torch.full_like(frame, float(frame.mean()))
    if abs(y) < height and abs(x) < width:
        moved[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = frame[
            max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)
        ]
    return moved


def diversity(shifts: Tensor, exposures: Tensor | None = None) -> float:
    """How evenly the frames' sub-pixel positions are spread, 0…1.

    One minus the largest |Σ_t exp(2πi Δ·s_t)|/T over the three aliases Δ = (1,0), (0,1), (1,1): 0 when all frames lie
    at one sub-pixel position, so that nothing can be told apart; 1 when they are evenly spread.

    Parameters
    ----------
    shifts : (t, 2) px.
    exposures : (t,) e⁻/Å²; late frames carry little beyond Nyquist and count less (critical exposure 4 e⁻/Å²).
    """
    weights = torch.ones(len(shifts), dtype=torch.float64)
    if exposures is not None:
        weights = torch.exp(-exposures.double().cpu() / 4.0)
    orders = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    turn = 2.0 * math.pi * shifts.double().cpu() @ orders.T
    together = (torch.polar(weights[:, None].expand_as(turn).contiguous(), turn)).sum(0).abs() / weights.sum()
    return 1.0 - float(together.max())


class FineSolver:
    """Solves the normal equations of one set of frames on the fine grid for any prior."""

    def __init__(self, fused: Fused, frames: slice, *, pixel_size: float, voltage_kv: float) -> None:
        """Tabulate K for the frames of ``frames`` (all, even or odd)."""
        height, width = fused.shape
        self._shape = (2 * height, 2 * width)
        device = fused.even.device
        self._transfer = box_transfer(self._shape, device)
        radius = fourier.radius(self._shape, device) * 2.0
        rate = dose.decay_rate(radius, pixel_size, voltage_kv)
        self._rate = rate if bool((fused.exposures > 0).any()) else torch.zeros_like(rate)
        self._top = max(2.0 * float(self._rate.max()), 1e-12)
        self._table = self._alias_sums(fused.fractions[frames], fused.exposures[frames].to(device))

    def _alias_sums(self, fractions: Tensor, exposures: Tensor) -> Tensor:
        """G_Δ(z) for Δ ∈ {−1, 0, 1}², (3, 3, z) complex64."""
        z = torch.linspace(0.0, self._top, _TABLE, dtype=torch.float64, device=fractions.device)
        decay = torch.exp(-exposures.double()[:, None] * z).to(torch.complex128)
        order = torch.arange(-1, 2, dtype=torch.float64, device=fractions.device)
        one = torch.ones((), dtype=torch.float64, device=fractions.device)
        y, x = (torch.polar(one, -2.0 * math.pi * fractions.double()[:, axis, None] * order) for axis in (0, 1))
        return torch.einsum("ty,tx,tz->yxz", y, x, decay).to(torch.complex64)

    def _sum(self, dy: int, dx: int, rate: Tensor) -> Tensor:
        """G at one Δ, looked up at the given decay rates."""
        position = rate * ((_TABLE - 1) / self._top)
        low = position.floor().clamp_(max=_TABLE - 2)
        index, table = low.to(torch.int64), self._table[dy + 1, dx + 1]
        return torch.lerp(table[index], table[index + 1], (position - low).to(torch.complex64))

    def solve(self, weighted_sum: Tensor, prior: Tensor, rows: int = 256) -> Tensor:
        """Most probable fine image.

        Parameters
        ----------
        weighted_sum : (2h, w+1) Σ_t w Y exp(…) of these frames, as ``fuse`` accumulates it.
        prior : (2h, w+1) σ²/P_S: noise over signal power per coefficient; larger pulls towards 0.
        rows : coarse rows that are solved at a time.

        Returns
        -------
        (2h, w+1) complex64 spectrum, on the scale of one undamaged frame's counts per physical px.
        """
        height = self._shape[0] // 2
        b = weighted_sum * self._transfer.conj()
        solution = torch.empty_like(b)
        for start in range(0, height, rows):
            part = slice(start, min(start + rows, height))
            right = self._aliases(b, part)
            matrix = self._matrix(part, self._aliases(prior.to(b.dtype), part).real)
            try:
                solved = torch.linalg.solve(matrix, right[..., None])[..., 0]
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise StageError("the frames' aliases cannot be told apart", where="super_resolve") from error
            self._scatter(solution, solved, part)
        return solution

    def _matrix(self, part: slice, prior: Tensor) -> Tensor:
        """(rows, w//2+1, 4, 4) of K plus the prior on its diagonal."""
        transfer = self._aliases(self._transfer, part)
        rate = self._aliases(self._rate.to(torch.complex64), part).real
        # whole cycles per px by which an alias lies below the first, (y, x)
        offsets = ((0, 0), (1, 0), (0, 1), (1, 1))
        matrix = transfer.new_zeros((*transfer.shape, 4))
        for a, (ya, xa) in enumerate(offsets):
            for b, (yb, xb) in enumerate(offsets):
                if b < a:
                    matrix[..., a, b] = matrix[..., b, a].conj()
                    continue
                # conj(A_a) A_b turns by exp(2πi (F_b − F_a)·s)
                sums = self._sum(yb - ya, xb - xa, rate[..., a] + rate[..., b])
                matrix[..., a, b] = transfer[..., a].conj() * transfer[..., b] * sums
            matrix[..., a, a] += prior[..., a]
        return matrix

    def _mirror(self, plane: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Row numbers of −F for the two rows of a coarse row, and the columns w − c."""
        height = self._shape[0]
        rows = torch.arange(part.start, part.stop, device=plane.device)
        columns = self._shape[1] // 2 - torch.arange(self._columns, device=plane.device)
        both = torch.stack([(-rows) % height, (-rows - height // 2) % height])
        return both, columns

    @property
    def _columns(self) -> int:
        return self._shape[1] // 4 + 1

    def _aliases(self, plane: Tensor, part: slice) -> Tensor:
        """The four fine frequencies of each coarse one, (rows, w//2+1, 4).

        Rows r and r + h; columns c and c − w, the latter read at its mirror image −F in the half-plane.
        """
        height = self._shape[0] // 2
        shifted = slice(part.start + height, part.stop + height)
        mirror_rows, mirror_columns = self._mirror(plane, part)
        direct = [plane[rows, : self._columns] for rows in (part, shifted)]
        mirrored = [plane[rows][:, mirror_columns].conj() for rows in mirror_rows]
        return torch.stack([*direct, *mirrored], dim=-1)

    def _scatter(self, plane: Tensor, aliases: Tensor, part: slice) -> None:
        """Inverse of ``_aliases``."""
        height = self._shape[0] // 2
        mirror_rows, mirror_columns = self._mirror(plane, part)
        for rows, values in zip(mirror_rows, (aliases[..., 2], aliases[..., 3]), strict=True):
            plane[rows[:, None], mirror_columns[None, :]] = values.conj()
        plane[part, : self._columns] = aliases[..., 0]
        plane[part.start + height : part.stop + height, : self._columns] = aliases[..., 1]


def box_transfer(fine: fourier.Shape, device: torch.device | str = "cpu") -> Tensor:
    """Mean over the 2×2 fine pixels of a physical pixel, as a factor on the fine half-plane.

    (1 + exp(2πi f))/2 along each axis, f in cycles per fine px; zero at the fine Nyquist frequency.
    """
    rows, columns = fourier.fftfreq_axes(fine, device)
    return (1.0 + torch.exp(2j * math.pi * rows)) / 2.0 * ((1.0 + torch.exp(2j * math.pi * columns)) / 2.0)
