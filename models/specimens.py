"""Which specimen is in the microscope: decided from the look of its movies, movie by movie.

A movie's texture (``streamer.quality.texture``) is compared with those of the movies before it. The distance is
Mahalanobis', using the spread within a session, which is known beforehand from simulated sessions and refined by the
session's own movies as they arrive. One odd movie is an outlier; two in a row that are odd in the same way are another
specimen, a new one or one seen before; one is enough where it fits one seen before. Movies in which there is nothing to
see do not come here (``streamer.quality.emptiness``). No torch: the daemon decides this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.settings import is_same_pixel_size

if TYPE_CHECKING:
    from collections.abc import Sequence

Vector = NDArray[np.float64]

LEAST_KNOWN = 4
"""Movies of a specimen needed before another can be distinguished from it."""
_MOST_KNOWN = 64
_PRIOR_MOVIES = 60.0
"""How many movies the previously known spread is worth."""
ODD = 28.0
"""Squared distance at which one movie is odd; the seventeen numbers give 17 ± 6 within one specimen."""
OTHER = 70.0
"""Squared distance of the mean of consecutive odd movies above which they are of another specimen."""
_SAME = 40.0
"""Squared distance, of such a mean or of one movie, below which they are of a specimen seen before."""
_MOST_SUSPECTS = 3


class _Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of the file with the spread within a session."""

    source: str
    covariance: list[list[float]]


def _prior() -> Vector:
    data = (files("models") / "data" / "texture_spread.json").read_bytes()
    return np.array(msgspec.json.decode(data, type=_Spread).covariance, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class TextureSample:
    """What a movie looks like."""

    movie_id: str
    texture: tuple[float, ...]
    pixel_size: float
    """Å/px."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of specimen."""

    previous: int
    specimen: int
    returned: bool
    """Whether it was seen before."""
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """A movie whose specimen is clear."""

    look: TextureSample
    specimen: int
    odd: bool = False
    """It is no example of what the specimen looks like."""


@dataclass(frozen=True, slots=True)
class SpecimenDecision:
    """What has become clear with a movie."""

    decided: tuple[Decided, ...]
    """This movie and those that waited for it, in order; none while it is unclear."""
    change: Change | None = None


@dataclass(slots=True)
class _Known:
    """A specimen's movies."""

    pixel_size: float
    textures: list[Vector] = field(default_factory=list)

    def add(self, look: TextureSample) -> None:
        self.textures = [*self.textures, np.array(look.texture)][-_MOST_KNOWN:]


class Specimens:
    """The specimens of one session."""

    def __init__(self) -> None:
        self.current = 0
        """Number of the specimen, from 1; 0: no movie yet."""
        self._known: dict[int, _Known] = {}
        self._suspects: list[TextureSample] = []
        self._latest: list[TextureSample] = []
        """The newest movie that was decided."""
        self._spread = _prior()

    def remember(self, look: TextureSample, specimen: int, *, odd: bool = False) -> None:
        """Adopt an earlier decision."""
        self.current = specimen
        known = self._known.setdefault(specimen, _Known(look.pixel_size))
        if not odd:
            known.add(look)

    def decide(self, look: TextureSample) -> SpecimenDecision:
        """Decide about a finished movie, or wait for the next one."""
        if self.current == 0:
            return self._decide([look], 1)
        if not is_same_pixel_size(look.pixel_size, self._known[self.current].pixel_size):
            reason = f"{look.pixel_size:g} Å/px instead of {self._known[self.current].pixel_size:g}"
            return self._changed([*self._suspects, look], reason)
        if (earlier := self._plainly_back(look)) is not None:
            return self._returned(look, earlier, f"it looks like specimen {earlier}")
        if self._is_young(self.current):
            return self._settle(look)
        if self._distance([look], self.current) < ODD:
            return self._decide([*self._suspects, look], self.current)
        suspects = [*self._suspects, look]
        distance = self._distance(suspects, self.current)
        if len(suspects) > 1 and distance > OTHER:
            reason = f"{len(suspects)} movies in a row look different ({distance:.0f}, one specimen: below {OTHER:g})"
            return self._changed(suspects, reason)
        self._suspects = suspects[-(_MOST_SUSPECTS - 1) :]
        given_up = suspects[: -(_MOST_SUSPECTS - 1)]
        return self._note([Decided(other, self.current, odd=True) for other in given_up])

    # ------------------------------------------------------------------------------------------------ details

    def _is_young(self, specimen: int) -> bool:
        return len(self._known[specimen].textures) < LEAST_KNOWN

    def _earlier(self, looks: Sequence[TextureSample]) -> int | None:
        """Known specimen, other than the current one, that consecutive movies are of; None: none."""
        distances = {
            number: self._distance(looks, number)
            for number, known in self._known.items()
            if number != self.current
            and not self._is_young(number)
            and is_same_pixel_size(known.pixel_size, looks[-1].pixel_size)
        }
        nearest = min(distances, key=distances.__getitem__, default=0)
        return nearest if nearest and distances[nearest] < _SAME else None

    def _settle(self, look: TextureSample) -> SpecimenDecision:
        """A movie of a specimen that has just appeared: an outlier before the change may have hidden which it is."""
        latest = [*self._latest, look][-2:]
        earlier = self._earlier(latest) if len(latest) == 2 else None
        if earlier is None:
            return self._decide([look], self.current)
        return self._returned(look, earlier, f"the last two movies look like specimen {earlier}")

    def _plainly_back(self, look: TextureSample) -> int | None:
        """Specimen seen before that one movie shows to be back; it must look unlike the current one, too."""
        earlier = self._earlier([look])
        return earlier if earlier is not None and self._distance([look], self.current) > OTHER else None

    def _returned(self, look: TextureSample, earlier: int, reason: str) -> SpecimenDecision:
        outliers = [Decided(other, self.current, odd=True) for other in self._suspects]
        change = Change(self.current, earlier, True, reason)
        self._suspects = []
        return self._note([*outliers, Decided(look, earlier)], change)

    def _changed(self, looks: list[TextureSample], reason: str) -> SpecimenDecision:
        previous = self.current
        same_pixels = [look for look in looks if is_same_pixel_size(look.pixel_size, looks[-1].pixel_size)]
        earlier = self._earlier(same_pixels)
        returned, specimen = earlier is not None, earlier or max(self._known) + 1
        decided = [
            Decided(look, specimen if look in same_pixels else previous, odd=look not in same_pixels) for look in looks
        ]
        self._suspects = []
        return self._note(decided, Change(previous, specimen, returned, reason))

    def _decide(self, looks: Sequence[TextureSample], specimen: int) -> SpecimenDecision:
        """Assign movies to a specimen; those before the newest were odd."""
        *outliers, newest = looks
        self._suspects = []
        return self._note([*(Decided(look, specimen, odd=True) for look in outliers), Decided(newest, specimen)])

    def _note(self, decided: list[Decided], change: Change | None = None) -> SpecimenDecision:
        for one in decided:
            self.remember(one.look, one.specimen, odd=one.odd)
            self._latest = [one.look]
        return SpecimenDecision(tuple(decided), change)

    def _distance(self, looks: Sequence[TextureSample], specimen: int) -> float:
        """Squared Mahalanobis distance of the mean of some movies from that of a specimen's."""
        known = np.array(self._known[specimen].textures)
        n, m = len(known), len(looks)
        own = np.cov(known.T) if n > 1 else np.zeros_like(self._spread)
        spread = (_PRIOR_MOVIES * self._spread + (n - 1) * own) / (_PRIOR_MOVIES + n - 1)
        away = np.mean([look.texture for look in looks], axis=0) - known.mean(0)
        return float(away @ np.linalg.solve(spread, away)) / (1.0 / m + 1.0 / n)
