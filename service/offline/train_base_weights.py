"""``streamer models train --base``: weights that any session can start with, judged on specimens they never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from models.gate.candidate import save_candidate
from models.gate.denoiser import Thresholds, judge
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.settings import SessionModelSettings
from models.training.denoiser import train
from models.training.movie import TrainingMovie, movies_below
from models.training.simulated import LOW, RESOLUTION, simulated_movies
from service.offline.train_denoiser import TrainingResult, told
from streamer.errors import UsageError
from streamer.runtime.clock import SYSTEM
from streamer.runtime.device import device_of, use_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_JUDGED = 10
"""Specimens that nothing is learned from."""
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
    specimens : simulated ones to learn from; ten more are judged by.
    device : where to train; movies are simulated on the CPU.
    tell : hears what is going on.

    Raises
    ------
    UsageError
        If a directory holds no group sums.
    ModelError
        If the version's directory exists.
    """
    use_threads(SessionModelSettings().threads)
    place, began = device_of(device), SYSTEM.monotonic()
    learned = [*simulated_movies(range(specimens), seed, place), *_own(directories, place)]
    held_out = list(simulated_movies(range(specimens, specimens + _JUDGED), seed, place))
    tell(f"{len(learned)} movies to learn from, {len(held_out)} to judge by, {SYSTEM.monotonic() - began:.0f} s")
    torch.manual_seed(seed)
    net = build(DENOISERS[network]).to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    report = train(
        net,
        learned,
        seed=seed,
        blanks=False,  # so many specimens keep the network calm by themselves
        steps=None if seconds else steps or BASE_STEPS,
        seconds=seconds,
        clock=SYSTEM.monotonic,
    )
    net = net.to(memory_format=torch.contiguous_format)
    tell(f"{report.steps} steps, {report.seconds:.0f} s")
    trained_on = sorted(report.movies)
    decision = judge(
        net, held_out, incumbent=None, thresholds=Thresholds(), trained_on=frozenset(trained_on), seed=seed
    )
    save_candidate(
        out,
        net,
        decision,
        report,
        learned=learned,
        held_out=held_out,
        resolution=RESOLUTION,
        trained_on=trained_on,
        seed=seed,
        general=True,
    )
    return told(out, decision, report, trained_on, held_out)


def _own(directories: list[Path], device: torch.device) -> list[TrainingMovie]:
    """Movies with signal of finished sessions, whose sums reach as far as the band."""
    movies = movies_below(directories, LOW, resolution=RESOLUTION, device=device)
    found = [movie for movie in movies if 2.0 * movie.band.band_pixel_size < 1.05 * RESOLUTION]
    if directories and not found:
        expected = f"movies with signal and group sums to {RESOLUTION:g} Å (process --keep-groups)"
        raise UsageError("nothing to learn from", where=directories[0], expected=expected)
    return found
