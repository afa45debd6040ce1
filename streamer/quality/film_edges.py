"""Carbon, gold and tears: what lies beyond a long and nearly straight edge, at which the mean makes a step.

Holes in films are wide against a field of view, so that their rims are lines or gentle arcs; particles, vesicles and
crowds have none. The field is averaged along such lines of all directions. Across a film's edge the mean steps within
less than 100 Å, all along the line alike; thicker ice is a slope or a wave, which the fit has terms for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from streamer.field_mask import CARBON, GOLD, VACUUM
from streamer.quality.grid import blur

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_COARSE = 88
"""Cells along the longer side of the field while edges are sought."""
_DIRECTIONS = 16
_LEAST_RADIUS = 700.0
"""Å, and three quarters of the field's shorter side; rounder things are specimen."""
_BAND, _SETTLE = 100.0, 25.0
"""Å on either side within which a rim is rough, and over which it is smoothed."""
_WIDE, _NARROW = 7, 3
"""Cells on either side, to find an edge and to place it."""
_GAP, _REACH = 1.5, 8.5
"""Cells on either side of an edge that are left out, for its fringes, and up to which it is looked at."""
_SEGMENTS = 8
_LEAST_STEP = 0.02
"""Natural logarithm."""
_SURE = 6.0
"""Standard errors."""
_MOST_EDGES = 3
_TRIED = 2
_CLEAR = 4.0
"""Cells from an edge that show nothing of it."""
_NOTHING, _LUMPY = 0.15, 0.5
"""Of the darker side's mean texture: what the brighter one has at most, and half of the darker one's cells."""
_GOLD = 0.4
"""Step above which it is no carbon."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line or an arc through the field."""

    angle: float
    bend: float
    """1/Å."""
    score: float
    step: float
    away: Tensor
    """(rows, columns) signed distance in cells, positive on the brighter side."""
    along: Tensor
    """(rows, columns) place along it in cells."""


@dataclass(frozen=True, slots=True)
class _Edge:
    away: Tensor
    """(rows, columns) signed distance in cells, positive on the brighter side."""
    step: float
    """Natural logarithm of the brighter over the darker side."""
    sure: float
    """Standard errors."""


def film_regions(level: Tensor, texture: Tensor, cell: float, is_of_film: Callable[[Tensor], bool | None]) -> Tensor:
    """Find carbon, gold and tears.

    Parameters
    ----------
    level, texture, cell : as in ``streamer.quality.not_specimen.Look``.
    is_of_film : whether a region, (rows, columns) bool, has the grain of a film; None: it does not tell.

    Returns
    -------
    (rows, columns) uint8, as in ``streamer.field_mask``. Beyond a film nothing more is looked for: of a bar between two
    holes, the second hole counts as film too.
    """
    factor = max(1, math.ceil(max(level.shape) / _COARSE))
    small = _reduced(level, factor)
    kinds = torch.zeros(level.shape, dtype=torch.uint8)
    free = torch.ones(small.shape, dtype=torch.bool)
    for _ in range(_MOST_EDGES):
        edge = _best_edge(small, cell * factor, free)
        if edge is None:
            break
        away = _settled(level, _enlarged(edge.away, level.shape, factor), kinds == 0, cell)
        dark, bright = (kinds == 0) & (away < 0), (kinds == 0) & (away >= 0)
        dirt = GOLD if edge.step > _GOLD else _wrong_side(texture, away, kinds == 0, is_of_film)
        if dirt is None or (dirt == CARBON and bool((kinds == VACUUM).any())):  # particles line up along a tear's rim
            break
        if dirt == VACUUM:
            kinds[bright] = VACUUM
            free &= edge.away < -_GAP
        else:
            kinds[dark] = dirt
            free &= edge.away > _GAP
        if float(free.float().mean()) < 0.08:
            break
    return kinds


def _settled(level: Tensor, away: Tensor, where: Tensor, cell: float) -> Tensor:
    """Distance from the edge as it runs: rough rims are cut at the middle level in a band along the line."""
    band, reach = _BAND / cell, 2.0 * _BAND / cell
    near = where & (away.abs() < band + reach)
    dark, bright = (near & (side > band) for side in (-away, away))
    if int(dark.sum()) < 9 or int(bright.sum()) < 9:
        return away
    smooth = blur(level, _SETTLE / cell, where)
    low, high = (float(smooth[side].median()) for side in (dark, bright))
    middle = 0.5 * (low + high)
    wrong = 0.5 * (float((smooth[dark] > middle).float().mean()) + float((smooth[bright] < middle).float().mean()))
    if wrong > 0.03:  # particles are as dark as the step
        return away
    inside = away.abs() <= band
    return torch.where(inside, torch.where(smooth < middle, -0.5, 0.5), away)


def _reduced(image: Tensor, factor: int) -> Tensor:
    pooled: Tensor = functional.avg_pool2d(image[None, None], factor, ceil_mode=True, count_include_pad=False)
    return pooled[0, 0]


def _enlarged(image: Tensor, shape: torch.Size, factor: int) -> Tensor:
    size = [side * factor for side in image.shape]
    wide: Tensor = functional.interpolate(image[None, None], size=size, mode="bilinear", align_corners=False)
    return wide[0, 0, : shape[0], : shape[1]] * factor


def _best_edge(level: Tensor, cell: float, free: Tensor) -> _Edge | None:
    """The most certain edge in what is free."""
    rows, columns = (torch.arange(size, dtype=torch.float32) - 0.5 * (size - 1) for size in level.shape)
    y, x = rows[:, None], columns[None, :]
    tightest = 1.0 / max(_LEAST_RADIUS, 0.75 * cell * min(level.shape))

    def tried(angles: list[float], bends: list[float], wide: int) -> list[_Line]:
        lines = []
        for angle in angles:
            across, along = math.sin(angle) * y + math.cos(angle) * x, math.cos(angle) * y - math.sin(angle) * x
            for bend in bends:
                line = _step_across(level, free, across + along**2 * (0.5 * cell * bend), along, wide)
                if line is not None:
                    lines.append(_Line(angle, bend, *line))
        return sorted(lines, key=lambda line: -line.score)

    bends = [tightest * bend for bend in (-0.67, 0.0, 0.67)]
    rough = tried([math.pi * number / _DIRECTIONS for number in range(_DIRECTIONS)], bends, _WIDE)
    found: list[_Edge] = []
    for first in [line for line in rough if line.step > 0.6 * _LEAST_STEP][:_TRIED]:
        turns = [first.angle + math.pi / _DIRECTIONS * turn for turn in (-0.67, -0.33, 0.0, 0.33, 0.67)]
        bends = [first.bend + tightest * bend for bend in (-0.33, -0.16, 0.0, 0.16, 0.33)]
        close = tried(turns, bends, _NARROW)
        judged = [_judged(level, line.away, line.along, free) for line in close[:2]]
        found += [edge for edge in judged if edge is not None]
        if found:
            break
    return max(found, key=lambda edge: edge.sure, default=None)


def _step_across(
    level: Tensor, free: Tensor, across: Tensor, along: Tensor, wide: int
) -> tuple[float, float, Tensor, Tensor] | None:
    """The most conspicuous step across lines of one kind: how much, the step, distance from it, place along it."""
    least = float(across.min())
    line = (across - least).round().long().flatten()
    n = int(line.max()) + 1
    weight = free.float()
    sums = torch.zeros((2, n))
    sums.index_add_(1, line, torch.stack([(level * weight).flatten(), weight.flatten()]))
    # cumulative sums: means over the lines behind and ahead of each place, without those next to it
    total = torch.cat([torch.zeros(2, 1), sums.cumsum(1)], 1)
    place = torch.arange(n)
    ahead = total[:, (place + 2 + wide).clamp(max=n)] - total[:, (place + 2).clamp(max=n)]
    behind = total[:, (place - 1).clamp(min=0)] - total[:, (place - 1 - wide).clamp(min=0)]
    enough = torch.minimum(ahead[1], behind[1])
    step = ahead[0] / ahead[1].clamp(min=1.0) - behind[0] / behind[1].clamp(min=1.0)
    score = step.abs() * enough.sqrt()
    score[enough < 0.5 * min(level.shape)] = 0.0
    best = int(score.argmax())
    if score[best] == 0.0:
        return None
    return float(score[best]), float(step[best].abs()), torch.sign(step[best]) * (across - (least + best)), along


def _judged(level: Tensor, away: Tensor, along: Tensor, free: Tensor) -> _Edge | None:
    """Fit a step, a slope and a wave to each segment of a line; None unless it is an edge of a film."""
    near = free & (away.abs() <= _REACH) & (away.abs() >= _GAP)
    if int((near & (away > 0)).sum()) < 20 or int((near & (away < 0)).sum()) < 20:
        return None
    values, distance, place = level[near], away[near] / _REACH, along[near]
    ends = torch.quantile(place, torch.linspace(0.0, 1.0, _SEGMENTS + 1))
    segment = torch.bucketize(place, ends[1:-1])
    steps, plain = [], []
    for number in range(_SEGMENTS):
        own = segment == number
        v, d = values[own].double(), distance[own].double()
        if int((d > 0).sum()) < 4 or int((d < 0).sum()) < 4:
            continue
        basis = torch.stack([torch.ones_like(d), (d > 0).double(), d, d**3], 1)
        steps.append(float(torch.linalg.lstsq(basis, v[:, None]).solution[1, 0]))
        plain.append(float(v[d > 0].mean() - v[d < 0].mean()))
    if len(steps) < _SEGMENTS - 2:
        return None
    found, level_step = torch.tensor(steps), torch.tensor(plain)
    step, error = float(found.mean()), float(found.std()) / math.sqrt(len(steps))
    sure = step / max(error, 1e-6)
    if step < _LEAST_STEP or sure < _SURE or float(level_step.min()) < 0.4 * step:
        return None
    return _Edge(away, float(level_step.mean()), sure)


def _wrong_side(
    texture: Tensor, away: Tensor, where: Tensor, is_of_film: Callable[[Tensor], bool | None]
) -> int | None:
    """What is wrong at an edge: CARBON, its darker side; VACUUM, its brighter one; None where neither is sure.

    Ice with particles beside a hole shows single things, or is coarse before it is fine. A film has its grain
    everywhere: half of its cells show more than 0.7 of the mean; among particles they show 0.1 to 0.7.
    """
    bright, dark = (texture[where & (side > _CLEAR)] for side in (away, -away))
    if len(bright) < 25 or len(dark) < 25:
        return CARBON
    mean = float(dark.mean())
    is_seen = mean > 8.0 * float(dark.std()) / math.sqrt(len(dark))
    if is_seen and float(bright.mean()) >= _NOTHING * mean:
        return CARBON
    if is_seen and float(dark.median()) < _LUMPY * mean:
        return VACUUM
    film = is_of_film(where & (away < -_CLEAR))
    if film is False:
        return VACUUM if is_seen else None
    return CARBON
