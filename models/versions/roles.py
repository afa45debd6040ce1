"""Which of a session's movies a network trained on, and which were held out to judge it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from models.settings import is_held_out
from models.versions.durable import append_durably
from streamer.errors import ModelError, OutputError

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

ROLES = "roles.jsonl"
"""Next to the store; which movies are held out."""


class _Role(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the file of roles."""

    movie_id: str
    held_out: bool
    specimen: int = 1


class Roles:
    """Which movies of a session are learned from and which are held out, for good: one line of JSON per movie.

    One process assigns roles; others may follow with ``refresh``.
    """

    def __init__(self, path: Path, specimen: int = 1) -> None:
        """Read the file, if there is one; raises ModelError if it is damaged.

        ``specimen`` is that of the movies that get roles; each specimen's movies are counted separately.
        """
        self._path, self._specimen = path, specimen
        self._roles: dict[str, bool] = {}
        self._counts: Counter[int] = Counter()
        """Movies of each specimen."""
        self._end = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the lines that have been added; a last line torn by a kill is ignored."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._end)
            lines = file.read().split(b"\n")[:-1]
        try:
            for line in lines:
                role = msgspec.json.decode(line, type=_Role)
                self._roles[role.movie_id] = role.held_out
                self._counts[role.specimen] += 1
                self._end += len(line) + 1
        except msgspec.DecodeError as error:
            hint = "only it says what was held out: move it away and collect under another session name"
            raise ModelError(f"the movies' roles are damaged: {error}", where=self._path, hint=hint) from error

    def held_out(self, movie_id: str) -> bool:
        """Role of a movie, assigned when it is first asked for and on disk before it is used."""
        if movie_id not in self._roles:
            held_out = is_held_out(self._counts[self._specimen])
            role = _Role(movie_id=movie_id, held_out=held_out, specimen=self._specimen)
            self._append(msgspec.json.encode(role) + b"\n")
            self._roles[movie_id] = held_out
            self._counts[self._specimen] += 1
        return self._roles[movie_id]

    def all_held_out(self) -> Set[str]:
        """Ids of all movies that are held out."""
        return {movie_id for movie_id, held_out in self._roles.items() if held_out}

    def _append(self, line: bytes) -> None:
        try:
            append_durably(self._path, self._end, line)
        except OSError as error:
            raise OutputError(
                f"the role of a movie cannot be written: {error.strerror}",
                where=self._path,
                hint="free some space on the state volume, or give the daemon's user the right to write there",
            ) from error
        self._end += len(line)
