"""``streamer demo``: the whole system on a simulated microscope, watched by the very programs that users run.

The daemon starts on an empty directory; a microscope drips movies into it frame by frame, one of them damaged; a
picker follows from the start, a subscriber joins late; the microscope moves to its second grid square when the first
model has been promoted. Then everything that arrived is checked (``demo_checks``); exit status 0 only if all held.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from models.versions.store import BASE
from service.config import ANY_FREE_PORTS, Config, load
from service.demo.checks import Findings, check, report
from service.layout import layout_of, read_endpoints
from service.subscribers.connection import connection
from service.subscribers.monitor import MonitorView, watch
from streamer.errors import ServiceError, UsageError
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.wire.heartbeat import Heartbeat
    from streamer.runtime.clock import Clock

MARKER = ".streamer-demo"
SCENE = "good-session"
"""Some thickness waves, heights, boiling ice and small crystals: a good grid, not a clean one."""
_FIRST_SQUARE_SHARE = 0.6
_INTERVAL_S = 9.0
_DIAMETER = 130.0
_TRAINER_IDLE_S = 20.0

_CONFIG = """\
# Written by `streamer demo`. Everything not said here is the default, the gate above all.
[instance]
name = "demo"
state = "{directory}/state"
runtime = "{runtime}"

[session]
name = "demo"

[watch]
root = "{directory}/microscope"

[outputs]
root = "{directory}/results"
super_resolution = "always"
"""


class Demo:
    """One run."""

    def __init__(self, directory: Path, *, movies: int, seed: int, limit_s: float, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._directory, self._movies, self._seed = directory, movies, seed
        self._deadline = self._clock.monotonic() + limit_s
        self._began = self._clock.monotonic()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._console = Console()
        self._stop = threading.Event()
        self._beat: Heartbeat | None = None
        self._idle_since = 0.0

    def run(self) -> int:
        """Run, check, tell; returns the exit status."""
        self._prepare()
        runtime = Path(tempfile.mkdtemp(prefix="streamer-"))
        config_file = self._directory / "config.toml"
        place = json.dumps(str(self._directory), ensure_ascii=False)[1:-1]  # a path may hold quotes and backslashes
        config_file.write_text(_CONFIG.format(directory=place, runtime=runtime) + ANY_FREE_PORTS, encoding="utf-8")
        config = load(config_file)
        try:
            self._start(config, config_file)
            findings = check(config, self._directory, written=self._movies, damaged=1, exits=self._end(config))
        finally:
            for child in self._children.values():
                if child.poll() is None:
                    child.kill()
                    child.wait()
            shutil.rmtree(runtime, ignore_errors=True)
        return self._tell(findings)

    # ------------------------------------------------------------------------------------------------- steps

    def _prepare(self) -> None:
        """Empty the directory, but only if it is ours."""
        if self._directory.exists() and any(self._directory.iterdir()):
            if not (self._directory / MARKER).exists():
                raise UsageError(
                    "not empty, and not made by an earlier demo", where=self._directory, hint="give another --directory"
                )
            shutil.rmtree(self._directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / MARKER).touch()

    def _start(self, config: Config, config_file: Path) -> None:
        """Play the session to its end."""
        self._say("starting the daemon on an empty directory")
        self._spawn("daemon", "run", "--config", str(config_file))
        self._until(lambda: read_endpoints(layout_of(config)) is not None, "the daemon's sockets")
        watcher = threading.Thread(target=self._show, args=(config,), name="show", daemon=True)
        watcher.start()
        pick = ("pick", "--config", str(config_file), "--diameter", str(_DIAMETER), "--json")
        self._spawn("picker", *pick, "--cursor", str(self._directory / "picker.cursor"))
        first = max(6, round(self._movies * _FIRST_SQUARE_SHARE))
        self._say(f"the microscope writes {first} movies frame by frame, one of them damaged")
        self._microscope(0, first, per_square=first)
        self._until(lambda: self._ended() >= first, "the first grid square")
        self._say("a subscriber joins late")
        cursor = str(self._directory / "subscriber.cursor")
        self._spawn("subscriber", "subscribe", "--config", str(config_file), "--cursor", cursor)
        self._say("the trainer learns from what was collected; the gate decides")
        self._idle_since = self._clock.monotonic()
        self._until(self._has_learned, "the trainer")
        serving = self._beat.model_version if self._beat else None
        self._say(f"{f'model {serving}' if serving else 'no model'} serves; on to the second grid square")
        self._microscope(first, self._movies - first, per_square=first)
        self._until(lambda: self._ended() >= self._movies, "the second grid square")
        self._until(lambda: not (self._beat and self._beat.rates.get("training")), "the last training")
        self._until(lambda: self._caught_up(), "the subscribers")
        self._stop.set()
        watcher.join(5.0)

    def _microscope(self, first: int, movies: int, *, per_square: int) -> None:
        """Let the simulated microscope write some movies, and wait for it."""
        root = str(self._directory / "microscope")
        damaged = 2
        options = ["--movies", str(movies), "--first", str(first), "--per-square", str(per_square)]
        options += [
            "--scene",
            SCENE,
            "--mode",
            "page",
            "--write-time",
            "2",
            "--interval",
            str(_INTERVAL_S),
            "--seed",
            str(self._seed),
        ]
        if first <= damaged < first + movies:
            options += ["--corrupt", str(damaged)]
        self._spawn("microscope", "simulate", root, *options)
        self._until(lambda: self._children["microscope"].poll() is not None, "the microscope")
        if self._children["microscope"].returncode != 0:
            raise ServiceError("the simulated microscope failed", where=self._directory / "microscope.log")

    def _end(self, config: Config) -> dict[str, int]:
        """Stop everything as an operator would; returns the exit status of each."""
        for name in ("picker", "subscriber", "daemon"):
            self._children[name].send_signal(signal.SIGTERM if name == "daemon" else signal.SIGINT)
            try:
                self._children[name].wait(90)
            except subprocess.TimeoutExpired:
                self._children[name].kill()
                self._children[name].wait()
        if read_endpoints(layout_of(config)) is None:
            raise ServiceError("the daemon's endpoints are gone", where=layout_of(config).endpoints)
        return {name: child.returncode for name, child in self._children.items()}

    def _tell(self, findings: Findings) -> int:
        report(self._console, findings, self._directory, self._clock.monotonic() - self._began)
        return 0 if findings.all_held else 1

    # ----------------------------------------------------------------------------------------------- details

    def _spawn(self, name: str, *arguments: str) -> None:
        """Start one of our own programs as a user would; its words go to a file of its own."""
        words = (self._directory / f"{name}.log").open("ab")
        output = (self._directory / f"{name}.jsonl").open("ab") if name in ("picker", "subscriber") else words
        command = [sys.executable, "-m", "service.cli", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with words, output:
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=words, env=environment
            )

    def _show(self, config: Config) -> None:
        """Show the live terminal, or without one a line now and then, and keep the heartbeat."""
        with connection(config) as client:
            if self._console.is_terminal:
                threading.Thread(target=self._listen, args=(config,), daemon=True).start()
                watch(client, once=False, console=self._console, stop=self._stop)
                return
        self._listen(config)
        board = MonitorView()
        with connection(config) as client:
            for event in client.snapshot().events:
                board.add(event)
            if self._beat is not None:
                board.beat(self._beat)
        self._console.print(board.draw(24))

    def _listen(self, config: Config) -> None:
        """Keep the newest heartbeat."""
        while not self._stop.is_set():
            try:
                with connection(config) as client:
                    self._beat = client.heartbeat()
            except ServiceError:
                self._stop.wait(0.5)

    def _ended(self) -> int:
        """Movies that have reached a final state."""
        counts = self._beat.counts if self._beat else {}
        return sum(n for state, n in counts.items() if state not in ("ready", "started", "superseded"))

    def _has_learned(self) -> bool:
        """Whether a version of the session's own serves, or the trainer has had its say and waits for more movies."""
        if self._beat is None:
            return False
        training = bool(self._beat.rates.get("training"))
        self._idle_since = self._idle_since if not training else self._clock.monotonic()
        own = self._beat.model_version not in (None, BASE)
        return own or self._clock.monotonic() - self._idle_since > _TRAINER_IDLE_S

    def _caught_up(self) -> bool:
        """Whether picker and subscriber have dealt with the newest event."""
        newest = self._beat.seq if self._beat else 0
        lines = (self._directory / "subscriber.jsonl").read_bytes().count(b"\n")
        picks = (self._directory / "picker.jsonl").read_bytes().count(b"\n")
        return lines >= newest and picks >= (self._beat.counts.get("done", 0) if self._beat else 1)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; the hard stop, or the end of the daemon, ends everything."""
        while not condition():
            if self._clock.monotonic() > self._deadline:
                raise ServiceError("the hard stop was reached", where="demo", expected=what)
            if self._children["daemon"].poll() is not None:
                raise ServiceError("the daemon ended by itself", where=self._directory / "daemon.log", expected=what)
            self._clock.sleep(0.2)

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            words = f"{self._clock.monotonic() - self._began:6.0f} s  {text}"
            self._console.print(words, highlight=False, markup=False, soft_wrap=True)
