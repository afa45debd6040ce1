"""Lists beside a stack with a line for each of its images: tilts of IMOD, AreTomo and RELION, pieces of montages.

A movie has none. The number of lines has to be that of the images, so that a list of something else decides nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streamer.errors import StreamerError
from streamer.readers.files import opened, read_up_to

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 1 << 20
_TILTS = (".rawtlt", ".tlt")
_PIECES, _ALIGNED = ".pl", ".aln"
_SAME_TILT = 1.0
"""Degrees by which the tilt of one exposure may be read differently."""
_RAW_SIZE = re.compile(r"^# *RawSize *= *\d{1,6} +\d{1,6} +(\d{1,6}) *$", re.MULTILINE)


def tilts_listed(file: Path, n_images: int) -> str | None:
    """Name of the list by which a file is a tilt series; None: there is none that fits."""
    for suffix in _TILTS:
        rows = _numbers(file.with_suffix(suffix))
        tilts = [row[0] for row in rows if len(row) == 1]
        if len(tilts) == len(rows) == n_images and max(tilts) - min(tilts) > _SAME_TILT:
            return file.with_suffix(suffix).name
    for path in (file.with_suffix(_ALIGNED), file.with_name(file.name + _ALIGNED)):
        size = _RAW_SIZE.search(_text(path))
        if size and int(size[1]) == n_images:
            return path.name
    return None


def pieces_listed(file: Path, n_images: int) -> str | None:
    """Name of IMOD's list of pieces by which a file is a montage; None: there is none that fits."""
    path = file.with_suffix(_PIECES)
    rows = _numbers(path)
    is_list = len(rows) == n_images and all(len(row) == 3 for row in rows)
    return path.name if is_list and len({tuple(row[:2]) for row in rows}) > 1 else None


def _numbers(path: Path) -> list[list[float]]:
    """Numbers of each line that is not empty; nothing where a line holds anything else."""
    try:
        return [[float(number) for number in line.split()] for line in _text(path).splitlines() if line.strip()]
    except ValueError:
        return []


def _text(path: Path) -> str:
    try:
        with opened(path) as descriptor:
            return read_up_to(descriptor, _MAX_BYTES, 0).decode("latin-1")
    except StreamerError:
        return ""
