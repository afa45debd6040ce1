"""What a movie costs: simulating it, and each stage of processing it, in CPU-seconds of one thread."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.harness import measured, table
from service.config import load
from service.offline.process import describe, job_for, prepare
from streamer import pipeline
from streamer.runtime.stopwatch import Stopwatch
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import apoferritin

REPEATS = 3


def main() -> None:
    rows: list[list[object]] = []
    for name, scope, mode in (
        ("1024² × 32, plain", Microscope(), "never"),
        ("1024² × 32, fused 2×", Microscope(), "always"),
        ("2048² × 32, plain", Microscope(shape=(2048, 2048)), "never"),
    ):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory) / "movies"
            with measured() as simulating:
                torch.set_num_threads(1)
                (exposure,) = expose(Plan(directory=root, scope=scope, specimen=apoferritin(), truth=False))
            config = load(None, (f"outputs.super_resolution={mode}", f'watch.root="{root}"', "compute.threads=1"))
            prepared = prepare(config)
            movie = describe(exposure.path, config)
            stages: dict[str, list[float]] = {}
            totals = []
            for _ in range(REPEATS):
                watch = Stopwatch()
                with measured() as cost:
                    pipeline.process_movie(movie, job_for(movie, prepared, Path(directory) / "out"), watch)
                totals.append(cost.cpu_s)
                for stage, seconds in watch.times().stage_s.items():
                    stages.setdefault(stage, []).append(seconds)
        detail = " ".join(f"{stage} {statistics.median(values):.2f}" for stage, values in stages.items())
        rows.append([name, f"{simulating.cpu_s:.1f}", f"{statistics.median(totals):.2f}", detail])
    table(
        "cost of a movie, CPU-seconds of one thread",
        ["movie", "simulate", "process", "wall seconds by stage"],
        rows,
        f"LZW TIFF in; median of {REPEATS}; simulating includes writing the file.",
    )


if __name__ == "__main__":
    main()
