"""One smooth field for a whole movie: Gauss-Newton in functions of time and place, each shrunk to what the data show.

The expected Hessian of ``patches`` is −T·M for the coefficient of any orthonormal function of time, none of them
constant, in one patch, so that a step is a projection of the patches' free steps. With v the variance that the
coefficients of one kind show beyond 1/(T·M), which is what counting alone gives them, a coefficient is multiplied by
v/(v + 1/(T·M)): empirical Bayes. A field that does not bend is thus found not to bend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer.motion.field import ORDERS, legendre_values, log_time, spline_values

if TYPE_CHECKING:
    from streamer.motion.patches import Layout, Patches, Steps

GLOBAL_FUNCTIONS, LOCAL_FUNCTIONS = 7, 4
"""Number of splines over time; a constant is in their span."""
POWERS = 3
"""Powers of log time in the span of cubic splines, the constant not counted."""
_LONGEST_STEP = 1.0
"""px; beyond it the model of a step is not valid."""
_SURE = 5.0
"""Standard deviations from the smooth track at which a frame is believed to have jumped."""


class OverTime:
    """Orthonormal functions of time without the constant, which no pair of frames can see."""

    def __init__(self, times: Tensor, last: float, functions: int) -> None:
        """Set up splines at ``times`` (t,) in frames of 0…last, at most as many as there are times."""
        self._last, self._functions = last, min(len(times), functions)
        basis, self._mixing = torch.linalg.qr(self._splines(times))
        self.values = basis[:, 1:]

    def at(self, times: Tensor) -> Tensor:
        """(n, functions − 1): the same functions at other times."""
        mixed: Tensor = torch.linalg.solve_triangular(self._mixing, self._splines(times), upper=True, left=False)
        return mixed[:, 1:]

    def smooth(self, values: Tensor) -> Tensor:
        """The part of (t, …) that is in the span of the functions."""
        part: Tensor = self.values @ (self.values.T @ values)
        return part

    def _splines(self, times: Tensor) -> Tensor:
        """The same space from smooth to rough: powers of log time, which are in the splines' span, then splines."""
        powers = log_time(times, self._last)[:, None] ** torch.arange(min(self._functions, POWERS + 1))
        splines = spline_values(times, self._last, self._functions)
        return torch.cat([powers, splines[:, 1 : self._functions - POWERS]], dim=1)


class OverPlace:
    """Orthonormal functions of place at the patches' centres; the first is the constant."""

    def __init__(self, layout: Layout, highest: int) -> None:
        """Set up Legendre products of total order 0…highest, along each axis at most as many as it has patches."""
        self.orders = [
            n for n, (i, j) in enumerate(ORDERS) if i < layout.number[0] and j < layout.number[1] and i + j <= highest
        ]
        self.kinds = torch.tensor([sum(ORDERS[n]) for n in self.orders])
        products = legendre_values(layout.centres(), layout.shape)[:, self.orders]
        self.values, self._mixing = torch.linalg.qr(products)

    def products(self, coefficients: Tensor) -> Tensor:
        """Coefficients of all Legendre products of ``ORDERS``, from those of the functions, (functions, …)."""
        mixed = torch.linalg.solve_triangular(self._mixing, coefficients.flatten(1), upper=True)
        found = torch.zeros((len(ORDERS), *coefficients.shape[1:]), dtype=torch.float64)
        found[self.orders] = mixed.reshape(coefficients.shape)
        return found


class Fit:
    """The search for one movie's field: its current state, and the steps that improve it."""

    def __init__(self, start: Tensor, whole: Tensor, times: OverTime, bends: OverTime, place: OverPlace) -> None:
        """Start from a global track ``start`` (t, 2) px, for patches cut at ``whole`` (t, 2) px."""
        self.times, self.bends, self.place = times, bends, place
        self.whole = whole.to(torch.float64)
        centred = start - start.mean(0)
        self.track = times.smooth(centred)
        self.jitter = centred - self.track
        self.bend = torch.zeros((place.values.shape[1], bends.values.shape[1], 2), dtype=torch.float64)
        self.information = torch.zeros((2, 2), dtype=torch.float64)
        self.bend_excess = 0.0
        self.iterations = 0

    @property
    def shifts(self) -> Tensor:
        """(t, 2) float64 px: the global part."""
        return self.track + self.jitter

    def known(self, patches: int) -> float:
        """Information of all patches about one coefficient of the global track, or one frame's shift, 1/px²."""
        return float(self.information.diagonal().mean()) * patches

    def shifts_of_patches(self) -> Tensor:
        """(p, t, 2) float64 px beyond the whole px at which the patches are cut."""
        bend = torch.einsum("pj,tn,jna->pta", self.place.values, self.bends.values, self.bend)
        return (self.shifts - self.whole)[None] + bend

    def step(self, patches: Patches, *, jitter: bool = False) -> float:
        """Improve the field once; returns the largest distance in px by which anything moved."""
        found = patches.steps(self.shifts_of_patches())
        self.information = found.information
        self.iterations += 1
        if float(found.information.diagonal().min()) <= 0.0:
            return 0.0
        variance = torch.linalg.inv(found.information).diagonal()
        free = found.free.mean(0)
        track, bend = self._track(free, variance / len(found.free)), self._bend(found, variance)
        rough = self.jitter + free - self.times.smooth(free)
        kept = _kept_jitter(rough, variance / len(found.free)) if jitter else self.jitter
        step = torch.einsum("pj,tn,jna->pta", self.place.values, self.bends.values, bend - self.bend)
        step += (track + kept - self.track - self.jitter)[None]
        largest = float(step.norm(dim=2).max())
        damping = min(1.0, _LONGEST_STEP / max(largest, 1e-12))
        self.track = torch.lerp(self.track, track, damping)
        self.jitter = torch.lerp(self.jitter, kept, damping)
        self.bend = torch.lerp(self.bend, bend, damping)
        return largest

    def _track(self, free: Tensor, variance: Tensor) -> Tensor:
        """The smooth track that free steps (t, 2) ask for; functions that bend more often than a cubic are shrunk."""
        asked = self.times.values.T @ (self.track + free)
        asked[POWERS:] *= _share(asked[POWERS:] ** 2 / variance)
        track: Tensor = self.times.values @ asked
        return track

    def _bend(self, found: Steps, variance: Tensor) -> Tensor:
        """The bending that free steps ask for, shrunk; also notes how far it exceeds chance."""
        functions = self.place.values
        # patches with more signal know more: Σ_p of their information about the functions' products
        known = torch.linalg.inv(functions.T @ (found.share[:, None] * functions))
        asked = self.bend + torch.einsum("ij,pj,tn,pta->ina", known, functions, self.bends.values, found.free)
        asked[0] = 0.0  # the constant is the global track
        ratio = asked**2 / (known.diagonal()[:, None, None] * variance)
        bend = torch.zeros_like(asked)
        for kind in range(1, int(self.place.kinds.max()) + 1):
            chosen = self.place.kinds == kind
            for function in range(asked.shape[1]):
                # common to the orders of a kind and to both axes
                bend[chosen, function] = asked[chosen, function] * _share(ratio[chosen, function])
        excess = ratio[1:] - 1.0
        self.bend_excess = float(excess.sum()) / (2.0 * excess.numel()) ** 0.5 if len(excess) else 0.0
        return bend


def _share(ratio: Tensor) -> float:
    """v/(v + σ²) for coefficients of one kind, whose squares over σ² are ``ratio``."""
    if ratio.numel() == 0:
        return 1.0
    shown = max(0.0, float(ratio.mean()) - 1.0)
    return shown / (shown + 1.0)


def _kept_jitter(free: Tensor, variance: Tensor) -> Tensor:
    """The part of their distance (t, 2) px from the smooth track that single frames keep.

    A frame that is far off has jumped, regardless of the others; what the others show beyond counting is their jitter.
    """
    ratio = free**2 / variance
    far = ratio > _SURE**2
    return free * torch.where(far, 1.0, _share(ratio[~far]))
