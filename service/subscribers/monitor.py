"""The live display: everything it shows comes over the wire, so it runs wherever a subscriber can.

Works at 80 × 24 over SSH; a taller terminal shows more micrographs. ``--once`` prints the display once and exits. A
question mark stands behind figures that the detector's pattern may have raised, because no gain corrected it, and
behind a defocus whose rings are weak.
"""

from __future__ import annotations

import re
import threading
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.client import Client, MemoryCursor
from service.printable import printable
from service.wire.heartbeat import Heartbeat
from service.wire.messages import SERVES_AFTER, Event, Position
from streamer.errors import ServiceError
from streamer.movie_record import DENOISER
from streamer.runtime.clock import SYSTEM, Clock, utc_seconds

_STATE_STYLE = {"running": "green", "paused": "yellow", "stopping": "yellow", "stopped": "red", "starting": "yellow"}
_ENDED_BADLY = {"failed", "quarantined", "incomplete", "vanished"}
_MOST_MOVIES = 200
_SILENT_S = 3.0
_BARS = "▁▂▃▄▅▆▇█"
_CURVE_MOVIES = 18
_EPU = re.compile(r"GridSquare_(\d+)/.*FoilHole_(\d+)_", re.IGNORECASE)
_PATH = re.compile(r"/(?:[^\s:;,/]+/)+")
_FRAME_LINES = 12
"""Lines taken by everything except the micrographs."""
_COLUMNS = ("field", "SSNR", "SNBR*", "×Wiener", "res Å", "move Å", "def µm", "by", "s")
_WIDE = 90
"""Columns of a terminal from which the first of these, the share of the field that the figures are of, has room."""


class MonitorView:
    """What is known, and how it is drawn."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self.heartbeat: Heartbeat | None = None
        self.heard = 0.0
        self._movies: dict[str, Event] = {}
        self._model: Event | None = None
        self._promoted: Event | None = None
        self._alerts: list[Event] = []

    def add(self, event: Event) -> None:
        """Note an event."""
        if event.kind == "movie":
            self._movies.pop(event.body["movie_id"], None)
            self._movies[event.body["movie_id"]] = event
            while len(self._movies) > _MOST_MOVIES:
                del self._movies[next(iter(self._movies))]
        elif event.kind == "model" and event.body.get("network", DENOISER) == DENOISER:
            self._model = event
            if event.body.get("result") in SERVES_AFTER:
                self._promoted = event
        elif event.kind == "alert":
            self._alerts = [*self._alerts, event][-20:]

    def beat(self, heartbeat: Heartbeat) -> None:
        """Note a sign of life."""
        self.heartbeat, self.heard = heartbeat, self._clock.monotonic()

    # --------------------------------------------------------------------------------------------- drawing

    def draw(self, height: int, width: int = 80) -> RenderableType:
        """Draw everything, for a terminal with this many lines and columns."""
        left_out = self._left_out()
        rows = max(3, height - _FRAME_LINES - len(left_out))
        table = self._table(rows, shows_field=width >= _WIDE)
        return Group(self._head(), self._figures(), *left_out, table, self._foot())

    def _head(self) -> Text:
        beat = self.heartbeat
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" cryoem-streamer ", style="bold reverse")
        if beat is None:
            return text.append("  waiting for the daemon …", style="yellow")
        silent = self._clock.monotonic() - self.heard > _SILENT_S
        state = "silent" if silent else beat.state
        text.append(f" {beat.instance} ")
        text.append(f" {state} ", style=f"bold {'red' if silent else _STATE_STYLE.get(beat.state, 'white')}")
        text.append(f" session {beat.session or '-'} ")
        text.append(f" up {_duration(beat.uptime_s)} ", style="dim")
        return text

    def _figures(self) -> Panel:
        beat = self.heartbeat or Heartbeat()
        heard = self.heartbeat is not None
        grid = Table.grid(padding=(0, 2))
        for _ in range(4):
            grid.add_column(no_wrap=True)
        oldest = "" if beat.oldest_pending_s is None else f", oldest {_duration(beat.oldest_pending_s)}"
        settling = f", {beat.settling} arriving" if beat.settling else ""
        rate = beat.rates.get("movies_per_hour")
        counts = beat.counts
        bad = sum(counts.get(state, 0) for state in _ENDED_BADLY)
        grid.add_row(
            _label("queue"),
            f"{beat.pending} waiting{oldest}{settling}" if heard else "-",
            _label("done"),
            Text(f"{counts.get('done', 0)}, {bad} failed" if heard else "-", style="red" if bad else ""),
        )
        grid.add_row(
            _label("rate"),
            "-" if rate is None else f"{rate:.0f} movies/h",
            _label("latency"),
            f"p50 {_seconds(beat.latency_p50_s)}  p95 {_seconds(beat.latency_p95_s)}",
        )
        training = ", training" if beat.rates.get("training") else ""
        grid.add_row(
            _label("model"),
            f"{beat.model_version or 'none yet'}{self._age()}{training}" if heard else "-",
            _label("disk"),
            "  ".join(f"{name} {free / 1e9:.0f} GB" for name, free in beat.disk_free_bytes.items() if name != "state")
            or "-",
        )
        grid.add_row(_label("learned"), self._learning_curve(), _label("specimen"), self._specimen())
        grid.add_row(
            _label("gate"),
            self._gate(),
            _label("device"),
            beat.device or ("-" if beat.state == "stopped" or not heard else "starting"),
        )
        return Panel(grid, padding=(0, 1))

    def _left_out(self) -> list[Text]:
        """One line about the files that are no movies, the most frequent first; none where there are none."""
        skipped = self.heartbeat.skipped if self.heartbeat else {}
        if not skipped:
            return []
        words = ", ".join(f"{kind}: {count}" for kind, count in skipped.items())
        return [Text(f" left out: {printable(words)}", style="dim", no_wrap=True, overflow="ellipsis")]

    def _age(self) -> str:
        if self._promoted is None or not (self.heartbeat and self.heartbeat.model_version):
            return ""
        seconds = self._clock.wall() - utc_seconds(self._promoted.t_utc)
        return f", {_duration(max(0.0, seconds))} old"

    def _gate(self) -> str:
        if self._model is None:
            return "nothing judged yet"
        figures = self._model.body.get("figures") or {}
        gain = ""
        if figures.get("snbr") and figures.get("snbr_wiener"):
            gain = f", {figures['snbr'] / figures['snbr_wiener']:.2f}× Wiener"
        return f"{self._model.body.get('version')} {self._model.body.get('result')}{gain}"

    def _learning_curve(self) -> str:
        """The network's gain over the Wiener filter on the latest movies, each before it was used for training."""
        figures = [e.body.get("metrics") or {} for e in self._movies.values()]
        scores = [one.get("score") for one in figures if not one.get("empty")]
        gains = [score.get("gain_shown") or score["gain"] for score in scores if score][-_CURVE_MOVIES:]
        if not gains:
            return "no movie scored yet"
        top = max(2.0, *gains)
        # the lowest bar is the Wiener filter or less
        heights = [min(7, max(0, round(7.0 * (gain - 1.0) / (top - 1.0)))) for gain in gains]
        return f"{''.join(_BARS[height] for height in heights)} {gains[-1]:.2f}×"

    def _specimen(self) -> str:
        number = (self.heartbeat.rates if self.heartbeat else {}).get("specimen")
        empty = (self.heartbeat.rates if self.heartbeat else {}).get("empty_in_a_row")
        nothing = f", {empty:.0f} empty in a row" if empty else ""
        return "-" if number is None else f"{number:.0f}{nothing}"

    def _table(self, rows: int, *, shows_field: bool) -> Table:
        table = Table(expand=True, box=None, padding=(0, 1), header_style="bold dim")
        table.add_column("square/hole or file", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in _COLUMNS[not shows_field :]:
            table.add_column(name, justify="right", no_wrap=True)
        for event in list(self._movies.values())[-rows:][::-1]:
            first, *figures = _movie_row(event)
            table.add_row(first, *figures[not shows_field :])
        return table

    def _foot(self) -> Text:
        raised = self.heartbeat.alarms if self.heartbeat else []
        if raised:
            words = f" ! {raised[-1].name}: {_shortened(raised[-1].message)}"
            return Text(words, style="bold red", no_wrap=True, overflow="ellipsis")
        notices = {e.seq: f"{e.body.get('name')}: {e.body.get('message')}" for e in self._alerts}
        notices |= {
            e.seq: f"{_short(e.body)}: {e.body['flags'][-1]}" for e in self._movies.values() if e.body.get("flags")
        }
        last = f"; last notice: {_shortened(notices[max(notices)])}" if notices else ""
        return Text(f" no alarms{last}", style="dim", no_wrap=True, overflow="ellipsis")


def _movie_row(event: Event) -> tuple[RenderableType, ...]:
    """One micrograph: name, figures, what made the restored image, latency."""
    body = event.body
    name = _short(body)
    if body["state"] != "done":
        reason = _why(body)
        style = "red" if body["state"] in _ENDED_BADLY else "dim"
        return (Text(f"{name} {reason}".strip(), style=style), *("",) * 7, Text(body["state"], style=style), "")
    metrics = body.get("metrics") or {}
    wiener, denoised = metrics.get("snbr_half_wiener"), metrics.get("snbr_half_denoised")
    best = denoised if denoised is not None else wiener
    # of the picture that is shown, if it is known; halves gain more, and all that older records know
    score = metrics.get("score") or {}
    of_halves = denoised / wiener if denoised is not None and wiener and score.get("share") is None else None
    gain = of_halves if score.get("gain_shown") is None else score["gain_shown"]
    model = (body.get("model") or {}).get("version")
    mark = "?" if metrics.get("pattern_may_raise") else ""
    share = metrics.get("usable_share")
    return (
        Text(name),
        # of which the figures are, where that is not all
        Text(f"{share:.0%}" if share is not None and share < 0.99 else "", style="yellow"),
        _marked(metrics.get("ssnr_full"), 2, mark),
        _marked(best, 2, mark),
        Text(_number(gain, 2), style="green" if gain and gain > 1 else ""),
        _marked(metrics.get("frc_resolution_angstrom"), 1, mark),
        _number(metrics.get("total_motion_angstrom") if metrics.get("motion_trusted") else None, 1),
        _defocus(body.get("ctf") or {}),
        Text("empty", style="yellow") if metrics.get("empty") else model or body.get("restoration") or "-",
        _number(_latency(body), 1),
    )


def _defocus(ctf: dict[str, Any]) -> Text:
    """Mean defocus, µm; nothing is shown where no rings were found."""
    u, v = ctf.get("defocus_u_angstrom"), ctf.get("defocus_v_angstrom")
    mean = None if u is None or v is None else 0.5e-4 * (u + v)
    return _marked(mean, 2, "?" if ctf.get("state") == "weak" else "")


def _why(body: dict[str, Any]) -> str:
    """What happened to a movie, in few words: the rest, and what to do, is in ``movies show``."""
    message = str((body.get("reason") or {}).get("message", ""))
    place = f"{body.get('path')}: "
    if place in message:
        message = message[message.index(place) + len(place) :]
    return _shortened(message.partition("; ")[0])


def _latency(body: dict[str, Any]) -> float | None:
    times = body.get("times")
    if not isinstance(times, dict) or not times.get("complete") or not times.get("done"):
        return None
    done, complete = (datetime.fromisoformat(str(times[key])) for key in ("done", "complete"))
    return (done - complete).total_seconds()


def _short(body: dict[str, Any]) -> str:
    """Grid square and hole of an EPU movie, else the file's name; control characters never reach the terminal."""
    told = (body.get("source") or {}).get("acquisition") or {}
    path = str(body.get("path") or body["movie_id"])
    name = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    epu = _EPU.search(path)
    if epu or told.get("foil_hole"):
        square, hole = (epu[1], epu[2]) if epu else (told.get("grid_square") or "", told["foil_hole"])
        name = f"{square[-4:]}/{hole}"
    return printable(name)


def _shortened(message: str) -> str:
    """The message with its paths cut to base names, so that its end is visible at 80 columns."""
    return printable(_PATH.sub("…/", message))


def _label(text: str) -> Text:
    return Text(text, style="dim")


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1000.0 else ">999"


def _marked(value: float | None, digits: int, mark: str) -> Text:
    """A number, with a mark where it is doubtful."""
    words = _number(value, digits)
    return Text(words if value is None else words + mark, style="yellow" if mark else "")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m" if hours else f"{minutes} m {rest:02d} s" if minutes else f"{rest} s"


def watch(client: Client, *, once: bool, console: Console | None = None, stop: threading.Event | None = None) -> None:
    """Show the board until interrupted, or once.

    Raises
    ------
    ServiceError
        With ``once``, if no daemon answers.
    """
    console, board = console or Console(), MonitorView()
    if once:
        newest = client.heartbeat()
        board.beat(newest)
        for event in client.events(_catch_up(client, board, newest), idle_timeout=1.0):
            board.add(event)
            if event.seq >= newest.seq:
                break
        console.print(board.draw(console.height, console.width))
        return
    stop = stop or threading.Event()
    with Live(
        board.draw(console.height, console.width), console=console, screen=console.is_terminal, auto_refresh=False
    ) as live:
        threading.Thread(target=_feed, args=(client, board, stop), name="feed", daemon=True).start()
        while not stop.wait(0.5):
            live.update(board.draw(console.height, console.width), refresh=True)


def _catch_up(client: Client, board: MonitorView, newest: Heartbeat) -> MemoryCursor:
    """Take the history of the session's model, and return the cursor from which the last micrographs follow."""
    for event in client.snapshot(kinds=("model",), session=newest.session or None).events:
        board.add(event)
    return MemoryCursor(Position(newest.epoch, max(0, newest.seq - _MOST_MOVIES)))


def _feed(client: Client, board: MonitorView, stop: threading.Event) -> None:
    """Keep the board up to date; the daemon may come and go."""
    while not stop.is_set():
        try:
            newest = client.heartbeat()
            board.beat(newest)
            for event in client.events(_catch_up(client, board, newest), stop=stop, on_heartbeat=board.beat):
                board.add(event)
        except ServiceError:
            stop.wait(1.0)
