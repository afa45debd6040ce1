"""How much of the time of ``motion`` is spent on decoding that nothing hides.

    python benchmarks/decoding.py [sides in px…]

Simulated counts of 24 frames, written as LZW TIFF in strips, as deflate TIFF and as MRC; wall seconds of decoding
alone, of everything the command does, and their ratio. In the daemon the next movie is read while one is computed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import tifffile
import torch

from benchmarks.harness import measured, table
from streamer.detector.correction import correction_for, defects_of, find_hot_pixels
from streamer.motion import align
from streamer.readers import movie
from streamer.settings import MotionSettings
from streamer.simulation.microscope import encode

N_FRAMES, REPEATS = 24, 3


def counts_of(side: int) -> np.ndarray:
    """A drifting, smooth specimen, 1.2 e⁻/px/frame."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32), indexing="ij")
    frames = []
    for t in range(N_FRAMES):
        seen = 1.2 * (1.0 + 0.1 * np.sin(0.31 * (x - 0.3 * t)) * np.cos(0.27 * (y - 0.2 * t)))
        frames.append(rng.poisson(seen).astype(np.uint8))
    return np.stack(frames)


def written(path: Path, counts: np.ndarray, kind: str) -> Path:
    """The same movie as another file."""
    if kind == "deflate TIFF":
        with tifffile.TiffWriter(path) as file:
            for frame in counts:
                file.write(frame[::-1], compression="zlib", rowsperstrip=16, metadata=None, contiguous=False)
    else:
        path.write_bytes(encode(counts, "mrc" if kind == "MRC" else "tiff", 1.0))
    return path


def once(path: Path) -> tuple[float, float, float]:
    """Wall seconds of decoding, of everything, and CPU-seconds of everything."""
    with measured() as whole:
        header = movie.read_header(path)
        with measured() as decoding:
            counts = movie.read_counts(path, header, in_memory_bytes=1 << 40, threads=torch.get_num_threads())
        total = movie.check_content(path, counts).total
        hot = find_hot_pixels(total, 7.0)
        correction = correction_for(total.shape, None, defects_of(None, hot))
        align.estimate_motion(lambda i: correction.frame(counts, i), len(counts), 1.0, MotionSettings())
    return decoding.wall_s, whole.wall_s, whole.cpu_s


def main() -> None:
    torch.set_num_threads(2)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in [int(word) for word in sys.argv[1:]] or [1024, 4096]:
            counts = counts_of(side)
            for kind in ("LZW TIFF", "deflate TIFF", "MRC"):
                path = written(Path(scratch) / "movie", counts, kind)
                decoding, whole, cpu = (
                    median(values) for values in zip(*(once(path) for _ in range(REPEATS)), strict=True)
                )
                rows.append(
                    [f"{side}²", kind, f"{decoding:.2f}", f"{whole:.2f}", f"{decoding / whole:.0%}", f"{cpu:.2f}"]
                )
    note = f"{N_FRAMES} frames, two threads"
    table("Decoding in motion", ["movie", "file", "decoding s", "motion s", "share", "CPU-s"], rows, note)


if __name__ == "__main__":
    main()
