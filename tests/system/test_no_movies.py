"""A daemon on a directory with more than movies in it, and with movies behind links."""

from __future__ import annotations

import re

import numpy as np
import pytest

from service.subscribers.connection import connection
from streamer.simulation.microscope import encode
from streamer.writers.mrc import encode_image
from tests.system.conftest import until

pytestmark = pytest.mark.system


def _movies(site):
    with site.journal() as journal:
        return journal.movies.newest()


def test_what_is_no_movie_is_skipped_with_its_reason_and_names_decide_nothing(make_site):
    """A session as other programs leave it: two movies, whatever they are called, and what is none."""
    site = make_site(movie__pixel_size="2.0", movie__dose_per_frame="2.0")
    rng = np.random.default_rng(1)
    counts = rng.poisson(2.0, (8, 256, 256)).astype(np.uint8)
    outside = site.root.parent / "raw"
    outside.mkdir()
    (outside / "c.mrc").write_bytes(encode(counts, "mrc", 2.0))
    (site.root / "linked.mrc").symlink_to(outside / "c.mrc")
    for name in ("Lgain_cell_001.mrc", "gain_defective_2.mrc"):
        (site.root / name).write_bytes(encode(rng.poisson(2.0, counts.shape).astype(np.uint8), "mrc", 2.0))
    (site.root / "gain.mrc").write_bytes(encode(np.ones((1, 256, 256), np.uint8), "mrc", 2.0))
    (site.root / "ts.mrc").write_bytes(encode(counts, "mrc", 2.0))
    (site.root / "ts.mrc.mdoc").write_text("".join(f"[ZValue = {n}]\nTiltAngle = {3 * n}\n" for n in range(8)))
    (site.root / "a_DW.mrc").write_bytes(encode(counts[:1], "mrc", 2.0))
    daemon = site.start()
    site.wait_for(done=2, skipped=2)
    assert {m.relative for m in _movies(site) if m.state == "done"} == {"Lgain_cell_001.mrc", "gain_defective_2.mrc"}
    kinds = {m.relative: m.reason.found for m in _movies(site) if m.state == "skipped"}
    assert kinds == {"ts.mrc": "tilt series", "a_DW.mrc": "micrographs"}
    with connection(site.config) as client:
        until(lambda: sum(client.heartbeat().skipped.values()) == 4, "the counts")
        assert client.heartbeat().skipped == dict.fromkeys(
            [*kinds.values(), "gain references", "links that are not followed (watch.follow_links_to)"], 1
        )
        assert client.heartbeat().alarms == []
    monitor = site.run("monitor", "--once", "--config", str(site.config_file))
    assert re.search(r" left out: .*: 1, ", monitor.stdout)
    listed = site.run("movies", "list", "--state", "skipped", "--config", str(site.config_file))
    assert "is a tilt series of 8 images according to ts.mrc.mdoc" in listed.stdout
    (tilted,) = [m.movie_id for m in _movies(site) if m.relative == "ts.mrc"]
    assert site.run("movies", "retry", tilted, "--config", str(site.config_file)).returncode == 0
    site.wait_for(done=3)
    assert site.stop(daemon) == 0
    named = site.run(
        *("process", str(site.root / "ts.mrc"), "--output", str(site.directory / "by-hand")),
        *("--config", str(site.config_file)),
    )
    assert named.returncode == 1
    assert "is a tilt series of 8 images" in named.stderr


def test_movies_behind_a_link_are_processed_with_the_gain_that_lies_beside_them(make_site, tmp_path):
    """The session's directory is a link to the raw data, as RELION's users make it."""
    gain = np.random.default_rng(2).normal(1.0, 0.05, (256, 256)).astype(np.float32)
    counts = np.random.default_rng(1).poisson(np.broadcast_to(2.0 / gain, (8, 256, 256))).astype(np.uint8)
    raw = tmp_path / "raw"
    site = make_site(movie__pixel_size="2.0", movie__dose_per_frame="2.0", watch__follow_links_to=f'["{raw}"]')
    (raw / "day1").mkdir(parents=True)
    (raw / "day1" / "m.mrc").write_bytes(encode(counts, "mrc", 2.0))
    (raw / "day1" / "gain.mrc").write_bytes(encode_image(gain, pixel_size=2.0))
    (site.root / "day2").mkdir()
    (site.root / "day2" / "gain.mrc").write_bytes(encode_image(gain + 0.5, pixel_size=2.0))
    (site.root / "Movies").symlink_to(raw / "day1")
    daemon = site.start()
    site.wait_for(done=1)
    (movie,) = [m for m in _movies(site) if m.state == "done"]
    assert movie.relative == "Movies/m.mrc"
    assert movie.record.source.gain_path == str(site.root / "Movies" / "gain.mrc")
    assert site.stop(daemon) == 0
