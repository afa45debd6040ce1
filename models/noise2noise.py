"""The session denoiser: a small U-Net that corrects the Wiener estimate of a whitened micrograph.

In go the whitened micrograph M and its Wiener estimate W·M, out comes what to add to W·M. The last convolution starts
at zero, so an untrained net is the Wiener filter. Trained on other frames of the same movie as target (Lehtinen et al.
2018): the target's noise is independent of the input's, so the least-squares answer is the signal, not the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.manifest import NetConfig
from streamer.errors import ModelError


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
    """(b, inputs, h, w) → (b, widths[0], h, w), halved once per width but the first; h and w divisible accordingly."""

    def __init__(self, inputs: int, config: NetConfig, kind: str) -> None:
        super().__init__()
        if config.kind != kind or not 2 <= len(config.widths) <= 4 or min(config.widths) < 1:
            raise ModelError("unknown network", expected=f"{kind} of 2 to 4 widths", found=str(config))
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(_Level(a, b) for a, b in zip((inputs, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(_Level(deep + shallow, shallow) for deep, shallow in pairs)

    def features(self, x: Tensor) -> Tensor:
        """Down and up again, each level beside what it came down with."""
        skips: list[Tensor] = []
        for depth, level in enumerate(self.down):
            x = level(x if depth == 0 else nn.functional.avg_pool2d(x, 2))
            skips.append(x)
        for level, skip in zip(self.up, skips[-2::-1], strict=True):
            x = level(torch.cat([nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return x


def from_zero(last: nn.Conv2d) -> nn.Conv2d:
    """A last convolution that gives nothing before it has learned."""
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return last


class WienerResidualNet(UNet):
    """(b, 2, h, w) whitened M and W·M → (b, 1, h, w) whitened estimate of the signal; h and w divisible by 8."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__(2, config, NetConfig().kind)
        self.last = from_zero(nn.Conv2d(config.widths[0], 1, 3, padding=1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Estimate the signal: the second input channel plus a correction."""
        estimate: Tensor = inputs[:, 1:2] + self.last(self.features(inputs)).to(inputs.dtype)
        return estimate


def infer(net: WienerResidualNet, micrograph: Tensor, linear: Tensor, halo: int = 32) -> Tensor:
    """Apply the net to a whole whitened field.

    Parameters
    ----------
    micrograph, linear : (h, w) float32 M and W·M; h and w divisible by 8.
    halo : border added by reflection, px, because zero padding disturbs 16 px.

    Returns
    -------
    (h, w) float32.
    """
    halo = min(halo, (min(micrograph.shape) - 1) // 8 * 8)
    inputs = nn.functional.pad(torch.stack([micrograph, linear])[None], (halo, halo, halo, halo), mode="reflect")
    with torch.inference_mode():
        outputs: Tensor = net(inputs)
    height, width = micrograph.shape
    return outputs[0, 0, halo : halo + height, halo : halo + width].clone()
