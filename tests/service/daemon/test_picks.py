"""Particles that a picker hands in: a STAR file beside the outputs, an event for the others, or a clear refusal."""

from __future__ import annotations

import hashlib
import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import gemmi
import pytest
import zmq

from service.client import Client
from service.daemon.picks import take_picks
from service.layout import Layout
from service.wire.messages import PicksMade, ProtocolError, parse_event, subject_of
from service.wire.requests import Done, Refusal, Welcome, decode_reply
from tests.service_samples import UTC, Server, make_movie, make_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.journal.journal import Journal
    from service.publishing.publisher import Publisher

MOVIE, WAITING = make_movie("grid1/a.tif"), make_movie("grid1/waits.tif", inode=2)
"""A movie that is done, with a micrograph of 64 rows of 96 px, and one that is not."""
XY = [(0.0, 0.0), (95.5, 63.25), (17.125, 3.0)]


class Scene:
    """A server that takes picks, and a raw connection to its local socket."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.layout = Layout(
            root=directory / "in", output=directory / "out", state=directory / "state", runtime=directory / "run"
        )
        server.call(self._prepare)

    def _prepare(self, journal: Journal, publisher: Publisher) -> None:
        journal.add_ready(MOVIE, UTC, UTC)
        journal.start(MOVIE.movie_id, 1)
        journal.finish(make_record(MOVIE.relative))
        journal.add_ready(WAITING, UTC, UTC)
        publisher.replies.picks = partial(take_picks, journal, self.layout)

    def client(self, journal: str | None = None) -> Client:
        return Client(self.server.events, journal or self.server.local, timeout_s=5.0)

    def hand_in(
        self, coordinates: Any = XY, picker: str = "blob-1", movie_id: str = MOVIE.movie_id, **more: Any
    ) -> int:
        with self.client() as client:
            return client.hand_in(movie_id, more.pop("revision", 1), coordinates, picker=picker, **more)

    def ask(self, raw: bytes, endpoint: str | None = None) -> Any:
        """Send PICKS with these bytes, as a client of another make would; returns the reply."""
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(endpoint or self.server.local)
        try:
            socket.send_multipart([b"HELLO", b'{"versions": [1]}'])
            socket.send_multipart([b"PICKS", raw])
            replies = []
            for _ in range(2):
                assert socket.poll(5000), "no answer"
                replies.append(decode_reply(socket.recv_multipart()))
            assert isinstance(replies[0], Welcome)
            return replies[1]
        finally:
            context.destroy(linger=0)

    def files(self) -> list[Path]:
        return [path for path in self.layout.output.rglob("*") if path.is_file()]

    def events(self) -> list[Any]:
        rows = self.server.call(lambda journal, _: journal.events.page(1))
        return [parse_event(row.raw) for row in rows if row.kind == "picks"]


def request(**changes: Any) -> bytes:
    fields = {"movie_id": MOVIE.movie_id, "revision": 1, "picker": "blob-1", "coordinates": XY} | changes
    return json.dumps(fields).encode()


@pytest.fixture
def scene(server: Server, tmp_path: Path) -> Iterator[Scene]:
    return Scene(server, tmp_path)


def table(path: Path) -> list[list[float]]:
    """The STAR file as another program reads it: x, y and score."""
    block = gemmi.cif.read(str(path)).sole_block()
    columns = ["_rlnCoordinateX", "_rlnCoordinateY", "_rlnAutopickFigureOfMerit"]
    return [[float(value) for value in row] for row in block.find(columns)]


# ------------------------------------------------------------ taken


def test_picks_become_a_star_file_and_an_event_that_names_it(scene: Scene) -> None:
    seq = scene.hand_in(scores=[0.5, 1e-5, -3.0], diameter_angstrom=130.0)
    (path,) = scene.files()
    assert path == scene.layout.session_output("grid1") / "picks" / "movies" / "a_blob-1.star"
    assert table(path) == [[0.0, 0.0, 0.5], [95.5, 63.25, 1e-5], [17.125, 3.0, -3.0]]
    (event,) = scene.events()
    assert (event.seq, event.kind, event.session) == (seq, "picks", "grid1")
    assert event.body == {
        "movie_id": MOVIE.movie_id,
        "revision": 1,
        "picker": "blob-1",
        "n": 3,
        "path": "picks/movies/a_blob-1.star",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "diameter_angstrom": 130.0,
    }


def test_subscribers_are_told(scene: Scene) -> None:
    seq = scene.hand_in()
    with Client(scene.server.events, scene.server.journal, kinds=["picks"], heartbeat_s=0.05) as client:
        (event,) = client.events(idle_timeout=0.3)
    assert (event.seq, event.body["n"]) == (seq, 3)


def test_without_scores_the_figure_of_merit_is_0(scene: Scene) -> None:
    scene.hand_in()
    (path,) = scene.files()
    assert table(path) == [[x, y, 0.0] for x, y in XY]


def test_a_micrograph_without_particles_is_a_result_too(scene: Scene) -> None:
    scene.hand_in([])
    (path,) = scene.files()
    assert table(path) == []
    assert scene.events()[0].body["n"] == 0


def test_a_second_set_of_the_same_picker_replaces_the_first(scene: Scene) -> None:
    first = scene.hand_in()
    second = scene.hand_in([(1.0, 2.0)])
    (path,) = scene.files()
    assert table(path) == [[1.0, 2.0, 0.0]]
    events = scene.events()
    assert [event.seq for event in events] == [first, second]
    assert events[1].body["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() != events[0].body["sha256"]
    latest = scene.server.call(lambda journal, _: [row.seq for row in journal.events.snapshot(kinds=["picks"])])
    assert latest == [second], "who asks for a snapshot gets the one that holds"


def test_each_picker_has_a_set_of_its_own(scene: Scene) -> None:
    for picker in ("a", "b.2", "C_3-x"):
        scene.hand_in(picker=picker)
    assert {path.name for path in scene.files()} == {"a_a.star", "a_b.2.star", "a_C_3-x.star"}
    subjects = {subject_of(PicksMade(**event.body)) for event in scene.events()}
    assert len(subjects) == 3


def test_numbers_of_any_make_are_taken(scene: Scene) -> None:
    np = pytest.importorskip("numpy")
    scene.hand_in(np.array([[1, 2], [3, 4]], np.int16), scores=np.array([0.5, 0.25], np.float32))
    (path,) = scene.files()
    assert table(path) == [[1.0, 2.0, 0.5], [3.0, 4.0, 0.25]]


def test_a_thousand_particles_fit_a_message(scene: Scene) -> None:
    many = [(96.0 * math.sqrt(n) % 95, 64.0 * math.sqrt(n) % 63) for n in range(1000)]
    scene.hand_in(many)
    (path,) = scene.files()
    found = table(path)
    assert len(found) == 1000
    assert max(abs(x - u) + abs(y - v) for (x, y), (u, v, _) in zip(many, found, strict=True)) <= 1.1e-3


# ------------------------------------------------------------ refused


def refused(scene: Scene, match: str, code: str = "BAD_REQUEST", **fields: Any) -> None:
    """Handing this in is an error with these words, and nothing comes of it."""
    with pytest.raises(ProtocolError, match=match) as caught:
        scene.hand_in(**fields)
    assert caught.value.code == code
    assert scene.files() == []
    assert scene.events() == []


def test_over_tcp_it_is_forbidden(scene: Scene) -> None:
    with scene.client(scene.server.journal) as client:
        with pytest.raises(ProtocolError, match="local ipc socket only") as caught:
            client.hand_in(MOVIE.movie_id, 1, XY, picker="blob-1")
    assert caught.value.code == "FORBIDDEN"
    reply = scene.ask(request(), scene.server.journal)
    assert isinstance(reply, Refusal)
    assert reply.code == "FORBIDDEN"
    assert scene.files() == []
    assert scene.events() == []


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"movie_id": "0" * 16}, r"^0{16} r1: picks for a movie that is not done; expected done; found unknown"),
        ({"movie_id": WAITING.movie_id}, "a movie that is not done; expected done; found ready"),
        ({"revision": 2}, f"{MOVIE.movie_id} r2: picks for a movie that is not done; expected done; found unknown"),
    ],
)
def test_only_movies_that_are_done_have_particles(scene: Scene, fields: dict[str, Any], match: str) -> None:
    refused(scene, match, **fields)


def test_a_revision_that_was_superseded_has_no_particles_any_more(scene: Scene) -> None:
    scene.server.call(lambda journal, _: journal.retry(MOVIE.movie_id))
    refused(scene, "found superseded")
    refused(scene, "found ready", revision=2)


@pytest.mark.parametrize("xy", [(-0.1, 5.0), (5.0, -1.0), (96.0, 5.0), (5.0, 64.0), (1e9, 0.0), (70.0, 80.0)])
def test_a_particle_outside_its_micrograph(scene: Scene, xy: tuple[float, float]) -> None:
    """Also the one that would lie inside if rows and columns were exchanged."""
    refused(
        scene,
        rf"movies/a\.mrc: a particle lies outside the micrograph; expected x below 96 and y below 64 px; found "
        rf"{xy[0]:g}, {xy[1]:g}".replace("+", r"\+"),
        coordinates=[*XY, xy],
    )


@pytest.mark.parametrize("scores", [[], [1.0], [1.0] * 4])
def test_as_many_scores_as_particles(scene: Scene, scores: list[float]) -> None:
    refused(scene, f"3 coordinates and {len(scores)} scores", scores=scores)
    reply = scene.ask(request(scores=scores))
    assert f"3 coordinates and {len(scores)} scores" in reply.message


@pytest.mark.parametrize("picker", ["", "../x", "a/b", ".hidden", "a b", "é", "x" * 65, "a\n", "-x"])
def test_a_name_that_cannot_stand_in_a_file_name(scene: Scene, picker: str) -> None:
    refused(scene, "picker", picker=picker)
    reply = scene.ask(request(picker=picker))
    assert isinstance(reply, Refusal)
    assert reply.code == "BAD_REQUEST"
    assert "picker" in reply.message
    assert scene.files() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_no_place_and_no_score(scene: Scene, bad: float) -> None:
    refused(scene, "coordinates", coordinates=[(1.0, bad)])
    refused(scene, "scores", coordinates=[(1.0, 2.0)], scores=[bad])
    # as Python's json and others write it, though it is no JSON
    reply = scene.ask(request(coordinates=[(bad, 1.0)]))
    assert (type(reply), reply.code) == (Refusal, "BAD_REQUEST")
    assert "is not JSON" in reply.message
    assert scene.files() == []


@pytest.mark.parametrize("fields", [{"coordinates": [["BIG", 1.0]]}, {"coordinates": [XY[0]], "scores": ["BIG"]}])
def test_a_number_too_large_to_be_one(scene: Scene, fields: dict[str, Any]) -> None:
    reply = scene.ask(request(**fields).replace(b'"BIG"', b"1e999"))
    assert (type(reply), reply.code) == (Refusal, "BAD_REQUEST")
    assert "1e999 is not JSON" in reply.message
    assert scene.files() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"coordinates": [[1.0]]},
        {"coordinates": [[1.0, 2.0, 3.0]]},
        {"coordinates": "1 2"},
        {"coordinates": [["1", "2"]]},
        {"revision": 0},
        {"revision": "1"},
        {"movie_id": 7},
        {"movie_id": "x" * 65},
        {"diameter_angstrom": 0.0},
        {"diameter_angstrom": -130.0},
    ],
)
def test_what_breaks_the_protocol_is_refused_by_the_name_of_the_field(scene: Scene, fields: dict[str, Any]) -> None:
    reply = scene.ask(request(**fields))
    assert (type(reply), reply.code) == (Refusal, "BAD_REQUEST")
    assert next(iter(fields)) in reply.message
    assert scene.files() == []
    assert isinstance(scene.ask(request()), Done), "and the next one is taken as if nothing had been"


def test_a_directory_that_cannot_be_written_is_said_and_nothing_is_told(scene: Scene) -> None:
    (scene.layout.session_output("grid1")).mkdir(parents=True)
    (scene.layout.session_output("grid1") / "picks").write_text("a file where a directory should be")
    with pytest.raises(ProtocolError, match="picks"):
        scene.hand_in()
    assert scene.events() == []


def test_while_the_daemon_starts_or_stops_nobody_takes_them(scene: Scene) -> None:
    def stop(_: Journal, publisher: Publisher) -> None:
        publisher.replies.picks = None

    scene.server.call(stop)
    refused(scene, "starting or stopping", code="BUSY")
