"""STAR files for RELION 3.1 and later: from numbers to text.

Labels and tables are those of RELION's own motion correction. Shifts are in px as stored, x before y, and
move the frame onto the first, as RELION's do; frames are counted from 1. Paths are written as given.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.movie_record import MovieRecord
    from streamer.transfer_figures import CtfFigures

Value = str | int | float

ROLE_MICROGRAPH, ROLE_EVEN, ROLE_ODD, ROLE_MOTION = "micrograph", "even", "odd", "motion"

NOT_OBSERVED = -9999.0
"""What RELION's own tables say of motion that was not observed: a column needs a number in each line."""

NO_RESOLUTION = 999.0
"""Å: where no rings are followed. Programs select by ``rlnCtfMaxResolution`` below a value."""

_VERSION = "# version 30001"
END_OF_TABLE = " \n"
# A word that begins like this would be a comment, a quotation, a label or a table of its own.
_SPECIAL = re.compile(r"[#'_;$\[\]]|(?:data|loop|save|stop|global)_", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """What all micrographs of an optics group have in common."""

    original_pixel_size: float
    """Å/px of the movie as stored."""
    pixel_size: float
    """Å/px of the micrograph as written."""
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographRow:
    """One line of ``micrographs.star``; paths are relative to that file's directory."""

    micrograph: str
    motion: str
    """The STAR file of the movie's motion."""
    even: str
    odd: str
    optics: Optics
    total_motion_angstrom: float | None
    early_motion_angstrom: float | None
    late_motion_angstrom: float | None
    ctf: CtfFigures | None = None


def micrograph_row(record: MovieRecord) -> MicrographRow | None:
    """Make the line of one movie; None for a movie that cannot be in a STAR file.

    That is one without outputs, of unknown voltage, which RELION requires, or with a name that STAR cannot
    represent.
    """
    files = {output.role: output for output in record.outputs}
    source, metrics = record.source, record.metrics
    roles = (ROLE_MICROGRAPH, ROLE_MOTION, ROLE_EVEN, ROLE_ODD)
    if source is None or metrics is None or source.voltage_kv is None or not files.keys() >= set(roles):
        return None
    if not all(_is_writable(files[role].path) for role in roles):
        return None
    return MicrographRow(
        micrograph=files[ROLE_MICROGRAPH].path,
        motion=files[ROLE_MOTION].path,
        even=files[ROLE_EVEN].path,
        odd=files[ROLE_ODD].path,
        optics=Optics(
            original_pixel_size=source.pixel_size,
            pixel_size=files[ROLE_MICROGRAPH].pixel_size or source.pixel_size,
            voltage_kv=source.voltage_kv,
            cs_mm=source.cs_mm,
            amplitude_contrast=source.amplitude_contrast,
        ),
        total_motion_angstrom=metrics.total_motion_angstrom,
        early_motion_angstrom=metrics.early_motion_angstrom,
        late_motion_angstrom=metrics.late_motion_angstrom,
        ctf=record.ctf,
    )


def micrographs_star(rows: Iterable[MicrographRow], *, left_out: int = 0) -> str:
    """Write the table of all micrographs of a session, one optics group for each distinct optics.

    Parameters
    ----------
    rows : in the order of the lines.
    left_out : number of finished movies for which ``micrograph_row`` returned None; stated in a comment.
    """
    groups: dict[Optics, int] = {}
    lines = "".join(micrograph_line(row, groups.setdefault(row.optics, len(groups) + 1)) for row in rows)
    return micrographs_head(groups, left_out=left_out) + lines + END_OF_TABLE


def micrographs_head(groups: dict[Optics, int], *, left_out: int = 0) -> str:
    """Write what precedes the lines of ``micrographs_star``; ``END_OF_TABLE`` follows them.

    Parameters
    ----------
    groups : number of each optics group, from 1.
    """
    labels = (
        *("rlnMicrographName", "rlnMicrographMetadata", "rlnOpticsGroup"),
        *("rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate"),
        *("rlnMicrographNameEven", "rlnMicrographNameOdd"),
        *("rlnDefocusU", "rlnDefocusV", "rlnCtfAstigmatism", "rlnDefocusAngle", "rlnPhaseShift"),
        *("rlnCtfFigureOfMerit", "rlnCtfMaxResolution"),
    )
    note = f"# {left_out} finished movies are left out: their voltage is unknown or their name does not fit\n"
    return (note if left_out else "") + _optics_table(groups) + _head("micrographs", labels)


def micrograph_line(row: MicrographRow, group: int) -> str:
    """Write the line of one micrograph of this optics group."""
    known = row.total_motion_angstrom, row.early_motion_angstrom, row.late_motion_angstrom
    motion = [NOT_OBSERVED if value is None else value for value in known]
    return _line((row.micrograph, row.motion, group, *motion, row.even, row.odd, *_ctf_values(row.ctf)))


def _ctf_values(ctf: CtfFigures | None) -> tuple[float, ...]:
    """Defocus, angle, phase shift and figures of merit; an unknown one is what no selection by resolution lets pass."""
    if ctf is None or ctf.defocus_u_angstrom is None or ctf.defocus_v_angstrom is None:
        return NOT_OBSERVED, NOT_OBSERVED, 0.0, 0.0, 0.0, 0.0, NO_RESOLUTION
    return (
        ctf.defocus_u_angstrom,
        ctf.defocus_v_angstrom,
        ctf.astigmatism_angstrom or 0.0,
        ctf.astigmatism_angle_deg or 0.0,
        ctf.phase_shift_deg or 0.0,
        ctf.score or 0.0,
        ctf.fit_resolution_angstrom or NO_RESOLUTION,
    )


def motion_star(
    *,
    movie: str,
    n_frames: int,
    height: int,
    width: int,
    shifts_yx_px: Sequence[Sequence[float]],
    original_pixel_size: float,
    binning: float = 1.0,
    voltage_kv: float | None = None,
    dose_per_frame: float | None = None,
    pre_exposure: float = 0.0,
    gain: str | None = None,
    hot_pixels_yx: Iterable[Sequence[int]] = (),
    local_model: Sequence[float] = (),
) -> str:
    """Write the motion of one movie as RELION's polishing reads it.

    Parameters
    ----------
    movie, gain : paths as they are to be written; no gain: none was applied.
    height, width : px as stored.
    shifts_yx_px : (t, 2), px as stored, moving each frame onto the first.
    original_pixel_size : Å/px as stored.
    binning : px as stored per px of the micrograph.
    dose_per_frame, pre_exposure : e⁻/Å².
    hot_pixels_yx : (n, 2) rows and columns, px as stored.
    local_model : 36 coefficients of what is added over the field, see ``field.relion_model``; empty: nothing is.
    """
    if len(shifts_yx_px) != n_frames:
        raise ValueError(f"expected {n_frames} shifts, got {len(shifts_yx_px)}")
    general: dict[str, Value | None] = {
        "rlnImageSizeX": width,
        "rlnImageSizeY": height,
        "rlnImageSizeZ": n_frames,
        "rlnMicrographMovieName": movie,
        "rlnMicrographGainName": gain,
        "rlnMicrographBinning": float(binning),
        "rlnMicrographOriginalPixelSize": float(original_pixel_size),
        "rlnMicrographDoseRate": dose_per_frame,
        "rlnMicrographPreExposure": float(pre_exposure),
        "rlnVoltage": voltage_kv,
        "rlnMicrographStartFrame": 1,
        "rlnMotionModelVersion": 1 if local_model else 0,
    }
    y0, x0 = shifts_yx_px[0]
    shifts = [(index, x - x0, y - y0) for index, (y, x) in enumerate(shifts_yx_px, start=1)]
    hot = [(float(column), float(row)) for row, column in hot_pixels_yx]
    labels = ("rlnMicrographFrameNumber", "rlnMicrographShiftX", "rlnMicrographShiftY")
    text = _list("general", general) + _loop("global_shift", labels, shifts)
    if local_model:
        # in px of the micrograph, unlike the global shifts
        model = [(index, float(value) / binning) for index, value in enumerate(local_model)]
        text += _loop("local_motion_model", ("rlnMotionModelCoeffsIdx", "rlnMotionModelCoeff"), model)
    return text + (_loop("hot_pixels", ("rlnCoordinateX", "rlnCoordinateY"), hot) if hot else "")


def coordinates_star(
    x: Iterable[float], y: Iterable[float], score: Iterable[float], class_number: int | None = None
) -> str:
    """Write particle positions in one micrograph.

    Parameters
    ----------
    x, y : px of the micrograph as written, from the bottom left corner, as RELION counts.
    score : figure of merit, higher is better.
    class_number : the same for all; None leaves the column out.
    """
    labels = ["rlnCoordinateX", "rlnCoordinateY"]
    columns: list[list[Value]] = [[float(value) for value in x], [float(value) for value in y]]
    if class_number is not None:
        labels.append("rlnClassNumber")
        columns.append([class_number] * len(columns[0]))
    labels.append("rlnAutopickFigureOfMerit")
    columns.append([float(value) for value in score])
    return _loop("", labels, zip(*columns, strict=True))


def _optics_table(groups: dict[Optics, int]) -> str:
    labels = (
        *("rlnOpticsGroupName", "rlnOpticsGroup", "rlnMicrographOriginalPixelSize", "rlnVoltage"),
        *("rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMicrographPixelSize"),
    )
    rows = [
        (
            *(f"opticsGroup{number}", number, float(group.original_pixel_size), float(group.voltage_kv)),
            *(float(group.cs_mm), float(group.amplitude_contrast), float(group.pixel_size)),
        )
        for group, number in groups.items()
    ]
    return _loop("optics", labels, rows)


def _loop(name: str, labels: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    return _head(name, labels) + "".join(map(_line, rows)) + END_OF_TABLE


def _head(name: str, labels: Sequence[str]) -> str:
    columns = "".join(f"_{label} #{number} \n" for number, label in enumerate(labels, start=1))
    return f"\n{_VERSION}\n\ndata_{name}\n\nloop_ \n{columns}"


def _line(values: Sequence[Value]) -> str:
    return " ".join(map(_word, values)) + " \n"


def _list(name: str, values: dict[str, Value | None]) -> str:
    """One value per line; unknown ones are left out."""
    lines = "".join(f"_{label:<40} {_word(value)}\n" for label, value in values.items() if value is not None)
    return f"\n{_VERSION}\n\ndata_{name}\n\n{lines} \n"


def _word(value: Value) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"cannot be written to a STAR file: {value}")
        # Six digits as RELION writes them; more where they would be lost.
        return f"{value:12.6f}" if value == 0 or abs(value) >= 1e-3 else f"{value:12.5e}"
    if isinstance(value, int):
        return f"{value:12d}"
    if not _is_writable(value):
        raise ValueError(f"cannot be written to a STAR file: {value!r}")
    # RELION knows double quotes only; bare words beyond ASCII are not valid CIF.
    needs_quotes = not value or " " in value or not value.isascii() or _SPECIAL.match(value)
    return f'"{value}"' if needs_quotes else value


def _is_writable(text: str) -> bool:
    """Whether STAR can represent a text: one line, no double quote, which cannot be escaped, and valid UTF-8."""
    return all(character.isprintable() and character != '"' for character in text)
