"""Free space of the volumes that a daemon uses, asked in a thread of its own: a dead mount answers nobody."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_EVERY_S = 2.0
_SILENT_S = 30.0


class Disks:
    """Asks again and again; ``free`` never waits."""

    def __init__(self, paths: Mapping[str, Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._stop = clock, threading.Event()
        self._found: dict[str, tuple[float, int]] = {}
        self._threads = [
            # one for each, so that the dead one does not hold up the others
            threading.Thread(target=self._ask, args=(name, path), name=f"disk-{name}", daemon=True)
            for name, path in paths.items()
        ]
        for thread in self._threads:
            thread.start()

    def free(self) -> dict[str, int]:
        """Bytes by volume, without those that have not answered for half a minute."""
        now = self._clock()
        return {name: free for name, (when, free) in dict(self._found).items() if now - when < _SILENT_S}

    def close(self) -> None:
        """Stop asking; a thread that hangs in a dead mount is left behind."""
        self._stop.set()

    def _ask(self, name: str, path: Path) -> None:
        while True:
            free = free_bytes(path)
            if free is not None:
                self._found[name] = (self._clock(), free)
            if self._stop.wait(_EVERY_S):
                return


def free_bytes(path: Path) -> int | None:
    """Free space of the volume that a path lies on, or will lie on; None where that is unknown."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
