"""Everything that is computed from one movie, before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from streamer.field_mask import FieldMask
    from streamer.motion.track import Motion
    from streamer.movie_record import ModelRef, MovieQuality, MovieSource
    from streamer.records import GroupSums, HalfSums, Spectrum
    from streamer.super_resolution.step import SuperResolvedMovie
    from streamer.transfer_figures import CtfFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Micrograph:
    """Everything computed from one movie, before it is written."""

    sums: HalfSums
    spectrum: Spectrum
    field: FieldMask
    """What of it is not specimen."""
    restored: Tensor
    """(h, w) float32: x = W·y + λ(f − W·y), or y itself."""
    super_resolution: SuperResolvedMovie
    groups: GroupSums | None
    motion: Motion
    hot_pixels: np.ndarray
    """(n, 2) rows and columns."""
    metrics: MovieQuality
    restoration: Literal["none", "wiener", "network"]
    model: ModelRef | None
    source: MovieSource
    flags: tuple[str, ...]
    ctf: CtfFigures | None = None
    shed: tuple[str, ...] = ()
    """What was left out: preview (the pictures), denoise, super-resolution."""
