"""Protocol v1 as data, for programs in any language: JSON Schemas, and golden messages with their meaning.

``schemas/NAME.json`` is JSON Schema 2020-12 of one JSON frame, ``vectors/NAME.json`` one message as bytes.
docs/protocol.md says how they are used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A message byte for byte, and how it has to be understood."""

    name: str
    what: Literal["event", "heartbeat", "preview", "request", "reply"]
    note: str
    """What it shows."""
    frames: tuple[bytes, ...]
    valid: bool
    schema: str | None
    """Schema of its second frame; of an invalid message: the one that refuses it, None if no schema can."""
    decoded: dict[str, Any] | None
    """Fields of a valid one, absent ones with their defaults; for an event, ``body`` contains the rest."""
    error: str | None
    """Code with which an invalid one is refused."""


def schema_names() -> list[str]:
    """Names that ``schema`` accepts."""
    return sorted(file.name.removesuffix(".json") for file in _files("schemas"))


def schema(name: str) -> dict[str, Any]:
    """One schema; a ``$ref`` to ``movie.json`` means the schema ``movie``."""
    found: dict[str, Any] = json.loads((resources.files(__name__) / "schemas" / f"{name}.json").read_bytes())
    return found


def vectors() -> Iterator[Vector]:
    """All golden messages, by name."""
    for file in sorted(_files("vectors"), key=lambda file: file.name):
        fields = json.loads(file.read_bytes())
        yield Vector(
            name=fields["name"],
            what=fields["what"],
            note=fields["note"],
            frames=tuple(_frame(frame) for frame in fields["frames"]),
            valid=fields["valid"],
            schema=fields.get("schema"),
            decoded=fields.get("decoded"),
            error=fields.get("error"),
        )


def _frame(frame: dict[str, str]) -> bytes:
    """Bytes from ``{"utf8": text}`` or ``{"hex": digits}``."""
    return frame["utf8"].encode("utf-8") if "utf8" in frame else bytes.fromhex(frame["hex"])


def _files(directory: str) -> list[Traversable]:
    return [file for file in (resources.files(__name__) / directory).iterdir() if file.name.endswith(".json")]
