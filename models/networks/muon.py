"""The optimiser of the denoiser: Muon for convolutions, Adam for the rest.

Muon (Jordan et al. 2024) makes all directions of a weight's step equally long. Here it leaves the plateau at the
Wiener estimate sooner than Adam, and learns fine bands in fewer steps (docs/denoising.md). torch's Muon accepts
matrices only: it is given copies of the weights, one row per output channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

_ADAM_SHARE = 0.3
"""Adam's learning rate relative to Muon's."""
_LEAST_ROWS = 5
"""Weights with fewer output channels have no directions worth balancing."""


class MuonAndAdam:
    """Two optimisers as one; a group's ``share`` multiplies the learning rate that is set."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._all = list(parameters)
        convolutions = [p for p in self._all if p.ndim == 4 and len(p) >= _LEAST_ROWS]
        self._matrices = [(weight, weight.detach().flatten(1).clone()) for weight in convolutions]
        taken = {id(weight) for weight in convolutions}
        others = [p for p in self._all if id(p) not in taken]
        self._parts: list[torch.optim.Optimizer] = []
        if self._matrices:
            self._parts.append(torch.optim.Muon([matrix for _, matrix in self._matrices], lr=0.0, weight_decay=0.0))
        if others:
            self._parts.append(torch.optim.Adam([{"params": others, "share": _ADAM_SHARE}], lr=0.0, betas=(0.9, 0.99)))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self._all:
            parameter.grad = None

    def step(self) -> None:
        """Update all parameters."""
        for weight, matrix in self._matrices:
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts:
            part.step()
        for weight, matrix in self._matrices:
            weight.data.copy_(matrix.view(weight.shape))
