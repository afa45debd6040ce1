"""Content of the watched directory: paths below the root, and the state of each file that may be a movie."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from streamer.metadata import epu
from streamer.readers.files import Bounds, below, entries, identity, passed
from streamer.watch.names import is_hidden, is_movie_name, name_rule
from streamer.watch.settings import WatchSettings
from streamer.watch.skips import NOT_FOLLOWED, NOWHERE, Skips, unfollowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.records import FileIdentity

    IsDone = Callable[[str, FileIdentity], bool]


# Names that neither movies nor directories have: a link of another name may lead to a whole session.
_DOCUMENTS = tuple(
    ".txt .log .xml .mdoc .jpg .jpeg .png .gif .bmp .svg .pdf .html .csv .tsv .star .json .toml .yaml .yml .ini .cfg "
    ".conf .md .py .sh .db .sqlite .nav .adoc .npz .npy .docx .xlsx .pptx".split()
)


_PLACE_PARTS = 3
"""Parts of an absolute path, the root's among them, that links are told apart by: ``/mnt/k3`` is another place than
``/mnt/falcon``, but the squares of one session are one place."""


class Listing(NamedTuple):
    """The files found at one time."""

    files: dict[str, FileIdentity]
    """By path below the root, with slashes."""
    names: set[str]
    """Paths of all files present, including those that were left out as done."""
    root_missing: bool = False
    """The root does not exist or cannot be read: nothing is known, which is not the same as an empty root."""
    skips: Skips = Skips()
    """What was left out, and by which rule."""
    has_links: bool = False
    """Whether links were followed, behind which the kernel tells of no change."""


def scan(root: Path, settings: WatchSettings, is_done: IsDone = lambda _path, _identity: False) -> Listing:
    """List all files below ``root`` that may be movies.

    Regular files only; hidden directories are passed by. Links are followed inside the root, and to the places that the
    settings allow; what is there under its real path is listed under that alone, and each directory once, so that
    circles end. Files that vanish or cannot be read meanwhile are left out.

    Parameters
    ----------
    is_done : whether a file needs no more attention: of a long session only the few others are kept.
    """
    return _Scan(root, settings, is_done).listing()


def look_again(root: Path, relatives: Iterable[str], settings: WatchSettings | None = None) -> Listing:
    """Find the present state of files that a scan has found; those that vanished, even behind a link, are left out."""
    settings = settings or WatchSettings()
    bounds = Bounds(root, settings.places)
    files, names = {}, defaultdict(list)
    for relative in relatives:
        names[relative.rpartition("/")[0]].append(relative)
    for directory, some in names.items():
        try:
            with passed(root, directory) as descriptor:
                for relative in some:
                    with suppress(OSError):
                        status = os.stat(relative.rpartition("/")[2], dir_fd=descriptor, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            files[relative] = identity(status)
                        elif stat.S_ISLNK(status.st_mode):
                            files |= _behind_links(bounds, settings, [relative])
        except OSError:
            files |= _behind_links(bounds, settings, some)
    return Listing(files, set(files))


def is_movie_path(root: Path, relative: str, settings: WatchSettings) -> bool:
    """Whether ``scan`` would list a file of this path, if it is a regular one."""
    *directories, name = relative.split("/")
    if any(is_hidden(directory) for directory in directories):
        return False
    return is_movie_name(name, settings, in_epu_tree=epu.is_in_tree((*root.parts, *directories)))


def _behind_links(bounds: Bounds, settings: WatchSettings, relatives: list[str]) -> dict[str, FileIdentity]:
    found = {}
    for relative in relatives:
        status = _status_behind(bounds, settings, relative)
        if status is not None and stat.S_ISREG(status.st_mode):
            found[relative] = identity(status)
    return found


def _status_behind(bounds: Bounds, settings: WatchSettings, relative: str) -> os.stat_result | None:
    """State of what a path with a link in it leads to; None: not followed, absent, or listed under its real path."""
    target = bounds.target(bounds.root / relative)
    if target is None or _is_listed_itself(bounds, settings, target.path):
        return None
    try:
        return target.status()
    except OSError:
        return None


def _is_listed_itself(bounds: Bounds, settings: WatchSettings, real: Path) -> bool:
    """Whether a scan finds a file under its real path: then that counts, and the link to it does not."""
    root = os.path.realpath(bounds.root)
    return real.is_relative_to(root) and is_movie_path(bounds.root, os.path.relpath(real, root), settings)


class _Scan:
    """One look at everything: first what is there itself, then what links to directories add, then links to files."""

    def __init__(self, root: Path, settings: WatchSettings, is_done: IsDone) -> None:
        self._root, self._settings, self._is_done = root, settings, is_done
        self._bounds = Bounds(root, settings.places)
        self._real_root = os.path.realpath(root)
        self._files: dict[str, FileIdentity] = {}
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._unfollowed: dict[str, str] = {}
        self._links: list[str] = []
        self._linked: set[Path] = set()
        """Real paths of the directories that were listed through a link."""

    def listing(self) -> Listing:
        with below(self._root, self._settings.places):
            if not self._list_from("", None):
                return Listing({}, set(), root_missing=True)
            to_files: list[tuple[str, Path, FileIdentity]] = []
            while self._links:
                # of several links to one thing the shortest counts, then the first by name
                self._links.sort(key=lambda path: (path.count("/"), path), reverse=True)
                self._follow(self._links.pop(), to_files)
            seen: set[Path] = set()
            for path, real, found in sorted(to_files):
                if real not in seen and not (real.parent in self._linked and is_movie_name(real.name, self._settings)):
                    self._add(path, found)
                seen.add(real)
        skips = Skips(dict(self._counts), self._unfollowed)
        return Listing(self._files, self._names, skips=skips, has_links=bool(self._linked or to_files))

    def _list_from(self, start: str, real: Path | None) -> bool:
        """List a directory and those in it; false if it cannot be listed itself.

        Parameters
        ----------
        real : where it lies, if it is reached through a link.
        """
        directories = [(start, real)]
        while directories:
            relative, real = directories.pop()
            if real is not None and self._was_listed(real):
                continue
            in_epu_tree = epu.is_in_tree((*self._root.parts, *relative.split("/")))
            try:
                with entries(self._root / relative) as found:
                    for entry in found:
                        path = f"{relative}/{entry.name}" if relative else entry.name
                        if _is_directory(entry):
                            directories.append((path, None if real is None else real / entry.name))
                        else:
                            self._note(path, entry, in_epu_tree=in_epu_tree)
            except OSError:
                if not relative:
                    return False
                # Renamed, removed or forbidden while we were looking: the next scan sees its new state.
        return True

    def _note(self, path: str, entry: os.DirEntry[str], *, in_epu_tree: bool) -> None:
        """Note a link for later, and a file if it is regular and still exists."""
        if entry.is_symlink():
            if not is_hidden(entry.name):
                self._links.append(path)
        elif self._may_be_movie(entry.name, in_epu_tree=in_epu_tree):
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    self._add(path, identity(status))

    def _was_listed(self, real: Path) -> bool:
        """Whether a directory that a link leads to has been listed, under its own path or through another link."""
        if real in self._linked:
            return True
        if real.is_relative_to(self._real_root):
            return not any(is_hidden(part) for part in real.relative_to(self._real_root).parts)
        self._linked.add(real)
        return False

    def _follow(self, path: str, to_files: list[tuple[str, Path, FileIdentity]]) -> None:
        """List what a link leads to, or note that it is not followed."""
        directory, _, name = path.rpartition("/")
        target = self._bounds.target(self._root / path)
        try:
            status = None if target is None else target.status()
        except OSError:
            status = None
        if target is not None and status is not None and stat.S_ISDIR(status.st_mode):
            self._list_from(path, target.path)
            return
        in_epu_tree = epu.is_in_tree((*self._root.parts, *directory.split("/")))
        if target is None or status is None:
            pointed = self._bounds.pointed(self._root / path) or ""
            rule = name_rule(name, self._settings, in_epu_tree=in_epu_tree)
            # what it is cannot be known: a movie by its name, or perhaps a directory
            if rule:
                self._counts[rule] += 1
            elif rule is None or not name.lower().endswith(_DOCUMENTS):
                is_allowed = self._bounds.allows(pointed)
                self._counts[NOWHERE if is_allowed else NOT_FOLLOWED] += 1
                words = unfollowed(path, pointed, is_movie=rule is None, is_allowed=is_allowed)
                self._unfollowed.setdefault(f"{directory} -> {'/'.join(pointed.split('/')[:_PLACE_PARTS])}", words)
        elif stat.S_ISREG(status.st_mode) and self._may_be_movie(name, in_epu_tree=in_epu_tree):
            if not _is_listed_itself(self._bounds, self._settings, target.path):
                to_files.append((path, target.path, identity(status)))

    def _may_be_movie(self, name: str, *, in_epu_tree: bool) -> bool:
        """Whether the content decides; what a rule leaves out is counted."""
        rule = name_rule(name, self._settings, in_epu_tree=in_epu_tree)
        if rule:
            self._counts[rule] += 1
        return rule is None

    def _add(self, path: str, found: FileIdentity) -> None:
        # the same string as at the last scan, shared by everything that remembers paths
        path = sys.intern(path)
        self._names.add(path)
        if not self._is_done(path, found):
            self._files[path] = found


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether to descend."""
    try:
        return not is_hidden(entry.name) and entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
