"""Free space of the volumes that a daemon uses, queried in threads of their own: a dead mount never answers."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, NamedTuple

from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streamer.runtime.clock import Clock


class Space(NamedTuple):
    """Space of a volume, bytes."""

    free: int
    total: int


_EVERY_S = 2.0
_SILENT_S = 30.0


class Disks:
    """Queries the volumes periodically; ``free`` never waits."""

    def __init__(self, paths: Mapping[str, Path], clock: Clock = SYSTEM) -> None:
        self._clock, self._stop = clock, threading.Event()
        self._found: dict[str, tuple[float, Space]] = {}
        self._threads = [
            # one for each volume, so that a dead one does not hold up the others
            threading.Thread(target=self._ask, args=(name, path), name=f"disk-{name}", daemon=True)
            for name, path in paths.items()
        ]
        for thread in self._threads:
            thread.start()

    def spaces(self) -> dict[str, Space]:
        """Space by volume, without those that have not answered for half a minute."""
        now = self._clock.monotonic()
        return {name: space for name, (when, space) in dict(self._found).items() if now - when < _SILENT_S}

    def free(self) -> dict[str, int]:
        """Free bytes by volume, without those that have not answered for half a minute."""
        return {name: space.free for name, space in self.spaces().items()}

    def close(self) -> None:
        """Stop asking; a thread that hangs in a dead mount is left behind."""
        self._stop.set()

    def _ask(self, name: str, path: Path) -> None:
        while True:
            space = space_of(path)
            if space is not None:
                self._found[name] = (self._clock.monotonic(), space)
            if self._stop.wait(_EVERY_S):
                return


def space_of(path: Path) -> Space | None:
    """Space of the volume that a path is on, or will be on; None where that is unknown."""
    for place in (path, *path.parents):
        try:
            usage = shutil.disk_usage(place)
            return Space(usage.free, usage.total)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
