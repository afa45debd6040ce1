import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.errors import MovieCorrupt, MovieMismatch, MovieNotReady, MovieUnsupported
from streamer.movie_record import Acquisition
from streamer.records import FileIdentity, MovieHeader
from streamer.watch import settling
from streamer.watch.settings import WatchSettings
from streamer.watch.settling import Settling
from tests.clocks import AskedClock

SETTINGS = WatchSettings()
NOW_NS = 1_700_000_000 * 10**9
EPU = "s/Images-Disc1/GridSquare_7/Data/FoilHole_8_Data_9_1_fractions.tiff"


def file(size=100, mtime_ns=NOW_NS, **other):
    return FileIdentity(**{"device": 1, "inode": 2, "size": size, "mtime_ns": mtime_ns, "ctime_ns": 3} | other)


def header(kind="tiff", n_frames=10):
    proven = kind == "mrc"
    return MovieHeader(format=kind, n_frames=n_frames, height=4, width=5, dtype="uint8", proves_its_length=proven)


class Scene:
    """A directory as the rules see it: what is listed, what headers and sidecars say, and the time."""

    def __init__(self, settings=SETTINGS, clock=None, **options):
        clock = AskedClock(clock or (lambda: self.now))
        clock.wall = lambda: self.now
        self.settling = Settling(settings, root=Path("/data/root"), clock=clock, **options)
        self.now = 0.0
        self.files = {"a.tif": file()}
        self.header = header()
        self.sidecar = None
        self.read, self.asked = [], []

    def check(self, path):
        self.read.append(path)
        if isinstance(self.header, Exception):
            raise self.header
        return self.header

    def tell(self, path):
        self.asked.append(path)
        if isinstance(self.sidecar, Exception):
            raise self.sidecar
        return self.sidecar

    def at(self, now):
        self.now = now
        return self.settling.observe(now, self.files, self.check, self.tell)

    def until(self, end, step=0.25):
        """The arrivals, and when they came, looking every ``step`` from now on."""
        found = []
        while self.now <= end:
            found += [(self.now, arrival) for arrival in self.at(self.now)]
            self.now += step
        return found


@pytest.fixture
def scene():
    return Scene()


def the_one(found):
    assert len(found) == 1
    return found[0]


def test_a_sidecar_that_counts_the_frames_is_the_quickest_proof(scene):
    scene.sidecar = Acquisition(n_frames=10)
    when, arrival = the_one(scene.until(100))
    assert when == SETTINGS.settle_with_sidecar_s
    assert (arrival.error, arrival.header, arrival.movie.evidence) == (None, scene.header, "sidecar")
    assert arrival.waited_s == when
    assert (arrival.detected_utc, arrival.ready_utc) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:02.000Z")


def test_one_look_is_never_enough():
    scene = Scene(WatchSettings(settle_s=0, settle_with_sidecar_s=0, sidecar_wait_s=0, unproven_wait_s=0))
    assert scene.at(0) == []
    assert len(scene.at(0)) == 1


def test_two_looks_far_apart_are(scene):
    scene.header = header("mrc")
    assert scene.at(0) == []
    assert len(scene.at(100)) == 1


@pytest.mark.parametrize(
    "change", [{"size": 101}, {"mtime_ns": NOW_NS + 1}, {"ctime_ns": 4}, {"inode": 5}, {"device": 6}]
)
def test_any_change_starts_the_wait_anew(scene, change):
    scene.sidecar = Acquisition(n_frames=10)
    assert scene.until(1.75) == []
    scene.files = {"a.tif": file(**change)}
    when, arrival = the_one(scene.until(100))
    assert when == 2.0 + SETTINGS.settle_with_sidecar_s
    assert arrival.waited_s == when
    assert arrival.movie.identity == file(**change)


def test_a_file_that_grows_for_a_long_time_is_not_touched(scene):
    scene.sidecar = Acquisition(n_frames=10)
    for step in range(100):
        scene.files = {"a.tif": file(size=100 + step)}
        assert scene.at(float(step)) == []
    assert scene.read == []


def test_a_file_that_vanishes_and_comes_back_starts_anew(scene):
    scene.sidecar = Acquisition(n_frames=10)
    scene.until(1.75)
    scene.files = {}
    scene.at(1.9)
    scene.files = {"a.tif": file()}
    scene.now = 2.0
    when, arrival = the_one(scene.until(100))
    assert (when, arrival.waited_s) == (4.0, 2.0)


def test_an_mrc_file_is_proven_by_its_header_but_waits_for_its_sidecar(scene):
    scene.header = header("mrc")
    when, arrival = the_one(scene.until(100))
    assert when == SETTINGS.sidecar_wait_s
    assert arrival.movie.evidence == "header"
    assert arrival.movie.acquisition == Acquisition()


def test_an_mrc_file_whose_sidecar_does_not_count(scene):
    scene.header = header("mrc")
    scene.sidecar = Acquisition(pixel_size=0.83)
    when, arrival = the_one(scene.until(100))
    assert when == SETTINGS.settle_s
    assert arrival.movie.evidence == "header"
    assert arrival.movie.acquisition.pixel_size == 0.83


@pytest.mark.parametrize("sidecar", [None, Acquisition(pixel_size=0.83)])
def test_a_tiff_without_a_count_is_unproven_and_waits_longest(scene, sidecar):
    scene.sidecar = sidecar
    when, arrival = the_one(scene.until(100))
    assert when == SETTINGS.unproven_wait_s
    assert arrival.movie.evidence == "unproven"


def test_a_sidecar_that_comes_late_ends_the_wait(scene):
    assert scene.until(20.0) == []
    scene.sidecar = Acquisition(n_frames=10)
    when, arrival = the_one(scene.until(100))
    assert 20 < when < 23
    assert arrival.movie.evidence == "sidecar"


def test_a_sidecar_is_believed_only_when_it_says_the_same_twice(scene):
    """SerialEM's mdoc may be seen with its first lines only."""
    scene.header = header("mrc")
    scene.until(SETTINGS.sidecar_wait_s - 0.5)
    scene.sidecar = Acquisition()
    assert scene.at(SETTINGS.sidecar_wait_s) == []
    scene.sidecar = Acquisition(n_frames=10, pixel_size=0.83)
    assert scene.at(scene.now + 1) == []
    assert the_one(scene.at(scene.now + 1)).movie.acquisition.pixel_size == 0.83


def test_fewer_frames_than_the_sidecar_says_are_waited_for(scene):
    scene.sidecar = Acquisition(n_frames=11)
    assert scene.until(SETTINGS.incomplete_after_s - 100, step=10) == []
    assert "fewer frames" in scene.settling.waiting()["a.tif"]
    scene.header = header(n_frames=11)
    scene.files = {"a.tif": file(size=110)}
    assert the_one(scene.until(scene.now + 10))[1].movie.evidence == "sidecar"


def test_more_frames_than_the_sidecar_says_are_a_mismatch(scene):
    scene.sidecar = Acquisition(n_frames=9)
    when, arrival = the_one(scene.until(100))
    assert isinstance(arrival.error, MovieMismatch)
    assert when == SETTINGS.sidecar_wait_s
    assert (arrival.error.expected, arrival.error.found) == ("9", "10")
    assert arrival.movie.evidence == "none"


def test_a_sidecar_still_being_written_is_no_error(scene):
    scene.sidecar = MovieMismatch("half an XML")
    assert scene.until(SETTINGS.sidecar_wait_s - 1) == []
    scene.sidecar = Acquisition(n_frames=10)
    assert the_one(scene.until(100))[1].error is None


def test_a_sidecar_that_stays_damaged_is_one(scene):
    scene.sidecar = MovieMismatch("half an XML")
    when, arrival = the_one(scene.until(100))
    assert arrival.error is scene.sidecar
    assert when == SETTINGS.sidecar_wait_s


@pytest.mark.parametrize("error", [MovieUnsupported("a text file"), MovieCorrupt("impossible width")])
def test_what_is_no_movie_is_reported_once_settled(scene, error):
    scene.header = error
    when, arrival = the_one(scene.until(100))
    assert arrival.error is error
    assert when == SETTINGS.settle_s
    assert arrival.header is None


def test_a_stalled_writer_is_waited_for_and_then_reported(scene):
    scene.header = MovieNotReady("shorter than its header says")
    when, arrival = the_one(scene.until(3 * SETTINGS.incomplete_after_s, step=10))
    assert arrival.error is scene.header
    assert SETTINGS.incomplete_after_s <= when <= SETTINGS.incomplete_after_s + 70
    # Any later change takes it up again.
    scene.header = header("mrc")
    scene.files = {"a.tif": file(ctime_ns=99)}
    assert the_one(scene.until(scene.now + 100))[1].error is None


def test_an_unready_file_is_not_opened_at_every_look(scene):
    scene.header = MovieNotReady("shorter than its header says")
    scene.until(600)
    assert len(scene.read) < 25


def test_nothing_is_opened_before_it_can_matter(scene):
    scene.until(SETTINGS.settle_with_sidecar_s / 2 - 0.25)
    assert scene.asked == []
    scene.until(SETTINGS.settle_with_sidecar_s - 0.25)
    assert scene.asked
    assert scene.read == []


def test_a_header_is_read_once_for_a_file_that_stands_still(scene):
    scene.until(100)
    assert len(scene.read) == 1


def test_the_date_of_an_unfinished_copy(scene):
    scene.sidecar = Acquisition(n_frames=10)
    scene.files = {"a.tif": file(mtime_ns=0)}
    assert scene.until(100) == []
    assert "date" in scene.settling.waiting()["a.tif"]
    scene.files = {"a.tif": file()}
    assert the_one(scene.until(200))[1].error is None


@pytest.mark.parametrize("skew_s", [-300, 0, 300, -(10**8), 10**8])
def test_the_clock_of_the_file_server_takes_no_part(scene, skew_s):
    scene.files = {"a.tif": file(mtime_ns=NOW_NS + skew_s * 10**9)}
    scene.sidecar = Acquisition(n_frames=10)
    assert the_one(scene.until(100))[0] == SETTINGS.settle_with_sidecar_s


def test_known_movies_are_left_alone():
    for known in (file(), file(inode=9, device=9, ctime_ns=9)):
        scene = Scene(known={"a.tif": known}.get)
        assert scene.until(100) == []
        assert scene.read == []


@pytest.mark.parametrize("known", [file(size=99), file(mtime_ns=NOW_NS - 1)])
def test_known_movies_that_have_changed_are_new(known):
    scene = Scene(known={"a.tif": known}.get)
    assert len(scene.until(100)) == 1


def test_no_state_of_a_file_is_reported_twice(scene):
    scene.sidecar = Acquisition(n_frames=10)
    assert len(scene.until(100)) == 1
    # Gone for one look, for instance because a directory could not be read; then owner or mount changed.
    files, scene.files = scene.files, {}
    scene.until(110)
    scene.files = files
    assert scene.until(120) == []
    scene.files = {"a.tif": file(ctime_ns=99, inode=99, device=99)}
    assert scene.until(130) == []
    scene.files = {"a.tif": file(size=200)}
    assert len(scene.until(140)) == 1


def test_the_oldest_comes_first(scene):
    scene.sidecar = Acquisition(n_frames=10)
    scene.files = {name: file(mtime_ns=NOW_NS + age) for name, age in (("c", 0), ("a", 2), ("b", 2), ("d", 1))}
    assert [arrival.movie.relative for _, arrival in scene.until(10)] == ["c", "d", "a", "b"]


def slow(seconds):
    """A clock by which each look takes that long."""
    return itertools.count(0.0, seconds).__next__


@pytest.mark.parametrize(("seconds", "most"), [(2 * settling.LOOKING_S, 3), (settling.LOOKING_S / 5.5, 8)])
def test_a_great_many_files_are_opened_in_portions(monkeypatch, seconds, most):
    """A few always, and more of them as long as it goes quickly."""
    scene = Scene(clock=slow(seconds))
    monkeypatch.setattr(settling, "LOOKS_AT_A_TIME", 3)
    scene.sidecar = Acquisition(n_frames=10)
    scene.files = {f"{index:02}.tif": file() for index in range(10)}
    scene.at(0)
    scene.at(1)  # the sidecars of the first three
    found = [len(scene.at(now)) for now in range(2, 20)]
    assert max(found) == most
    assert sum(found) == 10


def test_all_that_can_be_opened_quickly_are_opened_at_once():
    scene = Scene(clock=lambda: 0.0)
    scene.sidecar = Acquisition(n_frames=10)
    scene.files = {f"{index:05}.tif": file() for index in range(4 * settling.LOOKS_AT_A_TIME)}
    assert [len(scene.at(now)) for now in range(3)] == [0, 0, 4 * settling.LOOKS_AT_A_TIME]


def test_many_that_wait_do_not_hold_up_the_others(monkeypatch):
    scene = Scene(clock=slow(2 * settling.LOOKING_S))
    monkeypatch.setattr(settling, "LOOKS_AT_A_TIME", 2)
    scene.files = {f"{index}.tif": file(mtime_ns=NOW_NS + index) for index in range(6)}
    genuine = scene.tell
    scene.tell = lambda path: Acquisition(n_frames=10) if path.name == "5.tif" else genuine(path)
    when, arrival = the_one(scene.until(20))
    assert arrival.movie.relative == "5.tif"
    assert when < 8


def test_a_movie_carries_its_session_and_its_place():
    scene = Scene()
    scene.files = {EPU: file()}
    scene.sidecar = Acquisition(n_frames=10, pixel_size=0.83)
    movie = the_one(scene.until(10))[1].movie
    assert movie.path == f"/data/root/{EPU}"
    assert (movie.relative, movie.session, movie.revision, movie.identity) == (EPU, "s", 1, file())
    position = {"grid_square": "7", "foil_hole": "8", "template": "9"}
    assert movie.acquisition == replace(scene.sidecar, **position)
    for override, name in (("", "root"), ("mine", "mine")):
        scene = Scene(session_name=override)
        scene.sidecar = Acquisition(n_frames=10)
        assert the_one(scene.until(10))[1].movie.session == name


def test_the_place_is_known_without_a_sidecar():
    scene = Scene()
    scene.files = {EPU: file()}
    assert the_one(scene.until(100))[1].movie.acquisition.foil_hole == "8"


def test_each_waiting_time_is_a_setting():
    slow = WatchSettings(settle_s=50, settle_with_sidecar_s=20, sidecar_wait_s=100, unproven_wait_s=600)
    scene = Scene(slow)
    scene.sidecar = Acquisition(n_frames=10)
    assert the_one(scene.until(1000))[0] == 20
    scene = Scene(slow)
    scene.header = header("mrc")
    assert the_one(scene.until(1000))[0] == 100
    scene = Scene(slow)
    scene.header = header("mrc")
    scene.sidecar = Acquisition()
    assert the_one(scene.until(1000))[0] == 50
    scene = Scene(slow)
    assert the_one(scene.until(1000))[0] == 600
    scene = Scene(WatchSettings(incomplete_after_s=30))
    scene.header = MovieNotReady("cut")
    assert 30 <= the_one(scene.until(1000))[0] < 70


def several(scene, count, frames):
    """Movies of so many frames, each whole in its time."""
    scene.header = header(n_frames=frames)
    found = []
    for number in range(count):
        scene.files = {**scene.files, f"{frames}-{number}.tif": file()}
        found += scene.until(scene.now + 70)
    return [arrival for _, arrival in found]


def test_fewer_frames_than_usual_have_to_stand_still_four_times_as_long():
    scene = Scene()
    scene.files = {}
    assert [arrival.movie.usual_frames for arrival in several(scene, 4, 40)] == [None, None, None, 40]
    scene.header, began = header(n_frames=39), scene.now
    scene.files = {**scene.files, "short.tif": file()}
    when, arrival = the_one(scene.until(began + 300))
    assert when - began == 4 * SETTINGS.unproven_wait_s
    assert (arrival.movie.usual_frames, arrival.movie.evidence) == (40, "unproven")


def test_what_is_usual_is_not_known_of_a_session_of_all_kinds():
    scene = Scene()
    scene.files = {}
    several(scene, 3, 40)
    several(scene, 3, 50)
    assert several(scene, 1, 30)[0].movie.usual_frames is None


def test_a_renamed_file_need_not_wait_as_long_but_is_no_better_proven(scene):
    scene.settling.renamed("a.tif")
    when, arrival = the_one(scene.until(100))
    assert when == max(SETTINGS.settle_s, SETTINGS.sidecar_wait_s)
    assert arrival.movie.evidence == "unproven"


def test_a_renamed_file_that_grows_has_the_long_wait_again(scene):
    scene.settling.renamed("a.tif")
    scene.until(2)
    scene.files = {"a.tif": file(size=101)}
    when, _ = the_one(scene.until(100))
    assert when >= SETTINGS.unproven_wait_s


# --------------------------------------------------------------------------- headers that are rewritten with each frame


def grown(scene, name, frames, still_s=0.25, **identity):
    """A movie that has grown to so many frames, and its header with it; what arrives within ``still_s``."""
    scene.header = header("mrc", n_frames=frames)
    scene.files = {**scene.files, name: file(size=100 * frames, **identity)}
    began = scene.now
    return [(when - began, arrival.movie.evidence) for when, arrival in scene.until(began + still_s)]


@pytest.fixture
def counting_along():
    """A session whose first movie was delivered half written, and again when it was whole."""
    scene = Scene()
    scene.files = {}
    assert grown(scene, "s/first.mrc", 4, 30) == [(SETTINGS.sidecar_wait_s, "header")]
    (when, evidence), *more = grown(scene, "s/first.mrc", 10, 200)
    assert (when, evidence, more) == (SETTINGS.unproven_wait_s, "unproven", [])
    return scene


def test_where_a_delivered_movie_grows_headers_prove_nothing_any_more(counting_along):
    assert grown(counting_along, "s/second.mrc", 4, 50) == []
    assert grown(counting_along, "s/second.mrc", 10, 100) == [(SETTINGS.unproven_wait_s, "unproven")]


def test_a_movie_that_grows_while_it_is_waited_for_tells_the_same():
    scene = Scene()
    scene.files = {}
    assert grown(scene, "s/first.mrc", 4, SETTINGS.settle_s) == []
    assert grown(scene, "s/first.mrc", 10, 100) == [(SETTINGS.unproven_wait_s, "unproven")]


def test_other_sessions_still_prove_their_movies_by_headers(counting_along):
    assert grown(counting_along, "t/a.mrc", 4, 50) == [(SETTINGS.sidecar_wait_s, "header")]


def test_sidecars_and_the_metadata_of_eer_movies_are_proof_as_before(counting_along):
    scene = counting_along
    scene.header = replace(header("eer"), proves_its_length=True)
    scene.files = {**scene.files, "s/a.eer": file()}
    assert the_one(scene.until(scene.now + 50))[1].movie.evidence == "header"
    scene.sidecar = Acquisition(n_frames=10)
    assert grown(scene, "s/third.mrc", 10, 50) == [(SETTINGS.settle_with_sidecar_s, "sidecar")]


@pytest.mark.parametrize(
    ("frames", "identity"),
    [(10, {"inode": 77}), (10, {"device": 77}), (4, {"mtime_ns": NOW_NS + 5}), (3, {})],
    ids=["another file", "another device", "touched", "shorter"],
)
def test_a_movie_that_is_replaced_or_touched_has_not_grown(frames, identity):
    scene = Scene()
    scene.files = {}
    grown(scene, "s/first.mrc", 4, 30)
    assert all(evidence == "header" for _, evidence in grown(scene, "s/first.mrc", frames, 200, **identity))
    assert grown(scene, "s/second.mrc", 4, 50) == [(SETTINGS.sidecar_wait_s, "header")]


def test_metadata_of_an_eer_movie_that_grows_are_still_believed():
    scene = Scene()
    scene.files = {}
    for frames in (4, 10):
        scene.header = replace(header("eer", n_frames=frames), proves_its_length=True)
        scene.files = {"a.eer": file(size=frames)}
        assert the_one(scene.until(scene.now + 100))[1].movie.evidence == "header"
