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

if TYPE_CHECKING:
    from torch import Tensor

_COARSE = 88
"""Cells along the longer side of the field while edges are sought."""
_DIRECTIONS = 16
_BEND = 1.0 / 3500.0
"""1/Å, of arcs, either way; from 2100 Å to straight."""
_WIDE, _NARROW = 7, 3
"""Cells on either side, to find an edge and to place it."""
_GAP, _REACH = 1.5, 8.5
"""Cells on either side of an edge that are left out, for its fringes, and up to which it is looked at."""
_SEGMENTS = 8
_LEAST_STEP = 0.02
"""Natural logarithm."""
_SURE = 6.0
"""Standard errors."""
_MOST_EDGES = 4
_TRIED = 3
_GOLD = 0.45
"""Darker than that carbon is not."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line or an arc through the field."""

    angle: float
    bend: float
    """1/Å."""
    score: float
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


def film_regions(level: Tensor, texture: Tensor, cell: float) -> Tensor:
    """Find carbon, gold and tears.

    Parameters
    ----------
    level, texture, cell : as in ``streamer.quality.not_specimen.Look``.

    Returns
    -------
    (rows, columns) uint8, as in ``streamer.field_mask``.
    """
    factor = max(1, math.ceil(max(level.shape) / _COARSE))
    small = _reduced(level, factor)
    edges: list[_Edge] = []
    for _ in range(_MOST_EDGES):
        edge = _best_edge(small, cell * factor, edges)
        if edge is None:
            break
        edges.append(edge)
    kinds = torch.zeros(level.shape, dtype=torch.uint8)
    if not edges:
        return kinds
    fine = [_enlarged(edge.away, level.shape, factor) for edge in edges]
    nearest = torch.stack([away.abs() for away in fine]).argmin(0)
    for number, (edge, away) in enumerate(zip(edges, fine, strict=True)):
        own = nearest == number
        dark, bright = own & (away < 0), own & (away >= 0)
        if _is_empty(texture, bright, dark):
            kinds[bright] = VACUUM
        else:
            kinds[dark] = GOLD if edge.step > _GOLD else CARBON
    return kinds


def _reduced(image: Tensor, factor: int) -> Tensor:
    pooled: Tensor = functional.avg_pool2d(image[None, None], factor, ceil_mode=True, count_include_pad=False)
    return pooled[0, 0]


def _enlarged(image: Tensor, shape: torch.Size, factor: int) -> Tensor:
    size = [side * factor for side in image.shape]
    wide: Tensor = functional.interpolate(image[None, None], size=size, mode="bilinear", align_corners=False)
    return wide[0, 0, : shape[0], : shape[1]] * factor


def _best_edge(level: Tensor, cell: float, known: list[_Edge]) -> _Edge | None:
    """The edge that explains most of what is left once the steps of known ones are taken off."""
    rows, columns = (torch.arange(size, dtype=torch.float32) - 0.5 * (size - 1) for size in level.shape)
    y, x = rows[:, None], columns[None, :]
    free = torch.ones(level.shape, dtype=torch.bool)
    for edge in known:
        free &= edge.away.abs() > _GAP + 1.0
        level = level - edge.step * (edge.away > 0)

    def tried(angles: list[float], bends: list[float], wide: int) -> list[_Line]:
        lines = []
        for angle in angles:
            across, along = math.sin(angle) * y + math.cos(angle) * x, math.cos(angle) * y - math.sin(angle) * x
            for bend in bends:
                line = _step_across(level, free, across + along**2 * (0.5 * cell * bend), along, wide)
                if line is not None:
                    lines.append(_Line(angle, bend, *line))
        return sorted(lines, key=lambda line: -line.score)

    rough = tried([math.pi * number / _DIRECTIONS for number in range(_DIRECTIONS)], [-_BEND, 0.0, _BEND], _WIDE)
    found: list[_Edge] = []
    for first in rough[:_TRIED]:
        turns = [first.angle + math.pi / _DIRECTIONS * turn for turn in (-0.67, -0.33, 0.0, 0.33, 0.67)]
        close = tried(turns, [first.bend + _BEND * bend for bend in (-0.67, -0.33, 0.0, 0.33, 0.67)], _NARROW)
        judged = [_judged(level, line.away, line.along, free) for line in close[:2]]
        found += [edge for edge in judged if edge is not None]
        if found:
            break
    return max(found, key=lambda edge: edge.sure, default=None)


def _step_across(
    level: Tensor, free: Tensor, across: Tensor, along: Tensor, wide: int
) -> tuple[float, Tensor, Tensor] | None:
    """The most conspicuous step across lines of one kind: how conspicuous, distance from it, place along it."""
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
    return float(score[best]), torch.sign(step[best]) * (across - (least + best)), along


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


def _is_empty(texture: Tensor, bright: Tensor, dark: Tensor) -> bool:
    """Whether the brighter side shows nothing of its own while the darker one does."""
    of_bright, of_dark = texture[bright], texture[dark]
    if len(of_bright) < 9 or len(of_dark) < 9:
        return False
    # cells are nearly independent
    error = float(of_bright.std()) / math.sqrt(len(of_bright))
    sure = float(of_dark.mean()) > 8.0 * error
    return sure and float(of_bright.mean()) < max(2.5 * error, 0.02 * float(of_dark.mean()))
