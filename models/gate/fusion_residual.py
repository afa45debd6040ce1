"""What a network on top of fusion has to show, on movies it never saw, before it may change an image.

Everything is tested on frames that are not part of its input, in the sense of the normal equations: a change u of the
fused image x predicts them better by 2 Re u·(B − K x) − u·K u. Each band has its own λ, the share of the change that
these frames confirm; where chance explains it, λ is 0 and the fused image is kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from msgspec import Struct
from torch import Tensor

from models.networks.fusion_residual import EDGES, correct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.networks.fusion_residual import FusionExample, FusionResidualNet

_PARTS = 4
"""The groups are left out in this many turns."""
_DRAWS = 1000
_GAIN_MARGIN = 0.01
"""Share of the fused image's own gain that a first version must add, at the lower end of its interval."""
LEAST_HELD_OUT = 2


class FusionScore(Struct, frozen=True, kw_only=True):
    """How one network performs on one movie that it never saw."""

    movie_id: str
    gain: float
    """How much better unseen frames are predicted than by the fused image, as a share of what the latter predicts."""
    gain_beyond: float
    """The same for the bands beyond the physical Nyquist frequency alone."""


class FusionDecision(Struct, frozen=True, kw_only=True):
    """The verdict and its reason."""

    promoted: bool
    reason: str
    weight: list[tuple[float, float]]
    """λ as (spatial frequency in 1/Å, value), one point per band."""
    scores: list[FusionScore]
    incumbent: list[FusionScore] = []


def band_sums(net: FusionResidualNet, example: FusionExample) -> Tensor:
    """How left-out frames rate each band's change and the fused image there: (tiles, 7, 4) float64.

    Columns: Re u·(B − K x), u·K u; Re x_b·B, x_b·K x with x_b the fused image's own band.
    """
    with torch.inference_mode():
        turns = [_turn(net, example, part) for part in range(min(_PARTS, len(example)))]
    return torch.stack(turns).sum(0)


def _turn(net: FusionResidualNet, example: FusionExample, part: int) -> Tensor:
    left_out = torch.arange(len(example)) % _PARTS == part
    tiles, grid, columns = torch.arange(example.n_tiles), example.grid, slice(1, -1)
    fused, noise = example.fused(~left_out, tiles)
    unseen, sums = example.equations(left_out, tiles)
    changes, bands = correct(net, fused, noise)
    x = grid.aliases(fused)
    seen = sums * grid.transfer.conj()[:, None]
    predicted = unseen.apply(x)

    def product(a: Tensor, b: Tensor) -> Tensor:
        # the half-plane's own columns would count coefficients twice: they are left out
        return (a[..., columns].conj() * b[..., columns]).real.sum((0, 2, 3), dtype=torch.float64).cpu()

    rows = []
    for change, band in zip(changes.unbind(1), bands.unbind(1), strict=True):
        u, own = grid.aliases(change), grid.aliases(band)
        rows.append(
            [product(u, seen - predicted), product(u, unseen.apply(u)), product(own, seen), product(own, predicted)]
        )
    return torch.stack([torch.stack(row, -1) for row in rows], 1)


def measure_weight(tables: Sequence[Tensor], seed: int = 0) -> list[float]:
    """λ per band of several movies' ``band_sums``: 0 where the 95 % interval over tiles reaches 0."""
    sums = torch.cat([table[..., :2] for table in tables])
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(sums), (_DRAWS, len(sums)), generator=generator)
    weights = []
    for band in range(sums.shape[1]):
        resampled = sums[draws, band].sum(1)
        lower = float(torch.quantile(resampled[:, 0] / resampled[:, 1].clamp(min=1e-300), 0.025))
        best = float(sums[:, band, 0].sum() / sums[:, band, 1].sum().clamp(min=1e-300))
        kept = math.isfinite(best) and lower > 0.0
        weights.append(round(min(1.0, max(0.0, best)), 4) if kept else 0.0)
    return weights


def gains(table: Tensor, weight: Sequence[float]) -> Tensor:
    """Gain of the merged image over the fused one by band, and what the fused one itself predicts: (7, 2)."""
    lam = torch.tensor(list(weight), dtype=torch.float64)
    sums = table.sum(0)
    gain = 2.0 * lam * sums[:, 0] - lam.square() * sums[:, 1]
    return torch.stack([gain, 2.0 * sums[:, 2] - sums[:, 3]], -1)


def score(movie_id: str, table: Tensor, weight: Sequence[float]) -> FusionScore:
    """Figures of one movie."""
    both = gains(table, weight)
    beyond = both[[low >= 0.25 for low in EDGES[:-1]]].sum(0)
    whole = both.sum(0)
    return FusionScore(movie_id=movie_id, gain=_share(whole), gain_beyond=_share(beyond))


def _share(gain_and_own: Tensor) -> float:
    gain, own = gain_and_own.tolist()
    return gain / own if own > 0.0 else 0.0


def judge(
    net: FusionResidualNet,
    held_out: Sequence[FusionExample],
    *,
    incumbent: tuple[FusionResidualNet, Sequence[tuple[float, float]]] | None,
    trained_on: frozenset[str],
    seed: int = 0,
) -> FusionDecision:
    """Decide whether a candidate is promoted: better than the fused image and the serving version on unseen movies."""

    def no(reason: str) -> FusionDecision:
        return FusionDecision(promoted=False, reason=reason, weight=[], scores=[])

    leaked = trained_on.intersection(example.movie_id for example in held_out)
    if leaked:
        return no(f"{len(leaked)} held-out movies were trained on")
    if len(held_out) < LEAST_HELD_OUT:
        return no(f"{len(held_out)} held-out movies, needs {LEAST_HELD_OUT}")
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        return no("weights are not finite")
    tables = [band_sums(net, example) for example in held_out]
    if not all(bool(torch.isfinite(table).all()) for table in tables):
        return no("a figure is not finite")
    weight = measure_weight(tables, seed)
    names = [example.movie_id for example in held_out]
    # λ is measured on these movies: the score of each uses the λ of the others
    apart = [measure_weight([*tables[:i], *tables[i + 1 :]], seed) for i in range(len(tables))]
    scores = [score(name, table, lam) for name, table, lam in zip(names, tables, apart, strict=True)]
    before = []
    if incumbent is not None:
        lam = [value for _, value in incumbent[1]]
        before = [score(example.movie_id, band_sums(incumbent[0], example), lam) for example in held_out]
    lower = lower_bound([a.gain - b for a, b in zip(scores, _gains_of(before, len(scores)), strict=True)], seed)
    needed = 0.0 if before else _GAIN_MARGIN
    than = "the serving version" if before else "the fused image"
    promoted = any(weight) and lower > needed
    reason = f"unseen frames are predicted at least {lower:+.2%} better than by {than}, needs more than {needed:.0%}"
    lam_points = points(weight, held_out[0].sums.pixel_size)
    return FusionDecision(promoted=promoted, reason=reason, weight=lam_points, scores=scores, incumbent=before)


def points(weight: Sequence[float], pixel_size: float) -> list[tuple[float, float]]:
    """Middle of each band in 1/Å with its λ; ``pixel_size`` is the physical one."""
    ends = (*EDGES[:-1], 0.5)
    middles = [(low + high) / pixel_size for low, high in zip(ends, ends[1:], strict=False)]
    return [(round(middle, 5), lam) for middle, lam in zip(middles, weight, strict=True)]


def _gains_of(scores: Sequence[FusionScore], count: int) -> list[float]:
    return [one.gain for one in scores] or [0.0] * count


def lower_bound(values: Sequence[float], seed: int) -> float:
    """Lower end of the 95 % interval of a mean over movies."""
    each = torch.tensor(values, dtype=torch.float64)
    draws = torch.randint(len(each), (_DRAWS, len(each)), generator=torch.Generator().manual_seed(seed))
    return float(torch.quantile(each[draws].mean(1), 0.05))
