"""Values that no microscope has are unknown, and said; what was written stays in the record's ``acquisition``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.plausible import DOSE_PER_FRAME, EXPOSURE, PIXEL_SIZE, VOLTAGE

if TYPE_CHECKING:
    from streamer.movie_record import Acquisition
    from streamer.plausible import Quantity
    from streamer.records import MovieHeader


def possible(told: Acquisition, header: MovieHeader, flags: list[str]) -> tuple[Acquisition, MovieHeader]:
    """Sidecar and header without the values that are impossible.

    Parameters
    ----------
    flags : gets a line for each of these.
    """

    def by(place: str, quantity: Quantity, value: float | None) -> float | None:
        """The value, or None; 0 is how programs write that they do not know it, and needs no words."""
        problem = quantity.problem(value) if value else None
        if problem is not None:
            flags.append(f"{quantity.name}: what the {place} says is impossible and not used: {problem}")
        return None if problem is not None else value

    def mean(place: str, doses: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return doses if doses and by(place, DOSE_PER_FRAME, sum(doses) / len(doses)) is not None else None

    each = mean("sidecar", told.frame_doses)
    # their mean was judged with them
    per_frame = None if told.frame_doses and each is None else by("sidecar", DOSE_PER_FRAME, told.dose_per_frame)
    # of the physical pixel, also on a finer grid
    own = None if header.pixel_size is None else header.pixel_size * header.upsampling
    return (
        replace(
            told,
            pixel_size=by("sidecar", PIXEL_SIZE, told.pixel_size),
            reference_pixel_size=None
            if told.reference_pixel_size is None or PIXEL_SIZE.problem(told.reference_pixel_size)
            else told.reference_pixel_size,
            voltage_kv=by("sidecar", VOLTAGE, told.voltage_kv) or None,
            dose_per_frame=per_frame,
            dose_total=by("sidecar", EXPOSURE, told.dose_total),
            frame_doses=each,
            pre_exposure=by("sidecar", EXPOSURE, told.pre_exposure),
        ),
        replace(
            header,
            pixel_size=None if by("header", PIXEL_SIZE, own) is None else header.pixel_size,
            frame_doses=mean("header", header.frame_doses),
            voltage_kv=by("header", VOLTAGE, header.voltage_kv) or None,
        ),
    )
