r"""JSON as this program writes it: no NaN, and any file name survives.

A float that is not finite becomes null. A file name that is not UTF-8 is written with its odd bytes as ``\udc80`` to
``\udcff``, as Python's json writes it; msgspec's own encoder refuses those.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def encode(value: object, *, indent: int | None = None) -> bytes:
    """Any record, struct or plain value as UTF-8 JSON, on one line unless indented."""
    separators = (",", ":") if indent is None else (",", ": ")
    plain = _finite(msgspec.to_builtins(value))
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    # only lone surrogates do not encode, and backslashreplace writes them as JSON does
    return text.encode("utf-8", "backslashreplace")


def decode(raw: bytes, kind: type[T]) -> T:
    """Record or struct from our own JSON; raises ValueError if it is not one. Unknown fields are ignored."""
    return msgspec.convert(json.loads(raw), kind)


def decode_any(raw: bytes, kinds: Any) -> Any:
    """The same for a union of tagged structs, which the type of ``decode`` cannot express."""
    return msgspec.convert(json.loads(raw), kinds)


def _finite(value: Any) -> Any:
    """Replace every NaN and infinity by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
