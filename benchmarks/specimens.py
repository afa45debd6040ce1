"""Whether a session of one specimen is taken for one, and another specimen is noticed, in clean and in dirty ice.

    python -m benchmarks.specimens [--movies 8] [--orders 50] [--spread]

Textures of micrographs from ``benchmarks.quick_fields``, kept between runs; what is not specimen is left out where the
product finds it (``streamer.quality.not_specimen``). Each session of one specimen is gone through in many orders. The
control is the former rule on the same fields with nothing left out: two movies in a row that are odd by the spread of
clean sessions. The fields, and the specimens but apoferritin, were not used to measure the spread; ``--spread``
measures it anew.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from benchmarks.harness import table
from benchmarks.quick_fields import LOOKS, PIXEL, quick_field
from benchmarks.sessions import PLACE
from models.specimens import Specimens, TextureSample
from streamer.quality.not_specimen import find_not_specimen
from streamer.quality.texture import texture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from benchmarks.quick_fields import Quick

    Textures = NDArray[np.float64]

SPREAD = Path(__file__).parent.parent / "models" / "data" / "texture_spread.json"
MEASURED_MOVIES = 14
MEASURED = (
    *(
        (name, look)
        for name in ("r601-900-3", "r602-2400-5", "r603-4000-2", "r604-740-2", "apo")
        for look in ("clean", "crystal", "crystals", "waves-3", "mixed")
    ),
    *(("r605-1500-4", "carbon"), ("r606-5000-7", "waves-1"), ("r607-700-2", "clean"), ("r608-740-2", "plate")),
    *(("virus-61-140-150-250", "clean"), ("virus-61-140-150-250", "carbon"), ("virus-62-200-240-300", "mixed")),
    *(("tube-61", "clean"), ("tube-61", "mixed"), ("actin-61", "clean"), ("actin-61", "crystal"), ("rod-61", "clean")),
    *(("amyloid-61", "mixed"), ("belt-61-900", "clean"), ("belt-62-600", "mixed"), ("asm-63-400-7", "crystal")),
)
"""Sessions that the spread is measured on; their true masks are used."""
TRIED = (
    *(("asm-91-350-6", look) for look in ("clean", "crystal", "crystals", "waves-3", "waves-1", "mixed")),
    *(("r901-740-2", look) for look in ("clean", "crystal", "waves-3")),
    *(("bm5-10", "clean"), ("bm5-140", "crystal"), ("bm5-200", "carbon"), ("bm5-120", "crowded")),
    *(("r903-5000-4", "clean"), ("belt-91-900", "plate"), ("virus-91-120-120-260", "carbon"), ("tube-91", "clean")),
    *(("actin-91", "clean"), ("actin-92", "mixed"), ("apo", "crystal"), ("apo", "crystals")),
)
_KNOWN = (5, 8)
"""Movies before a switch."""
_NEVER = 99


class Rule(Protocol):
    """What is tried."""

    def changes(self, texture: Textures) -> bool:
        """Whether a movie brings a change."""


class Now:
    """The product's own."""

    def __init__(self) -> None:
        self._watch, self._count = Specimens(), 0

    def changes(self, texture: Textures) -> bool:
        """Whether a movie brings a change."""
        self._count += 1
        return self._watch.decide(TextureSample(f"m{self._count}", tuple(texture), PIXEL)).change is not None


class TwoInARow:
    """The control: distances by the spread of clean sessions; 28 is odd, two together above 70 are another specimen."""

    def __init__(self, spread: Textures) -> None:
        self._spread, self._known, self._odd = spread, list[object](), list[object]()

    def _distance(self, some: list[object]) -> float:
        known = np.array(self._known)
        own = np.cov(known.T)
        spread = (60.0 * self._spread + (len(known) - 1) * own) / (59.0 + len(known))
        away = np.mean(some, axis=0) - known.mean(0)
        return float(away @ np.linalg.solve(spread, away)) / (1.0 / len(some) + 1.0 / len(known))

    def changes(self, texture: Textures) -> bool:
        """Whether a movie brings a change."""
        if len(self._known) < 4 or self._distance([texture]) < 28.0:
            self._known, self._odd = [*self._known, texture][-64:], []
            return False
        self._odd = [*self._odd, texture][-2:]
        if len(self._odd) < 2 or self._distance(self._odd) < 70.0:
            return False
        self._known, self._odd = self._odd, []
        return True


def textures(name: str, look: str, movies: int, way: str) -> Textures:
    """Textures of a session's movies, (n, 17).

    Parameters
    ----------
    way : what is left out: ``found`` by the product, the ``true`` mask, or ``nothing``.
    """
    session, ways = ("measured", ("true",)) if way == "true" else ("tried", ("found", "nothing"))
    place = PLACE / "specimens" / f"{name}_{look}_{session}.npy"
    kept = np.load(place) if place.exists() else np.zeros((0, len(ways), 17))
    if len(kept) < movies:
        new = [_textures(quick_field(name, LOOKS[look], session, index), ways) for index in range(len(kept), movies)]
        place.parent.mkdir(parents=True, exist_ok=True)
        kept = np.concatenate([kept, np.array(new)])
        temporary = place.with_suffix(f".{os.getpid()}.npy")
        np.save(temporary, kept)
        temporary.replace(place)
    found = kept[:movies, ways.index(way)]
    return found[~np.isnan(found).any(1)]


def _textures(made: Quick, ways: tuple[str, ...]) -> Textures:
    """(ways, 17); NaN where a field has no texture."""
    masks = {"found": lambda: find_not_specimen(made.sums), "true": lambda: made.mask, "nothing": lambda: None}
    found = [texture(made.sums, masks[way]()) for way in ways]
    return np.array([np.full(17, np.nan) if one is None else np.array(one) for one in found])


def pooled(sessions: list[Textures]) -> Textures:
    """Covariance within sessions."""
    free = sum(len(one) - 1 for one in sessions)
    spread: Textures = np.sum([np.cov(one.T) * (len(one) - 1) for one in sessions], axis=0) / free
    return spread


def measure_spread() -> None:
    """Measure the spread within a session anew and keep it where the program finds it."""
    found = []
    for name, look in MEASURED:
        found.append(textures(name, look, MEASURED_MOVIES, "true"))
        print(name, look, len(found[-1]), flush=True)
    lines = ",\n  ".join("[" + ", ".join(f"{value:.4g}" for value in row) + "]" for row in pooled(found))
    source = f"{len(found)} simulated sessions of {MEASURED_MOVIES} movies each, with and without dirt: "
    source += "benchmarks/specimens.py --spread"
    SPREAD.write_text(f'{{\n "source": "{source}",\n "covariance": [\n  {lines}\n ]\n}}\n')


def one_specimen(
    sessions: dict[tuple[str, str], Textures], rule: Callable[[], Rule], orders: int
) -> dict[str, list[int]]:
    """Of each look: movies, changes that were none, orders, orders with such a change."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (name, look), movies in sessions.items():
        for order in range(orders):
            tried = rule()
            draw = np.random.default_rng([order, len(name)])
            false = sum(tried.changes(movies[index]) for index in draw.permutation(len(movies)))
            for place, value in enumerate((len(movies), false, 1, false > 0)):
                found[look][place] += value
    return found


def _pairs(sessions: dict[tuple[str, str], Textures], count: int) -> Iterator[tuple[Textures, Textures]]:
    """Sessions of different specimens, drawn at random."""
    names, draw = list(sessions), np.random.default_rng(41)
    while count:
        one, other = (names[index] for index in draw.choice(len(names), 2, replace=False))
        if one[0] != other[0]:
            count -= 1
            yield sessions[one], sessions[other]


def switches(sessions: dict[tuple[str, str], Textures], rule: Callable[[], Rule], pairs: int) -> dict[int, list[int]]:
    """For each number of movies before a switch, after how many it was noticed."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, (one, other) in enumerate(_pairs(sessions, pairs)):
        for known in _KNOWN:
            draw, tried = np.random.default_rng([number, known]), rule()
            for index in draw.permutation(len(one))[:known]:
                tried.changes(one[index])
            after = [tried.changes(other[index]) for index in draw.permutation(len(other))[:6]]
            found[known].append(after.index(True) + 1 if True in after else _NEVER)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--movies", type=int, default=8)
    parser.add_argument("--orders", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--spread", action="store_true", help="measure the spread within a session anew first")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.spread:
        measure_spread()
    seen, bare = {}, {}
    for key in TRIED:
        seen[key], bare[key] = (textures(*key, given.movies, way) for way in ("found", "nothing"))
        print(*key, len(seen[key]), flush=True)
    clean = pooled([textures(*key, MEASURED_MOVIES, "true") for key in MEASURED if key[1] == "clean"])
    now = one_specimen(seen, Now, given.orders)
    unmasked = one_specimen(bare, Now, given.orders)
    control = one_specimen(bare, lambda: TwoInARow(clean), given.orders)
    rows: list[list[object]] = []
    for look in [*now, "all"]:
        totals = [np.sum(list(f.values()), axis=0) if look == "all" else f[look] for f in (now, unmasked, control)]
        rates = [f"{500.0 * false / movies:.2f} ({hit / sessions:.1%})" for movies, false, sessions, hit in totals]
        rows.append([look, totals[0][0], *rates])
    header = ["fields", "movies", "now", "now, nothing masked", "control: two in a row, clean spread"]
    note = f"Changes per 500 movies (orders with one); {given.orders} orders of {given.movies} movies of each session."
    table("one specimen in clean and dirty ice", header, rows, note)
    rows = []
    ways = {"now": (seen, Now), "now, nothing masked": (bare, Now), "control": (bare, lambda: TwoInARow(clean))}
    for label, (sessions, rule) in ways.items():
        found = switches(sessions, rule, given.pairs)
        within = [f"{np.mean(np.array(found[known]) <= 3):.1%}" for known in _KNOWN]
        rows.append([label, given.pairs, *within, f"{np.mean(np.concatenate(list(found.values())) > 6):.1%}"])
    header = ["rule", "switches", *(f"within 3 movies, after {known}" for known in _KNOWN), "not within six"]
    table("switches of specimen in clean and dirty ice", header, rows, "Any session to any of another specimen.")


if __name__ == "__main__":
    main()
