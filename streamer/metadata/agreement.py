"""One value from several sources, in the order of their weight, and a flag for each that says another."""

from __future__ import annotations

_AGREE = 0.01


def agree(one: float, other: float) -> bool:
    """Whether two values are the same to 1 %."""
    return abs(other - one) <= _AGREE * abs(one)


def choose(name: str, flags: list[str], **candidates: float | None) -> float | None:
    """First known value; a flag for each other one that disagrees with it."""
    known = [(place, value) for place, value in candidates.items() if value is not None]
    if not known:
        return None
    place, value = known[0]
    for other_place, other in known[1:]:
        if not agree(value, other):
            flags.append(f"{name}: {place} says {value:g}, {other_place} says {other:g}")
    return value
