"""Lists and maps of a detector's defects, in the coordinates of the movies as stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError, MovieError, MovieMismatch
from streamer.readers import movie
from streamer.readers.files import opened, read_up_to

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_HEAD_BYTES, _MOST_BYTES, _MOST_LINES = 4096, 16 << 20, 100_000
# Words that begin lines of the defect files that SerialEM writes and IMOD converts.
_SERIALEM = ("CameraSizeX", "CameraSizeY", "RotationAndFlip", "BadColumns", "BadRows", "BadPixels", "PartialBadColumn")


def read_defects(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a detector's defects.

    Parameters
    ----------
    path : a MotionCor text file with lines ``x y w h`` in px, x and y of the first pixel, counted from 0 in the rows
        as they are stored; or an MRC or TIFF map that is 1, or anything but 0, at defects.
    shape : (h, w) of the movie's frames.

    Returns
    -------
    (h, w), true at defects.

    Raises
    ------
    ConfigError
        It does not exist, is neither of these, or is longer than any camera's list; the message names the line, and
        what to run for SerialEM's own format.
    MovieMismatch
        The map and the frames differ in size.
    """
    if not path.is_file():
        raise ConfigError("the defect file does not exist", where="gain.defects", found=path)
    try:
        with opened(path) as descriptor:
            head = read_up_to(descriptor, _HEAD_BYTES, 0)
            if b"\0" in head or head.startswith((b"II", b"MM")):
                text = None
            else:
                text = read_up_to(descriptor, _MOST_BYTES + 1, 0).decode("latin-1")
    except MovieError as error:
        raise ConfigError("the defect file cannot be read", where=path, found=error.message()) from error
    return _mapped(path, shape) if text is None else _listed(path, text, shape)


def _listed(path: Path, text: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    for what, unit, most, amount in (
        ("large", "bytes", _MOST_BYTES, len(text)),
        ("long", "lines", _MOST_LINES, text.count("\n")),
    ):
        if amount > most:
            raise ConfigError(
                f"the list of defects is too {what}",
                where=path,
                expected=f"at most {most} {unit}",
                found=f"more than {most} {unit}",
                hint="give this many defects as a map, an MRC or TIFF image that is 1 at defects",
            )
    found = np.zeros(shape, dtype=bool)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] in _SERIALEM:
            raise ConfigError(
                "is a SerialEM defect file",
                where=path,
                expected="lines x y w h, or a map",
                hint="convert it to a map with IMOD: clip defect -D defects.txt movie.mrc defects.mrc",
            )
        try:
            x, y, width, height = (int(word) for word in words)
        except ValueError:
            x = y = width = height = -1
        if min(x, y) < 0 or min(width, height) < 1:
            raise ConfigError(
                f"line {number} of the defect file cannot be used", where=path, expected="x y w h", found=line[:60]
            )
        found[y : y + height, x : x + width] = True
    return found


def _mapped(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        header = movie.read_header(path)
        if header.n_frames != 1:
            raise ConfigError("is not a defect map", where=path, expected="1 image", found=header.n_frames)
        if (header.height, header.width) != shape:
            raise MovieMismatch(
                "the defect map and the frames differ in size",
                where=path,
                expected=f"{shape[0]} × {shape[1]} px",
                found=f"{header.height} × {header.width} px",
                hint="set gain.defects to the map of this camera mode",
            )
        counts = movie.read_counts(path, header, in_memory_bytes=header.decoded_bytes, threads=1)
    except MovieMismatch:
        raise
    except MovieError as error:
        raise ConfigError("cannot be read as a defect map", where=path, found=error.message()) from error
    return np.asarray(counts[0] != 0)
