"""The list of defects that belongs to a movie: the one that is set, else the one that its sidecar names.

SerialEM writes a list in the orientation of the frames that it saves, but frames may be saved without that rotation,
or turned by another program. The movie's own data tell: listed pixels stand out in the right orientation.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamer.detector.background import CELL, background_of
from streamer.detector.defect_files import read_defects, read_serialem
from streamer.detector.orientation import ORIENTATIONS
from streamer.detector.serialem_defects import on_frames
from streamer.errors import ConfigError, MovieError
from streamer.readers.files import below, opened, root_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.records import Movie

_STANDS_OUT = 3.5
"""Standard deviations; of good pixels one in 2000 is beyond."""
_MANY, _FEW, _CLEARLY = 0.5, 0.1, 1.5
"""Shares of the listed pixels that stand out in the right orientation, and at most in a wrong one; and by how much the
right one has to be ahead of every other."""
_ENOUGH = 5
"""px that have to stand out before another orientation than the one written is believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDefects:
    """What a file says about a detector's defects."""

    mask: NDArray[np.bool_] | None = None
    """(h, w); None: there is no list, or it could not be used."""
    path: str | None = None
    """Of the file that was used."""
    sha256: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def count(self) -> int | None:
        """Number of px; None where no list was used."""
        return None if self.mask is None else int(self.mask.sum())


def listed_defects(
    movie: Movie, setting: str | None, total: NDArray[np.float32], places: tuple[str, ...] = ()
) -> ListedDefects:
    """Read the list of defects of a movie.

    Parameters
    ----------
    setting : the file that is set, which is used instead of the sidecar's.
    total : (h, w) gain-corrected sum of the frames.
    places : directories outside the watched root to which a link to the sidecar's list may lead.

    Raises
    ------
    ConfigError, MovieMismatch
        The file that is set cannot be used; one that only the sidecar names is left out, and flagged.
    """
    if setting is not None:
        return _read(Path(setting), total)
    named = movie.acquisition.defect_file
    if named is None:
        return ListedDefects()
    root = root_of(movie.path, movie.relative)
    path = _above(Path(movie.path), named, root)
    if path is None:
        return ListedDefects(flags=(f"defects: the sidecar names {named}, which is not there",))
    try:
        with below(root, places):
            return _read(path, total)
    except (ConfigError, MovieError) as error:
        return ListedDefects(flags=(f"defects: {path.name}, which the sidecar names, was not used: {error.message()}",))


def _above(movie: Path, name: str, root: Path | None) -> Path | None:
    """The file of this name next to the movie, or in the nearest directory above it up to the root."""
    for directory in movie.parents:
        if root is not None and not directory.is_relative_to(root):
            break
        path = directory / name
        if os.path.lexists(path):
            return path
        if root is None:
            break
    return None


def _read(path: Path, total: NDArray[np.float32]) -> ListedDefects:
    shape = (total.shape[0], total.shape[1])
    camera = read_serialem(path)
    flags: tuple[str, ...] = ()
    if camera is None:
        mask: NDArray[np.bool_] | None = read_defects(path, shape)
    else:
        mask, flags = _oriented(path, camera, total)
    if mask is None:
        return ListedDefects(flags=flags)
    with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ListedDefects(mask=mask, path=str(path), sha256=sha256, flags=flags)


def _oriented(
    path: Path, camera: NDArray[np.bool_], total: NDArray[np.float32]
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """SerialEM's list on the frames, in the orientation in which its pixels stand out, and what to say about it."""
    shape = (total.shape[0], total.shape[1])
    masks = {way: mask for way in ORIENTATIONS if (mask := on_frames(_turned(camera, *way), shape)) is not None}
    if not masks:
        return read_defects(path, shape), ()  # which says that the sizes differ
    written = masks.get(ORIENTATIONS[0])
    shown = {way: _standing_out(mask, total) for way, mask in masks.items()}
    if written is not None and shown[ORIENTATIONS[0]][0] >= _FEW:
        return written, ()
    best = max(masks, key=lambda way: shown[way])
    others = [shown[way][0] for way in masks if (masks[way] != masks[best]).any()]
    share, number = shown[best]
    if share >= _MANY and number >= _ENOUGH and share > _CLEARLY * max(others, default=0.0):
        words = f"{best[0]} quarter turns and flip {best[1]}"
        return masks[best], (f"defects: {path.name} fits the frames after {words}, and was used so",)
    if written is not None:
        return written, ()
    return None, (f"defects: {path.name} is turned against the frames, which do not show how; it was not used",)


def _turned(camera: NDArray[np.bool_], rotate: int, flip: int) -> NDArray[np.bool_]:
    """Rotate by quarter turns counter-clockwise, then flip, as a gain reference is turned."""
    found = np.rot90(camera, -rotate)
    return found if flip == 0 else found[::-1] if flip == 1 else found[:, ::-1]


def _standing_out(mask: NDArray[np.bool_], total: NDArray[np.float32]) -> tuple[float, int]:
    """Share and number of the listed pixels that differ from what is around them beyond chance."""
    places = np.argwhere(mask)
    if not len(places) or min(total.shape) < CELL:
        return 0.0, 0
    background = background_of(total, places)
    rows, columns = (background.cell(places[:, axis], axis) for axis in (0, 1))
    level, spread = background.level[rows, columns], background.spread[rows, columns]
    out = np.abs(total[places[:, 0], places[:, 1]] - level) > _STANDS_OUT * spread
    return float(out.mean()), int(out.sum())
