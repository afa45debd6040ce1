"""F4 and F15: no movie is started early, torn, lost or doubled, however it is written and whatever clocks say."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import MovieNotReady, StreamerError
from streamer.readers import movie as movie_reader
from streamer.readers.files import identity_of
from streamer.watch import scan
from streamer.watch import watcher as watch
from streamer.watch.arrival import Arrival
from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher
from tests.clocks import SetClock
from tests.faults.writer_models import FORMATS, MODELS, Material, Script, StaleListing, material

POLL_S = {"always": 1.0, "never": 0.25}
SCAN_S = 5.0
"""Of a network mount; what nobody watches closely yet, as a new name or an older movie, is found by it."""
FOUND_BY_SCANNING = ("temporary name", "rsync in place", "delayed size")
_TICK_S = 0.25
_LONGEST_WAIT_S = 75.0


Wall = Callable[[], float]


class Timeline(threading.Event, SetClock):
    """A stop event that is also the clock: waiting lets time pass, and what is due happens meanwhile."""

    def __init__(self, actions: list[tuple[float, Callable[[], None]]], end: float) -> None:
        threading.Event.__init__(self)
        SetClock.__init__(self)
        self.end = end
        self._actions = sorted(actions, key=lambda action: action[0])[::-1]
        self.after: Callable[[], None] = lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        while self._actions and self._actions[-1][0] <= self.now:
            self._actions.pop()[1]()
            self.after()
        if self.now > self.end:
            self.set()
        return self.is_set()


class Silent:
    """Stands in for the kernel's events; the script tells of them itself, or forgets to."""

    emitters = ()

    def schedule(self, *arguments: object, **options: object) -> None: ...

    start = stop = join = unschedule_all = lambda self: None

    def is_alive(self) -> bool:
        return True


@dataclass
class Delivery:
    """An arrival, and what a worker made of it at that moment."""

    time: float
    arrival: Arrival
    counts: np.ndarray | None = None
    refused: StreamerError | None = None

    @property
    def digest(self) -> str:
        return "" if self.counts is None else hashlib.sha256(self.counts.tobytes()).hexdigest()


@dataclass
class Case:
    """One movie and its script."""

    script: Script
    movie: Material
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def accepted(self) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if delivery.counts is not None]


def as_worker(time: float, arrival: Arrival) -> Delivery:
    """Read what has arrived as ``streamer.pipeline.read_movie`` does."""
    if arrival.error is not None:
        return Delivery(time, arrival, refused=arrival.error)
    try:
        _, counts, _ = movie_reader.read_whole(arrival.movie, in_memory_bytes=1 << 30, threads=1)
    except StreamerError as error:
        return Delivery(time, arrival, refused=error)
    return Delivery(time, arrival, np.asarray(counts))


def made(root: Path, kind: str, model: str, n: int, *, evidence: bool, seed: int, skew: bool = False) -> list[Case]:
    """Scripts of n movies that begin within half a minute; without evidence writers may pause for minutes."""
    cases, stale = [], StaleListing()
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        sidecar = evidence and (kind == "tif" or rng.random() < 0.5)
        # MRC without the number of frames in its header from the start needs a sidecar
        proven = evidence and not (sidecar and rng.random() < 0.5)
        movie = material(kind, rng, proven=proven)
        ahead = float(np.random.default_rng(number).uniform(-300, 300)) if skew else 0.0
        # and is of a session of its own: in one where headers are seen to grow, none is a proof any more
        place = root / "counts along" if kind == "mrc" and evidence and not proven else root
        place.mkdir(exist_ok=True)
        script = Script(place / f"m{number:03}.{kind}", rng, rng.uniform(0.5, 30), stale, ahead)
        MODELS[model](script, movie, (30.0, 30.0) if evidence else (20.0, 150.0))
        if sidecar:
            script.mdoc(early=rng.random() < 0.5 or (kind == "mrc" and not proven))
        cases.append(Case(script, movie))
    return cases


def drive(
    root: Path, cases: list[Case], polling: str, patch: pytest.MonkeyPatch, seed: int = 0, wall: Wall | None = None
) -> None:
    """Let the watcher and the writers run, and read each arrival as it comes."""
    patch.setattr(watch, "Observer", Silent)
    patch.setattr(scan, "identity", cases[0].script.stale.identity)
    end = max(case.script.complete for case in cases) + 2 * _LONGEST_WAIT_S + 30
    timeline = Timeline([action for case in cases for action in case.script.actions], end)
    if wall is not None:
        timeline.wall = wall  # type: ignore[method-assign]
    by_path = {case.script.path.relative_to(root).as_posix(): case for case in cases}
    known = {path: identity_of(case.script.path) for path, case in by_path.items() if case.script.known}
    watcher = Watcher(WatchSettings(root=str(root), polling=polling), clock=timeline, known=known)
    rng = np.random.default_rng(seed)
    if polling == "never":
        # some of the events are lost
        timeline.after = lambda: watcher.wake() if rng.random() < 0.7 else None
    for arrival in watcher.arrivals(timeline):
        by_path[arrival.movie.relative].deliveries.append(as_worker(timeline.now, arrival))


def judged(cases: list[Case], directory: Path) -> Counter[str]:
    """What went wrong, counted over movies, and what was caught on reading, over arrivals."""
    directory.mkdir(exist_ok=True)
    found: Counter[str] = Counter()
    for case in cases:
        path = directory / f"truth.{case.movie.suffix}"
        path.write_bytes(case.movie.finished)
        truth = movie_reader.read_counts(path, movie_reader.read_header(path), in_memory_bytes=1 << 30, threads=1)
        wrong = [d for d in case.accepted if not np.array_equal(d.counts, truth)]
        right = [d for d in case.accepted if np.array_equal(d.counts, truth)]
        for d in wrong:
            # shown where the test fails
            print(case.script.path, d.time, case.script.complete, d.arrival, [a.refused for a in case.deliveries])
            print([int((a != b).sum()) for a, b in zip(d.counts, truth, strict=False)], case.script.actions)
        found["early"] += bool(wrong)
        found["early, not flagged"] += any(d.arrival.movie.evidence != "unproven" for d in wrong)
        found["torn"] += any(not np.array_equal(d.counts, truth[: len(d.counts)]) for d in wrong)
        found["lost"] += not right
        found["doubled"] += len({d.digest for d in case.accepted}) < len(case.accepted)
        for delivery in case.deliveries:
            if delivery.refused is not None:
                found["caught" if isinstance(delivery.refused, MovieNotReady) else "refused"] += 1
            assert 0 <= delivery.arrival.still_s <= delivery.arrival.waited_s
    return found


def delays(cases: list[Case]) -> Iterator[tuple[str, float]]:
    """Evidence, and time from the last change to the delivery of the finished movie."""
    for case in cases:
        last = [d for d in case.accepted if d.time >= case.script.complete]
        if last:
            yield last[0].arrival.movie.evidence, last[0].time - case.script.complete


def both_modes(
    root: Path, kind: str, model: str, n: int, patch: pytest.MonkeyPatch, *, evidence: bool
) -> dict[str, list[Case]]:
    """The same number of movies by events and by polling only, the latter the larger half."""
    cases = {}
    for polling, count in (("always", n - n // 2), ("never", n // 2)):
        place = root / polling
        place.mkdir()
        seed = [*FORMATS].index(kind) * 100 + [*MODELS].index(model) * 10 + len(polling)
        cases[polling] = made(place, kind, model, count, evidence=evidence, seed=seed)
        drive(place, cases[polling], polling, patch, seed)
    return cases


def total(cases: dict[str, list[Case]], tmp_path: Path) -> Counter[str]:
    return judged(cases["always"], tmp_path / "truth") + judged(cases["never"], tmp_path / "truth")


@pytest.mark.parametrize("model", MODELS)
def test_no_movie_that_proves_its_length_is_started_early(model, tmp_path, often, report, monkeypatch):
    n, found, waits = often(5, 100), Counter(), {}
    for kind in FORMATS:
        root = tmp_path / kind
        root.mkdir()
        cases = both_modes(root, kind, model, n, monkeypatch, evidence=True)
        found += total(cases, tmp_path)
        for polling, some in cases.items():
            for evidence, delay in delays(some):
                waits.setdefault((evidence, polling), []).append(delay)
    settle = {"sidecar": WatchSettings().settle_with_sidecar_s, "header": WatchSettings().sidecar_wait_s}
    late = {key: float(np.median(values)) - settle[key[0]] for key, values in waits.items()}
    said = ", ".join(
        f"{evidence} {settle[evidence] + over:.2f} s {'polling' if polling == 'always' else 'events'}"
        for (evidence, polling), over in sorted(late.items())
    )
    figure = f"{found['early']} early, {found['torn']} torn, {found['lost']} lost, {found['doubled']} doubled"
    figure += f"; {found['caught']} caught on reading, {found['refused']} refused; median delay {said}"
    polls = POLL_S | ({"always": SCAN_S} if model in FOUND_BY_SCANNING else {})
    target = "0 of each; delay at most settling (2 s, without sidecar 10 s) + 1 poll "
    target += f"({polls['always']:g} s, events {polls['never']:g} s)"
    report("F4", f"{model}, with evidence", n=3 * n, figure=figure, target=target)
    assert [found[what] for what in ("early", "torn", "lost", "doubled")] == [0] * 4
    for (evidence, polling), over in late.items():
        # where some events are lost, the median of a few says little
        if len(waits[evidence, polling]) >= 8:
            assert over <= polls[polling] + _TICK_S, (evidence, polling)


@pytest.mark.parametrize("model", MODELS)
def test_a_movie_without_proof_of_its_length_is_flagged_and_comes_again_when_it_grows(
    model, tmp_path, often, report, monkeypatch
):
    n, found, waits = often(5, 100), Counter(), []
    for kind in ("tif", "eer"):
        root = tmp_path / kind
        root.mkdir()
        cases = both_modes(root, kind, model, n, monkeypatch, evidence=False)
        found += total(cases, tmp_path)
        waits += [delay for some in cases.values() for _, delay in delays(some)]
    figure = f"{found['early']} early and flagged, {found['early, not flagged']} not flagged, {found['torn']} torn"
    figure += f", {found['lost']} lost, {found['doubled']} doubled; {found['caught']} caught on reading, "
    figure += f"{found['refused']} refused; median delay {np.median(waits):.2f} s"
    target = "flagged and delivered again; 0 of the others"
    report("F4", f"{model}, without evidence", n=2 * n, figure=figure, target=target)
    assert [found[what] for what in ("early, not flagged", "torn", "lost", "doubled")] == [0] * 4
    if model not in ("stall", "append after close", "preallocate and fill"):
        assert found["early"] == 0


@pytest.mark.parametrize("model", ["stall", "append after close"])
def test_an_mrc_movie_whose_header_counts_along_comes_again_when_it_grows(model, tmp_path, often, report, monkeypatch):
    """Each state is a whole, shorter MRC movie: without a sidecar nothing but the waiting time tells, 10 s here."""
    n = often(5, 100)
    cases = both_modes(tmp_path, "mrc", model, n, monkeypatch, evidence=False)
    found = total(cases, tmp_path)
    figure = f"{found['early']} early, of these {found['early, not flagged']} taken for proven; "
    figure += f"{found['torn']} torn, {found['lost']} lost, {found['doubled']} doubled"
    what = f"{model} of 20 to 150 s, MRC whose header is rewritten with each frame, no sidecar"
    report("F4", what, n=n, figure=figure, target="delivered again; 0 torn, lost, doubled")
    assert [found[what] for what in ("torn", "lost", "doubled")] == [0] * 3


@pytest.mark.parametrize("model", ["stall", "append after close"])
def test_a_session_whose_mrc_headers_count_along_is_taken_in_once(model, tmp_path, often, report, monkeypatch):
    """One movie after the other: the first that grows after its header looked whole tells of all others."""
    n, sessions, found = often(6, 30), often(3, 12), Counter()
    for number in range(sessions):
        root = tmp_path / f"session{number}"
        root.mkdir()
        cases, stale, start = [], StaleListing(), 0.5
        for index in range(n):
            rng = np.random.default_rng([900, number, index])
            movie = material("mrc", rng, proven=False)
            script = Script(root / f"m{index:03}.mrc", rng, start, stale)
            MODELS[model](script, movie, (15.0, 55.0))
            cases.append(Case(script, movie))
            start = script.complete + 80
        drive(root, cases, "always", monkeypatch)
        early = [case for case in cases if judged([case], tmp_path / "truth")["early"]]
        found += judged(cases, tmp_path / "truth")
        found["first"] += bool(early)
        found["later"] += len(early[1:])
        for case in early[:1]:
            assert [d.arrival.movie.evidence for d in case.accepted] == ["header", "unproven"]
    figure = f"{found['first']} of {sessions} sessions had one early and again; after it {found['later']} early; "
    figure += f"{found['torn']} torn, {found['lost']} lost, {found['doubled']} doubled"
    what = f"{model} of 15 to 55 s, MRC whose header is rewritten with each frame, session by session, no sidecar"
    report("F4", what, n=n * sessions, figure=figure, target="at most 1 per session, delivered again; 0 of the others")
    assert [found[what] for what in ("later", "torn", "lost", "doubled")] == [0] * 4


def stepped() -> Wall:
    """A wall clock that is put forward and back by an hour, again and again."""
    steps = itertools.cycle((3600.0, -3600.0, 0.0))
    return lambda: 1.8e9 + next(steps)


def outcome(cases: list[Case]) -> list[tuple[object, ...]]:
    """All that a skew must leave as it is."""
    return [
        (
            d.time,
            d.arrival.movie.relative,
            d.arrival.movie.evidence,
            round(d.arrival.waited_s, 6),
            round(d.arrival.still_s, 6),
            d.digest,
            type(d.refused).__name__,
        )
        for case in cases
        for d in case.deliveries
    ]


@pytest.mark.parametrize("model", MODELS)
def test_skewed_and_stepped_clocks_change_nothing(model, tmp_path, often, report, monkeypatch):
    n, differ, found = often(2, 20), 0, Counter()
    for kind in FORMATS:
        seed = 7000 + [*MODELS].index(model)
        results = []
        for skewed in (False, True):
            root = tmp_path / f"{kind}{skewed}"
            root.mkdir()
            with monkeypatch.context() as patch:
                cases = made(root, kind, model, n, evidence=True, seed=seed, skew=skewed)
                drive(root, cases, "always", patch, wall=stepped() if skewed else None)
            results.append(outcome(cases))
            found += judged(cases, tmp_path / "truth")
        differ += len(set(results[0]) ^ set(results[1]))
        assert results[0], "nothing was delivered at all"
    figure = f"{differ} arrivals differ, {found['early']} early, {found['lost']} lost"
    what = f"{model}, files dated -300 to +300 s off, wall clock stepped by 1 h"
    report("F15", what, n=3 * n, figure=figure, target="0 of each")
    assert differ == 0
    assert found["early"] == found["lost"] == 0
