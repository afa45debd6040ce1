"""Clean simulated sessions that differ in everything a session may differ in: what no flag may be raised on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from service.config import Config
from service.offline.process import describe, gain_for, prepare
from streamer.movie_record import MovieRecord, Times
from streamer.pipeline import Job, process_movie
from streamer.records import Instructions
from streamer.runtime.stopwatch import Stopwatch
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from streamer.super_resolution.step import SuperResolutionRequest

FORMATS = ("mrc", "tiff", "eer")
PER_SESSION = 5


def plans(directory: Path, sessions: int, seed: int = 17) -> Iterator[Plan]:
    """Plans of sessions of five movies: every format with both layouts, weak and strong, short and long, odd sizes."""
    rng = np.random.default_rng(seed)
    for number in range(sessions):
        n_frames, pixel_size = int(rng.integers(10, 26)), float(np.round(rng.uniform(1.0, 2.4), 3))
        # more than some electrons per pixel and frame would saturate a counting camera
        dose = min(rng.uniform(20.0, 50.0) / n_frames, 5.0 / pixel_size**2)
        scope = Microscope(
            shape=(16 * int(rng.integers(12, 21)) + 2 * (number % 2), 16 * int(rng.integers(12, 25))),
            n_frames=n_frames,
            pixel_size=pixel_size,
            dose_per_frame=float(np.round(dose, 2)),
            voltage_kv=float(rng.choice([200.0, 300.0])),
            defocus_um=(0.6, 2.5),
            coverage=float(rng.choice([0.1, 0.25, 0.4])),
            drift_start=float(rng.uniform(0.3, 2.0)),
        )
        yield Plan(
            directory=directory / f"session{number:02d}",
            movies=PER_SESSION,
            scope=scope,
            specimen=random_protein(number) if number % 6 else None,
            seed=seed + number,
            layout="epu" if number % 2 else "serialem",
            format=FORMATS[number // 2 % 3],
            truth=False,
        )


def processed(plan: Plan, output: Path) -> Iterator[MovieRecord]:
    """Records of a plan's movies, simulated and processed as ``streamer process`` does, super-resolution aside."""
    config = _config(plan)
    context = prepare(config)
    for exposure in expose(plan):
        movie = describe(exposure.path, config)
        job = Job(
            instructions=Instructions(session_directory=str(output), shed=("super-resolution",)),
            settings=config,
            device=context.device,
            gain=gain_for(movie, config),
            propose=None,
            super_resolution=SuperResolutionRequest(movie_id=movie.movie_id),
        )
        yield process_movie(movie, job, Stopwatch(Times()))


def _config(plan: Plan) -> Config:
    config = Config()
    return replace(
        config, watch=replace(config.watch, root=str(plan.directory)), compute=replace(config.compute, threads=1)
    )
