"""Noise2noise training on a session's own frame-group sums: one explicit loop.

Each step draws movies, splits the groups of each at random into an input (half to nine tenths) and a target (the
rest), whitens both, filters the input by its own Wiener curve and asks the net for the target. A new split at every
step means that no noise draw is ever a fixed target, and that the net is at home at any exposure: trained on four
fifths alone it did well on the whole sum and worse than the Wiener filter on low-defocus halves.

Notation: r_A² = Σ_A w² of the frames in A; Σ_A w F has signal r_A² S and noise r_A² σ², so M_A = Σ_A/r_A has unit
noise after whitening, and Σ_B · r_A/r_B² has the same signal as M_A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.settings import is_same_pixel_size
from streamer import dose, fourier, quality
from streamer.band import Band, band_of
from streamer.errors import ModelError
from streamer.records import GroupSums, HalfSums

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.noise2noise import WienerResidualNet


_WARM_UP = 0.08
_MULTIPLE = 8
"""The net halves its input three times."""


class TrainingMovie:
    """A movie's group sums, ready to be split."""

    def __init__(self, movie_id: str, sums: GroupSums, low: float, device: torch.device | str = "cpu") -> None:
        """Whiten and measure once; ``low`` is the coarse end of the band in Å."""
        self.movie_id = movie_id
        small = (int(sums.groups.shape[1]), int(sums.groups.shape[2]))
        self.band = Band(shape=sums.shape, small=small, pixel_size=sums.pixel_size, low=low)
        self.spectra = torch.fft.rfft2(sums.groups.to(device=device, dtype=torch.float32))
        self.window = self.band.window(device)
        rings = fourier.ring_frequencies(small, device).float()
        rate = dose.decay_rate(rings, self.band.band_pixel_size, sums.voltage_kv)
        groups = [dose.sum_of_squares(torch.tensor(e, dtype=torch.float64), rate) for e in sums.exposures]
        self.squares = torch.stack(groups).to(torch.float64)
        """(n, rings) Σw² of each group."""
        total = self.squares.sum(0)
        whole = self.spectra.sum(0)
        even = self.spectra[0::2].sum(0)
        norm = fourier.from_rings(total.sqrt(), small, device)
        halves = HalfSums(
            even=even / norm,
            odd=(whole - even) / norm,
            even_share=self.squares[0::2].sum(0) / total,
            shape=small,
            pixel_size=self.band.band_pixel_size,
        )
        self.spectrum = quality.measure(halves)
        self.whitening = fourier.from_rings(1.0 / self.spectrum.noise.clamp(min=1e-12).sqrt(), small, device)
        self._total = total

    def __len__(self) -> int:
        return int(self.spectra.shape[0])

    def part(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whitened micrograph of some groups.

        Parameters
        ----------
        chosen : (n,) bool.

        Returns
        -------
        M (h', w'//2+1) spectrum with unit noise, W its Wiener filter as a half-plane, r² (rings,) its Σw².
        """
        squares = self.squares[chosen].sum(0)
        root = fourier.from_rings(squares.sqrt(), self.band.small, self.spectra.device)
        micrograph = self.spectra[chosen].sum(0) * (self.whitening / root)
        return micrograph, self.wiener(squares), squares

    def wiener(self, squares: Tensor) -> Tensor:
        """Wiener filter at the exposure of a part, (h', w'//2+1): the SSNR goes with Σw²."""
        ssnr = self.spectrum.ssnr_full * (squares / self._total)
        return fourier.from_rings(ssnr / (1.0 + ssnr), self.band.small, self.spectra.device)

    def inputs(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images M and W·M of a part, each (h', w') and band-passed, and its Σw²."""
        micrograph, wiener, squares = self.part(chosen)
        both = torch.stack([micrograph, micrograph * wiener]) * self.window
        images = fourier.to_image(both, self.band.small)
        return images[0], images[1], squares

    def target(self, others: Tensor, squares: Tensor) -> Tensor:
        """Image (h', w') of other groups on the scale of a part with the given Σw²."""
        theirs = self.squares[others].sum(0)
        scale = fourier.from_rings(squares.sqrt() / theirs, self.band.small, self.spectra.device)
        spectrum = self.spectra[others].sum(0) * (self.whitening * scale * self.window)
        return fourier.to_image(spectrum, self.band.small)


def is_made_for(band: Band, resolution: float, pixel_size: float) -> bool:
    """Whether a movie's sums are what ``band_of`` makes to ``resolution`` Å, at about this pixel size, Å/px."""
    made = band_of(band.shape, band.pixel_size, resolution, band.low)
    return made.small == band.small and is_same_pixel_size(band.pixel_size, pixel_size)


def common_resolution(bands: Sequence[Band], preferred: float) -> float | None:
    """Fine end in Å that gives all of these bands, ``preferred`` if that does; None if they are not of one make.

    Sizes are rounded to what the net can halve, so many resolutions give the same band; the roundest is taken.
    """
    pixel_size = bands[0].pixel_size
    finest, coarsest = 0.0, math.inf
    for band in bands:
        for whole, small in zip(band.shape, band.small, strict=True):
            if small < whole // _MULTIPLE * _MULTIPLE:
                finest = max(finest, 2.0 * band.pixel_size * whole / (small + _MULTIPLE / 2))
            if small > _MULTIPLE:
                coarsest = min(coarsest, 2.0 * band.pixel_size * whole / (small - _MULTIPLE / 2))
    # no finer end: the bands reach Nyquist
    middle = 0.5 * (finest + min(coarsest, 2.0 * finest)) or 2.0 * pixel_size
    for resolution in (preferred, *(round(middle, digits) for digits in range(4)), middle):
        if resolution > 0.0 and all(is_made_for(band, resolution, pixel_size) for band in bands):
            return resolution
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What a run of the loop did."""

    steps: int
    losses: list[float]
    """Mean loss of each tenth of the run, whitened units."""
    movies: list[str]
    seconds: float
    finite: bool


def train(
    net: WienerResidualNet,
    movies: Sequence[TrainingMovie],
    *,
    steps: int,
    seed: int,
    learning_rate: float = 3e-3,
    input_share: tuple[float, float] = (0.5, 0.9),
    patch: int = 128,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = lambda: 0.0,
    share_done: Callable[[], float] | None = None,
) -> TrainingReport:
    """Train in place for a number of steps.

    Parameters
    ----------
    movies : at least one; two are drawn per step, newest and oldest alike.
    seed : of the draws.
    stop : asked before each step; True ends early.
    share_done : part of a budget in time that is used up, for the learning rate; None: counted in steps.

    Source: recipe of residual-on-Wiener noise2noise with random splits; Adam 3e-3, β₂ 0.99, 8 % warm-up, cosine.
    """
    if not movies:
        raise ModelError("nothing to train on", expected="at least one movie with group sums")
    device = movies[0].spectra.device
    generator = torch.Generator().manual_seed(seed)
    low_precision = bf16_pays(device)

    def distance() -> Tensor:
        inputs, targets = _batch(movies, input_share, patch, generator)
        inputs = inputs.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision):
            return nn.functional.mse_loss(net(inputs).float(), targets)

    names = [movie.movie_id for movie in movies]
    return optimise(
        net,
        distance,
        names,
        steps=steps,
        learning_rate=learning_rate,
        stop=stop,
        clock=clock,
        share_done=share_done,
    )


def optimise(
    net: nn.Module,
    loss_of_step: Callable[[], Tensor],
    movies: list[str],
    *,
    steps: int,
    learning_rate: float = 3e-3,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = lambda: 0.0,
    share_done: Callable[[], float] | None = None,
) -> TrainingReport:
    """Train in place on the loss that each step draws; see ``train`` for the recipe and the parameters."""
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    net.train()
    losses: list[float] = []
    began, finite = clock(), True
    while finite and len(losses) < steps and not stop():
        share = len(losses) / steps if share_done is None else min(1.0, share_done())
        optimiser.param_groups[0]["lr"] = learning_rate * schedule(share)
        loss = loss_of_step()
        optimiser.zero_grad(set_to_none=True)
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
    """Part of the learning rate after a share of the budget: 8 % rise from 1 %, then a cosine to 0."""
    if share < _WARM_UP:
        return 0.01 + 0.99 * share / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (share - _WARM_UP) / (1.0 - _WARM_UP))


def _batch(
    movies: Sequence[TrainingMovie], input_share: tuple[float, float], patch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two patches from each of two movies, randomly drawn, turned and mirrored: (4, 2, p, p) and (4, 1, p, p)."""
    inputs, targets = [], []
    side = min(patch, *(min(movie.band.small) // 8 * 8 for movie in movies))
    for _ in range(2):
        movie = movies[draw(len(movies), generator)]
        order = torch.randperm(len(movie), generator=generator)
        least, most = (max(1, min(len(movie) - 1, round(share * len(movie)))) for share in input_share)
        kept = least + draw(most - least + 1, generator)
        chosen = torch.zeros(len(movie), dtype=torch.bool)
        chosen[order[:kept]] = True
        micrograph, linear, squares = movie.inputs(chosen)
        target = movie.target(~chosen, squares)
        for _ in range(2):
            top, left = (draw(size - side + 1, generator) for size in movie.band.small)
            cut = torch.stack([micrograph, linear, target])[:, top : top + side, left : left + side]
            turn = draw(8, generator)
            cut = torch.rot90(cut.flip(-1) if turn >= 4 else cut, turn % 4, (-2, -1))
            inputs.append(cut[:2])
            targets.append(cut[2:])
    return torch.stack(inputs), torch.stack(targets)


def draw(below: int, generator: torch.Generator) -> int:
    """A whole number from 0 to below ``below``, at random."""
    return int(torch.randint(below, (1,), generator=generator))


def bf16_pays(device: torch.device | str) -> bool:
    """Whether bfloat16 convolutions run in hardware there."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
