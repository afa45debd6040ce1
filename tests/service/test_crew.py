import os
from typing import ClassVar

import pytest

from tests.clocks import AskedClock
from service.config import Config
from service.daemon import worker_process
from service.daemon.worker_process import WorkerProcess
from service.processes.messages import Begin, Failed, Finished, Progress, Returned, Up, Work
from service.processes.pipes import Child
from streamer.errors import ConfigError, DeviceError, Handling
from streamer.movie_record import Times
from streamer.records import Instructions
from tests.service.service_samples import REASON, make_movie, make_record


class FakeChild:
    """A worker that does what the test says."""

    made: ClassVar[list] = []

    def __init__(self, module, begin, *, threads):
        self.alive, self.sent, self.says, self.killed = True, [], [], False
        self.pid, self.ending = 1, "exit status 70"
        FakeChild.made.append(self)

    def send(self, message):
        self.sent.append(message)

    def receive(self):
        says, self.says = self.says, []
        return says

    def fileno(self):
        return 0

    def kill(self):
        self.alive, self.killed = False, True

    def stop(self, timeout_s):
        self.alive = False


@pytest.fixture
def scene(journal, monkeypatch):
    """A crew with a fake worker, a clock, and lists of what it reported."""
    FakeChild.made = []
    monkeypatch.setattr(worker_process, "Child", FakeChild)

    class Scene:
        now = 100.0
        finished, failed, restarted = [], [], []

        @property
        def worker(self):
            return FakeChild.made[-1]

        def say(self, *messages):
            self.worker.says += messages
            self.crew.attend()

        def state(self, relative):
            return next(m for m in journal.movies.newest() if m.movie.relative == relative)

    scene = Scene()
    scene.finished, scene.failed, scene.restarted = [], [], []
    scene.crew = WorkerProcess(
        Config(),
        journal,
        threads=1,
        work_of=lambda m: Work(movie=m.movie, times=Times(), instructions=Instructions(session_directory="/o")),
        finished=scene.finished.append,
        failed=scene.failed.append,
        restarted=lambda *told: scene.restarted.append(told),
        clock=AskedClock(lambda: scene.now),
    )
    scene.crew.start()
    scene.journal = journal
    return scene


def arrive(scene, *names):
    movies = [make_movie(f"grid1/{name}.tif", inode=n) for n, name in enumerate(names, 1)]
    for movie in movies:
        scene.journal.add_ready(movie, "2026-11-20T12:00:00.000Z", "2026-11-20T12:00:01.000Z")
    return movies


def test_nothing_is_given_to_a_worker_that_is_not_up(scene):
    arrive(scene, "a")
    assert not scene.crew.dispatch()
    scene.say(Up(device="cpu", threads=1))
    assert scene.crew.dispatch()
    assert scene.worker.sent[0].movie.relative == "grid1/a.tif"


def test_three_movies_are_in_hand_at_once(scene):
    movies = arrive(scene, "a", "b", "c", "d")
    scene.say(Up(device="cpu", threads=1))
    assert [scene.crew.dispatch() for _ in range(4)] == [True, True, True, False]
    scene.say(Failed(movie_id=movies[0].movie_id, revision=1, reason=REASON, handling=Handling.FAIL, stage="read"))
    assert len(scene.failed) == 1
    assert scene.crew.dispatch()


def test_a_worker_that_hangs_is_replaced_and_its_movie_tried_again(scene):
    (movie,) = arrive(scene, "a")
    scene.say(Up(device="cpu", threads=1))
    scene.crew.dispatch()
    scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="align"))
    first = scene.worker
    scene.now += 599.0
    scene.crew.attend()
    assert first.alive
    scene.now += 2.0
    scene.crew.attend()
    assert first.killed
    assert scene.restarted == [("killed after 601 s of silence", [])]
    row = scene.state("grid1/a.tif")
    assert (row.state, row.deaths) == ("ready", 1)
    scene.crew.attend()
    assert scene.worker is not first


def test_an_idle_worker_may_be_silent_and_a_late_movie_has_its_full_time(scene):
    scene.say(Up(device="cpu", threads=1))
    scene.now += 10_000.0
    scene.crew.attend()
    arrive(scene, "a")
    scene.crew.dispatch()
    scene.now += 500.0
    scene.crew.attend()
    assert not scene.worker.killed


def test_a_worker_that_never_comes_up_is_an_error(scene):
    def wait():
        scene.now += 601.0
        scene.crew.attend()
        scene.crew.attend()

    for _ in range(3):
        wait()  # one that was killed while it started is no reason to give up
    with pytest.raises(DeviceError, match="does not come up; found killed after 601 s of silence"):
        wait()


def test_only_what_was_begun_is_blamed_for_a_death(scene):
    movies = arrive(scene, "a", "b")
    scene.say(Up(device="cpu", threads=1))
    scene.crew.dispatch()
    scene.crew.dispatch()
    scene.say(Progress(movie_id=movies[0].movie_id, revision=1, stage="align"))
    scene.worker.alive = False
    scene.crew.attend()
    assert [(scene.state(f"grid1/{n}.tif").state, scene.state(f"grid1/{n}.tif").deaths) for n in "ab"] == [
        ("ready", 1),
        ("ready", 0),
    ]


def test_a_movie_that_two_workers_died_of_is_given_up_by_name(scene):
    (movie,) = arrive(scene, "a")
    for _ in range(2):
        scene.say(Up(device="cpu", threads=1))
        scene.crew.dispatch()
        scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="fuse"))
        scene.worker.alive = False
        scene.crew.attend()
        scene.now += 2.0
        scene.crew.attend()
    assert [given_up for _, given_up in scene.restarted] == [[], [movie.movie_id]]
    row = scene.state("grid1/a.tif")
    assert row.state == "quarantined"
    assert "in stage fuse" in row.reason.message
    assert f"streamer movies retry {movie.movie_id}" in row.reason.hint


def test_an_order_that_cannot_be_made_holds_up_no_other(scene):
    arrive(scene, "unclear", "b")
    scene.say(Up(device="cpu", threads=1))

    def work_of(movie):
        if "unclear" in movie.relative:
            raise ConfigError("several gain references could be meant")
        return Work(movie=movie.movie, times=Times(), instructions=Instructions(session_directory="/o"))

    scene.crew._work_of = work_of
    assert scene.crew.dispatch()
    (failed,) = scene.failed
    assert (failed.handling, failed.reason.message) == (Handling.ASK, "several gain references could be meant")
    assert scene.crew.dispatch()
    assert [message.movie.relative for message in scene.worker.sent] == ["grid1/b.tif"]


def test_whatever_goes_wrong_with_an_order_the_movie_is_not_stranded(scene):
    arrive(scene, "a")
    scene.say(Up(device="cpu", threads=1))

    def broken(movie):
        raise OSError("stale file handle")

    scene.crew._work_of = broken
    with pytest.raises(OSError, match="stale"):
        scene.crew.dispatch()
    row = scene.state("grid1/a.tif")
    assert (row.state, row.attempt) == ("ready", 0)


def test_a_worker_that_cannot_be_set_up_as_configured_is_not_started_again_and_again(scene):
    scene.worker.alive, scene.worker.ending = False, "exit status 78"
    with pytest.raises(ConfigError, match="cannot be set up as configured"):
        scene.crew.attend()


def test_two_revisions_of_a_movie_are_two_tasks(scene):
    """The file is written anew while its first state is computed; the worker's death frees both."""
    (movie,) = arrive(scene, "a")
    scene.say(Up(device="cpu", threads=1))
    scene.crew.dispatch()
    scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="align"))
    scene.journal.add_ready(
        make_movie("grid1/a.tif", size=200, mtime_ns=2), "2026-11-20T12:01:00.000Z", "2026-11-20T12:01:01.000Z"
    )
    assert scene.crew.dispatch()
    scene.say(Failed(movie_id=movie.movie_id, revision=1, reason=REASON, handling=Handling.FAIL, stage="align"))
    scene.worker.alive = False
    scene.crew.attend()
    newest = max((m for m in scene.journal.movies.newest()), key=lambda m: m.movie.revision)
    assert (newest.movie.revision, newest.state, newest.deaths) == (2, "ready", 0)


def test_what_is_given_back_waits_again(scene):
    (movie,) = arrive(scene, "a")
    scene.say(Up(device="cpu", threads=1))
    scene.crew.dispatch()
    scene.crew.finish()
    scene.say(Returned(movie_id=movie.movie_id, revision=1))
    assert scene.state("grid1/a.tif").state == "ready"
    assert not scene.crew.dispatch()


def test_workers_that_die_without_finishing_anything_end_the_daemon(scene):
    def die():
        scene.say(Up(device="cpu", threads=1))
        scene.worker.alive = False
        scene.crew.attend()
        scene.now += 2.0
        scene.crew.attend()

    for _ in range(3):
        die()
    with pytest.raises(DeviceError, match="die without finishing anything"):
        die()


def test_a_finished_movie_clears_the_count_of_deaths(scene):
    for n in range(10):
        (movie,) = arrive(scene, f"m{n}")
        scene.say(Up(device="cpu", threads=1))
        scene.crew.dispatch()
        scene.say(Finished(record=make_record(movie.relative)))
        scene.worker.alive = False
        scene.crew.attend()
        scene.journal.finish(make_record(movie.relative))
        scene.now += 2.0
        scene.crew.attend()
    assert len(scene.finished) == 10


def test_a_child_has_its_own_session_so_that_ctrl_c_is_for_the_daemon_alone():
    child = Child("service.processes.worker", Begin(config=Config()), threads=1)
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        child.kill()
        child.stop(0.0)


@pytest.mark.parametrize("counted", [True, False])
def test_what_was_at_work_when_the_daemon_died_is_given_alone(scene, counted):
    """After a clean stop nobody is suspected."""
    arrive(scene, "a", "b", "c")
    scene.journal.start(scene.state("grid1/a.tif").movie.movie_id, 1)
    assert scene.journal.requeue_started(counted=counted) == 1
    scene.say(Up(device="cpu", threads=1))
    given = [scene.crew.dispatch() for _ in range(3)]
    assert given == ([True, False, False] if counted else [True, True, True])
    assert scene.worker.sent[0].movie.relative == "grid1/a.tif"
    scene.say(Finished(record=make_record("grid1/a.tif")))
    scene.journal.finish(make_record("grid1/a.tif"))
    assert scene.crew.dispatch() is counted
