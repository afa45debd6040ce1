"""Movies named by hand: the daemon's own function, without the daemon.

A movie below the configured root gets the identity it would have live, so that with the model its record names the
result is the same, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.serving.session_model import SessionModel, proposal_of
from models.serving.super_resolution import SuperResolutionNetworks
from models.settings import SHIPPED
from models.versions.base_weights import shipped_base
from models.versions.store import ModelStore
from service.layout import layout_of
from streamer import jsontext, pipeline
from streamer.detector.gain_choice import GainChoice
from streamer.errors import MovieCorrupt, MovieNotReady, NotAMovie, StreamerError, UsageError
from streamer.metadata.search import SidecarSearch
from streamer.metadata.sidecars import session_directory, session_of, with_position
from streamer.movie_record import Acquisition, MovieRecord, Times
from streamer.readers.files import below
from streamer.readers.gain import read_gain
from streamer.readers.movie import identity_of, read_header
from streamer.records import Gain, Instructions, Movie, movie_id_of
from streamer.runtime.clock import SYSTEM, utc_text
from streamer.runtime.device import device_of, thread_count, use_threads
from streamer.runtime.stopwatch import Stopwatch
from streamer.super_resolution.step import SuperResolutionRequest
from streamer.watch.kinds import by_sidecar, why_no_movie

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from service.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineContext:
    """What all movies of a command have in common."""

    config: Config
    device: torch.device
    model: SessionModel | None = None
    networks: SuperResolutionNetworks


def prepare(config: Config, model: str | None = None) -> OfflineContext:
    """Prepare device, threads and model; a model is a version's name or its directory."""
    use_threads(thread_count(config.compute.threads))
    device = device_of(config.compute.device)
    loaded = None if model is None else SessionModel(_model_directory(config, model), device)
    return OfflineContext(
        config=config, device=device, model=loaded, networks=SuperResolutionNetworks(config.super_resolution, device)
    )


def _model_directory(config: Config, model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    if model == SHIPPED:
        return shipped_base()
    layout = layout_of(config)
    stores = [ModelStore(path / "models") for path in sorted((layout.state / "sessions").glob("*"))]
    found = [store.path(model) for store in stores if model in store.versions()]
    if len(found) != 1:
        raise UsageError(
            "no such model" if not found else "several sessions have a version of this name",
            where="--model",
            expected="the directory of a version, the name of one in the state directory, or shipped",
            found=model if not found else ", ".join(map(str, found)),
            hint="streamer models list shows the versions of a session",
        )
    return found[0]


def describe(path: Path, config: Config, *, whatever: bool = False) -> Movie:
    """Movie as the daemon would have announced it.

    Raises NotAMovie for what the daemon would have skipped, unless ``whatever``.
    """
    if not path.exists():
        raise UsageError("there is no such file", where=path)
    path = path.resolve()
    root = _root_of(path, config)
    relative = path.relative_to(root).as_posix()
    header = read_header(path, limit_bytes=int(config.compute.read_limit_gib * 2**30), eer=config.eer)
    if not whatever and (other := by_sidecar(path)) is not None:
        raise other
    acquisition = with_position(SidecarSearch(config.watch.metadata_root)(path) or Acquisition(), relative)
    if not whatever and (other := why_no_movie(path, header, root=root, told=acquisition.n_frames)) is not None:
        raise other
    return Movie(
        path=str(path),
        relative=relative,
        session=session_of(relative, root.name, config.session.name or ""),
        identity=identity_of(path),
        evidence="sidecar" if acquisition.n_frames else "header" if header.proves_its_length else "unproven",
        acquisition=acquisition,
    )


def _root_of(path: Path, config: Config) -> Path:
    """The watched root if the movie is below it, else the directory that a session would be named after."""
    root = layout_of(config).root.resolve()
    return root if path.is_relative_to(root) else session_directory(path.resolve())


def gain_for(movie: Movie, config: Config) -> Gain | None:
    """Gain of a movie; one that is not below the watched root belongs to a session of its own."""
    root = _root_of(Path(movie.path), config)
    choice = GainChoice(root, config.movie.gain, places=config.watch.places)
    found = choice.for_movie(Path(movie.path), movie.acquisition.gain_reference)
    with below(root, config.watch.places):
        return None if found is None else read_gain(found)


def job_for(movie: Movie, context: OfflineContext, output: Path) -> pipeline.Job:
    """Everything that ``process_movie`` needs for a movie."""
    model = context.model if context.config.denoise.enabled else None
    return pipeline.Job(
        # a command does not wait for a file to grow: what is empty stays so, and is flagged
        instructions=Instructions(session_directory=str(output / movie.session), stood_still=True),
        settings=context.config,
        device=context.device,
        gain=gain_for(movie, context.config),
        propose=None if model is None else partial(proposal_of, model, movie.movie_id),
        super_resolution=SuperResolutionRequest(
            movie_id=movie.movie_id, network=context.networks.on_fusion(None), zssr=context.networks.zssr(None)
        ),
    )


def process_all(
    paths: list[Path], context: OfflineContext, output: Path, *, whatever: bool = False
) -> Iterator[MovieRecord]:
    """Process movies one after the other; one that fails yields a record that says so.

    Parameters
    ----------
    whatever : also process what looks like no movie.
    """
    for path in paths:
        stopwatch = Stopwatch(Times(started=utc_text(SYSTEM.wall())))
        try:
            movie = describe(path, context.config, whatever=whatever)
            movie = replace(movie, revision=_next_revision(output, movie))
            yield pipeline.process_movie(movie, job_for(movie, context, output), stopwatch)
        except StreamerError as error:
            yield failure(path, context.config, error, stopwatch)


def finished_before(output: Path, session: str) -> list[MovieRecord]:
    """Records that an earlier call left below an output directory, oldest first, the newest revision of each movie."""
    found: dict[str, MovieRecord] = {}
    for path in (output / session / "movies").rglob("r*/*.json"):
        try:
            record = jsontext.decode(path.read_bytes(), MovieRecord)
        except (OSError, ValueError):
            continue  # not one of ours
        if record.movie_id not in found or found[record.movie_id].revision < record.revision:
            found[record.movie_id] = record
    return sorted(found.values(), key=lambda record: (record.times.started or "", record.movie_id))


def _next_revision(output: Path, movie: Movie) -> int:
    """One above the existing ones: what an earlier call wrote is never overwritten."""
    there = (output / movie.session / "movies" / movie.relative).glob("r*")
    numbers = [int(path.name[1:]) for path in there if path.name[1:].isdigit()]
    return 1 + max(numbers, default=0)


def failure(path: Path, config: Config, error: StreamerError, stopwatch: Stopwatch) -> MovieRecord:
    """Record of a movie that could not be processed; a command does not wait for a file to grow."""
    if isinstance(error, MovieNotReady):
        error = MovieCorrupt(
            error.what,
            where=error.where,
            expected=error.expected,
            found=error.found,
            hint="the file is cut, or still growing",
        )
    root = _root_of(path.resolve(), config)
    relative = path.resolve().relative_to(root).as_posix()
    return MovieRecord(
        movie_id=movie_id_of(relative),
        session=session_of(relative, root.name, config.session.name or ""),
        path=relative,
        state="skipped" if isinstance(error, NotAMovie) else "failed",
        reason=error.reason(),
        times=stopwatch.times(),
    )
