import os
import queue
import shutil
import threading

import mrcfile
import numpy as np
import pytest
import tifffile

from streamer.errors import MovieNotReady, MovieUnsupported
from streamer.readers import movie as movie_reader
from streamer.watch import watcher as watch
from streamer.watch.scan import scan as scan_of
from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher, is_on_network
from tests.clocks import Timeline

FRAMES = np.random.default_rng(3).integers(1, 50, (6, 9, 12)).astype(np.uint16)


def mrc_bytes(tmp_path, frames=FRAMES):
    path = tmp_path.parent / f"{tmp_path.name}.source"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(frames)
    return path.read_bytes()


def tiff_pages(tmp_path, frames=FRAMES):
    """What a writer that appends page by page leaves behind after each page."""
    path = tmp_path.parent / f"{tmp_path.name}.source.tif"
    path.unlink(missing_ok=True)
    pages = []
    for frame in frames:
        tifffile.imwrite(path, frame[::-1], append=True, metadata=None, compression="lzw")
        pages.append(path.read_bytes())
    return pages


def run(root, end, script=None, settings=None, **options):
    """All arrivals until ``end`` with the time of each."""
    timeline = Timeline(end, script)
    settings = WatchSettings(root=str(root), polling="always", **(settings or {}))
    watcher = Watcher(settings, clock=timeline, **options)
    return [(timeline.now, arrival) for arrival in watcher.arrivals(timeline)]


def counts_of(arrival):
    movie = arrival.movie
    options = {"in_memory_bytes": 1 << 30, "threads": 1, "expected": movie.identity}
    return movie_reader.read_counts(watch.Path(movie.path), arrival.header, **options)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def put(path, data, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def mdoc(path):
    path.with_name(path.name + ".mdoc").write_text(f"[FrameSet = 0]\nNumSubFrames = {len(FRAMES)}\n")


def test_what_is_there_at_the_start_is_found(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("a.mrc", "b/c.mrc"):
        (tmp_path / name).write_bytes(mrc_bytes(tmp_path))
    found = run(tmp_path, 60)
    assert [arrival.movie.relative for _, arrival in found] == ["a.mrc", "b/c.mrc"]
    np.testing.assert_array_equal(counts_of(found[0][1]), FRAMES)


def test_what_appears_later_is_found_by_polling(tmp_path):
    data = mrc_bytes(tmp_path)
    found = run(tmp_path, 100, {40.0: lambda: (tmp_path / "a.mrc").write_bytes(data)})
    (when, arrival), *others = found
    assert not others
    assert 50 <= when <= 40 + 5 + 10 + 2  # at most one scan of a network mount, then the wait for the sidecar
    assert arrival.error is None


def test_known_may_be_a_mapping_or_a_function(tmp_path):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(tmp_path))
    known = {"a.mrc": movie_reader.identity_of(tmp_path / "a.mrc")}
    assert run(tmp_path, 60, known=known) == []
    assert run(tmp_path, 60, known=known.get) == []
    assert len(run(tmp_path, 60, known={})) == 1


# Writers, as they have been seen to behave. The time is that of the watcher's clock.


def growing_mrc(path, data, steps=8, gap=1.0):
    size = -(-len(data) // steps)
    return {
        1.0 + gap * index: lambda index=index: append(path, data[index * size : (index + 1) * size])
        for index in range(steps)
    }


def the_arrival_after(found, time):
    (when, arrival), *others = found
    assert not others, others
    assert when >= time, "began before the movie was whole"
    assert arrival.error is None
    np.testing.assert_array_equal(counts_of(arrival), FRAMES)


@pytest.mark.parametrize("gap", [1.0, 4.0, 30.0])
def test_a_growing_mrc_movie(tmp_path, gap):
    path = tmp_path / "a.mrc"
    script = growing_mrc(path, mrc_bytes(tmp_path), gap=gap)
    the_arrival_after(run(tmp_path, 600, script), max(script))


@pytest.mark.parametrize("gap", [1.0, 4.0, 30.0])
def test_a_tiff_movie_written_page_by_page(tmp_path, gap):
    """Each state is a valid, shorter movie; the sidecar tells the difference, also over a stall."""
    path = tmp_path / "a.tif"
    script = {
        1.0 + gap * index: lambda page=page: path.write_bytes(page) for index, page in enumerate(tiff_pages(tmp_path))
    }
    end = max(script)
    script[0.5] = lambda: mdoc(path)
    the_arrival_after(run(tmp_path, 600, script), end)


def test_a_tiff_movie_whose_sidecar_comes_last(tmp_path):
    path = tmp_path / "a.tif"
    pages = tiff_pages(tmp_path)
    script = {1.0 + index: lambda page=page: path.write_bytes(page) for index, page in enumerate(pages)}
    script[9.0] = lambda: mdoc(path)
    found = run(tmp_path, 100, script)
    the_arrival_after(found, 9.0)
    assert found[0][1].movie.evidence == "sidecar"


def test_a_tiff_movie_without_sidecar_that_grows_after_a_stall_comes_again(tmp_path):
    path = tmp_path / "a.tif"
    pages = tiff_pages(tmp_path)
    script = {1.0: lambda: path.write_bytes(pages[3]), 100.0: lambda: path.write_bytes(pages[5])}
    found = run(tmp_path, 300, script)
    assert [arrival.header.n_frames for _, arrival in found] == [4, 6]
    assert [arrival.movie.evidence for _, arrival in found] == ["unproven"] * 2


def test_a_preallocating_copy(tmp_path):
    path = tmp_path / "a.mrc"
    data = mrc_bytes(tmp_path)
    size = len(data) // 5 + 1
    script = {1.0: lambda: path.write_bytes(bytes(len(data)))}
    for index in range(5):
        script[4.0 + 4 * index] = lambda index=index: put(path, data[index * size :][:size], index * size)
    the_arrival_after(run(tmp_path, 200, script), max(script))


def test_a_preallocating_copy_that_stalls_is_seen_when_read_and_comes_again(tmp_path):
    path = tmp_path / "a.mrc"
    data = mrc_bytes(tmp_path)
    half = len(data) // 2
    script = {
        1.0: lambda: path.write_bytes(data[:half] + bytes(len(data) - half)),
        60.0: lambda: put(path, data[half:], half),
    }
    refused = []

    def read(arrival):
        try:
            movie_reader.check_content(arrival.movie.path, counts_of(arrival))
        except MovieNotReady as error:
            refused.append(error)

    timeline = Timeline(200, script)
    watcher = Watcher(WatchSettings(root=str(tmp_path), polling="always"), clock=timeline)
    found = []
    for arrival in watcher.arrivals(timeline):
        read(arrival)
        found.append(arrival)
    assert len(found) == 2
    assert len(refused) == 1
    np.testing.assert_array_equal(counts_of(found[1]), FRAMES)


def test_a_temporary_name_and_a_rename(tmp_path):
    data = mrc_bytes(tmp_path)
    temporary = tmp_path / ".a.mrc.Xy12"
    script = growing_mrc(temporary, data)
    script[20.0] = lambda: temporary.rename(tmp_path / "a.mrc")
    the_arrival_after(run(tmp_path, 200, script), 20.0)


def test_append_after_close(tmp_path):
    path = tmp_path / "a.mrc"
    data = mrc_bytes(tmp_path)
    script = {1.0: lambda: path.write_bytes(data[:-100]), 50.0: lambda: append(path, data[-100:])}
    the_arrival_after(run(tmp_path, 200, script), 50.0)


def test_rsync_in_place_over_an_older_movie(tmp_path):
    path = tmp_path / "a.mrc"
    data = mrc_bytes(tmp_path)
    path.write_bytes(mrc_bytes(tmp_path, FRAMES + 1))
    os.utime(path, (1e9, 1e9))
    known = {"a.mrc": movie_reader.identity_of(path)}
    half = len(data) // 2
    script = {1.0: lambda: put(path, data[:half], 0), 4.0: lambda: put(path, data[half:], half)}
    script[5.0] = lambda: os.utime(path, (1.5e9, 1.5e9))
    the_arrival_after(run(tmp_path, 200, script, known=known), 5.0)


def test_robocopy_dates_what_is_unfinished_1970(tmp_path):
    path = tmp_path / "a.mrc"
    data = mrc_bytes(tmp_path)

    def begin():
        path.write_bytes(data)
        os.utime(path, (0, 0))

    script = {1.0: begin, 100.0: lambda: os.utime(path, (1.5e9, 1.5e9))}
    the_arrival_after(run(tmp_path, 200, script), 100.0)


def test_what_is_no_movie_is_reported_once(tmp_path):
    (tmp_path / "a.tif").write_text("not a movie\n" * 200)
    found = run(tmp_path, 300)
    assert [type(arrival.error) for _, arrival in found] == [MovieUnsupported]


def test_a_cut_movie_is_reported_as_incomplete_in_the_end(tmp_path):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(tmp_path)[:-1])
    found = run(tmp_path, 400, settings={"incomplete_after_s": 120})
    ((when, arrival),) = found
    assert isinstance(arrival.error, MovieNotReady)
    assert when >= 120


# The root.


def test_a_missing_root_is_picked_up_when_it_appears(tmp_path):
    root = tmp_path / "mount"
    data = mrc_bytes(tmp_path)
    timeline = Timeline(100)
    watcher = Watcher(WatchSettings(root=str(root), polling="always"), clock=timeline)

    def appear():
        assert watcher.root_missing
        root.mkdir()
        (root / "a.mrc").write_bytes(data)

    timeline.script[20.0] = appear
    found = list(watcher.arrivals(timeline))
    assert [arrival.movie.relative for arrival in found] == ["a.mrc"]
    assert not watcher.root_missing


def test_a_missing_root_is_looked_for_often(tmp_path):
    data = mrc_bytes(tmp_path)

    def appear():
        (tmp_path / "mount").mkdir()
        (tmp_path / "mount" / "a.mrc").write_bytes(data)

    found = run(tmp_path / "mount", 100, {20.0: appear}, {"scan_interval_s": 1000})
    assert 30 <= found[0][0] < 33


def test_a_root_that_is_gone_for_a_moment_starts_nothing_anew(tmp_path, observers):
    root, away = tmp_path / "mount", tmp_path / "away"
    root.mkdir()
    (root / "a.mrc").write_bytes(mrc_bytes(tmp_path))
    timeline = Timeline(100)
    settings = WatchSettings(root=str(root), scan_interval_s=2, settle_with_sidecar_s=8)
    watcher = Watcher(settings, clock=timeline)
    timeline.script = {1.8: lambda: root.rename(away), 3.2: lambda: away.rename(root)}
    times = []
    for _ in watcher.arrivals(timeline):
        times.append(timeline.now)
    assert len(times) == 1
    assert times[0] < 11


def test_a_root_that_goes_and_comes_back_loses_and_repeats_nothing(tmp_path):
    root, away = tmp_path / "mount", tmp_path / "away"
    root.mkdir()
    data = mrc_bytes(tmp_path)
    (root / "a.mrc").write_bytes(data)

    def come_back():
        shutil.copytree(away, root)  # other inodes, as after a remount
        shutil.copystat(away / "a.mrc", root / "a.mrc")
        (root / "b.mrc").write_bytes(data)

    found = run(root, 200, {30.0: lambda: root.rename(away), 90.0: come_back})
    assert [arrival.movie.relative for _, arrival in found] == ["a.mrc", "b.mrc"]


def test_waking_is_answered_soon(tmp_path):
    data = mrc_bytes(tmp_path)
    timeline = Timeline(900)
    settings = WatchSettings(root=str(tmp_path), polling="always", scan_interval_s=500, sidecar_wait_s=0)
    watcher = Watcher(settings, clock=timeline)

    def appear():
        (tmp_path / "a.mrc").write_bytes(data)
        watcher.wake()

    timeline.script[0.5] = appear
    times = [timeline.now for _ in watcher.arrivals(timeline)]
    assert len(times) == 1
    assert times[0] < 8


def test_one_wake_is_one_scan(tmp_path, monkeypatch):
    timeline = Timeline(400)
    scans = []
    genuine = watch.scan
    monkeypatch.setattr(watch, "scan", lambda *arguments: scans.append(timeline.now) or genuine(*arguments))
    monkeypatch.setattr(watch, "_NETWORK_SCAN_S", 1000.0)
    settings = WatchSettings(root=str(tmp_path), polling="always", scan_interval_s=1000)
    watcher = Watcher(settings, clock=timeline)
    timeline.script[100.0] = watcher.wake
    assert list(watcher.arrivals(timeline)) == []
    assert scans == [0.0, 100.0]


def test_a_network_mount_is_asked_once_a_second(tmp_path, monkeypatch):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(tmp_path))
    looks = []
    genuine = watch.look_again
    monkeypatch.setattr(watch, "look_again", lambda *arguments: looks.append(1) or genuine(*arguments))
    assert len(run(tmp_path, 60, settings={"settle_s": 40})) == 1
    assert 20 < len(looks) <= 42


def test_settling_files_are_looked_at_without_scanning_everything(tmp_path, monkeypatch):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(tmp_path))
    scans = []
    genuine = watch.scan
    monkeypatch.setattr(watch, "scan", lambda *arguments: scans.append(1) or genuine(*arguments))
    found = run(tmp_path, 60, settings={"settle_s": 40})
    assert len(found) == 1
    assert len(scans) <= 60 / 5 + 2


def test_a_scan_that_takes_long_is_made_less_often(tmp_path, monkeypatch):
    timeline = Timeline(2000)
    scans = []
    genuine = watch.scan

    def slow(*arguments):
        scans.append(timeline.now)
        timeline.now += 20.0
        return genuine(*arguments)

    monkeypatch.setattr(watch, "scan", slow)
    watcher = Watcher(WatchSettings(root=str(tmp_path), polling="always"), clock=timeline)
    timeline.script = {float(time): watcher.wake for time in range(1, 2000, 7)}
    assert list(watcher.arrivals(timeline)) == []
    assert watcher.scan_s == 20.0
    assert len(scans) <= 2000 / 200 + 1


MOUNTINFO = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /data rw shared:2 - nfs4 server:/data rw
31 30 0:41 / /data/scratch rw - xfs /dev/sdb rw
32 22 0:42 / /mnt/with\\040space rw - cifs //camera/x rw
33 22 0:43 / /fuse rw - fuse.sshfs host:/ rw
34 22 0:44 / /over rw - nfs server:/over rw
35 22 0:45 / /over rw - ext4 /dev/sdc rw
36 22 0:46 / /gpfs rw - gpfs gpfs rw
damaged line
"""


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/", False),
        ("/home/user", False),
        ("/data", True),
        ("/data/session", True),
        ("/database", False),
        ("/data/scratch/x", False),
        ("/mnt/with space/x", True),
        ("/fuse/x", True),
        ("/over/x", False),
        ("/gpfs", True),
    ],
)
def test_what_is_on_the_network(path, network):
    assert is_on_network(watch.Path(path), MOUNTINFO) is network


def test_the_real_mounts_can_be_asked(tmp_path):
    assert is_on_network(tmp_path) in (True, False)


class FakeObserver:
    """Stands in for the kernel's events."""

    made: list
    refuses = False

    def __init__(self):
        self.made.append(self)
        self.alive, self.emitters, self.root, self.handler = False, [], None, None

    def schedule(self, handler, root, *, recursive, event_filter):
        assert recursive
        assert watch.FileClosedEvent in event_filter
        self.handler, self.root = handler, root

    def start(self):
        if self.refuses:
            raise OSError(28, "inotify watch limit reached")
        self.alive = True

    def unschedule_all(self):
        pass

    def stop(self):
        self.alive = False

    def join(self):
        pass

    def is_alive(self):
        return self.alive


@pytest.fixture
def observers(monkeypatch):
    class Fresh(FakeObserver):
        made: list = []  # noqa: RUF012 - of this test

    monkeypatch.setattr(watch, "Observer", Fresh)
    monkeypatch.setattr(watch, "is_on_network", lambda _: False)
    return Fresh


@pytest.mark.parametrize(
    ("polling", "network", "mode"),
    [
        ("auto", False, "events"),
        ("auto", True, "polling"),
        ("always", False, "polling"),
        ("never", True, "events"),
    ],
)
def test_events_or_polling(tmp_path, monkeypatch, observers, polling, network, mode):
    monkeypatch.setattr(watch, "is_on_network", lambda _: network)
    timeline = Timeline(3)
    watcher = Watcher(WatchSettings(root=str(tmp_path), polling=polling), clock=timeline)
    modes = []
    timeline.script[2.0] = lambda: modes.append(watcher.mode)
    assert list(watcher.arrivals(timeline)) == []
    assert modes == [mode]
    assert len(observers.made) == (mode == "events")
    assert not any(observer.alive for observer in observers.made)
    assert watcher.mode == "polling"


def test_an_event_brings_the_next_scan_forward(tmp_path, observers):
    data = mrc_bytes(tmp_path)
    timeline = Timeline(100)
    settings = WatchSettings(root=str(tmp_path), scan_interval_s=1000)
    watcher = Watcher(settings, clock=timeline)
    timeline.script = {
        10.0: lambda: (tmp_path / "a.mrc").write_bytes(data),
        20.0: lambda: observers.made[0].handler.dispatch(watch.FileClosedEvent(str(tmp_path / "a.mrc"))),
    }
    times = [timeline.now for _ in watcher.arrivals(timeline)]
    assert len(times) == 1
    assert 30 <= times[0] < 31


def test_where_the_kernel_refuses_events_scanning_has_to_do(tmp_path, observers):
    observers.refuses = True
    data = mrc_bytes(tmp_path)
    timeline = Timeline(100, {20.0: lambda: (tmp_path / "a.mrc").write_bytes(data)})
    watcher = Watcher(WatchSettings(root=str(tmp_path)), clock=timeline)
    times = [timeline.now for _ in watcher.arrivals(timeline)]
    assert len(times) == 1
    assert times[0] < 37
    assert len(observers.made) == 1  # it is not asked again for the same root


def test_a_dead_observer_is_replaced(tmp_path, observers):
    timeline = Timeline(100)
    watcher = Watcher(WatchSettings(root=str(tmp_path), scan_interval_s=10), clock=timeline)
    timeline.script[5.0] = lambda: observers.made[0].stop()
    assert list(watcher.arrivals(timeline)) == []
    assert len(observers.made) == 2


def test_another_directory_in_the_place_of_the_root_is_followed(tmp_path, observers):
    root = tmp_path / "mount"
    root.mkdir()
    timeline = Timeline(100)
    watcher = Watcher(WatchSettings(root=str(root), scan_interval_s=10), clock=timeline)
    timeline.script = {
        15.0: lambda: root.rename(tmp_path / "away"),
        35.0: lambda: observers.made[0].alive or root.mkdir(),
    }
    assert list(watcher.arrivals(timeline)) == []
    assert [observer.root for observer in observers.made] == [str(root)] * 2


def test_events_live(tmp_path):
    """The one test with the kernel's own events and real time: only they can tell of the file in time."""
    data = mrc_bytes(tmp_path)
    settings = WatchSettings(root=str(tmp_path), polling="never", scan_interval_s=3600, settle_s=0.3, sidecar_wait_s=0)
    watcher, stop = Watcher(settings), threading.Event()
    found = queue.Queue()
    before = threading.active_count()

    def work():
        for arrival in watcher.arrivals(stop):
            found.put(arrival)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        (tmp_path / "first.mrc").write_bytes(data)
        assert found.get(timeout=20).movie.relative == "first.mrc"
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "second.mrc").write_bytes(data)
        assert found.get(timeout=20).movie.relative == "later/second.mrc"
        assert watcher.mode == "events"
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert threading.active_count() == before
    assert found.empty()


def test_a_file_that_went_away_and_came_back_is_news(tmp_path):
    """Moved aside and back, with its old time: reported or known, it is reported once more."""
    data = mrc_bytes(tmp_path)
    root, aside = tmp_path / "root", tmp_path / "aside.mrc"
    root.mkdir()
    path = root / "a.mrc"
    path.write_bytes(data)
    events = {50.0: lambda: path.rename(aside), 100.0: lambda: aside.rename(path)}
    assert len(run(root, 200, events)) == 2
    known = {"a.mrc": movie_reader.identity_of(path)}
    assert len(run(root, 200, events, known=known)) == 1
    assert run(root, 60, known=known) == []


def test_an_overflow_is_counted_and_causes_a_scan(tmp_path, observers):
    data = mrc_bytes(tmp_path)
    timeline = Timeline(60)
    settings = WatchSettings(root=str(tmp_path), scan_interval_s=1000)
    watcher = Watcher(settings, clock=timeline)
    log = watch.logging.getLogger("watchdog.observers.inotify_c")
    timeline.script = {
        10.0: lambda: (tmp_path / "a.mrc").write_bytes(data),
        20.0: lambda: log.warning("Inotify queue overflowed; filesystem events were lost"),
    }
    times = [timeline.now for _ in watcher.arrivals(timeline)]
    assert (watcher.overflows, len(times)) == (1, 1)
    assert 30 <= times[0] < 31
    assert not log.handlers  # taken away with the observer


def test_a_rename_is_told_by_the_kernels_events(tmp_path, observers):
    pages = tiff_pages(tmp_path)
    hidden, final = tmp_path / ".a.tif.x7", tmp_path / "a.tif"
    timeline = Timeline(100)
    watcher = Watcher(WatchSettings(root=str(tmp_path)), clock=timeline)
    hidden.write_bytes(pages[-1])

    def rename():
        hidden.rename(final)
        for name in ("a.tif", "a.xml", ".b.tif"):
            observers.made[0].handler.dispatch(watch.FileMovedEvent(str(hidden), str(tmp_path / name)))

    remembered = []
    timeline.script = {10.0: rename, 15.0: lambda: remembered.append(set(watcher._settling._renamed))}
    times = [timeline.now for _ in watcher.arrivals(timeline)]
    assert len(times) == 1
    assert 20 <= times[0] < 22
    assert remembered == [{"a.tif"}]
    assert watcher._settling._renamed == set()


@pytest.mark.parametrize("duplicates", ["process", "skip"])
def test_the_fingerprint_is_taken_where_duplicates_are_to_be_found(tmp_path, duplicates):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(tmp_path))
    ((_, arrival),) = run(tmp_path, 30, settings={"duplicates": duplicates})
    expected = movie_reader.fingerprint(tmp_path / "a.mrc") if duplicates == "skip" else None
    assert arrival.fingerprint == expected


def test_a_new_file_is_looked_at_and_nothing_else(tmp_path, observers, monkeypatch):
    """However many there are already: only a new directory, or an event too many, is worth a scan."""
    data = mrc_bytes(tmp_path)
    root = tmp_path / "root"
    (root / "old").mkdir(parents=True)
    scans = []
    monkeypatch.setattr(watch, "scan", lambda *told: scans.append(timeline.now) or scan_of(*told))
    timeline = Timeline(60)
    watcher = Watcher(WatchSettings(root=str(root), scan_interval_s=1000), clock=timeline)

    def appear(name):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
        observers.made[0].handler.dispatch(watch.FileClosedEvent(str(root / name)))

    timeline.script = {10.0: lambda: [appear(name) for name in ("old/a.mrc", "b.mrc", ".c.mrc", ".hidden/d.mrc")]}
    found = [(timeline.now, arrival.movie.relative) for arrival in watcher.arrivals(timeline)]
    assert {name for _, name in found} == {"b.mrc", "old/a.mrc"}
    assert all(20 <= when < 21 for when, _ in found)
    assert scans == [0.0]


@pytest.mark.parametrize("cause", ["directory", "flood"])
def test_what_events_cannot_tell_one_by_one_is_scanned_for(tmp_path, observers, monkeypatch, cause):
    monkeypatch.setattr(watch, "_MOST_TOLD", 3)
    data = mrc_bytes(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    timeline = Timeline(60)
    watcher = Watcher(WatchSettings(root=str(root), scan_interval_s=1000), clock=timeline)

    def appear():
        (root / "new").mkdir()
        for number in range(6):
            (root / "new" / f"{number}.mrc").write_bytes(data)
        if cause == "directory":
            observers.made[0].handler.dispatch(watch.DirCreatedEvent(str(root / "new")))
        for number in range(6 if cause == "flood" else 0):
            observers.made[0].handler.dispatch(watch.FileClosedEvent(str(root / "new" / f"{number}.mrc")))

    timeline.script = {10.0: appear}
    assert len(list(watcher.arrivals(timeline))) == 6


def test_of_files_that_are_done_a_scan_keeps_only_the_names(tmp_path):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(tmp_path))
    settings = WatchSettings(root=str(tmp_path))
    assert scan_of(tmp_path, settings, lambda path, _identity: path == "a.mrc")[:3] == ({}, {"a.mrc"}, False)
    assert scan_of(tmp_path, settings).files.keys() == {"a.mrc"}
