"""The part of a field that its figures are of: what the mask of what is not specimen leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.quality import estimators

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.field_mask import FieldMask
    from streamer.records import HalfSums, Spectrum

_LEAST = 0.1
"""Share of a field below which nothing is said about it."""
_MENTIONED = 0.01
"""Smallest share that is worth a word."""
_MARGIN, _RISE = 25.0, 75.0
"""Å: what an edge's fringes reach, and a rise that leaks nothing into rings finer than 100 Å."""
_WORDS = {"crystal": "ice crystals", "carbon": "carbon", "gold": "gold or a grid bar", "vacuum": "a hole without ice"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPart:
    """What the figures of a micrograph are of."""

    field: FieldMask
    window: Tensor | None
    """(h, w) how much each place counts; None: all alike."""
    spectrum: Spectrum
    """Of this part."""
    why_not: str | None
    """Why nothing can be said; None: it can."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What a user should know about the field."""
        shares = {kind: share for kind, share in self.field.shares.items() if share >= _MENTIONED}
        if not shares:
            return ()
        seen = ", ".join(f"{share:.0%} {_WORDS[kind]}" for kind, share in shares.items())
        if self.why_not is not None:
            return (f"field: {seen}: too little is left to judge; aim at the middle of a hole",)
        return (f"field: {seen}: the figures are of the rest",)


def judged_part(sums: HalfSums, spectrum: Spectrum, field: FieldMask) -> JudgedPart:
    """Choose what the figures are of.

    Parameters
    ----------
    spectrum : of the whole field, which is that of the part if nothing is masked.
    """
    if field.is_clean:
        return JudgedPart(field=field, window=None, spectrum=spectrum, why_not=None)
    window = field.weight(sums.shape, _MARGIN, _RISE)
    left = float(window.mean())
    if left < _LEAST:
        why = f"only {field.usable:.0%} of the field may be specimen"
        return JudgedPart(field=field, window=None, spectrum=spectrum, why_not=why)
    return JudgedPart(field=field, window=window, spectrum=estimators.measure(sums, window), why_not=None)
