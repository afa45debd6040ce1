"""Watches which specimen is in the microscope, stores the decisions, and says what they mean for the next movies.

<state>/sessions/<session>/specimens.jsonl contains one line per decided movie, one per movie without anything to see,
and one per change. Networks learn specimen by specimen. The version in use is used on after a change until its scores
prove that it is worse for the new specimen (``models.proof``), or the gate passes a version of the new specimen's own;
for a specimen that returns, the version that served it when it left is used again.

Before a movie's specimen is decided it is asked whether there is anything to see in it. If not, it says nothing about
the specimen: nothing changes, nothing is learned, and the next good movie finds everything as it was.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from models import proof
from models.specimen_lines import Decided, Empty, Left, Line, parsed
from models.specimens import Change, Specimens, TextureSample
from models.versions.durable import append_durably
from streamer.errors import OutputError
from streamer.movie_record import Usual
from streamer.quality.emptiness import CLEAR, PLAIN, is_plain, why_empty

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamer.movie_record import ModelScore, MovieRecord, MovieSource

_MOST_SESSIONS = 8
SPECIMENS = "specimens.jsonl"
_LEAST_SHOWN = 3
"""Movies of a specimen from which it is clear what its movies usually show."""
_LEAST_FOR_LOWEST = 8
"""Of which the lowest structure says how low it gets."""
_MOST_SHOWN = 64
_DARK_ELECTRONS = 0.1
"""Per pixel and movie: no movie is taken on purpose with so few."""
_MOST_WAITING = 12
"""Movies without structure that wait for one with it; if there is none, that is how this specimen looks."""


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


class SessionSpecimens:
    """The specimens of one session, on disk."""

    def __init__(self, path: Path) -> None:
        """Read earlier decisions; a last line that was torn by a kill is ignored."""
        self._path = path
        self._of: dict[str, int] = {}
        self._served: dict[int, str | None] = {}
        self._shown: dict[int, deque[Usual]] = {}
        """What the latest movies of each specimen showed."""
        self._scores: dict[int, deque[ModelScore]] = {}
        """How versions did on the movies of each specimen."""
        self._waiting: dict[str, MovieRecord] = {}
        """Movies that may be empty, while there is nothing to compare them with; one that is retried counts once."""
        self._clear: dict[str, MovieRecord] = {}
        """Movies in which much stands out, in a session whose movies so far may all have been empty."""
        self._showed: dict[str, Decided] = {}
        """What movies showed whose specimen is not clear yet."""
        self._empty: set[str] = set()
        self.found_empty: list[str] = []
        """Ids of the movies that the latest ``observe`` found empty: the one it was given, and earlier ones."""
        self.began_again = False
        """Whether the latest ``observe`` found that all movies so far had been empty."""
        self._run: list[Empty] = []
        self._watch = Specimens()
        self.since = ""
        """Id of the present specimen's first movie; empty for the session's first specimen."""
        self._end = 0
        if not path.is_file():
            return
        data = path.read_bytes()
        self._end = data.rfind(b"\n") + 1
        self._restore([line for line in map(parsed, data[: self._end].splitlines()) if line is not None])

    def _restore(self, lines: list[Line]) -> None:
        """Adopt what was decided before; what turned out to be empty later is no specimen's."""
        empty = {line.movie_id for line in lines if isinstance(line, Empty)}
        for line in lines:
            if isinstance(line, Left):
                self._served[line.specimen], self.since = line.served, line.at
                continue
            if isinstance(line, Decided) and line.movie_id in empty:
                continue
            self._count(line)
            if isinstance(line, Decided) and line.texture:
                self._watch.remember(TextureSample(line.movie_id, line.texture, line.pixel_size), line.specimen)

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

    def unfit(self, version: str | None) -> str | None:
        """Why a version is the wrong one for the present specimen, as its scores prove; None: they do not."""
        return proof.why_unfit(*self._scores_of(version))

    def fits(self, version: str | None, score: ModelScore | None) -> bool:
        """Whether a version did on a movie what was to be expected of it."""
        here, before = self._scores_of(version)
        return score is not None and score.version == version and proof.fits(score, [*before, *here])

    def _scores_of(self, version: str | None) -> tuple[list[ModelScore], list[ModelScore]]:
        """A version's scores on the present specimen, and on the others."""
        of = {n: [one for one in scores if one.version == version] for n, scores in self._scores.items()}
        return of.pop(self.current, []), [one for scores in of.values() for one in scores]

    @property
    def usual(self) -> Usual | None:
        """What movies of the present specimen usually show; None: too few movies yet."""
        shown = self._shown.get(self.current, ())
        if len(shown) < _LEAST_SHOWN:
            return None
        structures = [one.structure for one in shown if one.structure is not None]
        return Usual(
            structure=_median([*structures]),
            least_structure=min(structures) if len(structures) >= _LEAST_FOR_LOWEST else None,
            ssnr_full=_median([one.ssnr_full for one in shown]),
            electrons=_median([one.electrons for one in shown]),
        )

    @property
    def empty_in_a_row(self) -> int:
        """How many of the latest movies showed nothing."""
        return len(self._run)

    @property
    def empty_since(self) -> tuple[str, str]:
        """Path of the first of these, and why; empty where there are none."""
        return (self._run[0].path, self._run[0].reason) if self._run else ("", "")

    def is_empty(self, movie_id: str) -> bool:
        """Whether there was nothing to see in a movie."""
        return movie_id in self._empty

    def observe(self, record: MovieRecord, serving: str | None) -> tuple[list[tuple[str, int]], Change | None]:
        """Decide about a finished movie.

        Parameters
        ----------
        serving : present serving version, to come back to.

        Returns
        -------
        Movies whose specimen is now settled, each with its specimen, in order; the change, if there is one.
        """
        self.found_empty, self.began_again = [], False
        if record.movie_id in self._of or record.movie_id in self._empty:
            return [], None  # processed again: nothing new
        if record.metrics is None or record.source is None:
            return [], None
        if (empty := self._why_empty(record)) is not None:
            self._write([Empty(movie_id=record.movie_id, path=record.path, reason=empty)])
            return [], None
        if self.usual is None and is_plain(record.metrics):
            self._waiting[record.movie_id] = record
            return ([], None) if len(self._waiting) <= _MOST_WAITING else self._decide_all(self._waiting, serving)
        if self._may_all_be_empty and (record.metrics.structure or 0.0) >= CLEAR:
            self._clear[record.movie_id] = record
            return ([], None) if len(self._clear) < _LEAST_SHOWN else self._begin_again(serving)
        settled, change = self._decide(record, serving)
        if self._waiting and self.usual is not None:
            others, later = self._decide_all(self._waiting, serving)
            settled, change = [*settled, *others], later or change
        return settled, change

    @property
    def _may_all_be_empty(self) -> bool:
        """Whether the session began with many movies without structure and has seen no other."""
        shown = self._shown.get(self.current, ()) if self.current == 1 and self.since == "" else ()
        return len(shown) > _MOST_WAITING and all(one.structure is not None and one.structure < PLAIN for one in shown)

    def _begin_again(self, serving: str | None) -> tuple[list[tuple[str, int]], Change | None]:
        """Movies in which much stands out show that those before them were empty squares, not a specimen."""
        reason = f"no particle stands out in it, in {len(self._clear)} later movies they do"
        empty = [Empty(movie_id=name, path=name, reason=reason, waited=True) for name in [*self._of, *self._showed]]
        self._of, self._showed, self._shown, self._scores, self._watch = {}, {}, {}, {}, Specimens()
        self.began_again = True
        self._write(empty)
        clear, self._clear = self._clear, {}
        return self._decide_all(clear, serving)

    def _why_empty(self, record: MovieRecord) -> str | None:
        """Why there is nothing to see in a movie, by what is known of the session now."""
        metrics, source = record.metrics, record.source
        if metrics is None or source is None or metrics.empty is not None:
            return None if metrics is None else metrics.empty
        agrees = record.restoration != "none"
        dark = (electrons := _electrons(record)) is not None and electrons < _DARK_ELECTRONS
        if self.usual is None and not agrees and (dark or is_plain(metrics)):
            return "its halves have nothing in common, and no movie before has shown anything"
        return why_empty(metrics, _kept_frames(source), self.usual, agrees=agrees)

    def _decide_all(
        self, records: dict[str, MovieRecord], serving: str | None
    ) -> tuple[list[tuple[str, int]], Change | None]:
        """Decide about movies that have waited; those that turn out to be empty are noted as such."""
        self._waiting = {}
        settled: list[tuple[str, int]] = []
        last: Change | None = None
        for record in records.values():
            if (empty := self._why_empty(record)) is not None:
                self._write([Empty(movie_id=record.movie_id, path=record.path, reason=empty, waited=True)])
                continue
            decided, change = self._decide(record, serving)
            settled, last = [*settled, *decided], change or last
        return settled, last

    def _decide(self, record: MovieRecord, serving: str | None) -> tuple[list[tuple[str, int]], Change | None]:
        """Decide about a movie in which there is something."""
        metrics, source = record.metrics, record.source
        if metrics is None or source is None:
            return [], None
        shown = Decided(
            movie_id=record.movie_id,
            specimen=self.current,
            structure=metrics.structure,
            ssnr_full=metrics.ssnr_full,
            electrons=_electrons(record),
            score=metrics.score,
        )
        if metrics.texture is None:
            # too coarse to tell: taken for the present specimen
            self._write([shown])
            return [(record.movie_id, self.current)], None
        self._showed[record.movie_id] = shown
        told = self._watch.decide(TextureSample(record.movie_id, metrics.texture, source.pixel_size))
        lines: list[Line] = []
        if told.change is not None:
            first = next(one.look.movie_id for one in told.decided if one.specimen == told.change.specimen)
            lines.append(Left(specimen=told.change.previous, served=serving, at=first))
            self._served[told.change.previous], self.since = serving, first
        for one in told.decided:
            unknown = Decided(movie_id=one.look.movie_id, specimen=one.specimen)
            look = {"odd": one.odd, "pixel_size": one.look.pixel_size, "texture": one.look.texture}
            showed = self._showed.pop(one.look.movie_id, unknown)
            lines.append(msgspec.structs.replace(showed, specimen=one.specimen, **look))
        self._write(lines)
        return [(one.look.movie_id, one.specimen) for one in told.decided], told.change

    def _count(self, line: Line) -> None:
        """Adopt a line that is on disk."""
        if isinstance(line, Empty):
            self._empty.add(line.movie_id)
            self.found_empty.append(line.movie_id)
            self._run += [] if line.waited else [line]
        elif isinstance(line, Decided):
            self._of[line.movie_id] = line.specimen
            self._run = []
            if line.score is not None:
                self._scores.setdefault(line.specimen, deque(maxlen=_MOST_SHOWN)).append(line.score)
            if not line.odd:
                shown = Usual(structure=line.structure, ssnr_full=line.ssnr_full, electrons=line.electrons)
                self._shown.setdefault(line.specimen, deque(maxlen=_MOST_SHOWN)).append(shown)

    def _write(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        for line in lines:
            self._count(line)
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


def _kept_frames(source: MovieSource) -> int:
    return source.n_frames - len(source.frames_left_out)


def _electrons(record: MovieRecord) -> float | None:
    """Electrons per px over the whole movie; None: unknown."""
    if record.metrics is None or record.source is None or record.metrics.mean_counts is None:
        return None
    return record.metrics.mean_counts * _kept_frames(record.source)
