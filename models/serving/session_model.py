"""The session model in use.

``SessionModel`` is one loaded version that proposes corrections; the pipeline gets its bound method and knows nothing
else about networks. Which version is used is decided by the gate and recorded in the store and the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.gate.guard import Evidence, Guard
from models.gate.scoring import weight_curve
from models.networks.denoiser import infer
from models.settings import is_same_pixel_size
from models.training.movie import signs_of
from models.versions.checkpoint import load_pattern, load_version
from streamer import fourier
from streamer.band import Band, band_of
from streamer.errors import ModelError
from streamer.movie_record import ModelRef
from streamer.records import Correction, HalfSums, Spectrum

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.ctf.transfer import Optics


_COARSER = 1.02
"""Factor by which the pixels may be too coarse for base weights: their band is then as much coarser in Å."""


@dataclass(frozen=True, slots=True)
class _Corrected:
    """A part of a micrograph and the net's output for it."""

    whole: Tensor
    """(h, w//2+1) spectrum of f, equal to W·y outside the band."""
    raw: Tensor
    """(h', w'//2+1) whitened, in the band; so are the others."""
    linear: Tensor
    change: Tensor
    """f − W·y."""


class SessionModel:
    """One version, loaded."""

    def __init__(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """Load and check a version; raises ModelError."""
        self.directory = directory
        self.net, self.manifest = load_version(directory, device)
        scores = self.manifest.figures.scores if self.manifest.figures else []
        if self.manifest.general:
            scores = []  # of many specimens: they do not say what to expect of another one
        self._guard = Guard(scores, load_pattern(directory, self.manifest))
        self._guard_of_held_out = Guard(scores)  # the pattern contains such a movie itself
        self.reference = ModelRef(
            version=self.manifest.version, sha256=self.manifest.sha256, weight=tuple(self.manifest.weight)
        )

    def propose(
        self, sums: HalfSums, spectrum: Spectrum, movie_id: str = "", optics: Optics | None = None
    ) -> Correction:
        """Apply the net to the whole sum and to each half, and let the guard judge the result.

        Parameters
        ----------
        movie_id : shows whether the model was trained on the movie, whose halves then cannot judge it.
        optics : of the micrograph, for a model that was trained on phase-flipped images.

        Raises
        ------
        ModelError
            If the movie's pixel size is not that of the model's training, if the model needs a CTF and there is none,
            or if the output is not finite.
        """
        manifest = self.manifest
        self._check_pixel_size(sums.pixel_size)
        if manifest.ctf == "flip" and optics is None:
            raise ModelError("the model needs the micrograph's CTF", where=self.directory, hint="denoise --ctf FILE")
        band = band_of(sums.shape, sums.pixel_size, manifest.resolution, manifest.low)
        signs = signs_of(band, optics, sums.even.device) if manifest.ctf == "flip" and optics is not None else None
        frequency = spectrum.fftfreq / sums.pixel_size
        share = sums.even_share.to(spectrum.ssnr_full.device)
        whole = torch.ones_like(share)
        total, even, odd = (
            self._correct(part, part_share, spectrum, band, signs)
            for part, part_share in ((sums.total, whole), (sums.even, share), (sums.odd, 1.0 - share))
        )
        learned_from = movie_id in manifest.trained_on
        weight = weight_curve(manifest.weight, frequency)
        verdict = None
        if not learned_from and bool((weight > 0).any()):
            guard = self._guard if movie_id not in manifest.held_out else self._guard_of_held_out
            verdict = guard.look(self._evidence(even, odd, band))
        refused = None if verdict is None else verdict.refusal
        score = None if verdict is None else verdict.score(manifest.version)
        return Correction(
            total=total.whole,
            even=even.whole,
            odd=odd.whole,
            weight=weight if refused is None else torch.zeros_like(weight),
            model=self.reference,
            learned_from=learned_from,
            refused=refused,
            score=score,
        )

    def _check_pixel_size(self, pixel_size: float) -> None:
        """Raise ModelError if the network cannot be used at this pixel size."""
        manifest = self.manifest
        if manifest.general:
            if 2.0 * pixel_size > _COARSER * manifest.resolution:
                raise ModelError(
                    "the pixels are too coarse for the model's band",
                    where=self.directory,
                    expected=f"at most {manifest.resolution / 2.0:g} Å/px",
                    found=f"{pixel_size:g} Å/px",
                    hint="use a version that was trained on movies of this pixel size",
                )
        elif not is_same_pixel_size(pixel_size, manifest.pixel_size):
            raise ModelError(
                "the model was trained at another pixel size",
                where=self.directory,
                expected=f"{manifest.pixel_size:g} Å/px",
                found=f"{pixel_size:g} Å/px",
                hint="use a version that was trained on movies of this pixel size",
            )

    def _evidence(self, even: _Corrected, odd: _Corrected, band: Band) -> Evidence:
        """The halves in the band as the guard sees them."""
        rings = fourier.ring_frequencies(band.small) / band.band_pixel_size
        plane = fourier.from_rings(weight_curve(self.manifest.weight, rings), band.small, even.raw.device)
        return Evidence(
            raw=(even.raw, odd.raw),
            linear=(even.linear, odd.linear),
            served=(even.linear + plane * even.change, odd.linear + plane * odd.change),
            shape=band.small,
            band_pixel_size=band.band_pixel_size,
            low=band.low,
        )

    def _correct(self, part: Tensor, share: Tensor, spectrum: Spectrum, band: Band, signs: Tensor | None) -> _Corrected:
        """The net's output for the sum of some frames.

        Parameters
        ----------
        part : Σ w F over these frames, divided by the total's √Σw².
        share : (rings,) their Σw² over the total's.
        signs : (h', w'//2+1) that flip the phases of the net's input and output; None: no flip.
        """
        device = part.device
        ssnr = spectrum.ssnr_full * share
        wiener = ssnr / (1.0 + ssnr)
        linear = part * fourier.from_rings(wiener, band.shape, device)
        area = (band.small[0] * band.small[1]) / (band.shape[0] * band.shape[1])
        amplitude = (spectrum.noise * area * share).clamp(min=1e-12).sqrt()
        scale = fourier.from_rings(band.curve(amplitude), band.small, device)
        turned = 1.0 if signs is None else signs
        small_wiener = fourier.from_rings(band.curve(wiener), band.small, device)
        window = band.window(device)
        micrograph = band.crop(part) / scale
        both = torch.stack([micrograph, micrograph * small_wiener]) * (window * turned)
        raw, estimate = fourier.to_image(both, band.small)
        inner = torch.fft.rfft2(infer(self.net, raw, estimate)) * (window * turned)
        change = inner - micrograph * small_wiener * window**2
        if not bool(torch.isfinite(change).all()):
            raise ModelError(
                "the network's output is not finite",
                where=self.directory,
                hint="take another version: streamer models promote",
            )
        return _Corrected(
            whole=linear + band.pad(change * scale),
            raw=micrograph,
            linear=micrograph * small_wiener,
            change=change,
        )


def proposal_of(model: SessionModel, movie_id: str, sums: HalfSums, spectrum: Spectrum) -> Correction:
    """What a model proposes for a movie."""
    return model.propose(sums, spectrum, movie_id)
