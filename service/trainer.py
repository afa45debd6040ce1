"""The trainer process: learns from finished movies while the daemon goes on, and lets the gate decide.

Finished movies' group sums are announced one per line. A quarter of them is kept from training for good; the others
are learned from. A candidate that passes the gate is stored as a version and announced; the daemon makes it serve.
Nothing here touches what serves. When the operator has chosen another version, what was begun before is dropped and
learning waits for new movies; when the operator has chosen no network, until one is promoted by hand.
"""

from __future__ import annotations

import copy
import queue
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.candidate import save_candidate
from models.checkpoint import load_version
from models.gate import Decision, Thresholds, judge
from models.manifest import DENOISERS, Manifest, load_manifest
from models.noise2noise import Denoiser, build
from models.store import FINE_MODELS, ROLES, ModelStore, Roles
from models.training import TrainingReport, train
from models.training_movie import TrainingMovie, is_made_for, useful_resolution
from service.fine_subjects import subject_of
from service.fine_trainer import FineTrainer
from service.pipes import Begin, Candidate, Learn, ParentChannel, Pause, Serving, Training, Up, die_with_parent, plain
from service.worker import device_of, use_threads
from streamer.errors import ModelError, StreamerError
from streamer.groups import read_groups

if TYPE_CHECKING:
    from service.config import Config

_SEED = 20
_ROUNDS = 4
"""Trainings on the same movies before anything serves."""


class Trainer:
    """Learns, proposes, and leaves the decision to the gate."""

    def __init__(self, channel: ParentChannel, config: Config, directory: Path) -> None:
        self._channel, self._config, self._settings = channel, config, config.session_model
        self._device = device_of(config.compute.device)
        self._store = ModelStore(directory / "models")
        self._roles = Roles(directory / ROLES)
        self._fine = self._fine_trainer(directory)
        self._learned: list[TrainingMovie] = []
        self._held_out: list[TrainingMovie] = []
        self._new, self._more_rounds, self._seen = 0, _ROUNDS, set[str]()
        self._paused = threading.Event()
        self._inbox: queue.Queue[Learn | Serving | None] = queue.Queue()
        self._choices = self._choices_taken = 0
        self._net: Denoiser | None = None
        self._parent: Manifest | None = None
        self._learned_before: set[str] = set()
        self._misfit_told = False
        self._resolution: float | None = None
        """Fine end in Å of the band that is learned in; None: not chosen yet."""
        self._serving, self._held = self._store.current(), self._store.is_held
        self._trainings = int(self._store.next_version()[1:]) - 1
        # a version that was stored but never served, because everything was killed in between, took nothing in
        self._stored = self._learned_by_any_version() if self._serving or self._held else set[str]()

    def _fine_trainer(self, directory: Path) -> FineTrainer:
        method = self._config.super_resolution.method
        store = ModelStore(directory / FINE_MODELS[method])
        return FineTrainer(self._settings, store, self._roles, self._device, subject_of(method))

    def run(self) -> None:
        """Train whenever there is enough that is new."""
        use_threads(self._settings.threads)
        self._resume(self._serving)
        self._channel.send(Up(device=str(self._device), threads=self._settings.threads))
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while True:
            if self._inbox.empty() and self._is_due():
                self._train()
                continue
            if self._inbox.empty() and self._fine.is_due:
                self._train_fine()
                continue
            message = self._inbox.get()
            if message is None:
                return
            self._take(message)

    # ------------------------------------------------------------------------------------------------ input

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            if isinstance(message, Pause):
                (self._paused.set if message.paused else self._paused.clear)()
            elif isinstance(message, (Learn, Serving)):
                self._choices += isinstance(message, Serving)
                self._inbox.put(message)
        self._inbox.put(None)

    @property
    def _is_overruled(self) -> bool:
        """Whether the operator has chosen a version that was not yet taken note of."""
        return self._choices != self._choices_taken

    def _take(self, message: Learn | Serving) -> None:
        if isinstance(message, Serving):
            self._choices_taken += 1
            self._obey(message.version)
            return
        self._fine.take(message)
        if message.movie_id in self._seen:
            return
        try:
            movie_id, sums = read_groups(Path(message.groups))
            movie = TrainingMovie(movie_id, sums, self._low, self._device, resolution=self._resolution)
        except ModelError as error:
            sys.stderr.write(f"{error}\n")
            return
        self._seen.add(message.movie_id)
        if not movie.spectrum.significant or len(movie) < 4 or not self._fits(movie):
            return
        if self._roles.held_out(movie_id):
            self._held_out = [*self._held_out, movie][-self._settings.most_held_out :]
        else:
            self._learned = [*self._learned, movie][-self._settings.most_movies :]
            self._new += movie_id not in self._stored
            self._more_rounds = _ROUNDS

    def _obey(self, version: str | None) -> None:
        """Go on from the version that the operator has chosen, but not before there are new movies."""
        self._serving, self._held = version, version is None
        self._new = self._more_rounds = 0
        self._learned_before.clear()
        self._resume(version)
        self._crop()
        self._learned = [movie for movie in self._learned if self._fits(movie)]
        self._held_out = [movie for movie in self._held_out if self._fits(movie)]

    def _resume(self, serving: str | None) -> None:
        """Continue from the version that serves, else from the base, else from scratch."""
        base = self._settings.base
        directory = self._store.path(serving) if serving else Path(base) if base else None
        self._parent, self._net = None, None
        if directory is None:
            return
        try:
            self._net, self._parent = load_version(directory, self._device)
        except ModelError as error:
            sys.stderr.write(f"{error}\n")
            return
        self._stored.update(self._parent.trained_on)
        if serving is not None:
            self._resolution = self._parent.resolution

    @property
    def _low(self) -> float:
        """Coarse end of the band that is learned in, Å: that of what serves, else of the settings."""
        if self._serving is not None and self._parent is not None:
            return self._parent.low
        return self._config.denoise.low

    def _choose_band(self) -> None:
        """Choose the band by what the first movies hold, within what their sums were made to."""
        useful = useful_resolution([*self._learned, *self._held_out])
        self._resolution = max(self._config.denoise.resolution, self._parent.resolution if self._parent else useful)
        self._crop()

    def _crop(self) -> None:
        if self._resolution is not None:
            for movie in (*self._learned, *self._held_out):
                movie.crop(self._resolution)

    def _fits(self, movie: TrainingMovie) -> bool:
        """Whether a movie can be learned from together with the others; told once where it cannot."""
        resolution, low = self._resolution or self._config.denoise.resolution, self._low
        if self._serving is not None and self._parent is not None:
            pixel_size = self._parent.pixel_size
        else:
            others = [*self._learned, *self._held_out, movie]
            pixel_size = self._config.movie.pixel_size or others[0].band.pixel_size
        if movie.band.low == low and is_made_for(movie.band, resolution, pixel_size):
            return True
        if not self._misfit_told:
            error = ModelError(
                "nothing is learned from movies of another make",
                where=f"movie {movie.movie_id}",
                expected=f"sums to {resolution:g} Å at {pixel_size:g} Å/px",
                found=f"to {2.0 * movie.band.band_pixel_size:.3g} Å at {movie.band.pixel_size:g} Å/px",
                hint="to learn with other settings give the session another name; this is told once",
            )
            sys.stderr.write(f"{error}\n")
            self._misfit_told = True
        return False

    def _learned_by_any_version(self) -> set[str]:
        """Ids of the movies that are not new: after a rollback they do not bring back what was taken back."""
        learned: set[str] = set()
        for name in self._store.versions():
            with suppress(ModelError):
                learned.update(load_manifest(self._store.path(name)).trained_on)
        return learned

    # --------------------------------------------------------------------------------------------- training

    def _is_due(self) -> bool:
        """Enough new movies, and enough held out for the gate to say something.

        While nothing serves, a rejected candidate is trained on for a few rounds even if no movie comes.
        """
        if self._held or len(self._held_out) < Thresholds().least_held_out:
            return False
        if self._serving is not None:
            return self._new >= self._settings.refresh_movies
        rejected_before = bool(self._learned_before) and self._more_rounds > 0
        return len(self._learned) >= self._settings.first_movies and (self._new > 0 or rejected_before)

    def _train(self) -> None:
        """Train a candidate and have it judged, unless the operator chooses another version meanwhile."""
        self._channel.send(Training(active=True))
        self._propose()
        self._channel.send(Training(active=False))

    def _train_fine(self) -> None:
        """Train a network of the fine grid."""
        self._channel.send(Training(active=True))
        candidate = self._fine.propose(self._is_over)
        self._channel.send(Training(active=False))
        if candidate is not None:
            self._channel.send(candidate)

    def _propose(self) -> None:
        serving = self._serving is not None
        if self._resolution is None:
            self._choose_band()
        new = min(self._new, len(self._learned))
        steps = self._settings.first_steps if not serving else self._settings.refresh_steps * new
        self._new, self._more_rounds = 0, self._more_rounds - 1
        self._trainings += 1
        seed = _SEED + self._trainings
        candidate = copy.deepcopy(self._net) if self._net is not None else self._fresh(seed)
        incumbent = (self._net, self._parent.weight) if serving and self._net and self._parent else None
        report = train(
            candidate.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            self._learned,
            steps=steps,
            seed=seed,
            stop=self._is_over,
            clock=time.perf_counter,
        )
        candidate = candidate.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if self._is_overruled:
            return
        trained_on = self._trained_on(report)
        decision = judge(
            candidate,
            self._held_out,
            incumbent=incumbent,
            thresholds=Thresholds(),
            trained_on=frozenset(trained_on),
            seed=seed,
        )
        if self._is_overruled:
            return
        self._announce(candidate, report, decision, trained_on, seed)
        if not serving and decision.result == "rejected" and report.finite:
            self._net = candidate  # nothing serves yet: learning goes on from here instead of from scratch

    def _fresh(self, seed: int) -> Denoiser:
        torch.manual_seed(seed)
        return build(DENOISERS[self._settings.network]).to(self._device)

    def _trained_on(self, report: TrainingReport) -> list[str]:
        """Ids of all movies that the candidate's weights have seen."""
        self._learned_before |= {*(self._parent.trained_on if self._parent else []), *report.movies}
        return sorted(self._learned_before)

    def _is_over(self) -> bool:
        """Hold training while movies wait; end it early only when the operator has chosen another version."""
        while self._paused.is_set() and not self._is_overruled:
            time.sleep(0.05)
        return self._is_overruled

    def _announce(
        self,
        candidate: Denoiser,
        report: TrainingReport,
        decision: Decision,
        trained_on: list[str],
        seed: int,
    ) -> None:
        name = self._store.next_version()
        digest = None
        if decision.result == "promoted" and decision.figures is not None:
            manifest = save_candidate(
                self._store.directory / name,
                candidate,
                decision,
                report,
                learned=self._learned,
                held_out=self._held_out,
                resolution=self._resolution or self._config.denoise.resolution,
                trained_on=trained_on,
                seed=seed,
                parent=self._serving,
                base=self._parent.sha256 if self._parent and self._serving is None else None,
            )
            digest = manifest.sha256
            self._serving, self._net, self._parent = name, candidate, manifest
            self._stored.update(trained_on)
        figures = _figures(decision) | plain({"steps": report.steps, "seconds": round(report.seconds, 2)})
        self._channel.send(
            Candidate(result=decision.result, version=name, reason=decision.reason, sha256=digest, figures=figures)
        )


def _figures(decision: Decision) -> dict[str, float | str | None]:
    """Means of what the gate looked at."""
    if decision.figures is None:
        return {}
    scores = decision.figures.scores
    means = {
        name: round(sum(getattr(score, name) for score in scores) / len(scores), 4)
        for name in ("snbr_raw", "snbr_wiener", "snbr", "bias_ratio", "loss", "loss_wiener")
    }
    return plain(means | decision.figures.probes | {"held_out": len(scores)})


def main() -> int:
    """Run as a child of the daemon."""
    die_with_parent()
    channel = ParentChannel()
    begin = channel.receive()
    if not isinstance(begin, Begin):
        return 64
    try:
        Trainer(channel, begin.config, Path(begin.session_directory)).run()
    except StreamerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
