"""Separating the aliases: normal equations of many shifted frames, tile by tile.

On the grid of half the pixel size every coarse frequency f comprises four fine ones, F_a = f − Δ_a, Δ ∈ {0, 1}² cycles
per px. A frame with shift s sees Y(f) = Σ_a A(F_a) X(F_a) + noise, A = w(F) h(F) exp(2πi F·s), w the damage and h the
detector's transfer. All frames together give K X = B with the 4×4 Hermitian matrix

    B_a = Σ_t conj(A_t(F_a)) Y_t,   K_ab = Σ_t conj(A_t(F_a)) A_t(F_b) = h_a* h_b G_ab(z_a + z_b),
    G_ab(z) = Σ_t exp(−N_t z) exp(2πi (Δ_a − Δ_b)·s_t)

G is nine curves of the decay rate z per tile, tabulated instead of summed over frames at every frequency. With a prior
(K + σ²/P) X = B is the most probable image. Source: Tsai & Huang 1984 for the aliases, Hardie et al. 1997 for the MAP.

The same equations say how well an image predicts frames that it was not made from, without reading these again:
Σ_t |Y_t − A_t X|² = const − 2 Re X·B + X·K X.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import dose, fourier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALIASES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Whole cycles per px, (y, x), by which each fine frequency lies below the coarse one."""
_TABLE = 257
_AT_ONCE = 8
"""Tiles whose matrices are in memory at a time."""
_SINGULAR = 1e-6
"""Least pivot, as a share of the matrix's own diagonal."""


class AliasGrid:
    """The four fine frequencies of each coarse one for tiles of ``side`` px, and what is known about them."""

    def __init__(
        self,
        side: int,
        pixel_size: float,
        voltage_kv: float,
        *,
        weighted: bool,
        blur: Callable[[Tensor], Tensor] | None = None,
        transfer: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Tabulate.

        Parameters
        ----------
        weighted : whether damage is modelled.
        blur : the detector's transfer beyond the pixel's own box, of (…) fftfreq in cycles per physical px.
        transfer : (4, side, side//2+1) box and blur together, where they are known already.
        """
        self.side, self.device = side, torch.device(device)
        self.pixel_size, self.voltage_kv, self.weighted = pixel_size, voltage_kv, weighted
        offsets = torch.tensor(ALIASES, dtype=torch.float32, device=device)
        rows = torch.arange(side, device=device) / side - offsets[:, :1]
        columns = torch.arange(side // 2 + 1, device=device) / side - offsets[:, 1:]
        self.radius = torch.sqrt(rows[:, :, None] ** 2 + columns[:, None, :] ** 2)
        """(4, side, side//2+1) cycles per physical px; the physical Nyquist frequency is 0.5."""
        self.transfer = box_of(rows)[:, :, None] * box_of(columns)[:, None, :]
        if blur is not None:
            self.transfer = self.transfer * blur(self.radius)
        if transfer is not None:
            self.transfer = transfer
        self.power = self.transfer.abs().square()
        in_rows, in_columns = (rows >= -0.5) & (rows < 0.5), (columns > -0.5) & (columns <= 0.5)
        self.is_below = in_rows[:, :, None] & in_columns[:, None, :]
        """(4, …) bool: the alias that the physical grid itself contains."""
        self.rate = dose.decay_rate(self.radius, pixel_size, voltage_kv) * float(weighted)
        """(4, …) z in Å²/e⁻."""

    def sensitivity(self, exposures: Tensor) -> Tensor:
        """Diagonal of K, (4, side, side//2+1): how much frames at exposures (t,) e⁻/Å² say about each alias."""
        found = torch.zeros_like(self.power)
        for exposure in exposures.tolist():
            found += torch.exp(-2.0 * exposure * self.rate)
        return found * self.power

    def rings(self, curve: Tensor) -> Tensor:
        """A radial curve (r,) float64, one value per 1/(2·side) cycles per fine px, at each alias: (4, …)."""
        position = (self.radius * self.side).clamp(max=len(curve) - 1.001)
        low = position.floor().to(torch.int64)
        values = curve.to(device=self.device, dtype=torch.float32)
        return torch.lerp(values[low], values[low + 1], position - low)

    def aliases(self, image: Tensor) -> Tensor:
        """The coefficients (4, n, side, side//2+1) of fine tiles (n, 2·side, 2·side): undoes ``image``."""
        side = self.side
        fine: Tensor = torch.fft.rfft2(image) / 4.0
        rows = torch.arange(side, device=image.device)
        direct = fine[:, :side, : side // 2 + 1], fine[:, side:, : side // 2 + 1]
        mirrored = ((-rows) % (2 * side), (-rows - side) % (2 * side))
        return torch.stack([*direct, *(fine[:, at, side // 2 :].flip(-1).conj() for at in mirrored)])

    def image(self, aliases: Tensor) -> Tensor:
        """Tiles on the fine grid, (n, 2·side, 2·side), of (4, n, side, side//2+1) coefficients."""
        side = self.side
        fine = aliases.new_empty((aliases.shape[1], 2 * side, side + 1))
        rows = torch.arange(side, device=aliases.device)
        # frequencies below the half-plane are read at their mirror image −F; where both reach, the direct are right
        for part, mirrored in ((aliases[2], (-rows) % (2 * side)), (aliases[3], (-rows - side) % (2 * side))):
            fine[:, mirrored, side // 2 :] = part.flip(-1).conj()
        fine[:, :side, : side // 2 + 1] = aliases[0]
        fine[:, side:, : side // 2 + 1] = aliases[1]
        # a coarse coefficient is a quarter of the sum of its four fine ones
        return fourier.to_image(fine, (2 * side, 2 * side)) * 4.0


class NormalEquations:
    """K of a set of frames for each of n tiles."""

    def __init__(self, grid: AliasGrid, fractions: Tensor, exposures: Tensor) -> None:
        """Tabulate G from shifts (t, n, 2) px, of which only the sub-pixel part counts, and exposures (t,) e⁻/Å²."""
        self._grid = grid
        device = grid.device
        self._top = max(2.0 * float(grid.rate.max()), 1e-12)
        z = torch.linspace(0.0, self._top, _TABLE, dtype=torch.float64, device=device)
        decay = torch.exp(-exposures.to(device, torch.float64)[:, None] * z).to(torch.complex128)
        order = torch.arange(-1, 2, dtype=torch.float64, device=device)
        turn = 2.0 * math.pi * fractions.to(device, torch.float64)[..., None] * order
        y, x = torch.polar(torch.ones_like(turn), turn).unbind(2)
        self._table = torch.einsum("tny,tnx,tz->nyxz", y, x, decay).to(torch.complex64)
        """(n, 3, 3, z): G for Δ_a − Δ_b ∈ {−1, 0, 1}²."""

    def solve(self, b: Tensor, prior: Tensor) -> Tensor:
        """Most probable coefficients.

        Parameters
        ----------
        b : (4, n, side, side//2+1) Σ_t w exp(−2πi F·s) Y of these frames, as ``accumulate`` makes it.
        prior : (4, side, side//2+1) σ²/P per coefficient; larger pulls towards 0.

        Returns
        -------
        (4, n, side, side//2+1) on the scale of one undamaged frame.
        """
        solution = torch.empty_like(b)
        for part in self._parts(b.shape[1]):
            matrix = self._matrix(part)
            for a in range(4):
                matrix[a][a] = matrix[a][a] + prior[a]
            right = [b[a, part] * self._grid.transfer[a].conj() for a in range(4)]
            for a, solved in enumerate(_solve_hermitian(matrix, right)):
                solution[a, part] = solved
        return solution

    def apply(self, x: Tensor) -> Tensor:
        """K X, (4, n, side, side//2+1): an image as all frames see it, turned back onto it."""
        seen = torch.zeros_like(x)
        for part in self._parts(x.shape[1]):
            matrix = self._matrix(part)
            for a in range(4):
                for k in range(4):
                    entry = matrix[a][k] if k <= a else matrix[k][a].conj()
                    seen[a, part] += entry * x[k, part]
        return seen

    def residual(self, b: Tensor, x: Tensor) -> Tensor:
        """B − K X, (4, n, side, side//2+1): what an image leaves unexplained of frames, turned back onto it."""
        return b * self._grid.transfer.conj()[:, None] - self.apply(x)

    def _parts(self, n: int) -> Iterator[slice]:
        return (slice(start, min(start + _AT_ONCE, n)) for start in range(0, n, _AT_ONCE))

    def _matrix(self, part: slice) -> list[list[Tensor]]:
        """Lower triangle of K, [a][b ≤ a] of (tiles, side, side//2+1)."""
        transfer, rate = self._grid.transfer, self._grid.rate
        return [
            [transfer[a].conj() * transfer[b] * self._sums(part, a, b, rate[a] + rate[b]) for b in range(a + 1)]
            for a in range(4)
        ]

    def _sums(self, part: slice, a: int, b: int, rate: Tensor) -> Tensor:
        """G_ab, looked up at decay rates (side, side//2+1)."""
        dy, dx = (ALIASES[a][axis] - ALIASES[b][axis] + 1 for axis in (0, 1))
        table = self._table[part, dy, dx]
        position = rate * ((_TABLE - 1) / self._top)
        low = position.floor().clamp_(max=_TABLE - 2)
        index = low.to(torch.int64)
        slope = table[:, 1:] - table[:, :-1]
        return table[:, index].addcmul_(slope[:, index], (position - low).to(torch.complex64))


def _solve_hermitian(lower: list[list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """Solve many small positive definite systems at once by LDLᴴ, written out over planes.

    Parameters
    ----------
    lower : [i][j ≤ i] of (…) complex64.
    right : [i] of (…) complex64.
    """
    n = len(right)
    pivots: list[Tensor] = []
    factor: list[list[Tensor]] = [[] for _ in range(n)]
    for j in range(n):
        pivot = lower[j][j].real.clone()
        floor = pivot * _SINGULAR + 1e-30
        for k in range(j):
            pivot -= (factor[j][k].real.square() + factor[j][k].imag.square()) * pivots[k]
        pivots.append(torch.maximum(pivot, floor))
        for i in range(j + 1, n):
            entry = lower[i][j]
            for k in range(j):
                entry = entry - factor[i][k] * factor[j][k].conj() * pivots[k]
            factor[i].append(entry / pivots[j])
    solved = list(right)
    for i in range(n):
        for k in range(i):
            solved[i] = solved[i] - factor[i][k] * solved[k]
    for i in reversed(range(n)):
        solved[i] = solved[i] / pivots[i]
        for k in range(i + 1, n):
            solved[i] = solved[i] - factor[k][i].conj() * solved[k]
    return solved


def box_of(frequency: Tensor) -> Tensor:
    """Mean over the two fine pixels of a physical one along an axis, (…) complex, of cycles per physical px.

    (1 + exp(πi f))/2: 0 at the fine Nyquist frequency, f = 1.
    """
    return (1.0 + torch.exp(1j * math.pi * frequency)) / 2.0
