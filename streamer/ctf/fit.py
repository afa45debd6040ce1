"""The fit of rings to the power in cells: maximum likelihood of exponentially distributed power, by Fisher scoring.

    P = B(k) + S(k) exp(u (c₁ cos 2θ + c₂ sin 2θ)) (1 − m cos 2χ) / 2,        u = k²
    2χ = 2π λ z(θ) u − π Cs λ³ u² + 2 (φ + asin w),        z(θ) = z + a₁ cos 2θ + a₂ sin 2θ

B and S are exponentials of splines, so that both are positive and neither is assumed; c is what drift takes from one
direction; m is the depth that the rings keep (``merging``). Minimised: Σ n (ln P + I/P), Whittle's likelihood.
Source: Whittle 1953; the phase after Rohou & Grigorieff 2015, eq. 2-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.ctf.splines import SPLINES, roughness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.ctf.lens import Lens
    from streamer.ctf.merging import Merged
    from streamer.ctf.search import Candidate

_GLOBAL = 6
"""z, a₁, a₂, φ, c₁, c₂; the splines follow."""
_WEAK = 1e-3
_RIPPLE, _RIPPLE_WIDTH = 0.02, 0.0083
"""Å⁻¹. By how much the specimen's power departs from a smooth course, times k: a fifth at 10 Å; and over which spatial
frequencies. Particles are copies of one structure, whose own rises and falls no number of coefficients averages out;
both numbers are from simulated proteins."""
_NUISANCES_FIRST, _APPROACH, _ROUNDS = 4, 8, 12
_ENOUGH = 0.01
"""Gain in log-likelihood of a round that ends the fit."""
_LONGEST = 3.0
"""Standard deviations that a round may move a parameter of the rings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Rings that fit best near one candidate."""

    values: NDArray[np.float64]
    """(26,) z, a₁, a₂ in Å, φ in rad, c₁, c₂ in Å², ln B and ln S splines."""
    covariance: NDArray[np.float64]
    """(6, 6) of the first six, from the Fisher information; rows of what was not fitted are 0."""
    structure: NDArray[np.float64]
    """(6, 6) what the specimen's own structure adds to it."""
    dispersion: float
    """Of what is left: 1 where the model is complete."""
    gain: float
    """Log-likelihood over that of the same model without rings, over the dispersion if that is above 1."""
    gains: NDArray[np.float64]
    """(radial,) what each spatial frequency adds to it."""
    score: float
    """Of the search."""
    cells: Merged

    @property
    def is_of_field(self) -> bool:
        """Whether the cells are a periodogram, whose scatter is known, and not somebody's average."""
        return self.cells.is_of_field

    @property
    def defocus(self) -> float:
        """Mean defocus, Å."""
        return float(self.values[0])

    @property
    def astigmatism(self) -> tuple[float, float]:
        """Half-difference times cosine and sine of twice the angle, Å."""
        return float(self.values[1]), float(self.values[2])

    @property
    def defocus_sd(self) -> float:
        """Standard deviation of the mean defocus, Å."""
        return float(np.sqrt(self.covariance[0, 0]))


@dataclass(frozen=True, slots=True)
class Model:
    """Power in each cell for given parameters, and what its derivatives are made of; (radial, sectors)."""

    background: NDArray[np.float64]
    signal: NDArray[np.float64]
    chi2: NDArray[np.float64]
    power: NDArray[np.float64]

    def without_rings(self) -> NDArray[np.float64]:
        """The same power with the rings averaged out."""
        return self.background + 0.5 * self.signal


def model(cells: Merged, lens: Lens, values: NDArray[np.float64], *, rings: bool = True) -> Model:
    """Evaluate the model in the cells."""
    basis = cells.basis
    z = values[0] + values[1] * cells.cos2 + values[2] * cells.sin2
    chi2 = lens.per_defocus * z * cells.u - lens.aberration * cells.u**2 + 2.0 * (values[3] + lens.contrast_phase)
    chi2 = chi2 + cells.bend + cells.lean * (cells.slope @ values[_GLOBAL + SPLINES :])[:, None]
    background = np.exp(basis @ values[_GLOBAL : _GLOBAL + SPLINES])[:, None] + 0.0 * cells.u
    envelope = np.exp(basis @ values[_GLOBAL + SPLINES :])[:, None]
    signal = envelope * np.exp(np.clip(cells.u * (values[4] * cells.cos2 + values[5] * cells.sin2), -30.0, 30.0))
    depth = cells.depth if rings else 0.0
    power = background + 0.5 * signal * (1.0 - depth * np.cos(chi2))
    return Model(background, signal, chi2, power)


def approach(
    cells: Merged, lens: Lens, candidate: Candidate, level: NDArray[np.float64], *, phase_free: bool
) -> NDArray[np.float64]:
    """Parameters near a candidate, the nuisances first: otherwise the astigmatism runs away to make up for them.

    Parameters
    ----------
    level : (radial,) smooth course of the power, where the nuisances start.

    Returns
    -------
    (26,), see ``Fit.values``.
    """
    start = np.zeros(_GLOBAL + 2 * SPLINES)
    start[:4] = candidate.defocus, *candidate.astigmatism, candidate.phase
    coefficients = _smoothed(cells.basis, cells.counts.sum(1), np.log(np.maximum(level, 1e-30)))
    start[_GLOBAL : _GLOBAL + SPLINES] = coefficients + np.log(0.7)
    start[_GLOBAL + SPLINES :] = coefficients + np.log(0.6)
    ready, _, _ = _scored(cells, lens, start, np.arange(4, len(start)), rings=True, rounds=_NUISANCES_FIRST)
    found, _, _ = _scored(cells, lens, ready, _free(phase_free=phase_free), rings=True, rounds=_APPROACH)
    return found


def fit(cells: Merged, lens: Lens, start: NDArray[np.float64], score: float, *, phase_free: bool) -> Fit:
    """Rings from near their best parameters on, with what the same cells say without rings."""
    free = _free(phase_free=phase_free)
    best, loss, normal = _scored(cells, lens, start, free, rings=True, rounds=_ROUNDS)
    flat, flat_loss, _ = _scored(cells, lens, best, np.arange(4, len(start)), rings=False, rounds=_ROUNDS)
    covariance = np.zeros((len(start), len(start)))
    known = bool(np.isfinite(normal).all())
    inverse = np.asarray(np.linalg.pinv(normal, hermitian=True) if known else normal * np.nan, dtype=np.float64)
    covariance[np.ix_(free, free)] = inverse
    structure = np.zeros_like(covariance)
    structure[np.ix_(free, free)] = _of_structure(cells, lens, best, free, inverse)
    used = cells.counts > 0
    power, without = model(cells, lens, best).power, model(cells, lens, flat, rings=False).power
    left = cells.counts * (cells.power / power - 1.0) ** 2
    gains = cells.counts * (np.log(without / power) + cells.power * (1.0 / without - 1.0 / power))
    dispersion = float(left[used].sum() / max(int(used.sum()) - len(free), 1))
    return Fit(
        values=best,
        covariance=covariance[:_GLOBAL, :_GLOBAL] * max(1.0, dispersion),
        structure=structure[:_GLOBAL, :_GLOBAL],
        dispersion=dispersion,
        gain=(flat_loss - loss) / max(1.0, dispersion),
        gains=gains.sum(1),
        score=score,
        cells=cells,
    )


def _of_structure(
    cells: Merged, lens: Lens, values: NDArray[np.float64], free: NDArray[np.int64], inverse: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Covariance of the free parameters from a ripple in the signal's course that the splines cannot follow.

    The ripple is a Gaussian process over k; to first order each parameter answers linearly to it.
    """
    now, basis, k = model(cells, lens, values), cells.basis, cells.k
    with_rings = now.power - now.background
    weight = cells.counts * with_rings / now.power**2
    slopes = (_slopes(cells, lens, now, with_rings, free, rings=True) * weight).sum(2)
    splines = [((weight * part).sum(1)[:, None] * basis).T for part in (now.background, with_rings)]
    answer = inverse @ np.concatenate([slopes, *splines])
    size = _RIPPLE / k
    ripple = size[:, None] * size[None, :] * np.exp(-0.5 * ((k[:, None] - k[None, :]) / _RIPPLE_WIDTH) ** 2)
    return np.asarray(answer @ ripple @ answer.T, dtype=np.float64)


def _free(*, phase_free: bool) -> NDArray[np.int64]:
    return np.array([0, 1, 2, *([3] if phase_free else []), *range(4, _GLOBAL + 2 * SPLINES)])


def _scored(
    cells: Merged, lens: Lens, start: NDArray[np.float64], free: NDArray[np.int64], *, rings: bool, rounds: int
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Fisher scoring with damping: parameters, loss there, and the information of the free ones."""
    values, damping = start.copy(), 1e-3
    loss, gradient, normal = _derivatives(cells, lens, values, free, rings=rings)
    for _ in range(rounds):
        scale = np.diag(normal).copy()
        step = np.linalg.solve(normal + np.diag(damping * scale + 1e-12), gradient)
        move = np.zeros_like(values)
        move[free] = step
        sds = np.sqrt(1.0 / np.maximum(scale, 1e-30))
        longest = float(np.max(np.abs(step / sds)[free < 3], initial=0.0))
        longest_nuisance = float(np.abs(move[_GLOBAL:]).max())
        move *= min(1.0, _LONGEST * 10.0 / max(longest, 1e-30), 1.0 / max(longest_nuisance, 1e-30))
        trial = values - move
        new_loss, new_gradient, new_normal = _derivatives(cells, lens, trial, free, rings=rings)
        if new_loss < loss:
            gained, values, loss, gradient, normal = loss - new_loss, trial, new_loss, new_gradient, new_normal
            damping = max(0.1 * damping, 1e-6)
            if gained < _ENOUGH:
                break
        else:
            damping = max(10.0 * damping, 1e-3)
            if damping > 1e4:
                break
    return values, loss, normal


def _derivatives(
    cells: Merged, lens: Lens, values: NDArray[np.float64], free: NDArray[np.int64], *, rings: bool
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Loss, its gradient and the Fisher information with the ridge, of the free parameters.

    Splines depend on k alone: their columns are summed over sectors before they meet the basis.
    """
    now = model(cells, lens, values, rings=rings)
    n, ratio, basis = cells.counts, cells.power / now.power, cells.basis
    loss = float((n * (np.log(now.power) + ratio)).sum())
    pull = n * (1.0 - ratio) / now.power
    weight = n / now.power**2
    with_rings = now.power - now.background
    slopes = _slopes(cells, lens, now, with_rings, free, rings=rings)
    weighted = slopes * weight
    flat, parts = slopes.reshape(len(slopes), -1), (now.background, with_rings)
    shared = weighted.reshape(len(slopes), -1) @ flat.T
    crossed = np.concatenate([(weighted * part).sum(2) @ basis for part in parts], axis=1)
    blocks = [[(basis * (weight * a * b).sum(1)[:, None]).T @ basis for b in parts] for a in parts]
    gradient = np.concatenate([flat @ pull.ravel(), *(basis.T @ (pull * part).sum(1) for part in parts)])
    normal = np.block([[shared, crossed], [crossed.T, np.block(blocks)]])
    rough, splines = roughness(), values[_GLOBAL:].reshape(2, SPLINES)
    at = len(slopes)
    for index, spline in enumerate(splines):
        place = slice(at + index * SPLINES, at + (index + 1) * SPLINES)
        loss += 0.5 * float(spline @ rough @ spline)
        gradient[place] += rough @ spline
        normal[place, place] += rough
    return loss, gradient, normal


def _slopes(
    cells: Merged,
    lens: Lens,
    now: Model,
    with_rings: NDArray[np.float64],
    free: NDArray[np.int64],
    *,
    rings: bool,
) -> NDArray[np.float64]:
    """Derivatives of the power by the free ones of z, a₁, a₂, φ, c₁, c₂: (free, radial, sectors)."""
    found: list[NDArray[np.float64]] = []
    if rings and 0 in free:
        slope = 0.5 * now.signal * cells.depth * np.sin(now.chi2)
        by_z = slope * (lens.per_defocus * cells.u)
        found += [by_z, by_z * cells.cos2, by_z * cells.sin2]
        if 3 in free:
            found.append(2.0 * slope)
    stretched = with_rings * cells.u
    return np.stack([*found, stretched * cells.cos2, stretched * cells.sin2])


def _smoothed(
    basis: NDArray[np.float64], weight: NDArray[np.float64], curve: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spline coefficients of a curve, (10,)."""
    share = weight / max(float(weight.mean()), 1e-30)
    normal = (basis * share[:, None]).T @ basis + _WEAK * (roughness() + np.eye(SPLINES))
    return np.asarray(np.linalg.solve(normal, basis.T @ (share * curve)), dtype=np.float64)
