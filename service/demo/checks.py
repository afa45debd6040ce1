"""The checks of a demo: each figure with what was expected of it."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from rich.table import Table
from rich.text import Text

from models.versions.store import BASE
from service.health.status import Status
from service.journal.journal import Journal
from service.layout import Layout, layout_of
from service.offline.process import prepare, process_all
from service.printable import printable
from service.wire.messages import Event, movie_record, parse_event
from streamer.movie_record import DENOISER

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from service.config import Config
    from streamer.movie_record import MovieRecord

_PICK_TOLERANCE = 0.25
"""Fraction of the diameter."""
_ALIGNMENT_PX = 0.2


@dataclass(slots=True)
class Findings:
    """Rows of the table: what, how much, and whether it held (None: a figure that is only reported)."""

    rows: list[tuple[str, str, bool | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Answers to questions that the table raises; printed below it."""

    def add(self, what: str, value: str, held: bool | None = None) -> None:
        """Add a row."""
        self.rows.append((what, value, held))

    @property
    def all_held(self) -> bool:
        """Whether nothing failed."""
        return all(held is not False for _, _, held in self.rows)


def check(config: Config, directory: Path, *, written: int, damaged: int, exits: dict[str, int]) -> Findings:
    """Check everything that arrived."""
    layout, findings = layout_of(config), Findings()
    journal = Journal.open(layout.journal, instance=config.instance.name, read_only=True)
    try:
        events = [parse_event(row.raw) for row in _all_events(journal)]
    finally:
        journal.close()
    records = [movie_record(event) for event in events if event.kind == "movie"]
    done = [record for record in records if record.state == "done"]
    _check_movies(findings, records, written, damaged)
    _check_subscriber(findings, events, directory / "subscriber.jsonl")
    _check_quality(findings, done)
    _check_models(findings, events, done)
    _check_alignment(findings, layout, done)
    _check_picks(findings, layout, done)
    _check_files(findings, layout, done)
    _check_reproduction(findings, config, layout, done)
    _tell_latency(findings, done)
    ended = {name: status for name, status in exits.items() if name in ("daemon", "microscope")}
    findings.add("exit status", ", ".join(f"{n} {s}" for n, s in ended.items()), not any(ended.values()))
    return findings


def _all_events(journal: Journal) -> list:  # type: ignore[type-arg]
    rows, position = [], 1
    while page := journal.events.page(position):
        rows += page
        position = page[-1].seq + 1
    return rows


def _check_movies(findings: Findings, records: list[MovieRecord], written: int, damaged: int) -> None:
    done = sum(record.state == "done" for record in records)
    failed = [record for record in records if record.state != "done"]
    named = all(record.reason is not None and record.reason.error == "MovieCorrupt" for record in failed)
    each_once = len({record.movie_id for record in records}) == len(records)
    held = done == written - damaged and len(failed) == damaged and named and each_once
    findings.add("written / processed / failed", f"{written} / {done} / {len(failed)}", held)


def _check_subscriber(findings: Findings, events: list[Event], path: Path) -> None:
    """Every event once, in order, to a subscriber that joined late."""
    received = [parse_event(line) for line in path.read_bytes().splitlines()]
    expected = [event.event_id for event in events][: len(received)]
    once = [event.event_id for event in received] == expected
    # what was published while everything was being stopped may be missing at the end, nothing else
    missing = [event for event in events[len(received) :] if event.kind == "movie"]
    held = once and not missing and len(received) > 0
    findings.add("late subscriber, each event once", f"{len(received)} events", held)


def _check_quality(findings: Findings, done: list[MovieRecord]) -> None:
    metrics = [record.metrics for record in done if record.metrics is not None]
    ssnr = [m.ssnr_full for m in metrics if m.ssnr_full is not None]
    findings.add("SSNR of the raw sum", f"{_median(ssnr):.3f} (median of {len(ssnr)})", len(ssnr) == len(done))
    networked = [m for m in metrics if m.snbr_half_denoised is not None]
    for name, values in (
        ("of the raw half", [m.snr_half for m in networked]),
        ("of the half, Wiener", [m.snbr_half_wiener for m in networked]),
        ("of the half, denoised", [m.snbr_half_denoised for m in networked]),
    ):
        findings.add(f"SNBR* {name}", f"{_median([v for v in values if v]):.3f} (median of {len(networked)})")
    findings.notes.append(
        f"SNBR* is of the {len(networked)} movies restored by a network that was not trained on them; "
        f"the other {len(done) - len(networked)} have no such figure"
    )
    verdicts = Counter(m.sr.verdict for m in metrics)
    text = ", ".join(f"{verdict} {number}" for verdict, number in verdicts.most_common())
    findings.add("super-resolution verdicts", text or "none")
    findings.notes.append("every _SR image is written here, whatever its verdict: outputs.super_resolution = always")
    gains = [(m.snbr_half_denoised or 0.0) / m.snbr_half_wiener for m in networked if m.snbr_half_wiener]
    worst = min(gains, default=0.0)
    findings.add("denoised over Wiener, worst movie", f"{worst:.2f}×", bool(gains) and worst > 1.0)


def _check_models(findings: Findings, events: list[Event], done: list[MovieRecord]) -> None:
    judged = [e.body for e in events if e.kind == "model" and e.body.get("network", DENOISER) == DENOISER]
    promoted = [body["version"] for body in judged if body["result"] == "promoted"]
    runs = [(what, len(list(same))) for what, same in groupby(f"{body['version']} {body['result']}" for body in judged)]
    text = ", ".join(what if times == 1 else f"{what} ×{times}" for what, times in runs)
    own = [version for version in promoted if version != BASE]
    findings.add("versions, base weights first", text or "none", promoted[:1] == [BASE] and bool(own))
    rejected = {body["version"] for body in judged if body["result"] == "rejected"}
    again = sorted(name for name in rejected if sum(body["version"] == name for body in judged) > 1)
    if again:
        findings.notes.append(
            f"a rejected candidate is not kept and its name is reused: {', '.join(again)} is more than one network"
        )
    used = sorted({record.model.version for record in done if record.model is not None})
    plain = sum(record.model is None for record in done)
    findings.add("model versions used", f"{', '.join(used) or 'none'}; Wiener alone {plain} times", bool(used))


def _check_alignment(findings: Findings, layout: Layout, done: list[MovieRecord]) -> None:
    """Shifts against the true drift, time mean removed, px."""
    errors = []
    for record in done:
        truth = np.load(_truth(layout, record))
        shifts = np.array(record.metrics.shifts_yx_px if record.metrics else [])
        error = shifts + truth["displacement"]
        errors.append(float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean())))
    held = max(errors, default=9.0) < _ALIGNMENT_PX
    findings.add("shift error against the truth, worst", f"{max(errors, default=9.0):.3f} px", held)


def _check_picks(findings: Findings, layout: Layout, done: list[MovieRecord]) -> None:
    """Recall and precision against the truth, and those of the same number of random points."""
    hits = found = true = chance = 0
    rng = np.random.default_rng(0)
    for record in done:
        files = {output.role: output for output in record.outputs}
        path = Path(files["micrograph"].path)
        star = layout.session_output(record.session) / "picks" / path.parent
        picked = coordinates(star / f"{path.stem}_autopick.star")
        truth = np.load(_truth(layout, record))
        # what lies under a crystal is not to be found
        particles = truth["particles"][truth["clear"]]
        pixel_size = record.source.pixel_size if record.source else 1.0
        diameter = float(truth["diameter"]) / pixel_size
        shape = np.array(files["micrograph"].shape)
        hits += matched(picked, particles, _PICK_TOLERANCE * diameter)
        chance += matched(rng.random(picked.shape) * shape, particles, _PICK_TOLERANCE * diameter)
        found += len(picked)
        inner = ((particles >= 0.4 * diameter) & (particles < shape - 0.4 * diameter)).all(1)
        true += int(inner.sum())
    recall, precision = min(1.0, hits / max(1, true)), hits / max(1, found)
    by_chance = chance / max(1, found)
    text = f"{recall:.2f} / {precision:.2f} (by chance {by_chance:.2f})"
    findings.add("picks: recall / precision", text, recall > 0.7 and precision > 3.0 * by_chance)


def _check_files(findings: Findings, layout: Layout, done: list[MovieRecord]) -> None:
    """Every listed file is complete, nothing is half-written, RELION's table has every movie."""
    whole = partial = 0
    for record in done:
        for output in record.outputs:
            data = (layout.session_output(record.session) / output.path).read_bytes()
            whole += hashlib.sha256(data).hexdigest() == output.sha256
    partial = sum(1 for path in layout.output.rglob(".*") if path.is_file())
    wanted = sum(len(record.outputs) for record in done)
    findings.add("files complete / half-written", f"{whole} of {wanted} / {partial}", whole == wanted and partial == 0)
    table = layout.session_output(done[0].session) / "micrographs.star" if done else Path()
    rows = len(gemmi.cif.read(str(table)).find_block("micrographs").find_loop("_rlnMicrographName")) if done else 0
    findings.add("rows in micrographs.star", str(rows), rows == len(done))


def _check_reproduction(findings: Findings, config: Config, layout: Layout, done: list[MovieRecord]) -> None:
    """The last movie processed again offline, with the model that its record names, gives the same bytes."""
    if not done:
        return
    record = done[-1]
    model = str(layout.models(record.session) / record.model.version) if record.model else None
    with tempfile.TemporaryDirectory() as directory:
        again = next(process_all([layout.root / record.path], prepare(config, model), Path(directory)))
    same = [output.sha256 for output in again.outputs] == [output.sha256 for output in record.outputs]
    findings.add("same bytes offline", "yes" if same else "no", same)


def _tell_latency(findings: Findings, done: list[MovieRecord]) -> None:
    """Computed by the code behind the heartbeat, so that table and monitor agree."""
    status = Status()
    for record in done:
        status.finished(record)
    p50, p95 = status.latency(0.5), status.latency(0.95)
    if p50 is not None and p95 is not None:
        findings.add("latency, complete to done", f"p50 {p50:.1f} s, p95 {p95:.1f} s")


def _truth(layout: Layout, record: MovieRecord) -> Path:
    movie = layout.root / record.path
    return movie.with_name(f"{movie.stem}_truth.npz")


def coordinates(path: Path) -> NDArray[np.float64]:
    """(n, 2) y, x of a coordinates file."""
    block = gemmi.cif.read(str(path)).sole_block()
    columns = [list(block.find_loop(f"_rlnCoordinate{axis}")) for axis in "YX"]
    return np.array(columns, dtype=np.float64).T.reshape(-1, 2)


def matched(points: NDArray[np.float64], truth: NDArray[np.float32], reach: float) -> int:
    """Number of true particles that have a point within reach; each point is used once."""
    left = [tuple(point) for point in points]
    hits = 0
    for y, x in truth:
        near = min(left, key=lambda p: (p[0] - y) ** 2 + (p[1] - x) ** 2, default=None)
        if near is not None and (near[0] - y) ** 2 + (near[1] - x) ** 2 <= reach**2:
            left.remove(near)
            hits += 1
    return hits


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def report(console: Console, findings: Findings, directory: Path, seconds: float) -> None:
    """Print the table, the notes on it, and where the pictures are."""
    table = Table(title="streamer demo", show_header=False, box=None, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, value, held in findings.rows:
        mark = Text("") if held is None else Text("ok" if held else "FAILED", style="green" if held else "bold red")
        table.add_row(Text(what), Text(value), mark)
    minutes, rest = divmod(round(seconds), 60)
    table.add_row("time", f"{minutes} min {rest:02d} s", "")
    console.print(table)
    pictures = printable(str(directory / "results" / "demo" / "movies"))
    # sentences and paths unwrapped: a narrow terminal wraps them itself, and copied text stays in one piece
    for line in ("", *(f"- {note}" for note in findings.notes), f"pictures: {pictures}", ""):
        console.print(Text(line), soft_wrap=True)
    verdict = "all checks passed" if findings.all_held else "NOT all checks passed"
    console.print(Text(verdict, style="bold green" if findings.all_held else "bold red"))
