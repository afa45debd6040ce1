"""Reads hostile files in a process of its own with bounded memory: ``python -m tests.faults.reading_child LIST``.

LIST is JSON, ``[kind, path, told]`` each; a line of JSON per file tells what came of it. The process has room for
2 GiB more than it starts with.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from streamer.detector.defect_files import read_defects
from streamer.errors import StreamerError
from streamer.metadata.sidecars import read_sidecar
from streamer.readers import movie
from streamer.readers.gain import read_gain
from streamer.watch.settling import _check_count

ROOM = 2 << 30


def read_movie(path: Path, told: int | None, in_memory_bytes: int) -> dict[str, object]:
    """As the watcher and then a worker read it; ``told`` is what a sidecar says of the number of frames."""
    header = movie.read_header(path)
    if told is not None:
        _check_count(path, header.frames_told(told), told)
    counts = movie.read_counts(path, header, in_memory_bytes=in_memory_bytes, threads=1)
    movie.check_content(path, counts)
    return {"n_frames": header.n_raw_frames or header.n_frames}


def read(kind: str, path: Path, told: int | None) -> dict[str, object]:
    if kind in ("movie", "streamed"):
        return read_movie(path, told, 1 << 33 if kind == "movie" else 0)
    if kind == "sidecar":
        found = read_sidecar(path)
        return {"n_frames": None if found is None else found.n_frames}
    if kind == "gain":
        return {"n_frames": 1, "shape": read_gain(path).values.shape}
    return {"n_frames": 1, "defects": int(read_defects(path, (64, 64)).sum())}


def largest_resident() -> int:
    """Most memory that this process has held, bytes; what getrusage tells goes on from the process before."""
    (line,) = [one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def main(listed: str) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for kind, path, told in json.loads(Path(listed).read_text(encoding="utf-8")):
        began, result = time.perf_counter(), {}
        try:
            result = read(kind, Path(path), told) | {"outcome": "read"}
        except StreamerError as error:
            result = {"outcome": type(error).__name__, "message": error.message()}
        except BaseException as error:
            result = {"outcome": "uncaught", "message": f"{type(error).__name__}: {error}"}
        result |= {"path": path, "told": told, "seconds": time.perf_counter() - began}
        result["rss"] = largest_resident()
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
