"""docs/protocol.md against the code: its example is run, its names are those of the code."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from service import wire
from service.client.join import LIVENESS
from service.publishing.publisher import (
    EVENTS_ENDPOINT,
    EVENTS_FILE,
    JOURNAL_ENDPOINT,
    JOURNAL_FILE,
    PREVIEW_ENDPOINT,
    PREVIEW_FILE,
)
from service.publishing.replies import LIMITS
from service.wire import requests
from service.wire.heartbeat import Heartbeat, PreviewHeader
from service.wire.messages import CODES, KINDS, Alert, ModelChange, PicksMade, SessionChange
from streamer.errors import Reason
from streamer.movie_record import (
    Acquisition,
    ModelRef,
    ModelScore,
    MovieQuality,
    MovieRecord,
    MovieSource,
    OutputFile,
    Software,
    SuperResolutionVerdict,
    Times,
)
from streamer.transfer_figures import CtfFigures
from tests.service_samples import Server, append, lose, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


DOCUMENT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, flags=re.S | re.M)
TABLES: dict[str, type] = {
    "`movie`": MovieRecord,
    "`reason`": Reason,
    "`source`": MovieSource,
    "`source.acquisition`": Acquisition,
    "`metrics`": MovieQuality,
    "`ctf`": CtfFigures,
    "`metrics.sr`": SuperResolutionVerdict,
    "`metrics.score`": ModelScore,
    "`model` of a movie, `metrics.sr.model`": ModelRef,
    "An entry of `outputs`": OutputFile,
    "`software`": Software,
    "`times`": Times,
    "`model`": ModelChange,
    "`alert`": Alert,
    "`session`": SessionChange,
    "`picks`": PicksMade,
    "Heartbeat": Heartbeat,
    "HELLO": requests.Hello,
    "WELCOME": requests.Welcome,
    "SNAPSHOT": requests.SnapshotRequest,
    "REPLAY": requests.ReplayRequest,
    "END": requests.End,
    "PONG": requests.Pong,
    "OK": requests.Done,
    "ERROR": requests.Refusal,
    "Fields of CONTROL": requests.Control,
    "Fields of PICKS": requests.Picks,
    "Fields of a preview": PreviewHeader,
}


# ------------------------------------------------------------ the example


class Example:
    """The example as a program of its own, in a directory of its own."""

    def __init__(self, directory: Path, server: Server) -> None:
        text = EXAMPLE
        for ours, theirs in ((EVENTS_ENDPOINT, server.events), (JOURNAL_ENDPOINT, server.journal)):
            assert text.count(f'"{ours}"') == 1
            text = text.replace(ours, theirs)
        self.directory = directory
        self._program, self._output = directory / "example.py", directory / "output"
        self._program.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("ab") as output:
            command = [sys.executable, "-I", "-X", "faulthandler", str(self._program)]
            self._process = subprocess.Popen(command, cwd=self.directory, stdout=output, stderr=output)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def status(self) -> int | None:
        """Exit status; None: it is running."""
        assert self._process is not None
        return self._process.poll()

    @property
    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    @property
    def seqs(self) -> list[int]:
        return [int(line.split()[0]) for line in self.lines]

    def has(self, n: int) -> Callable[[], bool]:
        """Whether event n was dealt with and is remembered."""

        def check() -> bool:
            assert self.status() is None, self.lines[-20:]
            cursor = self.directory / "cursor.json"
            return cursor.exists() and json.loads(cursor.read_bytes())["seq"] == n

        return check


@contextmanager
def following(directory: Path, server: Server) -> Iterator[Example]:
    example = Example(directory, server)
    example.start()
    try:
        yield example
    finally:
        example.kill()


def test_it_is_short_and_needs_nothing_of_ours() -> None:
    assert sum(1 for line in EXAMPLE.splitlines() if line.strip()) <= 40
    assert re.findall(r"^\s*(?:import|from) (.*)$", EXAMPLE, flags=re.M) == ["contextlib, json, os, sys, zmq"]


def test_it_follows_from_the_first_event_on_and_misses_nothing(server: Server, tmp_path: Path) -> None:
    server.call(append(300))
    with following(tmp_path, server) as example:
        wait_until(example.has(300), 30)
        server.call(append(50))
        wait_until(example.has(350))
        published = server.call(lambda journal, _: [row.raw for row in journal.events.page(1, 10_000, 10**9)])
    events = [json.loads(raw) for raw in published]
    assert example.lines == [f"{event['seq']} {event['kind']} {event['event_id']}" for event in events]


def test_a_lost_message_is_found_by_the_next_event(server: Server, tmp_path: Path) -> None:
    with following(tmp_path, server) as example:
        server.call(append(1))
        wait_until(example.has(1))
        server.beating = False
        server.call(lose(3))
        server.call(append(1))
        wait_until(example.has(5))
    assert example.seqs == [1, 2, 3, 4, 5]


def test_a_lost_message_at_the_very_end_is_found_by_the_heartbeat(server: Server, tmp_path: Path) -> None:
    with following(tmp_path, server) as example:
        server.call(append(1))
        wait_until(example.has(1))
        server.call(lose(200))
        wait_until(example.has(201))
    assert example.seqs == list(range(1, 202))


def test_it_is_stopped_for_a_while_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    """Also where more was published meanwhile than any queue holds."""
    with following(tmp_path, server) as example:
        server.call(append(10))
        wait_until(example.has(10))
        example.signal(signal.SIGSTOP)
        for _ in range(6):
            server.call(append(500))
        server.call(lose(20))
        example.signal(signal.SIGCONT)
        server.call(append(10))
        wait_until(example.has(3040), 60)
    assert example.seqs == list(range(1, 3041))


def test_it_goes_on_from_its_cursor_after_a_kill(server: Server, tmp_path: Path) -> None:
    with following(tmp_path, server) as example:
        for n in range(1, 4):
            server.call(append(20))
            wait_until(example.has(40 * n - 20))
            example.kill()
            server.call(append(20))
            example.start()
            wait_until(example.has(40 * n))
    assert example.seqs == list(range(1, 121))


def test_the_server_stops_and_comes_back(short_path: Path, tmp_path: Path) -> None:
    server = Server(short_path).start()
    try:
        with following(tmp_path, server) as example:
            server.call(append(20))
            wait_until(example.has(20))
            server.stop()
            server.start()
            server.call(append(20))
            wait_until(example.has(40), 20)
            # a rebuilt journal tells everything again
            server.stop()
            server.file = "rebuilt.sqlite"
            server.start()
            server.call(append(5))
            wait_until(example.has(5), 20)
        assert example.seqs == [*range(1, 41), *range(1, 6)]
        assert len(set(example.lines)) == 45
    finally:
        server.stop()


def test_it_ends_where_going_on_would_lose_something(server: Server, tmp_path: Path) -> None:
    epoch = server.call(lambda journal, _: journal.events.epoch)
    server.call(append(3))
    (tmp_path / "cursor.json").write_text(json.dumps({"epoch": epoch, "seq": 7}))
    with following(tmp_path, server) as example:
        assert wait_until(example.status) == 1
        assert "cannot go on from" in example.lines[-1]


# ------------------------------------------------------------ the words


def section_of(heading: str) -> str:
    """Text of the one section of this name, without its subsections."""
    (text,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", outside_code(), flags=re.S | re.M)
    return str(text)


def outside_code() -> str:
    return re.sub(r"^```.*?^```", "", DOCUMENT, flags=re.S | re.M)


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.M)


def test_every_table_of_fields_belongs_to_a_struct() -> None:
    sections = re.split(r"^#+ ", outside_code(), flags=re.M)
    assert {text.split("\n")[0] for text in sections if "| field |" in text} == {*TABLES, "Envelope"}


@pytest.mark.parametrize("heading", TABLES)
def test_the_fields_of_a_table_are_those_of_the_struct(heading: str) -> None:
    whole = msgspec.json.schema(TABLES[heading])
    told = whole["$defs"][whole["$ref"].rpartition("/")[2]]
    names = set(told["properties"]) - ({"session"} if heading == "`movie`" else set())
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section_of(heading), flags=re.M)
    assert sorted(name for name, _ in rows) == sorted(names)
    for name, kind in rows:
        assert ("may be absent" in kind) is (name not in told["required"]), name
        assert ("null" in kind) is ('"null"' in json.dumps(told["properties"][name])), name


def test_the_fields_of_the_envelope() -> None:
    assert first_cells(section_of("Envelope")) == list(wire.schema("event")["properties"])


def test_every_code_verb_and_kind_is_explained() -> None:
    text = section_of("Requests and replies")
    assert re.findall(r"^\| ([A-Z_]{3,}) \|", text, flags=re.M)[-len(CODES) :] == list(CODES)
    verbs = {verb.decode() for verb in (*requests._REQUESTS, *requests._REPLIES, requests.EV, requests.ROW)}
    assert verbs <= set(re.findall(r"[A-Z]+", text))
    assert set(KINDS) <= set(re.findall(r"^### `(\w+)`$", DOCUMENT, flags=re.M))


def test_the_arguments_of_control() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*)\| ([^|]*)\|", section_of("Commands"), flags=re.M)
    found = {verb: tuple(set(re.findall(r"\w+", cell)) for cell in cells) for verb, *cells in rows}
    assert found == requests._ARGUMENTS


def test_endpoints_and_limits() -> None:
    sockets = section_of("Sockets")
    for name in (EVENTS_ENDPOINT, JOURNAL_ENDPOINT, PREVIEW_ENDPOINT, EVENTS_FILE, JOURNAL_FILE, PREVIEW_FILE):
        assert f"`{name}`" in sockets
    assert set(re.findall(r"`(\w+)`", section_of("WELCOME").split("`limits`")[1])) == set(LIMITS)
    assert LIMITS == {
        "requests_per_s": 50, "page_events": 256, "page_bytes": 2**20, "request_bytes": 2**14, "header_bytes": 2**16
    }  # fmt: skip
    assert LIVENESS == 3


def test_links_within_the_document_lead_to_a_heading() -> None:
    seen: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", outside_code(), flags=re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        seen.append(f"{name}-{seen.count(name)}" if name in seen else name)
    links: list[Any] = re.findall(r"\]\(#([^)]+)\)", DOCUMENT)
    assert links
    assert set(links) <= set(seen)
