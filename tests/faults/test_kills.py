"""F1, F10, F16, F17, F18: processes that are killed, abort, hang or are asked to stop."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from service.layout import layout_of
from tests.faults.sites import assert_nothing_lost, movie_bytes, partial_files, put, quick
from tests.system.conftest import children_of, make_site, until  # noqa: F401 - a fixture

POINTS = {
    "discovered": 1, "ready": 1, "started": 1, "stage-read": 1, "stage-align": 1, "written": 9, "renamed": 9,
    "committed": 1, "unpublished": 1,
}  # fmt: skip
"""Named points, and how often each is reached for a movie."""


def died(daemon, what):
    until(lambda: daemon.poll() is not None, f"the daemon to die: {what}", 60.0)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_loses_and_doubles_nothing(make_site, tmp_path, often, report, point):  # noqa: F811
    n, rng = often(2, 25), random.Random(point)
    site, names = quick(make_site), []
    for number in range(n):
        names.append(f"{point}-{number:03d}.mrc")
        put(site.root, names[-1], movie_bytes(tmp_path, number))
        time_of = rng.randint(1, POINTS[point])
        daemon = site.start(STREAMER_FAULT=f"{point}={point}-{number:03d}@{time_of}:kill-all")
        died(daemon, point)
        assert daemon.returncode == -signal.SIGKILL
    daemon = site.start()
    site.wait_for(done=n)
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, set(names))
    report("F1", f"kill -9 of daemon and worker at “{point}”", n=n, figure="0 lost, 0 doubled, 0 torn", target="0")


def test_kills_at_random_moments(make_site, tmp_path, often, report):  # noqa: F811
    n, rng = often(10, 500), random.Random(4)
    site, names = quick(make_site), []
    for number in range(n):
        names.append(f"m{number:04d}.mrc")
        put(site.root, names[-1], movie_bytes(tmp_path, number))
        daemon = site.start()
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(rng.uniform(0.0, 2.0))
        daemon.kill()
        daemon.wait()
    daemon = site.start()
    until(lambda: site.counts().get("done", 0) + site.counts().get("quarantined", 0) == n, "everything to end")
    assert site.stop(daemon) == 0
    # three kills while a movie is at work quarantine it, by design; the operator brings it back
    quarantined = site.counts().get("quarantined", 0)
    if quarantined:
        assert site.run("movies", "retry", "--state", "quarantined", "--config", str(site.config_file)).returncode == 0
        daemon = site.start()
        site.wait_for(done=n)
        assert site.stop(daemon) == 0
    assert_nothing_lost(site, set(names))
    figure = f"0 lost, 0 doubled, 0 torn; {quarantined} quarantined and brought back"
    report("F1", "kill -9 of the daemon at random moments", n=n, figure=figure, target="0")


@pytest.mark.parametrize("action", ["kill", "abort", "hang", "bug"])
def test_a_worker_that_fails_is_replaced(make_site, tmp_path, report, action):  # noqa: F811
    site = quick(make_site, instance__worker_silence_s="6.0")
    for number in range(4):
        put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
    began = time.monotonic()
    daemon = site.start(STREAMER_FAULT=f"stage-align=m1:{action}")
    # armed in each worker process: the movie kills two workers and is given up, the others are done
    site.wait_for(done=3, quarantined=1)
    took = time.monotonic() - began
    log = site.log()
    assert log.count("the worker exited") == 2
    with site.journal() as journal:
        (poison,) = journal.movies.newest(state="quarantined")
    assert (poison.movie.relative, poison.deaths) == ("m1.mrc", 2)
    assert site.stop(daemon) == 0
    figure = f"both workers replaced, the movie quarantined, three others done, {took:.0f} s in all"
    report("F10", f"worker: {action}", n=2, figure=figure, target="restart <= 30 s; quarantined at the second death")


def test_sigterm_under_load(make_site, tmp_path, often, report):  # noqa: F811
    n, rng, longest = often(3, 20), random.Random(7), 0.0
    site, names = quick(make_site), []
    for turn in range(n):
        for number in range(12):
            names.append(f"t{turn}-{number}.mrc")
            put(site.root, names[-1], movie_bytes(tmp_path, number))
        daemon = site.start()
        until(lambda: site.counts().get("started"), "a movie at work")
        threading.Event().wait(rng.uniform(0.0, 0.3))  # any moment will do
        began = time.monotonic()
        assert site.stop(daemon) == 0
        longest = max(longest, time.monotonic() - began)
        assert site.counts().get("started", 0) == 0
        assert partial_files(site) == []
    daemon = site.start()
    site.wait_for(done=len(names))
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, set(names))
    with site.journal() as journal:
        assert all(movie.attempt == 1 for movie in journal.movies.newest(limit=-1))
    assert longest <= 30.0
    report("F16", "SIGTERM with movies at work", n=n, figure=f"exit 0, longest {longest:.1f} s", target="<= 30 s")


def test_a_main_loop_that_hangs_gives_no_sign_of_life(make_site, report):  # noqa: F811
    """What systemd waits for; with WatchdogSec it kills and starts the daemon again."""
    site = quick(make_site)
    path = str(site.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(5.0)
        daemon = site.start(NOTIFY_SOCKET=path, STREAMER_FAULT="turn@20:hang")
        said = []
        with suppress(TimeoutError):
            while True:
                said.append(notify.recv(4096))
    assert any(b"READY=1" in message for message in said)
    assert sum(b"WATCHDOG=1" in message for message in said) >= 1
    assert daemon.poll() is None
    daemon.kill()
    daemon.wait()
    report(
        "F17", "main loop hangs", n=1, figure="no WATCHDOG=1 in 5 s, period 1 s", target="stops; restart is systemd's"
    )


def test_a_second_instance_and_what_a_killed_one_left(make_site, tmp_path, report):  # noqa: F811
    site = quick(make_site)
    put(site.root, "a.mrc", movie_bytes(tmp_path, 1))
    daemon = site.start(STREAMER_FAULT="written=a_ODD.mrc:kill-all")
    died(daemon, "written")
    assert len(partial_files(site)) == 1
    stale = layout_of(site.config).state / f".endpoints.json.tmp-{daemon.pid}-0123456789abcdef"
    stale.write_bytes(b"half")
    daemon = site.start()
    assert (layout_of(site.config).state / "lock").exists()
    second = site.run("run", "--config", str(site.config_file))
    assert second.returncode == 75
    assert "another daemon holds" in second.stderr
    site.wait_for(done=1)
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, {"a.mrc"})
    report("F18", "second start; lock and half-written file of a killed one", n=1, figure="exit 75; swept", target="75")


def test_ready_within_ten_seconds_with_a_long_past(make_site, tmp_path, often, report):  # noqa: F811
    from service.journal.journal import Journal
    from streamer.readers.movie import identity_of
    from tests.faults.past import many_done

    n = 10_000
    site = quick(make_site)
    data = movie_bytes(tmp_path, 0)
    (site.root / "grid").mkdir()
    for number in range(n):
        (site.root / "grid" / f"m{number:05d}.mrc").write_bytes(data)
    layout = layout_of(site.config)
    layout.state.mkdir(parents=True, exist_ok=True)
    journal = Journal.open(layout.journal)
    journal.restore(many_done(site.root, (f"grid/m{number:05d}.mrc" for number in range(n)), identity_of))
    journal.close()
    path = str(site.directory / "notify")
    times = []
    for turn in range(often(1, 5)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            Path(path).unlink(missing_ok=True)
            notify.bind(path)
            notify.settimeout(30.0)
            began = time.monotonic()
            daemon = site.start(NOTIFY_SOCKET=path)
            while b"READY=1" not in notify.recv(4096):
                pass
            ready = time.monotonic() - began
            put(site.root, f"new{turn}.mrc", data)
            site.wait_for(done=n + turn + 1)
            times.append((ready, time.monotonic() - began))
            assert site.stop(daemon) == 0
    assert max(ready for ready, _ in times) <= 10.0
    figure = f"READY=1 after {max(r for r, _ in times):.1f} s, a new movie done after {max(d for _, d in times):.1f} s"
    report("F1", "start with 10,000 movies in the journal", n=len(times), figure=figure, target="<= 10 s")
