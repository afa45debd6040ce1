"""After a start: do the newest outputs still hash to what the journal says? Checked by a thread, may be gigabytes.

A power cut on storage that lies about its flushes can leave a file whose name is right and whose content is not.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from service.journal.movie_table import JournalMovie
    from service.layout import Layout
    from streamer.movie_record import MovieRecord

NEWEST = 20


class Damage(NamedTuple):
    """An output that is not what was written."""

    movie_id: str
    path: str
    found: str
    """Why it cannot be read, or the hash found."""
    is_altered: bool
    """It exists, but with other bytes."""


def damaged_outputs(record: MovieRecord, session_directory: Path) -> Iterator[Damage]:
    """Outputs of a movie that are missing or whose bytes differ from its record."""
    for file in record.outputs:
        try:
            with (session_directory / file.path).open("rb") as opened:
                digest, size = hashlib.file_digest(opened, "sha256").hexdigest(), opened.tell()
        except OSError as error:
            yield Damage(record.movie_id, file.path, error.strerror or "cannot be read", is_altered=False)
            continue
        if digest != file.sha256:
            found = f"sha256 {digest[:12]}..., {size} of {file.bytes} bytes"
            yield Damage(record.movie_id, file.path, found, is_altered=True)


class OutputCheck:
    """Checks done movies, newest first; call ``found`` from time to time."""

    def __init__(self, movies: Iterable[JournalMovie], layout: Layout) -> None:
        self._records = [record for movie in movies if (record := movie.record) is not None]
        self._layout = layout
        self._damages: queue.SimpleQueue[Damage] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._verify, name="verify", daemon=True)
        self._thread.start()

    def damages(self) -> Iterator[Damage]:
        """Damages found since the last call."""
        while not self._damages.empty():
            yield self._damages.get()

    def close(self) -> None:
        """Stop after the current file; a dead volume is not waited for."""
        self._stop.set()
        self._thread.join(1.0)

    def _verify(self) -> None:
        for record in self._records:
            for damage in damaged_outputs(record, self._layout.session_output(record.session)):
                self._damages.put(damage)
            if self._stop.is_set():
                return
