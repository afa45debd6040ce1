"""Alarms: raised once, cleared once, each an event. What only happens is an event of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.wire.messages import Alert

if TYPE_CHECKING:
    from service.health.prometheus import Metrics
    from service.journal.event_log import EventLog

_ANOTHER_SESSION = 20
"""Movies in a row of other sessions after which the one that an alarm is about has ended."""


class RaisedFor:
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


class Alarms:
    """What is wrong at present; each change is an event."""

    def __init__(self, log: EventLog, metrics: Metrics) -> None:
        self._log, self._metrics = log, metrics
        self._raised: dict[str, Alert] = {}

    def raise_(self, name: str, message: str, severity: str = "warning") -> None:
        """Raise an alarm, unless it is already raised with the same message."""
        alert = Alert(name=name, severity=severity, state="raised", message=message)
        if self._raised.get(name) != alert:
            self._raised[name] = alert
            self._log.append(alert)
            self._metrics.alert(name, active=True)

    def clear(self, name: str, words: str = "") -> None:
        """Clear an alarm if it is raised; without words it is repeated what is over."""
        alert = self._raised.pop(name, None)
        if alert is not None:
            words = words or f"{alert.message}; this is over"
            self._log.append(Alert(name=name, severity=alert.severity, state="cleared", message=words))
            self._metrics.alert(name, active=False)

    def clear_all(self) -> None:
        """Clear all alarms: from now on nothing is watched."""
        for name in list(self._raised):
            self.clear(name, f"{self._raised[name].message}; the daemon stops and watches this no more")

    def tell(self, name: str, message: str, severity: str = "warning") -> None:
        """Report something that happened: it neither begins nor ends an alarm."""
        self._log.append(Alert(name=name, severity=severity, state="happened", message=message))

    @property
    def raised(self) -> list[Alert]:
        """Alarms that are raised now."""
        return list(self._raised.values())
