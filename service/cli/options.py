"""Types of options and options that several commands share."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from service.config import Config, load

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number within its bounds. Click's own range lets nan pass: it lies neither below nor above anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Number in the range; anything else is a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class OutputDirectory(click.Path):
    """A directory that is there or can be made: looked at before anything is computed for it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Path; a file in its place, or no right to write there, is a usage error."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
        if not there.is_dir():
            self.fail(f"{there} is a file, where a directory is needed.", param, ctx)
        if not os.access(there, os.W_OK | os.X_OK):
            self.fail(f"{there} cannot be written to.", param, ctx)
        return path


SEED = click.IntRange(0, 2**31 - 1)

_EXPOSURE = (
    ("--pixel-size", "movie.pixel_size", Number(0.01, 100), "Å/px of the file as stored."),
    ("--voltage-kv", "movie.voltage_kv", Number(20, 3000), "Acceleration voltage."),
    ("--cs-mm", "movie.cs_mm", Number(0, 100), "Spherical aberration."),
    ("--amplitude-contrast", "movie.amplitude_contrast", Number(0, 1), "Fraction."),
    ("--dose-per-frame", "movie.dose_per_frame", Number(0.001, 100), "e⁻/Å²."),
)


def configured(command: Command) -> Command:
    """Add ``--config`` and ``--set``."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a setting. May be repeated."
    )(command)
    return click.option("--config", type=click.Path(path_type=Path), help="TOML file; see streamer init.")(command)


def exposure(command: Command) -> Command:
    """Add what is known of the exposure; each option is an override of ``[movie]``."""
    for option, setting, number, text in _EXPOSURE:
        command = click.option(option, type=number, callback=_as_override(setting), expose_value=False, help=text)(
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
            # a string of JSON is one of TOML too, whatever quotes and backslashes a path holds
            quoted = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value
            context.meta.setdefault("overrides", []).append(f"{setting}={quoted}")
        return value

    return note


def load_config(config: Path | None, overrides: tuple[str, ...]) -> Config:
    """Read the configuration with all overrides of the command line; the exposure's options come last."""
    context = click.get_current_context(silent=True)
    noted = context.meta.get("overrides", []) if context else []
    return load(config, (*overrides, *noted))
