"""The restored image: the data's own best linear estimate, plus a correction that a network has earned.

    x = W·y + λ(k, x)·(f − W·y)

y is the plain micrograph, W its Wiener filter from its own halves, f the network's output and λ how far it has proved
right: by frequency on movies it never saw, and at each place on this movie's own halves. λ = 0 gives the Wiener
estimate; no significant signal gives y itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from streamer import fourier
from streamer.errors import ModelError
from streamer.records import Proposal

if TYPE_CHECKING:
    from streamer.movie_record import ModelRef
    from streamer.records import Correction, HalfSums, Propose, Spectrum

Restoration = Literal["none", "wiener", "network"]

_SEEN = ("model: the network was trained on this movie; its figures are not independent",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The restored image of a micrograph, and how it came about."""

    image: Tensor
    """(h, w) float32: x = W·y + λ(f − W·y), or y itself."""
    by: Restoration
    correction: Correction | None
    """What the network proposed, applied or not."""
    model: ModelRef | None
    """What made the image; None: no network did."""
    flags: tuple[str, ...]


def restored(propose: Propose | None, sums: HalfSums, spectrum: Spectrum, *, pattern_stays: bool) -> Restored:
    """Restore a micrograph with the network, if there is one and it may be used."""
    proposal = ask_network(propose, sums, spectrum, pattern_stays=pattern_stays)
    image, by = restore(sums, spectrum, proposal.correction)
    return Restored(
        image=image,
        by=by,
        correction=proposal.correction,
        model=proposal.model if by == "network" else None,
        flags=proposal.flags,
    )


def ask_network(propose: Propose | None, sums: HalfSums, spectrum: Spectrum, *, pattern_stays: bool) -> Proposal:
    """Ask the session model; what it cannot do or may not do is flagged, and the Wiener estimate is used."""
    if propose is None or not spectrum.significant:
        return Proposal()
    if pattern_stays:
        return Proposal(flags=("model: not applied: residual fixed pattern correlates the half sums",))
    try:
        correction = propose(sums, spectrum)
    except ModelError as error:
        return Proposal(flags=(f"model: {error.what}",))
    if correction.refused is not None:
        return Proposal(correction=correction, flags=(f"model: not applied, {correction.refused}",))
    if correction.remark is not None:
        return Proposal(correction=correction, flags=(f"model: applied, but {correction.remark}",))
    return Proposal(correction=correction, flags=_SEEN if correction.learned_from else ())


def restore(sums: HalfSums, spectrum: Spectrum, correction: Correction | None) -> tuple[Tensor, Restoration]:
    """Restored image of the whole sum, (h, w) float32, and what made it."""
    if not spectrum.significant:
        return fourier.to_image(sums.total, sums.shape), "none"
    linear = filtered(sums.total, spectrum.wiener, sums.shape)
    if correction is None or not bool((correction.weight > 0).any()):
        return fourier.to_image(linear, sums.shape), "wiener"
    return fourier.to_image(merge(linear, correction.total, correction.weight, sums.shape), sums.shape), "network"


def filtered(spectrum: Tensor, curve: Tensor, shape: fourier.Shape) -> Tensor:
    """Multiply a (h, w//2+1) spectrum by a radial curve; the mean is kept."""
    plane = fourier.from_rings(curve, shape, spectrum.device)
    plane[0, 0] = 1.0
    return spectrum * plane


def merge(linear: Tensor, proposed: Tensor, weight: Tensor, shape: fourier.Shape) -> Tensor:
    """W·y + λ(f − W·y) on spectra, complex coefficients throughout."""
    return torch.lerp(linear, proposed, fourier.from_rings(weight, shape, linear.device).to(linear.dtype))
