"""Bad input gets a named error in the journal, and the next movie is not affected."""

from __future__ import annotations

import os
import resource
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.subscribers.connection import connection
from streamer.simulation.microscope import encode
from tests.system.conftest import SMALL, children_of, until

pytestmark = pytest.mark.system


def reasons(site):
    """Name of the error, or the state, by file name."""
    with site.journal() as journal:
        return {
            Path(movie.relative).name: movie.reason.error if movie.reason else movie.state
            for movie in journal.movies.newest(limit=1000)
        }


def test_each_kind_of_bad_movie_is_named_and_the_next_one_is_done(make_site):
    site = make_site(
        watch__incomplete_after_s="2.0", movie__pixel_size="2.0", movie__dose_per_frame="2.0", session__name='"test"'
    )
    site.expose(1)
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (8, 256, 256)).astype(np.uint8)
    whole = encode(counts, "tiff", 2.0)
    (site.root / "cut.tiff").write_bytes(whole[: len(whole) * 2 // 3])
    lying = bytearray(encode(counts, "mrc", 2.0))
    struct.pack_into("<i", lying, 8, 9000)
    (site.root / "lying.mrc").write_bytes(lying)
    (site.root / "text.tiff").write_text("this is not a movie\n" * 100)
    (site.root / "zero.mrc").write_bytes(encode(np.zeros_like(counts), "mrc", 2.0))
    (site.root / "other_size.mrc").write_bytes(encode(counts[:, :200], "mrc", 2.0))
    garbled = bytearray(whole)
    garbled[600:900] = b"\xff" * 300
    (site.root / "garbled.tiff").write_bytes(garbled)
    (site.root / "empty.mrc").write_bytes(b"")

    daemon = site.start()
    site.wait_for(done=1, failed=4, incomplete=3)
    site.expose(1, first=1)
    site.wait_for(done=2)
    found = reasons(site)
    assert site.stop(daemon) == 0
    assert {name: found[name] for name in found if "Fractions" not in name and "fractions" not in name} == {
        "cut.tiff": "MovieNotReady",
        "lying.mrc": "MovieNotReady",
        "empty.mrc": "MovieNotReady",
        "text.tiff": "MovieUnsupported",
        "zero.mrc": "MovieCorrupt",
        "other_size.mrc": "MovieMismatch",
        "garbled.tiff": "MovieCorrupt",
    }


def test_a_full_disk_is_told_retried_and_leaves_nothing_half_written(make_site):
    site = make_site()
    scope = replace(SMALL, shape=(512, 512))
    daemon = site.start()
    until(lambda: children_of(daemon).get("worker"), "the worker")
    worker = children_of(daemon)["worker"]
    # a file may not grow beyond this: the disk's answer to a micrograph of 1 MiB
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    site.expose(1, scope=scope)
    with connection(site.config) as client:
        until(lambda: any(a.name == "outputs-failing" for a in client.heartbeat().alarms), "the alarm")
        with site.journal() as journal:
            (movie,) = journal.movies.newest()
            assert movie.state in ("ready", "started")
            assert movie.reason is None or movie.reason.error == "OutputError"
        assert not [p for p in site.results.rglob("*") if p.is_file() and p.name.startswith(".")]
        assert not list(site.results.rglob("*.json")), "no record of a movie that is not whole"
        # space again: it goes on by itself
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        site.wait_for(done=1)
        until(lambda: not client.heartbeat().alarms, "the alarm to clear")
    with site.journal() as journal:
        assert journal.movies.newest()[0].attempt == 1, "a full disk is not the movie's fault"
    assert site.stop(daemon) == 0


def test_any_file_name_survives(make_site):
    site = make_site(movie__pixel_size="2.0", movie__dose_per_frame="2.0")
    counts = np.random.default_rng(1).poisson(2.0, (8, 256, 256)).astype(np.uint8)
    name = os.fsdecode(b"odd \xff na\nme \x1b[31m.mrc")
    (site.root / name).write_bytes(encode(counts, "mrc", 2.0))
    daemon = site.start()
    site.wait_for(done=1)
    listed = site.run("movies", "list", "--config", str(site.config_file))
    assert site.stop(daemon) == 0
    assert "\x1b" not in listed.stdout
    assert len(listed.stdout.splitlines()) == 1


def test_movies_with_several_gains_wait_for_people_and_the_others_go_on(make_site):
    site = make_site(movie__pixel_size="2.0", movie__dose_per_frame="2.0")
    counts = np.random.default_rng(1).poisson(2.0, (8, 256, 256)).astype(np.uint8)
    unclear, clear = site.root / "unclear", site.root / "clear"
    for directory, gains in ((unclear, ("gain_a.mrc", "gain_b.mrc")), (clear, ("gain.mrc",))):
        directory.mkdir()
        for name in gains:
            (directory / name).write_bytes(encode(np.ones((1, 256, 256), np.uint8), "mrc", 2.0))
        (directory / "m.mrc").write_bytes(encode(counts, "mrc", 2.0))
    daemon = site.start()
    site.wait_for(done=1)
    with connection(site.config) as client:
        until(lambda: client.heartbeat().alarms, "the alarm")
        (alarm,) = client.heartbeat().alarms
        for words in ("several gain references could apply", "gain_a.mrc", "gain_b.mrc", "movie.gain"):
            assert words in alarm.message
        (unclear / "gain_a.mrc").unlink()
        site.wait_for(done=2)
        until(lambda: not client.heartbeat().alarms, "the alarm to clear")
    assert site.stop(daemon) == 0


def test_a_volume_that_goes_away_for_a_while_loses_no_movie(make_site):
    """Movies wait in the queue longer than any patience; the volume goes away and comes back."""
    site = make_site(watch__incomplete_after_s="1.0", movie__pixel_size="2.0", movie__dose_per_frame="2.0")
    daemon = site.start()
    with connection(site.config, local=True) as operator:
        operator.control("pause")
        site.expose(2)
        site.wait_for(ready=2)
        ready = time.monotonic()
        until(lambda: time.monotonic() - ready > 1.5, "longer than incomplete_after_s")
        away = site.root.with_name("away")
        site.root.rename(away)
        operator.control("resume")
        until(lambda: any(m.reason for m in _movies(site)), "the first failed try")
        away.rename(site.root)
    site.wait_for(done=2)
    assert site.stop(daemon) == 0


def test_a_gain_that_is_still_being_written_is_waited_for(make_site):
    site = make_site(watch__incomplete_after_s="1.0", movie__pixel_size="2.0", movie__dose_per_frame="2.0")
    counts = np.random.default_rng(1).poisson(2.0, (8, 256, 256)).astype(np.uint8)
    whole = encode(np.ones((1, 256, 256), np.uint8), "mrc", 2.0)
    gain = site.root / "gain.mrc"
    gain.write_bytes(whole[:2000])
    (site.root / "m.mrc").write_bytes(encode(counts, "mrc", 2.0))
    daemon = site.start()
    with connection(site.config) as client:
        until(lambda: any(a.name == "gain-unclear" for a in client.heartbeat().alarms), "the alarm")
        gain.write_bytes(whole)
        site.wait_for(done=1)
        until(lambda: not client.heartbeat().alarms, "the alarm to clear")
    assert site.stop(daemon) == 0


def _movies(site):
    with site.journal() as journal:
        return journal.movies.newest()
