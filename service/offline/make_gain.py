"""A gain reference from movies that are on disk: what the command ``gain`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from service.offline.process import describe
from streamer.detector.gain_from_movies import NotUsable, PatternSums
from streamer.errors import StreamerError, UsageError
from streamer.readers.movie import read_whole
from streamer.runtime.device import thread_count, use_threads
from streamer.writers.made_gain import MadeGainFile, write_made_gain

if TYPE_CHECKING:
    from pathlib import Path

    from service.config import Config
    from streamer.records import MovieHeader


class LeftOut(Struct, frozen=True):
    """A movie that was not used."""

    path: str
    reason: str


class MakeGainResult(Struct, frozen=True, kw_only=True):
    """What ``gain --json`` prints."""

    written: MadeGainFile | None
    """None: the movies show no pattern beyond doubt, and nothing was written."""
    movies: int
    """Number of movies that were used."""
    left_out: list[LeftOut] = []


def make_gain(paths: list[Path], config: Config, output: Path) -> MakeGainResult:
    """Make a gain reference from movies of one camera and mode that no gain has corrected.

    Parameters
    ----------
    output : the ``.mrc`` file to write.

    Raises
    ------
    UsageError
        Fewer than two movies can be used, or the file exists or cannot be an MRC file.
    """
    if output.suffix.lower() != ".mrc":
        raise UsageError(
            "a gain reference is written as MRC",
            where="--output",
            found=output.name,
            hint="give a name that ends in .mrc",
        )
    for path in (output, output.with_suffix(".json")):
        if path.exists():
            hint = "choose another name: a gain is never replaced"
            raise UsageError("the file already exists", where=path, hint=hint)
    use_threads(thread_count(config.compute.threads))
    # pixels of the detector, whatever grid the movies are processed on
    config = msgspec.structs.replace(config, eer=msgspec.structs.replace(config.eer, upsampling=1))
    gathered = _Gathered(config)
    for path in paths:
        gathered.add(path)
    sums, header = gathered.sums, gathered.header
    made = None if sums is None else sums.made()
    if made is None or header is None:
        raise UsageError(
            "a gain reference needs at least two movies",
            where="gain",
            found="; ".join(f"{one.path}: {one.reason}" for one in gathered.left_out[:5]) or f"{len(paths)} given",
            hint="give more movies of one camera in one mode, as the camera wrote them",
        )
    written = None
    if not made.is_flat:
        written = write_made_gain(output, made, header, config.gain, gathered.used)
    return MakeGainResult(written=written, movies=made.movies, left_out=gathered.left_out)


class _Gathered:
    """Movies as they are read, one after the other."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.sums: PatternSums | None = None
        self.header: MovieHeader | None = None
        self.used: list[str] = []
        self.left_out: list[LeftOut] = []

    def add(self, path: Path) -> None:
        """Use a movie, or note why not."""
        try:
            self._add(path)
        except (StreamerError, NotUsable) as error:
            self.left_out.append(LeftOut(str(path), str(error).removeprefix(f"{path.resolve()}: ")))

    def _add(self, path: Path) -> None:
        name = str(path.resolve())
        if name in self.used:
            raise NotUsable("is given twice")
        limits = self._config.compute
        header, _, content = read_whole(
            describe(path, self._config),
            in_memory_bytes=int(limits.frames_in_memory_gib * 2**30),
            threads=thread_count(limits.threads),
            limit_bytes=int(limits.read_limit_gib * 2**30),
            eer=self._config.eer,
        )
        if self.header is not None and header.format != self.header.format:
            raise NotUsable(f"is {header.format}, the others are {self.header.format}")
        sums = self.sums or PatternSums((header.height, header.width))
        sums.add(content.total)
        self.sums, self.header = sums, self.header or header
        self.used.append(name)
