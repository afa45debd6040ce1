"""The gate: what a candidate has to show, on movies it never saw, before it may serve.

Figures come from frame groups: SNBR* from the even against the odd groups, losses and λ from four fifths of the
groups against the last fifth, turned round until each group was the target once. Nothing here knows how a candidate
was trained; it only looks at what it does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from msgspec import Struct
from torch import Tensor

from models.manifest import Figures, MovieScore
from models.noise2noise import Denoiser, infer
from models.probes import cost_per_megapixel, probes
from models.shells import shell_figures, shell_sums
from streamer import fourier, quality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.training_movie import TrainingMovie

_BAND_EDGES = (100.0, 40.0, 20.0, 12.0, 8.0, 6.0, 4.0, 3.0)
"""Å, coarse to fine: λ is measured between neighbours."""
_TILES = 4
"""Per side: the bootstrap for λ draws tiles, because two movies alone have no spread."""


class Decision(Struct, frozen=True, kw_only=True):
    """The verdict and its reason."""

    result: Literal["promoted", "rejected", "deferred"]
    reason: str
    figures: Figures | None = None


class Thresholds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to hold; the defaults are the product's promise and are not meant to be tuned."""

    least_held_out: int = 2
    first_gain: float = 1.3
    """SNBR* over that of the movie's own Wiener filter, on each held-out movie, before anything may serve."""
    loss_margin: float = 0.005
    """Upper 95 % bound of the relative loss difference to the incumbent."""
    bias_ratio_growth: float = 1.05
    bias_ratio_growth_few: float = 1.2
    """The same below 32 held-out movies."""
    bias_ratio_cap: float = 1.0
    noise_coherence: float = 0.05
    blank_contrast: float = 0.1
    injected_low: float = 0.6
    injected_high: float = 1.5
    apply_s_per_megapixel: float = 60.0
    """Of the band; what a live system can wait for."""
    apply_gib_per_megapixel: float = 16.0
    """GPU memory."""


# ------------------------------------------------------------------------------------------------- applying a net


def outputs(net: Denoiser, movie: TrainingMovie, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whitened spectra of a part of a movie: raw M, Wiener estimate W·M and the net's f, each (h', w'//2+1)."""
    micrograph, wiener, _ = movie.part(chosen)
    raw, linear, _ = movie.inputs(chosen)
    inner = torch.fft.rfft2(infer(net, raw, linear)) * movie.window
    estimate = micrograph * wiener
    # the net sees and gives W·M through the band's window; where that fades the Wiener estimate stays
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


def _folds(n: int) -> list[Tensor]:
    """Masks of the groups that are input: each group is left out once, about a fifth at a time."""
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
    return _scored(net, movie, weight)[0]


def _scored(
    net: Denoiser, movie: TrainingMovie, weight: Sequence[tuple[float, float]]
) -> tuple[MovieScore, tuple[Tensor, Tensor]]:
    """Score, and the ring sums (7, rings) of the Wiener filter and of the net that it comes from."""
    shape, plane = movie.band.small, _plane(weight, movie)
    even = torch.zeros(len(movie), dtype=torch.bool)
    even[0::2] = True
    halves = [outputs(net, movie, chosen) for chosen in (even, ~even)]
    raw, linear, merged = (
        (quality.tapered(pair[0], shape), quality.tapered(pair[1], shape))
        for pair in (
            [h[0] for h in halves],
            [h[1] for h in halves],
            [torch.lerp(h[1], h[2], plane.to(h[1].dtype)) for h in halves],
        )
    )
    mask = quality.band_mask(shape, movie.band.band_pixel_size, movie.band.low, 2.0 * movie.band.band_pixel_size)
    sums = {
        name: quality.estimate(raw, denoised, shape)
        for name, denoised in (("raw", raw), ("wiener", linear), ("net", merged))
    }
    figures = {name: quality.pooled(rings, mask) for name, rings in sums.items()}
    net_figures = figures["net"]
    loss, loss_wiener, held_out = _against_left_out(net, movie, plane, mask)
    transferred = net_figures.gamma**2 * net_figures.signal
    found = MovieScore(
        movie_id=movie.movie_id,
        snbr_raw=float(figures["raw"].snbr),
        snbr_wiener=float(figures["wiener"].snbr),
        snbr=float(net_figures.snbr),
        bias_ratio=float(net_figures.bias / transferred),
        loss=loss,
        loss_wiener=loss_wiener,
        snbr_held_out=quality.finite(held_out),
    )
    return found, (sums["wiener"], sums["net"])


def _against_left_out(net: Denoiser, movie: TrainingMovie, plane: Tensor, mask: Tensor) -> tuple[float, float, float]:
    """Mean squared distance of the merged output and of the Wiener estimate from left-out groups, and SNBR* by them."""
    total, total_wiener, folds = 0.0, 0.0, _folds(len(movie))
    small, sums = movie.band.small, []
    for chosen in folds:
        micrograph, linear, proposed = outputs(net, movie, chosen)
        _, _, squares = movie.part(chosen)
        target = movie.target(~chosen, squares)
        merged = torch.lerp(linear, proposed, plane.to(linear.dtype)) * movie.window
        total += float((fourier.to_image(merged, small) - target).square().mean())
        total_wiener += float((fourier.to_image(linear * movie.window, small) - target).square().mean())
        raw, denoised, held_out = (
            quality.tapered(s, small) for s in (micrograph * movie.window, merged, torch.fft.rfft2(target))
        )
        sums.append(quality.estimate_held_out(raw, denoised, held_out, small)[:, mask].sum(-1))
    snbr = float(quality.ratios(torch.stack(sums).sum(0)).snbr)
    return total / len(folds), total_wiener / len(folds), snbr


def measure_weight(net: Denoiser, movies: Sequence[TrainingMovie], seed: int = 0) -> list[tuple[float, float]]:
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
    tables = torch.cat([_tile_sums(net, movie, edges) for movie in movies])  # (tiles, bands, 2)
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


def _tile_sums(net: Denoiser, movie: TrainingMovie, edges: Sequence[float]) -> Tensor:
    """(tiles, bands, 2): Σ u (T − W·M) and Σ u² in each tile, over all folds."""
    small = movie.band.small
    radius = fourier.radius(small, movie.spectra.device) / movie.band.band_pixel_size
    sums = torch.zeros((_TILES * _TILES, len(edges) - 1, 2), dtype=torch.float64)
    for chosen in _folds(len(movie)):
        _, linear, proposed = outputs(net, movie, chosen)
        _, _, squares = movie.part(chosen)
        missing = torch.fft.rfft2(movie.target(~chosen, squares)) - linear * movie.window
        change = (proposed - linear) * movie.window
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


# ------------------------------------------------------------------------------------------------------ decision


def judge(
    net: Denoiser,
    held_out: Sequence[TrainingMovie],
    *,
    incumbent: tuple[Denoiser, Sequence[tuple[float, float]]] | None,
    thresholds: Thresholds,
    trained_on: frozenset[str],
    seed: int = 0,
    first: bool | None = None,
) -> Decision:
    """Decide whether a candidate may serve.

    Parameters
    ----------
    held_out : movies with significant signal that were never trained on.
    incumbent : the serving net and its λ, or None for a first promotion.
    trained_on : ids of the movies the candidate learned from; none of them may be held out.
    first : whether the candidate has to show that it beats the Wiener filter on each movie, as all that follows no
        version of its own session; None: where nothing serves. Base weights that serve have shown it elsewhere only.
    """
    first = incumbent is None if first is None else first
    leaked = trained_on.intersection(movie.movie_id for movie in held_out)
    if leaked:
        return Decision(result="rejected", reason=f"{len(leaked)} held-out movies were trained on")
    if len(held_out) < thresholds.least_held_out:
        return Decision(result="deferred", reason=f"{len(held_out)} held-out movies, needs {thresholds.least_held_out}")
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        return Decision(result="rejected", reason="weights are not finite")
    seconds, gib = cost_per_megapixel(net, held_out[-1])
    if seconds > thresholds.apply_s_per_megapixel or gib > thresholds.apply_gib_per_megapixel:
        found = f"{seconds:.0f} s and {gib:.1f} GiB"
        allowed = f"{thresholds.apply_s_per_megapixel:g} s and {thresholds.apply_gib_per_megapixel:g} GiB"
        return Decision(result="rejected", reason=f"it takes {found} per megapixel, allowed {allowed}")
    weight = measure_weight(net, held_out, seed)
    scored = [_scored(net, movie, weight) for movie in held_out]
    scores = [one for one, _ in scored]
    probed = probes(net, held_out, seed)
    before = [score(incumbent[0], movie, incumbent[1]) for movie in held_out] if incumbent else []
    finest = max(2.0 * movie.band.band_pixel_size for movie in held_out)
    pairs = zip(scored, held_out, strict=True)
    sums = [shell_sums(torch.stack(parts), movie.band, finest) for (_, parts), movie in pairs]
    shells = shell_figures(sums, finest)
    figures = Figures(scores=scores, weight=weight, probes=probed, incumbent=before, shells=shells)
    reason = (
        _not_finite(scores, probed)
        or probe_failure(probed, thresholds)
        or (_first_failure(scores, thresholds) if first else "")
        or (_not_better(scores, before, thresholds, seed) if incumbent else "")
    )
    if reason:
        return Decision(result="rejected", reason=reason, figures=figures)
    return Decision(result="promoted", reason="all conditions hold", figures=figures)


def _not_finite(scores: Sequence[MovieScore], probed: dict[str, float]) -> str:
    values = [*probed.values(), *(v for s in scores for v in (s.snbr, s.bias_ratio, s.loss))]
    return "" if all(math.isfinite(v) for v in values) else "a figure is not finite"


def probe_failure(probed: dict[str, float], limits: Thresholds) -> str:
    """Which probe says that the net invents; empty where none does."""
    for name in ("noise_coherence", "other_movie_coherence"):
        if probed.get(name, 0.0) > limits.noise_coherence:
            return f"{name} {probed[name]:.3f} is above {limits.noise_coherence:g}: it writes a pattern of its own"
    if probed["blank_contrast"] > limits.blank_contrast:
        return f"blank_contrast {probed['blank_contrast']:.3f} is above {limits.blank_contrast:g}"
    weak = probed.get("injected_weak", 1.0)
    if weak > limits.injected_high:
        return f"a weak injected signal comes back {weak:.2f} times what the Wiener filter gives: louder than it is"
    injected = probed.get("injected", 1.0)
    if not limits.injected_low <= injected <= limits.injected_high:
        allowed = f"{limits.injected_low:g} to {limits.injected_high:g}"
        return f"an injected signal comes back {injected:.2f} times what the Wiener filter gives, allowed {allowed}"
    return ""


def _first_failure(scores: Sequence[MovieScore], limits: Thresholds) -> str:
    for one in scores:
        if one.snbr < limits.first_gain * one.snbr_wiener:
            gain = one.snbr / one.snbr_wiener
            return f"SNBR* is {gain:.2f} times the Wiener filter's on {one.movie_id}, needs {limits.first_gain:g}"
        if one.bias_ratio > limits.bias_ratio_cap:
            return f"bias ratio {one.bias_ratio:.2f} is above {limits.bias_ratio_cap:g} on {one.movie_id}"
    return ""


def _not_better(scores: Sequence[MovieScore], before: Sequence[MovieScore], limits: Thresholds, seed: int) -> str:
    """Paired test against the incumbent on the same movies."""
    new, old = (torch.tensor([s.loss for s in group], dtype=torch.float64) for group in (scores, before))
    relative = (new - old) / old
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(relative), (1000, len(relative)), generator=generator)
    upper = float(torch.quantile(relative[draws].mean(1), 0.95))
    growth = limits.bias_ratio_growth if len(scores) >= 32 else limits.bias_ratio_growth_few
    bias, bias_before = (sum(s.bias_ratio for s in group) / len(group) for group in (scores, before))
    snbr, snbr_before = (sum(s.snbr for s in group) / len(group) for group in (scores, before))
    if float(relative.mean()) > 0.0:
        return f"mean loss is {float(relative.mean()):+.2%} of the incumbent's"
    if upper > limits.loss_margin:
        return f"upper bound of the loss difference is {upper:+.2%}, allowed {limits.loss_margin:+.1%}"
    if bias > limits.bias_ratio_cap or bias > max(growth * bias_before, 0.02):
        return f"bias ratio {bias:.3f} against the incumbent's {bias_before:.3f}"
    if snbr < snbr_before:
        return f"SNBR* {snbr:.3f} is below the incumbent's {snbr_before:.3f}"
    return ""
