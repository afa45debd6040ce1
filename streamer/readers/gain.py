"""Gain references: the values of an image file, as stored in it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError, MovieError
from streamer.readers import movie
from streamer.readers.dm4 import is_dm4, read_dm4_image
from streamer.readers.files import opened, read_up_to
from streamer.records import Gain

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUFFIXES = frozenset({".mrc", ".mrcs", ".tif", ".tiff", ".gain", ".dm4", ".dm3"})
# "gain" as a word of its own: "bargain_001.tif" is a movie. CountRef and SuperRef, with CDS in between, are
# what DigitalMicrograph and SerialEM call the references of K2 and K3.
_NAME = re.compile(r"(?:^|[^a-z])gain|(?:count|super)(?:cds)?ref", re.IGNORECASE)
MADE = "cryoem-streamer: gain made from"
"""How the first label of a gain reference that was made from movies begins."""
_FIRST_LABEL = 224
"""Its offset in an MRC header."""
_REFUSED = {".dm3": "convert it with IMOD: dm2mrc in.dm3 gain.mrc"}


def is_gain_name(name: str) -> bool:
    """Whether a file of this name is a gain reference and never a movie."""
    suffix = Path(name).suffix.lower()
    return suffix == ".gain" or (suffix in _SUFFIXES and _NAME.search(name) is not None)


def gain_candidates(root: Path) -> list[Path]:
    """Find the gain references below ``root`` by their names, sorted; none where the root is missing."""
    found = []
    for directory, directories, names in os.walk(root, onerror=None, followlinks=False):
        directories[:] = [name for name in directories if not name.startswith(".")]
        found += _gains_among(Path(directory), names)
    return sorted(found)


def gains_in(directory: Path) -> list[Path]:
    """Find the gain references in one directory; raises OSError where it cannot be listed."""
    return sorted(_gains_among(directory, [path.name for path in directory.iterdir()]))


def _gains_among(directory: Path, names: list[str]) -> list[Path]:
    paths = [directory / name for name in names if is_gain_name(name) and not name.startswith(".")]
    return [path for path in paths if _is_plain_file(path)]


def _is_plain_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_gain(path: Path) -> Gain:
    """Read a gain reference.

    Parameters
    ----------
    path : MRC (mode 0, 1, 2, 6, 12), TIFF (8 or 16 bit, or float32) or DM4 of one image. Rows of TIFF and DM4 are
        flipped, as those of TIFF movies are; not those of ``.gain``, a TIFF that multiplies EER movies, whose rows are
        not flipped either.

    Returns
    -------
    Values as float32 as stored in the file; 0 marks a defect. ``orientation.fitted`` fits them to a movie's frames.

    Raises
    ------
    ConfigError
        It cannot be a gain reference: missing, unreadable, several images, negative or not finite.
    MovieNotReady
        It is still being written.
    """
    suffix = path.suffix.lower()
    hint = _REFUSED.get(suffix)
    if hint is not None:
        raise ConfigError(f"{path.suffix} gain references are not supported", where=path, hint=hint)
    if not path.exists():
        raise ConfigError("there is no such gain reference", where=path, hint="correct movie.gain")
    try:
        values = _image(path)
        sha256 = _sha256(path)
    except MovieError as error:
        raise ConfigError("cannot be read as a gain reference", where=path, found=error.message()) from error
    if suffix == ".gain":
        values = values[::-1].copy()
    return Gain(
        path=str(path),
        sha256=sha256,
        values=_checked(path, values),
        is_multiplicative=suffix not in {".mrc", ".mrcs"},
        is_made=_is_made(path),
    )


def _is_made(path: Path) -> bool:
    """Whether an MRC image's first label says that it was made from movies."""
    with opened(path) as descriptor:
        return read_up_to(descriptor, len(MADE), _FIRST_LABEL) == MADE.encode()


def _image(path: Path) -> NDArray[np.float32]:
    """(h, w), row 0 at the bottom."""
    with opened(path) as descriptor:
        if is_dm4(read_up_to(descriptor, 4, 0)):
            return read_dm4_image(path)
    header = movie.read_header(path)
    if header.n_frames != 1:
        raise ConfigError("is not a gain reference", where=path, expected="1 image", found=header.n_frames)
    before = movie.identity_of(path)
    counts = movie.read_counts(path, header, in_memory_bytes=header.decoded_bytes, threads=1, expected=before)
    return counts[0].astype(np.float32)


def _checked(path: Path, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ConfigError("contains gains that are not finite", where=path)
    if values.min() < 0:
        raise ConfigError("contains negative gains", where=path, found=f"{values.min():g}")
    if not values.any():
        raise ConfigError("contains no gain above 0", where=path)
    return values


def _sha256(path: Path) -> str:
    with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
