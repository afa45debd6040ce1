"""What an operator may tell a running daemon over its local socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.versions.store import ModelStore
from service.wire.messages import NO_VERSION, ModelChange
from streamer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.daemon.loop import Daemon


class Control:
    """Carries out the verbs of CONTROL."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def carry_out(self, verb: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Do what was asked; raises UsageError where it cannot be done."""
        match verb:
            case "pause" | "resume":
                self._daemon.paused = verb == "pause"
                return {"paused": self._daemon.paused}
            case "retry":
                movie = self._daemon.journal.retry(_needed(arguments, "movie_id"))
                return {"state": movie.state, "revision": movie.movie.revision}
            case "skip":
                self._daemon.journal.skip(_needed(arguments, "movie_id"), arguments.get("reason", "by the operator"))
                self._daemon.desk.waits_no_more(_needed(arguments, "movie_id"))
                return {"state": "skipped"}
            case "promote":
                return self._serve(arguments, _needed(arguments, "version"), "promoted")
            case "rollback":
                return self._serve(arguments, self._previous(arguments), "rolled-back")
            case _:
                raise UsageError("unknown verb", found=verb)

    def _session(self, arguments: Mapping[str, str]) -> str:
        return arguments.get("session") or self._daemon.desk.session

    def _previous(self, arguments: Mapping[str, str]) -> str | None:
        """Version that the serving one was trained from; None: no network."""
        store = ModelStore(self._daemon.layout.models(self._session(arguments)))
        current = self._daemon.serving.version(self._session(arguments))
        if current is None:
            raise UsageError("no version serves: there is nothing to roll back", where=store.directory)
        return store.before(current)

    def _serve(self, arguments: Mapping[str, str], model: str | None, result: str) -> dict[str, Any]:
        session = self._session(arguments)
        if model is not None:
            # what an operator has chosen by name stays, whatever is trained after it
            store = ModelStore(self._daemon.layout.models(session))
            store.path(model)
            if result == "promoted":
                store.pin(model)
        change = ModelChange(version=model or NO_VERSION, result=result, reason="by the operator")
        self._daemon.serving.serve(session, model, change)
        self._daemon.teacher.serving(session, model)
        return {"version": model}


def _needed(arguments: Mapping[str, str], name: str) -> str:
    if not arguments.get(name):
        raise UsageError("an argument is missing", expected=name)
    return arguments[name]
