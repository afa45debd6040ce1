"""Noise2noise training on a session's own frame-group sums: one explicit loop.

Each step draws movies, splits the groups of each at random into an input (half to nine tenths) and a target (the
rest), whitens both, filters the input by its own Wiener curve and asks the net for the target. A new split at every
step means that no noise realisation is ever a fixed target, and that the net works at any exposure: trained on four
fifths alone, it did well on the whole sum but worse than the Wiener filter on low-defocus halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.networks.denoiser import WienerResidualNet, bf16_is_faster
from models.networks.muon import MuonAndAdam
from models.networks.optimise import TrainingReport, draw, optimise
from streamer.band import MULTIPLE
from streamer.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.manifest import Manifest
    from models.networks.denoiser import Denoiser
    from models.training.movie import TrainingMovie


LEARNING_RATE = 1e-2
"""Muon's, from scratch."""
_BLANK_EVERY = 16
"""One movie in this many is replaced by a blank: trained for hours without, nets turned empty ice into a storm."""
_GENTLE = 2e-3
"""Starting from base weights: at the full rate they forget in hundreds of steps what took tens of thousands."""


def learning_rate_after(parent: Manifest | None) -> float:
    """Learning rate at which training continues from a version; without one, that from scratch."""
    if parent is None:
        return LEARNING_RATE
    return _GENTLE if parent.general else parent.learning_rate


def train(
    net: Denoiser,
    movies: Sequence[TrainingMovie],
    *,
    seed: int,
    steps: int | None = None,
    seconds: float | None = None,
    weights: Sequence[float] | None = None,
    blanks: bool = True,
    learning_rate: float = LEARNING_RATE,
    input_share: tuple[float, float] = (0.5, 0.9),
    patch: int = 128,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = lambda: 0.0,
) -> TrainingReport:
    """Train in place for a number of steps, or for some time, whichever ends first.

    Parameters
    ----------
    movies : at least one; two are drawn per step.
    learning_rate : Muon's.
    seed : of the draws.
    stop : checked before each step; True ends early.
    steps, seconds : budgets, the second by ``clock``; at least one.
    weights : how often each movie is drawn, relative to the others; None: all equally.
    blanks : whether to train on a blank now and then, whose target is 0.

    Source: recipe of residual-on-Wiener noise2noise with random splits; here Muon at 0.01, 8 % warm-up, cosine.
    """
    if not movies:
        raise ModelError(
            "nothing to train on",
            expected="at least one movie with group sums",
            hint="process movies with --keep-groups first",
        )
    device = movies[0].spectra.device
    if isinstance(net, WienerResidualNet) and float(net.scale) == 0.0:
        net.scale.fill_(_loudness(movies))
    generator = torch.Generator().manual_seed(seed)
    low_precision = bf16_is_faster(device)

    def distance() -> Tensor:
        inputs, targets = _batch(movies, chances, input_share, patch, generator, blanks=blanks)
        inputs = inputs.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision):
            return nn.functional.mse_loss(net(inputs).float(), targets)

    names = [movie.movie_id for movie in movies]
    chances = torch.tensor(weights or [1.0] * len(movies), dtype=torch.float64)
    return optimise(
        net,
        distance,
        names,
        steps=steps,
        seconds=seconds,
        learning_rate=learning_rate,
        stop=stop,
        clock=clock,
        optimiser=MuonAndAdam(net.parameters()),
    )


def _loudness(movies: Sequence[TrainingMovie]) -> float:
    """Spread of W·M over movies, whitened units."""
    spreads = [movie.inputs(torch.ones(len(movie), dtype=torch.bool))[1].std() for movie in movies]
    return max(1e-3, float(torch.stack(spreads).mean()))


def _batch(
    movies: Sequence[TrainingMovie],
    chances: Tensor,
    input_share: tuple[float, float],
    patch: int,
    generator: torch.Generator,
    *,
    blanks: bool = False,
) -> tuple[Tensor, Tensor]:
    """Two patches from each of two movies, randomly drawn, rotated and mirrored: (4, 2, p, p) and (4, 1, p, p)."""
    inputs, targets = [], []
    side = min(patch, *(min(movie.band.small) // MULTIPLE * MULTIPLE for movie in movies))
    for _ in range(2):
        movie = movies[int(torch.multinomial(chances, 1, generator=generator))]
        order = torch.randperm(len(movie), generator=generator)
        least, most = (max(1, min(len(movie) - 1, round(share * len(movie)))) for share in input_share)
        kept = least + draw(most - least + 1, generator)
        chosen = torch.zeros(len(movie), dtype=torch.bool)
        chosen[order[:kept]] = True
        micrograph, linear, squares = movie.inputs(chosen)
        target = movie.target(~chosen, squares)
        if blanks and draw(_BLANK_EVERY, generator) == 0:
            # nothing there, and the Wiener filter knows it: the output must be nothing, too
            micrograph, linear, target = (torch.randn(target.shape, generator=generator).to(target), 0.0 * linear,
                                          torch.zeros_like(target))  # fmt: skip
        for _ in range(2):
            top, left = (draw(size - side + 1, generator) for size in movie.band.small)
            cut = torch.stack([micrograph, linear, target])[:, top : top + side, left : left + side]
            turn = draw(8, generator)
            cut = torch.rot90(cut.flip(-1) if turn >= 4 else cut, turn % 4, (-2, -1))
            inputs.append(cut[:2])
            targets.append(cut[2:])
    return torch.stack(inputs), torch.stack(targets)
