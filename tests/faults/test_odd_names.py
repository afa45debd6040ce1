"""F19: odd names are names; links, pipes, sockets and directories are no movies, and none of them blocks."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamer import jsontext
from streamer.errors import MovieError
from streamer.readers import movie
from streamer.records import Movie, movie_id_of
from streamer.watch.arrival import Arrival
from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher
from tests.faults.test_writers import Timeline, as_worker
from tests.faults.writer_models import EPOCH, material

NAMES = (
    b"new\nline.mrc",
    b"carriage\rreturn.mrc",
    b"esc\x1b[2J\x1b]0;title\x07.mrc",
    "right\u202eto\u2066left.mrc".encode(),
    b"not\xffutf\xfe8.mrc",
    b"\xed\xa0\x80surrogate.mrc",
    b"a" * 251 + b".mrc",
    b" leading and trailing .mrc",
    b"-rf.mrc",
    b"%s%n{0}$(reboot)`x`;'\".mrc",
    b"..mrc.mrc".lstrip(b"."),
    b"back\\slash.mrc",
    b"tab\tand\x7fdelete.mrc",
    b"\xe2\x80\x8bzero width.mrc",
    b"CON.mrc",
    b"*?[a].mrc",
)


def within(seconds: float, function: Callable[[], list]) -> list:
    """Run in a thread, so that what blocks fails rather than hangs."""
    result: list[list] = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "blocked"
    return result[0]


def watched(root: Path, script: list | None = None, end: float = 120.0, **settings: object) -> list[Arrival]:
    timeline = Timeline(script or [], end)
    watcher = Watcher(WatchSettings(root=str(root), polling="always", **settings), clock=timeline)
    return within(60, lambda: [as_worker(timeline.now, arrival) for arrival in watcher.arrivals(timeline)])


@pytest.fixture
def opened_paths(monkeypatch):
    """Where every file that is opened really lies."""
    found: list[str] = []
    genuine = os.open

    def watching(path, flags, *arguments, **options):
        descriptor = genuine(path, flags, *arguments, **options)
        found.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        return descriptor

    monkeypatch.setattr(os, "open", watching)
    return found


def a_movie(seed: int = 0) -> bytes:
    return material("mrc", np.random.default_rng(seed), proven=True).finished


def test_files_of_odd_names_are_delivered_and_survive_json(tmp_path, report):
    names = [*NAMES, *(f"dir{number}/".encode() + name for number, name in enumerate(NAMES[:6]))]
    names += [b"odd\n\xff\x1b/a.mrc"]
    for number, name in enumerate(names):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(a_movie(number))
    found = watched(tmp_path)
    delivered = {os.fsencode(delivery.arrival.movie.relative) for delivery in found if delivery.counts is not None}
    bad = 0
    for delivery in found:
        there = delivery.arrival.movie
        line = jsontext.encode(there)
        bad += b"\n" in line or b"\x1b" in line or jsontext.decode(line, Movie) != there
        bad += "/" in there.session or len(movie_id_of(there.relative)) != 16
        json.loads(line.decode("utf-8"))
    figure = f"{len(delivered)} delivered, {bad} bad records"
    report("F19", "odd names", n=len(names), figure=figure, target=f"{len(names)} delivered, 0 bad records")
    assert delivered == set(names)
    assert bad == 0


def test_what_is_no_regular_file_is_neither_read_nor_waited_for(tmp_path, report, opened_paths):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "directory.mrc").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.mrc").write_bytes(a_movie())
    (outside / "b.mrc.mdoc").write_text("NumSubFrames = 3\n")
    os.mkfifo(root / "fifo.mrc")
    os.mkfifo(root / "a.mrc.mdoc")
    (root / "link.mrc").symlink_to(outside / "secret.mrc")
    (root / "relative.mrc").symlink_to("../outside/secret.mrc")
    (root / "loop.mrc").symlink_to("loop.mrc")
    (root / "dangling.mrc").symlink_to("nowhere.mrc")
    (root / "null.mrc").symlink_to("/dev/zero")
    (root / "linked").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "b.mrc.mdoc").symlink_to(outside / "b.mrc.mdoc")
    (root / "hard.mrc").hardlink_to(outside / "secret.mrc")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.mrc"))
        for name in ("good.mrc", "a.mrc", "b.mrc"):
            (root / name).write_bytes(a_movie(1))
        found = watched(root)
    delivered = sorted(d.arrival.movie.relative for d in found if d.counts is not None)
    outside_read = [path for path in opened_paths if not path.startswith(str(root))]
    n = len(list(root.iterdir()))
    figure = f"{len(outside_read)} read outside the root, delivered: {', '.join(delivered)}; 0 blocked"
    target = "0; the plain files whose sidecar is none or plain"
    report("F19", "links, pipe, socket, directory, as movies and as sidecars", n=n, figure=figure, target=target)
    assert delivered == ["good.mrc", "hard.mrc"]
    assert {d.arrival.movie.relative for d in found if d.refused} == {"a.mrc", "b.mrc"}
    assert all(isinstance(d.refused, MovieError) for d in found if d.refused)
    assert not outside_read


def test_a_file_that_becomes_a_link_or_a_pipe_is_not_followed(tmp_path, report, opened_paths):
    root, outside = tmp_path / "root", tmp_path / "secret.mrc"
    root.mkdir()
    outside.write_bytes(a_movie())
    os.utime(outside, (EPOCH, EPOCH))
    script, n = [], 0

    def swap(path: Path, make: Callable[[Path], None]) -> Callable[[], None]:
        return lambda: (path.unlink(), make(path))

    for step in np.arange(0.25, 14, 0.5):
        for name, make in (("link", lambda path: path.symlink_to(outside)), ("pipe", os.mkfifo)):
            path = root / f"{name}{step:05.2f}.mrc"
            path.write_bytes(a_movie(n))
            script.append((float(step), swap(path, make)))
            n += 1
    found = watched(root, script)
    outside_read = [path for path in opened_paths if not path.startswith(str(root))]
    figure = f"{len(outside_read)} read outside the root, 0 blocked"
    report("F19", "a movie becomes a link or a pipe while it settles", n=n, figure=figure, target="0, 0 blocked")
    # those that changed after they had arrived were read as what they were
    assert all(delivery.refused is None for delivery in found)
    assert not outside_read
    with pytest.raises(MovieError):
        movie.read_header(root / "link00.25.mrc")


@pytest.mark.parametrize("sidecar", [False, True], ids=["no sidecar", "sidecar"])
def test_a_directory_that_becomes_a_link_is_not_followed(sidecar, tmp_path, report, opened_paths):
    """A movie lies under the same name where the link leads."""
    steps = [float(step) for step in np.arange(0.25, 16, 0.5)]
    for number, step in enumerate(steps):
        root, outside = tmp_path / f"{number}" / "root", tmp_path / f"{number}" / "outside"
        for directory in (root / "sub", outside):
            directory.mkdir(parents=True)
            (directory / "a.mrc").write_bytes(a_movie(number + 100 * (directory == outside)))
            if sidecar:
                (directory / "a.mrc.mdoc").write_text("NumSubFrames = 12\n")

        def swap(root: Path = root, outside: Path = outside) -> None:
            (root / "sub").rename(root.parent / "moved")
            (root / "sub").symlink_to(outside)

        watched(root, [(step, swap)], end=40)
    read = sum(any(f"/{number}/outside/a.mrc" in path for path in opened_paths) for number in range(len(steps)))
    what = f"a directory becomes a link while a movie in it settles{', sidecar' if sidecar else ''}"
    report("F19", what, n=len(steps), figure=f"{read} read outside the root", target="0")
    assert read == 0
