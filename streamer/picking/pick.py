"""Particles of a given diameter in one micrograph, darker than the ice around them.

Works on any micrograph. The level comes from the micrograph itself: the heights of all peaks are a mixture of chance
and particles (``level.py``), and where there is nothing but chance there are no picks. A field that shows no specimen
(``usable``) is not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from streamer.picking.level import NOTHING, Level, chance_of, level_of
from streamer.picking.response import Coarse, Response, answer, answer_to_noise, coarse

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPACING = 0.5
"""Minimum distance of two picks, in diameters; the better one stays. Particles that overlap are nearer than one."""
_EDGE = 0.4
"""Picks nearer to the edge than this share of the diameter are truncated particles."""
_SUMMIT = 0.25
"""A peak is the highest point within this share of the diameter."""
_LEAST_AREA = 4.0
"""Where less of the field is open than so many squares of the diameter, there is nothing to compare with."""
_STRONG_DETAIL = 3.0
"""Detail that varies this many times as much as in noise is there without doubt."""
_ISLANDS = 0.8
"""Skewness of detail from which on it lies in islands; noise gives 0.2 to 0.5, packed fields 0.4 to 0.7, others more
than 1."""
_SKEWED = 0.35
"""Skewness of the blob, if what is beyond noise comes from particles, at least."""
_TRUSTED_BLOB = 0.8
"""Weight of the blob from which on it says where the centre is."""
_LEAST_BLOB = 0.25
"""Weight of the blob at least."""
_BARE = 3.0
"""A blob this many times as strong as the detail in it, in noise's standard deviations, is no particle among few:
particles have 0.2 to 1, rims and crystals more than 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """Positions in px of the micrograph as written, best first."""

    x: list[float]
    y: list[float]
    score: list[float]
    """Height of the peak divided by the level that separates particles from chance; at least the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Local maxima of a response on the coarse grid, highest first, none too near to a higher one."""

    places: Tensor
    """(n, 2) rows and columns, coarse px."""
    heights: Tensor
    """(n,) in standard deviations of blob and detail."""
    level: Level


def pick(
    image: Tensor, pixel_size: float, diameter: float, *, threshold: float = 1.0, usable: Tensor | None = None
) -> Picks:
    """Find dark particles.

    Parameters
    ----------
    image : (h, w) micrograph, protein darker than ice.
    pixel_size : Å/px.
    diameter : of the particle, Å.
    threshold : in units of the level that separates particles from chance; larger is stricter.
    usable : (h, w) bool, False where there is something else than specimen; None: nowhere.
    """
    height, width = image.shape
    if not 0.0 < diameter < 0.5 * pixel_size * min(height, width):
        raise ValueError(f"a diameter of {diameter:g} Å does not fit into {height} × {width} px of {pixel_size:g} Å")
    view = coarse(image, pixel_size, diameter, usable)
    found = peaks(view)
    scores = found.heights / found.level.height
    kept = (scores >= threshold) & (found.heights <= found.level.ceiling)
    places = (found.places[kept] + 0.5) * view.step - 0.5
    margin = _EDGE * diameter / pixel_size
    inside = ((places >= margin) & (places < torch.tensor([height, width], device=places.device) - margin)).all(1)
    places, scores = places[inside], scores[kept][inside]
    return Picks(x=places[:, 1].tolist(), y=places[:, 0].tolist(), score=scores.tolist())


def peaks(view: Coarse) -> Peaks:
    """Peaks of a coarse micrograph with the level that fits them best."""
    if int(view.open.sum()) < _LEAST_AREA * view.diameter**2:
        none = torch.zeros((0, 2), dtype=torch.int64, device=view.image.device)
        return Peaks(places=none, heights=view.image.new_zeros(0), level=NOTHING)
    found = answer(view)
    noise = answer_to_noise(view, view.noise or 1.0)
    weights = _weights(found, noise, view)
    # detail alone does not tell dark from bright
    summits = _summits(_together(found, found, weights), view.diameter, view.open & (found.blob > 0))
    by_chance = _summits(_together(noise, found if view.noise else noise, weights), view.diameter, None)
    if weights[0] >= _TRUSTED_BLOB:
        summits = (_centred(summits[0], found.blob, view.diameter), summits[1])
    heights, chance = (part[1].double().cpu().numpy() for part in (summits, by_chance))
    level = NOTHING
    if len(chance) > 2:
        detailed = _detailed(summits[0], found, noise, view.diameter) if view.noise and weights[1] else None
        unlike = _unlike_noise(found.blob[view.open], view.diameter)
        level = level_of(
            heights, chance_of(chance), known=view.noise is not None, unlike_noise=unlike, detailed=detailed
        )
    return Peaks(places=summits[0], heights=summits[1], level=level)


def _detailed(places: Tensor, found: Response, noise: Response, diameter: float) -> NDArray[np.bool_]:
    """(n,) whether there is as much detail at places (n, 2) as the blob there asks for."""
    reach = max(1, round(_SUMMIT * diameter))
    blob, detail = (
        torch.nn.functional.max_pool2d((part / unit.std().clamp_min(1e-30))[None, None], 2 * reach + 1, 1, reach)[0, 0]
        for part, unit in ((found.blob, noise.blob), (found.detail, noise.detail))
    )
    enough: NDArray[np.bool_] = (_BARE * detail >= blob)[places[:, 0], places[:, 1]].cpu().numpy()
    return enough


def _centred(places: Tensor, blob: Tensor, diameter: float) -> Tensor:
    """Places (n, 2) moved to the blob's maximum nearby; a sharp particle has its detail along its rim."""
    reach = max(1, round(_SUMMIT * diameter))
    window = torch.nn.functional.pad(blob, (reach,) * 4, value=-math.inf)
    size = 2 * reach + 1
    parts = [int(window[y : y + size, x : x + size].argmax()) for y, x in places.tolist()]
    moved = torch.tensor([[part // size - reach, part % size - reach] for part in parts], device=places.device)
    return places + moved.reshape(-1, 2)


def _weights(found: Response, noise: Response, view: Coarse) -> tuple[float, float]:
    """Weights of blob and detail, in their standard deviations.

    Particles are islands: what comes from them is skewed. A blob that varies more than noise without being skewed comes
    from waves or a gradient; detail that is there without being in islands comes from a field that is packed, and says
    nothing about places.
    """
    blob, detail = (_skewness(part[view.open]) for part in (found.blob, found.detail))
    strength = float(found.detail[view.open].std() / noise.detail.std().clamp_min(1e-30)) if view.noise else math.inf
    if strength > _STRONG_DETAIL and detail < _ISLANDS:
        return 1.0, 0.0
    if not view.noise:
        return 1.0, 1.0
    excess = 1.0 - min(1.0, float(noise.blob.var() / found.blob[view.open].var().clamp_min(1e-30)))
    return min(1.0, max(_LEAST_BLOB, blob / max(_SKEWED * excess, 1e-9))), 1.0


def _together(found: Response, unit: Response, weights: tuple[float, float]) -> Tensor:
    """Sum of blob and detail, each in standard deviations of ``unit``, (h, w)."""
    parts = zip((found.blob, found.detail), (unit.blob, unit.detail), weights, strict=True)
    return torch.stack([part * (weight / one.std().clamp_min(1e-30)) for part, one, weight in parts]).sum(0)


def _skewness(values: Tensor) -> float:
    """Third standardised moment; 0 of nothing."""
    if len(values) < 3:
        return 0.0
    values = values.double() - values.double().mean()
    spread = math.sqrt(float(values.square().mean()))
    return float(values.pow(3).mean()) / max(spread**3, 1e-300)


def _unlike_noise(values: Tensor, diameter: float) -> float:
    """Natural logarithm of how unlikely the skewness of the values is in noise, which has none.

    Source of the standard error: √(6/n) for n independent values; of these there are about four per particle's area.
    """
    independent = 4.0 * len(values) / (math.pi / 4.0 * diameter**2)
    return float(0.5 * _skewness(values) ** 2 * independent / 6.0)


def _summits(response: Tensor, diameter: float, opened: Tensor | None) -> tuple[Tensor, Tensor]:
    """Places (n, 2) and heights (n,) of the maxima above zero, highest first; near ones give way to higher ones."""
    reach = max(1, round(_SUMMIT * diameter))
    highest = torch.nn.functional.max_pool2d(response[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    peak = (response == highest) & (response > 0)
    places = torch.nonzero(peak if opened is None else peak & opened)
    heights = response[places[:, 0], places[:, 1]]
    order = torch.argsort(heights, descending=True, stable=True)
    places, heights = places[order], heights[order]
    points = places.double().cpu().numpy()
    alive, kept = np.ones(len(points), dtype=bool), []
    for index, point in enumerate(points):
        if alive[index]:
            kept.append(index)
            alive[index + 1 :] &= ((points[index + 1 :] - point) ** 2).sum(1) >= (_SPACING * diameter) ** 2
    chosen = torch.tensor(kept, dtype=torch.int64, device=places.device)
    return places[chosen], heights[chosen]
