"""What becomes of movies that could not be processed, and which alarms tell of it."""

from types import SimpleNamespace

import pytest

from service.config import Config
from service.daemon.movies import MovieLifecycle
from service.health.alarms import Alarms
from service.health.prometheus import Metrics
from service.health.status import Status
from service.layout import Layout
from service.processes.messages import Failed, Finished
from streamer.errors import Handling, Reason
from tests.clocks import SetClock
from tests.service_samples import make_movie, make_record


@pytest.fixture
def scene(journal, tmp_path):
    metrics, now, given_way = Metrics(), SetClock(100.0), []
    alarms = Alarms(journal.events, metrics)
    layout = Layout(root=tmp_path, output=tmp_path / "out", state=tmp_path / "state", runtime=tmp_path / "run")
    lifecycle = MovieLifecycle(
        Config(),
        layout,
        journal,
        gains=SimpleNamespace(for_movie=lambda path, named: None),
        versions=SimpleNamespace(version=lambda session: None),
        trainer=SimpleNamespace(give_way=lambda: given_way.append(True)),
        tables=SimpleNamespace(add=lambda record: None),
        metrics=metrics,
        status=Status(),
        alarms=alarms,
        clock=now,
    )

    class Scene:
        def start(self, name):
            movie = make_movie(f"grid1/{name}.tif")
            journal.add_ready(movie, "2026-11-20T12:00:00.000Z", "2026-11-20T12:00:01.000Z")
            journal.start(movie.movie_id, 1)
            return movie

        def fail(self, movie, kind, words="x"):
            if self.state(movie) == "ready":
                journal.start(movie.movie_id, 1)
            reason = Reason(error="E", message=words)
            lifecycle.failed(
                Failed(movie_id=movie.movie_id, revision=1, reason=reason, handling=Handling(kind), stage="read")
            )
            return self.state(movie)

        def order(self, movie):
            return lifecycle.order(journal.movie(movie.movie_id))

        def state(self, movie):
            return journal.movie(movie.movie_id).state

        def alerts(self):
            return [row for row in journal.events.page(1) if row.kind == "alert"]

    made = Scene()
    made.given_way = given_way
    made.now, made.lifecycle, made.alarms, made.journal = now, lifecycle, alarms, journal
    return made


def test_patience_is_counted_from_the_first_time_a_file_was_not_whole(scene):
    """Not from when it was ready: it may have waited in the queue for hours."""
    movie = scene.start("a")
    assert scene.fail(movie, "not-ready") == "ready"
    scene.now.now += Config().watch.incomplete_after_s - 1.0
    assert scene.fail(movie, "not-ready") == "ready"
    scene.now.now += 2.0
    assert scene.fail(movie, "not-ready") == "incomplete"


def test_a_file_that_has_stood_still_for_long_is_taken_as_it_is(scene):
    """An exposure that ended early leaves blank frames at the end, as a copy that is still under way does."""
    movie = scene.start("a")
    assert not scene.order(movie).instructions.stood_still
    scene.fail(movie, "not-ready")
    for waited_s, stood_still in ((1.0, False), (Config().watch.incomplete_after_s / 2.0, True)):
        scene.now.now += waited_s
        assert scene.order(movie).instructions.stood_still is stood_still
    assert not scene.order(scene.start("b")).instructions.stood_still


def test_what_cannot_be_reached_is_never_given_up(scene):
    movie = scene.start("a")
    for _ in range(20):
        scene.now.now += 86_400.0
        assert scene.fail(movie, "unreachable") == "ready"


@pytest.mark.parametrize(("kind", "state"), [("vanished", "vanished"), ("failed", "failed")])
def test_what_is_final_is_final(scene, kind, state):
    assert scene.fail(scene.start("a"), kind) == state


def test_many_movies_that_wait_for_a_gain_are_one_alarm(scene):
    movies = [scene.start(f"m{n}") for n in range(5)]
    for _ in range(3):
        for n, movie in enumerate(movies):
            assert scene.fail(movie, "config", f"several gains in directory {n % 2}") == "ready"
    assert len(scene.alerts()) == 1
    assert [alarm.name for alarm in scene.alarms.raised] == ["gain-unclear"]


def test_the_alarm_is_over_when_nobody_waits_any_more_however_they_ended(scene):
    done, failed, skipped = (scene.start(name) for name in ("done", "failed", "skipped"))
    for movie in (done, failed, skipped):
        scene.fail(movie, "config")
    scene.journal.start(done.movie_id, 1)
    scene.lifecycle.finished(Finished(record=make_record(done.relative)))
    assert scene.alarms.raised
    scene.fail(failed, "failed")
    assert scene.alarms.raised
    scene.lifecycle.waits_no_more(skipped.movie_id)
    assert not scene.alarms.raised
    assert len(scene.alerts()) == 2


def test_a_movie_given_up_for_its_device_is_named(scene):
    movie = scene.start("a")
    states = [scene.fail(movie, "device") for _ in range(3)]
    assert states == ["ready", "ready", "quarantined"]
    assert b"grid1/a.tif: given up" in scene.alerts()[-1].raw
    assert len(scene.given_way) == 3, "the trainer gives its memory back first"


def test_a_movie_is_done_even_if_its_specimen_cannot_be_written_down(scene, tmp_path):
    """The state's volume is full: an alarm, and the next movie."""
    movie = scene.start("a")
    (tmp_path / "state" / "sessions").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "state" / "sessions").write_text("a file where a directory should be")
    scene.lifecycle.finished(Finished(record=make_record("grid1/a.tif")))
    assert scene.state(movie) == "done"
    assert [alert.name for alert in scene.alarms.raised] == ["state-failing"]
    (tmp_path / "state" / "sessions").unlink()
    scene.start("b")
    scene.lifecycle.finished(Finished(record=make_record("grid1/b.tif")))
    assert scene.alarms.raised == []
