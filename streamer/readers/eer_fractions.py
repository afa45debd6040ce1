"""How the raw frames of an EER movie are divided into fractions.

A number of fractions, or a dose for each, says how finely to divide a movie, not what to leave out: raw frames that do
not divide evenly are spread, one more in some fractions. ``eer.group`` and an integration file say exactly what is
summed, as RELION and MotionCor do: the rest is left out, and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import ConfigError, MovieMismatch

if TYPE_CHECKING:
    from streamer.settings import EerSettings

Ranges = tuple[tuple[int, int], ...]
_MOST_LINES = 10_000
_ONE_LINE = "a line such as 1000 25 0.04: of the next 1000 raw frames 25 are summed, each of 0.04 e-/Å2"
_DEFAULT_FRACTIONS = 40


def plan_fractions(
    path: Path, n_raw: int, dose: float | None, settings: EerSettings
) -> tuple[Ranges, tuple[float, ...] | None]:
    """Divide raw frames.

    Parameters
    ----------
    path : for messages.
    n_raw : number of raw frames.
    dose : e⁻/Å² per raw frame from the file's metadata, None where they do not state it.

    Returns
    -------
    First raw frame of each fraction and the one after its last, and e⁻/Å² of each fraction, None where unknown.

    Raises
    ------
    MovieMismatch
        The movie has too few raw frames for one fraction, or does not state the dose that is needed.
    ConfigError
        The integration file cannot be used.
    """
    doses: tuple[float, ...] | None
    if settings.integration:
        lines = read_integration(Path(settings.integration))
        ranges, doses = _integrated(n_raw, lines)
    else:
        if settings.group:
            ranges = tuple(
                (start, start + settings.group) for start in range(0, n_raw - settings.group + 1, settings.group)
            )
        else:
            ranges = _spread(n_raw, _number(path, n_raw, dose, settings))
        doses = None if dose is None else tuple((stop - start) * dose for start, stop in ranges)
    if not ranges:
        raise MovieMismatch(
            "has too few raw frames for one fraction",
            where=path,
            expected="at least as many as eer.group, or as the first line of eer.integration asks for",
            found=f"{n_raw} raw frames",
            hint="lower eer.group, or the first line of eer.integration; or leave a broken exposure out",
        )
    return ranges, doses


def _spread(n_raw: int, number: int) -> Ranges:
    """All raw frames in this many fractions, whose sizes differ by one at most."""
    ends = [index * n_raw // max(1, number) for index in range(number + 1)]
    return tuple(zip(ends, ends[1:], strict=False)) if number else ()


def _number(path: Path, n_raw: int, dose: float | None, settings: EerSettings) -> int:
    """Number of fractions, 0 without a raw frame."""
    if settings.fractions:
        return min(settings.fractions, n_raw)
    if not settings.dose_per_fraction:
        each = max(1, n_raw // _DEFAULT_FRACTIONS)
    elif dose is None:
        raise MovieMismatch(
            "does not state its dose, which eer.dose_per_fraction needs",
            where=path,
            expected="totalDose and sensorPixelSize in its metadata",
            hint="set eer.group or eer.fractions instead of eer.dose_per_fraction",
        )
    else:
        each = min(n_raw, max(1, round(settings.dose_per_fraction / dose)))
    return max(1, round(n_raw / each)) if n_raw else 0


def _integrated(n_raw: int, lines: list[tuple[int, int, float]]) -> tuple[Ranges, tuple[float, ...]]:
    """Lines in order, until the movie ends; raw frames that do not fill a group of their line are left out."""
    ranges, doses, start = [], [], 0
    for frames, group, dose in lines:
        stop = min(start + frames, n_raw)
        for first in range(start, stop - group + 1, group):
            ranges.append((first, first + group))
            doses.append(group * dose)
        start = stop
    return tuple(ranges), tuple(doses)


def read_integration(path: Path) -> list[tuple[int, int, float]]:
    """Read an integration file as MotionCor takes it: lines ``number of raw frames, group, e⁻/Å² per raw frame``.

    Raises
    ------
    ConfigError
        It does not exist or contains anything else; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the integration file (eer.integration) cannot be read ({reason})",
            where=str(path),
            hint="correct eer.integration, or use eer.fractions",
        ) from error
    found = []
    for number, line in enumerate(text.splitlines()[:_MOST_LINES], start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            frames, group, dose = int(words[0]), int(words[1]), float(words[2])
        except (ValueError, IndexError):
            frames, group, dose = 0, 0, 0.0
        if len(words) != 3 or frames < 1 or group < 1 or not 0 <= dose < 1e6:
            raise ConfigError(
                f"line {number} of the integration file cannot be used",
                where=str(path),
                expected="number of raw frames, raw frames per fraction, e-/Å2 per raw frame",
                found=line[:60],
                hint=_ONE_LINE,
            )
        found.append((frames, group, dose))
    if not found:
        raise ConfigError("the integration file is empty", where=str(path), hint=_ONE_LINE)
    return found
