"""The commands that an operator may give a running daemon over its local socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from models.versions.store import ModelStore
from service.wire.messages import NO_VERSION, ModelChange
from streamer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.daemon.serving_version import ServingVersions
    from service.journal.journal import Journal
    from service.layout import Layout


class Movies(Protocol):
    """The movies of the current session, as far as an operator decides about them."""

    session: str

    def waits_no_more(self, movie_id: str) -> None:
        """Called when a movie was skipped: nothing needs fixing for it any more."""


class Trainer(Protocol):
    """Trains the session's networks."""

    def serving(self, session: str, version: str | None) -> None:
        """Called when the operator has chosen another version."""


class Commanded(Protocol):
    """What commands act on: a running daemon, or the files of a stopped one."""

    paused: bool

    @property
    def layout(self) -> Layout:
        """Directories of the instance."""

    @property
    def journal(self) -> Journal:
        """States of the movies, and the events."""

    @property
    def versions(self) -> ServingVersions:
        """The serving versions."""

    @property
    def movies(self) -> Movies:
        """Movies in progress."""

    @property
    def trainer(self) -> Trainer:
        """The trainer."""


class StoppedDaemon:
    """What commands act on while no daemon is running: the journal and the stored versions. A ``Commanded``.

    It is its own ``Movies`` and ``Trainer``: no movie is in progress and nothing is trained.
    """

    def __init__(self, layout: Layout, journal: Journal, versions: ServingVersions, session: str) -> None:
        self.layout, self.journal, self.versions, self.session = layout, journal, versions, session
        self.paused = False
        self.movies = self.trainer = self

    def waits_no_more(self, movie_id: str) -> None:
        """Do nothing: no alarm waits for a movie."""

    def serving(self, session: str, version: str | None) -> None:
        """Do nothing: the next daemon reads it from the journal."""


class Operator:
    """Carries out the verbs of CONTROL."""

    def __init__(self, commanded: Commanded) -> None:
        self._commanded = commanded

    def carry_out(self, verb: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Do what was asked; raises UsageError where it cannot be done."""
        match verb:
            case "pause" | "resume":
                self._commanded.paused = verb == "pause"
                return {"paused": self._commanded.paused}
            case "retry":
                movie = self._commanded.journal.retry(_needed(arguments, "movie_id"))
                return {"state": movie.state, "revision": movie.revision}
            case "skip":
                self._commanded.journal.skip(_needed(arguments, "movie_id"), arguments.get("reason", "by the operator"))
                self._commanded.movies.waits_no_more(_needed(arguments, "movie_id"))
                return {"state": "skipped"}
            case "promote":
                return self._serve(arguments, _needed(arguments, "version"), "promoted")
            case "rollback":
                return self._serve(arguments, self._previous(arguments), "rolled-back")
            case _:
                raise UsageError("unknown verb", found=verb, hint="it may be of a newer version of this program")

    def _session(self, arguments: Mapping[str, str]) -> str:
        return arguments.get("session") or self._commanded.movies.session

    def _previous(self, arguments: Mapping[str, str]) -> str | None:
        """Version that the serving one was trained from; None: no network."""
        store = ModelStore(self._commanded.layout.models(self._session(arguments)))
        current = self._commanded.versions.version(self._session(arguments))
        if current is None:
            raise UsageError(
                "no version is in use: there is nothing to roll back",
                where=store.directory,
                hint="streamer models list shows the versions, streamer models promote chooses one",
            )
        return store.before(current)

    def _serve(self, arguments: Mapping[str, str], model: str | None, result: str) -> dict[str, Any]:
        session = self._session(arguments)
        if model is not None:
            # what an operator has chosen by name stays, whatever is trained after it
            store = ModelStore(self._commanded.layout.models(session))
            store.path(model)
            if result == "promoted":
                store.pin(model)
        change = ModelChange(version=model or NO_VERSION, result=result, reason="by the operator")
        self._commanded.versions.serve(session, model, change)
        self._commanded.trainer.serving(session, model)
        return {"version": model}


def _needed(arguments: Mapping[str, str], name: str) -> str:
    if not arguments.get(name):
        raise UsageError(
            "an argument is missing", expected=name, hint="see streamer movies --help and streamer models --help"
        )
    return arguments[name]
