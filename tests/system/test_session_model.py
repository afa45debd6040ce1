"""The session model in a whole daemon: trained beside the processing, promoted, served, taken back, killed, resumed.

One session is played once, as an operator would live through it; each test looks at one side of what was seen.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass, field

import mrcfile
import pytest

from models.versions.store import ModelStore
from service.layout import layout_of
from service.subscribers.connection import connection
from service.wire.messages import NO_VERSION, Event, movie_record, parse_event
from streamer import jsontext
from streamer.movie_record import MovieRecord, Times
from streamer.runtime.clock import utc_seconds
from streamer.simulation.movie import Microscope
from tests.system.conftest import Site, children_of, until

pytestmark = [pytest.mark.system, pytest.mark.slow]

# a protein without symmetry in thin ice on large pixels: the gate, as it is, is passed after seconds
SCOPE = Microscope(shape=(256, 256), n_frames=16, pixel_size=3.0, dose_per_frame=2.5, coverage=0.4)
NORMAL_S = 15.0
"""From the file to its event on a busy machine; a movie takes half a second."""


@dataclass
class Played:
    """A session, and what was seen of it while it was played."""

    site: Site
    movies: int = 0
    places: dict[str, list[str]] = field(default_factory=dict)
    """Movie ids by what was going on."""
    marks: dict[str, int] = field(default_factory=dict)
    """Number of the newest event at some moments."""
    trainings_held: list[float] = field(default_factory=list)
    """Whether the trainer was at work, from the heartbeats while the operator wanted no network."""
    said: list[str] = field(default_factory=list)
    """What the commands printed."""
    dead: int = 0
    """Process id of the trainer that was killed, and of the next one."""
    alive: int = 0
    offline: MovieRecord | None = None

    def expose(self, name, movies):
        """Expose some movies and wait until they are done."""
        before = {movie.movie_id for movie in self.done()}
        self.site.expose(movies, first=self.movies, scope=SCOPE)
        self.movies += movies
        self.site.wait_for(done=self.movies)
        self.places[name] = [movie.movie_id for movie in self.done() if movie.movie_id not in before]

    def done(self):
        return [record for record in self.records() if record.state == "done"]

    def records(self, name=None):
        """Published records, of those movies that were exposed while something went on."""
        records = [movie_record(event) for event in self.events("movie")]
        return [r for r in records if name is None or r.movie_id in self.places[name]]

    def events(self, *kinds) -> list[Event]:
        """Everything that the journal has, in order."""
        with self.site.journal() as journal:
            rows, position = [], 1
            while page := journal.events.page(position, kinds=kinds or None):
                rows += page
                position = page[-1].seq + 1
        return [parse_event(row.raw) for row in rows]

    def mark(self, name):
        self.marks[name] = max((event.seq for event in self.events()), default=0)

    def judged(self, after="start", results=("promoted", "rejected")):
        """What the gate said after a mark; what the operator did is none of it."""
        events = [e for e in self.events("model") if e.seq > self.marks[after]]
        return [e for e in events if e.body["result"] in results and e.body["reason"] != "by the operator"]

    def operator(self, *words):
        done = self.site.run("models", *words, "--config", str(self.site.config_file))
        assert done.returncode == 0, done.stderr
        self.said.append(done.stdout)

    def beat(self):
        with connection(self.site.config) as client:
            return client.heartbeat()


def play_learning(played):
    """Movies go on arriving while the first training is at work."""
    played.mark("start")
    played.expose("before any training", 4)
    until(lambda: played.beat().rates["training"], "the first training")
    played.expose("while it trained", 3)
    played.mark("while it trained")
    until(lambda: played.beat().model_version, "the first version")
    played.expose("served", 1)


def process_again(played):
    """The movie that was served, by hand; at once, because each exposure writes the gain reference anew."""
    served = played.records("served")[0]
    movie = str(played.site.root / served.path)
    options = ("--config", str(played.site.config_file), "--model", served.model.version, "--json")
    done = played.site.run("process", movie, "--output", str(played.site.directory / "offline"), *options)
    assert done.returncode == 0, done.stderr
    played.offline = jsontext.decode(done.stdout.encode(), MovieRecord)


def play_rollback(played):
    """Back to no network, whatever was trained meanwhile, and on with the first version."""
    while not played.said or "no network" not in played.said[-1]:
        played.operator("rollback")
    played.expose("no network", 3)
    with connection(played.site.config) as client:
        played.trainings_held = [client.heartbeat().rates["training"] for _ in range(4)]
    played.mark("promote")
    played.operator("promote", "v0001")
    played.expose("promoted by hand", 1)


def play_killed_trainer(played, daemon):
    """kill -9 of the trainer, then movies as before."""
    played.mark("kill")
    played.dead = children_of(daemon)["trainer"]
    os.kill(played.dead, signal.SIGKILL)
    played.expose("without a trainer", 3)
    until(lambda: children_of(daemon).get("trainer"), "another trainer")
    played.alive = children_of(daemon)["trainer"]
    until(lambda: played.judged("kill"), "another candidate")


def end_all(site):
    """Nothing outlives a test that failed."""
    for process in site.daemons:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    site = Site(
        directory,
        tmp_path_factory.mktemp("run"),
        session_model__enabled="true",
        session_model__base='"none"',
        session_model__first_steps="150",
        session_model__refresh_steps="8",
        session_model__most_held_out="2",
        outputs__thumbnail_px="128",
    )
    played = Played(site)
    try:
        daemon = site.start()
        play_learning(played)
        process_again(played)
        play_rollback(played)
        play_killed_trainer(played, daemon)
        assert site.stop(daemon) == 0, site.log()
        daemon = site.start()
        played.expose("after a restart", 1)
        assert site.stop(daemon) == 0, site.log()
    finally:
        end_all(site)
    return played


def versions_of(records):
    return [record.model.version if record.model else None for record in records]


def changes(played):
    """What was made to serve, and taken back, in order."""
    bodies = [event.body for event in played.events("model")]
    return [(b["version"], b["result"]) for b in bodies if b["result"] in ("promoted", "rolled-back")]


def latencies_of(played, name):
    """Seconds from the file being complete to the record's event."""
    published = {event.body["movie_id"]: utc_seconds(event.t_utc) for event in played.events("movie")}
    return [published[record.movie_id] - utc_seconds(record.times.complete) for record in played.records(name)]


def test_training_goes_on_beside_the_processing(played):
    first = played.judged()[0]
    assert (first.body["version"], first.body["result"]) == ("v0001", "promoted")
    assert first.body["figures"]["snbr"] > 1.3 * first.body["figures"]["snbr_wiener"]
    done = [
        event.seq for event in played.events("movie") if event.body["movie_id"] in played.places["while it trained"]
    ]
    assert len(done) == 3
    assert max(done) < first.seq, "movies were done while the first training was at work"
    assert max(latencies_of(played, "while it trained")) < NORMAL_S


def test_each_version_is_told_once_and_in_order(played):
    promoted = [event.body["version"] for event in played.judged(results=("promoted",))]
    assert promoted == sorted(set(promoted))
    for event in played.judged():
        assert event.body["reason"]
        assert event.body["figures"]["held_out"] >= 2
    store = ModelStore(layout_of(played.site.config).models("test"))
    assert set(promoted) <= set(store.versions())


def test_served_movies_name_their_version(played):
    assert versions_of(played.records("before any training")) == [None] * 4
    (record,) = played.records("served")
    # the next version may have been promoted while the movie was on its way
    served = record.model.version
    assert record.restoration == "network"
    assert served in {event.body["version"] for event in played.judged(results=("promoted",))}
    (denoised,) = [output for output in record.outputs if output.role == "denoised"]
    assert denoised.derived
    assert denoised.not_for_reconstruction
    with mrcfile.open(played.site.results / denoised.path) as file:
        labels = b" ".join(bytes(label) for label in file.header.label)
    assert b"NOT FOR RECONSTRUCTION" in labels
    assert served.encode() in labels
    assert record.model.sha256[:12].encode() in labels


def test_process_with_the_version_gives_the_same_bytes_and_record(played):
    (live,) = played.records("served")
    assert dataclasses.replace(played.offline, times=Times()) == dataclasses.replace(live, times=Times())
    for output in live.outputs:
        same = (played.site.directory / "offline" / "test" / output.path).read_bytes()
        assert same == (played.site.results / output.path).read_bytes(), output.role


def test_a_killed_trainer_is_told_and_replaced_and_no_movie_waits_for_it(played):
    (alert,) = [event for event in played.events("alert") if event.body["name"] == "trainer-died"]
    assert "SIGKILL" in alert.body["message"]
    assert played.alive != played.dead
    assert len(played.records("without a trainer")) == 3
    assert max(latencies_of(played, "without a trainer")) < NORMAL_S
    assert played.judged("kill")[0].seq > alert.seq, "training went on"


def test_a_rollback_serves_the_next_movie_and_is_not_undone_by_the_trainer(played):
    assert versions_of(played.records("no network")) == [None] * 3
    assert not any(played.trainings_held)
    last, by_hand, *_ = changes(played)[changes(played).index((NO_VERSION, "rolled-back")) :]
    assert (last, by_hand) == ((NO_VERSION, "rolled-back"), ("v0001", "promoted")), "the operator alone"


def test_a_promotion_by_hand_serves_the_next_movie(played):
    assert "v0001 is used from the next movie on" in played.said[-1]
    assert versions_of(played.records("promoted by hand")) == ["v0001"]


def test_a_restarted_daemon_goes_on_with_what_served(played):
    (version,) = versions_of(played.records("after a restart"))
    assert version == changes(played)[-1][0]


def test_no_movie_is_lost_or_doubled(played):
    records = played.records()
    assert len(records) == played.movies
    assert len({record.movie_id for record in records}) == played.movies
    assert {record.state for record in records} == {"done"}


def test_a_new_session_is_served_by_base_weights_and_reproduced_with_them(tmp_path, tmp_path_factory):
    """From the first movie on; and what they made is made again from the version that the session keeps."""
    site = Site(tmp_path, tmp_path_factory.mktemp("run"), session_model__enabled="true", outputs__thumbnail_px="128")
    played = Played(site)
    try:
        daemon = site.start()
        played.expose("served", 1)
        process_again(played)
        played.operator("rollback")
        played.expose("plain", 1)
        assert site.stop(daemon) == 0, site.log()
    finally:
        end_all(site)
    (live,) = played.records("served")
    assert live.model.version == "v0000"
    assert live.restoration == "network"
    assert live.metrics.score.gain > 1.0
    assert dataclasses.replace(played.offline, times=Times()) == dataclasses.replace(live, times=Times())
    assert changes(played) == [("v0000", "promoted"), (NO_VERSION, "rolled-back")]
    assert versions_of(played.records("plain")) == [None]
