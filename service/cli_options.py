"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from service.client import Client
from service.config import Config, load
from service.layout import layout_of, read_endpoints

Command = TypeVar("Command", bound=Callable[..., Any])

_EXPOSURE = (
    ("--pixel-size", "movie.pixel_size", "Å/px of the file as stored."),
    ("--voltage-kv", "movie.voltage_kv", "Acceleration voltage."),
    ("--cs-mm", "movie.cs_mm", "Spherical aberration."),
    ("--amplitude-contrast", "movie.amplitude_contrast", "Fraction."),
    ("--dose-per-frame", "movie.dose_per_frame", "e⁻/Å²."),
)


def configured(command: Command) -> Command:
    """Add ``--config`` and ``--set``."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a setting. May be repeated."
    )(command)
    return click.option("--config", type=click.Path(path_type=Path), help="TOML file; see streamer init.")(command)


def exposure(command: Command) -> Command:
    """Add what is known of the exposure; each option is an override of ``[movie]``."""
    for option, setting, text in _EXPOSURE:
        command = click.option(option, type=float, callback=_as_override(setting), expose_value=False, help=text)(
            command
        )
    return click.option(
        "--gain",
        type=str,
        callback=_as_override("movie.gain"),
        expose_value=False,
        help="Gain reference to multiply with.",
    )(command)


def _as_override(setting: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def note(context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            quoted = f'"{value}"' if isinstance(value, str) else value
            context.meta.setdefault("overrides", []).append(f"{setting}={quoted}")
        return value

    return note


def load_config(config: Path | None, overrides: tuple[str, ...]) -> Config:
    """Read the configuration with all overrides of the command line; the exposure's options come last."""
    context = click.get_current_context(silent=True)
    noted = context.meta.get("overrides", []) if context else []
    return load(config, (*overrides, *noted))


def connection(config: Config, *, kinds: Collection[str] | None = None, local: bool = False) -> Client:
    """Client of the daemon that this configuration describes, wherever its sockets are.

    Parameters
    ----------
    local : use the operator's socket, over which commands are accepted.
    """
    known = read_endpoints(layout_of(config))
    bind, events = config.events.bind, config.events
    return Client(
        known.events if known else f"tcp://{bind}:{events.events_port}",
        (known.local if local else known.journal) if known else f"tcp://{bind}:{events.journal_port}",
        instance=config.instance.name,
        kinds=kinds,
        name="streamer",
    )
