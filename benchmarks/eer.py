"""Reading EER: a Falcon's movie into fractions, beside the bare decoder on the same bytes.

    python benchmarks/eer.py [raw frames] [side in px]

The control is ``imagecodecs.eer_decode`` alone: every stream from memory, with as many threads, added into one buffer
per thread. What our reader does beside it: finds the frames, reads them from the file, divides them into fractions and
checks that nothing is missing.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import imagecodecs
import numpy as np

from benchmarks.harness import Cost, measured, table
from streamer.readers import movie
from streamer.settings import EerSettings
from streamer.simulation.eer_encoder import BITS, Events, encode_eer, encode_frame

THREADS, REPEATS, DISTINCT = 2, 5, 8
EVENTS_PER_PIXEL = 0.025
"""Of one raw frame: 25 e⁻/px in 1000."""


def streams_of(n: int, side: int) -> list[bytes]:
    """A few distinct raw frames, over and over: decoding does not know."""
    rng = np.random.default_rng(0)
    distinct = []
    for _ in range(DISTINCT):
        places = np.flatnonzero(rng.random(side * side, dtype=np.float32) < EVENTS_PER_PIXEL)
        x, y = rng.integers(0, 4, (2, len(places)))
        distinct.append(encode_frame(Events(places=places, x=x, y=y), side * side, BITS[65001]))
    return [distinct[index % DISTINCT] for index in range(n)]


def bare(streams: list[bytes], side: int, upsampling: int) -> Cost:
    """The decoder alone."""
    finer = upsampling.bit_length() - 1

    def decode(part: list[bytes]) -> None:
        out = np.zeros((side * upsampling, side * upsampling), np.uint8)
        for stream in part:
            imagecodecs.eer_decode(stream, out.shape, *BITS[65001], superres=finer, out=out)

    with measured() as cost, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(decode, [streams[start::THREADS] for start in range(THREADS)]))
    return cost


def ours(path: Path, upsampling: int) -> Cost:
    """From the file to 40 fractions in memory."""
    eer = EerSettings(fractions=40, upsampling=upsampling)
    with measured() as cost:
        header = movie.read_header(path, eer=eer)
        movie.read_counts(path, header, in_memory_bytes=1 << 40, threads=THREADS, eer=eer)
    return cost


def main() -> None:
    n, side = (int(word) for word in (*sys.argv[1:3], *("1000", "4096")[len(sys.argv[1:3]) :]))
    streams = streams_of(n, side)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "movie.eer"
        path.write_bytes(encode_eer(streams, (side, side), metadata={"numberOfFrames": ("", str(n))}))
        size = path.stat().st_size
        for upsampling in (1, 2):
            pairs = [(bare(streams, side, upsampling), ours(path, upsampling)) for _ in range(REPEATS)]
            for name, costs in (
                ("eer_decode alone", [a for a, _ in pairs]),
                ("ours, 40 fractions", [b for _, b in pairs]),
            ):
                rows.append(
                    [
                        f"{side * upsampling}²",
                        name,
                        f"{median(cost.wall_s for cost in costs):.2f}",
                        f"{median(cost.cpu_s for cost in costs):.2f}",
                    ]
                )
            ratios = [(b.wall_s / a.wall_s, b.cpu_s / a.cpu_s) for a, b in pairs]
            rows.append([f"{side * upsampling}²", "ratio", *(f"{median(r[k] for r in ratios):.2f}" for k in (0, 1))])
    note = f"{n} raw frames of {side}², {size / 1e6:.0f} MB, {EVENTS_PER_PIXEL} events per px; {THREADS} threads"
    table("EER reading", ["grid", "reader", "wall s", "CPU-s"], rows, note)


if __name__ == "__main__":
    main()
