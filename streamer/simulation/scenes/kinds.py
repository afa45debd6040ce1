"""The kinds of fields by name, and how a session mixes them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import UsageError
from streamer.simulation.scenes.motions import MOTIONS
from streamer.simulation.scenes.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

SESSION = "session"

KINDS: Mapping[str, Recipe] = {
    "clean": Recipe(),
    "crystal": Recipe(crystals=1),
    "crystals": Recipe(crystals=4, crystals_at_edge=2, crystal_size=(100.0, 450.0)),
    "crystal-edge": Recipe(crystals_at_edge=2, crystal_size=(250.0, 700.0)),
    "big-crystal": Recipe(crystals=1, crystal_size=(600.0, 1500.0)),
    "frost": Recipe(crystals=14, crystals_at_edge=3, crystal_size=(30.0, 120.0)),
    "carbon": Recipe(carbon=0.3),
    "carbon-hole": Recipe(carbon=0.35, curved=True),
    "all-carbon": Recipe(carbon=1.0),
    "gold": Recipe(gold=0.25),
    "gold-hole": Recipe(gold=0.3, curved=True),
    "waves-1": Recipe(waves=0.01),
    "waves-3": Recipe(waves=0.03),
    "gradient-1": Recipe(gradient=0.01),
    "gradient-3": Recipe(gradient=0.03),
    "gradient-20": Recipe(gradient=0.2),
    "boiling": Recipe(boiling=1.0),
    "heights": Recipe(height_spread=1000.0),
    "crowded": Recipe(coverage=0.6, spacing=0.8),
    "overlapping": Recipe(coverage=0.8, spacing=0.0),
    "sparse": Recipe(coverage=0.04),
    "empty": Recipe(empty=True),
    "torn": Recipe(torn=0.4),
    "vacuum": Recipe(torn=1.0, empty=True),
    "small": Recipe(specimen="small", coverage=0.2),
    "virus": Recipe(specimen="virus", coverage=0.35),
    "membrane": Recipe(specimen="membrane"),
    "vesicles": Recipe(specimen="membrane", vesicles=True, coverage=0.3),
    "actin": Recipe(specimen="actin", coverage=0.25),
    "tubes": Recipe(specimen="tubes", coverage=0.35),
    "phase-plate": Recipe(scope=(("phase_shift_deg", 90.0), ("defocus_um", (0.4, 0.7)))),
    "weak": Recipe(scope=(("defocus_um", (0.4, 0.9)), ("ice_thickness_angstrom", 900.0), ("ice_contrast", 0.045))),
    **{name: Recipe(motion=name) for name in MOTIONS},
}
"""Names may be joined by +: ``small+waves-3+crystal`` has all three."""

_MIX: tuple[tuple[float, str], ...] = (
    (0.30, "waves-1"),
    (0.16, "crystal+waves-1"),
    (0.08, "frost"),
    (0.08, "crystal-edge+gradient-1"),
    (0.06, "crystals+waves-1"),
    (0.10, "heights+gradient-1"),
    (0.07, "carbon-hole"),
    (0.04, "waves-3"),
    (0.03, "crowded+waves-1"),
    (0.03, "boiling"),
    (0.03, "empty"),
    (0.01, "empty+carbon-hole"),
    (0.01, "torn"),
)
"""Shares of the kinds of fields of a real grid: mostly clean or a little dirty, few bad, one in thirty empty."""


def of_session(number: int, seed: int) -> str:
    """Name of the kind of field that a movie of a session shows."""
    draw = float(np.random.default_rng([seed, number, 71]).random())
    for share, name in _MIX:
        draw -= share
        if draw < 0.0:
            return name
    return _MIX[0][1]


def recipe_of(name: str) -> Recipe:
    """Recipe of a kind, or of several whose names are joined by +; later names win where both say something.

    Raises
    ------
    UsageError
        There is no such kind.
    """
    recipe, plain = Recipe(), asdict(Recipe())
    for part in name.split("+"):
        if part not in KINDS:
            raise UsageError(
                "unknown scene",
                where="--scene",
                expected=f"{', '.join(KINDS)}, or {SESSION} for a mixture",
                found=part,
                hint="choose one of these, or join several by +, such as small+waves-3",
            )
        said = {key: value for key, value in asdict(KINDS[part]).items() if value != plain[key]}
        if "scope" in said:
            said["scope"] = recipe.scope + KINDS[part].scope
        recipe = replace(recipe, **said)
    return recipe
