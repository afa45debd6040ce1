"""Squares without anything to see: whether they are recognised, and no good movie is taken for one.

    python -m benchmarks.empty_squares [--specimens 6] [--movies 25] [--sessions 20]

Good movies are those of ``benchmarks.sessions`` (focus, coverage and ice drawn afresh for each), and *sparse* ones with
a third of the particles; empty ones are ice, carbon, vacuum, a grid bar that a twentieth of the electrons passes, and a
closed shutter. Sessions are drawn from them: 60 movies of one specimen with squares of 1 to 8 empty movies in between
(10 to 50 %), half of the sessions with another specimen from movie 20 to 40. ``SessionSpecimens`` decides; the control
decides the same movies by their texture alone, as before there was such a state.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.harness import simulated, table
from benchmarks.sessions import PLACE, record_of, specimen_of
from models.specimens import Specimens, TextureSample
from service.daemon.specimen_watch import SessionSpecimens
from streamer.band import band_of
from streamer.quality import estimators
from streamer.simulation.movie import Microscope
from streamer.simulation.true_sums import true_sums
from streamer.sums import halves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.specimens import Change

SPECIMENS = ("r911-900-3", "r912-2400-5", "r913-4000-2", "r914-700-2", "r915-1500-6", "apoferritin", "r917-6000-4")
EMPTY = ("ice", "carbon", "vacuum", "bar", "shutter")
SIDE, PIXEL, DOSE = 768, 1.5, 10.0
_HALF = 30


@dataclass(frozen=True)
class Shown:
    """What the watch reads of one movie."""

    kind: str
    texture: tuple[float, ...] | None
    structure: float | None
    ssnr_full: float
    electrons: float
    agrees: bool

    def record(self, name: str) -> SimpleNamespace:
        """A record with these figures."""
        metrics = SimpleNamespace(
            texture=self.texture,
            structure=self.structure,
            ssnr_full=self.ssnr_full,
            mean_counts=self.electrons,
            empty=None,
            score=None,
        )
        source = SimpleNamespace(pixel_size=PIXEL, n_frames=1)
        restoration = "wiener" if self.agrees else "none"
        return SimpleNamespace(movie_id=name, path=name, metrics=metrics, source=source, restoration=restoration)


def shown(kind: str, index: int) -> Shown:
    """The index-th movie of a kind: a specimen, ``sparse <specimen>``, or one of ``EMPTY``; kept between runs."""
    path = PLACE / "empty-squares" / f"{kind.replace(' ', '_')}-{index:04d}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(_simulated(kind, index))))
    kept = json.loads(path.read_text())
    return Shown(**{**kept, "texture": tuple(kept["texture"]) if kept["texture"] else None})


def _simulated(kind: str, index: int) -> Shown:
    rng = np.random.default_rng([*(ord(letter) for letter in kind), index])
    focus, dose = float(rng.uniform(0.7, 2.0)), {"bar": DOSE / 20.0, "shutter": DOSE / 1000.0}.get(kind, DOSE)
    ice = {"carbon": float(rng.uniform(0.06, 0.12)), "vacuum": 0.0, "shutter": 0.0}.get(kind)
    scope = Microscope(
        shape=(SIDE, SIDE),
        n_frames=10,
        pixel_size=PIXEL,
        dose_per_frame=dose / 10.0,
        defocus_um=(focus - 0.02, focus + 0.02),
        ice_contrast=float(rng.uniform(0.015, 0.04)) if ice is None else ice,
        ice_thickness_angstrom=3000.0 if kind == "bar" else float(rng.uniform(300.0, 700.0)),
        coverage=float(rng.uniform(*((0.05, 0.13) if kind.startswith("sparse") else (0.15, 0.4)))),
        bend_px=0.0,
    )
    specimen = None if kind in EMPTY else specimen_of(kind.removeprefix("sparse "))
    movie = simulated(scope, specimen, int(rng.integers(1 << 31)))
    fused = true_sums(movie.frames, movie.truth.displacement, band_of(scope.shape, PIXEL, 6.0, 100.0))
    sums = halves.half_sums(fused, PIXEL, scope.voltage_kv)
    made = record_of("", sums, estimators.measure(sums), float(movie.counts.sum(0).mean()))
    metrics = made.metrics
    return Shown(
        kind=kind,
        texture=metrics.texture,
        structure=metrics.structure,
        ssnr_full=metrics.ssnr_full,
        electrons=metrics.mean_counts,
        agrees=made.restoration != "none",
    )


@dataclass
class Found:
    """What happened in sessions."""

    good: int = 0
    empty: int = 0
    called_empty: int = 0
    """Good movies."""
    missed: int = 0
    """Empty movies that were taken for something."""
    false_changes: int = 0
    switches: int = 0
    noticed_after: list[int] | None = None
    """Good movies after each switch until it was noticed."""


def _plan(rng: np.random.Generator, movies: int, specimens: int, *, switches: bool) -> Iterator[tuple[str, int]]:
    """Kind and index of a session's movies, in order."""
    first, second = rng.choice(specimens, 2, replace=False)
    share = float(rng.uniform(0.1, 0.5))
    used, count = {}, 0
    while count < 2 * _HALF:
        if rng.random() < share / 4.5 / (1.0 - share):
            kind = EMPTY[rng.integers(len(EMPTY))]
            for _ in range(int(rng.integers(1, 9))):
                yield kind, int(rng.integers(max(3, movies // 2)))
        specimen = SPECIMENS[second if switches and 20 <= count < 40 else first]
        kind = f"sparse {specimen}" if rng.random() < 0.1 else specimen
        limit = max(2, movies // 4) if kind.startswith("sparse") else movies
        used[kind] = used.get(kind, int(rng.integers(limit))) + 1
        yield kind, used[kind] % limit
        count += 1


def _follow(rows: list[tuple[str, int]], session: SessionSpecimens | None, found: Found) -> None:
    """Let one of the two ways see a session."""
    control, present, since, noticed = Specimens(), "", 0, True
    for number, (kind, index) in enumerate(rows):
        movie, name = shown(kind, index), f"m{number}"
        is_empty = kind in EMPTY
        specimen = kind.removeprefix("sparse ")
        if not is_empty and specimen != present:
            found.switches += bool(present)
            present, since, noticed = specimen, 0, not present
        since += not is_empty
        change = _changed(session, control, movie, name)
        if change is not None and (noticed or is_empty):
            found.false_changes += 1
        elif change is not None:
            noticed = True
            found.noticed_after = [*(found.noticed_after or []), since]
        found.good += not is_empty
        found.empty += is_empty
    if session is not None:
        for number, (kind, _) in enumerate(rows):
            found.called_empty += kind not in EMPTY and session.is_empty(f"m{number}")
            found.missed += kind in EMPTY and not session.is_empty(f"m{number}")


def _changed(session: SessionSpecimens | None, control: Specimens, movie: Shown, name: str) -> Change | None:
    if session is not None:
        return session.observe(movie.record(name), None)[1]  # type: ignore[arg-type]
    if movie.texture is None:
        return None
    return control.decide(TextureSample(name, movie.texture, PIXEL)).change


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--specimens", type=int, default=len(SPECIMENS))
    parser.add_argument("--movies", type=int, default=25)
    parser.add_argument("--sessions", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for switches in (False, True):
        for way in ("with the state", "control: texture alone"):
            found = Found()
            for seed in range(given.sessions // 2):
                plan = list(
                    _plan(np.random.default_rng([seed, switches]), given.movies, given.specimens, switches=switches)
                )
                with tempfile.TemporaryDirectory() as place:
                    session = SessionSpecimens(Path(place) / "specimens.jsonl") if way.startswith("with") else None
                    _follow(plan, session, found)
            after = found.noticed_after or []
            rows.append(
                [
                    "another specimen, and back" if switches else "one specimen",
                    way,
                    f"{found.good} + {found.empty}",
                    found.called_empty,
                    found.missed if way.startswith("with") else "-",
                    found.false_changes,
                    f"{len(after)} of {found.switches}",
                    f"{np.mean(after):.1f}" if after else "-",
                ]
            )
    table(
        "squares without anything to see",
        [
            *("sessions", "decided", "movies, good + empty", "good called empty", "empty not seen"),
            *("changes that were none", "switches noticed", "after movies"),
        ],
        rows,
        f"{given.sessions} sessions; {SIDE}², {PIXEL} Å/px, {DOSE:g} e⁻/Å²; a tenth of the good movies sparse.",
    )


if __name__ == "__main__":
    main()
