"""``streamer models train-super-resolution``: a network for the fine grid, from movies named by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from msgspec import Struct

from models import fine_gate, gain_residual, zssr
from models.checkpoint import save_version
from models.manifest import Manifest
from models.settings import SessionModelSettings, is_held_out, is_same_pixel_size
from service.offline import Bench, bench, describe, job_for
from streamer import align, detector, pipeline
from streamer.averages import average
from streamer.errors import UsageError
from streamer.lessons import FineLesson
from streamer.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.manifest import NetConfig
    from service.config import Config

_LEAST_MOVIES = 4
"""For fusion: some to learn from and some to judge by."""


class FineTrainingResult(Struct, frozen=True, kw_only=True):
    """What ``models train-super-resolution --json`` prints."""

    directory: str
    method: str
    promoted: bool
    """cryo-ZSSR has no gate: the paper knows none. What it makes of a movie is judged with the movie."""
    reason: str
    steps: int
    seconds: float
    trained_on: list[str]
    held_out: list[str]


def train_super_resolution(
    paths: Sequence[Path], config: Config, out: Path, *, steps: int | None, seed: int
) -> FineTrainingResult:
    """Train, judge and store a version for the method of the settings.

    Raises
    ------
    UsageError
        If there are too few movies that anything can be learned from, or they differ in pixel size.
    """
    torch.manual_seed(seed)
    began, prepared = time.perf_counter(), bench(_learning(config))
    train = _cryo_zssr if config.super_resolution.method == "zssr" else _on_fusion
    net, result, manifest = train(list(paths), prepared, steps, seed)
    save_version(out, net, msgspec.structs.replace(manifest, version=out.name))
    seconds = round(time.perf_counter() - began, 2)
    return msgspec.structs.replace(result, directory=str(out), seconds=seconds)


def _learning(config: Config) -> Config:
    """Fuse every movie, whatever the verdict, with no network in between."""
    replaced = msgspec.structs.replace
    chosen = replaced(config.super_resolution, model=None, network=False, per_movie=False, method="fusion")
    return replaced(config, super_resolution=chosen, outputs=replaced(config.outputs, super_resolution="always"))


def _on_fusion(
    paths: list[Path], prepared: Bench, steps: int | None, seed: int
) -> tuple[torch.nn.Module, FineTrainingResult, Manifest]:
    lessons = [lesson for path in paths if (lesson := _lesson(path, prepared)) is not None]
    _check(paths, [lesson.sums.pixel_size for lesson in lessons], _LEAST_MOVIES)
    learned = [lesson for index, lesson in enumerate(lessons) if not is_held_out(index)]
    held_out = [lesson for index, lesson in enumerate(lessons) if is_held_out(index)]
    net = gain_residual.GainResidualNet().to(prepared.device)
    report = gain_residual.train(net, learned, steps=steps or SessionModelSettings().first_steps, seed=seed)
    decision = fine_gate.judge(net, held_out, incumbent=None, trained_on=frozenset(report.movies), seed=seed)
    result = FineTrainingResult(
        directory="",
        method="fusion",
        promoted=decision.promoted,
        reason=decision.reason,
        steps=report.steps,
        seconds=0.0,
        trained_on=report.movies,
        held_out=[lesson.movie_id for lesson in held_out],
    )
    weight = decision.weight if decision.promoted else [(frequency, 0.0) for frequency, _ in decision.weight]
    manifest = _manifest(net.config, result, learned[-1].sums.pixel_size, seed)
    return net, result, msgspec.structs.replace(manifest, weight=weight, losses=report.losses)


def _cryo_zssr(
    paths: list[Path], prepared: Bench, steps: int | None, seed: int
) -> tuple[torch.nn.Module, FineTrainingResult, Manifest]:
    found = [_pair(path, prepared) for path in paths]
    _check(paths, [pixel_size for _, pixel_size in found], 1)
    net = zssr.ZssrNet().to(prepared.device)
    pairs = [pair for pair, _ in found]
    report = zssr.train(net, pairs, seed=seed, most_steps=steps or zssr.MOST_STEPS)
    result = FineTrainingResult(
        directory="",
        method="zssr",
        promoted=report.finite,
        reason="the learning rate has fallen to its end" if report.rates else "the budget of steps is used up",
        steps=report.steps,
        seconds=0.0,
        trained_on=[pair.movie_id for pair in pairs],
        held_out=[],
    )
    manifest = _manifest(net.config, result, found[-1][1], seed)
    return net, result, msgspec.structs.replace(manifest, losses=report.losses)


def _lesson(path: Path, prepared: Bench) -> gain_residual.Lesson | None:
    """A movie's lesson; None where nothing can be fused."""
    movie = describe(path, prepared.config)
    job = replace(job_for(movie, prepared, Path()), lesson=Path("wanted"))
    frames, source = pipeline.read_movie(movie, job, Stopwatch())
    sums = pipeline.compute_micrograph(frames, source, job, Stopwatch()).lesson
    return gain_residual.Lesson(movie.movie_id, sums) if isinstance(sums, FineLesson) else None


def _pair(path: Path, prepared: Bench) -> tuple[zssr.Pair, float]:
    """What cryo-ZSSR learns from of a movie, and its pixel size in Å."""
    movie = describe(path, prepared.config)
    frames, source = pipeline.read_movie(movie, job_for(movie, prepared, Path()), Stopwatch())
    correction = detector.correction_for(frames.shape, frames.gain, frames.defects, prepared.device)

    def frame(index: int) -> torch.Tensor:
        return correction.frame(frames.counts, index)

    motion = align.estimate_motion(frame, len(frames), frames.pixel_size, prepared.config.motion)
    return zssr.Pair(movie.movie_id, average(frame, motion)), source.pixel_size


def _check(paths: list[Path], pixel_sizes: list[float], least: int) -> None:
    where = ", ".join(map(str, paths))
    if len(pixel_sizes) < least:
        expected, found = f"at least {least}", str(len(pixel_sizes))
        raise UsageError("too few movies that can be fused", where=where, expected=expected, found=found)
    if not all(is_same_pixel_size(pixel_size, pixel_sizes[-1]) for pixel_size in pixel_sizes):
        found = ", ".join(f"{pixel_size:g}" for pixel_size in sorted(set(pixel_sizes)))
        raise UsageError("the movies differ in pixel size", where=where, expected="one", found=f"{found} Å/px")


def _manifest(net: NetConfig, result: FineTrainingResult, pixel_size: float, seed: int) -> Manifest:
    return Manifest(
        version="",
        net=net,
        resolution=pixel_size,
        low=0.0,
        pixel_size=pixel_size,
        sha256="",
        software=version("cryoem-streamer"),
        seed=seed,
        steps=result.steps,
        trained_on=result.trained_on,
        held_out=result.held_out,
    )
