"""The worker process: reads, computes and writes movies in three threads, so that the three overlap.

Movies arrive one per line from the daemon; each stage is announced, results and failures are sent back. If something
goes wrong with one movie, it is reported and the next one is taken.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
import traceback
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from models.serving.session_model import SessionModel, proposal_of, rival_of
from models.serving.super_resolution import SuperResolutionNetworks
from service.processes.gathered_pattern import GatheredPattern, made_gain_for
from service.processes.messages import Begin, Failed, Finish, Finished, FromChild, Progress, Returned, Up, Work
from service.processes.pipes import ParentChannel, die_with_parent
from streamer import pipeline
from streamer.errors import ConfigError, DeviceError, ModelError, MovieNotReady, StreamerError
from streamer.readers.files import below, root_of
from streamer.readers.gain import read_gain
from streamer.runtime.device import device_of, thread_count, use_threads
from streamer.runtime.fault_point import fault_point
from streamer.runtime.memory import worker_memory_bytes
from streamer.runtime.stopwatch import Stopwatch
from streamer.super_resolution.step import SuperResolutionRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.config import Config
    from streamer.micrograph import Micrograph
    from streamer.movie_record import MovieSource
    from streamer.records import Correction, Frames, Gain, HalfSums, Movie, Spectrum

_CPU_ALLOCATOR = "DefaultCPUAllocator"
_MORE_MEMORY = "instance.worker_memory_gib, or a smaller compute.frames_in_memory_gib"


class _Read(NamedTuple):
    """A movie that was read, on its way to be computed."""

    work: Work
    stopwatch: Stopwatch
    job: pipeline.Job
    frames: Frames
    source: MovieSource


class _Computed(NamedTuple):
    """A micrograph on its way to be written."""

    work: Work
    stopwatch: Stopwatch
    job: pipeline.Job
    micrograph: Micrograph


class Worker:
    """Three threads and the queues between them."""

    def __init__(self, channel: ParentChannel, config: Config) -> None:
        self._channel, self._config = channel, config
        self._device = device_of(config.compute.device)
        self._threads = thread_count(config.compute.threads)
        self._gains: dict[str, tuple[int, Gain]] = {}
        self._pattern = GatheredPattern(config.gain)
        self._model: SessionModel | None = None
        self._networks = SuperResolutionNetworks(config.super_resolution, self._device)
        self._to_compute: queue.Queue[_Read | None] = queue.Queue(maxsize=1)
        self._to_write: queue.Queue[_Computed | None] = queue.Queue(maxsize=1)
        self._inbox: queue.Queue[Work | None] = queue.Queue()
        self._finishing = threading.Event()

    def run(self) -> None:
        """Work until the daemon says to finish or is gone."""
        if self._device.type == "cpu":
            # an allocation beyond it fails instead of the machine; a GPU's driver maps far more than it uses
            limit = worker_memory_bytes(self._config.instance.worker_memory_gib)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        use_threads(self._threads)
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        self._send(Up(device=name, threads=self._threads))
        threads = [
            threading.Thread(target=target, name=target.__name__, daemon=True)
            for target in (self._listen, self._read_all, self._write_all)
        ]
        for thread in threads:
            thread.start()
        while (read := self._to_compute.get()) is not None:
            with self._reporting(read.work, read.stopwatch, "compute"):
                computed = self._compute(read)
                # the frames go before the micrograph waits for its turn
                del read
                self._to_write.put(computed)
        self._to_write.put(None)
        threads[2].join()

    # ---------------------------------------------------------------------------------------------- threads

    def _listen(self) -> None:
        """Take messages; the end of the input is the end of the daemon."""
        while True:
            message = self._channel.receive()
            if message is None:
                os._exit(0)
            if isinstance(message, Finish):
                self._finishing.set()
                self._inbox.put(None)
            if isinstance(message, Work):
                self._inbox.put(message)

    def _read_all(self) -> None:
        use_threads(self._threads)
        while (work := self._inbox.get()) is not None:
            if self._finishing.is_set():
                self._send(Returned(movie_id=work.movie.movie_id, revision=work.movie.revision))
                continue
            stopwatch = Stopwatch(work.times, notify=partial(self._announce, work.movie))
            with self._reporting(work, stopwatch, "read"):
                self._to_compute.put(self._read(work, stopwatch))
        self._to_compute.put(None)

    def _write_all(self) -> None:
        use_threads(self._threads)
        while (computed := self._to_write.get()) is not None:
            with self._reporting(computed.work, computed.stopwatch, "write"):
                self._write(computed)

    # ------------------------------------------------------------------------------------------------ steps

    def _read(self, work: Work, stopwatch: Stopwatch) -> _Read:
        job = pipeline.Job(
            instructions=work.instructions,
            settings=self._config,
            device=torch.device("cpu") if work.on_cpu else self._device,
            gain=self._gain(work),
            propose=partial(self._propose, work.model, work.movie.movie_id) if work.model else None,
            super_resolution=SuperResolutionRequest(
                movie_id=work.movie.movie_id,
                network=self._networks.on_fusion(work.super_resolution_model),
                zssr=self._networks.zssr(work.super_resolution_model),
            ),
            uncorrected=partial(self._pattern.add, Path(work.made_gains), work.movie.movie_id)
            if work.made_gains
            else None,
        )
        return _Read(work, stopwatch, job, *pipeline.read_movie(work.movie, job, stopwatch))

    def _compute(self, read: _Read) -> _Computed:
        work, stopwatch, job, frames, source = read
        try:
            micrograph = pipeline.compute_micrograph(frames, source, job, stopwatch)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceError(
                "out of GPU memory",
                where=work.movie.path,
                hint="it is tried again with fewer steps, then on the CPU; other programs on the GPU take memory too",
            ) from error
        return _Computed(work, stopwatch, job, micrograph)

    def _write(self, computed: _Computed) -> None:
        work, stopwatch, job, micrograph = computed
        self._send(Finished(record=pipeline.write_micrograph(work.movie, micrograph, job, stopwatch)))

    @contextmanager
    def _reporting(self, work: Work, stopwatch: Stopwatch, stage: str) -> Iterator[None]:
        """Report foreseen errors. Anything else ends the process, and the daemon starts another."""
        try:
            with _memory_errors(work.movie):
                yield
        except StreamerError as error:
            self._send(
                Failed(
                    movie_id=work.movie.movie_id,
                    revision=work.movie.revision,
                    reason=error.reason(),
                    handling=error.handling,
                    stage=stage,
                    stage_s=stopwatch.times().stage_s,
                )
            )

    # ---------------------------------------------------------------------------------------------- helpers

    def _made_gain(self, work: Work) -> str | None:
        """The newest gain made from the session's movies, where the settings say that it is used."""
        if work.made_gains is None or self._config.gain.from_movies != "use":
            return None
        places = work.instructions.follow_links_to
        newest = made_gain_for(work.movie, Path(work.made_gains), self._config.eer, places)
        return None if newest is None else str(newest)

    def _gain(self, work: Work) -> Gain | None:
        """Gain reference, read again only when the file changes."""
        path, movie = work.gain or self._made_gain(work), work.movie
        if path is None:
            return None
        try:
            stamp = Path(path).stat().st_mtime_ns
            if path not in self._gains or self._gains[path][0] != stamp:
                with below(root_of(movie.path, movie.relative), work.instructions.follow_links_to):
                    self._gains = {path: (stamp, read_gain(Path(path)))}
        except (MovieNotReady, OSError) as error:
            # the movies wait for it: none of them is to blame
            what = error.what if isinstance(error, MovieNotReady) else error.strerror or str(error)
            raise ConfigError(
                f"the gain reference cannot be used yet: {what}",
                where=path,
                hint="the movies wait until it can be read: complete or correct it, or set movie.gain",
            ) from error
        return self._gains[path][1]

    def _propose(self, directory: str, movie_id: str, sums: HalfSums, spectrum: Spectrum) -> Correction:
        """Ask the version that the daemon named; loaded once."""
        if self._model is None or str(self._model.directory) != directory:
            self._model = SessionModel(Path(directory), self._device, rival=rival_of(Path(directory)))
        return proposal_of(self._model, movie_id, sums, spectrum)

    def _announce(self, movie: Movie, stage: str) -> None:
        fault_point(f"stage-{stage.replace('_', '-')}", movie.relative)
        self._send(Progress(movie_id=movie.movie_id, revision=movie.revision, stage=stage))

    def _send(self, message: FromChild) -> None:
        self._channel.send(message)


@contextmanager
def _memory_errors(movie: Movie) -> Iterator[None]:
    """Make an error of ours of memory that the machine, or the worker's limit, does not give."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _CPU_ALLOCATOR not in str(error):
            raise
        raise DeviceError("out of memory", where=movie.path, hint=_MORE_MEMORY) from error


def _end_on_bug(failure: threading.ExceptHookArgs) -> None:
    """End the process when a thread meets a bug of ours: the daemon journals it and starts another worker."""
    if failure.exc_value is not None:
        traceback.print_exception(failure.exc_value)
    os._exit(70)


def main() -> int:
    """Run as a child of the daemon."""
    die_with_parent()
    threading.excepthook = _end_on_bug
    channel = ParentChannel()
    begin = channel.receive()
    if not isinstance(begin, Begin):
        return 64
    try:
        worker = Worker(channel, begin.config)
    except (ConfigError, ModelError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
