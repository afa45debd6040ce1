"""What people are told about the specimen: that another one is there, or that there is nothing to see at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.specimens import Change
    from service.health.alarms import Alarms

MANY_EMPTY = 20
"""Movies in a row without anything to see, above which somebody should look."""
_ANOTHER_SESSION = 20
"""Movies in a row of other sessions after which the one that an alarm is about has ended."""
_CHANGED, _NOTHING = "specimen-changed", "nothing-to-see"


class _Raised:
    """The session that an alarm is about: movies of another one, finished in between, do not end it."""

    def __init__(self) -> None:
        self._session, self._others = "", 0

    def by(self, session: str) -> None:
        """The alarm is raised for this session."""
        self._session, self._others = session, 0

    def may_end(self, session: str) -> bool:
        """Whether a movie of this session can end it: one of the same, or of what has taken its place."""
        self._others = 0 if session == self._session else self._others + 1
        return session == self._session or self._others >= _ANOTHER_SESSION


class SpecimenAlarms:
    """Raises and clears ``specimen-changed`` and ``nothing-to-see``."""

    def __init__(self, alarms: Alarms, *, learns: bool) -> None:
        """``learns``: whether networks are trained, so that another specimen will get one of its own."""
        self._alarms, self._learns = alarms, learns
        self._changed_in, self._nothing_in = _Raised(), _Raised()

    def specimen(
        self, session: str, number: int, since: str, change: Change | None, serves: str | None, *, has_network: bool
    ) -> None:
        """Follow the specimen that is in the microscope; called with every movie.

        ``specimen-changed`` lasts from the change until a network that has learned from the specimen is in use.

        Parameters
        ----------
        since : its first movie.
        serves : version in use; None: the Wiener estimate.
        has_network : whether that version has learned from the specimen, or it is the session's first.
        """
        now_used = serves or "the Wiener estimate"
        if change is None:
            if has_network and self._changed_in.may_end(session):
                self._alarms.clear(_CHANGED, f"{now_used} is used for specimen {number} now")
            return
        known = "returned" if change.returned else "appeared"
        words = f"specimen {number} {known} at movie {since}: {change.reason}; {now_used} is used now"
        if self._learns and not has_network:
            self._changed_in.by(session)
            self._alarms.raise_(_CHANGED, f"{words}, until a network has learned from it")
            return
        self._alarms.clear(_CHANGED, words)
        self._alarms.tell(_CHANGED, words)

    def dropped(self, session: str, number: int, version: str | None, serves: str | None, reason: str) -> None:
        """A version that learned from another specimen is not used any more: its scores prove that it does not fit."""
        now_used = serves or "the Wiener estimate"
        words = f"{version} does not fit specimen {number}: {reason}; {now_used} is used now"
        if not self._learns:
            self._alarms.tell(_CHANGED, words)
            return
        self._changed_in.by(session)
        self._alarms.raise_(_CHANGED, f"{words}, until a network has learned from it")

    def empty(self, session: str, in_a_row: int, since: str, reason: str) -> None:
        """Follow how many of the latest movies showed nothing; ``since`` is the first of them, ``reason`` its own."""
        if in_a_row < MANY_EMPTY:
            if self._nothing_in.may_end(session):
                self._alarms.clear(_NOTHING, "there is something to see again")
            return
        self._nothing_in.by(session)
        self._alarms.raise_(
            _NOTHING,
            f"nothing to see in {MANY_EMPTY} movies in a row or more, from {since} on ({reason}): look at the beam, "
            "the shutter and the square; a specimen that hardly shows needs a session of its own (session.name)",
        )
