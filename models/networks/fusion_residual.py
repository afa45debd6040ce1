"""A network on top of fusion: local gains per band of the fused image, and an additive correction of the coarse bands.

Input: seven bands of the most probable fused image (``streamer.super_resolution.fusion``), each divided by the standard
deviation of its own noise. Output: a gain per band that varies slowly over the field, and a correction to add to the
three coarsest bands. The gain starts at 1, the addition at 0, so an untrained network returns the fused image. Beyond
the physical Nyquist frequency only gains are allowed: nothing can be added there that the frames do not contain; what
they contain can only be attenuated or kept.

It learns from frames that are not part of its input (noise2noise, Lehtinen et al. 2018). With x the network's output
for some frames, and B, K the normal equations of the others (``super_resolution.normal_equations``),
x·K x − 2 Re x·B is, up to a constant, how badly x predicts these other frames. Nothing is inverted, and no estimate
made from them is taken for the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.manifest import SUPER_RESOLUTION_KINDS, NetConfig
from models.networks.denoiser import UNet, bf16_is_faster, from_zero
from models.networks.optimise import TrainingReport, draw, optimise
from streamer import fourier
from streamer.errors import ModelError
from streamer.super_resolution.normal_equations import NormalEquations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.super_resolution.normal_equations import AliasGrid
    from streamer.super_resolution.training_data import FusionTrainingData

KIND = SUPER_RESOLUTION_KINDS["fusion"]
EDGES = (0.0, 0.06, 0.12, 0.18, 0.25, 0.30, 0.36, math.inf)
"""Edges of the bands, cycles per fine px; the physical Nyquist frequency is 0.25."""
_COARSE = 3
"""Number of bands, the coarsest, that may be added to."""
_OVERLAP = 0.01
_POOL = 8
MULTIPLE = 16
"""px; the network can halve images whose sides are multiples of this."""
_INPUT_SHARE = (0.5, 0.9)
LEAST_GROUPS = 4
_AT_ONCE_PX = 2 * 256 * 256
"""Area of the fine tiles of a training step."""


def windows(radius: Tensor) -> Tensor:
    """Windows (7, …) of the bands at (…) cycles per fine px; they rise and fall together, so that they add up to 1."""
    above = [torch.ones_like(radius)]
    for edge in EDGES[1:-1]:
        rise = ((radius - edge) / (2.0 * _OVERLAP) + 0.5).clamp(0.0, 1.0)
        above.append(0.5 - 0.5 * torch.cos(math.pi * rise))
    above.append(torch.zeros_like(radius))
    return torch.stack([low - high for low, high in zip(above, above[1:], strict=False)])


@dataclass(frozen=True, slots=True, kw_only=True)
class BandNoise:
    """Noise and Wiener weight in each band of an image fused from some frames."""

    deviation: Tensor
    """(7,) standard deviation of its noise per fine px."""
    wiener: Tensor
    """(7,) mean weight of the frames against the prior, 0…1."""


def band_noise(grid: AliasGrid, sensitive: Tensor, prior: Tensor, white: float) -> BandNoise:
    """Noise of an image fused from some frames, treating its aliases as independent.

    Parameters
    ----------
    sensitive : see ``AliasGrid.sensitivity``.
    prior : (4, side, side//2+1), see ``NormalEquations.solve``.
    white : variance of one frame's noise per coarse coefficient of a tile.
    """
    within = windows(grid.radius / 2.0)
    counts = fourier.hermitian_weights(grid.side, grid.device)
    share = sensitive / (sensitive + prior)
    variance = white * share.square() / sensitive.clamp(min=1e-12)
    # fine coefficients are four times the aliases'
    total = 16.0 * (within.square() * variance * counts).sum((1, 2, 3)) / float(4 * grid.side**2) ** 2
    weight = (within * share * counts).sum((1, 2, 3)) / (within * counts).sum((1, 2, 3)).clamp(min=1e-12)
    return BandNoise(deviation=total.clamp(min=1e-30).sqrt(), wiener=weight.clamp(1e-4, 1.0 - 1e-4))


class FusionResidualNet(UNet):
    """Features (b, 7, h/2, w/2) of the bands and (7,) Wiener weights → gains and additions; h and w divisible by 16.

    It works on the physical grid: it sees the three coarse bands themselves, and the local energy of the others.
    """

    def __init__(self, config: NetConfig | None = None) -> None:
        bands = len(EDGES) - 1
        super().__init__(bands, config or NetConfig(kind=KIND, widths=(16, 24, 32)), KIND)
        width = self.config.widths[0]
        self.gains = from_zero(nn.Conv2d(width, bands, 1))
        self.additions = from_zero(nn.Conv2d(width, _COARSE, 3, padding=1))

    def forward(self, features: Tensor, wiener: Tensor) -> tuple[Tensor, Tensor]:
        """Gains (b, 7, h, w) on the fused image, up to 1/``wiener``, and additions (b, 3, h/2, w/2), whitened."""
        x = self.features(features)
        slow = self.gains(nn.functional.avg_pool2d(x, _POOL // 2)).float()
        wiener = wiener.to(slow.device, slow.dtype)[:, None, None]
        gains = torch.sigmoid(slow + torch.logit(wiener)) / wiener
        gains = nn.functional.interpolate(gains, scale_factor=float(_POOL), mode="bilinear", align_corners=False)
        return gains, self.additions(x).float()


def correct(net: FusionResidualNet, fused: Tensor, noise: BandNoise) -> tuple[Tensor, Tensor]:
    """The network's changes to fused images (b, h, w), h and w divisible by 16.

    Returns
    -------
    Changes and the images themselves, band by band, (b, 7, h, w) each.
    """
    shape, half = (fused.shape[-2], fused.shape[-1]), (fused.shape[-2] // 2, fused.shape[-1] // 2)
    within = windows(fourier.radius(shape, fused.device))
    spectra = torch.fft.rfft2(fused)[:, None] * within
    bands = fourier.to_image(spectra, shape)
    deviation = noise.deviation.to(fused.device, torch.float32)[:, None, None]
    coarse = fourier.to_image(fourier.resize(spectra[:, :_COARSE], shape, half), half) / deviation[:_COARSE]
    energy = nn.functional.avg_pool2d((bands[:, _COARSE:] / deviation[_COARSE:]).square(), 2) - 1.0
    # strong signals stand far above their noise; the network looks at their logarithm
    features = torch.asinh(torch.cat([coarse, energy], dim=1)).contiguous(memory_format=torch.channels_last)
    gains, additions = net(features, noise.wiener)
    inner = (
        torch.fft.rfft2(additions * deviation[:_COARSE]) * windows(fourier.radius(half, fused.device) / 2.0)[:_COARSE]
    )
    added = fourier.to_image(fourier.resize(inner, half, shape), shape)
    # a gain that varies over the field spills a band into its neighbours, where the signal may be far weaker
    changed = fourier.to_image(torch.fft.rfft2((gains - 1.0) * bands) * within, shape)
    return torch.cat([changed[:, :_COARSE] + added, changed[:, _COARSE:]], dim=1), bands


class FusionExample:
    """Training data of one movie: any part of its frames, fused, and the others to test against."""

    def __init__(self, movie_id: str, sums: FusionTrainingData) -> None:
        """See ``streamer.super_resolution.training_data``."""
        if len(sums.groups) < LEAST_GROUPS:
            found = str(len(sums.groups))
            raise ModelError(
                "too few frames to learn from",
                where=movie_id,
                expected="4 groups or more",
                found=found,
                hint="take movies with more frames",
            )
        self.movie_id, self.sums, self.pixel_size = movie_id, sums, sums.pixel_size
        self.grid, self.groups, self.prior = sums.grid, sums.groups, sums.prior
        frames = [sums.exposures[sums.group_of == group] for group in range(len(sums.groups))]
        self._sensitive = [sums.grid.sensitivity(exposures) for exposures in frames]

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @property
    def n_tiles(self) -> int:
        """Tiles to draw from."""
        return int(self.groups.shape[2])

    def equations(self, chosen: Tensor, tiles: Tensor) -> tuple[NormalEquations, Tensor]:
        """Normal equations of the frames of some groups, (g,) bool, for some tiles, (n,) int64, and their sums."""
        frames = chosen[self.sums.group_of]
        equations = NormalEquations(self.grid, self.sums.fractions[frames][:, tiles], self.sums.exposures[frames])
        return equations, self.groups[chosen][:, :, tiles.to(self.groups.device)].sum(0)

    def fused(self, chosen: Tensor, tiles: Tensor) -> tuple[Tensor, BandNoise]:
        """The most probable image of some groups' frames, (n, 2·side, 2·side), and its noise."""
        equations, sums = self.equations(chosen, tiles)
        image = self.grid.image(equations.solve(sums, self.prior))
        sensitive = torch.stack([s for s, c in zip(self._sensitive, chosen.tolist(), strict=True) if c]).sum(0)
        return image, band_noise(self.grid, sensitive, self.prior, self.sums.white)


def train(
    net: FusionResidualNet,
    examples: Sequence[FusionExample],
    *,
    steps: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = lambda: 0.0,
) -> TrainingReport:
    """Train in place: each step fuses a random part of one movie's groups and tests the result against the others.

    Parameters
    ----------
    examples : at least one; all are equally likely to be drawn.
    seed : of the draws.
    stop : checked before each step; True ends early.
    """
    if not examples:
        raise ModelError(
            "nothing to train on",
            expected="at least one movie",
            hint="give movies with a pixel size, four frames or more, and drift",
        )
    low_precision = bf16_is_faster(examples[0].groups.device)
    generator = torch.Generator().manual_seed(seed)

    def misfit() -> Tensor:
        return _step(net, examples[draw(len(examples), generator)], generator, low_precision=low_precision)

    movies = [example.movie_id for example in examples]
    return optimise(net, misfit, movies, steps=steps, stop=stop, clock=clock)


def _step(net: FusionResidualNet, example: FusionExample, generator: torch.Generator, *, low_precision: bool) -> Tensor:
    """How badly the network's output for some frames predicts the others; −1: as well as the fused image."""
    order = torch.randperm(len(example), generator=generator)
    least, most = (max(1, min(len(example) - 1, round(share * len(example)))) for share in _INPUT_SHARE)
    chosen = torch.zeros(len(example), dtype=torch.bool)
    chosen[order[: least + draw(most - least + 1, generator)]] = True
    side = 2 * example.grid.side
    tiles = torch.randperm(example.n_tiles, generator=generator)[: max(1, _AT_ONCE_PX // side**2)]
    with torch.no_grad():
        fused, noise = example.fused(chosen, tiles)
        equations, sums = example.equations(~chosen, tiles)
    with torch.autocast(fused.device.type, dtype=torch.bfloat16, enabled=low_precision):
        change = correct(net, fused, noise)[0].sum(1)
    return _misfit(example.grid, equations, sums, fused + change) / _misfit(example.grid, equations, sums, fused).abs()


def _misfit(grid: AliasGrid, equations: NormalEquations, sums: Tensor, images: Tensor) -> Tensor:
    """x·K x − 2 Re x·B over some tiles."""
    x = grid.aliases(images)
    columns = slice(1, -1)  # the half-plane's own columns would count coefficients twice
    left = sums * grid.transfer.conj()[:, None]
    inner = x[..., columns].conj() * (equations.apply(x) - 2.0 * left)[..., columns]
    return inner.real.sum()
