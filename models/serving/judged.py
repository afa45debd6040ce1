"""A network on one movie: first its halves, which judge it place by place, then the whole sum, which is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.gate.guard import Evidence
from models.gate.places import judged_by_place
from models.gate.whole import NUDGE, Shown, gain_of_whole, nudge_of
from models.serving.corrected import correct
from streamer import fourier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.gate.places import Places
    from models.networks.denoiser import Denoiser
    from models.serving.corrected import Corrected
    from streamer.band import Band
    from streamer.ctf.transfer import Optics
    from streamer.records import HalfSums, Spectrum


class Judged:
    """What a network makes of one movie, as far as the movie's halves confirm it."""

    def __init__(
        self,
        net: Denoiser,
        weight: Sequence[tuple[float, float]],
        sums: HalfSums,
        spectrum: Spectrum,
        band: Band,
        optics: Optics | None,
    ) -> None:
        """Apply the network to the halves.

        Parameters
        ----------
        weight : λ of the network's version.
        optics : for a network that sees flipped phases; None: it does not.
        """
        self.sums, self.spectrum, self.band = sums, spectrum, band
        self._net, self._weight, self._optics = net, weight, optics
        self.share = sums.even_share.to(spectrum.ssnr_full.device)
        self.even = self.correct(sums.even, self.share)
        self.odd = self.correct(sums.odd, 1.0 - self.share)
        self.places: Places = judged_by_place((self.even.change, self.odd.change), self._missing(), band)
        served = [(one, self.places.serve(one.change)) for one in (self.even, self.odd)]
        self.changes = [change * one.allowed(change) for one, change in served]

    def evidence(self) -> Evidence:
        """The halves as the guard sees them."""
        parts = zip((self.even, self.odd), self.changes, strict=True)
        served = [one.linear + torch.fft.rfft2(change) for one, change in parts]
        return Evidence(
            raw=(self.even.raw, self.odd.raw),
            linear=(self.even.linear, self.odd.linear),
            served=(served[0], served[1]),
            shape=self.band.small,
            band_pixel_size=self.band.band_pixel_size,
            low=self.band.low,
        )

    def halves(self) -> tuple[Tensor, Tensor]:
        """The served halves, (h, w//2+1) each."""
        even = self.linear(self.sums.even, self.share) + self.even.in_field(self.changes[0])
        odd = self.linear(self.sums.odd, 1.0 - self.share) + self.odd.in_field(self.changes[1])
        return even, odd

    def whole(self) -> Whole:
        """The whole sum, where the halves explain what the network changes in it."""
        return Whole(self)

    def correct(self, part: Tensor, share: Tensor) -> Corrected:
        """What the network changes in a part that has a share (rings,) of the total's Σw²."""
        return correct(self._net, self._weight, part, share, self.spectrum, self.band, self._optics)

    def linear(self, part: Tensor, share: Tensor) -> Tensor:
        """W·y of a part, (h, w//2+1)."""
        ssnr = self.spectrum.ssnr_full * share
        return part * fourier.from_rings(ssnr / (1.0 + ssnr), self.band.shape, part.device)

    def _missing(self) -> tuple[Tensor, Tensor]:
        """What each half's Wiener estimate misses of the other half, images (h', w') on its scale, band-passed."""
        device, small = self.even.raw.device, self.band.small
        window = self.band.window(device)
        share = self.band.curve(self.share).clamp(1e-3, 1.0 - 1e-3)
        ratio = fourier.from_rings((share / (1.0 - share)).sqrt(), small, device)
        of_even = (self.odd.raw * ratio - self.even.linear) * window
        of_odd = (self.even.raw / ratio - self.odd.linear) * window
        return fourier.to_image(of_even, small), fourier.to_image(of_odd, small)


class Whole:
    """The whole sum of a judged movie, as it is shown."""

    def __init__(self, judged: Judged) -> None:
        """Apply the network to it."""
        self._judged = judged
        self._everything = torch.ones_like(judged.share)
        self._part = judged.correct(judged.sums.total, self._everything)
        self._places = judged.places.explaining(self._part.change)
        served = self._places.serve(self._part.change)
        self._allowed = self._part.allowed(served)
        self._change = served * self._allowed
        self.share = self._places.share(torch.fft.rfft2(self._part.change))

    def image(self) -> Tensor:
        """Its spectrum, (h, w//2+1)."""
        judged = self._judged
        return judged.linear(judged.sums.total, self._everything) + self._part.in_field(self._change)

    def gain(self) -> float | None:
        """Estimated SNBR* over that of its Wiener estimate; the network is applied once more."""
        judged, part, band = self._judged, self._part, self._judged.band
        nudge = nudge_of(band.small, part.raw.device)
        moved = judged.correct(judged.sums.total + NUDGE * band.pad(nudge * part.scale), self._everything)
        change = self._places.serve(moved.change) * self._allowed
        linear = (moved.linear - part.linear) / NUDGE
        shown = Shown(
            raw=part.raw,
            linear=part.linear,
            served=part.linear + torch.fft.rfft2(self._change),
            moved_linear=linear,
            moved_served=linear + torch.fft.rfft2(change - self._change) / NUDGE,
            even_share=float(judged.share.mean()),
        )
        return gain_of_whole(judged.evidence(), shown, judged.spectrum, judged.sums.pixel_size)
