"""What is left out while movies arrive faster than they can be processed, in a declared order.

First the previews, then the denoising, then the super-resolution; alignment and quality never. Every record names what
it lacks, and ``streamer movies retry --what-was-shed`` reprocesses those movies in full later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.config import ORDER, OverloadSettings

if TYPE_CHECKING:
    from collections.abc import Collection


class LoadShedding:
    """How many movies of the running acquisition wait, and what is left out because of it.

    Movies that were there at the start are no overload: they can wait, and are processed in full.
    """

    def __init__(self, settings: OverloadSettings) -> None:
        self._after = dict(
            zip(ORDER, (settings.preview_after, settings.denoise_after, settings.super_resolution_after), strict=True)
        )
        self._sheds = settings.shed
        self._waiting: set[str] = set()
        self.shed: tuple[str, ...] = ()
        """What is left out at present, in the declared order."""

    def arrived(self, movie_id: str) -> None:
        """Count a movie that arrived while the daemon was watching."""
        self._waiting.add(movie_id)
        self._decide()

    def ended(self, movie_id: str) -> None:
        """Forget a movie that has ended, in whatever way."""
        self._waiting.discard(movie_id)
        self._decide()

    @property
    def waiting(self) -> int:
        """Movies that arrived while the daemon was watching and have not ended."""
        return len(self._waiting)

    def _decide(self) -> None:
        """Leave out from the threshold on; resume below half of it, so that it does not toggle."""
        if self._sheds:
            self.shed = tuple(name for name in ORDER if self._is_shed(name))

    def _is_shed(self, name: str) -> bool:
        return self.waiting >= self._after[name] * (0.5 if name in self.shed else 1.0)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Names of what is left out, in the declared order."""
    return tuple(name for name in ORDER if name in names)
