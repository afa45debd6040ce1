"""The journal against a model of it in a dictionary, by random sequences of what can happen."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.journal.journal import FINAL, MAX_ATTEMPTS, MAX_DEATHS, Journal
from service.wire.messages import Alert, parse_event
from streamer.records import movie_id_of
from tests.clocks import AskedClock
from tests.service_samples import REASON, UTC, make_movie, make_record

NAMES = [f"grid{session}/m{number}.tif" for session in (1, 2) for number in (1, 2)]


@dataclass
class Model:
    """What the journal should hold of one path."""

    size: int
    revision: int = 1
    state: str = "ready"
    attempt: int = 0
    deaths: int = 0
    superseded: set[int] = field(default_factory=set)


class JournalStates(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.now = 1_000_000.0
        self.models: dict[str, Model] = {}
        self.n_events = 0
        self.epoch = ""
        self._open()

    def _open(self) -> None:
        self.journal = Journal.open(Path(self.directory.name) / "j", clock=AskedClock(lambda: self.now))

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.directory.cleanup()

    def known(self, *states: str) -> list[str]:
        return [name for name, model in self.models.items() if model.state in states]

    def _is_over(self, model: Model) -> None:
        """What follows from a return to ready."""
        if model.attempt >= MAX_ATTEMPTS or model.deaths >= MAX_DEATHS:
            model.state = "quarantined"
            self.n_events += 1
        else:
            model.state = "ready"

    @rule(name=st.sampled_from(NAMES), size=st.integers(1, 3))
    def arrive(self, name: str, size: int) -> None:
        self.journal.add_ready(make_movie(name, size=size, mtime_ns=size), UTC, UTC)
        model = self.models.get(name)
        if model is None:
            self.models[name] = Model(size)
        elif model.state in ("vanished", "incomplete"):
            model.size, model.state, model.attempt, model.deaths = size, "ready", 0, 0
        elif model.size != size:
            self.models[name] = Model(size, model.revision + 1, superseded=model.superseded | {model.revision})
            self.n_events += 1

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(["incomplete", "vanished", "failed"]))
    def end_on_arrival(self, name: str, state: str) -> None:
        model = self.models.get(name)
        size = model.size if model else 1
        movie = make_movie(name, size=size, mtime_ns=size)
        event = self.journal.add_final(movie, make_record(name, state=state), UTC)
        is_news = model is None or (model.state in ("ready", "vanished", "incomplete") and model.state != state)
        assert (event is not None) == is_news
        if is_news:
            self.models.setdefault(name, Model(size)).state = state
            self.n_events += 1

    @precondition(lambda self: self.known("ready"))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.now += 200.0
        ready = self.journal.movies.next_ready()
        assert ready is not None
        model = self.models[ready.movie.relative]
        assert (ready.state, ready.movie.revision) == ("ready", model.revision)
        assert self.journal.start(ready.movie.movie_id, ready.movie.revision) == model.attempt + 1
        model.state, model.attempt = "started", model.attempt + 1

    @precondition(lambda self: self.known("started"))
    @rule(data=st.data(), state=st.sampled_from(["done", "failed", "vanished"]))
    def finish(self, data: st.DataObject, state: str) -> None:
        name = data.draw(st.sampled_from(self.known("started")))
        model = self.models[name]
        event = self.journal.finish(make_record(name, revision=model.revision, state=state))
        assert event is not None
        assert event.body["supersedes"] == (model.revision - 1 or None)
        model.state = state
        self.n_events += 1

    @precondition(lambda self: any(model.superseded for model in self.models.values()))
    @rule(data=st.data())
    def finish_late(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, model in self.models.items() if model.superseded]))
        old = min(self.models[name].superseded)
        assert self.journal.finish(make_record(name, revision=old)) is None

    @precondition(lambda self: self.known("started"))
    @rule(data=st.data(), how=st.sampled_from(["retry", "disk full", "death", "release"]))
    def come_back(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(self.known("started")))
        model = self.models[name]
        movie_id = movie_id_of(name)
        if how == "death":
            model.deaths += 1
            state = self.journal.worker_died(movie_id, model.revision, REASON)
        elif how == "retry":
            state = self.journal.retry_later(movie_id, model.revision, REASON)
        else:
            model.attempt -= 1
            if how == "release":
                state = self.journal.release(movie_id, model.revision)
            else:
                state = self.journal.retry_later(movie_id, model.revision, REASON, counted=False)
        self._is_over(model)
        assert state == model.state

    @precondition(lambda self: self.known(*FINAL))
    @rule(data=st.data())
    def operator_retries(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.known(*FINAL)))
        model = self.models[name]
        found = self.journal.retry(movie_id_of(name))
        if model.state == "done":
            self.models[name] = Model(model.size, model.revision + 1, superseded=model.superseded | {model.revision})
            self.n_events += 1
        else:
            model.state, model.attempt, model.deaths = "ready", 0, 0
        assert found.movie.revision == self.models[name].revision

    @precondition(lambda self: self.known("ready", "started", "failed"))
    @rule(data=st.data())
    def operator_skips(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.known("ready", "started", "failed")))
        self.journal.skip(movie_id_of(name), "why not")
        self.models[name].state = "skipped"
        self.n_events += 1

    @rule()
    def something_else_happens(self) -> None:
        self.journal.events.append(Alert(name="x", severity="info", state="raised"), "grid2")
        self.n_events += 1

    @rule()
    def daemon_restarts(self) -> None:
        self.journal.close()
        self._open()
        assert self.journal.requeue_started() == len(self.known("started"))
        for name in self.known("started"):
            self._is_over(self.models[name])

    @invariant()
    def the_journal_is_as_the_model_says(self) -> None:
        if not hasattr(self, "journal"):
            return
        for name, model in self.models.items():
            found = self.journal.movie(movie_id_of(name))
            assert found is not None
            assert (found.movie.revision, found.state) == (model.revision, model.state)
            assert (found.attempt, found.deaths) == (model.attempt, model.deaths)
            assert found.attempt <= MAX_ATTEMPTS
            assert found.movie.identity.size == model.size
        assert self.journal.movies.pending() == len(self.known("ready", "started"))
        known = self.journal.movies.identities()
        assert set(known) == set(self.models) - set(self.known("vanished"))

    @invariant()
    def numbers_are_dense(self) -> None:
        if not hasattr(self, "journal"):
            return
        events = [parse_event(row.raw) for row in self.journal.events.page(1, max_count=10_000, max_bytes=10**9)]
        assert [event.seq for event in events] == list(range(1, self.n_events + 1))
        assert self.journal.events.last_seq == self.n_events
        of_kind: dict[str, list[int]] = {}
        for event in events:
            of_kind.setdefault(f"{event.kind}/{event.session}", []).append(event.kseq)
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in of_kind.values())
        assert self.journal.events.kseqs() == {key: numbers[-1] for key, numbers in of_kind.items()}
        done = [(e.body["movie_id"], e.body["revision"]) for e in events if e.body.get("state") == "done"]
        assert len(done) == len(set(done)), "a revision was done twice"


TestJournalStates = JournalStates.TestCase
TestJournalStates.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
