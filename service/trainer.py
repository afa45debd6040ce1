"""The trainer process: learns from finished movies while the daemon goes on, and lets the gate decide.

Finished movies' group sums are announced one per line. A quarter of them is kept from training for good
(``roles.json`` remembers which); the others are learned from. A candidate that passes the gate is stored as a
version and announced; the daemon makes it serve. Nothing here touches what serves.
"""

from __future__ import annotations

import copy
import queue
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from models.checkpoint import load_version, save_version
from models.gate import Decision, Thresholds, judge
from models.manifest import Manifest, NetConfig
from models.noise2noise import WienerResidualNet
from models.settings import is_held_out
from models.store import ModelStore
from models.training import TrainingMovie, TrainingReport, train
from service.pipes import Begin, Candidate, Learn, ParentChannel, Pause, Serving, Training, Up, die_with_parent, plain
from service.worker import device_of, use_threads
from streamer.errors import ModelError, StreamerError
from streamer.groups import read_groups, trim_groups
from streamer.writers.atomic import write_atomically

if TYPE_CHECKING:
    from service.config import Config

_SEED = 20
_ROUNDS = 4
"""Trainings on the same movies before anything serves."""


class Roles:
    """Which movies are learned from and which are held out, for good."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._roles: dict[str, bool] = {}
        if path.is_file():
            self._roles = msgspec.json.decode(path.read_bytes(), type=dict[str, bool])

    def held_out(self, movie_id: str) -> bool:
        """Role of a movie, given when it is first asked for."""
        if movie_id not in self._roles:
            self._roles[movie_id] = is_held_out(len(self._roles))
            write_atomically(self._path, msgspec.json.encode(self._roles))
        return self._roles[movie_id]


class Trainer:
    """Learns, proposes, and leaves the decision to the gate."""

    def __init__(self, channel: ParentChannel, config: Config, directory: Path) -> None:
        self._channel, self._config, self._settings = channel, config, config.session_model
        self._device = device_of(config.compute.device)
        self._store = ModelStore(directory / "models")
        self._groups = directory.parent.parent / "groups"
        self._roles = Roles(directory / "roles.json")
        self._learned: list[TrainingMovie] = []
        self._held_out: list[TrainingMovie] = []
        self._new, self._more_rounds, self._seen = 0, _ROUNDS, set[str]()
        self._paused = threading.Event()
        self._inbox: queue.Queue[Learn | Serving | None] = queue.Queue()
        self._net: WienerResidualNet | None = None
        self._parent: Manifest | None = None
        self._learned_before: set[str] = set()
        self._serving = self._store.current()
        self._trainings = len(self._store.versions())

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
                self._inbox.put(message)
        self._inbox.put(None)

    def _take(self, message: Learn | Serving) -> None:
        if isinstance(message, Serving):
            self._serving = message.version
            self._resume(message.version)
            return
        if message.movie_id in self._seen:
            return
        try:
            movie_id, sums = read_groups(Path(message.groups))
            movie = TrainingMovie(movie_id, sums, self._config.denoise.low, self._device)
        except ModelError as error:
            sys.stderr.write(f"{error}\n")
            return
        self._seen.add(message.movie_id)
        if not movie.spectrum.significant or len(movie) < 4:
            return
        if self._roles.held_out(movie_id):
            self._held_out = [*self._held_out, movie][-self._settings.most_held_out :]
        else:
            self._learned = [*self._learned, movie][-self._settings.most_movies :]
            self._new += not (self._parent and movie_id in self._parent.trained_on)
            self._more_rounds = _ROUNDS

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

    # --------------------------------------------------------------------------------------------- training

    def _is_due(self) -> bool:
        """Enough new movies, and enough held out for the gate to say something.

        While nothing serves, a rejected candidate is trained on for a few rounds even if no movie comes.
        """
        if len(self._held_out) < Thresholds().least_held_out:
            return False
        if self._serving is not None:
            return self._new >= self._settings.refresh_movies
        rejected_before = bool(self._learned_before) and self._more_rounds > 0
        return len(self._learned) >= self._settings.first_movies and (self._new > 0 or rejected_before)

    def _train(self) -> None:
        """Train a candidate, have it judged, store it if it passes."""
        serving = self._serving is not None
        steps = self._settings.first_steps if not serving else self._settings.refresh_steps * self._new
        self._new, self._more_rounds = 0, self._more_rounds - 1
        self._channel.send(Training(active=True))
        self._trainings += 1
        seed = _SEED + self._trainings
        candidate = copy.deepcopy(self._net) if self._net is not None else self._fresh(seed)
        incumbent = (self._net, self._parent.weight) if serving and self._net and self._parent else None
        report = train(
            candidate.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            self._learned,
            steps=steps,
            seed=seed,
            stop=self._wait_while_paused,
            clock=time.perf_counter,
        )
        candidate = candidate.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        trained_on = self._trained_on(report)
        decision = judge(
            candidate,
            self._held_out,
            incumbent=incumbent,
            thresholds=Thresholds(),
            trained_on=frozenset(trained_on),
            seed=seed,
        )
        self._announce(candidate, report, decision, trained_on, seed)
        if not serving and decision.result == "rejected" and report.finite:
            self._net = candidate  # nothing serves yet: learning goes on from here instead of from scratch
        self._channel.send(Training(active=False))
        held_out = frozenset(movie.movie_id for movie in self._held_out)
        trim_groups(self._groups, int(self._settings.groups_limit_gb * 1e9), keep=held_out)

    def _fresh(self, seed: int) -> WienerResidualNet:
        torch.manual_seed(seed)
        return WienerResidualNet(NetConfig()).to(self._device)

    def _trained_on(self, report: TrainingReport) -> list[str]:
        """Ids of all movies that the candidate's weights have seen."""
        self._learned_before |= {*(self._parent.trained_on if self._parent else []), *report.movies}
        return sorted(self._learned_before)

    def _wait_while_paused(self) -> bool:
        """Hold training while movies wait; never ends it early."""
        while self._paused.is_set():
            time.sleep(0.05)
        return False

    def _announce(
        self,
        candidate: WienerResidualNet,
        report: TrainingReport,
        decision: Decision,
        trained_on: list[str],
        seed: int,
    ) -> None:
        name = self._store.next_version()
        digest = None
        if decision.result == "promoted" and decision.figures is not None:
            newest = self._learned[-1].band
            manifest = save_version(
                self._store.directory / name,
                candidate,
                Manifest(
                    version=name,
                    parent=self._serving,
                    base=self._parent.sha256 if self._parent and self._serving is None else None,
                    net=candidate.config,
                    resolution=self._config.denoise.resolution,
                    low=self._config.denoise.low,
                    pixel_size=newest.pixel_size,
                    sha256="",
                    software=version("cryoem-streamer"),
                    seed=seed,
                    steps=report.steps,
                    losses=report.losses,
                    trained_on=trained_on,
                    held_out=[movie.movie_id for movie in self._held_out],
                    weight=decision.figures.weight,
                    figures=decision.figures,
                ),
            )
            digest = manifest.sha256
            self._serving, self._net, self._parent = name, candidate, manifest
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
