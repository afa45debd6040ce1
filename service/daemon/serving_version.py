"""Decides which version of the session model is in use: journalled first, then marked in the store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from models.manifest import load_manifest
from models.versions.store import BASE, ModelStore
from service.wire.messages import NO_VERSION, ModelChange
from streamer.errors import ModelError, OutputError
from streamer.movie_record import CRYO_ZSSR, SUPER_RESOLUTION
from streamer.runtime.clock import SYSTEM, utc_text

if TYPE_CHECKING:
    from pathlib import Path

    from models.specimens import Change
    from service.health.prometheus import Metrics
    from service.journal.journal import Journal
    from service.layout import Layout
    from service.processes.messages import Candidate
    from streamer.runtime.clock import Clock

_log = logging.getLogger(__name__)

_METHODS = {SUPER_RESOLUTION: "fusion", CRYO_ZSSR: "zssr"}
"""Super-resolution method, by its network."""


class ServingVersions:
    """The serving version of each session; the order of a movie names it."""

    def __init__(
        self, layout: Layout, journal: Journal, metrics: Metrics, base: Path | None = None, clock: Clock = SYSTEM
    ) -> None:
        """``base`` is the version that a session starts with."""
        self._layout, self._journal, self._metrics, self._base, self._clock = layout, journal, metrics, base, clock
        self._versions: dict[str, str | None] = {}
        self._specimens: dict[str, int] = {}
        """Specimen in the microscope, of sessions in which it has changed."""

    def version(self, session: str) -> str | None:
        """Serving version of a session; None: the Wiener estimate. A new session starts with the base weights."""
        if session not in self._versions:
            self._versions[session] = self._journalled(session) or self._begun(session)
        return self._versions[session]

    def has_own(self, session: str, specimen: int) -> bool:
        """Whether the serving version of a session was trained on this one of its specimens."""
        version = self.version(session)
        if version is None:
            return False
        try:
            manifest = load_manifest(self._store(session).path(version))
        except ModelError:
            return False  # damaged: the worker reports it
        return not manifest.general and manifest.specimen == specimen

    def change_specimen(self, session: str, change: Change, earlier: str | None, *, fits: bool = False) -> str | None:
        """Follow a change of specimen; returns the version that is used now.

        The version in use is used on: whether it is worse for another specimen, its scores will show (``drop``). For a
        specimen that is back, the version that served it is used again, unless the one in use fits as well.

        Parameters
        ----------
        earlier : version that was used for this specimen when it was there before.
        fits : whether the version in use did on the latest movie what was to be expected of it.
        """
        store, serves = self._store(session), self.version(session)
        known = store.versions()
        self._specimens[session] = change.specimen
        if store.is_held:
            return serves
        words = f"specimen {change.specimen}: {change.reason}"
        if change.returned and earlier in known and earlier != serves and not fits:
            return self._switch(session, earlier, "returned", words)
        if serves is None and BASE in known:
            return self._switch(session, BASE, "fell-back", words)
        return serves

    def drop(self, session: str, earlier: str | None, reason: str) -> str | None:
        """Give up a version that does not fit; returns what is used now: what served before, the base, or no network.

        Parameters
        ----------
        earlier : version that was used for the specimen when it was there before.
        """
        store, serves = self._store(session), self.version(session)
        if store.is_held or serves in (BASE, None):
            return serves
        known = store.versions()
        version = earlier if earlier in known and earlier != serves else BASE if BASE in known else None
        return self._switch(session, version, "fell-back", f"{serves}: {reason}")

    def _switch(self, session: str, version: str | None, result: str, reason: str) -> str | None:
        model = ModelChange(version=version or NO_VERSION, result=result, reason=reason)
        self._metrics.candidate(result)
        self._journal.events.append(model, session)
        self._mark(session, version)
        self._metrics.model(version, utc_text(self._clock.wall()) if version else None)
        return version

    def _begun(self, session: str) -> str | None:
        """Adopt the base weights, where there are any and the session has no versions yet."""
        store = self._store(session)
        if self._base is None or store.versions() or store.is_held:
            return None
        try:
            manifest = store.adopt(self._base)
        except (ModelError, OutputError, OSError) as error:
            _log.warning("base weights: %s", error)
            return None
        reason = f"base weights, trained on {len(manifest.trained_on)} movies of other sessions"
        change = ModelChange(version=BASE, result="promoted", reason=reason, sha256=manifest.sha256)
        self.serve(session, BASE, change)
        return BASE

    def super_resolution_version(self, session: str, method: str) -> Path | None:
        """Directory of the network that a session uses for a super-resolution method."""
        store = ModelStore(self._layout.super_resolution_models(session, method))
        version = store.current()
        return None if version is None else store.path(version)

    def serve(self, session: str, version: str | None, change: ModelChange) -> None:
        """Use a version from the next movie on.

        None holds the network back: only the operator can bring it into use again.
        """
        self._journal.events.append(change, session)
        self._mark(session, version, held=version is None)
        self._metrics.model(version, utc_text(self._clock.wall()) if version else None)
        removed = self._store(session).prune()
        if removed:
            _log.info("versions removed that are no longer needed: %s", ", ".join(removed))

    def judged(self, session: str, message: Candidate) -> None:
        """Act on the gate's decision on a candidate; one that passed is used, unless the operator has chosen since."""
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
        self._journal.events.append(change, session)
        if result == "promoted" and method:
            ModelStore(self._layout.super_resolution_models(session, method)).set_current(message.version)

    def _checked(self, session: str, message: Candidate) -> tuple[str, str]:
        """Result and reason of a candidate that passed: it replaces the version it was compared with, no other."""
        store, serves = self._store(session), self.version(session)
        try:
            manifest = load_manifest(store.path(message.version))
        except ModelError as error:
            return "failed", str(error)
        if manifest.specimen != self._specimens.get(session, manifest.specimen):
            return "rejected", "it passed, but another specimen is in the microscope now"
        if store.is_held or manifest.parent != serves:
            return "rejected", f"it passed, but {serves or 'no network'} had been chosen in the meantime"
        return message.result, message.reason

    def _journalled(self, session: str) -> str | None:
        """Serving version by the journal, with the store brought in line if the daemon died in between."""
        store = self._store(session)
        version, result = self._journal.events.serving_version(session)
        if result is None:
            return store.current()
        held = version is None and result != "fell-back"
        if version not in store.versions():
            version = None
        if (version, held) != (store.current(), store.is_held):
            self._mark(session, version, held=held)
        return version

    def _mark(self, session: str, version: str | None, *, held: bool = False) -> None:
        self._store(session).set_current(version, held=held)
        self._versions[session] = version

    def _store(self, session: str) -> ModelStore:
        return ModelStore(self._layout.models(session))
