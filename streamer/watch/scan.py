"""Content of the watched directory: paths below the root, and the state of each file that may be a movie."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import sys
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from streamer.metadata import epu
from streamer.readers.files import below, entries, identity, passed
from streamer.readers.gain import is_gain_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.records import FileIdentity
    from streamer.watch.settings import WatchSettings

    IsDone = Callable[[str, FileIdentity], bool]


class Listing(NamedTuple):
    """The files found at one time."""

    files: dict[str, FileIdentity]
    """By path below the root, with slashes."""
    names: set[str]
    """Paths of all files present, including those that were left out as done."""
    root_missing: bool = False
    """The root does not exist or cannot be read: nothing is known, which is not the same as an empty root."""


def scan(root: Path, settings: WatchSettings, is_done: IsDone = lambda _path, _identity: False) -> Listing:
    """List all files below ``root`` that may be movies.

    Regular files only; links, to files or directories, and hidden directories are not followed. Files that
    vanish or cannot be read meanwhile are left out.

    Parameters
    ----------
    is_done : whether a file needs no more attention: of a long session only the few others are kept.
    """
    listing = Listing({}, set())
    directories = [""]
    with below(root):
        while directories:
            relative = directories.pop()
            in_epu_tree = epu.is_in_tree((*root.parts, *relative.split("/")))
            try:
                with entries(root / relative) as found:
                    for entry in found:
                        path = f"{relative}/{entry.name}" if relative else entry.name
                        if _is_directory(entry):
                            directories.append(path)
                        elif is_movie_name(entry.name, settings, in_epu_tree=in_epu_tree):
                            _add(listing, path, entry, is_done)
            except OSError:
                if not relative:
                    return Listing({}, set(), root_missing=True)
                # Renamed, removed or forbidden while we were looking: the next scan sees its new state.
    return listing


def look_again(root: Path, relatives: Iterable[str]) -> Listing:
    """Find the present state of files that a scan has found; those that vanished, even behind a link, are left out."""
    files, names = {}, defaultdict(list)
    for relative in relatives:
        names[relative.rpartition("/")[0]].append(relative)
    for directory, some in names.items():
        with suppress(OSError), passed(root, directory) as descriptor:
            for relative in some:
                with suppress(OSError):
                    status = os.stat(relative.rpartition("/")[2], dir_fd=descriptor, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        files[relative] = identity(status)
    return Listing(files, set(files))


def is_movie_path(root: Path, relative: str, settings: WatchSettings) -> bool:
    """Whether ``scan`` would list a file of this path, if it is a regular one."""
    *directories, name = relative.split("/")
    if any(_is_hidden(directory) for directory in directories):
        return False
    return is_movie_name(name, settings, in_epu_tree=epu.is_in_tree((*root.parts, *directories)))


def is_movie_name(name: str, settings: WatchSettings, *, in_epu_tree: bool = False) -> bool:
    """Whether a file of this name may be a movie.

    Parameters
    ----------
    in_epu_tree : it is where EPU also writes integrated images, which differ from movies only by name.
    """
    lower = name.lower()
    if not _matcher(settings.include).match(lower) or _matcher(settings.exclude).match(lower):
        return False
    if is_gain_name(name):
        return False
    return not in_epu_tree or epu.is_fractions(os.path.splitext(name)[0])  # noqa: PTH122 - a name, no path


@lru_cache(maxsize=16)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for several file name patterns, in lower case; no patterns match nothing."""
    return re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns) or r"(?!)")


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether to descend; directories such as ``.snapshot`` contain copies of everything."""
    try:
        return not _is_hidden(entry.name) and entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_hidden(directory: str) -> bool:
    return directory.startswith((".", "$"))


def _add(listing: Listing, path: str, entry: os.DirEntry[str], is_done: IsDone) -> None:
    """Note a file if it is regular and still exists."""
    with suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            # the same string as at the last scan, shared by everything that remembers paths
            path, found = sys.intern(path), identity(status)
            listing.names.add(path)
            if not is_done(path, found):
                listing.files[path] = found
