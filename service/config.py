"""The configuration: one table per concern, from TOML, with overrides; unknown keys are errors.

Every setting is defined once, with its unit, range, default and meaning, in its table's own module; ``config.toml`` and
the output of ``streamer init`` are generated from there.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from models.settings import SessionModelSettings
from service.setting_values import (
    check_numbers,
    check_paths,
    check_patterns,
    check_plausible,
    check_super_resolution,
    explained,
)
from service.wire.loopback import check_loopback
from streamer.errors import ConfigError
from streamer.settings import DataPathSettings, Table
from streamer.watch.settings import WatchSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InstanceSettings(Table, frozen=True):
    """Name, directories and limits of this daemon."""

    name: Annotated[str, Meta(description="letters, digits, . _ -; part of every topic")] = "default"
    state: Annotated[
        str | None,
        Meta(
            description="directory of journal, models and group sums; unset: systemd's StateDirectory, else the XDG "
            "state directory"
        ),
    ] = None
    runtime: Annotated[
        str | None,
        Meta(
            description="directory of the local sockets; unset: systemd's RuntimeDirectory, else the XDG runtime "
            "directory"
        ),
    ] = None
    worker_memory_gib: Annotated[
        float,
        Meta(
            ge=0,
            description="a worker that uses more memory is replaced, GiB; 0: three quarters of the machine's memory",
        ),
    ] = 0.0
    disk_reserve_gb: Annotated[
        float,
        Meta(ge=0, description="no movie is started with less free space on the output or state volume, GB"),
    ] = 20.0
    disk_reserve_percent: Annotated[
        float, Meta(ge=0, le=50, description="the same as a share of the volume, %; the smaller of the two applies")
    ] = 5.0
    worker_silence_s: Annotated[
        float, Meta(gt=0, description="a worker that begins no stage for this long counts as hung and is replaced, s")
    ] = 600.0


class SessionSettings(Table, frozen=True):
    """The name of the session."""

    name: Annotated[
        str | None,
        Meta(
            description="letters, digits, . _ -; unset: the first directory below the watched root that is not one of "
            "EPU's, else the root's name"
        ),
    ] = None


class EventSettings(Table, frozen=True):
    """ZeroMQ sockets, on loopback addresses only: connections are not authenticated yet."""

    bind: Annotated[str, Meta(description="address of the sockets and of the metrics server")] = "127.0.0.1"
    events_port: Annotated[int, Meta(ge=0, le=65535, description="port of EVENTS; 0: any free port")] = 5570
    journal_port: Annotated[int, Meta(ge=0, le=65535, description="port of JOURNAL; 0: any free port")] = 5571
    preview_port: Annotated[int, Meta(ge=0, le=65535, description="port of PREVIEW; 0: any free port")] = 5572
    retention_days: Annotated[
        float,
        Meta(
            gt=0,
            description="how long events can be requested again, days; those of a session at least until it ends",
        ),
    ] = 30.0


class MetricsSettings(Table, frozen=True):
    """The Prometheus metrics server."""

    port: Annotated[int, Meta(ge=0, le=65535, description="its port; 0: any free port")] = 9570


PREVIEW, DENOISE, SUPER_RESOLUTION = "preview", "denoise", "super-resolution"
ORDER = (PREVIEW, DENOISE, SUPER_RESOLUTION)


class OverloadSettings(Table, frozen=True):
    """What is left out when movies arrive faster than they can be processed, by the number of waiting movies."""

    preview_after: Annotated[
        int, Meta(ge=1, description="from this many waiting movies on, no thumbnails and previews are made")
    ] = 8
    denoise_after: Annotated[
        int, Meta(ge=1, description="from this many waiting movies on, the network is not applied")
    ] = 16
    super_resolution_after: Annotated[
        int, Meta(ge=1, description="from this many waiting movies on, no image at half the pixel size is made")
    ] = 24
    shed: Annotated[bool, Meta(description="false: nothing is left out, and the queue grows")] = True

    def __post_init__(self) -> None:
        if not self.preview_after <= self.denoise_after <= self.super_resolution_after:
            raise ValueError(
                "steps are left out in this order: preview_after <= denoise_after <= super_resolution_after"
            )


class Config(DataPathSettings, frozen=True):
    """All settings of a daemon: those of the data path, and its own."""

    instance: InstanceSettings = InstanceSettings()
    session: SessionSettings = SessionSettings()
    watch: WatchSettings = WatchSettings()
    session_model: SessionModelSettings = SessionModelSettings()
    events: EventSettings = EventSettings()
    metrics: MetricsSettings = MetricsSettings()
    overload: OverloadSettings = OverloadSettings()


TABLES = (
    *("instance", "session", "watch", "movie", "eer", "gain", "motion", "super_resolution", "denoise"),
    *("session_model", "ctf", "quality", "outputs", "events", "metrics", "overload", "compute"),
)
"""In the order of the commented default: from what is set first to what is seldom touched."""
ANY_FREE_PORTS = """
[events]
events_port = 0
journal_port = 0
preview_port = 0

[metrics]
port = 0
"""
"""Settings, as text, of a daemon that must not collide with another one: for a demo or a measurement."""


def load(path: Path | None, overrides: tuple[str, ...] = ()) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path : TOML file; None for the defaults alone.
    overrides : ``table.key=value`` each, the value in TOML (a bare word is a string); applied last.

    Raises
    ------
    ConfigError
        The file cannot be read or parsed, a key is unknown, a value has the wrong type or range.
    """
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            hint = "streamer init writes a configuration to start from"
            found = error.strerror or ""
            raise ConfigError("the configuration cannot be read", where=path, found=found, hint=hint) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            hint = "text and paths stand in quotes, decimals have a point, and the file is UTF-8"
            raise ConfigError(f"not valid TOML: {error}", where=path, hint=hint) from error
    for text in overrides:
        _override(tables, text)
    return _checked(tables, str(path) if path else "--set")


def _override(tables: dict[str, Any], text: str) -> None:
    """Put one ``table.key=value`` into the tables."""
    name, equals, value = text.partition("=")
    table, dot, key = name.strip().partition(".")
    if not (equals and dot and table and key):
        hint = "for example: --set movie.pixel_size=0.834"
        raise ConfigError("not an override", where="--set", expected="table.key=value", found=text, hint=hint)
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    place = tables.setdefault(table, {})
    if not isinstance(place, dict):
        raise ConfigError("not a table", where="--set", found=table, hint=f"write [{table}] on a line of its own")
    place[key] = parsed


def _checked(tables: dict[str, Any], where: str) -> Config:
    """Convert, and explain what is wrong."""
    _check_names(tables, where)
    check_plausible(tables, where)
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        kinds = {table: type(getattr(Config(), table)) for table in Config.__struct_fields__}
        raise explained(error, tables, kinds, where) from error
    _check_texts(config, where)
    check_paths(_paths(config), where)
    check_patterns(config.watch, where)
    check_super_resolution(config, where)
    check_numbers(config, where)
    _check_sockets(config, where)
    return config


def _check_names(tables: dict[str, Any], where: str) -> None:
    for table, content in tables.items():
        if table not in Config.__struct_fields__:
            raise ConfigError("unknown table", where=where, found=f"[{table}]", hint=_nearest(table, Config))
        if not isinstance(content, dict):
            hint = f"write [{table}] on a line of its own, and its settings below it"
            raise ConfigError("not a table", where=where, found=table, hint=hint)
        kind = type(getattr(Config(), table))
        for key in content:
            if key not in kind.__struct_fields__:
                hint = _nearest(key, kind)
                raise ConfigError("unknown setting", where=where, found=f"{table}.{key}", hint=hint)


def _nearest(name: str, kind: type[Table]) -> str:
    known = kind.__struct_fields__
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _check_texts(config: Config, where: str) -> None:
    """Names become directories and topics unchanged, so that what the user typed is what is found there."""
    for key, name, most in (("instance.name", config.instance.name, 32), ("session.name", config.session.name, 64)):
        if name is not None and not (_NAME.fullmatch(name) and len(name) <= most):
            expected = f"letters, digits, . _ - (at most {most}, the first a letter or digit)"
            hint = "choose another name: it becomes a directory and part of every event's topic"
            found = f"{key} = '{name}'"
            raise ConfigError("not a valid name", where=where, expected=expected, found=found, hint=hint)


def _paths(config: Config) -> Iterator[tuple[str, str | None]]:
    """Settings that are paths, whether or not they are set."""
    yield from (
        ("watch.root", config.watch.root),
        ("outputs.root", config.outputs.root),
        ("watch.metadata_root", config.watch.metadata_root),
        ("movie.gain", config.movie.gain),
        ("gain.defects", config.gain.defects),
        ("eer.integration", config.eer.integration),
        ("super_resolution.mtf", config.super_resolution.mtf),
        ("super_resolution.model", config.super_resolution.model),
        ("session_model.base", config.session_model.base),
        ("instance.state", config.instance.state),
        ("instance.runtime", config.instance.runtime),
    )
    for path in config.watch.follow_links_to:
        yield "watch.follow_links_to", path


def _check_sockets(config: Config, where: str) -> None:
    """No port is used twice, and no address is beyond this machine."""
    check_loopback(config.events.bind, f"{where}: events.bind")
    ports = {
        "events.events_port": config.events.events_port,
        "events.journal_port": config.events.journal_port,
        "events.preview_port": config.events.preview_port,
        "metrics.port": config.metrics.port,
    }
    used = [port for port in ports.values() if port]
    if len(set(used)) < len(used):
        found = ", ".join(f"{name} = {port}" for name, port in ports.items())
        hint = "give each its own port; 0 takes any free one"
        raise ConfigError(
            "two sockets share a port", where=where, expected="different ports, or 0", found=found, hint=hint
        )


# ----------------------------------------------------------------------------------------- the commented default


def default_text() -> str:
    """Return the commented default configuration; reading it back gives ``Config()``."""
    lines = ["# cryoem-streamer: every setting with its default. Unknown keys are errors.", ""]
    for table in TABLES:
        kind = type(getattr(Config(), table))
        lines += [f"[{table}]", *(f"# {line}" for line in (kind.__doc__ or "").strip().splitlines()[:1]), ""]
        hints = get_type_hints(kind, include_extras=True)
        for key in kind.__struct_fields__:
            lines += [f"# {_described(hints[key])}", _line(key, getattr(getattr(Config(), table), key)), ""]
    return "\n".join(lines)


def _described(hint: Any) -> str:
    """Return the description of an annotated field."""
    found = [part.description for part in get_args(hint)[1:] if isinstance(part, Meta) and part.description]
    if not found:
        raise TypeError(f"a setting without a description: {hint}")
    return str(found[0])


def _line(key: str, value: object) -> str:
    if value is None:
        return f"# {key} ="
    return f"{key} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
