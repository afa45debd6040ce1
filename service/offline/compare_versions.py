"""``streamer models compare``: two versions on the same movies that neither has learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from msgspec import Struct

from models.gate.scoring import score
from models.settings import SessionModelSettings
from models.training.movie import fits, movies_below
from models.versions.checkpoint import load_version
from streamer.errors import UsageError
from streamer.runtime.device import use_threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.manifest import Manifest, MovieScore

_LEAST, _DRAWS = 2, 2000


class Side(Struct, frozen=True, kw_only=True):
    """One of the two; means over the movies."""

    version: str
    directory: str
    sha256: str
    gain: float
    """SNBR* over the Wiener filter's, of halves."""
    snbr: float
    bias_ratio: float
    loss: float


class Comparison(Struct, frozen=True, kw_only=True):
    """What ``models compare --json`` prints."""

    movies: list[str]
    first: Side
    second: Side
    loss_difference: float
    """Mean of the movies' relative differences of the loss, second over first; negative: the second is better."""
    loss_interval: tuple[float, float]
    """95 %, bootstrap over movies."""
    verdict: str


def compare(first: Path, second: Path, places: Sequence[Path], allowed: frozenset[str] | None = None) -> Comparison:
    """Score both on movies that neither has learned from.

    Parameters
    ----------
    places : directories with group sums.
    allowed : ids of the movies to take; None: all.

    Raises
    ------
    UsageError
        If the two work in different bands, or there are fewer than two movies that both can be judged by.
    """
    use_threads(SessionModelSettings().threads)
    (one, made), (other, made_2) = load_version(first), load_version(second)
    if (made.resolution, made.low, made.ctf) != (made_2.resolution, made_2.low, made_2.ctf):
        bands = [f"{m.low:g}-{m.resolution:g} Å, phases {m.ctf}" for m in (made, made_2)]
        raise UsageError(
            "losses of different bands cannot be compared",
            where=second,
            expected=bands[0],
            found=bands[1],
            hint="compare versions of the same session",
        )
    if made.ctf != "none":
        raise UsageError(
            "versions that learned from flipped phases cannot be compared here",
            where=first,
            hint="streamer denoise --ctf applies each; streamer quality compares what they make",
        )
    seen = {*made.trained_on, *made_2.trained_on}
    movies = [
        movie
        for movie in movies_below(places, made.low, resolution=made.resolution)
        if movie.movie_id not in seen
        and (allowed is None or movie.movie_id in allowed)
        and fits(movie, made)
        and fits(movie, made_2)
    ]
    if len(movies) < _LEAST:
        expected = f"at least {_LEAST} movies with signal that neither has learned from"
        hint = "process them with --keep-groups, or name a session that still has its group sums"
        raise UsageError("too few movies to compare on", where=", ".join(map(str, places)), expected=expected,
                         found=str(len(movies)), hint=hint)  # fmt: skip
    scores = [
        [score(net, movie, manifest.weight) for movie in movies] for net, manifest in ((one, made), (other, made_2))
    ]
    losses, losses_2 = (torch.tensor([s.loss for s in side], dtype=torch.float64) for side in scores)
    relative = losses_2 / losses - 1.0
    draws = torch.randint(len(relative), (_DRAWS, len(relative)), generator=torch.Generator().manual_seed(0))
    ends = torch.quantile(relative[draws].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    low, high = (float(end) for end in ends)
    verdict = "the second is better" if high < 0.0 else "the first is better" if low > 0.0 else "no difference is shown"
    return Comparison(
        movies=[movie.movie_id for movie in movies],
        first=_side(first, made, scores[0]),
        second=_side(second, made_2, scores[1]),
        loss_difference=float(relative.mean()),
        loss_interval=(low, high),
        verdict=verdict,
    )


def _side(directory: Path, manifest: Manifest, scores: Sequence[MovieScore]) -> Side:
    n = len(scores)
    return Side(
        version=manifest.version,
        directory=str(directory),
        sha256=manifest.sha256,
        gain=sum(s.snbr / s.snbr_wiener for s in scores) / n,
        snbr=sum(s.snbr for s in scores) / n,
        bias_ratio=sum(s.bias_ratio for s in scores) / n,
        loss=sum(s.loss for s in scores) / n,
    )
