"""The store of a session's versions, and which of them is used.

<store>/v0001/model.safetensors  manifest.json  pinned        <store>/current -> v0001

No torch: the daemon decides, the trainer learns, the worker loads.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from models.manifest import MANIFEST, PATTERN, WEIGHTS, load_manifest
from models.versions.durable import sync_directory
from streamer.errors import ModelError
from streamer.writers.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from models.manifest import Manifest

_VERSION = re.compile(r"v(\d{4}|[1-9]\d{4,})")
BASE = "v0000"
"""A session's name for the weights that it started from."""
_CURRENT = "current"
_HELD = "none"
"""Target of ``current`` when the operator wants no network."""
_PINNED = "pinned"
_REMOVED = ".removed-"
_ANCESTORS = 3
"""Number of consecutive rollbacks that find their target."""
_NEWEST = 100
"""Enough that versions named by outputs can still be looked up; 32 MB for the default net."""

SUPER_RESOLUTION_MODELS = {"fusion": "fine-models", "zssr": "zssr-models"}
"""Stores of super-resolution networks, next to that of the denoisers, by method."""


class ModelStore:
    """The versions of one session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, version: str) -> Path:
        """Directory of a version, which must exist."""
        path = self.directory / version
        if not _VERSION.fullmatch(version) or not (path / MANIFEST).is_file():
            known = ", ".join(self.versions()) or "none"
            raise ModelError("there is no such version", where=self.directory, found=version, hint=f"known: {known}")
        return path

    def versions(self) -> list[str]:
        """Names of all versions, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted((p.name for p in self.directory.iterdir() if _VERSION.fullmatch(p.name)), key=_number)

    def next_version(self) -> str:
        """Name for a new version; numbers are never used twice, because the newest are never removed."""
        versions = self.versions()
        return f"v{_number(versions[-1]) + 1:04d}" if versions else "v0001"

    def before(self, version: str) -> str | None:
        """Version in use when another was trained; if unknown, the next older one; None: no network."""
        with suppress(ModelError):
            parent = load_manifest(self.path(version)).parent
            if parent is None or (self.directory / parent / MANIFEST).is_file():
                return parent
        older = [name for name in self.versions() if _number(name) < _number(version)]
        return older[-1] if older else None

    def learned_from(self) -> set[str]:
        """Ids of movies that were learned from: after a rollback they must not bring back what was rolled back."""
        learned: set[str] = set()
        for name in self.versions():
            with suppress(ModelError):
                learned.update(load_manifest(self.path(name)).trained_on)
        return learned

    # -------------------------------------------------------------------------------------------- the one used

    def current(self) -> str | None:
        """Version in use, or None."""
        version = self._link()
        return version if version in self.versions() else None

    @property
    def is_held(self) -> bool:
        """Whether the operator has taken the network out of service: then no candidate is promoted by itself."""
        return self._link() == _HELD

    def set_current(self, version: str | None, *, held: bool = False) -> None:
        """Put a version into service; None: no network, and if ``held``, none until an operator promotes one."""
        link = self.directory / _CURRENT
        if version is not None:
            self.path(version)
        if version is None and not held:
            link.unlink(missing_ok=True)
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = self.directory / f".{_CURRENT}.tmp-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(version or _HELD)
            temporary.replace(link)
        if self.directory.is_dir():
            sync_directory(self.directory)

    def _link(self) -> str | None:
        link = self.directory / _CURRENT
        return str(link.readlink()) if link.is_symlink() else None

    # -------------------------------------------------------------------------------------------- new ones

    def adopt(self, directory: Path) -> Manifest:
        """Copy weights from elsewhere as the version that this session starts from, kept for good."""
        manifest = copy_version(directory, self.directory / BASE)
        self.pin(BASE)
        return manifest

    # --------------------------------------------------------------------------------------------- old ones

    def pin(self, version: str) -> None:
        """Keep a version for good."""
        (self.path(version) / _PINNED).touch()

    def sweep(self) -> None:
        """Remove what a process left when it was killed while storing a version; only if no other is storing one."""
        for left_over in self.directory.glob(".v*.tmp-*"):
            shutil.rmtree(left_over, ignore_errors=True)

    def prune(self) -> list[str]:
        """Remove versions that are no longer needed; returns their names.

        The serving version stays with those it was trained from, so that a rollback finds its target; so do the newest
        ones and those that are pinned.
        """
        for left_over in self.directory.glob(f"{_REMOVED}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        versions, kept = self.versions(), set[str]()
        ancestor = self.current()
        for _ in range(1 + _ANCESTORS):
            if ancestor is not None:
                kept.add(ancestor)
                ancestor = self.before(ancestor)
        kept.update(versions[-_NEWEST:])
        gone = [name for name in versions if name not in kept and not (self.directory / name / _PINNED).exists()]
        for name in gone:
            # renamed out of sight first: a version is whole or absent
            hidden = self.directory / f"{_REMOVED}{name}"
            with suppress(OSError):
                (self.directory / name).rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)
        return gone


def copy_version(source: Path, target: Path) -> Manifest:
    """Copy a version under another name, whole or not at all; returns the copy's manifest.

    Raises
    ------
    ModelError
        If there is no version, its weights are not those that its manifest describes, or the target exists.
    """
    manifest = msgspec.structs.replace(load_manifest(source), version=target.name)
    files = {}
    try:
        for name, digest in ((WEIGHTS, manifest.sha256), (PATTERN, manifest.pattern_sha256)):
            if digest is not None:
                files[name] = (source / name).read_bytes()
                found = hashlib.sha256(files[name]).hexdigest()
                if found != digest:
                    raise ModelError(
                        f"{name} does not match its manifest",
                        where=source,
                        expected=digest,
                        found=found,
                        hint="the version is damaged: take another one, or train it again",
                    )
    except OSError as error:
        raise ModelError(
            f"the version cannot be copied: {error.strerror}",
            where=error.filename or source,
            hint="check free space, and the rights on both directories",
        ) from error
    write_version(target, files, manifest)
    return manifest


def write_version(directory: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    """Write a version's files and manifest into a directory of its own, whole or not at all."""
    if directory.exists():
        raise ModelError("a version of this name already exists", where=directory, hint="choose another name")
    temporary = directory.with_name(f".{directory.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_atomically(temporary / name, data)
        write_atomically(temporary / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(directory.parent)


def _number(version: str) -> int:
    return int(version[1:])
