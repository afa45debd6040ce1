"""The networks of super-resolution as the pipeline sees them, without knowing any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor

    from streamer.movie_record import ModelRef
    from streamer.super_resolution.averages import Averages
    from streamer.super_resolution.normal_equations import AliasGrid


class FusionNetwork(Protocol):
    """Changes the fused image on the fine grid further; may raise ModelError."""

    @property
    def reference(self) -> ModelRef:
        """Version that is recorded."""

    @property
    def trained_on(self) -> Collection[str]:
        """Ids of the movies that it has learned from."""

    def __call__(self, fused: Tensor, grid: AliasGrid, exposures: Tensor, prior: Tensor, white: float) -> Tensor:
        """What to add to fused images of some frames.

        Parameters
        ----------
        fused : (b, h, w), tiles or a whole field, on the scale of one frame.
        exposures : (t,) e⁻/Å² of the frames.
        prior : (4, side, side//2+1) with which they were fused.
        white : variance of one frame's noise per coarse coefficient of a tile.
        """


class ZssrNetwork(Protocol):
    """cryo-ZSSR as published; may raise ModelError."""

    @property
    def reference(self) -> ModelRef | None:
        """Version that is recorded; None: trained on the movie itself."""

    @property
    def trained_on(self) -> Collection[str]:
        """Ids of the movies that it has learned from, except the one on which it may be trained when it is called."""

    def __call__(self, averages: Averages) -> Callable[[Averages], Tensor]:
        """The network for a movie, trained on it if that is wanted: averages (h, w) of frames → image (2h, 2w)."""
