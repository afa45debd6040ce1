"""Small pictures for who looks at once: what is sent, and what happens to those who do not read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import msgspec
import numpy as np
import pytest
import zmq

from service.publishing import publisher as publisher_module
from service.publishing.previews import preview_of
from service.publishing.publisher import Publisher
from service.wire.heartbeat import PREVIEW_BYTES, PREVIEW_HEADER_BYTES, PREVIEW_SCHEMA, PreviewHeader
from service.wire.messages import Topic, instance_topic, parse_topic
from streamer.movie_record import MovieRecord, OutputFile
from streamer.writers.thumbnail import encode_png
from tests.service_samples import make_record, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.journal.journal import Journal

ANY = "tcp://127.0.0.1:0"
NOON = 1795176000.0


def shown(
    directory: Path, picture: np.ndarray | bytes, whole: tuple[int, int] = (64, 96), **changes: Any
) -> MovieRecord:
    """A record whose thumbnail is this picture, on disk below the directory."""
    raw = picture if isinstance(picture, bytes) else bytes(imagecodecs.png_encode(picture))
    path = directory / "movies" / "a_thumbnail.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    micrograph = OutputFile(
        role="micrograph", path="movies/a.mrc", bytes=1, sha256="d" * 64, shape=list(whole), pixel_size=0.83
    )
    thumbnail = OutputFile(role="thumbnail", path="movies/a_thumbnail.png", bytes=len(raw), sha256="e" * 64)
    return make_record(**{"path": "grid1/a.tif", "outputs": [micrograph, thumbnail]} | changes)


def ramp(height: int, width: int) -> np.ndarray:
    """Every row and column another; the top left corner is 0."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows * 7 + columns * 3) % 251).astype(np.uint8)


def parsed(frames: list[bytes] | None) -> tuple[Topic, PreviewHeader, np.ndarray]:
    assert frames is not None
    assert len(frames) == 3
    header = msgspec.json.decode(frames[1], type=PreviewHeader)
    assert len(frames[1]) <= PREVIEW_HEADER_BYTES
    assert len(frames[2]) == header.height * header.width <= PREVIEW_BYTES
    pixels = np.frombuffer(frames[2], header.dtype).reshape(header.height, header.width)
    return parse_topic(frames[0]), header, pixels


# ------------------------------------------------------------ what is sent


def test_three_frames_topic_header_pixels(tmp_path: Path) -> None:
    picture = ramp(48, 72)
    frames = preview_of(shown(tmp_path, picture), tmp_path, "scope-1", NOON)
    topic, header, pixels = parsed(frames)
    assert frames[0] == b"v1/scope-1/preview/grid1/"
    assert (topic.instance, topic.kind, topic.session) == ("scope-1", "preview", "grid1")
    record = make_record()
    assert header == PreviewHeader(
        schema=PREVIEW_SCHEMA,
        movie_id=record.movie_id,
        revision=1,
        session="grid1",
        path="grid1/a.tif",
        role="thumbnail",
        height=48,
        width=72,
        dtype="uint8",
        pixel_size=pytest.approx(0.83 * 96 / 72),
        t_utc="2026-11-20T12:00:00.000Z",
    )
    np.testing.assert_array_equal(pixels, picture)


def test_the_first_row_is_the_top_of_the_screen(tmp_path: Path) -> None:
    """The micrograph's first row is the bottom one; its picture is turned, and the preview is as the picture."""
    micrograph = np.zeros((40, 60), np.float32)
    micrograph[-8:] = 1.0
    record = shown(tmp_path, encode_png(micrograph, longer_side_px=60))
    _, _, pixels = parsed(preview_of(record, tmp_path, "i", NOON))
    assert (pixels[:8] == 255).all()
    assert (pixels[8:] == 0).all()


@pytest.mark.parametrize("shape", [(512, 512), (513, 512), (1024, 1024), (1537, 700), (100, 4000), (1, 300_000)])
def test_a_large_picture_is_thinned_until_it_fits(tmp_path: Path, shape: tuple[int, int]) -> None:
    picture = ramp(*shape)
    whole = (4 * shape[0], 4 * shape[1])
    _, header, pixels = parsed(preview_of(shown(tmp_path, picture, whole), tmp_path, "i", NOON))
    step = -(-shape[1] // header.width)
    np.testing.assert_array_equal(pixels, picture[::step, ::step])
    assert header.pixel_size == pytest.approx(0.83 * whole[1] / header.width)
    # no smaller than it has to be
    assert step == 1 or -(-shape[0] // (step - 1)) * -(-shape[1] // (step - 1)) > PREVIEW_BYTES


def test_without_a_micrograph_of_known_pixels_the_pixel_size_is_not_made_up(tmp_path: Path) -> None:
    record = shown(tmp_path, ramp(10, 10))
    micrograph, thumbnail = record.outputs
    for outputs in ([thumbnail], [replace(micrograph, pixel_size=None), thumbnail]):
        changed = replace(record, outputs=outputs)
        assert parsed(preview_of(changed, tmp_path, "i", NOON))[1].pixel_size is None


def test_names_of_any_kind_stand_in_the_header_and_the_topic_stays_plain(tmp_path: Path) -> None:
    record = shown(tmp_path, ramp(4, 4), session="grid Å/1", path="grid Å/\udcff\n.tif")
    frames = preview_of(record, tmp_path, "i", NOON)
    assert frames is not None
    assert frames[0] == b"v1/i/preview/grid___1/"
    assert b"\n" not in frames[1]
    assert rb"\udcff" in frames[1]


# ------------------------------------------------------------ no picture


def test_a_movie_without_a_picture_has_no_preview(tmp_path: Path) -> None:
    assert preview_of(make_record(), tmp_path, "i", NOON) is None
    assert preview_of(make_record(state="failed"), tmp_path, "i", NOON) is None


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "text", "a directory"])
def test_a_picture_that_cannot_be_read_is_none(tmp_path: Path, damage: str) -> None:
    record = shown(tmp_path, ramp(48, 72))
    path = tmp_path / "movies" / "a_thumbnail.png"
    whole = path.read_bytes()
    path.unlink()
    if damage == "a directory":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"empty": b"", "cut": whole[:100], "text": b"not a picture"}[damage])
    assert preview_of(record, tmp_path, "i", NOON) is None


# ------------------------------------------------------------ who looks


@pytest.fixture
def publisher(journal: Journal, short_path: Path) -> Iterator[Publisher]:
    made = Publisher(journal.events, events=ANY, journal=ANY, preview=ANY, runtime_directory=short_path / "run")
    yield made
    made.close()


class Watcher:
    """A subscriber of previews that reads when it is told to, and keeps only so many that it has not read."""

    def __init__(self, publisher: Publisher, endpoint: str | None = None, unread: int = 1) -> None:
        self._publisher, self._context = publisher, zmq.Context()
        self.socket = self._context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, unread)
        self.socket.connect(endpoint or publisher.preview_endpoint)
        self.socket.subscribe(instance_topic("default"))
        before = publisher.watchers
        while publisher.watchers == before:
            handle(publisher)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def receive(self) -> list[bytes]:
        assert self.socket.poll(10_000), "no preview"
        return self.socket.recv_multipart()


def handle(publisher: Publisher) -> None:
    """Take what subscribers have said, as the daemon's loop does."""
    preview = publisher.sockets[3]
    assert preview.poll(10_000)
    publisher.handle(preview)


@pytest.mark.parametrize("local", [False, True])
def test_who_looks_gets_each_picture(publisher: Publisher, tmp_path: Path, short_path: Path, local: bool) -> None:
    watcher = Watcher(publisher, f"ipc://{short_path}/run/preview.sock" if local else None)
    for number in range(5):
        picture = np.full((8, 12), number, np.uint8)
        publisher.show(shown(tmp_path, picture, revision=number + 1), tmp_path)
        topic, header, pixels = parsed(watcher.receive())
        assert (topic.kind, header.revision, header.height, header.width) == ("preview", number + 1, 8, 12)
        assert (pixels == number).all()
    watcher.close()


def test_where_nobody_looks_nothing_is_read(publisher: Publisher, tmp_path: Path, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(publisher_module, "preview_of", lambda *what: read.append(what))
    publisher.show(shown(tmp_path, ramp(4, 4)), tmp_path)
    assert (publisher.watchers, read) == (0, [])
    first, second = Watcher(publisher), Watcher(publisher)
    assert publisher.watchers == 2
    publisher.show(shown(tmp_path, ramp(4, 4)), tmp_path)
    assert len(read) == 1, "once, however many look"
    for watcher in (first, second):
        watcher.close()
        handle(publisher)
    assert publisher.watchers == 0
    publisher.show(shown(tmp_path, ramp(4, 4)), tmp_path)
    assert len(read) == 1


def test_a_picture_that_cannot_be_read_sends_nothing(publisher: Publisher, tmp_path: Path) -> None:
    watcher = Watcher(publisher)
    publisher.show(shown(tmp_path, b""), tmp_path)
    publisher.show(make_record(), tmp_path)
    publisher.show(shown(tmp_path, ramp(3, 5), revision=7), tmp_path)
    assert parsed(watcher.receive())[1].revision == 7
    watcher.close()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_who_does_not_read_loses_pictures_and_nobody_waits_or_grows(publisher: Publisher, tmp_path: Path) -> None:
    """500 MiB of pictures for a subscriber that sleeps: it finds a few of them when it wakes, and is served again."""
    n = 2000
    asleep = Watcher(publisher)
    side = int(PREVIEW_BYTES**0.5)
    record = shown(tmp_path, np.zeros((side, side), np.uint8))
    publisher.show(record, tmp_path)
    before = resident()
    for _ in range(n):
        publisher.show(record, tmp_path)
    assert resident() - before < 100 * 2**20
    got, small = [], shown(tmp_path, ramp(3, 5), revision=2)

    def is_served_again() -> bool:
        publisher.show(small, tmp_path)
        while asleep.socket.poll(20):
            got.append(parsed(asleep.socket.recv_multipart())[1].revision)
        return got[-1:] == [2]

    wait_until(is_served_again)
    assert 0 < got.count(1) < n / 10
    asleep.close()


def test_who_sleeps_takes_nothing_from_who_reads(publisher: Publisher, tmp_path: Path) -> None:
    asleep, awake = Watcher(publisher), Watcher(publisher)
    picture = np.zeros((512, 512), np.uint8)
    for number in range(1, 101):
        publisher.show(shown(tmp_path, picture, revision=number), tmp_path)
        assert parsed(awake.receive())[1].revision == number
    for watcher in (asleep, awake):
        watcher.close()
