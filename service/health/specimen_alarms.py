"""What people are told about the specimen: that another one is there, or that there is nothing to see at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.health.alarms import RaisedFor

if TYPE_CHECKING:
    from models.specimens import Change
    from service.health.alarms import Alarms

MANY_EMPTY = 20
"""Movies in a row without anything to see, above which somebody should look."""
_CHANGED, _NOTHING = "specimen-changed", "nothing-to-see"


class SpecimenAlarms:
    """Raises and clears ``specimen-changed`` and ``nothing-to-see``."""

    def __init__(self, alarms: Alarms, *, learns: bool) -> None:
        """``learns``: whether networks are trained, so that another specimen will get one of its own."""
        self._alarms, self._learns = alarms, learns
        self._changed_in, self._nothing_in = RaisedFor(), RaisedFor()

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
