"""Gain references: the values of an image file, as stored in it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.errors import ConfigError, MovieError, StreamerError
from streamer.readers import movie, mrc
from streamer.readers.dm4 import is_dm4, read_dm4_image
from streamer.readers.files import below, entries, link_target, opened, read_up_to
from streamer.readers.tiff_tags import Tags, TiffFile, is_tiff, open_tiff, read_tags, tag_value
from streamer.records import Gain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_SUFFIXES = frozenset({".mrc", ".mrcs", ".tif", ".tiff", ".gain", ".dm4", ".dm3"})
# "gain" as a word of its own. CountRef and SuperRef, with CDS in between, are what DigitalMicrograph and SerialEM call
# the references of K2 and K3. A name only nominates: movies may have such names too, and are told by their content.
_NAME = re.compile(r"(?:^|[^a-z])gain|(?:count|super)(?:cds)?ref", re.IGNORECASE)
_NAMED_SUFFIXES = (*sorted(_SUFFIXES), ".raw")
_MAX_NAME = 255
# Names that may mean anything, "Lgain.mrc" and "again.mrc": here the content has to say that it is a reference.
_PERHAPS = re.compile(r"gain|(?<![a-z])(?:ref|flat)", re.IGNORECASE)
_NUMBERS = re.compile(r"[\d.+-]+")
MADE = "cryoem-streamer: gain made from"
"""How the first label of a gain reference that was made from movies begins."""
_FIRST_LABEL = 224
"""Its offset in an MRC header."""
_REFUSED = {".dm3": "convert it with IMOD: dm2mrc in.dm3 gain.mrc"}
_MAKE_AGAIN = "make the reference again, or copy it again from the camera's computer"
_MOST_KNOWN = 100_000
_SAMPLE_FORMAT, _FLOAT, _DESCRIPTION = 339, 3, 270  # of TIFF
_IMAGES, _LONGEST_DESCRIPTION = re.compile(rb"\bimages=(\d{1,7})"), 4096
_AROUND_ONE, _SPREAD = (0.7, 1.4), 0.4
"""Mean, and largest standard deviation, of a reference of floats: counts of this mean scatter by 0.8 and more."""


class _Image(NamedTuple):
    """What the first bytes of a file say."""

    is_stack: bool
    is_float: bool
    is_around_one: bool


def is_gain_name(name: str) -> bool:
    """Whether a file of this name is a gain reference, if it is one image."""
    suffix = Path(name).suffix.lower()
    return suffix == ".gain" or (suffix in _SUFFIXES and _NAME.search(name) is not None)


def is_around_one(smallest: float, mean: float, deviation: float) -> bool:
    """Whether values of one image of floats are those of a gain reference, by what its header says of them."""
    return smallest >= 0.0 and _AROUND_ONE[0] <= mean <= _AROUND_ONE[1] and 0.0 < deviation < _SPREAD


def gain_candidates(root: Path, places: tuple[str, ...] = ()) -> list[Path]:
    """Find the gain references below ``root``, sorted; none where the root is missing. See ``gains_in``.

    Parameters
    ----------
    places : directories outside the root to which links may lead.
    """
    with below(root, places):
        return _candidates(root)


def _candidates(root: Path) -> list[Path]:
    found: set[Path] = set()
    directories, seen, real_root = [root], set(), os.path.realpath(root)
    while directories:
        directory = directories.pop()
        try:
            with entries(directory) as listed:
                names = []
                for entry in listed:
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        directories.append(directory / entry.name)
                    elif entry.is_symlink() and not is_gain_name(entry.name):
                        target = link_target(directory / entry.name)
                        if target is None or target in seen or _is_searched(target, real_root):
                            continue
                        if target.is_dir():
                            directories.append(directory / entry.name)
                            seen.add(target)
                    else:
                        names.append(entry.name)
        except OSError:
            continue  # of another session, perhaps; those above a movie are searched by ``gains_in``
        found.update(_gains_among(directory, names))
    return _once(found)


def _is_searched(target: Path, real_root: str) -> bool:
    """Whether what a link leads to is found below the root without the link."""
    return target.is_relative_to(real_root) and not any(
        part.startswith(".") for part in target.relative_to(real_root).parts
    )


def gains_in(directory: Path) -> list[Path]:
    """Find the gain references in one directory; raises OSError where it cannot be listed.

    One with several images is no reference, whatever its name. What cannot be read, and a link that is not followed,
    stays a candidate: that it is unreadable does not make another session's the right one. A link to another candidate
    is left out.
    """
    with entries(directory) as listed:
        return _once(_gains_among(directory, [entry.name for entry in listed]))


def _gains_among(directory: Path, names: list[str]) -> set[Path]:
    """Paths of what the content leaves of the files that a name nominates."""
    found: dict[Path, _Image | None] = {}
    stacks = set()
    for name in names:
        is_named = is_gain_name(name)
        if name.startswith(".") or not (is_named or _may_be_gain_name(name)):
            continue
        path = directory / name
        try:
            status = (link_target(path) or path).lstat()
        except OSError:
            continue  # it vanished
        image = _image_in(path, status) if stat.S_ISREG(status.st_mode) else None
        if image is not None and image.is_stack:
            stacks.add(_NUMBERS.sub("", name.lower()))
        elif is_named and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            found[path] = image
        elif image is not None and image.is_around_one:
            found[path] = image
    # the first frame of a movie that is being written looks like an image; its series is known by the others
    return {
        path
        for path, image in found.items()
        if image is None or image.is_float or _NUMBERS.sub("", path.name.lower()) not in stacks
    }


def _once(paths: set[Path]) -> list[Path]:
    """Sorted, and each file once: what is there itself before a link to it."""
    by_real: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        by_real.setdefault(os.path.realpath(path), path)
    return sorted(by_real.values())


def _may_be_gain_name(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in (".mrc", ".mrcs") and _PERHAPS.search(path.stem) is not None


def _image_in(path: Path, status: os.stat_result) -> _Image | None:
    """What a file is, asked again only after a change; None: not known."""
    if path.suffix.lower() in (".gain", ".dm4", ".dm3"):
        return None
    try:
        return _first_image(path, status.st_size, status.st_mtime_ns)
    except StreamerError:
        return None


@lru_cache(maxsize=_MOST_KNOWN)
def _first_image(path: Path, _size: int, _mtime_ns: int) -> _Image | None:
    """What the first bytes say, whether or not the file is whole; no pixel is decoded."""
    with opened(path) as descriptor:
        head = read_up_to(descriptor, mrc.HEADER_BYTES, 0)
        if is_tiff(head):
            file, offset = open_tiff(path, descriptor)
            tags, following = read_tags(file, offset, 0)
            is_stack = _images_told(file, tags) > 1 or (following != 0 and not _has_one_image(path))
            return _Image(is_stack, tag_value(file, tags, _SAMPLE_FORMAT, 0, 1) == _FLOAT, is_around_one=False)
        if not mrc.looks_like_mrc(head):
            return None
    n_images, mode = struct.unpack_from("<2i", head, 8)
    smallest, _, mean = struct.unpack_from("<3f", head, 76)
    (deviation,) = struct.unpack_from("<f", head, 216)
    is_float = mode in (2, 12)
    around_one = is_float and n_images == 1 and is_around_one(smallest, mean, deviation)
    return _Image(1 < n_images <= mrc.MAX_FRAMES, is_float, around_one)


def _has_one_image(path: Path) -> bool:
    """Whether the other images of a TIFF are only small pictures of the first."""
    try:
        return movie.read_header(path).n_frames == 1
    except StreamerError:
        return False  # a movie that is not whole yet


def _images_told(file: TiffFile, tags: Tags) -> int:
    """Number of images that ImageJ's description states of a stack beyond 4 GB, which has one directory; else 1."""
    _, count, value = tags.get(_DESCRIPTION, (0, 0, b""))
    if count <= len(value):
        return 1
    (offset,) = struct.unpack(file.byte_order + ("Q" if file.big else "I"), value)
    told = _IMAGES.search(read_up_to(file.descriptor, min(count, _LONGEST_DESCRIPTION), offset))
    return int(told[1]) if told else 1


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
        raise ConfigError(
            "cannot be read as a gain reference", where=path, found=error.message(), hint=_MAKE_AGAIN
        ) from error
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
        raise ConfigError(
            "is not a gain reference",
            where=path,
            expected="1 image",
            found=header.n_frames,
            hint="set movie.gain to the reference itself, or move this file away",
        )
    before = movie.identity_of(path)
    counts = movie.read_counts(path, header, in_memory_bytes=header.decoded_bytes, threads=1, expected=before)
    return counts[0].astype(np.float32)


def _checked(path: Path, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ConfigError("contains gains that are not finite", where=path, hint=_MAKE_AGAIN)
    if values.min() < 0:
        raise ConfigError("contains negative gains", where=path, found=f"{values.min():g}", hint=_MAKE_AGAIN)
    if not values.any():
        raise ConfigError("contains no gain above 0", where=path, hint=_MAKE_AGAIN)
    return values


def _sha256(path: Path) -> str:
    with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------- names: programs tell that of the original, people convert it


def base_name(path: str | None) -> str | None:
    """Name of a file that a program gives with its path, a Windows one or not; None where there is none."""
    return PureWindowsPath(path.strip().strip('"')).name[:_MAX_NAME] or None if path else None


def stem(name: str) -> str:
    """The name without its suffixes and without the case of its letters: ``A.dm4.mrc`` and ``a.gain`` are both a."""
    short = name.lower()
    while (suffix := next((end for end in _NAMED_SUFFIXES if short.endswith(end) and short != end), None)) is not None:
        short = short.removesuffix(suffix)
    return short


def named_among(candidates: Iterable[Path], name: str | None) -> list[Path]:
    """The files that a name means: those that are called so, else those of the same stem."""
    if name is None:
        return []
    known = list(candidates)
    for fits in (
        lambda path: path.name.lower() == name.lower(),
        lambda path: stem(path.name) == stem(name),
    ):
        if found := [path for path in known if fits(path)]:
            return found
    return []


def named_in(directory: Path, name: str | None) -> list[Path]:
    """The files of one directory that a name means, sorted, though it may not be one that references usually have.

    Only an image that is one of a stack of them is no reference. No directory is listed.
    """
    if name is None:
        return []
    own = name[: len(stem(name))]
    found = set()
    for path in {directory / each for each in (name, *(own + suffix for suffix in _SUFFIXES))}:
        try:
            status = (link_target(path) or path).lstat()
        except OSError:
            continue
        image = _image_in(path, status) if stat.S_ISREG(status.st_mode) else None
        if path.suffix.lower() in _SUFFIXES and not stat.S_ISDIR(status.st_mode) and not (image and image.is_stack):
            found.add(path)
    return _once(found)
