"""The session's model in service.

``SessionModel`` is one loaded version that proposes corrections; the pipeline gets its bound method and knows nothing
else about networks. Which version serves is decided by the gate and recorded in the store and the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.checkpoint import load_version
from models.gate import weight_curve
from models.noise2noise import infer
from models.settings import is_same_pixel_size
from streamer import fourier
from streamer.band import Band, band_of
from streamer.errors import ModelError
from streamer.published import ModelRef
from streamer.records import Correction, HalfSums, Spectrum

if TYPE_CHECKING:
    from pathlib import Path


class SessionModel:
    """One version, loaded."""

    def __init__(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """Load and check a version; raises ModelError."""
        self.directory = directory
        self.net, self.manifest = load_version(directory, device)
        self.reference = ModelRef(
            version=self.manifest.version, sha256=self.manifest.sha256, weight=tuple(self.manifest.weight)
        )

    def propose(self, sums: HalfSums, spectrum: Spectrum) -> Correction:
        """Apply the net to the whole sum and to each half.

        Raises
        ------
        ModelError
            If the movie's pixel size is not the one the model learned at, or the output is not finite.
        """
        manifest = self.manifest
        if not is_same_pixel_size(sums.pixel_size, manifest.pixel_size):
            raise ModelError(
                "the model was trained at another pixel size",
                where=self.directory,
                expected=f"{manifest.pixel_size:g} Å/px",
                found=f"{sums.pixel_size:g} Å/px",
            )
        band = band_of(sums.shape, sums.pixel_size, manifest.resolution, manifest.low)
        frequency = spectrum.fftfreq / sums.pixel_size
        share = sums.even_share.to(spectrum.ssnr_full.device)
        whole = torch.ones_like(share)
        total, even, odd = (
            self._correct(part, part_share, spectrum, band)
            for part, part_share in ((sums.total, whole), (sums.even, share), (sums.odd, 1.0 - share))
        )
        return Correction(
            total=total,
            even=even,
            odd=odd,
            weight=weight_curve(manifest.weight, frequency),
            model=self.reference,
        )

    def _correct(self, part: Tensor, share: Tensor, spectrum: Spectrum, band: Band) -> Tensor:
        """F for the sum of some frames: (h, w//2+1), equal to W·y outside the band.

        Parameters
        ----------
        part : Σ w F over these frames, divided by the total's √Σw².
        share : (rings,) their Σw² over the total's.
        """
        device = part.device
        ssnr = spectrum.ssnr_full * share
        wiener = ssnr / (1.0 + ssnr)
        linear = part * fourier.from_rings(wiener, band.shape, device)
        area = (band.small[0] * band.small[1]) / (band.shape[0] * band.shape[1])
        amplitude = (spectrum.noise * area * share).clamp(min=1e-12).sqrt()
        scale = fourier.from_rings(band.curve(amplitude), band.small, device)
        small_wiener = fourier.from_rings(band.curve(wiener), band.small, device)
        window = band.window(device)
        micrograph = band.crop(part) / scale
        raw, estimate = fourier.to_image(torch.stack([micrograph, micrograph * small_wiener]) * window, band.small)
        inner = torch.fft.rfft2(infer(self.net, raw, estimate)) * window
        change = (inner - micrograph * small_wiener * window**2) * scale
        if not bool(torch.isfinite(change).all()):
            raise ModelError("the network's output is not finite", where=self.directory)
        return linear + band.pad(change)
