"""Whether a figure from halves can be trusted: what other than the specimen could have made them agree.

Halves share everything that is fixed: the detector's pattern, dirt, a network that was trained on them. Each check
looks where the specimen cannot be, and says in words what a failure means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import fourier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.quality import estimators
    from streamer.quality.intervals import Interval

LEAST_COEFFICIENTS = 100.0
"""Shells with fewer say nothing."""
_BANDS = 8
_SURE = 4.5
"""Standard errors."""
_ZERO, _MAXIMUM = 0.15, 0.85
"""|CTF| below and above which a coefficient counts as at a zero or a maximum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of the halves."""

    name: str
    ok: bool
    value: float | None
    """None: there is too little to look at."""
    limit: float | None
    meaning: str
    """What a value above the limit means."""


def leak(figures: estimators.Estimates, intervals: Mapping[str, Interval], counts: Tensor) -> list[Check]:
    """Cauchy-Schwarz and the sign of B⊥, per shell with enough coefficients; a network that knew the noise fails both.

    Parameters
    ----------
    figures, intervals : of shells, (shells,).
    counts : (shells,) independent coefficients in each.
    """
    used = counts.cpu() >= LEAST_COEFFICIENTS
    excess = (intervals["rho2"][0][used] > 1.0).double()
    # a bias that is negative beyond its interval and by more than a hundredth of the signal
    signal = figures.signal.cpu()[used]
    negative = (intervals["bias"][1][used] < -0.01 * signal).double()
    shares = [float(share.mean()) if len(share) else None for share in (excess, negative)]
    return [
        Check(
            name="cauchy_schwarz",
            ok=shares[0] is None or shares[0] <= 0.05,
            value=shares[0],
            limit=0.05,
            meaning="share of shells with ρ² above 1: the denoiser knows the noise of the other half (a leak)",
        ),
        Check(
            name="negative_bias",
            ok=shares[1] is None or shares[1] <= 0.05,
            value=shares[1],
            limit=0.05,
            meaning="share of shells with B⊥ below 0: the denoiser was trained on these halves (a leak), or the sample "
            "is too small",
        ),
    ]


def fine_end(sums: Tensor, counts: Tensor) -> Check:
    """Whether the halves agree more in the finest tenth of the shells than before it; any real signal falls there."""
    shells = sums.shape[-1]
    last, before = slice(int(0.9 * shells), shells), slice(int(0.7 * shells), int(0.85 * shells))
    (v, p), (v_before, p_before) = ((s[0].sum(), (s[1].sum() * s[2].sum()).sqrt()) for s in
                                    (sums[:, last], sums[:, before]))  # fmt: skip
    error = (0.5 / counts[last].sum() + 0.5 / counts[before].sum()).sqrt()
    rise = (v / p - v_before / p_before) / error
    return Check(
        name="rising_to_nyquist",
        ok=bool(rise <= _SURE),
        value=float(rise),
        limit=_SURE,
        meaning="standard errors by which the FRC rises towards Nyquist: the halves share the detector's pattern or an "
        "interpolation, not the specimen",
    )


def other_micrograph(cross: Tensor, power: Tensor, counts: Tensor) -> Check:
    """Agreement of halves of *different* micrographs, which share no specimen.

    Parameters
    ----------
    cross : (n, shells) real part of the cross spectrum of half 1 of one and half 2 of another micrograph.
    power : (n, shells) square root of the product of their powers.
    counts : (n, shells) independent coefficients.
    """
    n = cross.shape[-1]
    band = torch.arange(n) * _BANDS // n
    sums = [torch.zeros(_BANDS, dtype=torch.float64) for _ in range(2)]
    # each shell's coherence has a variance of 1/(2 counts); weighted by counts the sums are standard normal
    coherence = torch.where(power > 0, cross / power.clamp(min=1e-300), 0.0)
    sums[0].index_add_(0, band, (coherence * counts).sum(0))
    sums[1].index_add_(0, band, (counts / 2.0).sum(0))
    z = sums[0] / sums[1].clamp(min=1e-30).sqrt()
    worst = float(z.max())
    return Check(
        name="other_micrograph",
        ok=worst <= _SURE,
        value=worst,
        limit=_SURE,
        meaning="standard errors by which halves of different micrographs agree: all of them contain a pattern of the "
        "detector or of the program",
    )


def ctf_zeros(even: Tensor, odd: Tensor, ctf: Tensor, shape: fourier.Shape, within: tuple[float, float]) -> Check:
    """Agreement of the halves near zeros of the CTF, where the specimen does not show, over that at its maxima.

    Parameters
    ----------
    even, odd : (h, w//2+1) spectra, tapered.
    ctf : (h, w//2+1).
    within : coarse and fine end in cycles/px.
    """
    radius = fourier.radius(shape)
    inside = (radius >= within[0]) & (radius < within[1])
    weights = fourier.hermitian_weights(shape[1]) * inside
    common = (even.real * odd.real + even.imag * odd.imag) * weights
    zero, maximum = ctf.abs() < _ZERO, ctf.abs() > _MAXIMUM
    there, at_most = (
        float(common[where].double().sum()) / max(1.0, float(weights[where].sum())) for where in (zero, maximum)
    )
    power = float(((even.abs() * odd.abs())[zero] * weights[zero]).double().sum() / weights[zero].sum().clamp(min=1.0))
    error = power / max(1.0, float(weights[zero].sum())) ** 0.5
    # what the CTF itself leaves there on average, plus chance
    ratio = limit = None
    if at_most > 0:
        leaves = (
            float(ctf[zero & inside].square().mean() / ctf[maximum & inside].square().mean()) if zero.any() else 0.0
        )
        ratio, limit = there / at_most, leaves + _SURE * error / at_most + 0.1
    return Check(
        name="ctf_zeros",
        ok=ratio is None or limit is None or ratio <= limit,
        value=ratio,
        limit=limit,
        meaning="what the halves share at zeros of the CTF, over what they share at its maxima: something other than "
        "the specimen, or the defocus is wrong",
    )
