"""The gain reference of each movie: the one that is set or nearest, none where the settings say so, else one made here.

What is made from a session's movies (``gain_from_movies``) is used only where the settings say so and no reference is
found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.detector.gain_choice import GainChoice
from streamer.runtime.clock import SYSTEM
from streamer.settings import NO_GAIN

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.runtime.clock import Clock


class GainSource:
    """Chooses the gain reference of each movie."""

    def __init__(self, root: Path, setting: str | None, clock: Clock = SYSTEM) -> None:
        """Check the gain that is set, if any; raises ConfigError if it does not exist."""
        self._choice = None if setting == NO_GAIN else GainChoice(root, setting, clock)

    def for_movie(self, movie: Path, named: str | None = None) -> Path | None:
        """Gain of a movie below the root, or None; parameters and errors are those of ``GainChoice.for_movie``."""
        return None if self._choice is None else self._choice.for_movie(movie, named)
