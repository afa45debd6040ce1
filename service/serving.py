"""Which version of the session model serves: journalled first, then marked in the store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from models.manifest import load_manifest
from models.store import ModelStore
from service.messages import CRYO_ZSSR, SUPER_RESOLUTION, ModelChange
from streamer.errors import ModelError
from streamer.stopwatch import utc_now

if TYPE_CHECKING:
    from pathlib import Path

    from service.journal import Journal
    from service.layout import Layout
    from service.pipes import Candidate
    from service.prometheus import Metrics

_log = logging.getLogger(__name__)

_METHODS = {SUPER_RESOLUTION: "fusion", CRYO_ZSSR: "zssr"}
"""Of super-resolution, by the network that serves it."""


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

    def fine_version(self, session: str, method: str) -> Path | None:
        """Directory of the network that serves a session for a method of super-resolution."""
        store = ModelStore(self._layout.fine_models(session, method))
        version = store.current()
        return None if version is None else store.path(version)

    def serve(self, session: str, version: str | None, change: ModelChange) -> None:
        """Let a version serve from the next movie on.

        None holds the network back: only the operator brings it into service again.
        """
        self._journal.append(change, session)
        self._mark(session, version, held=version is None)
        self._metrics.model(version, utc_now() if version else None)
        removed = self._store(session).prune()
        if removed:
            _log.info("versions removed, as nobody will go back to them: %s", ", ".join(removed))

    def judged(self, session: str, message: Candidate) -> None:
        """Hear the gate's decision on a candidate; one that passed serves, unless the operator has chosen since."""
        result, reason, method = message.result, message.reason, _METHODS.get(message.network)
        if result == "promoted" and method is None:
            result, reason = self._checked(session, message)
        change = ModelChange(
            version=message.version,
            result=result,
            reason=reason,
            sha256=message.sha256,
            figures=message.figures,
            network=message.network,
        )
        self._metrics.candidate(result, message.network)
        _log.info("%s %s %s: %s", message.network, message.version, result, reason)
        if result == "promoted" and method is None:
            self.serve(session, message.version, change)
            return
        self._journal.append(change, session)
        if result == "promoted" and method:
            ModelStore(self._layout.fine_models(session, method)).set_current(message.version)

    def _checked(self, session: str, message: Candidate) -> tuple[str, str]:
        """Result and reason of a candidate that passed: it replaces the version it was compared with, no other."""
        store, serves = self._store(session), self.version(session)
        try:
            compared_with = load_manifest(store.path(message.version)).parent
        except ModelError as error:
            return "failed", str(error)
        if store.is_held or compared_with != serves:
            return "rejected", f"it passed, but the operator had chosen {serves or 'no network'} meanwhile"
        return message.result, message.reason

    def _journalled(self, session: str) -> str | None:
        """Version that the journal says serves, with the store brought in line if the daemon died in between."""
        store = self._store(session)
        version, is_known = self._journal.serving_version(session)
        if not is_known:
            return store.current()
        held = version is None
        if version not in store.versions():
            version = None
        if (version, held) != (store.current(), store.is_held):
            self._mark(session, version, held=held)
        return version

    def _mark(self, session: str, version: str | None, *, held: bool) -> None:
        self._store(session).set_current(version, held=held)
        self._versions[session] = version

    def _store(self, session: str) -> ModelStore:
        return ModelStore(self._layout.models(session))
