"""Learning for super-resolution, next to the denoiser: see ``models.learners``.

The same movies are held out as for the denoiser. A version that passes its gate is stored and announced; the daemon
puts it into service. Training continues from the serving version.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.gate.fusion_residual import LEAST_HELD_OUT
from models.learners import propose
from models.networks.optimise import TrainingDropped
from models.settings import is_same_pixel_size
from service.processes.messages import Candidate, Learn, plain
from streamer.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.learners import Learner, TrainingExample
    from models.manifest import Manifest
    from models.settings import SessionModelSettings
    from models.versions.roles import Roles
    from models.versions.store import ModelStore

_SEED = 60


class SuperResolutionTrainer:
    """Keeps the examples of a session and trains when there are enough new ones."""

    def __init__(
        self,
        settings: SessionModelSettings,
        store: ModelStore,
        roles: Roles,
        device: torch.device | str,
        learner: Learner[Any, Any],
    ) -> None:
        """Continue from the serving version, if there is one that can be read."""
        self._learner = learner
        self._settings, self._store, self._roles, self._device = settings, store, roles, device
        self._learned: list[Any] = []
        self._held_out: list[Any] = []
        self._seen: set[str] = set()
        self._new = 0
        self._trainings = int(store.next_version()[1:]) - 1
        self._serving = store.current()
        self._net: Any = None
        self._manifest: Manifest | None = None
        self._trained_on: set[str] = set()
        if self._serving is not None:
            try:
                self._net, self._manifest = learner.load(store.path(self._serving), device)
                self._trained_on.update(self._manifest.trained_on)
            except ModelError as error:
                sys.stderr.write(f"{error}\n")
                self._serving = None

    def add(self, message: Learn) -> None:
        """Read a movie as an example, once; what cannot be used is reported and skipped."""
        if message.training_data is None or message.movie_id in self._seen or not Path(message.training_data).is_file():
            return
        self._seen.add(message.movie_id)
        try:
            example = self._learner.read(Path(message.training_data), self._device)
            self._check_make(example)
        except ModelError as error:
            sys.stderr.write(f"{error}\n")
            return
        if self._roles.held_out(example.movie_id):
            self._held_out = [*self._held_out, example][-self._settings.most_held_out :]
        else:
            self._learned = [*self._learned, example][-self._settings.most_movies :]
            self._new += example.movie_id not in self._trained_on

    def _check_make(self, example: TrainingExample) -> None:
        others = [*self._learned, *self._held_out]
        known = self._manifest.pixel_size if self._manifest else others[0].pixel_size if others else None
        if known is not None and not is_same_pixel_size(example.pixel_size, known):
            expected, found = f"{known:g} Å/px", f"{example.pixel_size:g} Å/px"
            raise ModelError("nothing is learned from it", where=example.movie_id, expected=expected, found=found)

    @property
    def is_due(self) -> bool:
        """Whether there are enough new movies, and enough held-out ones for the gate to decide."""
        needed = self._settings.refresh_movies if self._serving is not None else self._settings.first_movies
        return len(self._held_out) >= LEAST_HELD_OUT and len(self._learned) > 0 and self._new >= needed

    def propose(self, is_over: Callable[[], bool]) -> Candidate | None:
        """Train a candidate and have it judged; a promoted one is stored. None if training was ended early."""
        steps = self._settings.refresh_steps * min(self._new, len(self._learned))
        if self._serving is None:
            steps = max(steps, self._settings.first_steps)
        self._new = 0
        self._trainings += 1
        seed = _SEED + self._trainings
        torch.manual_seed(seed)
        candidate = copy.deepcopy(self._net) if self._net is not None else self._learner.fresh().to(self._device)
        incumbent = (self._net, self._manifest.weight) if self._serving and self._net and self._manifest else None
        try:
            proposed = propose(
                self._learner,
                candidate,
                self._learned,
                self._held_out,
                steps=steps,
                seed=seed,
                stop=is_over,
                trained_before=self._trained_on,
                incumbent=incumbent,
            )
        except TrainingDropped:
            return None
        name, digest, verdict, report = self._store.next_version(), None, proposed.verdict, proposed.report
        if verdict.promoted:
            self._manifest = proposed.save(self._store.directory / name, self._serving)
            digest, self._serving = self._manifest.sha256, name
        if verdict.promoted or (self._serving is None and report.finite):
            self._net, self._trained_on = candidate, set(proposed.trained_on)
        return Candidate(
            result="promoted" if verdict.promoted else "rejected",
            version=name,
            reason=verdict.reason,
            sha256=digest,
            figures=verdict.figures
            | plain({"held_out": len(self._held_out), "steps": report.steps, "seconds": round(report.seconds, 2)}),
            network=self._learner.network,
        )
