"""F9, F12: a GPU that is full, a trainer that dies, checkpoints that are not what they were."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.serving.session_model import SessionModel
from models.versions.base_weights import shipped_base
from models.versions.store import ModelStore, copy_version
from streamer.errors import ModelError
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.specimen import random_protein
from tests.faults.sites import assert_nothing_lost, movie_bytes, put, quick
from tests.system.conftest import SMALL, children_of, make_site, until  # noqa: F401 - a fixture


@pytest.mark.parametrize("times", [1, 2])
def test_out_of_gpu_memory(make_site, tmp_path, report, times):  # noqa: F811
    """By a hook: the first failure leaves out what takes the memory, the second leaves the GPU alone."""
    site = quick(make_site)
    armed = ",".join(f"stage-align=m1@{time}:oom" for time in range(1, times + 1))
    for number in range(3):
        put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
    began = time.monotonic()
    daemon = site.start(STREAMER_FAULT=armed)
    site.wait_for(done=3)
    took = time.monotonic() - began
    with site.journal() as journal:
        found = {record.path: record for record in journal.movies.done("test")}
        (hit,) = [movie for movie in journal.movies.newest() if movie.relative == "m1.mrc"]
    assert found["m1.mrc"].shed == ["denoise", "super-resolution"]
    assert [r.shed for name, r in found.items() if name != "m1.mrc"] == [[], []]
    (flag,) = [flag for flag in found["m1.mrc"].flags if flag.startswith("shed:")]
    assert ("computed on the CPU" in flag) == (times == 2)
    assert hit.attempt == times + 1
    assert site.log().count("the worker exited") == 0
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, {f"m{number}.mrc" for number in range(3)})
    assert took <= 60.0
    way = "without network and fine grid" if times == 1 else "on the CPU"
    report(
        "F9",
        f"out of GPU memory {times}× (by a hook)",
        n=1,
        figure=f"done {way}, flagged, {took:.0f} s",
        target="0 lost",
    )


def test_a_movie_that_takes_more_memory_than_allowed(make_site, tmp_path, report):  # noqa: F811
    """The limit holds the worker, not the machine: the movie fails with words, the next one is done."""
    site = quick(make_site, instance__worker_memory_gib="0.9")
    big = tmp_path / "big"
    big.mkdir()
    put(site.root, "a.mrc", movie_bytes(tmp_path, 1))
    huge = movie_of(big, (40, 3072, 3072))
    put(site.root, "huge.mrc", huge)
    put(site.root, "z.mrc", movie_bytes(tmp_path, 2))
    daemon = site.start()
    until(lambda: site.counts().get("done", 0) == 2 and not site.counts().get("started"), "the two others")
    until(lambda: {"quarantined", "failed"} & site.counts().keys(), "the huge one to be given up", 240)
    with site.journal() as journal:
        (found,) = [movie for movie in journal.movies.newest() if movie.relative == "huge.mrc"]
    assert found.state in ("quarantined", "failed")
    assert "memory" in found.reason.message
    assert site.stop(daemon) == 0
    report(
        "F10",
        "a movie beyond the worker's memory",
        n=1,
        figure=f"{found.state}, the others done",
        target="no death of the daemon",
    )


def movie_of(directory, shape):
    import mrcfile
    import numpy as np

    with mrcfile.new(directory / "x", overwrite=True) as file:
        file.set_data(np.random.default_rng(0).poisson(1.0, shape).astype(np.int8))
        file.voxel_size = 2.0
    return (directory / "x").read_bytes()


def test_checkpoints_that_are_not_what_they_were(tmp_path, often, report):
    n, rng = often(40, 100), random.Random(12)
    base, refused = shipped_base(), 0
    for number in range(n):
        place = tmp_path / f"v{number:04d}"
        copy_version(base, place)
        weights = next(place.glob("*.safetensors"))
        kind = number % 4
        if kind == 0:
            data = bytearray(weights.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            weights.write_bytes(data)
        elif kind == 1:
            weights.write_bytes(weights.read_bytes()[: rng.randrange(weights.stat().st_size)])
        elif kind == 2:
            tensors = load_file(weights)
            name = rng.choice(sorted(tensors))
            tensors[name] = torch.full_like(tensors[name], float("nan"))
            save_file(tensors, weights)
        else:
            (place / "manifest.json").write_bytes(rng.randbytes(200))
        try:
            SessionModel(place)
        except ModelError:
            refused += 1
        shutil.rmtree(place)
    assert refused == n
    report(
        "F12", "checkpoints flipped, cut, NaN, without manifest", n=n, figure=f"{refused} refused", target="0 served"
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_trainer_that_dies_or_stops_costs_no_movie(make_site, tmp_path, report, how):  # noqa: F811
    site = quick(make_site, session_model__enabled="true")
    daemon = site.start()
    # nothing is learned from a movie in which there is nothing to see
    (exposure,) = expose(Plan(directory=tmp_path / "scope", scope=SMALL, specimen=random_protein(1), format="mrc"))
    movie = exposure.path.read_bytes()
    put(site.root, "first.mrc", movie)
    site.wait_for(done=1)
    until(lambda: "trainer" in children_of(daemon), "the trainer")
    trainer = children_of(daemon)["trainer"]
    os.kill(trainer, how)
    for number in range(6):
        # the same picture each time: another one would be another specimen, and get a trainer of its own
        put(site.root, f"m{number}.mrc", movie)
    site.wait_for(done=7)
    if how == signal.SIGSTOP:
        os.kill(trainer, signal.SIGCONT)
    assert site.stop(daemon) == 0
    assert ModelStore(site.directory / "state" / "sessions" / "test" / "models").current() in (None, "v0000")
    assert_nothing_lost(site, {"first.mrc", *(f"m{number}.mrc" for number in range(6))})
    report("F12", f"trainer: {how.name}", n=1, figure="7 of 7 done, what served serves on", target="incumbent serves")
