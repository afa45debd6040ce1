"""Eight ways in which movies come into a directory, as scripts of timed actions over real, small files.

Section 2.4 of the reliability reference names them. A script changes one file (and its mdoc) in the order in which
acquisition and copy programs do; every file carries the date of the script's own time, so that a run may be as fast
as it likes without two writes falling into one tick of the kernel's clock.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import imagecodecs
import numpy as np

from streamer.readers.files import identity
from streamer.records import FileIdentity
from streamer.simulation.eer_encoder import BITS, Events, encode_eer, encode_frame

N_FRAMES, SHAPE = 12, (10, 16)
EPOCH = 1_750_000_000.0
"""Date of the files at time 0, s."""
FORMATS = ("mrc", "tif", "eer")


@dataclass(frozen=True)
class Material:
    """A movie in all the states through which it grows; the last is the finished one."""

    suffix: str
    states: tuple[bytes, ...]

    @property
    def finished(self) -> bytes:
        return self.states[-1]


def material(kind: str, rng: np.random.Generator, *, proven: bool) -> Material:
    """A random movie; not ``proven``: the file does not tell how many frames it will have, if its format can."""
    make = {"mrc": _mrc, "tif": _tiff, "eer": _eer}[kind]
    return Material(kind, tuple(make(rng, proven)))


def _mrc(rng: np.random.Generator, proven: bool) -> Iterator[bytes]:
    frames = rng.integers(1, 50, (N_FRAMES, *SHAPE)).astype("<u2")
    head = mrc_head(N_FRAMES)
    for count in range(N_FRAMES + 1):
        # a program that does not know the number of frames writes its header anew with each
        yield (head if proven else mrc_head(max(1, count))) + frames[:count].tobytes()


def mrc_head(n_frames: int, shape: tuple[int, int] = SHAPE, mode: int = 6) -> bytes:
    """An MRC header as small as it may be."""
    head = bytearray(1024)
    struct.pack_into("<4i", head, 0, shape[1], shape[0], n_frames, mode)
    struct.pack_into("<i", head, 28, shape[1])
    head[208:212] = b"MAP "
    return bytes(head)


def _tiff(rng: np.random.Generator, proven: bool) -> Iterator[bytes]:
    frames = rng.integers(1, 50, (N_FRAMES, *SHAPE)).astype(np.uint8)
    return iter(tiff_states(frames, [None, "lzw", "zlib"][rng.integers(3)], rows=int(rng.integers(3, 11))))


def tiff_states(frames: np.ndarray, compression: str | None, *, rows: int = 4) -> list[bytes]:
    """A classic TIFF file after each of its pages: strips, then directory, then the pointer to it."""
    number, encode = {
        None: (1, bytes),
        "lzw": (5, imagecodecs.lzw_encode),
        "zlib": (8, imagecodecs.zlib_encode),
    }[compression]
    data, link, states = bytearray(b"II*\0\0\0\0\0"), 4, []
    height, width = frames.shape[1:]
    for frame in frames:
        turned = frame[::-1]
        strips = [encode(np.ascontiguousarray(turned[row : row + rows]).tobytes()) for row in range(0, height, rows)]
        places = np.cumsum([len(data), *map(len, strips)])[:-1]
        data += b"".join(strips)
        data += bytes(len(data) % 2)
        tables = len(data)
        data += struct.pack(f"<{len(strips)}I", *places) + struct.pack(f"<{len(strips)}I", *map(len, strips))
        n, counts = len(strips), tables + 4 * len(strips)
        inline = n == 1
        entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8 * frames.itemsize), (259, 3, 1, number)]
        entries += [(262, 3, 1, 1), (273, 4, n, int(places[0]) if inline else tables), (277, 3, 1, 1)]
        entries += [(278, 4, 1, rows), (279, 4, n, len(strips[0]) if inline else counts)]
        directory = len(data)
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += bytes(4)
        struct.pack_into("<I", data, link, directory)
        link = len(data) - 4
        states.append(bytes(data))
    return states


def _eer(rng: np.random.Generator, proven: bool) -> Iterator[bytes]:
    streams = eer_streams(rng, N_FRAMES)
    told = {"numberOfFrames": ("", str(N_FRAMES))} if proven else {}
    told["exposureTime"] = ("s", "0.05")
    for count in range(1, N_FRAMES + 1):
        yield encode_eer(streams[:count], SHAPE, metadata=told)


def eer_streams(rng: np.random.Generator, n_raw: int, shape: tuple[int, int] = SHAPE) -> list[bytes]:
    """Random events of hardware frames."""
    n_pixels, streams = shape[0] * shape[1], []
    for _ in range(n_raw):
        n = int(rng.integers(n_pixels // 8, n_pixels // 3))
        places = np.sort(rng.choice(n_pixels, n, replace=False))
        events = Events(places=places, x=rng.integers(0, 4, n), y=rng.integers(0, 4, n))
        streams.append(encode_frame(events, n_pixels, BITS[65001]))
    return streams


class StaleListing:
    """What a file server's listing says of some files, though opening them says otherwise."""

    def __init__(self) -> None:
        self._told: dict[int, FileIdentity] = {}

    def identity(self, status: os.stat_result) -> FileIdentity:
        """In place of ``streamer.watch.scan.identity``."""
        return self._told.get(status.st_ino) or identity(status)

    def freeze(self, path: Path, size: int | None = None) -> None:
        """Go on telling what is true now, or another size."""
        now = identity(path.stat())
        self._told[now.inode] = now if size is None else replace(now, size=size)

    def thaw(self, path: Path) -> None:
        self._told.pop(path.stat().st_ino, None)


@dataclass
class Script:
    """What happens to one movie, and when."""

    path: Path
    rng: np.random.Generator
    start: float
    stale: StaleListing
    skew: float = 0.0
    """How far the clock that dates the files is ahead, s."""
    actions: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    complete: float = 0.0
    """When the last byte, name or date of the movie was right."""
    known: bool = False
    """An older movie lies there, which has been processed."""

    def __post_init__(self) -> None:
        self.now = self.start

    def wait(self, low: float, high: float) -> Script:
        self.now += self.rng.uniform(low, high)
        return self

    def do(self, what: Callable[[Path], None], path: Path | None = None, *, date: float | None = None) -> Script:
        """Add an action on the movie; it is dated now, or as told (s since 1970)."""
        target, when = path or self.path, EPOCH + self.now + self.skew if date is None else date

        def act() -> None:
            what(target)
            if target.exists():
                os.utime(target, ns=(round(when * 1e9),) * 2)

        self.actions.append((self.now, act))
        self.complete = self.now
        return self

    def mdoc(self, *, early: bool) -> None:
        """Let a sidecar appear, in two pieces; a number may be cut in between."""
        text = f"PixelSpacing = 0.83\n[FrameSet = 0]\nNumSubFrames = {N_FRAMES}\nTargetDefocus = -1\n"
        path = self.path.with_name(self.path.name + ".mdoc")
        cut = text.index(str(N_FRAMES)) + 1 if self.rng.random() < 0.3 else int(self.rng.integers(1, len(text)))
        first = self.start + 0.1 if early else self.complete + self.rng.uniform(0, 8)
        for when, piece in ((first, text[:cut]), (first + self.rng.uniform(0.1, 1.0), text)):
            self.actions.append((when, lambda piece=piece: path.write_text(piece)))
            self.complete = max(self.complete, when)


def growth(states: tuple[bytes, ...], rng: np.random.Generator) -> list[Callable[[Path], None]]:
    """Bring a file from state to state: new bytes at its end in one piece or two, then what changes before them."""
    steps: list[Callable[[Path], None]] = [_put(0, b"")]
    before = b""
    for state in states:
        tail = state[len(before) :]
        cut = int(rng.integers(1, len(tail))) if rng.random() < 0.5 and len(tail) > 1 else len(tail)
        pieces = [(len(before), tail[:cut]), (len(before) + cut, tail[cut:])]
        old, new = np.frombuffer(before, np.uint8), np.frombuffer(state[: len(before)], np.uint8)
        changed = np.flatnonzero(old != new)
        if len(changed):
            first, last = int(changed[0]), int(changed[-1]) + 1
            pieces.append((first, state[first:last]))
        steps += [_put(offset, piece) for offset, piece in pieces if piece]
        before = state
    return steps


def _put(offset: int, piece: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, piece, offset)
        finally:
            os.close(descriptor)

    return put


def _fill(data: bytes, rng: np.random.Generator) -> list[tuple[int, Callable[[Path], None]]]:
    """Put a file's bytes in their places, from front to back: offset and action of each piece."""
    cuts = [0, *sorted(rng.choice(np.arange(1, len(data)), int(rng.integers(4, 12)), replace=False)), len(data)]
    return [(int(a), _put(int(a), data[a:b])) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def _allocate(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(bytes(size))


# The models. Each takes a script, the movie and how long a writer pauses where the model has it pause (s).

Pause = tuple[float, float]


def page_at_a_time(script: Script, movie: Material, pause: Pause) -> None:
    for step in growth(movie.states, script.rng):
        script.do(step).wait(0.2, 4.0)


def preallocate_and_fill(script: Script, movie: Material, pause: Pause) -> None:
    """As copying does on Windows and over SMB: full size first, then bytes from front to back.

    Half of the writers pause once, before they come to the last frame: one that pauses within it cannot be told.
    """
    script.do(_allocate(len(movie.finished)))
    pieces = _fill(movie.finished, script.rng)
    before_last = [offset for offset, _ in pieces if offset <= len(movie.states[-2])]
    at = script.rng.choice(before_last) if script.rng.random() < 0.5 else -1
    for offset, step in pieces:
        script.wait(*(pause if offset == at else (0.1, 1.5))).do(step)


def stall(script: Script, movie: Material, pause: Pause) -> None:
    steps = growth(movie.states, script.rng)
    at = int(script.rng.integers(1, len(steps)))
    for number, step in enumerate(steps):
        script.wait(*(pause if number == at else (0.1, 1.0))).do(step)


def temporary_name(script: Script, movie: Material, pause: Pause) -> None:
    name = script.path.name
    names = (f".{name}.Xy12", f"{name}.tmp", f"{name}.part", f"{name}.downloading")
    temporary = script.path.with_name(names[script.rng.integers(len(names))])
    for step in growth(movie.states, script.rng):
        script.do(step, temporary).wait(0.1, 1.0)
    final, date = script.path, EPOCH + script.now + script.skew
    script.wait(0, 20).do(lambda path: path.rename(final), temporary)
    script.do(lambda path: None, date=date)


def append_after_close(script: Script, movie: Material, pause: Pause) -> None:
    """All but the last pieces at once; the file is closed, opened again later and finished."""
    steps = growth(movie.states, script.rng)
    late = int(script.rng.integers(1, 8))
    for step in steps[:-late]:
        script.do(step)
    script.wait(*pause)
    for step in steps[-late:]:
        script.do(step)


def rsync_in_place(script: Script, movie: Material, pause: Pause) -> None:
    """Over an older movie that has been processed; a larger old one is cut to size last, before it is dated."""
    script.known = True
    script.path.write_bytes(material(movie.suffix, script.rng, proven=True).finished)
    os.utime(script.path, (EPOCH - 5000, EPOCH - 5000))
    for _, step in _fill(movie.finished, script.rng):
        script.do(step).wait(0.1, 1.5)
    script.do(lambda path: os.truncate(path, len(movie.finished)))
    script.do(lambda path: None, date=EPOCH - 900 + script.skew)


def robocopy(script: Script, movie: Material, pause: Pause) -> None:
    """Dates what is unfinished 1970."""
    script.do(_allocate(len(movie.finished)), date=0.0)
    steps = _fill(movie.finished, script.rng)
    at = int(script.rng.integers(len(steps)))
    for number, (_, step) in enumerate(steps):
        script.wait(*(pause if number == at else (0.1, 1.5))).do(step, date=0.0)
    script.wait(0.1, 5.0).do(lambda path: None, date=EPOCH - 60 + script.skew)


def delayed_size(script: Script, movie: Material, pause: Pause) -> None:
    """The listing of an SMB server tells an old, smaller size for a while, or the final one before it is true."""
    steps, stale = growth(movie.states, script.rng), script.stale
    larger = script.rng.random() < 0.5
    frozen = 0 if larger else int(script.rng.integers(1, len(steps)))
    for number, step in enumerate(steps):
        script.do(step)
        if number == frozen:
            size = len(movie.finished) if larger else None
            script.actions.append((script.now, lambda size=size: stale.freeze(script.path, size)))
        script.wait(0.1, 2.0)
    script.wait(0, 20)
    script.actions.append((script.now, lambda: stale.thaw(script.path)))
    script.complete = script.now


MODELS: dict[str, Callable[[Script, Material, Pause], None]] = {
    "page at a time": page_at_a_time,
    "preallocate and fill": preallocate_and_fill,
    "stall": stall,
    "temporary name": temporary_name,
    "append after close": append_after_close,
    "rsync in place": rsync_in_place,
    "robocopy": robocopy,
    "delayed size": delayed_size,
}
