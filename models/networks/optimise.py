"""One optimisation loop for every network: how steps are drawn, scheduled and reported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from streamer.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.networks.muon import MuonAndAdam

_WARM_UP = 0.08


class TrainingDropped(Exception):
    """Training was ended because its result is no longer wanted: there is nothing to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """Result of one run of the loop."""

    steps: int
    losses: list[float]
    """Mean loss of each tenth of the run, whitened units."""
    movies: list[str]
    seconds: float
    finite: bool


def optimise(
    net: nn.Module,
    loss_of_step: Callable[[], Tensor],
    movies: list[str],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    learning_rate: float = 3e-3,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = lambda: 0.0,
    optimiser: MuonAndAdam | torch.optim.Adam | None = None,
) -> TrainingReport:
    """Train in place on the loss that each step draws; see ``train`` for the recipe and the parameters.

    ``optimiser`` None: Adam, β₂ 0.99.
    """
    optimiser = optimiser or torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    if steps is None and seconds is None:
        raise ModelError(
            "training without a budget would not end", expected="steps or seconds", hint="give --steps or --seconds"
        )
    net.train()
    losses: list[float] = []
    began, finite = clock(), True

    def spent() -> float:
        """Share of the budget that is used up."""
        by_steps = 0.0 if steps is None else len(losses) / max(1, steps)
        return by_steps if seconds is None else max(by_steps, (clock() - began) / seconds)

    while finite and (share := spent()) < 1.0 and not stop():
        rate = learning_rate * schedule(share)
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        loss = loss_of_step()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        finite = math.isfinite(losses[-1])
    net.eval()
    tenth = max(1, len(losses) // 10)
    means = [sum(losses[i : i + tenth]) / len(losses[i : i + tenth]) for i in range(0, len(losses), tenth)]
    finite = finite and all(bool(torch.isfinite(p).all()) for p in net.parameters())
    return TrainingReport(steps=len(losses), losses=means, movies=movies, seconds=clock() - began, finite=finite)


def schedule(share: float) -> float:
    """Factor on the learning rate after a share of the budget: a rise from 1 % over 8 %, then a cosine to 0."""
    if share < _WARM_UP:
        return 0.01 + 0.99 * share / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (share - _WARM_UP) / (1.0 - _WARM_UP))


def draw(below: int, generator: torch.Generator) -> int:
    """A random integer from 0 up to, not including, ``below``."""
    return int(torch.randint(below, (1,), generator=generator))
