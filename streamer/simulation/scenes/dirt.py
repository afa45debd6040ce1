"""What lies in a field and is not specimen: contamination crystals, carbon and gold film, broken ice.

Each draws on the fine grid how many electrons it lets pass and by how much it turns their phase, and says where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamer.units import interaction_constant

if TYPE_CHECKING:
    from streamer.simulation.scenes.canvas import Canvas
    from streamer.simulation.scenes.motions import Movement
    from streamer.simulation.scenes.recipe import Recipe

Array = NDArray[np.float32]
_ICE_LATTICE = (3.90, 3.67, 3.44)
"""Å. Source: the strongest reflections of hexagonal ice."""
_ICE_POTENTIAL_V = 4.5
_CARBON_POTENTIAL_V = 9.0
_VACUUM = 1.1
"""Counts where there is no ice over those through it: what the ice scatters out of the aperture is not lost there."""


@dataclass
class Dirt:
    """What is not specimen, on the fine grid (2H, 2W)."""

    transmission: Array
    """Share of the electrons that are not lost, 1 for plain ice."""
    phase: Array
    """rad beyond plain ice."""
    ice: Array
    """Share of the ice, and of what is frozen in it, that is there: 0 in vacuum."""
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Kind -> where it is: ``crystal``, ``carbon``, ``gold``, ``vacuum``."""

    @property
    def strong(self) -> bool:
        """Whether anything was drawn."""
        return bool(self.masks)

    def anywhere(self, *kinds: str) -> NDArray[np.bool_]:
        """Where any of these kinds is (2H, 2W); all kinds without a name."""
        found = np.zeros(self.phase.shape, dtype=bool)
        for kind in kinds or tuple(self.masks):
            if kind in self.masks:
                found |= self.masks[kind]
        return found

    def add_mask(self, kind: str, where: NDArray[np.bool_]) -> None:
        """Note where something is."""
        self.masks[kind] = self.masks[kind] | where if kind in self.masks else where


def drawn(recipe: Recipe, canvas: Canvas, movement: Movement, voltage_kv: float, seed: int) -> Dirt:
    """Everything of a recipe that is not specimen; each kind has a seed of its own, so that switches do not mix."""
    one = np.ones(canvas.fine, np.float32)
    dirt = Dirt(one.copy(), np.zeros(canvas.fine, np.float32), one)
    if recipe.torn > 0.0:
        _tear(dirt, canvas, recipe.torn, np.random.default_rng([seed, 41]))
    if movement.crack is not None:
        _open_crack(dirt, canvas, movement)
    if recipe.carbon > 0.0:
        _carbon(dirt, canvas, recipe, voltage_kv, np.random.default_rng([seed, 42]))
    if recipe.gold > 0.0:
        _gold(dirt, canvas, recipe, np.random.default_rng([seed, 43]))
    rng = np.random.default_rng([seed, 44])
    for number in range(recipe.crystals + recipe.crystals_at_edge):
        _crystal(dirt, canvas, recipe, voltage_kv, rng, cut=number >= recipe.crystals)
    return dirt


# --------------------------------------------------------------------------------------------------- broken ice


def _vacuum(dirt: Dirt, depth: Array) -> None:
    """Take the ice away where ``depth`` in Å is positive; its edge has curled up and is a little thicker."""
    gone = 1.0 / (1.0 + np.exp(-np.clip(depth / 4.0, -30.0, 30.0)))
    curl = 1.0 - 0.08 * np.exp(-(((depth + 25.0) / 20.0) ** 2))
    dirt.transmission *= (curl + (_VACUUM - curl) * gone).astype(np.float32)
    dirt.ice = (dirt.ice * (1.0 - gone)).astype(np.float32)
    dirt.add_mask("vacuum", depth > 0.0)


def _tear(dirt: Dirt, canvas: Canvas, share: float, rng: np.random.Generator) -> None:
    if share >= 1.0:
        _vacuum(dirt, np.full(canvas.fine, 1000.0, np.float32))
        return
    _vacuum(dirt, _region(canvas, share, curved=True, rough=18.0, rng=rng))


def _open_crack(dirt: Dirt, canvas: Canvas, movement: Movement) -> None:
    """A gap of 25 Å along the line on which the ice breaks."""
    y, x = canvas.axes()
    height, width = canvas.extent
    distance = movement.from_crack(y / height, x / width) * canvas.pixel_size
    _vacuum(dirt, 12.5 - np.abs(distance))


# -------------------------------------------------------------------------------------------------------- films


def _region(canvas: Canvas, share: float, *, curved: bool, rough: float, rng: np.random.Generator) -> Array:
    """Depth in Å within a region that covers a share of the frame; negative outside. Edge straight, or a hole's rim."""
    y, x = canvas.axes()
    angle = rng.uniform(0.0, 2.0 * math.pi)
    if curved:
        radius = rng.uniform(0.8, 3.0) * max(canvas.extent)
        depth = np.hypot(y - radius * math.sin(angle), x - radius * math.cos(angle)) - radius
    else:
        depth = y * math.sin(angle) + x * math.cos(angle)
    depth = depth + rough * canvas.smooth_noise(rng, 60.0, 600.0) + 3.0 * canvas.smooth_noise(rng, 15.0, 60.0)
    result: Array = (depth - np.quantile(canvas.in_frame(depth)[::4, ::4], 1.0 - share)).astype(np.float32)
    return result


def _carbon(dirt: Dirt, canvas: Canvas, recipe: Recipe, voltage_kv: float, rng: np.random.Generator) -> None:
    """120 to 250 Å of amorphous carbon: a little darker, with a grain that shows Thon rings."""
    depth = _region(canvas, recipe.carbon, curved=recipe.curved, rough=4.0, rng=rng)
    there = 1.0 / (1.0 + np.exp(-np.clip(depth / 3.0, -30.0, 30.0)))
    thickness = rng.uniform(120.0, 250.0)
    grain = 0.075 * math.sqrt(thickness / 120.0) * canvas.grain(rng, 1.1)
    mean = interaction_constant(voltage_kv) * (_CARBON_POTENTIAL_V * thickness - _ICE_POTENTIAL_V * 200.0)
    dirt.phase += (there * (grain + mean)).astype(np.float32)
    dirt.transmission *= (1.0 - there * (1.0 - math.exp(-thickness / 1100.0))).astype(np.float32)
    dirt.add_mask("carbon", depth > 0.0)


def _gold(dirt: Dirt, canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> None:
    """Some hundred Å of gold: dark, of grains that diffract each in its own way, with a hard rough edge."""
    depth = _region(canvas, recipe.gold, curved=recipe.curved, rough=9.0, rng=rng)
    there = 1.0 / (1.0 + np.exp(-np.clip(depth / 4.0, -30.0, 30.0)))
    grains = _grains(canvas, rng.uniform(80.0, 220.0), rng)
    passes = rng.uniform(0.15, 0.4) * np.exp(0.35 * grains)
    speckle = canvas.grain(rng, 2.0)
    dirt.phase += (there * (0.25 * speckle + 0.5 * grains)).astype(np.float32)
    dirt.transmission *= (1.0 - there * (1.0 - passes.clip(0.02, 0.9))).astype(np.float32)
    dirt.add_mask("gold", depth > 0.0)


def _grains(canvas: Canvas, size: float, rng: np.random.Generator) -> Array:
    """(2H, 2W) a normal value for each grain of about this size in Å, hard at its borders."""
    every = max(1, min(4, int(size / 20.0 / canvas.step)))
    y, x = canvas.axes(every)
    height, width = len(y) * every * canvas.step, x.shape[1] * every * canvas.step
    count = max(4, round(height * width / size**2))
    seeds = rng.uniform(-0.5, 0.5, (count, 2)) * [height, width]
    values = rng.standard_normal(count)
    best, grains = np.full((len(y), x.shape[1]), np.inf, np.float32), np.zeros((len(y), x.shape[1]), np.float32)
    for (row, column), value in zip(seeds, values, strict=True):
        distance = (y - row) ** 2 + (x - column) ** 2
        nearer = distance < best
        best[nearer], grains[nearer] = distance[nearer], value
    return canvas.enlarged(grains, every)


# ----------------------------------------------------------------------------------------------------- crystals


def _crystal(
    dirt: Dirt, canvas: Canvas, recipe: Recipe, voltage_kv: float, rng: np.random.Generator, *, cut: bool
) -> None:
    """One crystal of ice with straight facets, bevelled or steep, dark by what it diffracts out of the aperture."""
    widest = min(recipe.crystal_size[1], 0.5 * min(canvas.extent))
    size = math.exp(rng.uniform(math.log(min(recipe.crystal_size[0], widest)), math.log(widest)))
    middle = _middle(canvas, size, rng, cut=cut)
    y, x = canvas.axes()
    window = tuple(
        slice(*np.searchsorted(axis.ravel(), (m - size, m + size))) for axis, m in ((y, middle[0]), (x, middle[1]))
    )
    y, x = _turned(y[window[0]] - middle[0], x[:, window[1]] - middle[1], rng.uniform(0.0, 2.0 * math.pi))
    sides = int(rng.integers(4, 8))
    normals = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) * 2.0 * math.pi / sides
    reaches = 0.5 * size * rng.uniform(0.75, 1.1, sides)
    stretch = rng.uniform(0.6, 1.0)
    inside = np.full(y.shape, np.inf, np.float32)
    for normal, reach in zip(normals, reaches, strict=True):
        np.minimum(inside, reach - (x * math.cos(normal) + y / stretch * math.sin(normal)), out=inside)
    depth = inside.clip(0.0)
    # facets: from a steep wall to a slope over half of the width, and a flat or tilted top
    slope = rng.uniform(0.6, 6.0)
    top = size * rng.uniform(0.3, 0.8)
    tilted = 1.0 + rng.uniform(0.0, 0.5) * (x + y) / size
    thickness = np.minimum(depth * slope, top * tilted.clip(0.2))
    there = (inside > 0.0).astype(np.float32)
    # two beams exchange intensity with depth: dark and bright bands along equal thickness and where the crystal bends
    extinction = rng.uniform(500.0, 1500.0)
    bend = rng.uniform(0.0, 1.5) * (x * math.cos(normals[0]) + y * math.sin(normals[0])) / size
    bands = np.sin(math.pi * thickness / extinction * np.sqrt(1.0 + bend**2)) ** 2 / (1.0 + bend**2)
    diffracted = rng.uniform(0.1, 0.45) * bands
    lost = 1.0 - np.exp(-thickness / rng.uniform(600.0, 1600.0)) * (1.0 - diffracted)
    dirt.transmission[window] *= (1.0 - there * lost).astype(np.float32)
    lattice = sum(_fringes(y, x, spacing, rng) for spacing in _ICE_LATTICE)
    mean = 0.3 * interaction_constant(voltage_kv) * _ICE_POTENTIAL_V * thickness
    dirt.phase[window] += (there * (mean + rng.uniform(0.02, 0.12) * lattice)).astype(np.float32)
    mask = np.zeros(canvas.fine, dtype=bool)
    mask[window] = inside > 0.0
    dirt.add_mask("crystal", mask)


def _middle(canvas: Canvas, size: float, rng: np.random.Generator, *, cut: bool) -> tuple[float, float]:
    """(y, x) in Å from the frame's middle: anywhere in it, or so near to a side that this cuts the crystal."""
    height, width = canvas.extent
    y, x = rng.uniform(-0.5, 0.5, 2) * [height, width]
    if cut:
        side, off = int(rng.integers(4)), rng.uniform(-0.3, 0.15) * size
        if side < 2:
            y = (height / 2.0 + off) * (1 if side else -1)
        else:
            x = (width / 2.0 + off) * (1 if side == 3 else -1)
    return float(y), float(x)


def _turned(y: Array, x: Array, angle: float) -> tuple[Array, Array]:
    """Both coordinates, from y (n, 1) and x (1, m), along axes that are turned."""
    cos, sin = math.cos(angle), math.sin(angle)
    return (y * cos - x * sin).astype(np.float32), (x * cos + y * sin).astype(np.float32)


def _fringes(y: Array, x: Array, spacing: float, rng: np.random.Generator) -> Array:
    angle = rng.uniform(0.0, math.pi)
    fringes: Array = np.cos(2.0 * math.pi / spacing * (x * math.cos(angle) + y * math.sin(angle)))
    return fringes * float(rng.random() < 0.6)
