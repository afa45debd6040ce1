"""Which specimen is in the microscope: decided from the look of its movies, movie by movie.

A movie's texture (``streamer.quality.texture``) is compared with those of the movies before it. A session is not
homogeneous: focus, ice and dirt differ from movie to movie, in one session more than in the other. The measure of
distance is therefore the spread of the session's own movies, the odd ones too, pooled with the spread of simulated
sessions with and without dirt, as wide as this session's. One odd movie is an outlier. Another specimen, a new one or
one seen before, takes two or three in a row that are far from the session, and nearer to each other than to any of
its movies; one is enough where it fits one seen before. Movies in which there is nothing to see do not come here
(``streamer.quality.emptiness``). No torch: the daemon decides this.
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
_PRIOR_MOVIES = 30.0
"""How many movies the previously known spread is worth in its shape."""
_PRIOR_SIZE = 3.0
"""The same in its size, which few movies show: each has seventeen numbers."""
ODD = 28.0
"""Squared distance at which one movie is odd; the seventeen numbers give 17 ± 6 within one specimen."""
OTHER = {2: 130.0, 3: 60.0}
"""Squared distance of so many odd movies in a row together, above which they may be of another specimen."""
TOGETHER = {2: 0.7, 3: 0.85}
"""Distance of each of them to the nearest other one, over that to the nearest movie of the session, below which."""
_FEW = 3.0
"""These are higher by this over the number of known movies: few do not show how much a session varies."""
_FAR = 60.0
"""Squared distance up to which a movie widens the spread: one that is full of dirt must not hide another specimen."""
_SAME = 40.0
"""Squared distance, of such movies or of one movie, below which they are of a specimen seen before."""
_NEARER = 3.0
"""By how much a single movie has to be nearer to that specimen than to the present one."""


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
    """It looks unlike the specimen's other movies."""


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
        self._inverse = np.linalg.inv(self._spread)

    def remember(self, look: TextureSample, specimen: int) -> None:
        """Adopt an earlier decision; without a texture only which specimen it was."""
        self.current = specimen
        known = self._known.setdefault(specimen, _Known(look.pixel_size))
        if look.texture:
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
        for count in (count for count in OTHER if count <= len(suspects)):
            if (why := self._why_other(suspects[-count:])) is not None:
                return self._changed(suspects, why, outliers=len(suspects) - count)
        self._suspects = suspects[-(max(OTHER) - 1) :]
        given_up = suspects[: -(max(OTHER) - 1)]
        return self._note([Decided(other, self.current, odd=True) for other in given_up])

    # ------------------------------------------------------------------------------------------------ details

    def _why_other(self, looks: list[TextureSample]) -> str | None:
        """Why odd movies in a row are of another specimen than the present one; None: they need not be."""
        distance, least = self._distance(looks, self.current), self._least(len(looks))
        if distance < least or not self._keep_together(looks):
            return None
        return f"{len(looks)} movies in a row look different ({distance:.0f}, one specimen: below {least:.0f})"

    def _least(self, count: int) -> float:
        """Squared distance that so many movies have to have from the present specimen's to be of another."""
        return OTHER[count] * (1.0 + _FEW / len(self._known[self.current].textures))

    def _keep_together(self, looks: Sequence[TextureSample]) -> bool:
        """Whether each of some odd movies is clearly nearer to another of them than to any of the present specimen.

        Movies that are odd for dirt are odd each in its own way, and nearest to the session's ordinary movies.
        """
        known = np.array(self._known[self.current].textures)
        odd = np.array([look.texture for look in looks])
        # in coordinates in which the spread is the same in all directions
        whitened = np.linalg.inv(np.linalg.cholesky(self._spread_of(known, odd)))
        known, odd = known @ whitened.T, odd @ whitened.T
        for index, one in enumerate(odd):
            others = np.square(np.delete(odd, index, axis=0) - one).sum(1)
            if others.min() >= TOGETHER[len(odd)] ** 2 * np.square(known - one).sum(1).min():
                return False
        return True

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
        if earlier is None or not self._known[self.current].textures:
            return None
        here, there = (self._distance([look], specimen) for specimen in (self.current, earlier))
        return earlier if here > max(_NEARER * there, self._least(max(OTHER))) else None

    def _returned(self, look: TextureSample, earlier: int, reason: str) -> SpecimenDecision:
        outliers = [Decided(other, self.current, odd=True) for other in self._suspects]
        change = Change(self.current, earlier, True, reason)
        self._suspects = []
        return self._note([*outliers, Decided(look, earlier)], change)

    def _changed(self, looks: list[TextureSample], reason: str, outliers: int = 0) -> SpecimenDecision:
        """Another specimen since the first of some movies that is no outlier and has the newest one's pixel size."""
        previous = self.current
        of_it = [look for look in looks[outliers:] if is_same_pixel_size(look.pixel_size, looks[-1].pixel_size)]
        earlier = self._earlier(of_it)
        returned, specimen = earlier is not None, earlier or max(self._known) + 1
        decided = [Decided(look, specimen if look in of_it else previous, odd=look not in of_it) for look in looks]
        self._suspects = []
        return self._note(decided, Change(previous, specimen, returned, reason))

    def _decide(self, looks: Sequence[TextureSample], specimen: int) -> SpecimenDecision:
        """Assign movies to a specimen; those before the newest were odd."""
        *outliers, newest = looks
        self._suspects = []
        return self._note([*(Decided(look, specimen, odd=True) for look in outliers), Decided(newest, specimen)])

    def _note(self, decided: list[Decided], change: Change | None = None) -> SpecimenDecision:
        for one in decided:
            self.remember(one.look, one.specimen)
            self._latest = [one.look]
        return SpecimenDecision(tuple(decided), change)

    def _distance(self, looks: Sequence[TextureSample], specimen: int) -> float:
        """Squared Mahalanobis distance of the mean of some movies from that of a specimen's."""
        known = np.array(self._known[specimen].textures)
        some = np.array([look.texture for look in looks])
        away = some.mean(0) - self._centre(known)
        spread = self._spread_of(known, some)
        return float(away @ np.linalg.solve(spread, away)) / (1.0 / len(some) + 1.0 / len(known))

    def _spread_of(self, *groups: Vector) -> Vector:
        """Covariance of textures about the mean of their group, (17, 17), pooled with the one known beforehand.

        The known one is first made as wide as the groups show, then counts as ``_PRIOR_MOVIES`` movies.
        """
        own = sum((self._scatter(group) for group in groups), start=0.0)
        free = sum(len(group) - 1 for group in groups)
        seen = float((self._inverse * own).sum()) / len(self._spread)
        size = (_PRIOR_SIZE + seen) / (_PRIOR_SIZE + free)
        pooled: Vector = (_PRIOR_MOVIES * size * self._spread + own) / (_PRIOR_MOVIES + free)
        return pooled

    def _centre(self, group: Vector) -> Vector:
        """Mean of textures, (17,); those far from the median count for less."""
        middle: Vector = np.median(group, axis=0) if len(group) >= LEAST_KNOWN else group.mean(0)
        centre: Vector = np.average(group, axis=0, weights=self._shares(group - middle))
        return centre

    def _scatter(self, group: Vector) -> Vector:
        """Sum of the squared deviations from a group's centre, (17, 17); a single movie counts up to ``_FAR``."""
        away = group - self._centre(group)
        away = away * self._shares(away)[:, None]
        scatter: Vector = away.T @ away
        return scatter

    def _shares(self, away: Vector) -> Vector:
        """How much of each deviation is within ``_FAR``, (n,), 1 for what is not far."""
        squared = np.einsum("ij,jk,ik->i", away, self._inverse, away)
        shares: Vector = np.sqrt(_FAR / np.maximum(squared, _FAR))
        return shares
