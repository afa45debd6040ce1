"""A candidate that passed, as a version: what the trainer and ``models train`` both store."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from models.gate.guard import pattern_of
from models.manifest import Manifest
from models.training.denoiser import LEARNING_RATE
from models.versions.checkpoint import save_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from models.gate.denoiser import Decision
    from models.networks.denoiser import Denoiser
    from models.networks.optimise import TrainingReport
    from models.training.movie import TrainingMovie


def save_candidate(
    directory: Path,
    net: Denoiser,
    decision: Decision,
    report: TrainingReport,
    *,
    learned: Sequence[TrainingMovie],
    held_out: Sequence[TrainingMovie],
    resolution: float,
    trained_on: list[str],
    seed: int,
    parent: str | None = None,
    base: str | None = None,
    learning_rate: float = LEARNING_RATE,
    specimen: int = 1,
    general: bool = False,
) -> Manifest:
    """Write a candidate as a version; without λ unless the gate promoted it.

    Parameters
    ----------
    resolution : fine end of the band in Å.
    trained_on : ids of all movies that the weights have seen, those of parents included.
    parent : version that training continued from.
    base : sha256 of base weights that it started from.
    specimen : of its session.
    general : whether it is to serve at any pixel size; then it knows no detector's pattern.
    """
    promoted = decision.result == "promoted" and decision.figures is not None
    manifest = Manifest(
        version=directory.name,
        parent=parent,
        base=base,
        net=net.config,
        resolution=resolution,
        low=learned[-1].band.low,
        ctf="flip" if learned[-1].is_flipped else "none",
        pixel_size=learned[-1].band.pixel_size,
        specimen=specimen,
        general=general,
        sha256="",
        software=version("cryoem-streamer"),
        seed=seed,
        steps=report.steps,
        learning_rate=learning_rate,
        losses=report.losses,
        trained_on=trained_on,
        held_out=[movie.movie_id for movie in held_out],
        weight=decision.figures.weight if promoted and decision.figures is not None else [],
        figures=decision.figures,
    )
    return save_version(directory, net, manifest, None if general else _pattern([*learned, *held_out]))


def _pattern(movies: Sequence[TrainingMovie]) -> Tensor:
    """What the newest movies' micrographs hold at the same place, (h', w')."""
    small = movies[-1].band.small
    same = [movie for movie in movies if movie.band.small == small]
    # phases as the detector saw them: what is fixed to it knows nothing of the CTF
    return pattern_of([movie.plain(torch.ones(len(movie), dtype=torch.bool)) for movie in same])
