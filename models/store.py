"""The versions of one session, and which of them serves. No torch: the daemon decides, the worker loads.

<store>/v0001/model.safetensors  manifest.json        <store>/current -> v0001
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from models.manifest import MANIFEST
from streamer.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = re.compile(r"v\d{4}")
_CURRENT = "current"


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
        return sorted(p.name for p in self.directory.iterdir() if _VERSION.fullmatch(p.name))

    def next_version(self) -> str:
        """Name for a new version; numbers are never used twice."""
        versions = self.versions()
        return f"v{int(versions[-1][1:]) + 1:04d}" if versions else "v0001"

    def current(self) -> str | None:
        """Version that serves, or None."""
        link = self.directory / _CURRENT
        if not link.is_symlink():
            return None
        version = str(link.readlink())
        return version if version in self.versions() else None

    def set_current(self, version: str | None) -> None:
        """Let a version serve; None takes the network out of service."""
        link = self.directory / _CURRENT
        if version is None:
            link.unlink(missing_ok=True)
        else:
            self.path(version)
            temporary = self.directory / f".{_CURRENT}.tmp-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(version)
            temporary.replace(link)
        if self.directory.is_dir():
            sync_directory(self.directory)


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
