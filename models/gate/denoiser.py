"""The gate: what a candidate has to show, on movies it never saw, before it may be used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from msgspec import Struct

from models.gate.probes import cost_per_megapixel, probes
from models.gate.scoring import changes_of, score, scored, weight_of
from models.gate.shells import shell_figures, shell_sums
from models.manifest import Figures, MovieScore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.networks.denoiser import Denoiser
    from models.training.movie import TrainingMovie


class Decision(Struct, frozen=True, kw_only=True):
    """The verdict and its reason."""

    result: Literal["promoted", "rejected", "deferred"]
    reason: str
    figures: Figures | None = None


class Thresholds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions for promotion; the defaults are the product's promise and are not meant to be tuned."""

    least_held_out: int = 2
    first_gain: float = 1.3
    """SNBR* over that of the movie's own Wiener filter, on each held-out movie, that a first version needs where no
    network has been tried on the specimen; where one serves, the version has to beat what is served."""
    first_gain_served: float = 1.05
    """The same where another network serves already."""
    worse_share: float = 0.05
    """By how much SNBR* may be below the serving network's on a single held-out movie."""
    loss_margin: float = 0.005
    """Upper 95 % bound of the relative loss difference from the incumbent."""
    bias_ratio_growth: float = 1.05
    bias_ratio_growth_few: float = 1.2
    """The same below 32 held-out movies."""
    bias_ratio_cap: float = 1.0
    noise_coherence: float = 0.05
    blank_contrast: float = 0.1
    injected_low: float = 0.6
    injected_high: float = 1.5
    apply_s_per_megapixel: float = 60.0
    """Of the band; as long as a live system can wait."""
    apply_gib_per_megapixel: float = 16.0
    """GPU memory."""


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
    known: dict[str, MovieScore] | None = None,
) -> Decision:
    """Decide whether a candidate is promoted.

    Parameters
    ----------
    held_out : movies with significant signal that were never trained on.
    incumbent : the serving net and its λ, or None for a first promotion.
    trained_on : ids of the movies the candidate learned from; none of them may be held out.
    first : whether the candidate has to beat the Wiener filter on each movie, as it must unless it follows a version of
        its own session; None: only if there is no incumbent. Serving base weights have shown it on other sessions only.
    known : the incumbent's scores by movie id, as far as they are known; new ones are added.
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
    changes = [changes_of(net, movie) for movie in held_out]
    weight = weight_of(changes, held_out, seed)
    judged = [scored(net, movie, weight, changed) for movie, changed in zip(held_out, changes, strict=True)]
    scores = [one for one, _ in judged]
    probed = probes(net, held_out, seed)
    before = _of_incumbent(incumbent, held_out, {} if known is None else known) if incumbent else []
    finest = max(2.0 * movie.band.band_pixel_size for movie in held_out)
    pairs = zip(judged, held_out, strict=True)
    sums = [shell_sums(torch.stack(parts), movie.band, finest) for (_, parts), movie in pairs]
    shells = shell_figures(sums, finest)
    figures = Figures(scores=scores, weight=weight, probes=probed, incumbent=before, shells=shells)
    reason = (
        _not_finite(scores, probed)
        or probe_failure(probed, thresholds)
        or (_first_failure(scores, thresholds, served=bool(before)) if first else "")
        or (_not_better(scores, before, thresholds, seed) if incumbent else "")
    )
    if reason:
        return Decision(result="rejected", reason=reason, figures=figures)
    return Decision(result="promoted", reason="all conditions hold", figures=figures)


def _of_incumbent(
    incumbent: tuple[Denoiser, Sequence[tuple[float, float]]],
    held_out: Sequence[TrainingMovie],
    known: dict[str, MovieScore],
) -> list[MovieScore]:
    """The incumbent's scores on the same movies; known ones are not computed again."""
    for movie in held_out:
        if movie.movie_id not in known:
            known[movie.movie_id] = score(incumbent[0], movie, incumbent[1])
    return [known[movie.movie_id] for movie in held_out]


def _not_finite(scores: Sequence[MovieScore], probed: dict[str, float]) -> str:
    values = [*probed.values(), *(v for s in scores for v in (s.snbr, s.bias_ratio, s.loss))]
    return "" if all(math.isfinite(v) for v in values) else "a figure is not finite"


def probe_failure(probed: dict[str, float], limits: Thresholds) -> str:
    """Which probe shows that the net invents signal; empty if none does."""
    for name in ("noise_coherence", "other_movie_coherence"):
        if probed.get(name, 0.0) > limits.noise_coherence:
            return f"{name} {probed[name]:.3f} is above {limits.noise_coherence:g}: it writes a pattern of its own"
    if probed["blank_contrast"] > limits.blank_contrast:
        return f"blank_contrast {probed['blank_contrast']:.3f} is above {limits.blank_contrast:g}"
    weak = probed.get("injected_weak", 1.0)
    if weak > limits.injected_high:
        return f"a weak injected signal comes back at {weak:.2f} times what the Wiener filter returns: amplified"
    injected = probed.get("injected", 1.0)
    if not limits.injected_low <= injected <= limits.injected_high:
        allowed = f"{limits.injected_low:g} to {limits.injected_high:g}"
        return (
            f"an injected signal comes back at {injected:.2f} times what the Wiener filter returns, allowed {allowed}"
        )
    return ""


def _first_failure(scores: Sequence[MovieScore], limits: Thresholds, *, served: bool = False) -> str:
    needed = limits.first_gain_served if served else limits.first_gain
    for one in scores:
        if one.snbr < needed * one.snbr_wiener:
            gain = one.snbr / one.snbr_wiener
            return f"SNBR* is {gain:.2f} times the Wiener filter's on {one.movie_id}, needs {needed:g}"
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
        return f"mean loss is {float(relative.mean()):+.2%} against the incumbent's"
    if upper > limits.loss_margin:
        return f"upper bound of the loss difference is {upper:+.2%}, allowed {limits.loss_margin:+.1%}"
    if bias > limits.bias_ratio_cap or bias > max(growth * bias_before, 0.02):
        return f"bias ratio {bias:.3f} against the incumbent's {bias_before:.3f}"
    if snbr < snbr_before:
        return f"SNBR* {snbr:.3f} is below the incumbent's {snbr_before:.3f}"
    for one, other in zip(scores, before, strict=True):
        if one.snbr < (1.0 - limits.worse_share) * other.snbr:
            return f"SNBR* {one.snbr:.3f} is below the incumbent's {other.snbr:.3f} on {one.movie_id}"
    return ""
