"""F6: a file that is removed, replaced, cut or rewritten while it is read gives the old movie whole or none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamer.errors import MovieNotReady, StreamerError
from streamer.readers import movie
from streamer.readers.files import identity_of
from streamer.records import Movie
from tests.faults.writer_models import EPOCH, FORMATS, material


def remove(path: Path, other: bytes) -> None:
    path.unlink()


def replace_by_another(path: Path, other: bytes) -> None:
    aside = path.with_name("aside")
    aside.write_bytes(other)
    aside.replace(path)


def cut(path: Path, other: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, other: bytes) -> None:
    os.truncate(path, 0)


def overwrite(path: Path, other: bytes) -> None:
    """In place, to the same or another size."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, other, 0)
        os.ftruncate(descriptor, len(other))
    finally:
        os.close(descriptor)


def directory_gone(path: Path, other: bytes) -> None:
    path.parent.rename(path.parent.with_name(f"{path.parent.name} away"))


CHANGES = (remove, replace_by_another, cut, empty, overwrite, directory_gone)


class Reads:
    """Counts what is read and lets something happen before the k-th read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.what = 0, -1, lambda: None
        for name in ("pread", "preadv"):
            patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, genuine: Callable[..., object]) -> Callable[..., object]:
        def read(*arguments: object) -> object:
            if self.count == self.at:
                self.what()
            self.count += 1
            return genuine(*arguments)

        return read

    def expect(self, at: int, what: Callable[[], None]) -> None:
        self.count, self.at, self.what = 0, at, what


def whole(path: Path, *, streamed: bool) -> np.ndarray:
    """The worker's reading: header, counts, a first pass that checks and, of a stream, a second one."""
    there = Movie(path=str(path), relative=path.name, session="s", identity=identity_of(path))
    _, counts, _ = movie.read_whole(there, in_memory_bytes=0 if streamed else 1 << 30, threads=1)
    return np.stack([np.array(frame) for frame in counts])


def attempt(place: Path, kind: str, change: Callable, at: int, reads: Reads, *, streamed: bool) -> str:
    """What comes of a movie that changes before the read ``at``; "" where that read is never made."""
    rng = np.random.default_rng([at, streamed])
    old, other = (material(kind, rng, proven=True).finished for _ in range(2))
    place.mkdir()
    path = place / f"a.{kind}"
    path.write_bytes(old)
    os.utime(path, (EPOCH, EPOCH))
    reads.expect(-1, lambda: None)
    truth = whole(path, streamed=False)
    reads.expect(at, lambda: change(path, other))
    try:
        found = whole(path, streamed=streamed)
    except StreamerError as error:
        if isinstance(error, MovieNotReady):
            return type(error).__name__
        print(error)
        return f"wrong: {type(error).__name__}{', streamed' if streamed else ''}"
    finally:
        happened = reads.count > at
        reads.expect(-1, lambda: None)
    if not happened:
        return ""
    return "old movie" if np.array_equal(found, truth) else "mixed"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_movie_that_changes_while_it_is_read_is_never_mixed(kind, tmp_path, often, report, monkeypatch):
    reads, outcomes, n = Reads(monkeypatch), Counter(), often(5, 20)
    for change in CHANGES:
        for streamed in (False, True):
            where = tmp_path / f"{change.__name__}{streamed}"
            where.mkdir()
            # how many reads there are, from a run in which nothing happens
            attempt(where / "calm", kind, change, 10**9, reads, streamed=False)
            path = where / "calm" / f"a.{kind}"
            reads.expect(-1, lambda: None)
            whole(path, streamed=streamed)
            for at in sorted(set(np.linspace(0, reads.count - 1, n).astype(int).tolist())):
                outcomes[attempt(where / str(at), kind, change, at, reads, streamed=streamed)] += 1
    tried = outcomes.total() - outcomes[""]
    wrong = {outcome: count for outcome, count in outcomes.items() if outcome.startswith(("wrong", "mixed"))}
    figure = f"{outcomes['mixed']} mixed; " + ", ".join(f"{count} {name}" for name, count in outcomes.items() if name)
    what = f"{kind} removed, replaced, cut, emptied, overwritten, directory gone"
    report("F6", what, n=tried, figure=figure, target="0 mixed: the old movie or not ready")
    assert not wrong
    assert tried >= len(CHANGES) * 2 * min(n, 5) // 2
