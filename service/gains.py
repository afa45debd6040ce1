"""Which gain reference a session uses: the one that is set, else the only one that lies below the root."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import ConfigError
from streamer.readers.gain import gain_candidates

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_SHARE = 0.05
"""Looking through the tree for a gain may take this part of the time."""


class GainChoice:
    """Chosen once and kept; looked for again while there is none."""

    def __init__(self, root: Path, setting: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Check a gain that is set; raises ConfigError if it is not there."""
        self._root, self._clock = root, clock
        self._chosen: Path | None = None
        self._next_look = -float("inf")
        if setting is not None:
            self._chosen = Path(setting).absolute()
            if not self._chosen.is_file():
                raise ConfigError("the gain reference is not there", where="movie.gain", found=self._chosen)

    def path(self) -> Path | None:
        """Gain to multiply with, or None; raises ConfigError where several could be meant."""
        if self._chosen is None and self._clock() >= self._next_look:
            began = self._clock()
            self._chosen = only_candidate(self._root)
            took = self._clock() - began
            self._next_look = began + took / _LOOK_SHARE
        return self._chosen


def only_candidate(root: Path) -> Path | None:
    """The only gain reference below a directory; None where there is none."""
    candidates = gain_candidates(root)
    if len(candidates) > 1:
        raise ConfigError(
            "several gain references could be meant",
            where=root,
            expected="one",
            found=", ".join(str(path) for path in candidates),
            hint="set movie.gain to the right one",
        )
    return candidates[0] if candidates else None
