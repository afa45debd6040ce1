"""What the trainer costs the movies: the same session with it and without, in turn, in whole daemons.

    python -m benchmarks.session_load [--rounds N] [--movies N]

A simulated microscope writes movies at a steady pace; stages and latencies are those of the records. Off: the base
weights serve, nothing is learned. Machines are noisy: rounds alternate, and what is compared are all rounds together.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.harness import table
from models.versions.base_weights import shipped_base
from models.versions.store import copy_version
from service.config import ANY_FREE_PORTS, load
from service.journal.journal import Journal
from service.layout import layout_of, read_endpoints
from service.subscribers.connection import connection
from streamer.movie_record import MovieRecord
from streamer.runtime.clock import utc_seconds

INTERVAL_S = 6.0
CONFIG = """\
[instance]
name = "load"
state = "{place}/state"
runtime = "{runtime}"
[session]
name = "load"
[watch]
root = "{place}/in"
[outputs]
root = "{place}/out"
super_resolution = "never"
[compute]
threads = 1
[session_model]
enabled = {learns}
"""


def session(movies: int, seed: int, *, learns: bool) -> tuple[list[MovieRecord], int]:
    """Records of one session, and how many candidates were judged."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(prefix="s-") as runtime:
        place = Path(name)
        config_file = place / "config.toml"
        config_file.write_text(CONFIG.format(place=place, runtime=runtime, learns=str(learns).lower()) + ANY_FREE_PORTS)
        config = load(config_file)
        layout = layout_of(config)
        if not learns:
            copy_version(shipped_base(), layout.models("load") / "v0001")
            (layout.models("load") / "current").symlink_to("v0001")
        cli = [sys.executable, "-m", "service.cli"]
        with (place / "log").open("wb") as log:
            daemon = subprocess.Popen([*cli, "run", "--config", str(config_file)], stderr=log, stdout=log)
            try:
                while read_endpoints(layout) is None:
                    time.sleep(0.1)
                options = ["--movies", movies, "--interval", INTERVAL_S, "--seed", seed, "--frames", 20, "--specimen"]
                words = [*cli, "simulate", place / "in", *options, "random"]
                subprocess.run([str(word) for word in words], check=True, stdout=log, stderr=log)
                while _done(config) < movies:
                    time.sleep(0.5)
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(120)
        with closing(Journal.open(layout.journal, instance="load", read_only=True)) as journal:
            found = [movie.record for movie in journal.movies.newest(state="done", limit=-1)]
            judged = sum(
                json.loads(row.raw)["result"] in ("promoted", "rejected")
                for row in journal.events.page(1, kinds=["model"])
            )
        return [msgspec.convert(record, MovieRecord) for record in found if record is not None], judged


def _done(config: object) -> int:
    with connection(config) as client:  # type: ignore[arg-type]
        return client.heartbeat().counts.get("done", 0)


def latency(record: MovieRecord) -> float:
    """Seconds from the file standing still to the record."""
    return utc_seconds(record.times.done or "") - utc_seconds(record.times.complete or "")


def settled(record: MovieRecord) -> float:
    """Seconds from the first sight of the file to the certainty that it is whole."""
    return utc_seconds(record.times.ready or "") - utc_seconds(record.times.detected or "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--movies", type=int, default=16)
    given = parser.parse_args()
    found: dict[bool, list[MovieRecord]] = {True: [], False: []}
    candidates = {True: 0, False: 0}
    for number in range(given.rounds):
        for learns in (True, False) if number % 2 else (False, True):
            records, judged = session(given.movies, number, learns=learns)
            found[learns] += records
            candidates[learns] += judged
            print(number, learns, len(records), judged, flush=True)
    stages = sorted({stage for record in found[False] for stage in record.times.stage_s})
    rows: list[list[object]] = []
    measures = [
        ("all stages", lambda record: sum(record.times.stage_s.values())),
        *((stage, lambda record, stage=stage: record.times.stage_s.get(stage, 0.0)) for stage in stages),
        ("file whole to record", latency),
        ("first sight to certainly whole", settled),
    ]
    for label, measure in measures:
        off, on = ([measure(record) for record in found[learns]] for learns in (False, True))
        values = [f"{np.quantile(side, q):.3f}" for q in (0.5, 0.95) for side in (off, on)]
        rows.append([label, *values, f"{np.quantile(on, 0.95) / max(1e-9, np.quantile(off, 0.95)):.2f}"])
    table(
        "what the trainer costs the movies",
        ["s", "median off", "median on", "p95 off", "p95 on", "p95 on/off"],
        rows,
        f"{len(found[True])} movies each, 1024² × 20 frames, one every {INTERVAL_S:g} s, two cores, worker and trainer "
        f"with one thread each; {candidates[True]} candidates judged meanwhile.",
    )


if __name__ == "__main__":
    main()
