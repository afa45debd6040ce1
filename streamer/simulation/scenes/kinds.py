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

CLEAN = "clean"

KINDS: Mapping[str, Recipe] = {
    CLEAN: Recipe(),
    "crystal": Recipe(crystals=1),
    "small-crystal": Recipe(crystals=1, crystal_size=(80.0, 160.0)),
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

MIXTURES: Mapping[str, tuple[tuple[float, str], ...]] = {
    "session": (
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
    ),
    "good-session": (
        (0.45, "waves-1"),
        (0.25, "heights+waves-1"),
        (0.10, "gradient-1+boiling"),
        (0.10, "small-crystal+waves-1"),
        (0.10, "small-crystal+gradient-3"),
    ),
}
"""Shares of the kinds of fields of a grid: one as most are, with some bad and a few empty fields, and a good one."""


def kind_of(name: str, number: int, seed: int) -> str:
    """Kind of the field that a movie shows: mixtures in a name are replaced by what they have at this number."""
    parts = []
    for part in name.split("+"):
        draw = float(np.random.default_rng([seed, number, 71]).random())
        chosen = part
        for share, kind in MIXTURES.get(part, ()):
            chosen, draw = kind, draw - share
            if draw < 0.0:
                break
        parts.append(chosen)
    return "+".join(parts)


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
                expected=f"{', '.join(KINDS)}, or a mixture: {', '.join(MIXTURES)}",
                found=part,
                hint="choose one of these, or join several by +, such as small+waves-3",
            )
        said = {key: value for key, value in asdict(KINDS[part]).items() if value != plain[key]}
        if "scope" in said:
            said["scope"] = recipe.scope + KINDS[part].scope
        recipe = replace(recipe, **said)
    return recipe
