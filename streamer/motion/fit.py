"""One smooth field for a whole movie: Gauss-Newton in functions of time and place, each shrunk to what the data show.

The expected Hessian of ``patches`` is −T·M for the coefficient of any orthonormal function of time, none of them
constant, in one patch, so that a step is a projection of the patches' free steps. With v the variance that the
coefficients of one kind show beyond 1/(T·M), which is what counting alone gives them, a coefficient is multiplied by
v/(v + 1/(T·M)): empirical Bayes. A field that does not bend is thus found not to bend.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer.motion.field import ORDERS, legendre_values, log_time, spline_values
from streamer.motion.jumps import jumps_of
from streamer.motion.misfit import confirmed, neighbours
from streamer.motion.patch_weights import Weights, weights_of
from streamer.motion.shrinkage import believed

if TYPE_CHECKING:
    from streamer.motion.patches import Layout, Patches, Steps

GLOBAL_FUNCTIONS, LOCAL_FUNCTIONS = 7, 4
"""Number of splines over time; a constant is in their span."""
POWERS = 3
"""Powers of log time in the span of cubic splines, the constant not counted."""
_LONGEST_STEP, _LEAST_PART = 1.0, 0.2
"""px; beyond it the model of a step is not valid; and the smallest part of a step that is taken."""
_SURE = 5.0
"""Standard deviations from the smooth track at which a frame is believed to have jumped."""
_FAR, _NEAR = 100.0, 5.0
"""px, root mean square: largest drift, and the same of what is added to it in time or place."""
_LINEAR, _HIGHER = 3, 0.7
"""Kinds of bending that are linear in place; size of the highest order relative to the others."""


class OverTime:
    """Orthonormal functions of time without the constant, which no pair of frames can see."""

    def __init__(self, times: Tensor, last: float, functions: int) -> None:
        """Set up splines at ``times`` (t,) in frames of 0…last, at most as many as there are times."""
        self._last, self._functions = last, min(len(times), functions)
        self._ends = times[0], times[-1]
        basis, self._mixing = torch.linalg.qr(self._splines(times))
        self.values = basis[:, 1:]

    def at(self, times: Tensor) -> Tensor:
        """(n, functions − 1): the same functions at other times.

        Beyond the first and last of its times, where a group of frames reaches, each continues as it came from there:
        splines would leave with all the uncertainty of their slope.
        """
        inside = times.clamp(*self._ends)
        mirrored = self._inside((2.0 * inside - times).clamp(*self._ends))
        beyond = (times != inside)[:, None]
        return torch.where(beyond, 2.0 * self._inside(inside) - mirrored, mirrored)

    def _inside(self, times: Tensor) -> Tensor:
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
        products = legendre_values(layout.centres(), layout.shape)[:, self.orders]
        values, mixing = torch.linalg.qr(products)
        sign = mixing.diagonal().sign()
        self.values, self._mixing = values * sign, mixing * sign[:, None]
        self.turn, self.kinds = self._kinds(layout.shape)
        self.neighbours = neighbours(layout.number)

    def _kinds(self, shape: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """What belongs together among the coefficients (y, x) of all functions but the constant, flattened.

        Returns
        -------
        An orthogonal matrix to multiply them by, and the indices of each kind then: rotation; dilation; the two
        shears; all of the second order; all of the third.
        """
        numbers = {ORDERS[n]: 2 * (at - 1) for at, n in enumerate(self.orders) if n}
        turn = torch.eye(2 * len(numbers), dtype=torch.float64)
        kinds = [
            [at + axis for ij, at in numbers.items() if sum(ij) == order for axis in (0, 1)] for order in (1, 2, 3)
        ]
        if (1, 0) in numbers and (0, 1) in numbers:
            # along y, the functions are v = y/h − ½, and u = x/w − ½: in a rotation y moves by w u and x by −h v
            norm = math.hypot(*shape)
            height, width = shape[0] / norm, shape[1] / norm
            y, x = numbers[1, 0], numbers[0, 1]
            for one, other, a, b in ((x, y + 1, -width, height), (y, x + 1, height, width)):
                turn[one, one], turn[one, other], turn[other, one], turn[other, other] = a, b, b, -a
            kinds = [[x], [y], [y + 1, x + 1], *kinds[1:]]
        return turn, [torch.tensor(kind) for kind in kinds if kind]

    def profiles(self, functions: int) -> Tensor:
        """(k, functions, …) relative sizes that the coefficients may have: kinds up to some order, early to late."""
        found = []
        for late in (0.03, 0.4):
            for last in range(len(self.kinds)):
                profile = torch.zeros((functions, len(self.turn)), dtype=torch.float64)
                for at, kind in enumerate(self.kinds[: last + 1]):
                    profile[:, kind] = 1.0 if at < last or last < _LINEAR else _HIGHER
                profile[1:] *= late
                found.append(profile)
        return torch.stack(found)

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
        self.likelihood = -math.inf
        self.bend_evidence = 0.0
        self.error = torch.full((2, len(start)), math.inf, dtype=torch.float64)
        self.iterations = 0
        self._part, self._asked = 1.0, torch.zeros((), dtype=torch.float64)

    @property
    def shifts(self) -> Tensor:
        """(t, 2) float64 px: the global part."""
        return self.track + self.jitter

    def known(self) -> float:
        """Information of all patches about one coefficient of the global track, or one frame's shift, 1/px²."""
        return float(self.information.diagonal().mean())

    def expected_error(self) -> float:
        """Of the field in all frames, root mean square, px."""
        return float(self.error[0].mean().sqrt())

    def bent_by(self) -> float:
        """What bending adds to the global track, root mean square over patches and frames, px."""
        return math.sqrt(float(self.bend[1:].square().sum()) / (len(self.place.values) * len(self.track)))

    def shifts_of_patches(self) -> Tensor:
        """(p, t, 2) float64 px beyond the whole px at which the patches are cut."""
        return (self.shifts - self.whole)[None] + self._over_patches(self.bend)

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the search stands, for ``restore``."""
        return self.track, self.jitter, self.bend

    def restore(self, state: tuple[Tensor, Tensor, Tensor]) -> None:
        """Go back to an earlier ``state``."""
        self.track, self.jitter, self.bend = state

    def step(self, patches: Patches, *, jitter: bool = False) -> float:
        """Improve the field once; returns the largest distance in px by which anything should move."""
        found = patches.steps(self.shifts_of_patches())
        self.likelihood = found.likelihood
        self.iterations += 1
        if float(found.information.diagonal().min()) <= 0.0:
            self.information = found.information
            return 0.0
        variance = torch.linalg.inv(found.information).diagonal()
        weights = weights_of(found, self.bends.values, variance)
        total = weights.information.sum()
        self.information = found.information * total
        free = torch.einsum("p,pta->ta", weights.of_step, found.free) / total
        track, of_track = self._track(free, variance / total, weights.slow)
        bend, of_bend = self._bend(found, weights, variance)
        if jitter:
            kept, of_jitter = self._jitter(free, variance / total)
        else:
            kept, of_jitter = self.jitter, torch.zeros_like(free)
        self.error = of_bend + (of_track + of_jitter.sum(1))
        step = self._over_patches(bend - self.bend) + (track + kept - self.track - self.jitter)[None]
        largest = float(step.norm(dim=2).max())
        part = min(self._damped(step), _LONGEST_STEP / max(largest, 1e-12))
        self.track = torch.lerp(self.track, track, part)
        self.jitter = torch.lerp(self.jitter, kept, part)
        self.bend = torch.lerp(self.bend, bend, part)
        self._part = part
        return largest

    def _over_patches(self, bend: Tensor) -> Tensor:
        return torch.einsum("pj,tn,jna->pta", self.place.values, self.bends.values, bend)

    def _damped(self, step: Tensor) -> float:
        """The part of a step to take: a step that turns against the one before tells how far that went too far.

        Where the signal is underestimated, as far from the goal, full steps overshoot, at worst from side to side for
        ever. Source: the secant method along the step (Barzilai & Borwein 1988).
        """
        before, self._asked = self._asked, step
        if before.ndim == 0:
            return 1.0
        turned = float((before * step).sum() / before.square().sum().clamp(min=1e-30))
        return min(1.0, max(_LEAST_PART, self._part / max(1.0 - turned, 1e-3)))

    def _track(self, free: Tensor, variance: Tensor, slow: Tensor) -> tuple[Tensor, Tensor]:
        """The smooth track that free steps (t, 2) ask for, shrunk, and the square of its error in each frame."""
        values = self.times.values
        asked = values.T @ (self.track + free)
        variance = variance.expand_as(asked).clone()
        variance[: len(slow)] *= slow[: len(asked), None]
        profiles = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)[:, None, None].expand(-1, *asked.shape).clone()
        profiles[:, :POWERS] = 1.0
        found = believed(asked.flatten(), variance.flatten(), len(free) ** 0.5, _FAR, profiles.flatten(1))
        track = values @ (asked * found.factor.view_as(asked))
        return track, values.square() @ found.error.view_as(asked).sum(1)

    def _jitter(self, free: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The part of their distance from the smooth track that single frames keep, and the squares of its error.

        The track may jump from one frame to the next. Beside that a frame that is far off is so regardless of the
        others; what the others show beyond counting is their jitter.
        """
        rough = self.jitter + free - self.times.smooth(free)
        jumps, of_jumps = jumps_of(rough, self.times.values, variance)
        rough = rough - jumps
        left = (1.0 - 1.0 / len(free) - self.times.values.square().sum(1)).clamp(min=1e-3)
        own = left[:, None] * variance
        far = rough.square() > _SURE**2 * own
        found = believed(rough[~far], own[~far], 1.0, _NEAR)
        factor, error = torch.ones_like(rough), own.clone()
        factor[~far], error[~far] = found.factor, found.error
        return jumps + rough * factor, error + 0.5 * of_jumps[:, None]

    def _bend(self, found: Steps, weights: Weights, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The bending that free steps ask for, shrunk; notes its evidence.

        And (2, t) the squares of its error in each frame, and of what it would be without bending.
        """
        functions = self.place.values
        bend, self.bend_evidence = torch.zeros_like(self.bend), 0.0
        if functions.shape[1] == 1:
            return bend, torch.zeros((2, len(self.track)), dtype=torch.float64)
        known = torch.linalg.inv(functions.T @ (weights.information[:, None] * functions))
        toward = torch.einsum("pj,p,tn,pta->jna", functions, weights.of_step, self.bends.values, found.free)
        # the constant is the global track
        asked = (self.bend + torch.einsum("ij,jna->ina", known, toward))[1:].transpose(0, 1).flatten(1)
        turn = self.place.turn
        asked, spread = asked @ turn.T, turn.square() @ (known.diagonal()[1:, None] * variance).flatten()
        spread = weights.slow[:, None] * spread
        unit = (len(self.track) * len(functions)) ** 0.5
        part = believed(asked.flatten(), spread.flatten(), unit, _NEAR, self.place.profiles(len(asked)).flatten(1))
        self.bend_evidence = part.evidence
        kept = (asked.flatten() * part.factor).view_as(asked)
        bend[1:] = (kept @ turn).view(len(asked), -1, 2).transpose(0, 1)
        both = torch.stack([one.view_as(asked).sum(1) for one in (part.error, part.square)])
        off = torch.einsum("p,tn,pta->pna", weights.of_step, self.bends.values, found.free)
        moved = torch.einsum("p,pj,jna->pna", weights.information, functions, self.bend)
        both = both / len(functions)
        for at, left in enumerate((off, off + moved)):
            both[at] = torch.maximum(both[at], confirmed(left, weights, self.place.neighbours, variance))
        return bend, both @ self.bends.values.square().T
