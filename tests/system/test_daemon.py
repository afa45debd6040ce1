"""The main job with real processes: found, processed, journalled, published, and never twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import gemmi
import pytest

from service.client import FileCursor, MemoryCursor
from service.layout import layout_of, read_endpoints
from service.subscribers.connection import connection
from service.wire.messages import movie_record
from streamer import jsontext
from streamer.movie_record import MovieRecord, Times
from tests.system.conftest import children_of, until

pytestmark = pytest.mark.system


def movie_events(site, cursor=None):
    with connection(site.config, kinds=["movie"]) as client:
        return list(client.events(cursor or MemoryCursor(), idle_timeout=1.0))


def partial_files(site):
    return [path for path in (site.directory / "results").rglob(".*") if path.is_file()]


def test_movies_are_processed_and_a_second_start_repeats_nothing(make_site):
    site = make_site()
    daemon = site.start()
    site.expose(3)
    site.wait_for(done=3)
    until(lambda: (site.results / "micrographs.star").is_file(), "the table")
    assert site.stop(daemon) == 0

    records = {}
    for path in site.results.rglob("*.json"):
        record = jsontext.decode(path.read_bytes(), MovieRecord)
        records[record.movie_id] = record
        for output in record.outputs:
            assert hashlib.sha256((site.results / output.path).read_bytes()).hexdigest() == output.sha256
        assert record.source is not None
        assert record.source.evidence == "sidecar"
        assert record.source.gain is not None
        assert record.times.complete is not None
    assert len(records) == 3
    table = gemmi.cif.read(str(site.results / "micrographs.star")).find_block("micrographs")
    assert len(table.find_loop("_rlnMicrographName")) == 3

    again = site.start()
    with connection(site.config) as client:
        until(lambda: client.heartbeat().counts.get("done") == 3, "a heartbeat")
        # a full look at the directory has been taken once a new movie has gone through
        site.expose(1, first=3)
        site.wait_for(done=4)
        # joined after the end, a subscriber gets every event by replay
        events = movie_events(site)
    assert [event.body["state"] for event in events] == ["done"] * 4
    assert len({event.event_id for event in events}) == 4
    with site.journal() as journal:
        assert all(movie.attempt == 1 for movie in journal.movies.newest())
    assert site.stop(again) == 0


def test_process_gives_the_same_bytes_and_record_as_the_daemon(make_site, tmp_path):
    site = make_site()
    daemon = site.start()
    (path,) = site.expose(1)
    site.wait_for(done=1)
    (event,) = movie_events(site)
    site.stop(daemon)
    live = movie_record(event)

    done = site.run(
        "process", str(path), "--output", str(tmp_path / "offline"), "--config", str(site.config_file), "--json"
    )
    assert done.returncode == 0, done.stderr
    offline = jsontext.decode(done.stdout.encode(), MovieRecord)
    assert dataclasses.replace(offline, times=Times()) == dataclasses.replace(live, times=Times())
    for output in live.outputs:
        same = (tmp_path / "offline" / "test" / output.path).read_bytes()
        assert same == (site.results / output.path).read_bytes(), output.role


def free_ports(count):
    """Ports that nobody uses just now: a subscriber that outlives the daemon needs them to stay."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_killed_worker_and_killed_daemon_lose_and_double_nothing(make_site, tmp_path):
    events_port, journal_port = free_ports(2)
    site = make_site(events__events_port=str(events_port), events__journal_port=str(journal_port))
    daemon = site.start()
    log = (tmp_path / "subscriber.jsonl").open("wb")
    subscriber = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "subscribe", "--config", str(site.config_file), "--kind", "movie"]
        + ["--cursor", str(tmp_path / "cursor")],
        stdout=log,
    )
    try:
        site.expose(3)
        until(lambda: site.counts().get("started"), "a movie at work")
        worker = children_of(daemon)["worker"]
        os.kill(worker, signal.SIGKILL)
        site.wait_for(done=3)
        assert children_of(daemon)["worker"] != worker

        site.expose(3, first=3)
        until(lambda: site.counts().get("started"), "a movie at work")
        orphan = children_of(daemon)["worker"]
        daemon.kill()
        daemon.wait()
        until(lambda: not Path(f"/proc/{orphan}").exists(), "the worker to die with its daemon")

        daemon = site.start()
        site.wait_for(done=6)
        newest = movie_events(site)
        until(lambda: (tmp_path / "subscriber.jsonl").read_bytes().count(b"\n") >= 6, "the subscriber")
    finally:
        subscriber.send_signal(signal.SIGINT)
        subscriber.wait()
        log.close()
    assert site.stop(daemon) == 0
    received = [json.loads(line) for line in (tmp_path / "subscriber.jsonl").read_text().splitlines()]
    assert [event["event_id"] for event in received] == [event.event_id for event in newest]
    assert [event["state"] for event in received] == ["done"] * 6
    assert len({event["movie_id"] for event in received}) == 6
    assert partial_files(site) == []


def test_sigterm_finishes_the_movie_in_hand(make_site):
    site = make_site()
    daemon = site.start()
    site.expose(2)
    until(lambda: site.counts().get("started"), "a movie at work")
    assert site.stop(daemon) == 0
    counts = site.counts()
    assert counts.get("started", 0) == 0
    assert partial_files(site) == []
    assert counts.get("done", 0) + counts.get("ready", 0) <= 2
    again = site.start()
    site.wait_for(done=2)
    with site.journal() as journal:
        assert all(movie.attempt == 1 for movie in journal.movies.newest())
    site.stop(again)


def test_metrics_of_a_running_daemon_pass_promtool(make_site):
    site = make_site()
    daemon = site.start()
    site.expose(1)
    site.wait_for(done=1)
    with connection(site.config) as client:
        client.heartbeat()
        client.heartbeat()
    endpoints = read_endpoints(layout_of(site.config))
    text = urllib.request.urlopen(endpoints.metrics, timeout=10).read()
    site.stop(daemon)
    assert b'streamer_movies_total{state="done"} 1.0' in text
    assert b"streamer_movie_ssnr_full" in text
    assert text.count(b"\nstreamer_") < 300
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


def test_a_second_daemon_of_the_instance_is_refused(make_site):
    site = make_site()
    daemon = site.start()
    second = site.run("run", "--config", str(site.config_file))
    assert second.returncode == 75
    assert "streamer:" in second.stderr
    site.stop(daemon)


def test_the_operator_reaches_a_running_daemon(make_site):
    site = make_site()
    daemon = site.start()
    site.expose(1)
    site.wait_for(done=1)
    listed = site.run("movies", "list", "--config", str(site.config_file), "--json")
    (movie,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert movie["state"] == "done"
    again = site.run("movies", "retry", movie["movie_id"], "--config", str(site.config_file))
    assert "revision 2" in again.stdout, again.stderr
    until(lambda: (site.counts().get("done"), site.counts().get("superseded")) == (1, 1), "the second revision")
    until(lambda: list(site.results.rglob("r2/*.json")), "its files")
    assert list(site.results.rglob("r1/*.json")), "outputs are never deleted by us"
    refused = site.run("movies", "skip", movie["movie_id"], "--config", str(site.config_file))
    assert refused.returncode != 0
    assert "can no longer be skipped" in refused.stderr
    site.stop(daemon)
    # and without a daemon, on the journal itself
    skipped = site.run("movies", "retry", "0123456789abcdef", "--config", str(site.config_file))
    assert skipped.returncode == 64
    assert "does not know" in skipped.stderr


def test_monitor_once_fits_a_small_terminal(make_site):
    site = make_site()
    daemon = site.start()
    site.expose(2)
    site.wait_for(done=2)
    shown = subprocess.run(
        [sys.executable, "-m", "service.cli", "monitor", "--once", "--config", str(site.config_file)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"},
        check=False,
    )
    site.stop(daemon)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "running" in lines[0]
    assert sum("wiener" in line or "none" in line for line in lines) >= 2


def test_the_cursor_of_a_subscriber_survives_the_daemon(make_site, tmp_path):
    site = make_site()
    daemon = site.start()
    site.expose(1)
    site.wait_for(done=1)
    cursor = FileCursor(tmp_path / "cursor")
    assert len(movie_events(site, cursor)) == 1
    site.stop(daemon)
    again = site.start()
    site.expose(1, first=1)
    site.wait_for(done=2)
    assert len(movie_events(site, cursor)) == 1, "only what is new"
    site.stop(again)
