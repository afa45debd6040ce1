"""A worker that takes too much memory, and a device that fails on a movie."""

import os
import subprocess
import sys

import pytest

from service.config import Config, InstanceSettings, OverloadSettings
from service.processes.messages import Failed, Progress, Up
from streamer.errors import DeviceError, Handling
from streamer.runtime.memory import resident_bytes, worker_memory_bytes
from tests.service.daemon.lifecycles import arrival_of, lifecycle_of
from tests.service_samples import REASON, make_movie

GIB = 2**30


# ------------------------------------------------------------ how much


def test_the_limit_is_as_set_and_else_three_quarters_of_the_machine():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert worker_memory_bytes(0.0) == machine * 3 // 4
    assert worker_memory_bytes(1.5) == 3 * GIB // 2
    assert worker_memory_bytes(1000.0) == 1000 * GIB


def test_what_a_process_holds():
    hold = "import sys; held = b'x' * (64 << 20); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        assert 64 * 2**20 < resident_bytes(process.pid) < 256 * 2**20
        process.stdin.close()
    assert resident_bytes(process.pid) is None, "of who is gone nothing is known"


# ------------------------------------------------------------ too much


@pytest.fixture
def scene(scene_of):
    """A worker process that may have 4 GiB."""
    return scene_of(Config(instance=InstanceSettings(worker_memory_gib=4.0)))


def test_a_worker_over_the_limit_is_replaced_and_its_movie_counted_with_both_figures(scene, journal):
    (movie,) = scene.give("a")
    first, scene.gib = scene.child, 5.26
    scene.clock.now += 1.0
    scene.process.attend()
    assert first.killed
    assert scene.restarted == [("killed at 5.3 GiB of memory, 4.0 GiB are allowed", [])]
    row = journal.movie(movie.movie_id)
    assert (row.state, row.attempt, row.deaths) == ("ready", 1, 1)
    assert row.reason.error == "WorkerDied"
    assert row.reason.message == (
        "processing broke off in stage fuse: "
        "the worker process ended (killed at 5.3 GiB of memory, 4.0 GiB are allowed)"
    )
    scene.gib = 0.0
    scene.clock.now += 1.0
    scene.process.attend()
    assert scene.child is not first


@pytest.mark.parametrize(("holds", "killed"), [(3.9, False), (4.0, False), (4.01, True)])
def test_up_to_the_limit_it_may_take(scene, holds, killed):
    scene.give("a")
    scene.gib = holds
    scene.clock.now += 1.0
    scene.process.attend()
    assert scene.child.made[0].killed == killed


def test_only_what_was_begun_is_blamed(scene, journal):
    (begun,) = scene.give("a")
    (waits,) = scene.give("b", begun=False)
    scene.gib = 9.0
    scene.clock.now += 1.0
    scene.process.attend()
    rows = [journal.movie(movie.movie_id) for movie in (begun, waits)]
    assert [(row.state, row.attempt, row.deaths) for row in rows] == [("ready", 1, 1), ("ready", 0, 0)]


def test_a_movie_that_takes_too_much_twice_is_given_up(scene, journal):
    (movie,) = scene.give("a")
    for again in (True, False):
        scene.gib = 9.0
        scene.clock.now += 1.0
        scene.process.attend()
        scene.gib = 0.0
        scene.clock.now += 1.0
        scene.process.attend()
        if again:
            scene.say(Up(device="cpu", threads=1))
            assert scene.process.dispatch()
            scene.say(Progress(movie_id=movie.movie_id, revision=1, stage="fuse"))
    assert [given_up for _, given_up in scene.restarted] == [[], [movie.movie_id]]
    assert journal.movie(movie.movie_id).state == "quarantined"


def test_its_memory_is_looked_at_once_a_second(scene):
    pid = scene.child.pid
    for tenth in range(50):
        scene.clock.now = 100.0 + tenth / 10.0
        scene.process.attend()
    assert len(scene.asked) == 5
    assert {asked for _, asked in scene.asked} == {pid}
    assert all(late - early >= 1.0 - 1e-9 for (early, _), (late, _) in zip(scene.asked, scene.asked[1:], strict=False))


def test_without_any_movie_it_is_replaced_too(scene):
    """What leaks leaks, and the next worker begins with nothing."""
    scene.say(Up(device="cpu", threads=1))
    scene.gib = 9.0
    scene.clock.now += 1.0
    scene.process.attend()
    assert scene.child.killed
    assert scene.restarted == [("killed at 9.0 GiB of memory, 4.0 GiB are allowed", [])]


def test_where_it_is_unknown_nobody_is_killed(scene):
    scene.gib = 0.0
    scene.give("a")
    scene.clock.now += 10.0
    scene.process.attend()
    assert not scene.child.killed


# ------------------------------------------------------------ a device that fails


@pytest.fixture
def lifecycle(journal, tmp_path):
    limits = OverloadSettings(preview_after=2, denoise_after=100, super_resolution_after=100)
    return lifecycle_of(journal, tmp_path, Config(overload=limits))


def order(lifecycle, journal, movie):
    """The order for a movie, as the worker process asks for it."""
    ready = journal.movie(movie.movie_id)
    journal.start(movie.movie_id, 1)
    return lifecycle.order(ready)


def fail(lifecycle, movie, handling=Handling.RETRY, error=None):
    reason = error or DeviceError("out of memory", where="fuse").reason()
    lifecycle.failed(Failed(movie_id=movie.movie_id, revision=1, reason=reason, handling=handling, stage="fuse"))


def test_after_one_failure_of_the_device_less_is_asked_of_it_and_after_two_nothing(lifecycle, journal):
    movie = make_movie("grid1/a.tif")
    lifecycle.arrived(arrival_of(movie))
    whole = order(lifecycle, journal, movie)
    assert (whole.instructions.shed, whole.on_cpu, whole.instructions.notes) == ((), False, ())
    assert whole.instructions.groups is not None
    fail(lifecycle, movie)
    second = order(lifecycle, journal, movie)
    assert (second.instructions.shed, second.on_cpu) == (("denoise", "super-resolution"), False)
    assert second.instructions.notes == ("shed: denoise, super-resolution: the device has failed on it",)
    assert second.instructions.groups is None
    fail(lifecycle, movie)
    third = order(lifecycle, journal, movie)
    assert (third.instructions.shed, third.on_cpu) == (("denoise", "super-resolution"), True)
    assert third.instructions.notes == (
        "shed: denoise, super-resolution: the device has failed on it, computed on the CPU",
    )
    fail(lifecycle, movie)
    assert journal.movie(movie.movie_id).state == "quarantined"


def test_under_load_the_pictures_are_left_out_as_well_in_the_declared_order(lifecycle, journal):
    movie, other = make_movie("grid1/a.tif"), make_movie("grid1/b.tif", inode=2)
    for each in (movie, other):
        lifecycle.arrived(arrival_of(each))
    order(lifecycle, journal, movie)
    fail(lifecycle, movie)
    assert order(lifecycle, journal, movie).instructions.shed == ("preview", "denoise", "super-resolution")
    assert order(lifecycle, journal, other).instructions.shed == ("preview",), "the others are not to blame"


def test_only_failures_of_the_device_count(lifecycle, journal):
    movie = make_movie("grid1/a.tif")
    lifecycle.arrived(arrival_of(movie))
    order(lifecycle, journal, movie)
    fail(lifecycle, movie, handling=Handling.HOLD, error=REASON)
    assert order(lifecycle, journal, movie).instructions.shed == ()
    journal.worker_died(movie.movie_id, 1, REASON)
    assert order(lifecycle, journal, movie).instructions.shed == ()


def test_whom_the_operator_tries_once_more_is_processed_whole(lifecycle, journal):
    movie = make_movie("grid1/a.tif")
    lifecycle.arrived(arrival_of(movie))
    for _ in range(3):
        order(lifecycle, journal, movie)
        fail(lifecycle, movie)
    journal.retry(movie.movie_id)
    again = order(lifecycle, journal, movie)
    assert (again.instructions.shed, again.on_cpu) == ((), False)
