"""What is usual in a session: how many frames its movies have, and of which size; which writers give both late."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, TypeVar

from streamer.watch.proof import proof_of, proves_more

if TYPE_CHECKING:
    from streamer.records import FileIdentity, MovieHeader

_Seen = TypeVar("_Seen")

_FEWEST_TO_TELL = 3
"""Movies of a session needed to know what is usual."""


class UsualMovies:
    """Counts the movies of each session."""

    def __init__(self) -> None:
        self._frames: dict[str, Counter[int]] = defaultdict(Counter)
        """How many movies of a session had how many frames."""
        self._sizes: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
        self._proven: dict[str, bytes] = {}
        """Device and inode of a file, and how many frames its MRC header has proved."""
        self._headers_grow: set[str] = set()
        """Sessions whose MRC headers are rewritten with each frame: each state of a file is a valid, shorter movie."""

    def frames(self, session: str) -> int | None:
        """Frame count of most of the session's movies so far; None: not known."""
        return _most(self._frames[session])

    def size(self, session: str) -> tuple[int, int] | None:
        """Height and width of most of the session's movies so far, px; None: not known."""
        return _most(self._sizes[session])

    def add(self, session: str, header: MovieHeader) -> None:
        """Count a movie that is complete."""
        self._sizes[session][header.height, header.width] += 1
        # raw frames of an EER movie vary from one to the next
        if header.n_raw_frames is None:
            self._frames[session][header.n_frames] += 1

    def forget(self, relative: str) -> None:
        """A file is gone."""
        self._proven.pop(relative, None)

    def proves(self, session: str, header: MovieHeader) -> bool:
        """Whether a header proves how many frames there will be, with the writer that this session has."""
        return header.proves_its_length and not (header.format == "mrc" and session in self._headers_grow)

    def compare(self, session: str, relative: str, file: FileIdentity, header: MovieHeader) -> None:
        """Detect writers that do not know the number of frames: a header proves more of them than before."""
        if header.format != "mrc" or not header.proves_its_length:
            return
        proof = proof_of(file, header.n_frames)
        if proves_more(proof, self._proven.get(relative, proof)):
            self._headers_grow.add(session)
        self._proven[relative] = proof


def _most(counted: Counter[_Seen]) -> _Seen | None:
    found = counted.most_common(1)
    if not found:
        return None
    usual, times = found[0]
    return usual if times >= _FEWEST_TO_TELL and times > counted.total() / 2 else None
