"""A candidate: a network that was trained, judged by the gate, and can be stored as a version.

The trainer, ``models train`` and ``models train --base`` all make theirs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from models.gate.denoiser import Thresholds, judge
from models.gate.guard import pattern_of
from models.manifest import Manifest
from models.networks.optimise import TrainingDropped
from models.training.denoiser import LEARNING_RATE, train
from models.versions.checkpoint import save_version

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from torch import Tensor

    from models.gate.denoiser import Decision
    from models.manifest import MovieScore
    from models.networks.denoiser import Denoiser
    from models.networks.optimise import TrainingReport
    from models.training.movie import TrainingMovie


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedCandidate:
    """A trained network with the gate's decision on it."""

    net: Denoiser
    report: TrainingReport
    decision: Decision
    learned: Sequence[TrainingMovie]
    held_out: Sequence[TrainingMovie]
    trained_on: list[str]
    """Ids of all movies that the weights have seen, those of parents included."""
    seed: int
    learning_rate: float

    @property
    def is_promoted(self) -> bool:
        """Whether the gate let it pass."""
        return self.decision.result == "promoted" and self.decision.figures is not None

    def save(
        self,
        directory: Path,
        *,
        resolution: float,
        parent: str | None = None,
        base: str | None = None,
        specimen: int = 1,
        general: bool = False,
    ) -> Manifest:
        """Write it as a version; without λ unless the gate promoted it.

        Parameters
        ----------
        resolution : fine end of the band in Å.
        parent : version that training continued from.
        base : sha256 of base weights that it started from.
        specimen : of its session.
        general : whether it can be used at any pixel size; then it knows no detector's pattern.
        """
        figures, band = self.decision.figures, self.learned[-1].band
        manifest = Manifest(
            version=directory.name,
            parent=parent,
            base=base,
            net=self.net.config,
            resolution=resolution,
            low=band.low,
            ctf="flip" if self.learned[-1].is_flipped else "none",
            pixel_size=band.pixel_size,
            specimen=specimen,
            general=general,
            sha256="",
            software=version("cryoem-streamer"),
            seed=self.seed,
            steps=self.report.steps,
            learning_rate=self.learning_rate,
            losses=self.report.losses,
            trained_on=self.trained_on,
            held_out=[movie.movie_id for movie in self.held_out],
            weight=figures.weight if self.is_promoted and figures is not None else [],
            figures=figures,
        )
        pattern = None if general else _pattern([*self.learned, *self.held_out])
        return save_version(directory, self.net, manifest, pattern)


def propose(
    net: Denoiser,
    learned: Sequence[TrainingMovie],
    held_out: Sequence[TrainingMovie],
    *,
    seed: int,
    clock: Callable[[], float],
    steps: int | None = None,
    seconds: float | None = None,
    learning_rate: float = LEARNING_RATE,
    weights: Sequence[float] | None = None,
    blanks: bool = True,
    trained_before: Collection[str] = (),
    incumbent: tuple[Denoiser, Sequence[tuple[float, float]]] | None = None,
    first: bool | None = None,
    known: dict[str, MovieScore] | None = None,
    stop: Callable[[], bool] = lambda: False,
    is_dropped: Callable[[], bool] = lambda: False,
) -> TrainedCandidate:
    """Train a network in place and have the gate judge it.

    Parameters
    ----------
    learned, held_out : movies to train on, and movies to judge by.
    clock, steps, seconds, learning_rate, weights, blanks, stop : see ``models.training.denoiser.train``.
    trained_before : ids of the movies that the weights had seen already.
    incumbent, first, known : see ``models.gate.denoiser.judge``.
    is_dropped : asked before anything is judged, which takes a while: True if the result is no longer wanted.

    Raises
    ------
    TrainingDropped : it is no longer wanted.
    """
    report = train(
        net.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        learned,
        seed=seed,
        learning_rate=learning_rate,
        steps=steps,
        seconds=seconds,
        weights=weights,
        blanks=blanks,
        stop=stop,
        clock=clock,
    )
    net = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if is_dropped():
        raise TrainingDropped
    trained_on = sorted({*trained_before, *report.movies})
    decision = judge(
        net,
        held_out,
        incumbent=incumbent,
        thresholds=Thresholds(),
        trained_on=frozenset(trained_on),
        seed=seed,
        first=first,
        known=known,
    )
    return TrainedCandidate(
        net=net,
        report=report,
        decision=decision,
        learned=learned,
        held_out=held_out,
        trained_on=trained_on,
        seed=seed,
        learning_rate=learning_rate,
    )


def _pattern(movies: Sequence[TrainingMovie]) -> Tensor:
    """What the newest movies' micrographs have in common at the same place, (h', w')."""
    small = movies[-1].band.small
    same = [movie for movie in movies if movie.band.small == small]
    # phases as the detector saw them: what is fixed to it knows nothing of the CTF
    return pattern_of([movie.plain(torch.ones(len(movie), dtype=torch.bool)) for movie in same])
