"""When a file counts as a complete movie: a pure judgement of what is seen of it at successive times.

Time is the caller's monotonic clock alone: neither the clock of the camera's computer nor that of a file server
matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from streamer.errors import MovieError, MovieMismatch, MovieNotReady, NotAMovie, StreamerError
from streamer.metadata import epu, sidecars
from streamer.movie_record import Acquisition
from streamer.readers import movie as movie_reader
from streamer.readers.files import below, link_target
from streamer.records import FileIdentity, Movie, MovieHeader
from streamer.runtime.clock import SYSTEM, utc_text
from streamer.watch import kinds
from streamer.watch.arrival import Arrival
from streamer.watch.proof import packed
from streamer.watch.usual import UsualMovies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streamer.runtime.clock import Clock
    from streamer.watch.settings import WatchSettings

    HeaderCheck = Callable[[Path], MovieHeader]
    SidecarRead = Callable[[Path], Acquisition | None]
    Known = Callable[[str], FileIdentity | None]

Evidence = Literal["sidecar", "header", "unproven"]

LOOKS_AT_A_TIME, LOOKING_S = 256, 1.0
"""Files opened per observation, and for how long more are opened if that is quick, s: a session found at start does not
hold up the caller."""

_SHORT_WAITS = 4
"""How many times longer a movie must stay unchanged that has fewer frames than usual and no proof of them."""
_YEAR_1980_NS = 315_532_800 * 10**9
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_REASONS = {
    "sidecar": "is complete according to its sidecar, and must stay unchanged for a while",
    "header": "is complete according to its header; a sidecar may follow",
    "unproven": "has no proof of its number of frames",
}


@dataclass(slots=True)
class _Candidate:
    identity: FileIdentity
    first_seen: float
    detected_utc: str
    since: float
    """When this identity was first seen."""
    observations: int = 1
    acquisition: Acquisition | None = None
    header: MovieHeader | None = None
    reason: str = "has not been unchanged for long enough"
    is_movie: bool = False
    """Whether what else it might be has been ruled out."""
    next_check: float = 0.0
    pause: float = _FIRST_PAUSE_S


class _Verdict(NamedTuple):
    evidence: Evidence
    wait_s: float


class Settling:
    """Judges files by what is observed of them; reads only through the two functions it is given.

    Parameters
    ----------
    settings : the waiting times.
    root : the watched root.
    session_name : ``[session] name``, empty for none.
    known : identity of the last processed state of a movie by its path below the root, None for a new one.
        The same size and modification time count as the same movie: device and inode numbers do not survive a
        remount, and a change of owner or of permissions does not change the content.
    clock : dates what is found, for people, and limits how long one look at many files takes; no judgement depends on
        it.
    """

    def __init__(
        self,
        settings: WatchSettings,
        *,
        root: Path,
        session_name: str = "",
        known: Known = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings, self._root, self._session_name = settings, root, session_name
        self._known, self._clock = known, clock
        self._candidates: dict[str, _Candidate] = {}
        self._reported: dict[str, bytes] = {}
        self._looks, self._looking_until = 0, 0.0
        self._came_back: set[str] = set()
        self._at_start: frozenset[str] | None = None
        self._renamed: set[str] = set()
        self._usual = UsualMovies()

    def waiting(self) -> dict[str, str]:
        """What each file that is not yet complete is waiting for, by path below the root."""
        return {relative: candidate.reason for relative, candidate in dict(self._candidates).items()}

    def renamed(self, relative: str) -> None:
        """A file of the next look was renamed to this: copy programs do that when they are done; it may wait less."""
        self._renamed.add(relative)

    def forget(self, relative: str) -> None:
        """A file is gone: if it reappears it counts as new, whatever was known about it."""
        self._renamed.discard(relative)
        self._candidates.pop(relative, None)
        self._reported.pop(relative, None)
        self._usual.forget(relative)
        if self._known(relative) is not None:
            self._came_back.add(relative)

    def observe(
        self,
        now: float,
        listing: Mapping[str, FileIdentity],
        header_check: HeaderCheck = movie_reader.read_header,
        sidecar_read: SidecarRead = sidecars.read_sidecar,
    ) -> list[Arrival]:
        """Judge one look at the files; returns movies that are now complete, or never will be, oldest first.

        Parameters
        ----------
        now : monotonic time of the look, s.
        listing : all files seen except those that are done, or at least all that ``waiting`` names; a waiting file that
            is absent starts over, or is done.
        """
        self._renamed.intersection_update(listing)
        for relative in self._candidates.keys() - listing.keys():
            del self._candidates[relative]
        if self._at_start is None:
            self._at_start = frozenset(listing)
        self._looks, self._looking_until = 0, self._clock.monotonic() + LOOKING_S
        arrivals = []
        for relative in sorted(listing, key=lambda relative: (listing[relative].mtime_ns, relative)):
            if self.is_done(relative, listing[relative]):
                self._candidates.pop(relative, None)
                continue
            candidate = self._note(now, relative, listing[relative])
            arrival = self._judge(now, relative, candidate, header_check, sidecar_read)
            if arrival is not None:
                arrivals.append(arrival)
                self._reported[relative] = packed(candidate.identity, failed=arrival.error is not None)
                del self._candidates[relative]
                self._came_back.discard(relative)
                self._renamed.discard(relative)
        return arrivals

    def is_done(self, relative: str, identity: FileIdentity) -> bool:
        """Whether this state of a file was delivered, or was known from the start."""
        reported = self._reported.get(relative)
        if reported is not None and packed(identity, failed=True).startswith(reported):
            return True
        known = None if relative in self._came_back else self._known(relative)
        return known is not None and known.has_same_content(identity)

    def _note(self, now: float, relative: str, identity: FileIdentity) -> _Candidate:
        candidate = self._candidates.get(relative)
        if candidate is not None and candidate.identity.size != identity.size:
            self._renamed.discard(relative)  # still written under the final name: not a rename at the end
        if candidate is None:
            candidate = _Candidate(identity, first_seen=now, detected_utc=utc_text(self._clock.wall()), since=now)
        elif candidate.identity != identity:
            candidate = _Candidate(identity, candidate.first_seen, candidate.detected_utc, since=now)
        else:
            candidate.observations += 1
        self._candidates[relative] = candidate
        return candidate

    def _judge(
        self,
        now: float,
        relative: str,
        candidate: _Candidate,
        header_check: HeaderCheck,
        sidecar_read: SidecarRead,
    ) -> Arrival | None:
        still = now - candidate.since
        quickest = min(self._settings.settle_s, self._settings.settle_with_sidecar_s)
        # Half-way, so that what the sidecar says can be compared with what it says at the end.
        if candidate.observations < 2 or still < quickest / 2 or now < candidate.next_check:
            return None
        if self._looks >= LOOKS_AT_A_TIME and self._clock.monotonic() >= self._looking_until:
            return None
        self._looks += 1
        path = self._root / relative
        try:
            with below(self._root, self._settings.places):
                if not self._sidecar_stands(candidate, path, sidecar_read) or still < quickest:
                    return None
                verdict = self._verdict(candidate, relative, path, header_check)
                if still >= verdict.wait_s:
                    # what tells its kind may have come meanwhile
                    candidate.is_movie = False
                    self._check_kind(candidate, relative, path)
        except MovieNotReady as error:
            candidate.reason = error.message()
            candidate.next_check = now + candidate.pause
            candidate.pause = min(2 * candidate.pause, _LONGEST_PAUSE_S)
            return self._gives_up(now, relative, candidate, error) if self._is_hopeless(still) else None
        except MovieError as error:
            candidate.reason = error.message()
            wait_s = self._longest_wait_s(error)
            # what a file without a movie in it waits for is to grow, which starts it anew
            soon = candidate.since + wait_s if isinstance(error, NotAMovie) else now + _FIRST_PAUSE_S
            candidate.next_check = min(candidate.since + wait_s, soon)
            return self._gives_up(now, relative, candidate, error) if still >= wait_s else None
        if still < verdict.wait_s:
            candidate.reason = _REASONS[verdict.evidence]
            # A sidecar may still arrive and shorten the wait.
            candidate.next_check = min(candidate.since + verdict.wait_s, now + _FIRST_PAUSE_S)
            return None
        return self._arrival(now, relative, candidate, None, verdict.evidence)

    def _is_hopeless(self, still: float) -> bool:
        return still >= self._settings.incomplete_after_s

    def _longest_wait_s(self, error: MovieError) -> float:
        """How long a file stays unchanged until an error is its own: a sidecar may still be written, or frames."""
        wait_s = self._settings.settle_s
        if isinstance(error, (MovieMismatch, NotAMovie)):
            wait_s = max(wait_s, self._settings.sidecar_wait_s)
        if isinstance(error, NotAMovie) and error.may_grow:
            wait_s = max(wait_s, self._settings.unproven_wait_s)
        return wait_s

    def _gives_up(self, now: float, relative: str, candidate: _Candidate, error: StreamerError) -> Arrival:
        """What will not be a whole movie by waiting: perhaps it need not be one."""
        path, instead = self._root / relative, None
        if not isinstance(error, NotAMovie):
            with below(self._root, self._settings.places):
                instead = kinds.by_sidecar(path)
                if instead is None and not isinstance(error, MovieNotReady):
                    instead = None if candidate.header else kinds.by_name(path)
        return self._arrival(now, relative, candidate, instead or error)

    def _sidecar_stands(self, candidate: _Candidate, path: Path, sidecar_read: SidecarRead) -> bool:
        """Whether the sidecar says the same as at the last look, or is still absent."""
        found = sidecar_read(path)
        if found is None and (target := link_target(path)) is not None:
            # movies are often linked without what lies beside them
            found = sidecar_read(target)
        before, candidate.acquisition = candidate.acquisition, found
        return before == found

    def _verdict(self, candidate: _Candidate, relative: str, path: Path, header_check: HeaderCheck) -> _Verdict:
        """Find what proves the number of frames, and how long the file must stay unchanged for it."""
        if candidate.identity.mtime_ns < _YEAR_1980_NS:
            # Copy programs date a file to 1970 until it is complete.
            raise MovieNotReady(
                "has the date of an unfinished copy", where=path, hint="it is taken once its date is right"
            )
        if candidate.header is None:
            candidate.header = header_check(path)
            self._usual.compare(self._session_of(relative), relative, candidate.identity, candidate.header)
        header, settings, acquisition = candidate.header, self._settings, candidate.acquisition
        told = None if acquisition is None else acquisition.n_frames
        self._check_kind(candidate, relative, path)
        if told is not None:
            _check_count(path, header.frames_told(told), told)
            return _Verdict("sidecar", settings.settle_with_sidecar_s)
        wait_s = settings.settle_s if acquisition else max(settings.settle_s, settings.sidecar_wait_s)
        session = self._session_of(relative)
        if self._usual.proves(session, header):
            return _Verdict("header", wait_s)
        if header.n_frames < (self._usual.frames(session) or 0):
            return _Verdict("unproven", _SHORT_WAITS * max(wait_s, settings.unproven_wait_s))
        return _Verdict("unproven", wait_s if relative in self._renamed else max(wait_s, settings.unproven_wait_s))

    def _check_kind(self, candidate: _Candidate, relative: str, path: Path) -> None:
        """Raise NotAMovie for what is none; asked at the first look at a state of a file, and at the last."""
        header, acquisition = candidate.header, candidate.acquisition
        told = None if acquisition is None else acquisition.n_frames
        if header is None or candidate.is_movie:
            return
        # its other frames follow, unless the sidecar is that of an exposure whose movie lies beside this image
        grows = header.n_frames == 1 and told is not None and told > 1 and not epu.is_integrated(path.name)
        if grows:
            return
        size = self._usual.size(self._session_of(relative))
        error = kinds.why_no_movie(path, header, root=self._root, told=told, usual_size=size)
        if error is not None:
            raise error
        candidate.is_movie = True

    def _session_of(self, relative: str) -> str:
        return sidecars.session_of(relative, self._root.name, self._session_name)

    def _arrival(
        self,
        now: float,
        relative: str,
        candidate: _Candidate,
        error: StreamerError | None,
        evidence: Literal["sidecar", "header", "unproven", "none"] = "none",
    ) -> Arrival:
        session, header = self._session_of(relative), candidate.header
        usual = None
        if error is None and header is not None:
            usual = None if header.n_raw_frames is not None else self._usual.frames(session)
            self._usual.add(session, header)
        movie = Movie(
            path=str(self._root / relative),
            relative=relative,
            session=session,
            identity=candidate.identity,
            evidence=evidence,
            acquisition=sidecars.with_position(candidate.acquisition or Acquisition(), relative),
            usual_frames=usual,
        )
        return Arrival(
            movie=movie,
            header=header,
            error=error,
            found_at_start=relative in (self._at_start or ()),
            detected_utc=candidate.detected_utc,
            ready_utc=utc_text(self._clock.wall()),
            waited_s=now - candidate.first_seen,
            still_s=now - candidate.since,
        )


def _check_count(path: Path, found: int, told: int) -> None:
    if found < told:
        raise MovieNotReady(
            "has fewer frames than its sidecar says",
            where=path,
            expected=told,
            found=found,
            hint="still being written, or cut",
        )
    if found > told:
        hint = "is the sidecar that of another movie? move it away"
        raise MovieMismatch("has more frames than its sidecar says", where=path, expected=told, found=found, hint=hint)
