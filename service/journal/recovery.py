"""Three tools for the journal: check it, rebuild it from the outputs, export it to other programs."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from service.journal.database import OtherSchema, lock_instance
from service.journal.journal import Journal
from service.journal.movie_table import PENDING
from service.journal.output_check import damaged_outputs
from service.wire.messages import SessionChange
from streamer import jsontext
from streamer.errors import ServiceError, UsageError
from streamer.movie_record import MovieRecord
from streamer.records import FileIdentity, Movie, movie_id_of
from streamer.runtime.clock import SYSTEM, utc_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.layout import Layout

_PAGE = 500


class Finding(NamedTuple):
    """Something in the journal that is wrong."""

    where: str
    what: str


def check(journal: Journal, layout: Layout, *, newest: int | None) -> Iterator[Finding]:
    """Check what must hold: a sound file, dense numbers, an event for each final state, outputs with the right hash.

    Parameters
    ----------
    newest : number of done movies, newest first, whose outputs are hashed; None: all of them.
    """
    for verdict in journal.integrity():
        yield Finding(str(layout.journal), verdict)
    yield from _numbers(journal)
    told = {(event["movie_id"], event["revision"]) for event in _events(journal, "movie")}
    for movie in journal.movies.every():
        name = f"{movie.movie_id} r{movie.revision}"
        if movie.state not in PENDING and journal.events.first_seq == 1:
            if (movie.movie_id, movie.revision) not in told:
                yield Finding(name, f"is {movie.state}, but no event says so")
        if movie.state == "done" and movie.stored_record is None:
            yield Finding(name, "is done, but has no record")
    for movie in journal.movies.every("done") if newest is None else journal.movies.newest(state="done", limit=newest):
        if (record := movie.record) is not None:
            for damage in damaged_outputs(record, layout.session_output(record.session)):
                yield Finding(f"{damage.movie_id} {damage.path}", damage.found)


def _numbers(journal: Journal) -> Iterator[Finding]:
    """Gaps in the events' numbers."""
    expected, of_kind = journal.events.first_seq, dict[tuple[str, str], int]()
    for event in _events(journal):
        if event["seq"] != expected:
            yield Finding(f"event {expected}", f"is missing, {event['seq']} follows")
        expected = int(event["seq"]) + 1
        key = str(event["kind"]), str(event["session"])
        if key in of_kind and event["kseq"] != of_kind[key] + 1:
            yield Finding(f"event {event['seq']}", f"is number {event['kseq']} of its kind after {of_kind[key]}")
        of_kind[key] = int(event["kseq"])


def _events(journal: Journal, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Envelope and body of all events that are kept."""
    for event in exported_events(journal, kind):
        yield json.loads(event)


def exported_events(journal: Journal, kind: str | None = None) -> Iterator[bytes]:
    """All events that are kept, as they were published."""
    first = journal.events.first_seq
    while rows := journal.events.page(first, _PAGE, kinds=None if kind is None else (kind,)):
        yield from (row.raw for row in rows)
        first = rows[-1].seq + 1


def exported_movies(journal: Journal) -> Iterator[bytes]:
    """All revisions of all movies, oldest first, with their records."""
    for movie in journal.movies.every():
        yield jsontext.encode(movie.summary() | {"record": movie.plain_record})


class Recovered(NamedTuple):
    """Result of rebuilding the journal."""

    movies: int
    """Revisions that are done."""
    refused: list[Finding]
    """Records that cannot be used, or whose outputs are not whole."""
    set_aside: Path | None
    """Where the old file went."""


def recover(layout: Layout, instance: str, *, force: bool, hash_all: bool) -> Recovered:
    """Rebuild the journal from the records next to the outputs; a new epoch begins.

    Movies that were not done are found again by the watcher. The files that a record lists must have the right size,
    or the right hash; otherwise the movie is left to be processed again.

    Parameters
    ----------
    force : even if the present journal is sound.
    hash_all : read and hash every output; otherwise its size is enough.

    Raises
    ------
    AlreadyRunning : a daemon is running. UsageError : the journal is sound. ServiceError : it cannot be written.
    """
    with lock_instance(layout.state):
        if not force and _is_sound(layout.journal, instance):
            raise UsageError(
                "the journal is sound: there is nothing to recover",
                where=layout.journal,
                hint="streamer journal check looks more closely; --force rebuilds it anyway",
            )
        refused: list[Finding] = []
        found = list(_whole(layout, refused, hash_all=hash_all))
        aside = _set_aside(layout.journal)
        journal = Journal.open(layout.journal, instance=instance)
        try:
            count = journal.restore(found)
            journal.events.append(SessionChange(state="recovered", message=f"{count} movies recovered from records"))
        finally:
            journal.close()
    return Recovered(count, refused, aside)


def _is_sound(path: Path, instance: str) -> bool:
    if not path.is_file():
        return False
    try:
        journal = Journal.open(path, instance=instance, read_only=True)
    except OtherSchema:
        raise  # nothing says that it is damaged
    except ServiceError:
        return False
    try:
        return not journal.integrity()
    finally:
        journal.close()


def _set_aside(path: Path) -> Path | None:
    """Rename the journal and what belongs to it; nothing is deleted."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.damaged-{utc_text(SYSTEM.wall()).replace(':', '')}")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _whole(layout: Layout, refused: list[Finding], *, hash_all: bool) -> Iterator[tuple[Movie, MovieRecord]]:
    """Movies with all their outputs, in the order in which they were done, each one's revisions in order."""
    revisions: dict[str, list[MovieRecord]] = defaultdict(list)
    for path in _record_files(layout.output):
        try:
            record = jsontext.decode(path.read_bytes(), MovieRecord)
        except (OSError, ValueError) as error:
            refused.append(Finding(str(path), f"is not a record: {error}"))
            continue
        why = _why_not(record, path, layout, hash_all=hash_all)
        if why:
            refused.append(Finding(str(path), why))
        else:
            revisions[record.movie_id].append(record)
    for records in sorted(revisions.values(), key=lambda records: min(r.times.done or "" for r in records)):
        for record in sorted(records, key=lambda record: record.revision):
            yield _movie(record, layout), record


def _record_files(output: Path) -> Iterator[Path]:
    """<output>/<session>/movies/<path of the movie>/r<revision>/<stem>.json."""
    for directory, below, names in os.walk(output):
        below.sort()
        place = Path(directory)
        if place.name[:1] == "r" and place.name[1:].isdigit() and "movies" in place.parts:
            yield from (place / name for name in sorted(names) if name.endswith(".json") and not name.startswith("."))


def _why_not(record: MovieRecord, path: Path, layout: Layout, *, hash_all: bool) -> str:
    """Why a record cannot be trusted; empty if it can."""
    session = layout.session_output(record.session)
    expected = session / "movies" / record.path / f"r{record.revision}"
    if record.state != "done" or record.source is None:
        return f"is the record of a movie that is {record.state}"
    if movie_id_of(record.path) != record.movie_id or path.parent != expected:
        return f"is in the place of another movie's record, expected {expected}"
    for file in record.outputs:
        try:
            size = (session / file.path).stat().st_size
        except OSError as error:
            return f"{file.path}: {error.strerror}"
        if size != file.bytes:
            return f"{file.path}: {size} of {file.bytes} bytes"
    damages = list(damaged_outputs(record, session)) if hash_all else []
    return "; ".join(f"{damage.path}: {damage.found}" for damage in damages)


def _movie(record: MovieRecord, layout: Layout) -> Movie:
    source = record.source
    if source is None:
        raise ValueError("a record of a done movie has a source")
    # device, inode and ctime are no longer known; size and modification time show whether the content is the same
    identity = FileIdentity(device=0, inode=0, size=source.bytes, mtime_ns=int(source.mtime_ns), ctime_ns=0)
    return Movie(
        path=str(layout.root / record.path),
        relative=record.path,
        session=record.session,
        revision=record.revision,
        identity=identity,
        evidence="none",
        acquisition=source.acquisition,
    )
