"""Watches which specimen is in the microscope, stores the decisions, and says what they mean for the next movies.

<state>/sessions/<session>/specimens.jsonl contains one line per decided movie and one per change. Networks learn
specimen by specimen; after a change the base weights are used, or no network, until the gate passes a version of the
new specimen's own; for a specimen that returns, the version that served it when it left is used again at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from models.specimens import Change, Specimens, TextureSample
from models.versions.durable import append_durably
from streamer.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.movie_record import MovieRecord

_MOST_SESSIONS = 8
SPECIMENS = "specimens.jsonl"


class _Decided(msgspec.Struct, tag="movie", frozen=True, kw_only=True, omit_defaults=True):
    """A movie's specimen."""

    movie_id: str
    specimen: int
    odd: bool = False
    pixel_size: float = 0.0
    texture: tuple[float, ...] = ()
    """Empty where there is none."""


class _Left(msgspec.Struct, tag="left", frozen=True, kw_only=True):
    """A specimen that is not in the microscope any more."""

    specimen: int
    served: str | None
    """Version that served it last."""
    at: str
    """Id of the first movie of another one."""


class SessionSpecimens:
    """The specimens of one session, on disk."""

    def __init__(self, path: Path) -> None:
        """Read earlier decisions; a last line that was torn by a kill is ignored."""
        self._path = path
        self._of: dict[str, int] = {}
        self._served: dict[int, str | None] = {}
        self._watch = Specimens()
        self.since = ""
        """Id of the present specimen's first movie; empty for the session's first specimen."""
        self._end = 0
        if not path.is_file():
            return
        data = path.read_bytes()
        self._end = data.rfind(b"\n") + 1
        for line in data[: self._end].splitlines():
            try:
                entry = msgspec.json.decode(line, type=_Decided | _Left)
            except msgspec.DecodeError:
                continue  # one movie is lost for learning; the others are worth more
            if isinstance(entry, _Left):
                self._served[entry.specimen], self.since = entry.served, entry.at
                continue
            self._of[entry.movie_id] = entry.specimen
            if entry.texture:
                self._watch.remember(
                    TextureSample(entry.movie_id, entry.texture, entry.pixel_size), entry.specimen, odd=entry.odd
                )

    @property
    def current(self) -> int:
        """Number of the specimen in the microscope, from 1."""
        return max(1, self._watch.current)

    def of(self, movie_id: str) -> int | None:
        """Specimen of a movie; None where it is undecided."""
        return self._of.get(movie_id)

    def served(self, specimen: int) -> str | None:
        """Version that served a specimen when it left."""
        return self._served.get(specimen)

    def observe(self, record: MovieRecord, serving: str | None) -> tuple[list[tuple[str, int]], Change | None]:
        """Decide about a finished movie.

        Parameters
        ----------
        serving : present serving version, to come back to.

        Returns
        -------
        Movies whose specimen is now settled, each with its specimen, in order; the change, if there is one.
        """
        if record.movie_id in self._of or record.metrics is None or record.source is None:
            return [], None  # processed again: nothing new
        texture = record.metrics.texture
        if texture is None:
            # too coarse to tell: taken for the present specimen
            self._write([_Decided(movie_id=record.movie_id, specimen=self.current)])
            return [(record.movie_id, self.current)], None
        told = self._watch.decide(TextureSample(record.movie_id, texture, record.source.pixel_size))
        lines: list[_Decided | _Left] = []
        if told.change is not None:
            first = next(one.look.movie_id for one in told.decided if one.specimen == told.change.specimen)
            lines.append(_Left(specimen=told.change.previous, served=serving, at=first))
            self._served[told.change.previous], self.since = serving, first
        lines += [
            _Decided(
                movie_id=one.look.movie_id,
                specimen=one.specimen,
                odd=one.odd,
                pixel_size=one.look.pixel_size,
                texture=one.look.texture,
            )
            for one in told.decided
        ]
        self._write(lines)
        return [(one.look.movie_id, one.specimen) for one in told.decided], told.change

    def _write(self, lines: list[_Decided | _Left]) -> None:
        if not lines:
            return
        self._of.update({line.movie_id: line.specimen for line in lines if isinstance(line, _Decided)})
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        try:
            append_durably(self._path, self._end, data)
        except OSError as error:
            raise OutputError(
                f"the specimen of a movie cannot be written: {error.strerror}",
                where=self._path,
                hint="free some space on the state volume, or give the daemon's user the right to write there",
            ) from error
        self._end += len(data)


class SpecimenWatch:
    """The specimens of all sessions."""

    def __init__(self, state_of: Callable[[str], Path]) -> None:
        """``state_of`` returns a session's state directory."""
        self._state_of = state_of
        self._sessions: OrderedDict[str, SessionSpecimens] = OrderedDict()

    def session(self, name: str) -> SessionSpecimens:
        """The specimens of a session; few sessions are kept in memory."""
        if name not in self._sessions:
            self._sessions[name] = SessionSpecimens(self._state_of(name) / SPECIMENS)
        self._sessions.move_to_end(name)
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return self._sessions[name]
