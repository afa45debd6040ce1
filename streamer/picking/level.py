"""Which peaks are particles: the heights of all peaks as a mixture of chance, particles, and something else.

The shape of chance comes from noise that went through the same filter; its scale is fitted, and held near that of the
image's own noise where that is known. Particles are a normal distribution of heights; a thin uniform one takes what
is neither. A few huge peaks change nothing in such a fit, and a field full of particles is no reason to raise the
level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_SPREAD = (0.07, 0.5)
"""Standard deviation of particles' heights over their mean, at least and at most."""
_LEAST_HEIGHT = 2.0
"""Mean height of particles in units of the scale of chance."""
_OTHERS = 0.15
"""Largest share of what is neither chance nor particle."""
_NEITHER = 0.5
"""Probability that a peak of neither kind is a particle: a weak one, or one that is cut."""
_KNOWN = (math.log(1.1), 0.3)
"""Logarithm of the scale of chance over that of the image's noise, and its standard deviation: ice adds to noise."""
_EVIDENCE = 12.0
"""Natural logarithm of how much more likely a mixture must be than chance alone."""
_EVIDENCE_OF_MANY = 4.0
"""The same against chance with a few peaks of any height."""
_BEYOND = 1.4
"""What stands out of chance is higher than the highest that noise gives by this factor: ice adds to noise."""
_FEW = 20
"""Peaks beyond all chance up to which they are counted one by one; more are a distribution."""
_CHANCE_PER_PARTICLE = 3
"""Peaks of chance, for each particle of a handful, that a mixture takes for particles at most."""
_STARTS = (0.3, 0.5, 0.7, 0.85, 0.95, 0.985)
_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Distribution of the heights of peaks that noise gives."""

    place: Values
    """(n,) heights, from 0."""
    logarithm: Values
    """(n,) of the density."""
    middle: float
    """Median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The result: which heights are particles'."""

    height: float
    """From here on a peak is a particle; infinite: none is."""
    ceiling: float
    """Beyond it a peak is too strong for a particle."""
    evidence: float
    """Natural logarithm of how much more likely chance and particles are than chance alone."""
    separation: float
    """Distance of the means of particles and chance, in standard deviations."""
    expected: float
    """F1 score that the fit expects of its own choice."""


NOTHING = Level(height=math.inf, ceiling=math.inf, evidence=0.0, separation=0.0, expected=0.0)


def chance_of(heights: Values) -> Chance:
    """Smooth density of the heights of noise; beyond 97 % the tail of a Gaussian field's maxima, h² exp(−h²/2σ²).

    Source of the tail: Longuet-Higgins 1957.
    """
    values = np.sort(heights[heights > 0])
    width = max(1.06 * float(values.std()) * len(values) ** -0.2, 1e-12)
    last = float(values[-1])
    place = np.linspace(0.0, 4.0 * last, 801)
    density = np.exp(-((place[:, None] - values) ** 2) / (2.0 * width**2)).sum(1)
    join = int(np.searchsorted(place, np.quantile(values, 0.97)))
    # the scale at which the tail continues the slope between 90 and 99 %
    scale = float(np.quantile(values, 0.99)) / 3.3
    with np.errstate(divide="ignore"):
        tail = 2.0 * np.log(place / place[join]) - (place**2 - place[join] ** 2) / (2.0 * scale**2)
    logarithm = np.log(density + 1e-300)
    logarithm[join:] = logarithm[join] + tail[join:]
    total = float(np.exp(logarithm).sum() * (place[1] - place[0]))
    return Chance(place=place, logarithm=logarithm - math.log(total), middle=float(np.median(values)))


def level_of(
    heights: Values,
    chance: Chance,
    *,
    known: bool,
    unlike_noise: float = 0.0,
    detailed: NDArray[np.bool_] | None = None,
) -> Level:
    """Find the level above which peaks are particles.

    Parameters
    ----------
    heights : (n,) of all peaks.
    chance : of noise; ``known``: in the same unit, else only its shape is meant.
    unlike_noise : natural logarithm of how unlikely the image's own skewness is in any noise.
    detailed : (n,) whether there is as much detail at the peak as its blob asks for; None: nobody knows.

    Raises
    ------
    Nothing: without peaks or particles the level is infinite.
    """
    detailed = np.ones(len(heights), dtype=bool) if detailed is None else detailed
    heights, detailed = heights[heights > 0], detailed[heights > 0]
    if len(heights) < 3:
        return NOTHING
    scales, densities, prior = _scales(heights, chance, known=known)
    top = float(heights.max())
    logarithms = np.log(densities)
    alone = max(float(row.sum()) + p for row, p in zip(logarithms, prior, strict=True)) - unlike_noise
    best: tuple[float, float, float, Values, float] | None = None
    for start in _STARTS:
        fit = _mixture(heights, scales, logarithms, prior, start, top)
        stands_out = fit[1] >= _LEAST_HEIGHT * fit[4] * chance.middle / 1.7
        if stands_out and (best is None or fit[0] > best[0]):
            best = fit
    few = max(_with_few(row, p, top) for row, p in zip(densities, prior, strict=True))
    if best is None or best[0] - few < _EVIDENCE_OF_MANY:
        return _outstanding(heights[detailed], heights, chance, few - alone) if known else NOTHING
    if best[0] - alone < _EVIDENCE:
        return NOTHING
    level = _choice(heights, best, chance, best[0] - alone)
    return _handful(heights, detailed, chance, level) if known else level


def _handful(heights: Values, detailed: NDArray[np.bool_], chance: Chance, level: Level) -> Level:
    """The level, unless it leaves out a handful of peaks far beyond chance as too strong and keeps few others.

    Then the handful is the particles, and what the mixture took for them is the tail of chance. A crystal in a field of
    many particles is not a handful among few.
    """
    other = _outstanding(heights[detailed], heights, chance, level.evidence)
    number = int((heights[detailed] >= other.height).sum())
    kept = int(((heights >= level.height) & (heights <= level.ceiling)).sum())
    left_out = bool((heights[detailed] > max(level.ceiling, other.height)).any())
    return other if left_out and number <= _FEW and kept <= _CHANCE_PER_PARTICLE * number else level


def _with_few(density: Values, prior: float, top: float) -> float:
    """Log likelihood of chance and a few peaks of any height."""
    return max(float(np.log((1.0 - share) * density + share / top).sum()) + prior for share in (0.003, 0.01, 0.03))


def _outstanding(detailed: Values, heights: Values, chance: Chance, evidence: float) -> Level:
    """The level for a field with a few particles: beyond all that chance gives, and among themselves alike.

    Only what has the detail of a particle counts: a rim or a weak crystal is a strong blob with little of it.
    """
    reach = _BEYOND * float(chance.place[int(np.searchsorted(_cumulated(chance), 1.0 - 0.02 / len(heights)))])
    far = detailed[detailed > reach]
    if evidence < _EVIDENCE or not len(far):
        return NOTHING
    reach = max(reach, float(far.max()) / 3.0)
    separation = float(far.mean()) / chance.middle
    return Level(height=reach, ceiling=math.inf, evidence=evidence, separation=separation, expected=1.0)


def _cumulated(chance: Chance) -> Values:
    """(n,) probability that a height of chance lies below each place."""
    total = np.cumsum(np.exp(chance.logarithm))
    share: Values = total / total[-1]
    return share


def _scales(heights: Values, chance: Chance, *, known: bool) -> tuple[Values, Values, Values]:
    """Scales of chance to try (m,), the density of each height (m, n), and how likely each scale is (m,)."""
    middle = float(np.median(heights)) / chance.middle
    low, high = (min(0.6, middle), max(1.5, 1.3 * middle)) if known else (0.2 * middle, 1.5 * middle)
    scales = np.geomspace(low, high, 41)
    scaled = heights / scales[:, None]
    densities = np.exp(np.interp(scaled, chance.place, chance.logarithm, right=-700.0)) / scales[:, None] + 1e-300
    prior = -0.5 * ((np.log(scales) - _KNOWN[0]) / _KNOWN[1]) ** 2 if known else np.zeros(len(scales))
    return scales, densities, prior


def _mixture(
    heights: Values, scales: Values, logarithms: Values, prior: Values, start: float, top: float
) -> tuple[float, float, float, Values, float]:
    """Log likelihood, particles' mean and deviation, (n,) probability of a particle, and scale of chance; by EM."""
    number = len(heights)
    mean = float(np.quantile(heights, start))
    spread, share = 0.25 * mean, 1.2 * (1.0 - start)
    weight = np.array([max(0.05, 1.0 - share), min(0.94, share), 0.01])
    weight = weight / weight.sum()
    near = np.abs(np.log(scales * float(np.quantile(heights, 0.5)) / mean) + math.log(2.5))
    chosen = int((near if start < 0.9 else -prior).argmin())
    likelihood, probability, others = -math.inf, np.zeros(number), np.zeros(number)
    for step in range(_STEPS):
        normal = np.exp(-((heights - mean) ** 2) / (2.0 * spread**2)) / (spread * math.sqrt(2.0 * math.pi))
        parts = np.stack([weight[0] * np.exp(logarithms[chosen]), weight[1] * normal, np.full(number, weight[2] / top)])
        total = parts.sum(0) + 1e-300
        share_of = parts / total
        previous, likelihood = likelihood, float(np.log(total).sum()) + float(prior[chosen])
        probability = share_of[1]
        others = share_of[2]
        if step > 15 and likelihood - previous < 1e-3:
            break
        weight = share_of.sum(1) / number
        weight[2] = min(weight[2], _OTHERS)
        weight = weight / weight.sum()
        sum_of = max(float(probability.sum()), 1e-9)
        mean = float((probability * heights).sum()) / sum_of
        spread = math.sqrt(float((probability * (heights - mean) ** 2).sum()) / sum_of)
        if step % 3 == 0:
            chosen = int((logarithms @ share_of[0] + prior).argmax())
        spread = min(max(spread, float(scales[chosen]) * 0.3, _SPREAD[0] * mean), _SPREAD[1] * mean)
    # what is neither is as likely a particle as not
    return likelihood, mean, spread, probability + _NEITHER * others, float(scales[chosen])


def _choice(heights: Values, fit: tuple[float, float, float, Values, float], chance: Chance, evidence: float) -> Level:
    """The level with the best expected F1: 2 Σp / (number kept + Σp over all)."""
    _, mean, spread, probability, scale = fit
    ceiling = mean + 6.0 * spread
    sure = np.where((heights > mean) & (heights <= ceiling), 1.0, probability)
    sure = np.where(heights > ceiling, 0.0, sure)
    order = np.argsort(-heights, kind="stable")
    kept = np.cumsum(heights[order] <= ceiling)
    score = 2.0 * np.cumsum(sure[order]) / (kept + sure.sum())
    last = int(score.argmax())
    beneath = heights[order][last + 1] if last + 1 < len(heights) else 0.0
    return Level(
        height=float(0.5 * (heights[order][last] + beneath)),
        ceiling=ceiling,
        evidence=evidence,
        separation=(mean - scale * chance.middle) / math.hypot(spread, 0.4 * scale * chance.middle),
        expected=float(score[last]),
    )
