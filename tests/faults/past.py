"""A long past: records of movies that were done once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from streamer.movie_record import MovieRecord, MovieSource, Times
from streamer.records import FileIdentity, Movie, movie_id_of

UTC = "2026-11-20T12:00:00.000Z"


def many_done(
    root: Path, names: Iterable[str], identity_of: Callable[[Path], FileIdentity]
) -> Iterator[tuple[Movie, MovieRecord]]:
    """Movies as ``Journal.restore`` takes them."""
    for name in names:
        identity = identity_of(root / name)
        movie = Movie(path=str(root / name), relative=name, session="test", identity=identity, evidence="header")
        source = MovieSource(
            path=name,
            bytes=identity.size,
            mtime_ns=identity.mtime_ns,
            fingerprint="0" * 64,
            format="mrc",
            n_frames=4,
            height=96,
            width=96,
            evidence="header",
            pixel_size=2.0,
            voltage_kv=300.0,
            cs_mm=2.7,
            amplitude_contrast=0.1,
            dose_per_frame=1.0,
            pre_exposure=0.0,
            gain=None,
        )
        times = Times(detected=UTC, complete=UTC, ready=UTC, started=UTC, done=UTC)
        record = MovieRecord(
            movie_id=movie_id_of(name), session="test", path=name, state="done", source=source, times=times
        )
        yield movie, record
