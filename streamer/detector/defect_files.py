"""Lists and maps of a detector's defects, in the coordinates of the movies as stored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from streamer.detector.serialem_defects import is_serialem, on_frames, read_camera
from streamer.errors import ConfigError, MovieError, MovieMismatch
from streamer.readers import movie
from streamer.readers.files import opened, read_up_to

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NAME_IT = "set gain.defects to a map or a list of defects"
_HEAD_BYTES, _MOST_BYTES, _MOST_LINES = 4096, 16 << 20, 100_000


def read_defects(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a detector's defects.

    Parameters
    ----------
    path : a MotionCor text file with lines ``x y w h`` in px, x and y of the first pixel, counted from 0 in the rows
        as they are stored; an MRC or TIFF map that is 1, or anything but 0, at defects; or SerialEM's own list, taken
        as it is written: see ``serialem_defects``.
    shape : (h, w) of the movie's frames.

    Returns
    -------
    (h, w), true at defects.

    Raises
    ------
    ConfigError
        It does not exist, is none of these, or is longer than any camera's list; the message names the line.
    MovieMismatch
        The map, or the camera of SerialEM's list, and the frames differ in size.
    """
    text = _text_of(path)
    if text is None:
        return _mapped(path, shape)
    if not is_serialem(text):
        return _listed(path, text, shape)
    camera = read_camera(path, text)
    found = on_frames(camera, shape)
    if found is None:
        raise MovieMismatch(
            "the defect file is for a camera of another size than the frames",
            where=path,
            expected=f"{shape[0]} × {shape[1]} px, or a half or a quarter of it",
            found=f"{camera.shape[0]} × {camera.shape[1]} px",
            hint="take the list of this camera, or leave gain.defects empty: wide defects are found in the data",
        )
    return found


def read_serialem(path: Path) -> NDArray[np.bool_] | None:
    """The camera's defects, row 0 at the bottom, of SerialEM's own list; None for the other kinds of file."""
    text = _text_of(path)
    return read_camera(path, text) if text is not None and is_serialem(text) else None


def _text_of(path: Path) -> str | None:
    """Text of a list of defects, checked for its size; None where the file is an image."""
    if not os.path.lexists(path):
        raise ConfigError(
            "the defect file does not exist",
            where="gain.defects",
            found=path,
            hint="correct gain.defects, or leave it out: most defects are found in the movies themselves",
        )
    try:
        with opened(path) as descriptor:
            head = read_up_to(descriptor, _HEAD_BYTES, 0)
            if b"\0" in head or head.startswith((b"II", b"MM")):
                return None
            text = read_up_to(descriptor, _MOST_BYTES + 1, 0).decode("latin-1")
    except MovieError as error:
        raise ConfigError(
            "the defect file cannot be read", where=path, found=error.message(), hint="may the daemon read it?"
        ) from error
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
    return text


def _listed(path: Path, text: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    found = np.zeros(shape, dtype=bool)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            x, y, width, height = (int(word) for word in words)
        except ValueError:
            x = y = width = height = -1
        if min(x, y) < 0 or min(width, height) < 1:
            raise ConfigError(
                f"line {number} of the defect file cannot be used",
                where=path,
                expected="x y w h",
                found=line[:60],
                hint="correct this line, or take it out",
            )
        found[y : y + height, x : x + width] = True
    return found


def _mapped(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        header = movie.read_header(path)
        if header.n_frames != 1:
            raise ConfigError(
                "is not a defect map",
                where=path,
                expected="1 image",
                found=header.n_frames,
                hint=_NAME_IT,
            )
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
        raise ConfigError(
            "cannot be read as a defect map",
            where=path,
            found=error.message(),
            hint=_NAME_IT,
        ) from error
    return np.asarray(counts[0] != 0)
