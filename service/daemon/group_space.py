"""Disk space of the sums that models learn from: counted as they arrive; beyond the limit the oldest are deleted."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set

_ROOM = 0.95
"""Share of the limit to go down to: some room at once, so that it is not needed again with every movie."""


class GroupSpace:
    """The disk space of frame-group sums. The directory is read once; from then on files are counted as they arrive."""

    def __init__(self, directory: Path, limit_bytes: float) -> None:
        self._limit = limit_bytes
        found = []
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".safetensors") and not entry.name.startswith("."):
                    stat = entry.stat()
                    found.append((stat.st_mtime_ns, Path(entry.path), stat.st_size))
        self._sizes = {path: size for _, path, size in sorted(found)}
        """Oldest first."""
        self._total = sum(self._sizes.values())

    @property
    def is_full(self) -> bool:
        """Whether the limit is exceeded."""
        return self._total > self._limit

    def add(self, path: Path) -> None:
        """Count a file that is new, or was written again."""
        self._total -= self._sizes.pop(path, 0)
        with suppress(FileNotFoundError):
            self._sizes[path] = path.stat().st_size
            self._total += self._sizes[path]

    def make_room(self, held_out: Set[str], *, most_held_out: int) -> list[Path]:
        """Delete the oldest until a twentieth of the limit is free again; returns what was deleted.

        Parameters
        ----------
        held_out : movie ids. The newest ``most_held_out`` of them go last: what the gate judges by is not made anew.
        """
        older = list(self._sizes)[:-1]  # the newest has not been read yet
        spared = [path for path in older if path.stem in held_out][-most_held_out:]
        removed = []
        for path in [*(path for path in older if path not in spared), *spared]:
            if self._total <= _ROOM * self._limit:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
                self._total -= self._sizes.pop(path)
                removed.append(path)
        return removed
