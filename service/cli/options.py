"""Option types, and options shared by several commands."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.config import Config, load
from service.setting_values import QUANTITIES

if TYPE_CHECKING:
    from streamer.plausible import Quantity

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number within its bounds. Click's own range lets nan pass: it is neither below nor above a bound."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Number in the range; anything else is a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Physical(Number):
    """A quantity of the microscope; one that it cannot have is refused with the likely intention."""

    def __init__(self, quantity: Quantity) -> None:
        super().__init__(quantity.least, quantity.most)
        self._quantity = quantity

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Number that the quantity can have; anything else is a usage error."""
        with suppress(ValueError):
            problem = self._quantity.problem(float(value))
            if problem is not None:
                self.fail(f"no microscope has this {self._quantity.name}: {problem}.", param, ctx)
        return super().convert(value, param, ctx)


class OutputDirectory(click.Path):
    """A directory that exists or can be created; checked before anything is computed for it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Path; a file in its place, or missing write permission, is a usage error."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
        if not there.is_dir():
            self.fail(f"{there} is a file; a directory is needed.", param, ctx)
        if not os.access(there, os.W_OK | os.X_OK):
            self.fail(f"{there} is not writable.", param, ctx)
        return path


SEED = click.IntRange(0, 2**31 - 1)

_EXPOSURE = (
    ("--pixel-size", "movie.pixel_size", "Pixel size of the file as stored, Å/px."),
    ("--voltage-kv", "movie.voltage_kv", "Acceleration voltage, kV."),
    ("--cs-mm", "movie.cs_mm", "Spherical aberration, mm."),
    ("--amplitude-contrast", "movie.amplitude_contrast", "Amplitude contrast, a fraction."),
    ("--dose-per-frame", "movie.dose_per_frame", "Dose per frame, e⁻/Å²."),
)
_OPTICS = 4
"""How many of them an image needs that is no movie."""


def configured(command: Command) -> Command:
    """Add ``--config`` and ``--set``."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a setting. May be repeated."
    )(command)
    return click.option(
        "--config", type=click.Path(path_type=Path), help="Configuration file; streamer init writes one."
    )(command)


def optics(command: Command) -> Command:
    """Add pixel size and the microscope's constants; each overrides a setting in ``[movie]``."""
    return _with_options(command, _EXPOSURE[:_OPTICS])


def exposure(command: Command) -> Command:
    """Add the exposure options; each overrides a setting in ``[movie]``."""
    command = _with_options(command, _EXPOSURE)
    return click.option(
        "--gain",
        type=str,
        callback=_as_override("movie.gain"),
        expose_value=False,
        help="Gain reference to apply.",
    )(command)


def _with_options(command: Command, options: tuple[tuple[str, str, str], ...]) -> Command:
    for option, setting, text in options:
        number = Physical(QUANTITIES[setting])
        command = click.option(option, type=number, callback=_as_override(setting), expose_value=False, help=text)(
            command
        )
    return command


def _as_override(setting: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def note(context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            # a JSON string is also a TOML string, whatever quotes and backslashes a path contains
            quoted = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value
            context.meta.setdefault("overrides", []).append(f"{setting}={quoted}")
        return value

    return note


def load_config(config: Path | None, overrides: tuple[str, ...]) -> Config:
    """Read the configuration with all overrides from the command line; exposure options are applied last."""
    context = click.get_current_context(silent=True)
    noted = context.meta.get("overrides", []) if context else []
    return load(config, (*overrides, *noted))
