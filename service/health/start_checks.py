"""What a daemon needs to start, tried beforehand: directories, sockets, the files that the settings name.

``refuse_hopeless`` is for ``run``: only what no waiting can heal, so that a volume that is not mounted yet stops
nothing. The others each try one thing and say what they found; ``streamer check-config`` prints it. No torch.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from service.health.disks import space_of
from service.health.reserve import kept_free
from service.journal.database import is_locked
from service.layout import SOCKET_FILES, SOCKET_PATH_BYTES, read_endpoints
from service.named_versions import check_versions
from service.wire.loopback import check_loopback
from streamer.errors import ConfigError
from streamer.settings import NO_GAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.config import Config
    from service.layout import Layout


_NOT_A_FILE = "name the directory, not a file in it"


class Finding(Struct, frozen=True, kw_only=True):
    """What came of one check."""

    check: str
    verdict: Literal["ok", "warning", "problem"]
    found: str
    cure: str = ""
    """What to do; empty where nothing is to be done."""

    @property
    def words(self) -> str:
        """The finding on one line, with the cure."""
        return f"{self.found}; {self.cure}" if self.cure else self.found


def refuse_hopeless(config: Config, layout: Layout) -> None:
    """Raise ConfigError for what would be wrong tomorrow too: no root, a file in the way, an absent named file."""
    root = config.watch.directory()
    if root.is_file():
        raise ConfigError("is a file", where=f"watch.root = {root}", expected="a directory", hint=_NOT_A_FILE)
    for setting, directory in directories(layout).items():
        obstacle = _obstacle(directory)
        if obstacle is not None:
            what = f"{setting} cannot be created"
            raise ConfigError(what, where=directory, found=obstacle, hint=_choose(setting))
    for setting, path in named_files(config).items():
        problem = _problem_of_file(path)
        if problem is not None:
            raise ConfigError(f"the file that {setting} names {problem}", where=path, hint=_correct(setting))
    check_versions(config)


def directories(layout: Layout) -> dict[str, Path]:
    """Directories that a daemon writes to, by setting."""
    return {"outputs.root": layout.output, "instance.state": layout.state, "instance.runtime": layout.runtime}


def named_files(config: Config) -> dict[str, Path]:
    """Files that the settings name, by setting."""
    named = {
        "movie.gain": None if config.movie.gain == NO_GAIN else config.movie.gain,
        "gain.defects": config.gain.defects,
        "eer.integration": config.eer.integration,
        "super_resolution.mtf": config.super_resolution.mtf,
    }
    return {setting: Path(path).absolute() for setting, path in named.items() if path is not None}


def check_file(setting: str, path: Path) -> Finding:
    """Whether a named file is there and can be opened."""
    problem = _problem_of_file(path)
    if problem is None:
        return Finding(check=setting, verdict="ok", found=str(path))
    return Finding(check=setting, verdict="problem", found=f"{path} {problem}", cure=_correct(setting))


def _problem_of_file(path: Path) -> str | None:
    """What is wrong with a file that is to be read, to be put after its name; None: it can be opened."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "is a directory"
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be opened: {_reason(error)}"
    return "is empty" if status.st_size == 0 else None


def _correct(setting: str) -> str:
    return f"correct {setting}, or leave it out"


def check_root(config: Config, layout: Layout) -> Finding:
    """Whether the watched root can be listed; it need not exist yet."""
    name, root = "watched root", layout.root
    try:
        config.watch.directory()
    except ConfigError as error:
        return Finding(check=name, verdict="problem", found=error.what, cure=error.hint)
    if not os.path.lexists(root):
        cure = f"movies are awaited; check {'the name' if root.parent.is_dir() else 'that its volume is mounted'}"
        return Finding(check=name, verdict="warning", found=f"{root}  (does not exist yet)", cure=cure)
    return _listed(name, root)


def check_metadata_root(config: Config) -> Finding | None:
    """Whether the directory of EPU's XML files can be listed, if one is set."""
    setting, name = "watch.metadata_root", "metadata root"
    if config.watch.metadata_root is None:
        return None
    path = Path(config.watch.metadata_root).absolute()
    if not os.path.lexists(path):
        cure = f"movies are processed without their XML files until it does: correct {setting}, or mount its volume"
        return Finding(check=name, verdict="warning", found=f"{path}  (does not exist yet)", cure=cure)
    return _listed(name, path)


def check_links(config: Config) -> Iterator[Finding]:
    """Whether the places to which links may lead can be listed."""
    name = "links to"
    for place in config.watch.places:
        if os.path.lexists(place):
            yield _listed(name, Path(place))
            continue
        cure = "no link to it is followed until it does: correct watch.follow_links_to, or mount its volume"
        yield Finding(check=name, verdict="warning", found=f"{place}  (does not exist yet)", cure=cure)


def _listed(name: str, path: Path) -> Finding:
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except NotADirectoryError:
        return Finding(check=name, verdict="problem", found=f"{path} is a file", cure=_NOT_A_FILE)
    except OSError as error:
        cure = "give the daemon's user the right to read it"
        return Finding(check=name, verdict="problem", found=f"{path} cannot be listed: {_reason(error)}", cure=cure)
    return Finding(check=name, verdict="ok", found=str(path))


def check_writable(name: str, setting: str, directory: Path) -> Finding:
    """Try to write where results go; whatever is made for that is removed again.

    A directory that is not there yet is made by ``run``: that is tried in the nearest one above it that is there.
    """
    cure, obstacle = _choose(setting), _obstacle(directory)
    if obstacle is not None:
        return Finding(check=name, verdict="problem", found=f"{directory} cannot be created: {obstacle}", cure=cure)
    there = _nearest(directory)
    try:
        if there == directory:
            with tempfile.NamedTemporaryFile(dir=there, prefix=".streamer-check-") as probe:
                probe.write(b"\0" * 4096)
                probe.flush()
                os.fsync(probe.fileno())
        else:
            Path(tempfile.mkdtemp(dir=there, prefix=".streamer-check-")).rmdir()
    except OSError as error:
        what = "written" if there == directory else f"created in {there}"
        found = f"{directory} cannot be {what}: {_reason(error)}"
        return Finding(check=name, verdict="problem", found=found, cure=cure)
    note = "" if there == directory else "  (will be created)"
    return Finding(check=name, verdict="ok", found=f"{directory}{note}")


def _obstacle(directory: Path) -> str | None:
    """What stands where a directory is to be, or where one above it is; None: nothing."""
    there = _nearest(directory)
    if there.is_dir():
        return None
    return f"{there} {'is a file' if there.exists() else 'is a link that leads nowhere'}"


def _nearest(directory: Path) -> Path:
    """The directory, or the nearest one above it, that is there."""
    return next(place for place in (directory, *directory.parents) if os.path.lexists(place))


def _choose(setting: str) -> str:
    return f"set {setting} to a directory that the daemon's user can write"


def check_space(config: Config, layout: Layout) -> Iterator[Finding]:
    """Free space of the volumes against what is kept free."""
    for name, directory in (("output", layout.output), ("state", layout.state)):
        space = space_of(directory)
        if space is None or not space.total:
            continue  # not to be known now
        reserve = kept_free(config.instance, space)
        found = f"{space.free / 1e9:.1f} GB free, {reserve / 1e9:.1f} GB are kept free"
        is_short = space.free < reserve
        yield Finding(
            check=f"{name} space",
            verdict="warning" if is_short else "ok",
            found=found,
            cure="no movie is started until you free some space, or lower instance.disk_reserve_gb" if is_short else "",
        )


def check_sockets(config: Config, layout: Layout) -> Iterator[Finding]:
    """Whether the ports can be bound, and the names of the local sockets are short enough."""
    events, scheme = config.events, {"metrics": "http"}
    ours = read_endpoints(layout) if is_locked(layout.state) else None
    opened = () if ours is None else (ours.events, ours.journal, ours.preview, ours.metrics.removesuffix("/metrics"))
    for name, port, setting in (
        ("events", events.events_port, "events.events_port"),
        ("journal", events.journal_port, "events.journal_port"),
        ("preview", events.preview_port, "events.preview_port"),
        ("metrics", config.metrics.port, "metrics.port"),
    ):
        address = f"{scheme.get(name, 'tcp')}://{events.bind}:{port or '(any free port)'}"
        problem = None if port == 0 else _problem_of_port(events.bind, port)
        if problem is not None and any(endpoint.endswith(f":{port}") for endpoint in opened):
            yield Finding(check=name, verdict="ok", found=f"{address}  (in use: this instance is running)")
        elif problem is not None:
            cure = f"stop the program that uses it, or choose another {setting}; 0 takes any free one"
            yield Finding(check=name, verdict="problem", found=f"{address} {problem}", cure=cure)
        else:
            yield Finding(check=name, verdict="ok", found=address)
    yield check_writable("local sockets", "instance.runtime", layout.runtime)
    length = max(len(os.fsencode(layout.runtime / name)) for name in SOCKET_FILES)
    if length > SOCKET_PATH_BYTES:
        found = f"names of {length} bytes below {layout.runtime}, the system allows {SOCKET_PATH_BYTES}"
        cure = "set instance.runtime to a directory with a shorter name, such as /run/user/1000/streamer"
        yield Finding(check="local sockets", verdict="problem", found=found, cure=cure)


def _problem_of_port(bind: str, port: int) -> str | None:
    """Why a port cannot be used; None: it can."""
    address = check_loopback(bind, "events.bind")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # as the daemon binds it: a port whose last connections are still fading is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
    except OSError as error:
        return f"cannot be used: {_reason(error)}"
    return None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
