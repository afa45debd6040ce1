"""F20, F21, F5: very many movies, movies that come too fast, and events that the kernel has lost."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

from service.config import ORDER
from streamer.movie_record import MovieRecord
from streamer.runtime.clock import utc_seconds
from tests.faults.sites import assert_nothing_lost, descriptors, movie_bytes, put, quick, resident
from tests.system.conftest import SMALL, children_of, make_site, until  # noqa: F401 - a fixture


def records(site) -> list[MovieRecord]:
    with site.journal() as journal:
        return list(journal.movies.done("test"))


def latency(record: MovieRecord) -> float:
    return utc_seconds(record.times.done) - utc_seconds(record.times.complete)


def test_soak(make_site, tmp_path, often, report):  # noqa: F811
    """Small movies at two thirds of what two cores can do; memory and descriptors of daemon and worker now and then."""
    portions, size = often(6, 50), often(50, 200)
    pace, clock = 1.0 / 18.0, threading.Event()
    site = quick(make_site, overload__shed="false")
    kinds = [movie_bytes(tmp_path, seed) for seed in range(20)]
    daemon = site.start()
    seen = []
    with site.journal() as journal:
        for portion in range(portions):
            for number in range(size):
                put(site.root, f"square{portion:03d}/m{number:04d}.mrc", kinds[number % len(kinds)])
                clock.wait(pace)  # the pace of seventy cameras
            until(lambda n=(portion + 1) * size: journal.movies.counts_by_state().get("done", 0) == n, "the portion")
            worker = children_of(daemon)["worker"]
            seen.append((resident(daemon.pid), resident(worker), descriptors(daemon.pid)))
    assert site.stop(daemon) == 0
    done = records(site)
    assert len(done) == portions * size
    # what is left after the first fifth: caches are filled, the journal has its first pages
    tail = np.array(seen[len(seen) // 5 :], dtype=float)
    movies = size * np.arange(len(tail))
    slope, slope_worker = (np.polyfit(movies, tail[:, column], 1)[0] for column in (0, 1))
    tenth = max(20, len(done) // 10)
    first, last = (np.percentile([latency(r) for r in part], 95) for part in (done[:tenth], done[-tenth:]))
    files = int(tail[-1, 2] - tail[0, 2])
    per_hour = 950
    figure = (
        f"daemon {slope * per_hour / 2**20:+.2f} MiB, worker {slope_worker * per_hour / 2**20:+.2f} MiB per {per_hour} "
        f"movies; descriptors {files:+d}; p95 of the last tenth {last / first:.2f} of the first"
    )
    report("F20", "small movies without a pause", n=len(done), figure=figure, target="<= 1 MiB/h at 950/h; p95 <= 1.1")
    assert files <= 2
    if portions * size >= 10_000:
        assert slope * per_hour <= 1 << 20
        assert slope_worker * per_hour <= 1 << 20
        assert last <= 1.1 * first


def test_overload_sheds_in_order_and_makes_it_good(make_site, often, report):  # noqa: F811
    """Movies at twice the capacity, then none; what was left out is made good by one command."""
    n = often(30, 150)
    site = quick(
        make_site,
        overload__preview_after="4",
        overload__denoise_after="8",
        overload__super_resolution_after="12",
        outputs__super_resolution='"always"',
    )
    (source, *_) = site.expose(1, scope=SMALL)
    data = source.read_bytes()
    daemon = site.start()
    site.wait_for(done=1)
    began = time.monotonic()
    for number in range(10):
        put(site.root, f"calm{number}.mrc", data)
        site.wait_for(done=number + 2)
    (busy,) = [statistics.median(sum(r.times.stage_s.values()) for r in records(site)[1:])]
    period, clock = busy / 2.0, threading.Event()
    for number in range(n):
        put(site.root, f"m{number:03d}.mrc", data)
        clock.wait(period)  # the pace of a camera
    site.wait_for(done=n + 11)
    took = time.monotonic() - began
    done = [record for record in records(site) if record.path.startswith("m")]
    shed = [record for record in done if record.shed]
    levels = [len(record.shed) for record in done]
    for record in done:
        assert tuple(record.shed) == ORDER[: len(record.shed)]
        assert record.metrics is not None
        assert record.metrics.shifts_yx_px
        assert record.metrics.ssnr_full is not None
        assert bool(record.shed) == any(flag.startswith("shed:") for flag in record.flags)
    assert max(levels) == len(ORDER)
    assert not [r for r in records(site) if r.path.startswith("calm") and r.shed]
    settled = utc_seconds(done[-1].times.done) - utc_seconds(done[-1].times.complete)
    again = site.run("movies", "retry", "--what-was-shed", "--config", str(site.config_file))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("revision 2") == len(shed)
    site.wait_for(done=n + 11)
    until(lambda: not {"ready", "started"} & site.counts().keys(), "what was shed")
    assert [record for record in records(site) if record.shed] == []
    assert site.stop(daemon) == 0
    figure = (
        f"0 lost; {len(shed)} left out something, always in order, deepest {max(levels)}; "
        f"last one {settled:.0f} s after it came; made good by retry ({took:.0f} s in all)"
    )
    report("F21", "movies at twice the capacity", n=n, figure=figure, target="order kept, 0 lost, backlog drains")


def test_events_that_the_kernel_lost(tmp_path, often, report):
    """A watcher that is stopped while more files come than the kernel keeps events for."""
    n = often(9_000, 20_000)
    root = tmp_path / "movies"
    root.mkdir()
    data = movie_bytes(tmp_path, 1)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.watching_child", str(root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert json.loads(watcher.stdout.readline()) == {"mode": "events"}
        watcher.send_signal(signal.SIGSTOP)
        for number in range(n):
            # created, closed and renamed: three events each
            put(root, f"m{number:05d}.mrc", data)
        began = time.monotonic()
        watcher.send_signal(signal.SIGCONT)
        found = {"found": 0}
        while found["found"] < n:
            found = json.loads(watcher.stdout.readline())
        took = time.monotonic() - began
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()
    assert found["overflows"] >= 1
    assert found["twice"] == 0
    assert took <= 60.0
    figure = f"all found in {took:.0f} s, overflow seen and counted ({found['overflows']})"
    report("F5", "more files than the kernel keeps events for", n=n, figure=figure, target="100 % <= 60 s")


def test_nothing_is_lost_or_doubled_under_load(make_site, tmp_path, often, report):  # noqa: F811
    """Movies in several squares with the same names, while the daemon runs, before it and after it."""
    n = often(10, 60)
    site = quick(make_site)
    names = {f"square{square}/m{number:03d}.mrc" for square in range(3) for number in range(n)}
    ordered = sorted(names)
    for name in ordered[: len(ordered) // 3]:
        put(site.root, name, movie_bytes(tmp_path, 1))
    daemon = site.start()
    for name in ordered[len(ordered) // 3 : 2 * len(ordered) // 3]:
        put(site.root, name, movie_bytes(tmp_path, 2))
    assert site.stop(daemon) == 0
    for name in ordered[2 * len(ordered) // 3 :]:
        put(site.root, name, movie_bytes(tmp_path, 3))
    daemon = site.start()
    site.wait_for(done=len(names))
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, names)
    figure = "each once; the same base name in three squares is three movies"
    report("F5", "movies before, during and after the daemon", n=len(names), figure=figure, target="0 lost, 0 doubled")
