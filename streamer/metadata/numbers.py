"""Numbers as other programs write them: decimal points or commas, with or without a unit."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COUNT = 1_000_000
_MOST = 100_000
"""Numbers in a row: a dose and a count for each frame of the longest movie are fewer."""
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")
_HIGHEST_KV, _LOWEST_KV = 3000.0, 10.0

LENGTH: dict[str, float] = {"å": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "ångström": 1.0, "nm": 10.0, "pm": 0.01}
"""Å in each unit of a pixel; per pixel or not."""
EXPOSURE: dict[str, float] = {"å2": 1.0, "a2": 1.0, "å": 1.0, "a": 1.0, "nm2": 0.01}
"""e⁻/Å² in each unit of an exposure, by its denominator."""
MICROMETRES: dict[str, float] = {"um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3}
DEGREES: dict[str, float] = {"°": 1.0, "deg": 1.0, "degrees": 1.0}
SECONDS: dict[str, float] = {"s": 1.0, "sec": 1.0, "ms": 1e-3}
VOLTS: dict[str, float] = {"kv": 1.0, "v": 1e-3, "mv": 1e3}
ELECTRONVOLTS: dict[str, float] = {"ev": 1.0}


def number(text: str | None, units: Mapping[str, float] | None = None) -> float | None:
    """One finite number.

    Parameters
    ----------
    text : ``1.5``, ``1,5``, ``1.5E-10``, or one with a unit behind it.
    units : factor to our unit for each unit that may follow, in lower case; a number without one is in ours.

    Returns
    -------
    In our unit; None where there is no number, more than one, or a unit that is not known.
    """
    stripped = (text or "").strip()
    found = _NUMBER.match(stripped)
    if found is None:
        return None
    factor = _factor(stripped[found.end() :].strip().lower(), units or {})
    value = math.nan if factor is None else float(found[0].replace(",", ".")) * factor
    return value + 0.0 if math.isfinite(value) else None


def numbers(text: str | None) -> list[float]:
    """Numbers with space between them; none at all where one of the words is not a number, or there are too many."""
    words = [word for word in re.split(r"[\s;]+", (text or "").strip(), maxsplit=_MOST) if word]
    found = [number(word) for word in words] if len(words) <= _MOST else []
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []


def large(text: str | None) -> float | None:
    """A number in the thousands, ``105,000`` as well as ``105000``: here a comma is none of a decimal."""
    stripped = (text or "").strip()
    return number(stripped.replace(",", "") if _THOUSANDS.fullmatch(stripped) else stripped)


def positive(value: float | None) -> float | None:
    """The value if it can be a size or an exposure: programs write 0 for what they do not know."""
    return value if value is not None and math.isfinite(value) and value > 0 else None


def whole(value: float | None) -> int | None:
    """A count of at least 1."""
    return int(value) if value is not None and 1 <= value <= MAX_COUNT and value == int(value) else None


def kilovolts(value: float | None) -> float | None:
    """The voltage in kV, given in kV or in V, as none has 10,000 kV; one that can be neither stays as it is."""
    if value is None:
        return None
    return next((kv for kv in (value, value * 1e-3) if _LOWEST_KV <= kv <= _HIGHEST_KV), value)


def _factor(unit: str, units: Mapping[str, float]) -> float | None:
    if not unit:
        return 1.0
    plain = unit.replace("²", "2").replace("^", "").replace("/px", "").replace("/pixel", "")
    for name in (plain, plain.rpartition("/")[2]):
        if name in units:
            return units[name]
    return None
