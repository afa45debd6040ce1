"""The movies of a session that a trainer keeps, to learn from and to judge by: same settings, one band, bounded."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from models.training.movie import TrainingMovie, is_made_for, useful_resolution
from models.training.replay import Replay
from streamer.errors import ModelError

if TYPE_CHECKING:
    import torch

    from models.manifest import Manifest
    from models.settings import SessionModelSettings
    from streamer.records import GroupSums
    from streamer.settings import DenoiseSettings

_BYTES_PER_PX = 4
"""Size of a half-plane spectrum in single precision, per px of the image."""


class SessionMovies:
    """A session's movies for training and those held out."""

    def __init__(
        self,
        settings: SessionModelSettings,
        denoise: DenoiseSettings,
        pixel_size: float | None,
        device: torch.device | str,
    ) -> None:
        """Start with none.

        Parameters
        ----------
        pixel_size : of the session, Å/px; None: the first movie's.
        """
        self._settings, self._denoise, self._pixel_size, self._device = settings, denoise, pixel_size, device
        self.learned: Replay[TrainingMovie] = Replay(settings.most_movies)
        self.held_out: list[TrainingMovie] = []
        self.resolution: float | None = None
        """Fine end in Å of the training band; None: not chosen yet."""
        self._parent: Manifest | None = None
        self._serves = False
        self._misfit_told = False

    @property
    def low(self) -> float:
        """Coarse end of the training band, Å: that of the serving version, else of the settings."""
        return self._parent.low if self._serves and self._parent is not None else self._denoise.low

    def follow(self, parent: Manifest | None, *, serves: bool) -> None:
        """Keep to the settings and the band of the version that training continues from; other movies are dropped.

        Parameters
        ----------
        serves : whether this is the serving version, so that the next one needs the same band.
        """
        self._parent, self._serves = parent, serves
        if parent is not None and serves:
            self.resolution = parent.resolution
        self._crop()
        self.learned.keep([movie for movie in self.learned if self._fits(movie)])
        self.held_out = [movie for movie in self.held_out if self._fits(movie)]

    def read(self, movie_id: str, sums: GroupSums) -> TrainingMovie | None:
        """A movie ready to be learned from; None if it has no signal, too few frames, or other settings."""
        movie = TrainingMovie(movie_id, sums, self.low, self._device, resolution=self.resolution)
        if not movie.can_teach or not self._fits(movie):
            return None
        if self.resolution is not None:
            movie.keep_part(self._most_px(movie))
        return movie

    def hold_out(self, movie: TrainingMovie) -> None:
        """Keep a movie to judge by; the oldest is dropped if there are too many."""
        self.held_out = [*self.held_out, movie][-self._settings.most_held_out :]

    def choose_band(self) -> None:
        """Choose the band by the signal of the first movies, within the band of their sums; once."""
        if self.resolution is None:
            parent = self._parent
            useful = parent.resolution if parent else useful_resolution([*self.learned, *self.held_out])
            self.resolution = max(self._denoise.resolution, useful)
            self._crop()

    # ------------------------------------------------------------------------------------------------ details

    def _crop(self) -> None:
        if self.resolution is not None:
            for movie in (*self.learned, *self.held_out):
                movie.crop(self.resolution)
                movie.keep_part(self._most_px(movie))

    def _most_px(self, movie: TrainingMovie) -> int:
        """Pixels of a movie's band for which the configured memory has room."""
        movies = self._settings.most_movies + self._settings.most_held_out
        return int(self._settings.memory_gb * 1e9 / (movies * len(movie) * _BYTES_PER_PX))

    def _fits(self, movie: TrainingMovie) -> bool:
        """Whether a movie can be learned from together with the others; reported once if not."""
        resolution = self.resolution or self._denoise.resolution
        if self._parent is not None and self._serves and not self._parent.general:
            pixel_size = self._parent.pixel_size
        else:
            first = next(iter([*self.learned, *self.held_out, movie]))
            pixel_size = self._pixel_size or first.band.pixel_size
        if movie.band.low == self.low and is_made_for(movie.made_for, resolution, pixel_size):
            return True
        if not self._misfit_told:
            error = ModelError(
                "movies made with other settings are not learned from",
                where=f"movie {movie.movie_id}",
                expected=f"sums to {resolution:g} Å at {pixel_size:g} Å/px",
                found=f"to {2.0 * movie.band.band_pixel_size:.3g} Å at {movie.band.pixel_size:g} Å/px",
                hint="to learn with other settings, give the session another name; this is reported once",
            )
            sys.stderr.write(f"{error}\n")
            self._misfit_told = True
        return False
