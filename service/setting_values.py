"""What the types of the settings cannot express, and what is wrong with a value in the words of who typed it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from streamer.errors import ConfigError
from streamer.plausible import (
    AMPLITUDE_CONTRAST,
    CS,
    DOSE_PER_FRAME,
    EXPOSURE,
    LARGEST_SHIFT,
    MAGNIFICATION,
    PIXEL_SIZE,
    RESOLUTION,
    VOLTAGE,
    Quantity,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamer.settings import DataPathSettings
    from streamer.watch.settings import WatchSettings

QUANTITIES: Mapping[str, Quantity] = {
    "movie.pixel_size": PIXEL_SIZE,
    "movie.voltage_kv": VOLTAGE,
    "movie.cs_mm": CS,
    "movie.amplitude_contrast": AMPLITUDE_CONTRAST,
    "movie.dose_per_frame": DOSE_PER_FRAME,
    "movie.pre_exposure": EXPOSURE,
    "eer.dose_per_fraction": DOSE_PER_FRAME,
    "motion.max_shift_angstrom": LARGEST_SHIFT,
    "denoise.resolution": RESOLUTION,
    "denoise.low": RESOLUTION,
    "quality.band_low": RESOLUTION,
    "quality.band_high": RESOLUTION,
    "ctf.band_low": RESOLUTION,
    "ctf.band_high": RESOLUTION,
}
"""Settings that are quantities of the microscope."""
_CALIBRATION = "pixel_size_by_magnification"

_PLACE = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?([^`]*)`)?", re.DOTALL)
_OTHER_TYPE = re.compile(r"Expected `([^`]+)`, got `[^`]+`")
_BOUND = re.compile(r"Expected `[^`]+` (>=|<=|>|<) (\S+)")
_HOME = re.compile(r"~[^/]*(?:/|$)")
_VARIABLE = re.compile(r"(?:^|/)\$(?:\w+|\{\w+\})")
_WINDOWS = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)
_SUFFIX = re.compile(r"\.?(mrcs?|tiff?|eer)", re.IGNORECASE)
_EVERYTHING = frozenset({"*", "*.*"})

_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list, [ ]",
    "object": "a table, { }",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def check_plausible(tables: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for a quantity that no microscope has, with the likely intention.

    Parameters
    ----------
    tables : as read, so that a value beyond the type's range is explained too.
    where : file, or the option, that the settings come from.
    """
    for setting, quantity, value in _quantities(tables):
        if value <= 0 or not math.isfinite(value):
            continue  # explained as such
        problem = quantity.problem(value)
        if problem is not None:
            raise ConfigError(
                f"no microscope has this {quantity.name}",
                where=where,
                expected=quantity.range,
                found=f"{setting} = {value:g}",
                hint=problem,
            )


def doubts(settings: DataPathSettings) -> list[str]:
    """What is possible but unusual in the settings, one sentence each."""
    names = {setting.split(".")[0] for setting in QUANTITIES}
    tables = {name: msgspec.structs.asdict(getattr(settings, name)) for name in names}
    found = [(setting, quantity.doubt(value)) for setting, quantity, value in _quantities(tables) if value > 0]
    return [f"{setting}: {doubt}" for setting, doubt in found if doubt is not None]


def _quantities(tables: Mapping[str, Any]) -> Iterator[tuple[str, Quantity, float]]:
    """Settings that are quantities, and that are numbers."""
    for setting, quantity in QUANTITIES.items():
        table, key = setting.split(".")
        value = tables.get(table, {}).get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield setting, quantity, value
    calibration = tables.get("movie", {}).get(_CALIBRATION)
    for magnification, size in calibration.items() if isinstance(calibration, Mapping) else ():
        if str(magnification).isdecimal():
            yield f"movie.{_CALIBRATION}: magnification", MAGNIFICATION, float(magnification)
        if isinstance(size, int | float) and not isinstance(size, bool):
            yield f"movie.{_CALIBRATION}: {magnification}", PIXEL_SIZE, size


def explained(
    error: msgspec.ValidationError, tables: Mapping[str, Any], kinds: Mapping[str, type], where: str
) -> ConfigError:
    """What is wrong with a value of the wrong type or range: setting, what it can be, what was given, what it means.

    Parameters
    ----------
    kinds : class of each table.
    """
    match = _PLACE.fullmatch(str(error))
    said, place = (match[1], match[2] or "") if match else (str(error), "")
    table, _, key = place.partition(".")
    key = re.split(r"[.\[]", key)[0]
    hints = get_type_hints(kinds[table], include_extras=True) if table in kinds else {}
    if key not in hints:
        return ConfigError(
            said,
            where=where,
            found=f"[{table}]" if table else "",
            hint="correct that table; config.toml of streamer init explains its settings",
        )
    value = tables[table][key]
    return ConfigError(
        "a setting has a value that it cannot have",
        where=where,
        expected=_expected(said, hints[key]) or said,
        found=f"{table}.{key} = {_shown(value)}",
        hint=_cure(value, hints[key]),
    )


def _expected(said: str, hint: Any) -> str:
    """What the setting can be, in words; empty if the words are already fit to be read."""
    if choices := _choices(hint):
        return "one of " + ", ".join(_shown(choice) for choice in choices)
    if bound := _BOUND.fullmatch(said):
        return f"{_BOUNDS[bound[1]]} {float(bound[2]):g}"
    if other := _OTHER_TYPE.fullmatch(said):
        kinds = [kind.strip() for kind in other[1].split("|")]
        return " or ".join(_TYPES.get(kind, kind) for kind in kinds if kind != "null")
    return ""


def _choices(hint: Any) -> tuple[Any, ...]:
    """Values of a setting that has only certain ones."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _cure(value: object, hint: Any) -> str:
    """What to type instead."""
    number = re.match(r"\s*([-+]?\d+)([.,]\d+)?\s*(.*)", value) if isinstance(value, str) else None
    if number and number[2] and number[2].startswith(","):
        return f"decimals have a point: {number[1]}.{number[2][1:]}"
    if number and not _choices(hint):
        return f"give the number alone, without quotes and unit: {number[1]}{number[2] or ''}"
    described = [part.description for part in get_args(hint)[1:] if isinstance(part, Meta) and part.description]
    return f"meaning: {described[0]}" if described else ""


def _shown(value: object) -> str:
    """A value as it is typed."""
    return json.dumps(value, ensure_ascii=False, default=str)


def check_super_resolution(settings: DataPathSettings, where: str) -> None:
    """Raise ConfigError where settings of super-resolution contradict each other."""
    chosen = settings.super_resolution
    if chosen.network and chosen.method == "zssr":
        found = 'super_resolution.network = true with super_resolution.method = "zssr"'
        hint = 'cryo-ZSSR is itself a network: set super_resolution.network = false, or method = "fusion"'
        raise ConfigError("the network on top of fusion needs fusion", where=where, found=found, hint=hint)
    if chosen.per_movie and (chosen.method == "fusion" or chosen.model is not None):
        found = "super_resolution.per_movie = true with super_resolution.model, or with fusion"
        hint = 'set per_movie = false, or method = "zssr" and no model'
        what = "only cryo-ZSSR without a version can be trained on every movie"
        raise ConfigError(what, where=where, found=found, hint=hint)


def check_numbers(settings: DataPathSettings, where: str) -> None:
    """Raise ConfigError for numbers that are not finite, optional ones that are not positive, and empty bands."""
    for table in settings.__struct_fields__:
        for key, value in msgspec.structs.asdict(getattr(settings, table)).items():
            if isinstance(value, float) and not math.isfinite(value):
                hint = "give a number, or leave the setting out"
                raise ConfigError("not a finite number", where=where, found=f"{table}.{key} = {value}", hint=hint)
    for key in ("pixel_size", "voltage_kv", "dose_per_frame"):
        value = getattr(settings.movie, key)
        if value is not None and value <= 0:
            hint = "leave it out if it is unknown"
            found = f"movie.{key} = {value}"
            raise ConfigError("must be positive", where=where, expected="> 0", found=found, hint=hint)
    bands = (("quality", "band_low", "band_high"), ("denoise", "low", "resolution"), ("ctf", "band_low", "band_high"))
    for table, low, high in bands:
        coarse, fine = getattr(getattr(settings, table), low), getattr(getattr(settings, table), high)
        if coarse <= fine:
            raise ConfigError(
                "the band is empty",
                where=where,
                expected=f"{table}.{low} > {table}.{high}",
                found=f"{coarse:g} and {fine:g} Å",
                hint="both are in Å, the coarse end is the larger number",
            )
    _check_ranges(settings, where)


def _check_ranges(settings: DataPathSettings, where: str) -> None:
    ctf = settings.ctf
    defocus = "defocus", ctf.defocus_low_um, ctf.defocus_high_um, ctf.defocus_low_um < ctf.defocus_high_um
    phase = "phase_shift", ctf.phase_shift_low, ctf.phase_shift_high, ctf.phase_shift_low <= ctf.phase_shift_high
    for name, least, most, is_range in (defocus, phase):
        if not is_range:
            raise ConfigError(
                "the range is empty",
                where=where,
                expected=f"the low end of ctf.{name} below its high end",
                found=f"{least:g} and {most:g}",
                hint="exchange the two",
            )


# ------------------------------------------------------------------------------------------- paths and patterns


def check_paths(paths: Iterable[tuple[str, str | None]], where: str) -> None:
    """Raise ConfigError for an empty path, and for one that only a shell or another computer understands.

    Parameters
    ----------
    paths : each with the name of its setting; None: not set.
    """
    for setting, path in paths:
        if path is None:
            continue
        found, hint = f'{setting} = "{path}"', ""
        if not path.strip():
            what = "must name a directory or file"
            found, hint = f"{setting} is empty", "give a path, or leave the setting out"
        elif _WINDOWS.match(path):
            what = "a path of Windows"
            hint = "give the path under which this machine has mounted that directory, such as /mnt/epu"
        elif _HOME.match(path):
            what = "the sign ~ is not replaced in settings"
            whole = os.path.expanduser(path)  # noqa: PTH111 - words
            hint = "write the path out" + (f": {whole}" if whole != path else "")
        elif _VARIABLE.search(path):
            what, hint = "variables are not replaced in settings", "write the path out"
        else:
            continue
        raise ConfigError(what, where=where, found=found, hint=hint)


def check_patterns(watch: WatchSettings, where: str) -> None:
    """Raise ConfigError where no file can ever be a movie, or a pattern cannot fit what was meant."""
    include, exclude = watch.include, watch.exclude
    for setting, patterns in (("watch.include", include), ("watch.exclude", exclude)):
        for pattern in patterns:
            hint = _why_it_fits_nothing(pattern)
            if hint:
                what = "a pattern fits no file"
                raise ConfigError(what, where=where, found=f'{setting}: "{pattern}"', hint=hint)
    if not include:
        hint = "leave it out for all formats"
        raise ConfigError("no file is a movie", where=where, found="watch.include is empty", hint=hint)
    left_out = {pattern.lower() for pattern in exclude}
    if left_out & _EVERYTHING or left_out.issuperset(pattern.lower() for pattern in include):
        found = f"watch.exclude = {list(exclude)}"
        hint = "give the names that are no movies, such as *_tmp*"
        raise ConfigError("watch.exclude leaves out every movie", where=where, found=found, hint=hint)


def _why_it_fits_nothing(pattern: str) -> str:
    """What to write instead of a pattern of file names that fits none; empty if it may fit."""
    if not pattern.strip():
        return "leave it out"
    if _SUFFIX.fullmatch(pattern):
        return f'write "*.{pattern.lstrip(".")}"'
    if "/" in pattern or "\\" in pattern:
        return "patterns are of file names, without directories"
    if "{" in pattern or re.search(r"[,;|\s]\s*\*", pattern):
        return 'one pattern for each kind of name: ["*.tif", "*.mrc"]'
    return ""
