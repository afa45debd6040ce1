"""What is kept of a session's specimens: a line for each decided movie, each empty one and each change. No torch."""

from __future__ import annotations

import msgspec

from streamer.movie_record import ModelScore


class Decided(msgspec.Struct, tag="movie", frozen=True, kw_only=True, omit_defaults=True):
    """A movie's specimen."""

    movie_id: str
    specimen: int
    odd: bool = False
    pixel_size: float = 0.0
    texture: tuple[float, ...] = ()
    """Empty where there is none."""
    structure: float | None = None
    ssnr_full: float | None = None
    electrons: float | None = None
    """What it showed, as in ``Usual``."""
    score: ModelScore | None = None


class Empty(msgspec.Struct, tag="empty", frozen=True, kw_only=True, omit_defaults=True):
    """A movie without anything to see."""

    movie_id: str
    path: str
    reason: str
    waited: bool = False
    """Whether this became clear only with later movies."""


class Left(msgspec.Struct, tag="left", frozen=True, kw_only=True):
    """A specimen that is not in the microscope any more."""

    specimen: int
    served: str | None
    """Version that served it last."""
    at: str
    """Id of the first movie of another one."""


Line = Decided | Left | Empty


def parsed(line: bytes) -> Line | None:
    """A line of the file; None: it is damaged. One movie is lost for learning then; the others are worth more."""
    try:
        return msgspec.json.decode(line, type=Line)
    except msgspec.DecodeError:
        return None
