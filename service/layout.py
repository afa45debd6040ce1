"""Where a daemon keeps its files, and the check that its directories do not overlap."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from models.versions.store import SUPER_RESOLUTION_MODELS
from streamer.errors import ConfigError, ServiceError
from streamer.writers.atomic import write_atomically

if TYPE_CHECKING:
    from service.config import Config
    from streamer.records import Movie

ENDPOINTS_FILE = "endpoints.json"
EVENTS_FILE, JOURNAL_FILE, PREVIEW_FILE = SOCKET_FILES = "events.sock", "journal.sock", "preview.sock"
"""Local sockets, in the runtime directory."""
SOCKET_PATH_BYTES = 107
"""Longest name of a local socket that the system allows."""
_UNSET_ROOT = "movies"
"""Below which commands on single files look for a session where no root is set; a daemon asks for one."""


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a running daemon; written when its sockets are open."""

    instance: str
    events: str
    journal: str
    local: str
    """Journal socket for the operator's commands, ipc."""
    metrics: str
    pid: int
    preview: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Directories of one instance."""

    root: Path
    """Watched."""
    output: Path
    state: Path
    runtime: Path

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.state / "journal.sqlite"

    @property
    def endpoints(self) -> Path:
        """File in which a running daemon says how to reach it."""
        return self.state / ENDPOINTS_FILE

    def session_output(self, session: str) -> Path:
        """Where a session's results are written."""
        return self.output / session

    def movie_output(self, movie: Movie) -> Path:
        """Where all revisions of a movie are written."""
        return self.session_output(movie.session) / "movies" / movie.relative

    def session_state(self, session: str) -> Path:
        """Where a session's models and roles are kept."""
        return self.state / "sessions" / session

    def made_gains(self, session: str) -> Path:
        """Gain references made from a session's movies."""
        return self.session_state(session) / "gain"

    def models(self, session: str) -> Path:
        """Store of a session's versions."""
        return self.session_state(session) / "models"

    def super_resolution_models(self, session: str, method: str) -> Path:
        """Store of a session's networks for a super-resolution method."""
        return self.session_state(session) / SUPER_RESOLUTION_MODELS[method]

    def training_data(self, movie_id: str) -> Path:
        """A movie's training data for a super-resolution network."""
        return self.state / "lessons" / f"{movie_id}.safetensors"

    def groups(self, movie_id: str) -> Path:
        """A movie's frame-group sums."""
        return self.state / "groups" / f"{movie_id}.safetensors"


def layout_of(config: Config) -> Layout:
    """Resolve all directories; raises ConfigError where one would contain another."""
    name = config.instance.name
    home = Path.home() / ".local" / "state" / "cryoem-streamer" / name
    state = _directory(config.instance.state, "STATE_DIRECTORY", "XDG_STATE_HOME", home, name)
    runtime = _directory(config.instance.runtime, "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", state / "run", name)
    layout = Layout(
        root=Path(config.watch.root or _UNSET_ROOT).absolute(),
        output=Path(config.outputs.root).absolute(),
        state=state,
        runtime=runtime,
    )
    for one, other in (("output", layout.output), ("state", layout.state)):
        if _contains(layout.root, other) or _contains(other, layout.root):
            raise ConfigError(
                "the watched root and the output and state directories must not contain each other",
                where=f"watch.root = {layout.root}",
                found=f"{one} = {other}",
                hint="results could be mistaken for movies, or movies for results: choose a directory beside it",
            )
    return layout


def prepare(layout: Layout) -> None:
    """Create the directories; raises ServiceError where one cannot be created."""
    for directory in (layout.state, layout.runtime, layout.output):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise ServiceError(
                "the directory cannot be created",
                where=directory,
                found=(error.strerror or "").lower(),
                hint="give the user who runs this the right to create it, or set another; see streamer check-config",
            ) from error


def write_endpoints(layout: Layout, endpoints: Endpoints) -> None:
    """Let other programs on this machine know how to reach the daemon."""
    write_atomically(layout.endpoints, msgspec.json.encode(endpoints))


def read_endpoints(layout: Layout) -> Endpoints | None:
    """Endpoints of the daemon that is running here, or that ran here last."""
    try:
        return msgspec.json.decode(layout.endpoints.read_bytes(), type=Endpoints)
    except (OSError, msgspec.DecodeError):
        return None


def _directory(setting: str | None, systemd: str, xdg: str, default: Path, instance: str) -> Path:
    """A setting, else systemd's, else XDG's, else the default; made absolute, not created."""
    if setting is not None:
        return Path(setting).absolute()
    if os.environ.get(systemd):
        return Path(os.environ[systemd].split(":")[0])
    base = os.environ.get(xdg)
    return Path(base) / "cryoem-streamer" / instance if base else default


def _contains(outer: Path, inner: Path) -> bool:
    return inner.resolve().is_relative_to(outer.resolve())
