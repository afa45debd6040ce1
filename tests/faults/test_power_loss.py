"""F2: the power fails after any step; what was not flushed is gone. Every movie that the journal calls done is whole.

Flushes, renames and commits of real work are recorded; then for every moment the volume is put together as the worst
disk that keeps its word would have it: only flushed content, under names whose directory was flushed afterwards.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from service.journal.journal import Journal
from streamer import pipeline
from streamer.readers.movie import identity_of
from streamer.records import Movie
from streamer.runtime.stopwatch import Stopwatch
from streamer.settings import DataPathSettings, MovieSettings
from tests.faults.sites import movie_bytes
from tests.jobs import job_of


class Disk:
    """What would be there after a power cut, and what the journal would say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[int, str] = {}
        """sha256 by inode, of the last flush."""
        self.names: dict[str, dict[str, int]] = {}
        """Entries of a directory by its path, as of its last flush."""
        self.done: list[dict[str, str]] = []
        """sha256 by path of the outputs of the movies that are done."""
        self.cuts = self.bad = 0

    def flushed(self, descriptor: int) -> None:
        """A file or directory has been flushed; then the power fails."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.is_relative_to(self.root):
            return
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.names[str(path)] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            self.content[os.fstat(descriptor).st_ino] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.cut()

    def found(self, path: Path) -> str | None:
        """Hash of the file of this name after the cut, None where there is none."""
        for parent in (path, *path.parents):
            if parent == self.root:
                break
            if parent.name not in self.names.get(str(parent.parent), {}):
                return None
        return self.content.get(self.names[str(path.parent)][path.name])

    def cut(self) -> None:
        """The power fails now."""
        self.cuts += 1
        for outputs in self.done:
            self.bad += any(self.found(self.root / path) != digest for path, digest in outputs.items())


def test_power_cuts_after_every_flush(tmp_path, monkeypatch, often, report):
    movies = often(3, 12)
    root, output = tmp_path / "movies", tmp_path / "output"
    root.mkdir()
    output.mkdir()
    disk, flush = Disk(output), os.fsync
    disk.names[str(output)] = {}

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        disk.flushed(descriptor)

    journal = Journal.open(tmp_path / "journal.sqlite")
    monkeypatch.setattr(os, "fsync", fsync)
    for number in range(movies):
        path = root / f"m{number}.mrc"
        path.write_bytes(movie_bytes(tmp_path, number))
        identity = identity_of(path)
        movie = Movie(path=str(path), relative=path.name, session="s", identity=identity, evidence="header")
        journal.add_ready(movie, "2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z")
        journal.start(movie.movie_id, 1)
        settings = DataPathSettings(movie=MovieSettings(pixel_size=2.0, dose_per_frame=1.0))
        job = job_of(output / "s", settings=settings, movie_id=movie.movie_id)
        record = pipeline.process_movie(movie, job, Stopwatch())
        assert journal.finish(record) is not None
        disk.done.append({f"s/{file.path}": file.sha256 for file in record.outputs})
        disk.cut()
    journal.close()
    assert disk.cuts >= movies * 20
    assert all(len(outputs) >= 7 for outputs in disk.done)
    report(
        "F2", "unflushed writes dropped after every step", n=disk.cuts, figure=f"{disk.bad} bad", target="0 bad hashes"
    )
    assert disk.bad == 0
