"""The movies that a trainer keeps: the newest, and a sample of all earlier ones, so that nothing is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW_SHARE = 2.0 / 3.0
"""Share of the draws that go to the newer half."""

_Movie = TypeVar("_Movie")


class Replay(Generic[_Movie]):
    """A bounded number of movies, in order.

    The newer half are the newest; the older half are a uniform sample of all that are older.
    Source: reservoir sampling, Vitter 1985, algorithm R.
    """

    def __init__(self, most: int, seed: int = 0) -> None:
        self._most_new = most - most // 2
        self._most_old = most // 2
        self._new: list[_Movie] = []
        self._old: list[tuple[int, _Movie]] = []
        self._passed = 0
        """Movies that have left the newer half."""
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, movie: _Movie) -> None:
        """Add the newest movie; another one may be dropped."""
        self._new.append(movie)
        if len(self._new) <= self._most_new:
            return
        leaving = (self._passed, self._new.pop(0))
        self._passed += 1
        if len(self._old) < self._most_old:
            self._old.append(leaving)
            return
        place = int(torch.randint(self._passed, (1,), generator=self._generator))
        if place < self._most_old:
            self._old[place] = leaving

    @property
    def movies(self) -> list[_Movie]:
        """All that are kept, oldest first."""
        return [*(movie for _, movie in sorted(self._old, key=lambda one: one[0])), *self._new]

    @property
    def weights(self) -> list[float]:
        """How often each of ``movies`` is drawn: two thirds of all draws go to the newer half."""
        if not self._old:
            return [1.0] * len(self._new)
        old, new = (1.0 - _NEW_SHARE) / len(self._old), _NEW_SHARE / len(self._new)
        # a new movie is never drawn less often than an old one
        new = max(new, old)
        return [old] * len(self._old) + [new] * len(self._new)

    def keep(self, kept: list[_Movie]) -> None:
        """Drop all movies but these."""
        self._old = [one for one in self._old if any(one[1] is movie for movie in kept)]
        self._new = [movie for movie in self._new if any(movie is one for one in kept)]

    def __iter__(self) -> Iterator[_Movie]:
        return iter(self.movies)

    def __len__(self) -> int:
        return len(self._new) + len(self._old)
