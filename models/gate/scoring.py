"""What a net does to movies that it never saw, and how far its corrections are confirmed: λ.

Figures come from frame groups: SNBR* from the even against the odd groups, losses and λ from four fifths of the
groups against the remaining fifth, rotated until each group has been the target once. Nothing here depends on how a net
was trained, only on what it does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.manifest import MovieScore
from models.networks.denoiser import Denoiser, bounded, infer
from streamer import fourier
from streamer.quality import estimators

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.training.movie import TrainingMovie

_BAND_EDGES = (100.0, 40.0, 20.0, 12.0, 8.0, 6.0, 4.0, 3.0)
"""Å, coarse to fine: λ is measured between neighbours."""
_TILES = 4
"""Per side: the bootstrap for λ draws tiles, because two movies alone have no spread."""


# ------------------------------------------------------------------------------------------------- applying a net


def outputs(net: Denoiser, movie: TrainingMovie, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whitened spectra of a part of a movie: raw M, Wiener estimate W·M and the net's f, each (h', w'//2+1)."""
    micrograph, wiener, _ = movie.part(chosen)
    raw, linear, _ = movie.inputs(chosen)
    inner = torch.fft.rfft2(bounded(infer(net, raw, linear), linear)) * movie.window
    estimate = micrograph * wiener
    # the net sees and returns W·M through the band's window; where that fades, the Wiener estimate remains
    return micrograph, estimate, estimate + inner - estimate * movie.window**2


def weight_curve(weight: Sequence[tuple[float, float]], frequency: Tensor) -> Tensor:
    """λ at spatial frequencies in 1/Å, linear between the measured points, 0 beyond the last; float64."""
    if not weight:
        return torch.zeros_like(frequency, dtype=torch.float64)
    points = torch.tensor(weight, dtype=torch.float64)
    x, y = points[:, 0].contiguous(), points[:, 1].contiguous()
    f = frequency.double().cpu()
    index = torch.searchsorted(x, f).clamp(1, max(1, len(x) - 1))
    if len(x) == 1:
        return torch.where(f <= x[0], y[0], torch.zeros_like(f)).to(frequency.device)
    low, high = x[index - 1], x[index]
    values = torch.lerp(y[index - 1], y[index], ((f - low) / (high - low)).clamp(0.0, 1.0))
    return torch.where(f <= x[-1], values, torch.zeros_like(values)).to(frequency.device)


def _plane(weight: Sequence[tuple[float, float]], movie: TrainingMovie) -> Tensor:
    rings = fourier.ring_frequencies(movie.band.small) / movie.band.band_pixel_size
    return fourier.from_rings(weight_curve(weight, rings), movie.band.small, movie.spectra.device)


def changes_of(net: Denoiser, movie: TrainingMovie) -> list[Tensor]:
    """What the net changes, f − W·M, for each of ``_folds``, (h', w'//2+1): λ and the loss both need it."""
    changes = []
    for chosen in _folds(len(movie)):
        _, linear, proposed = outputs(net, movie, chosen)
        changes.append(proposed - linear)
    return changes


def _folds(n: int) -> list[Tensor]:
    """Masks of the input groups: each group is left out once, about a fifth at a time."""
    size = max(1, n // 5)
    masks = []
    for start in range(0, n - size + 1, size):
        mask = torch.ones(n, dtype=torch.bool)
        mask[start : start + size] = False
        masks.append(mask)
    return masks


# ------------------------------------------------------------------------------------------------------- figures


def score(net: Denoiser, movie: TrainingMovie, weight: Sequence[tuple[float, float]]) -> MovieScore:
    """Score a net with its λ on one movie."""
    return scored(net, movie, weight, changes_of(net, movie))[0]


def scored(
    net: Denoiser, movie: TrainingMovie, weight: Sequence[tuple[float, float]], changes: list[Tensor]
) -> tuple[MovieScore, tuple[Tensor, Tensor]]:
    """Score, and the ring sums (7, rings) of the Wiener filter and of the net that it comes from."""
    shape, plane = movie.band.small, _plane(weight, movie)
    even = torch.zeros(len(movie), dtype=torch.bool)
    even[0::2] = True
    halves = [outputs(net, movie, chosen) for chosen in (even, ~even)]
    raw, linear, merged = (
        (estimators.tapered(pair[0], shape), estimators.tapered(pair[1], shape))
        for pair in (
            [h[0] for h in halves],
            [h[1] for h in halves],
            [torch.lerp(h[1], h[2], plane.to(h[1].dtype)) for h in halves],
        )
    )
    mask = estimators.band_mask(shape, movie.band.band_pixel_size, movie.band.low, 2.0 * movie.band.band_pixel_size)
    sums = {
        name: estimators.estimate(raw, denoised, shape)
        for name, denoised in (("raw", raw), ("wiener", linear), ("net", merged))
    }
    figures = {name: estimators.pooled(rings, mask) for name, rings in sums.items()}
    net_figures = figures["net"]
    loss, loss_wiener, held_out = _against_left_out(movie, changes, plane, mask)
    transferred = net_figures.gamma**2 * net_figures.signal
    found = MovieScore(
        movie_id=movie.movie_id,
        snbr_raw=float(figures["raw"].snbr),
        snbr_wiener=float(figures["wiener"].snbr),
        snbr=float(net_figures.snbr),
        bias_ratio=float(net_figures.bias / transferred),
        loss=loss,
        loss_wiener=loss_wiener,
        snbr_held_out=estimators.finite(held_out),
    )
    return found, (sums["wiener"], sums["net"])


def _against_left_out(
    movie: TrainingMovie, changes: list[Tensor], plane: Tensor, mask: Tensor
) -> tuple[float, float, float]:
    """Mean squared distance of the merged output and of the Wiener estimate from left-out groups, and SNBR* by them."""
    total, total_wiener, folds = 0.0, 0.0, _folds(len(movie))
    small, sums = movie.band.small, []
    for chosen, change in zip(folds, changes, strict=True):
        micrograph, wiener, squares = movie.part(chosen)
        linear = micrograph * wiener
        target = movie.target(~chosen, squares)
        merged = (linear + plane * change) * movie.window
        total += float((fourier.to_image(merged, small) - target).square().mean())
        total_wiener += float((fourier.to_image(linear * movie.window, small) - target).square().mean())
        raw, denoised, held_out = (
            estimators.tapered(s, small) for s in (micrograph * movie.window, merged, torch.fft.rfft2(target))
        )
        sums.append(estimators.estimate_held_out(raw, denoised, held_out, small)[:, mask].sum(-1))
    snbr = float(estimators.ratios(torch.stack(sums).sum(0)).snbr)
    return total / len(folds), total_wiener / len(folds), snbr


def measure_weight(net: Denoiser, movies: Sequence[TrainingMovie], seed: int = 0) -> list[tuple[float, float]]:
    """λ per band of a net on some movies."""
    return weight_of([changes_of(net, movie) for movie in movies], movies, seed)


def weight_of(changes: Sequence[list[Tensor]], movies: Sequence[TrainingMovie], seed: int) -> list[tuple[float, float]]:
    """λ per band: the share of the net's correction that left-out frames confirm.

    With u = f − W·M and the target T of left-out groups, λ* = Σ u (T − W·M)/Σ u² minimises the distance from the
    signal, because the target's noise is independent of u. Sums are taken per tile; a band whose 95 % bootstrap
    interval (over movies and tiles) of λ reaches 0 gets 0.

    Returns
    -------
    Points (spatial frequency in 1/Å, λ), ascending, ending with 0 at the band's end.
    """
    finest = max(2.0 * movie.band.band_pixel_size for movie in movies)
    edges = [edge for edge in _BAND_EDGES if edge > finest * 1.05] + [finest]
    generator = torch.Generator().manual_seed(seed)
    points: list[tuple[float, float]] = []
    tables = torch.cat(
        [_tile_sums(movie, changed, edges) for movie, changed in zip(movies, changes, strict=True)]
    )  # (tiles, bands, 2)
    draws = torch.randint(len(tables), (500, len(tables)), generator=generator)
    for band, (coarse, fine) in enumerate(zip(edges, edges[1:], strict=False)):
        sums = tables[:, band]
        resampled = sums[draws].sum(1)
        ratios = resampled[:, 0] / resampled[:, 1].clamp(min=1e-30)
        lower = float(torch.quantile(ratios, 0.025))
        best = float(sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1e-30))
        value = min(1.0, max(0.0, best)) if lower > 0.0 and math.isfinite(best) else 0.0
        points.append((0.5 * (1.0 / coarse + 1.0 / fine), round(value, 4)))
    return [(1.0 / edges[0], points[0][1]), *points, (1.0 / finest, 0.0)]


def _tile_sums(movie: TrainingMovie, changes: list[Tensor], edges: Sequence[float]) -> Tensor:
    """(tiles, bands, 2): Σ u (T − W·M) and Σ u² in each tile, over all folds."""
    small = movie.band.small
    radius = fourier.radius(small, movie.spectra.device) / movie.band.band_pixel_size
    sums = torch.zeros((_TILES * _TILES, len(edges) - 1, 2), dtype=torch.float64)
    for chosen, changed in zip(_folds(len(movie)), changes, strict=True):
        micrograph, wiener, squares = movie.part(chosen)
        missing = torch.fft.rfft2(movie.target(~chosen, squares)) - micrograph * wiener * movie.window
        change = changed * movie.window
        for band, (coarse, fine) in enumerate(zip(edges, edges[1:], strict=False)):
            inside = (radius >= 1.0 / coarse) & (radius < 1.0 / fine)
            u, v = (fourier.to_image(s * inside, small) for s in (change, missing))
            for part, product in enumerate((u * v, u * u)):
                sums[:, band, part] += _tiled(product)
    return sums


def _tiled(image: Tensor) -> Tensor:
    """(tiles,) float64 sums of an image over a grid of tiles."""
    height, width = (size // _TILES * _TILES for size in image.shape)
    cut = image[:height, :width].double().reshape(_TILES, height // _TILES, _TILES, width // _TILES)
    return cut.sum((1, 3)).flatten().cpu()
