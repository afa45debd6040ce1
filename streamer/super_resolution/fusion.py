"""The image on the grid of half the pixel size, and whether it can be trusted to contain more.

First each half of a sample of tiles is solved with a weak flat prior; what the two have in common, ring by ring, is the
signal's power; with it as prior all tiles are solved from all frames. The weight thus comes from the data, and where
the halves share nothing the image fades to 0.

Whether super-resolution helps is then a finding, not a promise. Two images are made from one half's frames: the fused
one, and the best one on the physical grid alone, which attributes all of a coarse frequency to that frequency. With u
the part of the first beyond Nyquist and r what the *frames* of the other half contain beyond the second, in the sense
of the normal equations, u predicts these frames better by 2 Re u·r − u·K u. The share Re u·r / u·K u is 1 where all
that was added is confirmed, ½ where it does as much harm as good and 0 where none of it is there. Artefacts that both
halves share, and that a correlation of halves would mistake for signal, predict nothing. The control: the same with the
aliases turned by other frames' shifts, which is 0 where it is the frames' own shifts that separate the aliases.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import fourier
from streamer.quality import estimators
from streamer.records import SuperResolution
from streamer.super_resolution.normal_equations import NormalEquations
from streamer.super_resolution.prior import smoothed
from streamer.super_resolution.tiles import BLEND, FADE
from streamer.super_resolution.verdict import Confirmation, confirmation_of, judged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.super_resolution.accumulate import AliasSums
    from streamer.super_resolution.networks import FusionNetwork

_FLAT_PRIOR = 1.0
"""Noise over signal power of one frame, for the halves."""
_LEAST_SIGNAL = 1e-3
"""Signal over noise power of one frame below which the prior gets no stronger."""
_LEAST_KEPT = 0.1
"""Share of the signal that the halves' product must keep for its power to be trusted."""
_NEVER = 1e12
"""A prior that leaves nothing."""
_FLATTENING = 3
"""Rings to each side over which the noise's power is averaged."""
_BEYOND = (1.02, 1.5)
"""Band of the halves' correlation, in units of the physical Nyquist frequency."""


def super_resolve(
    resolver: Fusion,
    *,
    shifts: Tensor,
    min_diversity: float,
    network: FusionNetwork | None = None,
    learned_from: bool = False,
    filtered: bool = True,
) -> SuperResolution:
    """Make the fine image of a movie and judge it.

    Parameters
    ----------
    resolver : ``Fusion`` of the movie's sums.
    shifts : (t, 2) px, global.
    min_diversity : below it the verdict is "cannot help".
    network : changes the fused image further; the two are judged together.
    learned_from : the network was trained on this very movie, which cannot judge it: only the fused image is judged.
    filtered : see ``Fusion.image``.

    Returns
    -------
    SuperResolution with the (2h, 2w) image on the scale of the plain micrograph at the origin (√frames).
    """
    judge = resolver.under(None if learned_from else network)
    found, control, exposures = judge.confirmation(), judge.control(), resolver.sums.exposures
    verdict = judged(found, control, resolver.frc(), exposures, shifts, min_diversity)
    if network is None:
        made_by = replace(verdict, method="fusion")
    else:
        made_by = replace(verdict, method="network", model=network.reference)
    return SuperResolution(image=resolver.under(network).image(filtered=filtered), verdict=made_by)


class Fusion:
    """Everything that is solved from one movie's sums."""

    def __init__(self, sums: AliasSums, noise: float, network: FusionNetwork | None = None) -> None:
        """Measure the prior; ``noise`` is the variance of one frame per px, white."""
        self.sums, self.grid, self.network = sums, sums.grid, network
        side = self.grid.side
        self.white = noise * side * side
        """Noise variance of one frame per coarse coefficient of a tile that is not faded."""
        inside = sums.tiles.inside(sums.sample)
        fade, used = fourier.edge(side, 0, FADE) ** 2, fourier.edge(side, FADE, 2 * BLEND) ** 2
        self._used = (inside * used * used[:, None]).mean((1, 2))
        """(m,) share of each tile of the sample that spectra are measured on."""
        left = inside * fade * fade[:, None]
        self._noise = (self.white * left.square().mean((1, 2)) / left.mean((1, 2))).to(self.grid.device)
        """(m,) of one frame per coarse coefficient where the tile contains anything: it may be partly outside."""
        self._kept = self._kept_by_flat_prior()
        self._rings = self._measured()
        self.prior = self._prior(slice(None))

    def under(self, network: FusionNetwork | None) -> Fusion:
        """The same with another network, or none; nothing is measured again."""
        other = copy.copy(self)
        other.network = network
        return other

    def _equations(self, fractions: Tensor, parity: int | None) -> NormalEquations:
        frames = slice(None) if parity is None else self.sums.parity == parity
        return NormalEquations(self.grid, fractions[frames], self.sums.exposures[frames])

    @property
    def fine(self) -> fourier.Shape:
        """Size of a tile on the fine grid, px."""
        return 2 * self.grid.side, 2 * self.grid.side

    def _measured(self) -> Tensor:
        """Ring sums of the halves, solved with a flat prior: common, even and odd; (3, m, rings)."""
        flat = torch.full_like(self.grid.radius, _FLAT_PRIOR)
        fractions = self.sums.fractions[:, self.sums.sample]
        even, odd = (
            self._spectra(self._equations(fractions, parity).solve(self.sums.sums[parity][:, self.sums.sample], flat))
            for parity in (0, 1)
        )
        return torch.stack([estimators.covariance(a, b, self.fine) for a, b in ((even, odd), (even, even), (odd, odd))])

    def _spectra(self, aliases: Tensor) -> Tensor:
        """Spectra (m, …) of the part of tiles that is used, faded at its edges."""
        fade = fourier.edge(self.fine[0], 2 * FADE, 4 * BLEND, aliases.device)
        images = self.grid.image(aliases)
        images = images - images.mean((1, 2), keepdim=True)
        spectra: Tensor = torch.fft.rfft2(images * (fade[:, None] * fade))
        return spectra

    def _prior(self, tiles: slice) -> Tensor:
        """σ²/P at each alias: P from what the halves of some tiles share, corrected for the flat prior."""
        common, even, odd = self._rings[:, tiles].sum(1).cpu()
        counts = 2.0 * fourier.coefficient_counts(self.fine) * float(self._used[tiles].sum())
        # fine coefficients are four times the aliases', whose noise per frame is known
        scale = counts * self._kept * 16.0 * self.white
        signal = smoothed(common, even * odd / counts, scale)
        # where the box passes almost nothing, all that is found is chance: the signal must not grow there
        last = max(1, int((self._kept > _LEAST_KEPT).sum())) - 1
        signal[last:] = torch.minimum(signal[last:], signal[last])
        prior = self.grid.rings(1.0 / signal.clamp(min=_LEAST_SIGNAL))
        prior[0, 0, 0] = 0.0  # a tile's mean is kept
        return prior

    def _kept_by_flat_prior(self) -> Tensor:
        """Mean share of the signal's power that the flat prior leaves in both halves' product, (rings,)."""
        frequency = fourier.ring_frequencies(self.fine) * 2.0
        place = (frequency * self.grid.side).round().to(torch.int64).clamp(max=self.grid.side - 1)
        # along an axis, where the box passes least: a bound that is close enough
        box, rate = (values[:, 0].cpu().double()[place] for values in (self.grid.power[0], self.grid.rate[0]))
        decay = torch.exp(-2.0 * self.sums.exposures.double().cpu()[:, None] * rate)
        share = torch.ones_like(box)
        for parity in (0, 1):
            sensitivity = box * decay[self.sums.parity == parity].sum(0)
            share = share * sensitivity / (sensitivity + _FLAT_PRIOR)
        return share.clamp(min=1e-3)

    def frc(self, band: tuple[float, float] = _BEYOND) -> float:
        """Correlation of the sample's halves in a band of the physical Nyquist frequency."""
        frequency = fourier.ring_frequencies(self.fine, self._rings.device) * 4.0
        inside = (frequency >= band[0]) & (frequency < band[1])
        common, even, odd = self._rings[..., inside].sum((1, 2))
        return float(common / (even * odd).clamp(min=1e-300).sqrt())

    def image(self, *, filtered: bool = True) -> Tensor:
        """The fine image from all frames, (2h, 2w) float32.

        Parameters
        ----------
        filtered : the most probable image, on the scale of the plain micrograph at the origin (√frames): for viewing.
            Else its noise is made white again, as strong as the micrograph's: for reconstruction, because such programs
            assume white noise, and their interpolation spoils frequencies that are far weaker than others.
        """
        solved = self._equations(self.sums.fractions, None).solve(self.sums.sums.sum(0), self.prior)
        blended = self.sums.tiles.blend(self.grid.image(solved), 2)
        blended = self._changed(blended[None], self.sums.exposures, self.prior)[0]
        if filtered:
            return (blended + self.sums.mean) * math.sqrt(len(self.sums.parity))
        shape = (blended.shape[0], blended.shape[1])
        curve = self._flattening()
        place = (fourier.radius(shape, blended.device) * 2.0 * self.grid.side).clamp(max=self.grid.side - 0.001)
        low = place.floor().to(torch.int64)
        spectrum = torch.fft.rfft2(blended) * torch.lerp(curve[low], curve[low + 1], place - low)
        return fourier.to_image(spectrum, shape)

    def _flattening(self) -> Tensor:
        """Factors that make the fused image's noise white, as strong as a frame's px: (rings,) of a fine tile.

        The noise is what the same solver makes of the halves' difference, which contains almost no signal.
        """
        sample = self.sums.sample
        even, odd = self.sums.sums[:, :, sample]
        solved = self._equations(self.sums.fractions[:, sample], None).solve(even - odd, self.prior)
        spectra = self._spectra(solved)
        power = estimators.covariance(spectra, spectra, self.fine).sum(0)
        counts = 2.0 * fourier.coefficient_counts(self.fine) * float(self._used.sum())
        smooth = estimators.smooth(power.cpu(), _FLATTENING) / estimators.smooth(counts, _FLATTENING)
        return (4.0 * self.white / smooth.clamp(min=1e-20)).sqrt().to(self.grid.device, torch.float32)

    def _changed(self, fused: Tensor, exposures: Tensor, prior: Tensor) -> Tensor:
        """Fused images (b, h, w) of some frames as changed by the network."""
        if self.network is None:
            return fused
        return fused + self.network(fused, self.grid, exposures, prior, self.white)

    # -------------------------------------------------------------------------------------------- confirmation

    def confirmation(self) -> Confirmation:
        """How far each half's frames confirm what the other half's image adds to an image without aliases."""
        return self._confirmed(self.sums.sums[:, :, self.sums.sample], self.sums.fractions[:, self.sums.sample])

    def control(self) -> Confirmation:
        """The same with the aliases turned by other frames' shifts."""
        return self._confirmed(self.sums.control, self.sums.control_fractions)

    def _confirmed(self, sums: Tensor, fractions: Tensor) -> Confirmation:
        """Judge every second tile with the prior of the others: a prior from the same tiles knows both halves."""
        judged = torch.zeros(3, dtype=torch.float64)
        folds = (0, 1) if len(self.sums.sample) > 1 else ()
        for first in folds:
            tiles = slice(first, None, 2)
            prior = self._prior(slice(1 - first, None, 2))
            equations = [self._equations(fractions[:, tiles], parity) for parity in (0, 1)]
            for parity in (0, 1):
                own = sums[parity][:, tiles]
                plain = equations[parity].solve(own, self._prior_below(prior))
                added = equations[parity].solve(own, prior)
                if self.network is not None:
                    exposures = self.sums.exposures[self.sums.parity == parity]
                    added = self.grid.aliases(self._changed(self.grid.image(added), exposures, prior))
                unseen = equations[1 - parity]
                left = unseen.residual(sums[1 - parity][:, tiles], plain)
                judged += self._compared(added, left, unseen, self._noise[tiles])
        return confirmation_of(judged)

    def confirmation_of(self, images: Sequence[Tensor], chosen: Tensor) -> tuple[Confirmation, Confirmation]:
        """Judge images (2h, 2w) that were made from the even and from the odd frames alone in some other way.

        Parameters
        ----------
        chosen : (n,) int64 tiles of the sample where they are judged; elsewhere they may be 0.

        Returns
        -------
        Confirmation, and as control the same with what another tile's frames contain.
        """
        where = torch.stack([(self.sums.sample == tile).nonzero()[0, 0] for tile in chosen])
        found, control = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        equations = [self._equations(self.sums.fractions[:, chosen], parity) for parity in (0, 1)]
        for parity, image in enumerate(images):
            unseen = equations[1 - parity]
            added = self.grid.aliases(self.sums.tiles.cut_fine(image, chosen))
            plain = equations[parity].solve(self.sums.sums[parity][:, chosen], self._prior_below(self.prior))
            left = unseen.residual(self.sums.sums[1 - parity][:, chosen], plain)
            found += self._compared(added, left, unseen, self._noise[where])
            control += self._compared(added, left.roll(1, 1), unseen, self._noise[where])
        return confirmation_of(found), confirmation_of(control)

    def _compared(self, added: Tensor, left: Tensor, unseen: NormalEquations, noise: Tensor) -> Tensor:
        """How much of an image beyond Nyquist is confirmed, how much it predicts, and the variance by chance: (3,)."""
        added = added * ~self.grid.is_below[:, None]
        power = self._product(added, unseen.apply(added))
        # half of it is in the real part; but for noise alone both directions say the same: they are not independent
        return torch.stack([self._product(added, left).sum(), power.sum(), (power * noise).sum()]).cpu()

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """Re Σ conj(a) b of each tile of the sample, (m,) float64, each independent coefficient once."""
        # the half-plane's own columns would count coefficients twice: they are left out
        columns = slice(1, -1)
        return (a[..., columns].conj() * b[..., columns]).real.sum((0, 2, 3), dtype=torch.float64)

    def _prior_below(self, prior: Tensor) -> Tensor:
        """Prior of an image without super-resolution, which attributes all of a coarse frequency to that frequency."""
        signal = self.grid.power / prior.clamp(min=1e-6)
        below = self.grid.is_below
        folded = signal.sum(0) / self.grid.power.clamp(min=1e-6)
        return torch.where(below, 1.0 / folded.clamp(min=1e-6), torch.full_like(folded, _NEVER))
