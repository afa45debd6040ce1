"""``streamer models train-super-resolution``: a network for the fine grid, from movies named by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from msgspec import Struct

from models.learners import learner_of, propose
from models.networks import fusion_residual, zssr
from models.settings import SessionModelSettings, is_held_out, is_same_pixel_size
from service.offline.process import OfflineContext, describe, job_for, prepare
from streamer import pipeline
from streamer.detector.correction import correction_for
from streamer.errors import UsageError
from streamer.motion import align
from streamer.runtime.clock import SYSTEM
from streamer.runtime.stopwatch import Stopwatch
from streamer.super_resolution.averages import average
from streamer.super_resolution.training_data import FusionTrainingData

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.config import Config

_LEAST_MOVIES = 4
"""For fusion: some to learn from and some to judge by."""


class SuperResolutionTrainingResult(Struct, frozen=True, kw_only=True):
    """What ``models train-super-resolution --json`` prints."""

    directory: str
    method: str
    promoted: bool
    """cryo-ZSSR named by hand has no gate, as published. What it makes of a movie is judged with the movie."""
    reason: str
    steps: int
    seconds: float
    trained_on: list[str]
    held_out: list[str]


def train_super_resolution(
    paths: Sequence[Path], config: Config, out: Path, *, steps: int | None, seed: int
) -> SuperResolutionTrainingResult:
    """Train, judge and store a version for the method of the settings.

    Raises
    ------
    UsageError
        If there are too few movies that anything can be learned from, or they differ in pixel size.
    """
    began, prepared = SYSTEM.monotonic(), prepare(_learning(config))
    method, budget = config.super_resolution.method, SessionModelSettings().first_steps
    learner, examples = learner_of(method), list[Any]()
    if method == "zssr":
        budget = zssr.MOST_STEPS
        examples = [_pair(path, prepared) for path in paths]
    else:
        examples = [example for path in paths if (example := _example(path, prepared)) is not None]
    _check(paths, [example.pixel_size for example in examples], 1 if method == "zssr" else _LEAST_MOVIES)
    held_out = [] if method == "zssr" else [example for i, example in enumerate(examples) if is_held_out(i)]
    learned = [example for example in examples if example not in held_out]
    torch.manual_seed(seed)
    proposed = propose(
        learner, learner.fresh().to(prepared.device), learned, held_out, steps=steps or budget, seed=seed
    )
    manifest = proposed.save(out)
    return SuperResolutionTrainingResult(
        directory=str(out),
        method=method,
        promoted=proposed.verdict.promoted,
        reason=proposed.verdict.reason,
        steps=proposed.report.steps,
        seconds=round(SYSTEM.monotonic() - began, 2),
        trained_on=proposed.report.movies,
        held_out=manifest.held_out,
    )


def _learning(config: Config) -> Config:
    """Fuse every movie, whatever the verdict, with no network in between."""
    replaced = msgspec.structs.replace
    chosen = replaced(config.super_resolution, model=None, network=False, per_movie=False, method="fusion")
    return replaced(config, super_resolution=chosen, outputs=replaced(config.outputs, super_resolution="always"))


def _example(path: Path, prepared: OfflineContext) -> fusion_residual.FusionExample | None:
    """A movie as an example; None where nothing can be fused."""
    movie = describe(path, prepared.config)
    job = job_for(movie, prepared, Path())
    job = replace(job, instructions=replace(job.instructions, training_data="wanted"))
    frames, source = pipeline.read_movie(movie, job, Stopwatch())
    sums = pipeline.compute_micrograph(frames, source, job, Stopwatch()).super_resolution.training_data
    return fusion_residual.FusionExample(movie.movie_id, sums) if isinstance(sums, FusionTrainingData) else None


def _pair(path: Path, prepared: OfflineContext) -> zssr.Pair:
    """What cryo-ZSSR learns from of a movie."""
    movie = describe(path, prepared.config)
    frames, source = pipeline.read_movie(movie, job_for(movie, prepared, Path()), Stopwatch())
    correction = correction_for(frames.shape, frames.gain, frames.defects, prepared.device)

    def frame(index: int) -> torch.Tensor:
        return correction.frame(frames.counts, index)

    motion = align.estimate_motion(frame, len(frames), frames.pixel_size, prepared.config.motion, kept=frames.kept)
    return zssr.Pair(movie.movie_id, average(frame, motion), source.pixel_size)


def _check(paths: Sequence[Path], pixel_sizes: list[float], least: int) -> None:
    where = ", ".join(map(str, paths))
    if len(pixel_sizes) < least:
        expected, found = f"at least {least}", str(len(pixel_sizes))
        raise UsageError(
            "too few movies that can be fused",
            where=where,
            expected=expected,
            found=found,
            hint="give more movies that have drifted and are no super-resolution",
        )
    if not all(is_same_pixel_size(pixel_size, pixel_sizes[-1]) for pixel_size in pixel_sizes):
        found = ", ".join(f"{pixel_size:g}" for pixel_size in sorted(set(pixel_sizes)))
        raise UsageError(
            "the movies differ in pixel size",
            where=where,
            expected="one",
            found=f"{found} Å/px",
            hint="train on movies of one magnification",
        )
