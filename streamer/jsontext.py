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

_DIGITS, _EXACT = 7, 2**53


def encode(value: object, *, indent: int | None = None) -> bytes:
    """Any record, struct or plain value as UTF-8 JSON, on one line unless indented."""
    separators = (",", ":") if indent is None else (",", ": ")
    plain = _finite(msgspec.to_builtins(value))
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    # only lone surrogates do not encode, and backslashreplace writes them as JSON does
    return text.encode("utf-8", "backslashreplace")


def rounded(value: Any) -> Any:
    """A plain value with floats of seven significant digits, and integers beyond 2^53 as text.

    It is what people and other programs are shown, many of which keep 53 bits of any number.

    Files hold 32-bit numbers, of which seven digits are meant, and arithmetic leaves 0.6499999999999999 for 0.65. What
    goes on to be computed with is never rounded.
    """
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else value
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value


def shown(value: object, *, indent: int | None = None) -> bytes:
    """The same as ``encode``, rounded: for what is printed and published."""
    return encode(rounded(msgspec.to_builtins(value)), indent=indent)


def as_shown(record: T) -> T:
    """A record as it is published, so that all who hold it hold the same."""
    return msgspec.convert(rounded(msgspec.to_builtins(record)), type(record))


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
