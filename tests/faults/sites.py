"""Small movies and what has to hold of a site after whatever was done to it."""

from __future__ import annotations

import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from service.journal.recovery import check
from service.layout import layout_of
from tests.system.conftest import Site

SIDE, FRAMES = 96, 4


def movie_bytes(directory: Path, seed: int) -> bytes:
    """A small MRC movie of counts."""
    path = directory / f".source-{seed}"
    counts = np.random.default_rng(seed).poisson(1.0, (FRAMES, SIDE, SIDE)).astype(np.int8)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(counts)
        file.voxel_size = 2.0
    return path.read_bytes()


def put(root: Path, name: str, data: bytes) -> None:
    """A movie that appears whole, its numbers its own."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}")
    hidden.write_bytes(data)
    hidden.rename(path)


def quick(make_site, **settings: str) -> Site:
    """A site whose movies are small and need no sidecar."""
    return make_site(**{"movie__pixel_size": "2.0", "movie__dose_per_frame": "1.0", **settings})


def partial_files(site: Site) -> list[Path]:
    """What was left half-written."""
    return [path for path in (site.directory / "results").rglob(".*.tmp-*") if path.is_file()]


def assert_nothing_lost(site: Site, names: set[str], *, state: str = "done") -> None:
    """Each movie exactly once in its state, at its first revision; events dense; all outputs hash right; none torn."""
    with site.journal() as journal:
        movies = journal.movies.newest(limit=-1)
        findings = list(check(journal, layout_of(site.config), newest=None))
    ended = [movie.relative for movie in movies if movie.state == state]
    assert sorted(ended) == sorted(names), (set(names) - set(ended), [(m.movie.relative, m.state) for m in movies])
    assert all(movie.revision == 1 for movie in movies)
    assert findings == []
    assert partial_files(site) == []


def resident(pid: int) -> int:
    """Memory that a process holds, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small volume")
