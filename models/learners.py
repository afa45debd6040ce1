"""What the trainer may learn for the fine grid: a network on top of fusion, or cryo-ZSSR."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from msgspec import Struct

from models.gate import fusion_residual as fine_gate
from models.manifest import Manifest
from models.networks import fusion_residual as gain_residual
from models.networks import zssr
from models.networks.optimise import TrainingReport
from models.versions.checkpoint import load_net
from streamer.movie_record import CRYO_ZSSR, SUPER_RESOLUTION
from streamer.super_resolution.training_data import read_averages, read_lesson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.manifest import NetConfig


class Verdict(Struct, frozen=True, kw_only=True):
    """What a gate said of a candidate."""

    promoted: bool
    reason: str
    weight: list[tuple[float, float]] = []
    """λ as (spatial frequency in 1/Å, value)."""
    figures: dict[str, float | str | None] = {}


class Lesson(Protocol):
    """What is learned from one movie."""

    movie_id: str
    pixel_size: float


Net = TypeVar("Net", bound=torch.nn.Module)
Les = TypeVar("Les", bound=Lesson)


class Subject(Protocol[Net, Les]):
    """One kind of network: how it is read, trained and judged. The methods may raise ModelError."""

    network: str

    def read(self, path: Path, device: torch.device | str) -> Les:
        """A movie's lesson."""

    def load(self, directory: Path, device: torch.device | str) -> tuple[Net, Manifest]:
        """A version."""

    def fresh(self) -> Net:
        """An untrained network, from torch's seed."""

    def train(
        self, net: Net, lessons: Sequence[Les], *, steps: int, seed: int, stop: Callable[[], bool]
    ) -> TrainingReport:
        """Train in place."""

    def judge(
        self,
        net: Net,
        held_out: Sequence[Les],
        *,
        incumbent: tuple[Net, list[tuple[float, float]]] | None,
        trained_on: frozenset[str],
        seed: int,
    ) -> Verdict:
        """Decide whether a candidate may serve."""


def manifest_of(
    name: str, net: NetConfig, report: TrainingReport, learned: Sequence[Lesson], held_out: Sequence[Lesson], seed: int
) -> Manifest:
    """What a version says of itself, but for its parents and its λ."""
    pixel_size = learned[-1].pixel_size
    return Manifest(
        version=name,
        net=net,
        resolution=pixel_size,
        low=0.0,
        pixel_size=pixel_size,
        sha256="",
        software=version("cryoem-streamer"),
        seed=seed,
        steps=report.steps,
        losses=report.losses,
        trained_on=sorted(report.movies),
        held_out=[lesson.movie_id for lesson in held_out],
    )


class OnFusion:
    """The network on top of fusion; a ``Subject``."""

    network = SUPER_RESOLUTION

    def read(self, path: Path, device: torch.device | str) -> gain_residual.Lesson:
        """See ``Subject``."""
        return gain_residual.Lesson(*read_lesson(path, device))

    def load(self, directory: Path, device: torch.device | str) -> tuple[gain_residual.GainResidualNet, Manifest]:
        """See ``Subject``."""
        return load_net(directory, gain_residual.GainResidualNet, device)

    def fresh(self) -> gain_residual.GainResidualNet:
        """See ``Subject``."""
        return gain_residual.GainResidualNet()

    def train(
        self,
        net: gain_residual.GainResidualNet,
        lessons: Sequence[gain_residual.Lesson],
        *,
        steps: int,
        seed: int,
        stop: Callable[[], bool],
    ) -> TrainingReport:
        """See ``Subject``."""
        return gain_residual.train(net, lessons, steps=steps, seed=seed, stop=stop, clock=time.perf_counter)

    def judge(
        self,
        net: gain_residual.GainResidualNet,
        held_out: Sequence[gain_residual.Lesson],
        *,
        incumbent: tuple[gain_residual.GainResidualNet, list[tuple[float, float]]] | None,
        trained_on: frozenset[str],
        seed: int,
    ) -> Verdict:
        """See ``Subject`` and ``fine_gate``."""
        found = fine_gate.judge(net, held_out, incumbent=incumbent, trained_on=trained_on, seed=seed)
        figures: dict[str, float | str | None] = {}
        for name in ("gain", "gain_beyond"):
            if found.scores:
                figures[name] = round(sum(getattr(one, name) for one in found.scores) / len(found.scores), 4)
        figures |= {f"lambda_{1.0 / frequency:.1f}A": value for frequency, value in found.weight}
        return Verdict(promoted=found.promoted, reason=found.reason, weight=found.weight, figures=figures)


class CryoZssr:
    """cryo-ZSSR, trained on a session; a ``Subject``."""

    network = CRYO_ZSSR

    def read(self, path: Path, device: torch.device | str) -> zssr.Pair:
        """See ``Subject``."""
        movie_id, averages, pixel_size = read_averages(path, device)
        return zssr.Pair(movie_id, averages, pixel_size)

    def load(self, directory: Path, device: torch.device | str) -> tuple[zssr.ZssrNet, Manifest]:
        """See ``Subject``."""
        return load_net(directory, zssr.ZssrNet, device)

    def fresh(self) -> zssr.ZssrNet:
        """See ``Subject``."""
        return zssr.ZssrNet()

    def train(
        self,
        net: zssr.ZssrNet,
        lessons: Sequence[zssr.Pair],
        *,
        steps: int,
        seed: int,
        stop: Callable[[], bool],
    ) -> TrainingReport:
        """See ``Subject``."""
        began = time.perf_counter()
        found = zssr.train(net, lessons, seed=seed, most_steps=steps, stop=stop)
        return TrainingReport(
            steps=found.steps,
            losses=found.losses,
            movies=[pair.movie_id for pair in lessons],
            seconds=time.perf_counter() - began,
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
        """See ``Subject``: a smaller loss on movies it never saw than interpolation has, or than what serves."""
        leaked = trained_on.intersection(pair.movie_id for pair in held_out)
        if leaked:
            return Verdict(promoted=False, reason=f"{len(leaked)} held-out movies were trained on")
        new = [zssr.held_out_loss(net, pair) for pair in held_out]
        old = [zssr.held_out_loss(None if incumbent is None else incumbent[0], pair) for pair in held_out]
        lower = fine_gate.lower_bound([(b - a) / b for a, b in zip(new, old, strict=True)], seed)
        than = "interpolation" if incumbent is None else "what serves"
        return Verdict(
            promoted=lower > 0.0,
            reason=f"its loss on unseen movies is {lower:+.2%} below that of {than} at least, needs more than 0 %",
            figures={"loss": round(sum(new) / len(new), 5), "loss_before": round(sum(old) / len(old), 5)},
        )


def subject_of(method: str) -> Subject[Any, Any]:
    """What is learned for a method of super-resolution."""
    subject: Subject[Any, Any] = CryoZssr() if method == "zssr" else OnFusion()
    return subject
