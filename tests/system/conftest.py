"""Whole processes: a daemon on a directory, and the means to wait for what it does without sleeping blindly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.config import Config, load
from service.journal.journal import Journal
from service.layout import layout_of, read_endpoints
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein

SMALL = Microscope(shape=(256, 256), n_frames=8, pixel_size=2.0, dose_per_frame=2.0, coverage=0.25)
DEADLINE_S = 120.0


def until(condition: Callable[[], object], what: str | Callable[[], str], timeout_s: float = DEADLINE_S) -> None:
    """Wait for a condition that other processes bring about; ``what``, if callable, is asked when it did not come."""
    tick, deadline = threading.Event(), time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s for {what if isinstance(what, str) else what()}")
        tick.wait(0.05)


class Site:
    """A directory with a configuration, a microscope and a daemon."""

    def __init__(self, directory: Path, runtime: Path, **settings: str) -> None:
        self.directory = directory
        self.config_file = directory / "config.toml"
        tables = {
            "instance": {"state": f'"{directory}/state"', "runtime": f'"{runtime}"'},
            "session": {"name": '"test"'},
            "watch": {
                "root": f'"{directory}/movies"',
                "settle_s": "0.4",
                "settle_with_sidecar_s": "0.3",
                "sidecar_wait_s": "0.5",
                "unproven_wait_s": "0.6",
            },
            "movie": {"voltage_kv": "300.0"},
            "outputs": {"root": f'"{directory}/results"'},
            "events": {"events_port": "0", "journal_port": "0", "preview_port": "0"},
            "metrics": {"port": "0"},
            "session_model": {"enabled": "false"},
            "compute": {"threads": "1"},
        }
        for name, value in settings.items():
            table, key = name.split("__")
            tables.setdefault(table, {})[key] = value
        text = "\n".join(
            f"[{table}]\n" + "\n".join(f"{key} = {value}" for key, value in keys.items())
            for table, keys in tables.items()
        )
        self.config_file.write_text(text, encoding="utf-8")
        self.root.mkdir()
        self.daemons: list[subprocess.Popen[bytes]] = []

    @property
    def root(self) -> Path:
        return self.directory / "movies"

    @property
    def config(self) -> Config:
        return load(self.config_file)

    @property
    def results(self) -> Path:
        return self.directory / "results" / "test"

    def expose(self, movies: int, first: int = 0, **plan: object) -> list[Path]:
        """Let the microscope write some movies; returns their paths."""
        options: dict[str, object] = {"scope": SMALL, "specimen": random_protein(5), "format": "mrc", "seed": 5}
        whole = Plan(directory=self.root, movies=movies, first=first, **(options | plan))  # type: ignore[arg-type]
        return [exposure.path for exposure in expose(whole)]

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a daemon and wait for its sockets."""
        layout_of(self.config).endpoints.unlink(missing_ok=True)
        with (self.directory / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "run", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )
        self.daemons.append(daemon)
        until(lambda: read_endpoints(layout_of(self.config)) or daemon.poll() is not None, "the daemon's sockets")
        assert daemon.poll() is None, self.log()
        return daemon

    def log(self) -> str:
        return (self.directory / "daemon.log").read_text(encoding="utf-8", errors="replace")

    def stop(self, daemon: subprocess.Popen[bytes]) -> int:
        """SIGTERM, and the exit status."""
        daemon.send_signal(signal.SIGTERM)
        return daemon.wait(DEADLINE_S)

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The journal, read beside the daemon."""
        journal = Journal.open(layout_of(self.config).journal, read_only=True)
        try:
            yield journal
        finally:
            journal.close()

    def counts(self) -> dict[str, int]:
        with self.journal() as journal:
            return journal.movies.counts_by_state()

    def wait_for(self, **counts: int) -> None:
        """Wait until so many movies are in each of these states."""
        until(
            lambda: all(self.counts().get(s, 0) >= n for s, n in counts.items()),
            lambda: f"{counts}, have {self.counts()}; {self.log()[-2000:]}",
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands to its end."""
        command = [sys.executable, "-m", "service.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def children_of(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Worker and trainer of a daemon by name."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        for name in ("worker", "trainer"):
            if f"service.processes.{name}" in command:
                found[name] = int(child)
    return found


@pytest.fixture
def make_site(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """Make a site; whatever still runs at the end is killed."""
    sites: list[Site] = []

    def make(**settings: str) -> Site:
        directory = tmp_path / f"site{len(sites)}"
        directory.mkdir()
        sites.append(Site(directory, tmp_path_factory.mktemp("run"), **settings))
        return sites[-1]

    yield make
    for site in sites:
        for daemon in site.daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()
