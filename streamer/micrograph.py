"""Everything that is computed from one movie, before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from streamer.field_mask import FieldMask
    from streamer.motion.track import Motion
    from streamer.movie_record import MovieQuality, MovieSource
    from streamer.records import GroupSums, HalfSums, Spectrum
    from streamer.restore import Restored
    from streamer.super_resolution.step import SuperResolvedMovie
    from streamer.transfer_figures import CtfFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Micrograph:
    """Everything computed from one movie, before it is written."""

    sums: HalfSums
    spectrum: Spectrum
    field: FieldMask
    """What of it is not specimen."""
    restored: Restored
    super_resolution: SuperResolvedMovie
    groups: GroupSums | None
    motion: Motion
    hot_pixels: np.ndarray
    """(n, 2) rows and columns."""
    metrics: MovieQuality
    source: MovieSource
    flags: tuple[str, ...]
    ctf: CtfFigures | None = None
    shed: tuple[str, ...] = ()
    """What was left out: preview (the pictures), denoise, super-resolution."""
