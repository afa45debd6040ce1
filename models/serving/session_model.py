"""The session model in use.

``SessionModel`` is one loaded version that proposes corrections; the pipeline gets its bound method and knows nothing
else about networks. Which version is used is decided by the gate and recorded in the store and the journal.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from models.gate.guard import Guard, nowhere
from models.serving.judged import Judged
from models.settings import is_same_pixel_size
from models.versions.checkpoint import load_pattern, load_version
from models.versions.store import BASE
from streamer.band import band_of
from streamer.errors import ModelError
from streamer.movie_record import ModelRef
from streamer.records import Correction, HalfSums, Spectrum

if TYPE_CHECKING:
    from pathlib import Path

    from models.gate.guard import Verdict
    from streamer.band import Band
    from streamer.ctf.transfer import Optics


_CLEAN = 0.8
"""Share of the field from which a gain that is too small is not just dirt's."""
_COARSER = 1.02
"""Factor by which the pixels may be too coarse for base weights: their band is then as much coarser in Å."""


class SessionModel:
    """One version, loaded."""

    def __init__(self, directory: Path, device: torch.device | str = "cpu", rival: Path | None = None) -> None:
        """Load and check a version; raises ModelError.

        Parameters
        ----------
        rival : directory of another version, which serves a movie instead where the movie's halves gain more by it;
            one that cannot be loaded is none.
        """
        self.directory = directory
        self._rival: SessionModel | None = None
        if rival is not None:
            with suppress(ModelError):
                self._rival = SessionModel(rival, device)
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
        """Apply the net to each half, let the guard judge the result, and apply it to the whole sum.

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
        judged, verdict = self.look(sums, spectrum, movie_id, optics)
        if self._rival is not None and verdict is not None:
            with suppress(ModelError):
                other, of_other = self._rival.look(sums, spectrum, movie_id, optics)
                if of_other is not None and other.band == judged.band and _is_better(of_other, verdict):
                    return self._rival.correction(other, of_other, movie_id)
        return self.correction(judged, verdict, movie_id)

    def look(
        self, sums: HalfSums, spectrum: Spectrum, movie_id: str, optics: Optics | None
    ) -> tuple[Judged, Verdict | None]:
        """The net on the halves, and what the guard says of it; None where the net learned from them."""
        manifest = self.manifest
        self._check_pixel_size(sums.pixel_size)
        if manifest.ctf == "flip" and optics is None:
            raise ModelError("the model needs the micrograph's CTF", where=self.directory, hint="denoise --ctf FILE")
        band = band_of(sums.shape, sums.pixel_size, manifest.resolution, manifest.low)
        judged = self._judged(sums, spectrum, band, optics)
        if movie_id in manifest.trained_on or not self._has_earned_any:
            return judged, None
        guard = self._guard if movie_id not in manifest.held_out else self._guard_of_held_out
        return judged, guard.look(judged.evidence())

    def correction(self, judged: Judged, verdict: Verdict | None, movie_id: str) -> Correction:
        """What is proposed for the whole sum."""
        whole, (even, odd) = judged.whole(), judged.halves()
        refused = None if verdict is None else verdict.refusal or nowhere(whole.share)
        score = remark = None
        if verdict is not None:
            shown = whole.gain() if refused is None else None
            score = verdict.score(self.manifest.version, shown=shown, share=whole.share)
            remark = verdict.remark if whole.share >= _CLEAN else None
        return Correction(
            total=whole.image(),
            even=even,
            odd=odd,
            weight=torch.full_like(judged.spectrum.fftfreq, float(refused is None and self._has_earned_any)),
            model=self.reference,
            learned_from=movie_id in self.manifest.trained_on,
            refused=refused,
            remark=remark,
            score=score,
        )

    @property
    def _has_earned_any(self) -> bool:
        """Whether the version's λ is above 0 anywhere."""
        return any(value > 0.0 for _, value in self.manifest.weight)

    def _judged(self, sums: HalfSums, spectrum: Spectrum, band: Band, optics: Optics | None) -> Judged:
        """The net on the halves; raises ModelError if its output is not finite."""
        flip = optics if self.manifest.ctf == "flip" else None
        found = Judged(self.net, self.manifest.weight, sums, spectrum, band, flip)
        if not all(bool(torch.isfinite(one.change).all()) for one in (found.even, found.odd)):
            raise ModelError(
                "the network's output is not finite",
                where=self.directory,
                hint="take another version: streamer models promote",
            )
        return found

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


def _is_better(one: Verdict, other: Verdict) -> bool:
    """Whether the halves gain more by one network than by the other; a gain that is no number is none."""
    return math.isfinite(one.gain) and not one.gain <= other.gain


def rival_of(directory: Path) -> Path | None:
    """The weights that a version's session started from, which lie beside it; None: there are none, or it is they."""
    base = directory.parent / BASE
    return base if directory.name != BASE and base.is_dir() else None


def proposal_of(model: SessionModel, movie_id: str, sums: HalfSums, spectrum: Spectrum) -> Correction:
    """What a model proposes for a movie."""
    return model.propose(sums, spectrum, movie_id)
