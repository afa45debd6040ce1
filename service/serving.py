"""Which version of the session model serves: journalled first, then marked in the store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from models.store import ModelStore
from service.messages import ModelChange
from streamer.stopwatch import utc_now

if TYPE_CHECKING:
    from service.journal import Journal
    from service.layout import Layout
    from service.pipes import Candidate
    from service.prometheus import Metrics

_log = logging.getLogger(__name__)


class Serving:
    """The serving version of each session; movies are told which with their order."""

    def __init__(self, layout: Layout, journal: Journal, metrics: Metrics) -> None:
        self._layout, self._journal, self._metrics = layout, journal, metrics
        self._versions: dict[str, str | None] = {}

    def version(self, session: str) -> str | None:
        """Version that serves a session; None: the Wiener estimate."""
        if session not in self._versions:
            self._versions[session] = self._journalled(session)
        return self._versions[session]

    def serve(self, session: str, version: str | None, change: ModelChange) -> None:
        """Let a version serve from the next movie on."""
        self._journal.append(change, session)
        self._mark(session, version)
        self._metrics.model(version, utc_now() if version else None)

    def judged(self, session: str, message: Candidate) -> None:
        """Hear the gate's decision on a candidate."""
        change = ModelChange(
            version=message.version,
            result=message.result,
            reason=message.reason,
            sha256=message.sha256,
            figures=message.figures,
        )
        self._metrics.candidate(message.result)
        _log.info("model %s %s: %s", message.version, message.result, message.reason)
        if message.result == "promoted":
            self.serve(session, message.version, change)
        else:
            self._journal.append(change, session)

    def _journalled(self, session: str) -> str | None:
        """Version that the journal says serves, with the store brought in line if the daemon died in between."""
        store = ModelStore(self._layout.models(session))
        version, is_known = self._journal.serving_version(session)
        if not is_known:
            version = store.current()
        elif version not in store.versions():
            version = None
        if version != store.current():
            self._mark(session, version)
        return version

    def _mark(self, session: str, version: str | None) -> None:
        ModelStore(self._layout.models(session)).set_current(version)
        self._versions[session] = version
