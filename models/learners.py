"""Networks that the trainer can train for super-resolution: one on top of fusion, or cryo-ZSSR."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from msgspec import Struct

from models.gate import fusion_residual as fusion_gate
from models.manifest import Manifest
from models.networks import fusion_residual, zssr
from models.networks.optimise import TrainingDropped, TrainingReport
from models.versions.checkpoint import load_net, save_version
from streamer.movie_record import CRYO_ZSSR, SUPER_RESOLUTION
from streamer.runtime.clock import SYSTEM
from streamer.super_resolution.training_data import read_averages, read_training_data

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path


class Verdict(Struct, frozen=True, kw_only=True):
    """A gate's verdict on a candidate."""

    promoted: bool
    reason: str
    weight: list[tuple[float, float]] = []
    """λ as (spatial frequency in 1/Å, value)."""
    figures: dict[str, float | str | None] = {}


class TrainingExample(Protocol):
    """Training data of one movie."""

    movie_id: str
    pixel_size: float


Net = TypeVar("Net", bound=torch.nn.Module)
Example = TypeVar("Example", bound=TrainingExample)


class Learner(Protocol[Net, Example]):
    """One kind of network: how its data are read, how it is trained and judged. The methods may raise ModelError."""

    network: str

    def read(self, path: Path, device: torch.device | str) -> Example:
        """Training data of one movie, from its file."""

    def load(self, directory: Path, device: torch.device | str) -> tuple[Net, Manifest]:
        """Net and manifest of a version."""

    def fresh(self) -> Net:
        """An untrained network, initialised from torch's seed."""

    def train(
        self, net: Net, examples: Sequence[Example], *, steps: int, seed: int, stop: Callable[[], bool]
    ) -> TrainingReport:
        """Train in place."""

    def judge(
        self,
        net: Net,
        held_out: Sequence[Example],
        *,
        incumbent: tuple[Net, list[tuple[float, float]]] | None,
        trained_on: frozenset[str],
        seed: int,
    ) -> Verdict:
        """Decide whether a candidate is promoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetwork:
    """A trained network with its gate's verdict."""

    net: Any
    report: TrainingReport
    verdict: Verdict
    learned: Sequence[TrainingExample]
    held_out: Sequence[TrainingExample]
    trained_on: list[str]
    """Ids of all movies that the weights have seen, those of parents included."""
    seed: int

    def save(self, directory: Path, parent: str | None = None) -> Manifest:
        """Write it as a version; one that did not pass is kept but changes nothing: its λ is 0."""
        pixel_size = self.learned[-1].pixel_size
        manifest = Manifest(
            version=directory.name,
            parent=parent,
            net=self.net.config,
            resolution=pixel_size,
            low=0.0,
            pixel_size=pixel_size,
            sha256="",
            software=version("cryoem-streamer"),
            seed=self.seed,
            steps=self.report.steps,
            losses=self.report.losses,
            trained_on=self.trained_on,
            held_out=[example.movie_id for example in self.held_out],
            weight=[(frequency, value * self.verdict.promoted) for frequency, value in self.verdict.weight],
        )
        return save_version(directory, self.net, manifest)


def propose(
    learner: Learner[Any, Any],
    net: Any,
    learned: Sequence[Any],
    held_out: Sequence[Any],
    *,
    steps: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    trained_before: Collection[str] = (),
    incumbent: tuple[Any, list[tuple[float, float]]] | None = None,
) -> TrainedNetwork:
    """Train a network in place and have it judged.

    Parameters
    ----------
    learned, held_out : examples to train on, and to judge by; without the latter there is no gate.
    stop : checked before each step; True ends training early.
    trained_before : ids of the movies that the weights had already seen.
    incumbent : the serving network and its λ.

    Raises
    ------
    TrainingDropped : ``stop`` says so once more before anything is judged.
    """
    report = learner.train(net, learned, steps=steps, seed=seed, stop=stop)
    if stop():
        raise TrainingDropped
    trained_on = sorted({*trained_before, *report.movies})
    verdict = Verdict(promoted=report.finite, reason="trained as published, without a gate")
    if held_out:
        verdict = learner.judge(net, held_out, incumbent=incumbent, trained_on=frozenset(trained_on), seed=seed)
    return TrainedNetwork(
        net=net,
        report=report,
        verdict=verdict,
        learned=learned,
        held_out=held_out,
        trained_on=trained_on,
        seed=seed,
    )


class FusionLearner:
    """The network on top of fusion; a ``Learner``."""

    network = SUPER_RESOLUTION

    def read(self, path: Path, device: torch.device | str) -> fusion_residual.FusionExample:
        """See ``Learner``."""
        return fusion_residual.FusionExample(*read_training_data(path, device))

    def load(self, directory: Path, device: torch.device | str) -> tuple[fusion_residual.FusionResidualNet, Manifest]:
        """See ``Learner``."""
        return load_net(directory, fusion_residual.FusionResidualNet, device)

    def fresh(self) -> fusion_residual.FusionResidualNet:
        """See ``Learner``."""
        return fusion_residual.FusionResidualNet()

    def train(
        self,
        net: fusion_residual.FusionResidualNet,
        examples: Sequence[fusion_residual.FusionExample],
        *,
        steps: int,
        seed: int,
        stop: Callable[[], bool],
    ) -> TrainingReport:
        """See ``Learner``."""
        return fusion_residual.train(net, examples, steps=steps, seed=seed, stop=stop, clock=SYSTEM.monotonic)

    def judge(
        self,
        net: fusion_residual.FusionResidualNet,
        held_out: Sequence[fusion_residual.FusionExample],
        *,
        incumbent: tuple[fusion_residual.FusionResidualNet, list[tuple[float, float]]] | None,
        trained_on: frozenset[str],
        seed: int,
    ) -> Verdict:
        """See ``Learner`` and ``fusion_gate``."""
        found = fusion_gate.judge(net, held_out, incumbent=incumbent, trained_on=trained_on, seed=seed)
        figures: dict[str, float | str | None] = {}
        for name in ("gain", "gain_beyond"):
            if found.scores:
                figures[name] = round(sum(getattr(one, name) for one in found.scores) / len(found.scores), 4)
        figures |= {f"lambda_{1.0 / frequency:.1f}A": value for frequency, value in found.weight}
        return Verdict(promoted=found.promoted, reason=found.reason, weight=found.weight, figures=figures)


class ZssrLearner:
    """cryo-ZSSR, trained on a session; a ``Learner``."""

    network = CRYO_ZSSR

    def read(self, path: Path, device: torch.device | str) -> zssr.Pair:
        """See ``Learner``."""
        movie_id, averages, pixel_size = read_averages(path, device)
        return zssr.Pair(movie_id, averages, pixel_size)

    def load(self, directory: Path, device: torch.device | str) -> tuple[zssr.ZssrNet, Manifest]:
        """See ``Learner``."""
        return load_net(directory, zssr.ZssrNet, device)

    def fresh(self) -> zssr.ZssrNet:
        """See ``Learner``."""
        return zssr.ZssrNet()

    def train(
        self,
        net: zssr.ZssrNet,
        examples: Sequence[zssr.Pair],
        *,
        steps: int,
        seed: int,
        stop: Callable[[], bool],
    ) -> TrainingReport:
        """See ``Learner``."""
        began = SYSTEM.monotonic()
        found = zssr.train(net, examples, seed=seed, most_steps=steps, stop=stop)
        return TrainingReport(
            steps=found.steps,
            losses=found.losses,
            movies=[pair.movie_id for pair in examples],
            seconds=SYSTEM.monotonic() - began,
            finite=found.finite,
        )

    def judge(
        self,
        net: zssr.ZssrNet,
        held_out: Sequence[zssr.Pair],
        *,
        incumbent: tuple[zssr.ZssrNet, list[tuple[float, float]]] | None,
        trained_on: frozenset[str],
        seed: int,
    ) -> Verdict:
        """See ``Learner``: a smaller loss on movies it never saw than interpolation, or than the serving version."""
        leaked = trained_on.intersection(pair.movie_id for pair in held_out)
        if leaked:
            return Verdict(promoted=False, reason=f"{len(leaked)} held-out movies were trained on")
        new = [zssr.held_out_loss(net, pair) for pair in held_out]
        old = [zssr.held_out_loss(None if incumbent is None else incumbent[0], pair) for pair in held_out]
        lower = fusion_gate.lower_bound([(b - a) / b for a, b in zip(new, old, strict=True)], seed)
        than = "interpolation" if incumbent is None else "the serving version"
        return Verdict(
            promoted=lower > 0.0,
            reason=f"its loss on unseen movies is at least {lower:+.2%} below that of {than}, needs more than 0 %",
            figures={"loss": round(sum(new) / len(new), 5), "loss_before": round(sum(old) / len(old), 5)},
        )


def learner_of(method: str) -> Learner[Any, Any]:
    """Learner for a method of super-resolution."""
    subject: Learner[Any, Any] = ZssrLearner() if method == "zssr" else FusionLearner()
    return subject
