import os

import pytest

from service.config import Config, InstanceSettings
from service.processes.messages import Begin, Failed, Finished, Progress, Returned, Up, Work
from service.processes.pipes import Child
from streamer.errors import ConfigError, DeviceError, Handling
from streamer.movie_record import Times
from streamer.records import Instructions
from tests.service_samples import REASON, make_movie, make_record


@pytest.fixture
def scene(scene_of):
    return scene_of()


def test_nothing_is_given_to_a_worker_that_is_not_up(scene):
    scene.arrive("a")
    assert not scene.process.dispatch()
    scene.say(Up(device="cpu", threads=1))
    assert scene.process.dispatch()
    assert scene.child.sent[0].movie.relative == "grid1/a.tif"


def test_three_movies_are_in_hand_at_once(scene):
    movies = scene.arrive("a", "b", "c", "d")
    scene.say(Up(device="cpu", threads=1))
    assert [scene.process.dispatch() for _ in range(4)] == [True, True, True, False]
    scene.say(Failed(movie_id=movies[0].movie_id, revision=1, reason=REASON, handling=Handling.FAIL, stage="read"))
    assert len(scene.failed) == 1
    assert scene.process.dispatch()


def test_a_worker_that_hangs_is_replaced_and_its_movie_tried_again(scene):
    (movie,) = scene.arrive("a")
    scene.say(Up(device="cpu", threads=1))
    scene.process.dispatch()
    scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="align"))
    first = scene.child
    scene.clock.now += 599.0
    scene.process.attend()
    assert first.alive
    scene.clock.now += 2.0
    scene.process.attend()
    assert first.killed
    assert scene.restarted == [("killed after 601 s of silence", [])]
    row = scene.state("grid1/a.tif")
    assert (row.state, row.deaths) == ("ready", 1)
    scene.process.attend()
    assert scene.child is not first


@pytest.mark.parametrize(("waited", "killed"), [(4.0, False), (59.0, False), (61.0, True)])
def test_a_short_silence_is_not_held_against_a_worker_that_still_loads(scene_of, waited, killed):
    scene = scene_of(Config(instance=InstanceSettings(worker_silence_s=3.0)))
    scene.clock.now += waited
    scene.process.attend()
    assert scene.child.killed is killed


def test_an_idle_worker_may_be_silent_and_a_late_movie_has_its_full_time(scene):
    scene.say(Up(device="cpu", threads=1))
    scene.clock.now += 10_000.0
    scene.process.attend()
    scene.arrive("a")
    scene.process.dispatch()
    scene.clock.now += 500.0
    scene.process.attend()
    assert not scene.child.killed


def test_a_worker_that_never_comes_up_is_an_error(scene):
    def wait():
        scene.clock.now += 601.0
        scene.process.attend()
        scene.process.attend()

    for _ in range(3):
        wait()  # one that was killed while it started is no reason to give up
    with pytest.raises(DeviceError, match="fails to start; found killed after 601 s of silence"):
        wait()


def test_only_what_was_begun_is_blamed_for_a_death(scene):
    movies = scene.arrive("a", "b")
    scene.say(Up(device="cpu", threads=1))
    scene.process.dispatch()
    scene.process.dispatch()
    scene.say(Progress(movie_id=movies[0].movie_id, revision=1, stage="align"))
    scene.child.alive = False
    scene.process.attend()
    assert [(scene.state(f"grid1/{n}.tif").state, scene.state(f"grid1/{n}.tif").deaths) for n in "ab"] == [
        ("ready", 1),
        ("ready", 0),
    ]


def test_a_movie_that_two_workers_died_of_is_given_up_by_name(scene):
    (movie,) = scene.arrive("a")
    for _ in range(2):
        scene.say(Up(device="cpu", threads=1))
        scene.process.dispatch()
        scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="fuse"))
        scene.child.alive = False
        scene.process.attend()
        scene.clock.now += 2.0
        scene.process.attend()
    assert [given_up for _, given_up in scene.restarted] == [[], [movie.movie_id]]
    row = scene.state("grid1/a.tif")
    assert row.state == "quarantined"
    assert "in stage fuse" in row.reason.message
    assert f"streamer movies retry {movie.movie_id}" in row.reason.hint


def test_an_order_that_cannot_be_made_holds_up_no_other(scene):
    scene.arrive("unclear", "b")
    scene.say(Up(device="cpu", threads=1))

    def work_of(movie):
        if "unclear" in movie.relative:
            raise ConfigError("several gain references could be meant")
        return Work(movie=movie.movie, times=Times(), instructions=Instructions(session_directory="/o"))

    scene.work_of = work_of
    assert scene.process.dispatch()
    (failed,) = scene.failed
    assert (failed.handling, failed.reason.message) == (Handling.ASK, "several gain references could be meant")
    assert scene.process.dispatch()
    assert [message.movie.relative for message in scene.child.sent] == ["grid1/b.tif"]


def test_whatever_goes_wrong_with_an_order_the_movie_is_not_stranded(scene):
    scene.arrive("a")
    scene.say(Up(device="cpu", threads=1))

    def broken(movie):
        raise OSError("stale file handle")

    scene.process._work_of = broken
    with pytest.raises(OSError, match="stale"):
        scene.process.dispatch()
    row = scene.state("grid1/a.tif")
    assert (row.state, row.attempt) == ("ready", 0)


def test_a_worker_that_cannot_be_set_up_as_configured_is_not_started_again_and_again(scene):
    scene.child.alive, scene.child.ending = False, "exit status 78"
    with pytest.raises(ConfigError, match="cannot start with this configuration"):
        scene.process.attend()


def test_two_revisions_of_a_movie_are_two_tasks(scene):
    """The file is written anew while its first state is computed; the worker's death frees both."""
    (movie,) = scene.arrive("a")
    scene.say(Up(device="cpu", threads=1))
    scene.process.dispatch()
    scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="align"))
    scene.journal.add_ready(
        make_movie("grid1/a.tif", size=200, mtime_ns=2), "2026-11-20T12:01:00.000Z", "2026-11-20T12:01:01.000Z"
    )
    assert scene.process.dispatch()
    scene.say(Failed(movie_id=movie.movie_id, revision=1, reason=REASON, handling=Handling.FAIL, stage="align"))
    scene.child.alive = False
    scene.process.attend()
    newest = max((m for m in scene.journal.movies.newest()), key=lambda m: m.movie.revision)
    assert (newest.movie.revision, newest.state, newest.deaths) == (2, "ready", 0)


def test_what_is_given_back_waits_again(scene):
    (movie,) = scene.arrive("a")
    scene.say(Up(device="cpu", threads=1))
    scene.process.dispatch()
    scene.process.finish()
    scene.say(Returned(movie_id=movie.movie_id, revision=1))
    assert scene.state("grid1/a.tif").state == "ready"
    assert not scene.process.dispatch()


def test_workers_that_die_without_finishing_anything_end_the_daemon(scene):
    def die():
        scene.say(Up(device="cpu", threads=1))
        scene.child.alive = False
        scene.process.attend()
        scene.clock.now += 2.0
        scene.process.attend()

    for _ in range(3):
        die()
    with pytest.raises(DeviceError, match="crash without finishing a movie"):
        die()


def test_a_finished_movie_clears_the_count_of_deaths(scene):
    for n in range(10):
        (movie,) = scene.arrive(f"m{n}")
        scene.say(Up(device="cpu", threads=1))
        scene.process.dispatch()
        scene.say(Finished(record=make_record(movie.relative)))
        scene.child.alive = False
        scene.process.attend()
        scene.journal.finish(make_record(movie.relative))
        scene.clock.now += 2.0
        scene.process.attend()
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
    scene.arrive("a", "b", "c")
    scene.journal.start(scene.state("grid1/a.tif").movie.movie_id, 1)
    assert scene.journal.requeue_started(counted=counted) == 1
    scene.say(Up(device="cpu", threads=1))
    given = [scene.process.dispatch() for _ in range(3)]
    assert given == ([True, False, False] if counted else [True, True, True])
    assert scene.child.sent[0].movie.relative == "grid1/a.tif"
    scene.say(Finished(record=make_record("grid1/a.tif")))
    scene.journal.finish(make_record("grid1/a.tif"))
    assert scene.process.dispatch() is counted
