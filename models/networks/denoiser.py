"""Networks that denoise a micrograph: their inputs, their outputs, and how they are applied to a whole field.

All take the whitened micrograph M and its Wiener estimate W·M and return an estimate of the signal. Their training
target is other frames of the same movie (Lehtinen et al. 2018): the target's noise is independent of the input's, so
the least-squares answer is the signal, not the noise.

``WienerResidualNet`` is ours: a small U-Net that returns a correction to W·M. ``RestoreNet`` is restore's (Palovcak et
al. 2020), at full size: it sees M alone and has to learn everything. ``manifest.DENOISERS`` lists their configurations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.manifest import RESTORE_KIND, WIENER_RESIDUAL_KIND
from streamer.band import MULTIPLE
from streamer.errors import ModelError

if TYPE_CHECKING:
    from models.manifest import NetConfig

_BORDER = 32
"""px by which a field is reflected beyond its edges, because zero padding disturbs them."""
_NEAR = 16
"""px around a pixel whose Wiener estimate says how large a change can be there: 130 Å at the base weights' 4 Å/px."""
_LARGEST = 2.0
"""Times the largest Wiener estimate nearby; a change may be as large as that estimate."""
_LARGE = 500_000
"""Parameters above which half precision is worth its rounding in inference: 6 times faster on a CPU that has it."""


class _Level(nn.Sequential):
    """Two 3×3 convolutions with leaky rectifiers; keeps the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.LeakyReLU(0.1),
        )


class UNet(nn.Module):
    """(b, inputs, h, w) → (b, widths[0], h, w), halved once per width but the first; h, w divisible accordingly."""

    def __init__(self, inputs: int, config: NetConfig, kind: str) -> None:
        super().__init__()
        if config.kind != kind or not 2 <= len(config.widths) <= 4 or min(config.widths) < 1:
            raise ModelError(
                "unknown network",
                expected=f"{kind} with 2 to 4 widths",
                found=str(config),
                hint="it was made by another version of this program: train a new one",
            )
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(_Level(a, b) for a, b in zip((inputs, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(_Level(deep + shallow, shallow) for deep, shallow in pairs)

    def features(self, x: Tensor) -> Tensor:
        """Down and up again, with a skip connection at each level."""
        skips: list[Tensor] = []
        for depth, level in enumerate(self.down):
            x = level(x if depth == 0 else nn.functional.avg_pool2d(x, 2))
            skips.append(x)
        for level, skip in zip(self.up, skips[-2::-1], strict=True):
            x = level(torch.cat([nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return x


def from_zero(last: nn.Conv2d) -> nn.Conv2d:
    """A last convolution, set to return 0 until it has learned."""
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return last


class WienerResidualNet(UNet):
    """(b, 2, h, w) whitened M and W·M → (b, 1, h, w) whitened estimate; h and w divisible by ``multiple``.

    Squares of ``stride`` × ``stride`` px are folded into channels, processed there, and unfolded: convolutions at full
    resolution cost most and learn least. W·M is faint compared with the noise in M; divided by ``scale``, its spread
    over the training movies, it is as loud, and training does not get stuck at the Wiener estimate.
    """

    scale: Tensor
    """() spread of W·M in training; 0 before training."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__(2 * config.stride**2, config, WIENER_RESIDUAL_KIND)
        self.last = from_zero(nn.Conv2d(config.widths[0], config.stride**2, 3, padding=1))
        self.register_buffer("scale", torch.zeros(()))
        self.multiple = config.stride * 2 ** (len(config.widths) - 1)
        if MULTIPLE % self.multiple:
            raise ModelError(
                "unknown network",
                expected=f"stride and depth that divide {MULTIPLE} px",
                found=str(config),
                hint="it was made by another version of this program: train a new one",
            )
        # two convolutions per level, down and up, in px, plus what pooling and unfolding add
        reach = config.stride * (1 + sum(4 * 2**depth for depth in range(len(config.widths))))
        self.halo = -(-(reach + self.multiple) // self.multiple) * self.multiple

    def forward(self, inputs: Tensor) -> Tensor:
        """Estimate the signal: the second input channel plus a correction."""
        loud = torch.where(self.scale > 0, self.scale, 1.0)
        both = torch.cat([inputs[:, :1], inputs[:, 1:2] / loud], dim=1)
        gathered = nn.functional.pixel_unshuffle(both, self.config.stride)
        change = self.last(self.features(gathered)).to(inputs.dtype)
        estimate: Tensor = inputs[:, 1:2] + nn.functional.pixel_shuffle(change, self.config.stride)
        return estimate


# ----------------------------------------------------------------------------------------------------------- restore


class _WideActivation(nn.Module):
    """1×1 to four times the channels, rectifier, 1×1 to 0.8 times, k×k back; added to the input."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        wide, narrow = 4 * channels, int(0.8 * channels)
        self.wide, self.narrow = nn.Conv2d(channels, wide, 1), nn.Conv2d(wide, narrow, 1)
        self.last = nn.Conv2d(narrow, channels, kernel)
        self.border = ((kernel - 1) // 2, kernel // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        inner = self.narrow(nn.functional.relu(self.wide(x)))
        change: Tensor = self.last(nn.functional.pad(inner, self.border))
        return x + change


class _Upsampler(nn.Sequential):
    """32 channels to twice the size: 1×1 to 128, rectifier, a wide block there, pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 4 * channels, 1), nn.ReLU(), _WideActivation(4 * channels, 4), nn.PixelShuffle(2)
        )


class RestoreNet(nn.Module):
    """(b, 2, h, w) whitened M and W·M → (b, 1, h, w) from M alone; h and w divisible by 8.

    96 convolutions, 2,383,826 parameters at 32 channels. 3×3 on the way down, 4×4 on the way up. The skips are taken
    after each halving, so nothing passes at full resolution unless ``full_resolution_skip`` asks for it.

    Source: Palovcak et al. 2020, supplement; kernel sizes and counts as in the released weights.
    """

    multiple = 8
    halo = 152
    """Reach of the deepest path, px."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        if config.kind != RESTORE_KIND or len(config.widths) != 1 or config.widths[0] < 2:
            raise ModelError(
                "unknown network",
                expected=f"{RESTORE_KIND} with 1 width",
                found=str(config),
                hint="it was made by another version of this program: train a new one",
            )
        self.config = config
        (n,) = config.widths
        self.first = nn.Conv2d(1, n, 3, padding=1)
        self.encoder = nn.ModuleList(nn.Sequential(*(_WideActivation(n, 3) for _ in range(4))) for _ in range(3))
        self.halve = nn.ModuleList(nn.Conv2d(n, n, 3, stride=2, padding=1) for _ in range(3))
        self.through = nn.ModuleList(_Upsampler(n) for _ in range(3))
        self.joined = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * n, n, 1), nn.ReLU(), *(_WideActivation(n, 4) for _ in range(3)), _Upsampler(n))
            for _ in range(3)
        )
        self.mix = nn.Conv2d(2 * n if config.full_resolution_skip else n, n, 1)
        self.last = nn.Conv2d(n, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Estimate the signal from the micrograph alone."""
        top = x = self.first(inputs[:, :1])
        skips: list[Tensor] = []
        for blocks, halve in zip(self.encoder, self.halve, strict=True):
            x = nn.functional.relu(halve(blocks(x))) + nn.functional.max_pool2d(x, 2)
            skips.append(x)
        for through, joined in zip(self.through, self.joined, strict=True):
            x = through(x) + joined(torch.cat([x, skips.pop()], dim=1))
        if self.config.full_resolution_skip:
            x = torch.cat([x, top], dim=1)
        estimate: Tensor = self.last(nn.functional.relu(self.mix(x))).to(inputs.dtype)
        return estimate


Denoiser = WienerResidualNet | RestoreNet
"""Networks that a session can train."""


def build(config: NetConfig) -> Denoiser:
    """Untrained network of a configuration; raises ModelError if the kind is unknown."""
    return RestoreNet(config) if config.kind == RESTORE_KIND else WienerResidualNet(config)


# ------------------------------------------------------------------------------------------------------- application


def infer(net: Denoiser, micrograph: Tensor, linear: Tensor, tile: int = 1536, *, margin: int = _BORDER) -> Tensor:
    """Apply a net to a whole whitened field, in tiles if it is larger than one.

    Tiles overlap by the net's own reach, so that the result is that of the whole field within rounding. Where it is
    served or scored, the answer is ``bounded``; probes look at the bare network.

    Parameters
    ----------
    micrograph, linear : (h, w) float32 M and W·M; h and w divisible by the net's ``multiple``.
    tile : longest side processed at once, px, not counting halos.
    margin : px by which the field is reflected beyond its edges; 0: it brings surroundings of its own.

    Returns
    -------
    (h, w) float32.
    """
    multiple, halo = net.multiple, net.halo
    border = min(margin, (min(micrograph.shape) - 1) // multiple * multiple)
    inputs = nn.functional.pad(torch.stack([micrograph, linear])[None], (border,) * 4, mode="reflect")
    step = max(multiple, tile // multiple * multiple)
    height, width = inputs.shape[-2:]
    outputs = inputs.new_empty((height, width))
    large = sum(parameter.numel() for parameter in net.parameters()) > _LARGE
    low_precision = large and bf16_is_faster(inputs.device)
    with torch.inference_mode(), torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=low_precision):
        for top in range(0, height, step):
            for left in range(0, width, step):
                above, before = max(0, top - halo), max(0, left - halo)
                cut = inputs[..., above : top + step + halo, before : left + step + halo]
                inner = net(cut.contiguous(memory_format=torch.channels_last))[0, 0]
                inner = inner[top - above : top - above + step, left - before : left - before + step]
                outputs[top : top + step, left : left + step] = inner
    return outputs[border : height - border, border : width - border].clone()


def bounded(estimate: Tensor, linear: Tensor) -> Tensor:
    """Keep an estimate within what the data themselves show nearby.

    Far from what it was trained on (a crystal, a carbon edge) a network may say anything; what is really there shows in
    the Wiener estimate, too. Neither the change nor the result may be much larger than that is nearby. Bounding what
    goes into the network instead does not help: it answers a bounded edge no better.

    Parameters
    ----------
    estimate, linear : (h, w) the net's output, and W·M. What is not finite becomes NaN.
    """
    limit = largest_within(linear.abs(), _NEAR)
    change = torch.clamp(estimate - linear, -limit, limit)
    kept = torch.clamp(linear + change, -_LARGEST * limit, _LARGEST * limit)
    return torch.where(torch.isfinite(estimate), kept, torch.nan)


def largest_within(values: Tensor, reach: int) -> Tensor:
    """Largest of (h, w) non-negative values within ``reach`` px along rows and columns, at each px.

    By doubling: a window of 2 n px is two of n px. A pooling layer looks at each window anew, eight times as slowly.
    """
    side = 2 * reach + 1
    found = nn.functional.pad(values, (reach,) * 4)
    for axis in (0, 1):
        covered = 1
        while covered < side:
            step, left = min(covered, side - covered), found.shape[axis]
            found = torch.maximum(found.narrow(axis, 0, left - step), found.narrow(axis, step, left - step))
            covered += step
    return found


def bf16_is_faster(device: torch.device | str) -> bool:
    """Whether bfloat16 convolutions run in hardware on this device."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
