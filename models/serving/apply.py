"""A version applied to the halves of a finished movie: the restored images, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import dose, restore
from streamer.quality import estimators
from streamer.quality.movie_quality import denoised_halves
from streamer.records import HalfSums
from streamer.sums.halves import even_share

if TYPE_CHECKING:
    from models.serving.session_model import SessionModel
    from streamer.ctf.transfer import Optics
    from streamer.movie_record import MovieSource

_BAND_ANGSTROM = 100.0, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoised:
    """A version's result for a movie's sum and halves."""

    total: Tensor
    """(h, w) float32."""
    restoration: restore.Restoration
    even: Tensor
    """(h, w//2+1) complex64: the restored half, by the network if it may be used, else by the Wiener filter."""
    odd: Tensor
    snbr_half: dict[str, float | None]
    """SNBR* by what made the halves: ``wiener``, and ``denoised`` unless the network was trained on this movie."""
    refused: str | None
    """Why the network was not used for this movie."""


def denoise_halves(
    even: Tensor, odd: Tensor, source: MovieSource, model: SessionModel, movie_id: str, optics: Optics | None = None
) -> Denoised:
    """Restore the sum of two half images, and both halves.

    Parameters
    ----------
    even, odd : (h, w) float32 half images that add up to the micrograph.
    source : of the movie; its dose decides how much of the sum each half is.
    optics : CTF, needed by a model that was trained on phase-flipped images.

    Raises
    ------
    ModelError : the version cannot be applied to this movie.
    """
    shape = (int(even.shape[0]), int(even.shape[1]))
    exposures = dose.frame_exposures(source.n_frames, source.dose_per_frame, source.frame_doses, source.frames_left_out)
    sums = HalfSums(
        even=torch.fft.rfft2(even),
        odd=torch.fft.rfft2(odd),
        even_share=even_share(exposures, shape, source.pixel_size, source.voltage_kv or 300.0),
        shape=shape,
        pixel_size=source.pixel_size,
    )
    spectrum = estimators.measure(sums)
    correction = model.propose(sums, spectrum, movie_id, optics) if spectrum.significant else None
    total, restoration = restore.restore(sums, spectrum, correction)
    halves = denoised_halves(sums, spectrum, correction)
    best = halves.get("denoised", halves.get("wiener", (sums.even, sums.odd)))
    if movie_id in model.manifest.trained_on:
        halves.pop("denoised", None)  # written, but no judge of a network that learned from them
    return Denoised(
        total=total,
        restoration=restoration,
        even=best[0],
        odd=best[1],
        snbr_half={name: _snbr(sums, pair) for name, pair in halves.items()},
        refused=None if correction is None else correction.refused,
    )


def _snbr(sums: HalfSums, restored: tuple[Tensor, Tensor]) -> float | None:
    """SNBR* of restored halves, pooled over the band; None if it cannot be computed."""
    low, high = _BAND_ANGSTROM
    mask = estimators.band_mask(sums.shape, sums.pixel_size, low, max(high, 2.0 * sums.pixel_size))
    raw, changed = (
        (estimators.tapered(pair[0], sums.shape), estimators.tapered(pair[1], sums.shape))
        for pair in ((sums.even, sums.odd), restored)
    )
    return estimators.finite(estimators.pooled(estimators.estimate(raw, changed, sums.shape), mask).snbr)
