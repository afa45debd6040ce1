"""SerialEM's ``.mdoc`` sidecars: ``key = value`` lines, some of them in sections."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

from streamer.metadata.epu import MAX_COUNT, MAX_TEXT, per_frame
from streamer.movie_record import Acquisition

_SECTION = re.compile(r"\[(\w+) = (.*)\]")
_MAX_SECTIONS = 100_000


@dataclass(slots=True)
class _Section:
    kind: str
    values: dict[str, str] = field(default_factory=dict)


def parse(text: str, movie_name: str) -> Acquisition:
    """Read what an mdoc says about one movie.

    Parameters
    ----------
    movie_name : its file name, to find its section in the mdoc of a tilt series.

    Raises
    ------
    ValueError
        It is not an mdoc.
    """
    head, sections = _sections(text)
    if not sections and not head.values:
        raise ValueError("contains no 'key = value' line")
    values = head.values | _section_of(sections, movie_name).values
    binning, defocus = _number(values, "Binning"), _number(values, "TargetDefocus")
    n_frames, dose_per_frame = _frames(values)
    shift, stage = _numbers(values, "ImageShift"), _numbers(values, "StagePosition")
    return Acquisition(
        n_frames=n_frames,
        pixel_size=_positive(values, "PixelSpacing"),
        voltage_kv=_positive(values, "Voltage"),
        dose_total=_positive(values, "ExposureDose"),
        dose_per_frame=dose_per_frame,
        magnification=_positive(values, "Magnification"),
        defocus_target_um=None if defocus is None else -defocus + 0.0,  # SerialEM: negative underfocus
        beam_shift_x=shift[0] if len(shift) == 2 else None,
        beam_shift_y=shift[1] if len(shift) == 2 else None,
        stage_x_um=stage[0] if len(stage) == 2 else None,
        stage_y_um=stage[1] if len(stage) == 2 else None,
        stage_z_um=_number(values, "StageZ"),
        super_res_factor=None if binning is None else 2 if binning == 0.5 else 1,
        gain_reference=_base_name(values.get("GainReference")),
        defect_file=_base_name(values.get("DefectFile")),
        acquired=values.get("DateTime", "")[:MAX_TEXT] or None,
    )


def _sections(text: str) -> tuple[_Section, list[_Section]]:
    head = _Section("head")
    sections: list[_Section] = []
    for line in text.splitlines():
        stripped = line.strip()
        start = _SECTION.fullmatch(stripped)
        if start is not None:
            # Titles, in square brackets of their own, are between the global lines and the sections.
            if start[1] != "T":
                sections.append(_Section(start[1]))
            if len(sections) > _MAX_SECTIONS:
                raise ValueError(f"has more than {_MAX_SECTIONS} sections")
            continue
        key, equals, value = stripped.partition("=")
        if equals:
            (sections[-1] if sections else head).values[key.strip()] = value.strip()
        elif stripped:
            raise ValueError(f"contains a line that is neither a section nor 'key = value': {stripped[:60]!r}")
    return head, sections


def _section_of(sections: list[_Section], movie_name: str) -> _Section:
    """Find the section of this movie: its frame set, else the one that names its file, else the only one."""
    for section in sections:
        if section.kind == "FrameSet":
            return section
    for section in sections:
        if _base_name(section.values.get("SubFramePath")) == movie_name:
            return section
    return sections[0] if len(sections) == 1 else _Section("none")


def _frames(values: dict[str, str]) -> tuple[int | None, float | None]:
    """Number of frames, and exposure per frame in e⁻/Å².

    The doses of the frames take precedence over the total: after a continuous tilt series the total also counts
    exposure that was not saved.
    """
    count = _number(values, "NumSubFrames")
    n_frames = int(count) if count is not None and 1 <= count <= MAX_COUNT else None
    pairs = _numbers(values, "FrameDosesAndNumbers") or _numbers(values, "FrameDosesAndNumber")
    doses, numbers = pairs[0::2], pairs[1::2]
    total = sum(numbers)
    if len(doses) == len(numbers) and 1 <= total <= MAX_COUNT and n_frames in (None, total):
        exposure = sum(dose * number for dose, number in zip(doses, numbers, strict=True)) / total
        return int(total), exposure if exposure > 0 else None
    return n_frames, per_frame(_positive(values, "ExposureDose"), n_frames)


def _numbers(values: dict[str, str], key: str) -> list[float]:
    """Numbers of a line; none at all where one of the words is not a number."""
    try:
        numbers = [float(word) for word in values.get(key, "").split()]
    except ValueError:
        return []
    return numbers if all(abs(number) < float("inf") for number in numbers) else []


def _number(values: dict[str, str], key: str) -> float | None:
    numbers = _numbers(values, key)
    return numbers[0] if len(numbers) == 1 else None


def _positive(values: dict[str, str], key: str) -> float | None:
    """SerialEM writes 0 for what is not calibrated."""
    number = _number(values, key)
    return number if number is not None and number > 0 else None


def _base_name(path: str | None) -> str | None:
    """Name of a file that SerialEM, on Windows, gives with its path."""
    return PureWindowsPath(path).name[:255] or None if path else None
