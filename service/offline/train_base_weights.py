"""``streamer models train --base``: weights that any session can start from, judged on specimens they never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from models.gate.candidate import propose
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.settings import SessionModelSettings
from models.training.movie import TrainingMovie, movies_below
from models.training.simulated import LOW, RESOLUTION, simulated_movies
from service.offline.train_denoiser import TrainingResult, stored
from streamer.errors import UsageError
from streamer.runtime.clock import SYSTEM
from streamer.runtime.device import device_of, use_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_JUDGED = 10
"""Specimens to judge by; nothing is learned from them."""
BASE_STEPS = 36_000
"""17 CPU-minutes of the small network on one core with AVX512-BF16."""


def pretrain(
    directories: list[Path],
    out: Path,
    *,
    specimens: int,
    steps: int | None,
    seconds: float | None,
    network: str,
    seed: int,
    device: str,
    tell: Callable[[str], None],
) -> TrainingResult:
    """Simulate, learn, judge and store.

    Parameters
    ----------
    directories : finished sessions with group sums to learn from as well.
    specimens : number of simulated ones to learn from; ten more are used to judge.
    device : where to train; movies are simulated on the CPU.
    tell : called with each line of progress.

    Raises
    ------
    UsageError
        If a directory contains no group sums.
    ModelError
        If the version's directory exists.
    """
    use_threads(SessionModelSettings().threads)
    place, began = device_of(device), SYSTEM.monotonic()
    learned = [*simulated_movies(range(specimens), seed, place), *_own(directories, place)]
    held_out = list(simulated_movies(range(specimens, specimens + _JUDGED), seed, place))
    tell(f"{len(learned)} movies to learn from, {len(held_out)} to judge by, {SYSTEM.monotonic() - began:.0f} s")
    torch.manual_seed(seed)
    candidate = propose(
        build(DENOISERS[network]).to(place),
        learned,
        held_out,
        seed=seed,
        clock=SYSTEM.monotonic,
        steps=None if seconds else steps or BASE_STEPS,
        seconds=seconds,
        blanks=False,  # this many specimens keep the network calm without blanks
    )
    result = stored(candidate, out, resolution=RESOLUTION, general=True)
    tell(f"{result.steps} steps, {result.seconds:.0f} s")
    return result


def _own(directories: list[Path], device: torch.device) -> list[TrainingMovie]:
    """Movies with signal of finished sessions, whose sums reach to the end of the band."""
    movies = movies_below(directories, LOW, resolution=RESOLUTION, device=device)
    found = [movie for movie in movies if 2.0 * movie.band.band_pixel_size < 1.05 * RESOLUTION]
    if directories and not found:
        expected = f"movies with signal and group sums to {RESOLUTION:g} Å (process --keep-groups)"
        raise UsageError(
            "nothing to learn from",
            where=directories[0],
            expected=expected,
            hint="process movies with --keep-groups first",
        )
    return found
