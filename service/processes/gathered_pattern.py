"""What a session's movies show of the detector's pattern, kept on disk, and the gain references made of it.

One directory per camera and mode: ``sums.safetensors`` grows with the movies, ``from-00032-movies.mrc`` is made when
their number has doubled and never changes again, so that a record that names it can be reproduced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from streamer.detector.gain_from_movies import NotUsable, PatternSums
from streamer.errors import ModelError, OutputError
from streamer.readers.files import below, root_of
from streamer.readers.movie import read_header
from streamer.sums.tensor_files import encode_tensors, read_tensors
from streamer.writers.atomic import write_atomically
from streamer.writers.made_gain import made_gain_name, newest_made_gain, write_made_gain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamer.records import Movie, MovieHeader
    from streamer.settings import EerSettings, GainSettings

_FORMAT = "streamer.pattern/1"
_FILE = "sums.safetensors"
_FIRST = 8
"""Number of movies from which a gain is made for the first time."""
_SAVED_EVERY = 16
"""Movies after which the sums are saved; a kill costs those since then, which are not counted twice."""
_MOST_MOVIES, _MOST_PIXELS = 4096, 40_000_000


class _Description(msgspec.Struct, frozen=True, kw_only=True):
    format: str = _FORMAT
    weights: list[float]
    movies: list[str]
    """Ids of the movies in the sums, in order."""


def directory_of(root: Path, header: MovieHeader) -> Path:
    """Where the pattern of movies like this one is kept, below a session's own directory."""
    height, width = header.height // header.upsampling, header.width // header.upsampling
    return root / f"{header.format}-{height}x{width}"


def made_gain_for(movie: Movie, root: Path, eer: EerSettings, places: tuple[str, ...]) -> Path | None:
    """The newest gain reference made from movies like this one; None where there is none yet.

    Parameters
    ----------
    root : the session's directory for gains.
    places : directories outside the watched root to which links may lead.
    """
    with below(root_of(movie.path, movie.relative), places):
        header = read_header(Path(movie.path), eer=eer)
    return newest_made_gain(directory_of(root, header))


class GatheredPattern:
    """The sums of one camera and mode at a time."""

    def __init__(self, settings: GainSettings) -> None:
        self._settings = settings
        self._directory: Path | None = None
        self._sums = PatternSums((1, 1))
        self._ids: list[str] = []
        self._unsaved = 0

    def add(self, root: Path, movie_id: str, header: MovieHeader, total: NDArray[np.float32]) -> None:
        """Add a movie that no recorded gain corrects; one that says nothing, or that is known, changes nothing.

        Parameters
        ----------
        root : the session's directory for gains. total : (h, w) sum of the frames as stored.
        """
        try:
            self._add(root, movie_id, header, total)
        except (OutputError, MemoryError, RuntimeError):
            return  # a gain that is only offered is no reason to fail a movie; the next one tries again

    def _add(self, root: Path, movie_id: str, header: MovieHeader, total: NDArray[np.float32]) -> None:
        if header.upsampling > 1:
            blocks = header.height // header.upsampling, header.width // header.upsampling
            total = total.reshape(blocks[0], header.upsampling, blocks[1], header.upsampling).sum((1, 3))
        if total.size > _MOST_PIXELS:
            return
        self._open(directory_of(root, header), (int(total.shape[0]), int(total.shape[1])))
        if movie_id in self._ids or len(self._ids) >= _MOST_MOVIES:
            return
        try:
            self._sums.add(total)
        except NotUsable:
            return
        self._ids.append(movie_id)
        self._unsaved += 1
        has_doubled = len(self._ids) >= _FIRST and len(self._ids) & (len(self._ids) - 1) == 0
        if has_doubled or self._unsaved >= _SAVED_EVERY:
            self._save()
        if has_doubled:
            self._make(header)

    def _open(self, directory: Path, shape: tuple[int, int]) -> None:
        if directory == self._directory:
            return
        if self._unsaved:
            try:
                self._save()
            except OutputError:
                self._unsaved = 0  # these movies are not in the file, nor among its ids
        self._directory, self._sums, self._ids, self._unsaved = directory, PatternSums(shape), [], 0
        try:
            description, tensors = read_tensors(directory / _FILE, _Description, _FORMAT, "sums of the pattern")
        except ModelError:
            return  # none yet, or damaged: begin anew
        sums = tensors.get("sums", torch.empty(0))
        if tuple(sums.shape) == (2, *shape) and len(description.weights) == 2:
            self._sums.sums, self._sums.weights = sums.numpy().copy(), list(description.weights)
            self._ids = list(description.movies)
            self._sums.movies = len(self._ids)

    def _save(self) -> None:
        if self._directory is not None:
            description = _Description(weights=self._sums.weights, movies=self._ids)
            encoded = encode_tensors({"sums": torch.from_numpy(self._sums.sums)}, description)
            write_atomically(self._directory / _FILE, encoded)
            self._unsaved = 0

    def _make(self, header: MovieHeader) -> None:
        made = self._sums.made()
        if made is None or made.is_flat or self._directory is None:
            return
        path = self._directory / made_gain_name(made.movies)
        if not path.exists():
            write_made_gain(path, made, header, self._settings, list(self._ids))
