"""Links below the watched root: followed inside it and to allowed places, said where they are not, never abused."""

import os
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import MovieError, MovieNotReady
from streamer.metadata.sidecars import read_sidecar
from streamer.readers import movie as movie_reader
from streamer.readers.files import below, link_target
from streamer.records import Movie
from streamer.simulation.microscope import encode
from streamer.watch.scan import look_again, scan
from streamer.watch.settings import WatchSettings
from streamer.watch.skips import NOT_FOLLOWED, NOWHERE
from streamer.watch.watcher import Watcher
from tests.faults.test_writers import Timeline

FRAMES = np.random.default_rng(3).poisson(1.0, (4, 24, 32)).astype(np.uint8)
DATA = encode(FRAMES, "mrc", 2.0)


@pytest.fixture
def place(tmp_path):
    """A watched root, raw data beside it that may be allowed, and what may never be read."""
    for name in ("root/real/s.mrc", "raw/day1/a.mrc", "raw/day1/sub/b.mrc", "secret/c.mrc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DATA)
    return tmp_path


def listed(place, *, allowed=("raw",)):
    settings = WatchSettings(root=str(place / "root"), follow_links_to=tuple(str(place / name) for name in allowed))
    listing = scan(place / "root", settings)
    again = look_again(place / "root", listing.files, settings)
    assert again.files == listing.files
    return sorted(listing.files), listing.skips


@pytest.mark.parametrize(
    ("link", "target", "found"),
    [
        ("Movies", "{raw}/day1", ["Movies/a.mrc", "Movies/sub/b.mrc"]),
        ("Movies", "../raw/day1", ["Movies/a.mrc", "Movies/sub/b.mrc"]),
        ("x/deep/b.mrc", "{raw}/day1/sub/b.mrc", ["x/deep/b.mrc"]),
        ("renamed.mrc", "../raw/day1/a.mrc", ["renamed.mrc"]),
        ("all", "{raw}", ["all/day1/a.mrc", "all/day1/sub/b.mrc"]),
        # inside the root the real path counts, and only that
        ("twin.mrc", "real/s.mrc", []),
        ("twins", "real", []),
    ],
)
def test_links_that_may_be_followed(place, link, target, found):
    path = place / "root" / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.format(raw=place / "raw"))
    assert listed(place) == (sorted([*found, "real/s.mrc"]), ({}, {}))


def test_a_link_to_what_a_scan_does_not_find_itself_is_followed_inside_the_root(place):
    """Hidden directories are not entered, and `*.bin` is not included."""
    (place / "root" / ".store").mkdir()
    (place / "root" / ".store" / "x.mrc").write_bytes(DATA)
    (place / "root" / "y.bin").write_bytes(DATA)
    (place / "root" / "x.mrc").symlink_to(".store/x.mrc")
    (place / "root" / "y.mrc").symlink_to("y.bin")
    assert listed(place, allowed=())[0] == ["real/s.mrc", "x.mrc", "y.mrc"]


def test_links_to_links_and_an_allowed_place_that_is_itself_a_link(place):
    (place / "alias").symlink_to(place / "raw")
    (place / "root" / "one").symlink_to("two")
    (place / "root" / "two").symlink_to(place / "alias" / "day1")
    found, skips = listed(place, allowed=("alias",))
    assert found == ["one/a.mrc", "one/sub/b.mrc", "real/s.mrc"]  # each directory once, the first by name
    assert skips.counts == {}


def test_the_root_may_be_a_link_with_relative_links_in_it(place):
    (place / "root" / "Movies").symlink_to("../raw/day1")
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "watched").symlink_to(place / "root")
    settings = WatchSettings(root=str(place / "elsewhere" / "watched"), follow_links_to=(str(place / "raw"),))
    assert sorted(scan(Path(settings.root), settings).files) == ["Movies/a.mrc", "Movies/sub/b.mrc", "real/s.mrc"]


def test_circles_end_and_nothing_is_listed_twice(place):
    (place / "root" / "real" / "up").symlink_to("..")
    (place / "root" / "self.mrc").symlink_to("self.mrc")
    (place / "root" / "Movies").symlink_to(place / "raw")
    (place / "raw" / "day1" / "back").symlink_to(place / "raw")
    (place / "raw" / "day1" / "again").symlink_to("sub")
    (place / "root" / "again.mrc").symlink_to(place / "raw" / "day1" / "a.mrc")
    found, skips = listed(place)
    assert found == ["Movies/day1/a.mrc", "Movies/day1/sub/b.mrc", "real/s.mrc"]
    assert skips.counts == {NOWHERE: 1}


@pytest.mark.parametrize(
    ("link", "target", "allowed"),
    [
        ("c.mrc", "{place}/secret/c.mrc", ("raw",)),
        ("c.mrc", "../secret/c.mrc", ()),
        ("Movies", "{place}/raw/day1", ()),
        ("Movies", "{place}/secret", ("raw",)),
        # a directory's name may have a dot in it
        ("2026-12-01.K3", "{place}/secret", ("raw",)),
        ("grid1.epu", "{place}/raw/day1", ()),
        ("up", "..", ("raw",)),
        # a name that only begins like an allowed place, and one that climbs out of it
        ("Movies", "{place}/raw-not", ("raw",)),
        ("Movies", "{place}/raw/../secret", ("raw",)),
        ("c.mrc", "{place}/raw/out/c.mrc", ("raw",)),
    ],
)
def test_what_is_not_followed_is_counted_and_said_with_the_cure(place, link, target, allowed):
    (place / "raw-not").mkdir()
    (place / "raw-not" / "d.mrc").write_bytes(DATA)
    (place / "raw" / "out").symlink_to(place / "secret")
    (place / "root" / link).symlink_to(target.format(place=place))
    found, skips = listed(place, allowed=allowed)
    assert found == ["real/s.mrc"]
    assert sum(skips.counts.values()) == 1
    (words,) = skips.unfollowed.values()
    assert link in words
    if NOT_FOLLOWED in skips.counts:
        assert "watch.follow_links_to = " in words


def test_many_links_in_one_place_are_said_once(place):
    for number in range(50):
        (place / "root" / f"{number}.mrc").symlink_to(place / "secret" / "c.mrc")
        (place / "root" / "real" / f"{number}.mrc").symlink_to("nowhere.mrc")
    _, skips = listed(place)
    assert skips.counts == {NOT_FOLLOWED: 50, NOWHERE: 50}
    first, second = skips.unfollowed.values()
    assert f'watch.follow_links_to = ["{place / "secret"}"]' in first
    assert second.startswith("real/")


def test_each_place_that_links_lead_to_is_said_though_they_lie_side_by_side(place):
    for number in range(3):
        (place / "root" / f"k3_{number}").symlink_to(f"/mnt/k3/day{number}")
        (place / "root" / f"f4_{number}").symlink_to(f"/mnt/falcon/day{number}")
    _, skips = listed(place)
    assert skips.counts == {NOT_FOLLOWED: 6}
    assert len(skips.unfollowed) == 2
    assert {"/mnt/k3/day" in words for words in skips.unfollowed.values()} == {True, False}


def test_links_to_other_images_are_counted_by_their_rule(place):
    (place / "root" / "ts.st").symlink_to(place / "secret" / "c.mrc")
    assert listed(place)[1] == ({'not in watch.include: "*.st"': 1}, {})


def test_links_of_other_names_are_nobodys_movies(place):
    (place / "root" / "notes.txt").symlink_to("/etc/hostname")
    (place / "root" / ".hidden").symlink_to("/etc")
    assert listed(place) == (["real/s.mrc"], ({}, {}))


def test_a_target_that_appears_later_is_found(place):
    (place / "root" / "late.mrc").symlink_to(place / "raw" / "late.mrc")
    assert listed(place)[1].counts == {NOWHERE: 1}
    (place / "raw" / "late.mrc").write_bytes(DATA)
    assert listed(place) == (["late.mrc", "real/s.mrc"], ({}, {}))


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_linked_movie_is_delivered_and_read_under_its_own_path(place):
    (place / "root" / "Movies").symlink_to(place / "raw")
    settings = WatchSettings(root=str(place / "root"), polling="always", follow_links_to=(str(place / "raw"),))
    timeline = Timeline([], 60.0)
    found = {arrival.movie.relative: arrival for arrival in Watcher(settings, clock=timeline).arrivals(timeline)}
    assert sorted(found) == ["Movies/day1/a.mrc", "Movies/day1/sub/b.mrc", "real/s.mrc"]
    for arrival in found.values():
        movie = arrival.movie
        assert arrival.error is None
        assert movie.session == movie.relative.split("/")[0]
        header, counts, _ = movie_reader.read_whole(movie, in_memory_bytes=1 << 30, threads=1, places=settings.places)
        assert header.n_frames == 4
        np.testing.assert_array_equal(counts, FRAMES)
        if movie.session == "Movies":
            with pytest.raises(MovieNotReady):
                movie_reader.read_whole(movie, in_memory_bytes=1 << 30, threads=1)


@pytest.mark.parametrize("what", ["sidecar", "movie"])
def test_sidecars_follow_the_same_rule(place, what):
    """Linked itself, or beside what a linked movie leads to."""
    root, mdoc = place / "root", "NumSubFrames = 4\nVoltage = 200\n"
    if what == "sidecar":
        (place / "raw" / "x.mdoc").write_text(mdoc)
        (root / "real" / "s.mrc.mdoc").symlink_to(place / "raw" / "x.mdoc")
    else:
        (place / "raw" / "day1" / "a.mrc.mdoc").write_text(mdoc)
        (root / "linked.mrc").symlink_to(place / "raw" / "day1" / "a.mrc")
    for allowed in ((str(place / "raw"),), ()):
        settings = WatchSettings(root=str(root), polling="always", follow_links_to=allowed)
        timeline = Timeline([], 60.0)
        found = {a.movie.relative: a for a in Watcher(settings, clock=timeline).arrivals(timeline)}
        name = "real/s.mrc" if what == "sidecar" else "linked.mrc"
        if allowed:
            assert (found[name].movie.acquisition.voltage_kv, found[name].movie.evidence) == (200, "sidecar")
        elif what == "sidecar":
            assert isinstance(found[name].error, MovieError)
            with below(root), pytest.raises(MovieError, match="not a regular file"):
                read_sidecar(root / name)
        else:
            assert name not in found


def opened_files(monkeypatch):
    found, genuine = [], os.open

    def watching(path, flags, *arguments, **options):
        descriptor = genuine(path, flags, *arguments, **options)
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        return descriptor

    monkeypatch.setattr(os, "open", watching)
    return found


@pytest.mark.parametrize("swapped", ["link", "directory", "file"])
def test_what_is_swapped_between_the_check_and_the_opening_leads_nowhere_else(place, swapped, monkeypatch):
    """After a link was resolved and found to be allowed, something on its way is replaced by a link to a secret."""
    root, raw, secret = place / "root", place / "raw", place / "secret"
    (secret / "a.mrc").write_bytes(DATA)
    (secret / "day1").mkdir()
    (secret / "day1" / "a.mrc").write_bytes(DATA)
    (root / "Movies").symlink_to(raw / "day1")
    genuine, done = os.path.realpath, []

    def swap(path, *, strict=False):
        real = genuine(path, strict=strict)
        if str(path).endswith("Movies/a.mrc") and not done:
            done.append(path)
            if swapped == "link":
                (root / "Movies").unlink()
                (root / "Movies").symlink_to(secret)
            elif swapped == "directory":
                (raw / "day1").rename(place / "moved")
                (raw / "day1").symlink_to(secret)
            else:
                (raw / "day1" / "a.mrc").unlink()
                (raw / "day1" / "a.mrc").symlink_to(secret / "a.mrc")
        return real

    monkeypatch.setattr(os.path, "realpath", swap)
    opened = opened_files(monkeypatch)
    with below(root, (str(raw),)):
        try:
            movie_reader.read_header(root / "Movies" / "a.mrc")
        except (MovieNotReady, MovieError):
            pass
        else:
            assert swapped == "link"  # the file that was allowed has been read
    assert done
    assert not [path for path in opened if path.startswith(str(secret))]


def test_a_link_that_is_turned_towards_a_secret_while_its_movie_settles(place, monkeypatch):
    root, raw, secret = place / "root", place / "raw", place / "secret"
    opened = opened_files(monkeypatch)
    reads = 0
    for step in np.arange(0.5, 16.0, 1.0):
        link = root / "turned"
        link.unlink(missing_ok=True)
        link.symlink_to(raw / "day1")
        (secret / "a.mrc").write_bytes(DATA)

        def turn(link=link):
            link.unlink()
            link.symlink_to(secret)

        settings = WatchSettings(root=str(root), polling="always", follow_links_to=(str(raw),))
        timeline = Timeline([(float(step), turn)], 40.0)
        for arrival in Watcher(settings, clock=timeline).arrivals(timeline):
            reads += 1
            try:
                movie_reader.read_whole(arrival.movie, in_memory_bytes=1 << 30, threads=1, places=settings.places)
            except (MovieNotReady, MovieError):
                continue
    assert reads > 0
    assert not [path for path in opened if path.startswith(str(secret))]


def test_where_a_link_leads_is_known_only_within_bounds(place):
    (place / "root" / "Movies").symlink_to(place / "raw" / "day1")
    path = place / "root" / "Movies" / "a.mrc"
    assert link_target(path) is None
    with below(place / "root"):
        assert link_target(path) is None
    with below(place / "root", (str(place / "raw"),)):
        assert link_target(path) == place / "raw" / "day1" / "a.mrc"
        assert link_target(place / "root" / "real" / "s.mrc") is None


def test_the_identity_of_a_movie_is_the_path_at_which_it_is_seen(place):
    (place / "root" / "one.mrc").symlink_to(place / "raw" / "day1" / "a.mrc")
    with below(place / "root", (str(place / "raw"),)):
        found = movie_reader.identity_of(place / "root" / "one.mrc")
    assert found == movie_reader.identity_of(place / "raw" / "day1" / "a.mrc")
    movie = Movie(path=str(place / "root" / "one.mrc"), relative="one.mrc", session="s", identity=found)
    assert movie.movie_id != Movie(path="", relative="raw/day1/a.mrc", session="s", identity=found).movie_id
