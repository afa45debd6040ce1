"""The session model beside the truth, over whole sessions: learning curves, changes of specimen, sabotage.

    python -m benchmarks.session_model [curves] [change] [gate] [improvements] [specimens]

Movies come every 15 s of a simulated clock; training and judging take the CPU-seconds that they take, on one thread,
and a version serves from the first movie after it. Trainer, store, journal, gate and specimen watch are the product's
own; only processes and pipes are left out. SNBR* by the truth, whole sum, 100-6 Å. The specimens were never used in
pre-training, which knows only its own random proteins. ``specimens`` uses other sessions than those that the spread
within a session was measured on (``benchmarks.specimens``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from msgspec.structs import replace

from benchmarks import session_sabotage
from benchmarks.denoise import against_truth, snbr
from benchmarks.harness import table
from benchmarks.sessions import Sample, movie_of, record_of
from models.serving.session_model import SessionModel
from models.settings import SessionModelSettings
from models.specimens import Specimens, TextureSample
from models.versions.base_weights import base_directory
from models.versions.store import ModelStore
from service.config import Config
from service.daemon.serving_version import ServingVersions
from service.daemon.specimen_watch import SessionSpecimens
from service.health.prometheus import Metrics
from service.journal.journal import Journal
from service.layout import Layout
from service.processes.messages import Candidate, Learn
from service.processes.trainer import Trainer
from streamer import restore
from streamer.quality import estimators
from streamer.quality.texture import texture
from streamer.settings import DenoiseSettings
from streamer.sums.group_files import encode_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.sessions import SessionMovie
    from streamer.movie_record import ModelScore

CADENCE_S = 15.0
CURVES = (Sample("r101-2400"), Sample("r303-4800"), Sample("r505-3200"))
MOVIES = 36
TEST = 8
"""Movies after the session, for the last version and for the one that is trained on everything."""
SESSION = "benchmark"


@dataclass
class Row:
    """What one movie got."""

    version: str
    restoration: str
    wiener: float
    served: float
    flagged: bool
    specimen: int
    score: ModelScore | None = None

    @property
    def ratio(self) -> float:
        """Served over Wiener."""
        return self.served / self.wiener


@dataclass
class Ear:
    """The daemon's end of the trainer's channel."""

    heard: list[Candidate] = field(default_factory=list)

    def send(self, message: object) -> None:
        """Hear a candidate."""
        if isinstance(message, Candidate):
            self.heard.append(message)


class Night:
    """One session on the simulated clock."""

    def __init__(self, place: Path, settings: SessionModelSettings) -> None:
        self.config = replace(Config(), session_model=settings, denoise=DenoiseSettings(resolution=6.0))
        self.layout = Layout(root=place / "in", output=place / "out", state=place, runtime=place / "run")
        self.journal = Journal.open(place / "journal.db", instance="benchmark")
        self.serving = ServingVersions(self.layout, self.journal, Metrics(), base_directory(settings))
        self.specimens = SessionSpecimens(self.layout.session_state(SESSION) / "specimens.jsonl")
        self.ear, self.models = Ear(), dict[str, SessionModel]()
        self.trainer = self._trainer(None)
        self.waiting: list[Learn] = []
        self.busy_until, self.now, self.cpu_s = 0.0, 0.0, 0.0
        self.decisions: list[tuple[int, str, str]] = []
        self.rows: list[Row] = []
        self.changes: list[tuple[int, int, bool]] = []

    def _trainer(self, warm: str | None) -> Trainer:
        self.serving.version(SESSION)
        directory = self.layout.session_state(SESSION)
        trainer = Trainer(self.ear, self.config, directory, specimen=self.specimens.current, warm=warm)  # type: ignore[arg-type]
        trainer.begin()
        return trainer

    def take(self, movie: SessionMovie) -> None:
        """One movie, from its arrival to the trainer."""
        self._work(self.now)
        version = self.serving.version(SESSION)
        number = self.specimens.current
        self.rows.append(self._served(movie, version, flagged=number > 1 and not self.serving.has_own(SESSION, number)))
        path = self.layout.groups(movie.name.replace("/", "-"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_groups(path.stem, movie.groups))
        record = record_of(path.stem, movie.sums, movie.spectrum, score=self.rows[-1].score)
        decided, change = self.specimens.observe(record, version)  # type: ignore[arg-type]
        if change is not None:
            self.changes.append((len(self.rows), change.specimen, change.returned))
            fits, earlier_version = (
                self.specimens.fits(version, record.metrics.score),
                self.specimens.served(change.specimen),
            )
            serves = self.serving.change_specimen(SESSION, change, earlier_version, fits=fits)
            self.trainer, self.waiting = self._trainer(version if serves is None else None), []
            if change.returned:
                earlier = sorted(
                    (p for p in self.layout.groups("x").parent.iterdir()), key=lambda p: p.stat().st_mtime_ns
                )
                self.waiting = [self._learn(p.stem) for p in earlier if self.specimens.of(p.stem) == change.specimen]
            self.busy_until = self.now
        reason = self.specimens.unfit(self.serving.version(SESSION))
        if reason is not None and not self.serving.has_own(SESSION, self.specimens.current):
            self.serving.drop(SESSION, self.specimens.served(self.specimens.current), reason)
            self.trainer = self._trainer(version)
        self.waiting += [self._learn(movie_id) for movie_id, n in decided if n == self.specimens.current]
        self.now += CADENCE_S
        self._work(self.now)

    def _learn(self, movie_id: str) -> Learn:
        return Learn(movie_id=movie_id, groups=str(self.layout.groups(movie_id)))

    def _work(self, until: float) -> None:
        """Let the trainer work while it has time before ``until``; what it finishes later serves later."""
        while self.busy_until <= until:
            for example in self.waiting:
                self.trainer.handle(example)
            self.waiting = []
            for candidate in self.ear.heard:
                self.serving.judged(SESSION, candidate)
                self.decisions.append((len(self.rows), candidate.version, f"{candidate.result}: {candidate.reason}"))
            self.ear.heard = []
            if not self.trainer.is_due():
                return
            began = time.process_time()
            self.trainer.train_denoiser()
            spent = time.process_time() - began
            self.cpu_s += spent
            self.busy_until = max(self.busy_until, until - CADENCE_S) + spent

    def _served(self, movie: SessionMovie, version: str | None, *, flagged: bool) -> Row:
        shape = movie.sums.shape
        mask = estimators.band_mask(shape, movie.sums.pixel_size, 100.0, 6.0)
        linear = restore.filtered(movie.sums.total, movie.spectrum.wiener, shape)
        wiener = snbr(against_truth(linear, movie), mask)  # type: ignore[arg-type]
        if version is None:
            return Row("-", "wiener", wiener, wiener, flagged, self.specimens.current)
        if version not in self.models:
            self.models = {version: SessionModel(ModelStore(self.layout.models(SESSION)).path(version))}
        proposal = self.models[version].propose(movie.sums, movie.spectrum, movie.name)
        merged = restore.merge(linear, proposal.total, proposal.weight, shape)
        made = "refused" if proposal.refused else "network"
        if proposal.refused:
            print(f"  {movie.name} by {version}: {proposal.refused}", flush=True)
        served = snbr(against_truth(merged, movie), mask)  # type: ignore[arg-type]
        return Row(version, made, wiener, served, flagged, self.specimens.current, proposal.score)


def score_of(version: Path, movies: Sequence[SessionMovie]) -> float:
    """Pooled SNBR* by the truth over some movies, by a version."""
    model, sums = SessionModel(version), []
    for movie in movies:
        shape = movie.sums.shape
        proposal = model.propose(movie.sums, movie.spectrum)
        linear = restore.filtered(movie.sums.total, movie.spectrum.wiener, shape)
        sums.append(against_truth(restore.merge(linear, proposal.total, proposal.weight, shape), movie))  # type: ignore[arg-type]
    mask = estimators.band_mask(shape, movies[0].sums.pixel_size, 100.0, 6.0)
    return snbr(torch.stack(sums).sum(0), mask)


def offline(sample: Sample, place: Path, settings: SessionModelSettings) -> Path:
    """A version trained on the whole session at leisure, by ``models train``'s own function."""
    from service.offline.train_denoiser import train_offline

    groups = place / "offline-groups"
    groups.mkdir()
    for index in range(MOVIES):
        movie = movie_of(sample, index)
        name = movie.name.replace("/", "-")
        (groups / f"{name}.safetensors").write_bytes(encode_groups(name, movie.groups))
    out = place / "offline"
    train_offline(
        [groups], out, steps=4000, seconds=None, base=base_directory(settings), network="small", seed=20, ctf=None
    )
    return out


def curves(base: str) -> None:
    """SNBR* of what was served against the movie's index."""
    rows: list[list[object]] = []
    points: dict[str, list[float]] = {}
    for sample in CURVES:
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            settings = SessionModelSettings(base=base)
            night = Night(place, settings)
            for index in range(MOVIES):
                night.take(movie_of(sample, index))
            ratios = [row.ratio for row in night.rows]
            points[sample.specimen] = [round(r, 3) for r in ratios]
            last = night.serving.version(SESSION)
            unseen = [movie_of(sample, index) for index in range(MOVIES, MOVIES + TEST)]
            final = score_of(ModelStore(night.layout.models(SESSION)).path(last), unseen) if last else float("nan")
            whole = score_of(offline(sample, place, settings), unseen)
            promoted = sum(why.startswith("promoted") for _, _, why in night.decisions)
            above = next((i for i in range(MOVIES) if all(r > 1.0 for r in ratios[i:])), -1)
            rows.append(
                [
                    sample.specimen,
                    *(f"{ratios[i]:.2f}" for i in (0, 2, 3, 5, 10, 20, MOVIES - 1)),
                    f"{np.mean(ratios[10:]):.2f}",
                    f"{min(ratios):.2f}",
                    above,
                    f"{final / whole:.3f}",
                    f"{promoted} of {len(night.decisions)}",
                    sum(row.restoration == "refused" for row in night.rows),
                    f"{night.cpu_s / MOVIES:.1f}",
                ]
            )
            print(rows[-1], night.decisions, night.changes, flush=True)
    header = ["specimen", *(f"movie {i}" for i in (0, 2, 3, 5, 10, 20, MOVIES - 1)), "mean from 10", "worst"]
    table(
        f"served over Wiener, {base} base",
        [*header, "above 1 for good from", "last/offline", "promoted", "refused", "trainer CPU-s per movie"],
        rows,
        f"SNBR* by the truth over the own Wiener filter's; {MOVIES} movies, one every {CADENCE_S:g} s, indices from 0. "
        f"last/offline: last version over one trained on the whole session for 4000 steps, on {TEST} movies after it. "
        f"{json.dumps(points)}",
    )


def change(base: str) -> None:
    """Another specimen in the middle of a session, and the first one again."""
    rows: list[list[object]] = []
    for first, second in ((0, 1), (1, 2), (2, 0)):
        one, other = CURVES[first], CURVES[second]
        with tempfile.TemporaryDirectory() as name:
            night = Night(Path(name), SessionModelSettings(base=base))
            plan = [(one, range(20)), (other, range(16)), (one, range(20, 30))]
            for sample, indices in plan:
                for index in indices:
                    night.take(movie_of(sample, index))
            found = night.rows
            # own level: what a session of the other specimen alone serves at the same movies (curves)
            after = found[20:36]
            flagged = next((i + 1 for i, row in enumerate(after) if row.flagged or row.specimen > 1), -1)
            late = [row.ratio for row in after[10:]]
            rows.append(
                [
                    f"{one.specimen} > {other.specimen} > {one.specimen}",
                    [(at - 20, number, "back" if returned else "new") for at, number, returned in night.changes],
                    flagged,
                    f"{np.mean([row.ratio for row in found[10:20]]):.2f}",
                    " ".join(f"{row.ratio:.2f}" for row in after[:5]),
                    f"{np.mean(late):.2f}",
                    f"{min(row.ratio for row in after):.2f}",
                    " ".join(f"{row.ratio:.2f}" for row in found[36:]),
                    " ".join(row.version for row in found[36:]),
                ]
            )
            print(rows[-1], night.decisions, flush=True)
    table(
        f"a change of specimen, {base} base",
        [
            *("session", "changes (movies after the switch, specimen)", "noticed at", "before", "first five after"),
            *("mean after ten", "worst after", "back", "versions then"),
        ],
        rows,
        "SNBR* by the truth over the own Wiener filter's. 20 movies, 16 of another specimen, 10 of the first again.",
    )


# ---------------------------------------------------------------------------------------- telling specimens apart


def textures(samples: Sequence[Sample], count: int) -> dict[str, list[tuple[float, ...]]]:
    """Textures of the first movies of each sample."""
    found = {}
    for sample in samples:
        looks = [texture(movie_of(sample, index).sums) for index in range(count)]
        found[sample.name] = [look for look in looks if look is not None]
    return found


def random_samples(count: int, seed: int) -> list[Sample]:
    """Sessions of random proteins at one exposure."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        residues = int(np.exp(rng.uniform(np.log(600), np.log(6000))))
        samples.append(Sample(f"r{100 * seed + number}-{residues}-{int(rng.integers(2, 9))}"))
    return samples


_NEVER = 99


def _switched(old: list, new: list, before: int) -> tuple[int, bool | None]:  # type: ignore[type-arg]
    """Movies until a switch is noticed, and whether the first specimen is known again; None: that was not tried."""
    watch, at = Specimens(), _NEVER
    for index, look in enumerate(old[:before]):
        watch.decide(TextureSample(f"a{index}", look, 1.5))
    start = watch.current
    for index, look in enumerate(new[:6]):
        if watch.decide(TextureSample(f"b{index}", look, 1.5)).change is not None and at == _NEVER:
            at = index + 1
    if at == _NEVER or len(old) < before + 6:
        return at, None
    steps = [watch.decide(TextureSample(f"c{i}", look, 1.5)).change for i, look in enumerate(old[before : before + 6])]
    told = next((step for step in steps if step is not None), None)
    return at, told is not None and told.returned and told.specimen == start


def tell_apart() -> None:
    """Switches that were noticed, and alarms without one, on sessions that the spread was not measured on."""
    known, movies = random_samples(20, 9), 25
    found = textures(known, movies)
    names = list(found)
    alarms = seen = 0
    for name in names:
        watch = Specimens()
        for index, look in enumerate(found[name]):
            alarms += watch.decide(TextureSample(f"{name}{index}", look, 1.5)).change is not None
            seen += 1
    rows: list[list[object]] = [["no switch", seen, f"{alarms} alarms", f"{alarms / seen * 500:.1f} in 500 movies", ""]]
    ways: list[tuple[str, list[tuple[list, list]]]] = [
        (
            "each to the next: the 20 switches",
            [(found[a], found[b]) for a, b in zip(names, names[1:] + names[:1], strict=True)],
        ),
        ("every ordered pair", [(found[a], found[b]) for a in names for b in names if a != b]),
    ]
    moved = {
        "defocus 2.4-3.4 µm instead of 0.7-2.0": lambda s: Sample(s.specimen, defocus_um=(2.4, 3.4)),
        "a third of the particles": lambda s: Sample(s.specimen, coverage=(0.05, 0.12)),
    }
    for label, moving in moved.items():
        chosen = known[:6]
        after = textures([moving(sample) for sample in chosen], 6)
        ways.append((label, [(found[s.name], after[moving(s).name]) for s in chosen]))
    for label, pairs in ways:
        for before in (5, 12) if label.startswith("every") else (12,):
            found_at, known_again = zip(*(_switched(old, new, before) for old, new in pairs), strict=True)
            three, asked = sum(at <= 3 for at in found_at), [known for known in known_again if known is not None]
            share = f"{three} of {len(pairs)} ({three / len(pairs):.1%})"
            never = f"{sum(at == _NEVER for at in found_at)} not in six"
            back = f"{sum(asked)} of {len(asked)}" if asked else ""
            rows.append([f"{label}, after {before} movies", len(pairs), share, never, back])
    table(
        "telling specimens apart",
        ["switch", "n", "noticed within 3 movies", "", "first one known again within 6"],
        rows,
        "Random proteins of 600-6000 residues at one exposure; defocus 0.7-2.0 µm, coverage 0.15-0.4 and ice vary from "
        "movie to movie. A change of pixel size is told by the header.",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["curves", "change", "gate", "improvements", "specimens"])
    parser.add_argument("--each", type=int, default=25, help="improvements that are tried for each specimen")
    parser.add_argument("--base", choices=["none", "shipped"], nargs="*", default=["none", "shipped"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for base in given.base:
        if "curves" in given.parts:
            curves(base)
        if "change" in given.parts:
            change(base)
    if "specimens" in given.parts:
        tell_apart()
    if "gate" in given.parts:
        session_sabotage.sabotage()
    if "improvements" in given.parts:
        session_sabotage.improvements(given.each)


if __name__ == "__main__":
    main()
