"""cryo-ZSSR as published (Huang, Zhou, Bartesaghi 2023): a network that learns to super-resolve one movie from itself.

Input: K = 4 averages of aligned frames, each aligned to a different frame and upsampled bilinearly. Output: the
residual to add to the interpolation. It learns at half the resolution, with late frames as input and early frames as
target, and is applied to averages of all frames. Afterwards everything below the physical Nyquist frequency is put back
as it was measured.

The paper leaves open or contradicts itself on (our reading in each case; section numbers are the paper's):
- which half is the target: the text of 3.3 says the late frames, Figure 3 and 3.4 the early ones. Early.
- what the network is applied to: Figure 3b says the late half, eq. 4 and 3.4 all frames. All frames.
- the median of four (HighRes-net, Deudon et al. 2020, takes the lower middle value): the mean of the middle two.
- the interpolation that the residual is added to: the mean of the K upsampled views, without a bias.
- downsampling for training: the mean of 2×2 px, as a detector of twice the pixel size would see it.
- the frequency loss: its normalisation, width and weight are not given. Orthonormal transform of a patch tapered by a
  Hann window, mean of exp(−f²/2σ²)|ΔF|² with σ = 0.15 cycles per output px, weight 1.
- the learning rate: "ZSSR's policy" with its windows could not stop before iteration 899, the paper stops at about 200.
  Shortened: every 20 iterations, but at least 60 after the last change, it drops to a tenth if the slope of the error
  on a fixed patch is not significant (ZSSR: 1.5 times the negative slope below its standard error).
- back-projection: what is projected back, and how often, is not stated. The average of all frames replaces everything
  below the physical Nyquist frequency, once and exactly (including restored noise, as eq. 2 requires).
- brightness: no scale is given. Everything is divided by the standard deviation of the early average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.manifest import SUPER_RESOLUTION_KINDS, NetConfig
from models.networks.denoiser import bf16_is_faster
from models.networks.optimise import draw
from streamer import fourier
from streamer.errors import ModelError
from streamer.super_resolution.averages import Averages, views

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KIND = SUPER_RESOLUTION_KINDS["zssr"]
WIDTH = 64
"""Channels, as published."""
_CROP = 256
_SIGMA = 0.15
_FIRST_RATE, _LAST_RATE = 1e-3, 1e-5
_TEST_EVERY, _CHECK_EVERY, _LEAST = 10, 20, 60
_SLOPE = 1.5
MOST_STEPS = 3000
"""As in ZSSR; the policy stops training long before."""
_TILE, _HALO = 512, 16
"""Output px per side computed at a time, and the margin seen around them: 12 convolutions of 3×3 need 12 px."""


class _Residual(nn.Module):
    """x + two 3×3 convolutions, each with PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.PReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.PReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → the same."""
        out: Tensor = x + self.block(x)
        return out


class ZssrNet(nn.Module):
    """(b, k, h, w) views, already upsampled → (b, 1, h, w); HighRes-net without its deconvolution."""

    def __init__(self, config: NetConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetConfig(kind=KIND, widths=(WIDTH,))
        if self.config.kind != KIND or len(self.config.widths) != 1 or self.config.widths[0] < 1:
            raise ModelError(
                "unknown network",
                expected=f"{KIND} with one width",
                found=str(self.config),
                hint="it was made by another version of this program: train a new one",
            )
        width = self.config.widths[0]
        self.encode = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1),
            nn.PReLU(),
            _Residual(width),
            _Residual(width),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.sum_frames = nn.Sequential(_Residual(2 * width), nn.Conv2d(2 * width, width, 3, padding=1), nn.PReLU())
        self.decode = nn.Conv2d(width, 1, 1)

    def forward(self, interpolated: Tensor) -> Tensor:
        """Encode each view with the median of all; fuse the first half with the reversed second until one is left."""
        count = interpolated.shape[1]
        if count & (count - 1):
            raise ModelError(
                "views are fused in pairs",
                expected="1, 2, 4, 8, …",
                found=str(count),
                hint="use four frame averages, as published",
            )
        in_order = interpolated.sort(dim=1).values
        reference = in_order[:, (count - 1) // 2 : count // 2 + 1].mean(1, keepdim=True)
        states = [self.encode(torch.cat([view, reference], dim=1)) for view in interpolated[:, :, None].unbind(1)]
        while len(states) > 1:
            half = len(states) // 2
            pairs = zip(states[:half], reversed(states[half:]), strict=True)
            # α of HighRes-net is 1 for every real view
            states = [alice + self.sum_frames(torch.cat([alice, bob], dim=1)) for alice, bob in pairs]
        out: Tensor = interpolated.mean(1, keepdim=True) + self.decode(states[0]).to(interpolated.dtype)
        return out


class Pair:
    """Training data of one movie: late views at half the resolution, and the early average."""

    def __init__(self, movie_id: str, averages: Averages, pixel_size: float = 0.0) -> None:
        """Scale and downsample; odd sizes are cropped to even ones. ``pixel_size`` in Å, where it matters."""
        self.movie_id, self.pixel_size = movie_id, pixel_size
        height, width = (size // 2 * 2 for size in averages.early.shape)
        if min(height, width) < 16:
            raise ModelError(
                "the image is too small to learn from",
                expected="16 px or more",
                found=f"{height}×{width}",
                hint="take whole micrographs",
            )
        scale = _checked_scale(averages)
        self.target = averages.early[:height, :width] / scale
        """(h, w)."""
        late = views(averages.late, averages.offsets)[:, :height, :width] / scale
        self.views = nn.functional.avg_pool2d(late[None], 2)[0]
        """(k, h/2, w/2)."""

    def crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Upsampled views (1, k, p, p) and target (1, 1, p, p) of a patch drawn at random, mirrored at random."""
        side = self._side
        top, left = (2 * draw((size - side) // 2 + 1, generator) for size in self.target.shape)
        mirrored = [axis for axis in (-2, -1) if draw(2, generator)]
        inputs, target = self._cut(top, left)
        return inputs.flip(mirrored), target.flip(mirrored)

    def middle(self) -> tuple[Tensor, Tensor]:
        """The patch in the middle."""
        top, left = (2 * ((size - self._side) // 4) for size in self.target.shape)
        return self._cut(top, left)

    @property
    def _side(self) -> int:
        return min(_CROP, int(self.target.shape[0]), int(self.target.shape[1]))

    def _cut(self, top: int, left: int) -> tuple[Tensor, Tensor]:
        side = self._side
        target = self.target[None, None, top : top + side, left : left + side]
        low = self.views[None, :, top // 2 : (top + side) // 2, left // 2 : (left + side) // 2]
        return upsample(low), target


def upsample(low: Tensor) -> Tensor:
    """Bilinear, (b, k, h, w) → (b, k, 2h, 2w)."""
    return nn.functional.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)


def _checked_scale(averages: Averages) -> float:
    """Scale by which brightness is divided."""
    if not (math.isfinite(averages.scale) and averages.scale > 0.0):
        raise ModelError(
            "the image has no contrast",
            where=KIND,
            found=f"standard deviation {averages.scale:g}",
            hint="look at the movie: is it blank?",
        )
    return averages.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ZssrReport:
    """Result of training."""

    steps: int
    losses: list[float]
    """Mean squared error on the fixed patch, every ten steps."""
    rates: list[tuple[int, float]]
    """Steps at which the learning rate fell, and to what."""
    finite: bool


def train(
    net: ZssrNet,
    pairs: Sequence[Pair],
    *,
    seed: int,
    most_steps: int = MOST_STEPS,
    stop: Callable[[], bool] = lambda: False,
) -> ZssrReport:
    """Train in place until the learning rate has fallen to 1e-5.

    Parameters
    ----------
    pairs : of one movie (movie-specific, as published) or of several (a session's); one is drawn per step.
    most_steps : ends it even if the error is still falling.

    Source: Huang et al. 2023, 3.3 and 4; learning-rate policy Shocher et al. 2018 with shorter windows.
    """
    if not pairs:
        raise ModelError(
            "nothing to train on", expected="at least one movie", hint="give movies that contain something"
        )
    device = pairs[0].target.device
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=_FIRST_RATE)
    low_precision = bf16_is_faster(device)
    fixed = [pair.crop(generator) for pair in pairs[-1:]]
    errors: list[float] = []
    rates: list[tuple[int, float]] = []
    rate, changed, finite, done = _FIRST_RATE, 0, True, 0
    net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for step in range(most_steps):
        if stop():
            break
        inputs, target = pairs[draw(len(pairs), generator)].crop(generator)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision):
            found = net(inputs.contiguous(memory_format=torch.channels_last)).float()
        error = loss(found, target)
        optimiser.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        done = step + 1
        if done % _TEST_EVERY == 0:
            errors.append(_error(net, fixed, low_precision=low_precision))
            finite = math.isfinite(errors[-1])
        if not finite:
            break
        if done % _CHECK_EVERY == 0 and done - changed >= _LEAST and _has_settled(errors[-_LEAST // _TEST_EVERY :]):
            rate, changed = rate / 10.0, done
            rates.append((done, rate))
            if rate <= _LAST_RATE * 1.001:
                break
            optimiser.param_groups[0]["lr"] = rate
    net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    finite = finite and all(bool(torch.isfinite(p).all()) for p in net.parameters())
    return ZssrReport(steps=done, losses=errors, rates=rates, finite=finite)


def loss(found: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error plus the weighted frequency loss; both (b, 1, p, p)."""
    side = found.shape[-1]
    window = torch.hann_window(side, periodic=False, device=found.device)
    difference = (found - target) * (window[:, None] * window)
    spectrum = torch.fft.rfft2(difference, norm="ortho")
    radius = fourier.radius((side, side), found.device)
    weight = torch.exp(-0.5 * (radius / _SIGMA) ** 2)
    # the half-plane stands for the whole one
    weight = weight * fourier.hermitian_weights(side, found.device)
    frequency = (spectrum.real.square() + spectrum.imag.square()) * weight
    total: Tensor = (found - target).abs().mean() + frequency.sum() / (len(found) * side * side)
    return total


def held_out_loss(net: ZssrNet | None, pair: Pair) -> float:
    """Loss on the middle of a movie that was not trained on; ``net`` None: of the interpolation alone."""
    inputs, target = pair.middle()
    with torch.inference_mode():
        if net is None:
            return float(loss(inputs.mean(1, keepdim=True), target))
        with torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=bf16_is_faster(target.device)):
            found = net(inputs.contiguous(memory_format=torch.channels_last))
        return float(loss(found.float(), target))


def apply(net: ZssrNet, averages: Averages) -> Tensor:
    """Super-resolve a movie's average of all frames.

    Returns
    -------
    (2h, 2w) float32 on the scale of the averages, before back-projection.
    """
    scale = _checked_scale(averages)
    low = views(averages.whole, averages.offsets) / scale
    device = low.device
    low_precision = bf16_is_faster(device)
    height, width = (2 * size for size in averages.whole.shape)
    result = low.new_empty((height, width))
    halo = _HALO // 2
    around = nn.functional.pad(low[None], (halo, halo, halo, halo), mode="replicate")
    net = net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision):
        for top in range(0, height, _TILE):
            for left in range(0, width, _TILE):
                rows, columns = min(_TILE, height - top), min(_TILE, width - left)
                part = around[
                    ..., top // 2 : (top + rows) // 2 + 2 * halo, left // 2 : (left + columns) // 2 + 2 * halo
                ]
                found = net(upsample(part).contiguous(memory_format=torch.channels_last))
                result[top : top + rows, left : left + columns] = found[
                    0, 0, _HALO : _HALO + rows, _HALO : _HALO + columns
                ].float()
    if not bool(torch.isfinite(result).all()):
        raise ModelError(
            "the network's output is not finite", where=KIND, hint='take another version, or method = "fusion"'
        )
    return result * scale


def back_project(image: Tensor, average: Tensor) -> Tensor:
    """Put back what was measured below the physical Nyquist frequency: (2h, 2w) and (h, w) → (2h, 2w)."""
    shape, small = (image.shape[0], image.shape[1]), (average.shape[0], average.shape[1])
    fine = torch.fft.rfft2(image)
    low = fourier.resize(fine, shape, small)
    measured = fourier.upsampled(torch.fft.rfft2(average), small)
    replaced = fine - fourier.resize(low, small, shape) + measured
    return fourier.to_image(replaced, shape)


def _error(net: ZssrNet, fixed: Sequence[tuple[Tensor, Tensor]], *, low_precision: bool) -> float:
    """Mean squared error on fixed patches."""
    total = 0.0
    with torch.inference_mode():
        for inputs, target in fixed:
            with torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=low_precision):
                found = net(inputs.contiguous(memory_format=torch.channels_last))
            total += float((found.float() - target).square().mean())
    return total / len(fixed)


def _has_settled(errors: Sequence[float]) -> bool:
    """Whether a line through the last errors falls too slowly for its own standard error to show it."""
    n = len(errors)
    if n < 3:
        return False
    y = torch.tensor(errors, dtype=torch.float64)
    x = torch.arange(n, dtype=torch.float64) - (n - 1) / 2.0
    slope = float((x * y).sum() / x.square().sum())
    residual = y - y.mean() - slope * x
    error = math.sqrt(float(residual.square().sum()) / (n - 2) / float(x.square().sum()))
    return -_SLOPE * slope < error
