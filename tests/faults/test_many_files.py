"""F5: very many files that are known cost seconds at start, and what no event tells of is found by scanning."""

from __future__ import annotations

import os
import time
from pathlib import Path

from streamer.records import FileIdentity
from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher
from tests.clocks import AskedClock
from tests.faults.test_writers import Timeline
from tests.faults.writer_models import mrc_head

PER_DIRECTORY = 1000
LONGEST_START_S, LAST_FOUND_S = 10.0, 60.0
SIDE = 4
SMALL = mrc_head(2, (SIDE, SIDE)) + bytes(range(1, SIDE * SIDE * 2 * 2 + 1))


def fill(root: Path, n: int, data: bytes) -> dict[str, FileIdentity]:
    """Make n movies in directories of a thousand; their states by path below the root."""
    known = {}
    for number in range(n):
        relative = f"GridSquare_{number // PER_DIRECTORY:04}/movie_{number:06}.mrc"
        path = f"{root}/{relative}"
        if number % PER_DIRECTORY == 0:
            Path(path).parent.mkdir(parents=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        if data:
            os.write(descriptor, data)
        status = os.fstat(descriptor)
        os.close(descriptor)
        known[relative] = FileIdentity(
            device=status.st_dev,
            inode=status.st_ino,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
        )
    return known


class FirstLook(Timeline):
    """Ends with the first look, and tells how long it really took."""

    def wait(self, timeout: float | None = None) -> bool:
        self.took_s = time.perf_counter() - self.began
        self.set()
        return True


def test_a_start_before_very_many_known_files_takes_seconds(tmp_path, often, report):
    n = often(30_000, 300_000)
    known = fill(tmp_path, n, b"")
    timeline = FirstLook([], 0)
    watcher = Watcher(WatchSettings(root=str(tmp_path), polling="always"), clock=timeline, known=known)
    timeline.began = time.perf_counter()
    found = list(watcher.arrivals(timeline))
    figure = f"first look {timeline.took_s:.2f} s, {len(found)} taken for new"
    report("F5", "known files at start", n=n, figure=figure, target=f"<= {LONGEST_START_S:g} s, 0")
    assert found == []
    assert watcher.waiting() == {}
    assert timeline.took_s <= LONGEST_START_S


def test_what_came_while_nobody_looked_is_delivered_by_scanning(tmp_path, often, report):
    """No event tells of the files; a thousand older ones are known, and stay so."""
    n, n_known = often(5_000, 20_000), 1_000
    (tmp_path / "old").mkdir()
    known = {f"old/{relative}": identity for relative, identity in fill(tmp_path / "old", n_known, SMALL).items()}
    wanted = fill(tmp_path, n, SMALL)
    timeline, began = Timeline([], 1000), time.perf_counter()

    def clock() -> float:
        """What the loop waits, and what it really takes for the rest."""
        return timeline.now + time.perf_counter() - began

    watcher = Watcher(WatchSettings(root=str(tmp_path), polling="always"), clock=AskedClock(clock), known=known)
    found, times = [], []
    for arrival in watcher.arrivals(timeline):
        found.append(arrival.movie.relative)
        times.append(clock())
        if len(found) == n:
            timeline.end = timeline.now + 30
    figure = f"{len(set(found))} delivered, {len(found) - len(set(found))} twice, the last after {max(times):.1f} s, "
    figure += f"{max(times) - WatchSettings().sidecar_wait_s:.1f} s more than a single one"
    target = f"{n}, 0 twice, the last after at most {LAST_FOUND_S:g} s"
    report("F5", "files made while nobody looked, by scanning only", n=n, figure=figure, target=target)
    assert sorted(found) == sorted(wanted)
    assert max(times) <= LAST_FOUND_S
