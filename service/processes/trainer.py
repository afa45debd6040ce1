"""The trainer process: learns from finished movies while the daemon carries on, and lets the gate decide.

Finished movies' group sums are announced one per line. A quarter of them is held out for good; the others are learned
from. A candidate that passes the gate is stored as a version and announced; the daemon puts it into service. Nothing
here touches the serving version. When the operator has chosen another version, training in progress is dropped and
learning waits for new movies; when the operator has chosen no network, until one is promoted by hand.
"""

from __future__ import annotations

import copy
import queue
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.gate.candidate import TrainedCandidate, propose
from models.gate.denoiser import Decision, Thresholds
from models.learners import learner_of
from models.manifest import DENOISERS, SIMULATED, Manifest
from models.networks.denoiser import Denoiser, build
from models.networks.optimise import TrainingDropped
from models.training.denoiser import learning_rate_after
from models.training.session_movies import SessionMovies
from models.versions.base_weights import base_directory
from models.versions.checkpoint import load_version
from models.versions.roles import ROLES, Roles
from models.versions.store import SUPER_RESOLUTION_MODELS, ModelStore
from service.processes.messages import Begin, Candidate, Learn, Pause, Serving, Training, Up, plain
from service.processes.pipes import ParentChannel, die_with_parent
from service.processes.super_resolution_trainer import SuperResolutionTrainer
from streamer.errors import ModelError, StreamerError
from streamer.runtime.clock import SYSTEM
from streamer.runtime.device import device_of, use_threads
from streamer.sums.group_files import read_groups

if TYPE_CHECKING:
    from models.manifest import MovieScore
    from service.config import Config
    from streamer.runtime.clock import Clock

_SEED = 20
_ROUNDS = 4  # trainings on the same movies before anything serves


class Trainer:
    """Learns, proposes, and leaves the decision to the gate."""

    def __init__(
        self,
        channel: ParentChannel,
        config: Config,
        directory: Path,
        *,
        specimen: int = 1,
        warm: str | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._channel, self._config, self._settings, self._clock = channel, config, config.session_model, clock
        self._specimen, self._warm = specimen, warm
        self._device = device_of(config.compute.device)
        self._store = ModelStore(directory / "models")
        self._roles = Roles(directory / ROLES, specimen)
        self._super_resolution = self._super_resolution_trainer(directory)
        self._movies = SessionMovies(self._settings, config.denoise, config.movie.pixel_size, self._device)
        self._new, self._more_rounds, self._seen = 0, _ROUNDS, set[str]()
        self._paused, self._paused_s = threading.Event(), 0.0
        self._inbox: queue.Queue[Learn | Serving | None] = queue.Queue()
        self._choices = self._choices_taken = 0
        self._net: Denoiser | None = None
        self._parent: Manifest | None = None
        self._learned_before: set[str] = set()
        self._serving, self._held = self._store.current(), self._store.is_held
        self._serves: Denoiser | None = None
        """The serving network; learning continues from ``_net``, which may be a rejected candidate."""
        self._known: dict[str, MovieScore] = {}
        """Scores of the serving network on held-out movies."""
        self._trainings = int(self._store.next_version()[1:]) - 1
        # a version that was stored but never served, because everything was killed in between, does not count
        self._stored = self._store.learned_from() if self._serving or self._held else set[str]()

    def _super_resolution_trainer(self, directory: Path) -> SuperResolutionTrainer:
        method = self._config.super_resolution.method
        store = ModelStore(directory / SUPER_RESOLUTION_MODELS[method])
        return SuperResolutionTrainer(self._settings, store, self._roles, self._device, learner_of(method))

    def run(self) -> None:
        """Train whenever there are enough new movies."""
        use_threads(self._settings.threads)
        if self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(self._settings.gpu_memory_share, self._device)
        self.begin()
        self._channel.send(Up(device=str(self._device), threads=self._settings.threads))
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while True:
            if self._inbox.empty() and self.is_due():
                self.train_denoiser()
                continue
            if self._inbox.empty() and self._super_resolution.is_due:
                self._train_super_resolution()
                continue
            message = self._inbox.get()
            if message is None:
                return
            self.handle(message)

    def begin(self) -> None:
        """Continue from the serving version."""
        self._store.sweep()
        self._resume(self._serving)

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
        """Whether the operator has chosen a version that has not been dealt with yet."""
        return self._choices != self._choices_taken

    def handle(self, message: Learn | Serving) -> None:
        """Add a finished movie, or follow the operator's choice."""
        if isinstance(message, Serving):
            self._choices_taken += 1
            self._obey(message.version)
            return
        self._super_resolution.add(message)
        if message.movie_id in self._seen:
            return
        try:
            movie_id, sums = read_groups(Path(message.groups))
            movie = self._movies.read(movie_id, sums)
        except ModelError as error:
            sys.stderr.write(f"{error}\n")
            return
        self._seen.add(message.movie_id)
        if movie is None:
            return
        if self._roles.held_out(movie_id):
            self._movies.hold_out(movie)
        else:
            self._movies.learned.add(movie)
            self._new += movie_id not in self._stored
            self._more_rounds = _ROUNDS

    def _obey(self, version: str | None) -> None:
        """Continue from the version that the operator has chosen, but not before there are new movies."""
        self._serving, self._held = version, version is None
        self._new = self._more_rounds = 0
        self._learned_before.clear()
        self._resume(version)

    def _resume(self, serving: str | None) -> None:
        """Continue from the serving version, else another specimen's, else the base, else start from scratch."""
        version = serving or self._warm
        self._parent = self._net = None
        directory = self._store.directory / version if version else base_directory(self._settings)
        if directory is not None:
            try:
                self._net, self._parent = load_version(directory, self._device)
                self._stored.update(self._parent.trained_on)
            except ModelError as error:
                sys.stderr.write(f"{error}\n")
        self._known.clear()
        self._serves = self._net if serving is not None else None
        self._movies.follow(self._parent, serves=self._serves is not None)

    @property
    def _is_first(self) -> bool:
        """Whether this specimen has no version of its own yet; base weights do not count."""
        return self._serving is None or (self._parent is not None and self._parent.general)

    # --------------------------------------------------------------------------------------------- training

    def is_due(self) -> bool:
        """Whether there are enough new movies, and enough held-out ones for the gate to decide.

        While nothing serves, a rejected candidate is trained on for a few rounds even if no movie comes.
        """
        if self._held or len(self._movies.held_out) < Thresholds().least_held_out:
            return False
        if not self._is_first:
            return self._new >= self._settings.refresh_movies
        rejected_before = bool(self._learned_before) and self._more_rounds > 0
        return len(self._movies.learned) >= self._settings.first_movies and (self._new > 0 or rejected_before)

    def train_denoiser(self) -> None:
        """Train a candidate and have it judged, unless the operator chooses another version meanwhile."""
        self._channel.send(Training(active=True))
        self._propose()
        self._channel.send(Training(active=False))

    def _train_super_resolution(self) -> None:
        """Train a network of the fine grid."""
        self._channel.send(Training(active=True))
        candidate = self._super_resolution.propose(self._is_over)
        self._channel.send(Training(active=False))
        if candidate is not None:
            self._channel.send(candidate)

    def _propose(self) -> None:
        first = self._is_first
        self._movies.choose_band()
        new = min(self._new, len(self._movies.learned))
        steps = self._settings.first_steps if first else self._settings.refresh_steps * new
        seconds = self._settings.seconds_per_movie * max(1, new)
        self._new, self._more_rounds = 0, self._more_rounds - 1
        self._trainings += 1
        seed = _SEED + self._trainings
        candidate = copy.deepcopy(self._net) if self._net is not None else self._fresh(seed)
        incumbent = (self._serves, self._parent.weight) if self._serves and self._parent else None
        try:
            proposed = propose(
                candidate,
                self._movies.learned.movies,
                self._movies.held_out,
                seed=seed,
                clock=self._learning_s,
                steps=steps,
                seconds=seconds,
                learning_rate=learning_rate_after(self._parent),
                weights=self._movies.learned.weights,
                trained_before=self._seen_by_weights(),
                incumbent=incumbent,
                first=first,
                known=self._known,
                stop=self._is_over,
                is_dropped=lambda: self._is_overruled,
            )
        except TrainingDropped:
            return
        if self._is_overruled:
            return
        self._learned_before = set(proposed.trained_on)
        self._announce(proposed)
        if first and proposed.decision.result == "rejected" and proposed.report.finite:
            self._net = proposed.net  # no version of its own yet: learning continues from here instead of starting over

    @property
    def _base(self) -> str | None:
        """sha256 of the base weights that this specimen's first version was made from."""
        if self._parent is None or not (self._serving is None or self._parent.general):
            return self._parent.base if self._parent else None
        return self._parent.sha256

    def _fresh(self, seed: int) -> Denoiser:
        torch.manual_seed(seed)
        return build(DENOISERS[self._settings.network]).to(self._device)

    def _seen_by_weights(self) -> set[str]:
        """Ids of the movies that the weights have seen which the next candidate starts from."""
        before = self._parent.trained_on if self._parent else []
        # base weights are named by their sha256; their simulated movies never occur in a session
        return self._learned_before | {movie_id for movie_id in before if not movie_id.startswith(SIMULATED)}

    def _is_over(self) -> bool:
        """Hold training while movies wait; end it early only when the operator has chosen another version."""
        began = self._clock.monotonic()
        while self._paused.is_set() and not self._is_overruled:
            self._clock.sleep(0.05)
        self._paused_s += self._clock.monotonic() - began
        return self._is_overruled

    def _learning_s(self) -> float:
        """Seconds that were spent on learning: none while movies waited."""
        return self._clock.monotonic() - self._paused_s

    def _announce(self, candidate: TrainedCandidate) -> None:
        """Store a candidate that passed, and report the decision."""
        name, decision, digest = self._store.next_version(), candidate.decision, None
        if candidate.is_promoted and decision.figures is not None:
            manifest = candidate.save(
                self._store.directory / name,
                resolution=self._movies.resolution or self._config.denoise.resolution,
                parent=self._serving,
                base=self._base,
                specimen=self._specimen,
            )
            digest = manifest.sha256
            self._serving, self._net, self._parent = name, candidate.net, manifest
            self._serves = candidate.net
            self._known = {one.movie_id: one for one in decision.figures.scores}
            self._stored.update(candidate.trained_on)
        report = candidate.report
        figures = _figures(decision) | plain({"steps": report.steps, "seconds": round(report.seconds, 2)})
        self._channel.send(
            Candidate(result=decision.result, version=name, reason=decision.reason, sha256=digest, figures=figures)
        )


def _figures(decision: Decision) -> dict[str, float | str | None]:
    """Means of the figures that the gate looked at."""
    if decision.figures is None:
        return {}
    scores = decision.figures.scores
    means = {
        name: round(sum(getattr(score, name) for score in scores) / len(scores), 4)
        for name in ("snbr_raw", "snbr_wiener", "snbr", "bias_ratio", "loss", "loss_wiener")
    }
    return plain(means | decision.figures.probes | {"held_out": len(scores)})


def _give_way() -> None:
    """Let the kernel kill this process first when memory runs out: movies can do without a trainer."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def main() -> int:
    """Run as a child of the daemon."""
    die_with_parent()
    _give_way()
    channel = ParentChannel()
    begin = channel.receive()
    if not isinstance(begin, Begin):
        return 64
    try:
        directory = Path(begin.session_directory)
        Trainer(channel, begin.config, directory, specimen=begin.specimen, warm=begin.warm).run()
    except StreamerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
