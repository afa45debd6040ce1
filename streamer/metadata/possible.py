"""Values that no microscope has are unknown, and said; what was written stays in the record's ``acquisition``.

A sidecar may count the thousands of raw frames of an EER movie: their doses are held against what they come to, the
exposure of all of them and of a frame of ours. Where they add up to the sidecar's total, they are as good as that is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.metadata.agreement import agree
from streamer.plausible import DOSE_PER_FRAME, EXPOSURE, PIXEL_SIZE, VOLTAGE

if TYPE_CHECKING:
    from streamer.movie_record import Acquisition
    from streamer.plausible import Quantity
    from streamer.records import MovieHeader


_TOPICS = {
    PIXEL_SIZE.name: "pixel_size",
    VOLTAGE.name: "voltage_kv",
    DOSE_PER_FRAME.name: "dose_per_frame",
    EXPOSURE.name: "dose",
}
"""What the other flags about a quantity begin with."""


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
            flags.append(f"{_TOPICS[quantity.name]}: what the {place} says is impossible and not used: {problem}")
        return None if problem is not None else value

    # of the physical pixel, also on a finer grid
    own = None if header.pixel_size is None else header.pixel_size * header.upsampling
    sidecar = replace(
        told,
        pixel_size=by("sidecar", PIXEL_SIZE, told.pixel_size),
        reference_pixel_size=None
        if told.reference_pixel_size is None or PIXEL_SIZE.problem(told.reference_pixel_size)
        else told.reference_pixel_size,
        voltage_kv=by("sidecar", VOLTAGE, told.voltage_kv) or None,
        pre_exposure=by("sidecar", EXPOSURE, told.pre_exposure),
    )
    total = by("sidecar", EXPOSURE, told.dose_total)
    if total and total / header.n_frames < DOSE_PER_FRAME.least:
        by("sidecar", DOSE_PER_FRAME, total / header.n_frames)
        total = None

    def are_doses(place: str, exposure: float, n: int) -> bool:
        """Whether doses can be those of n frames that received this together."""
        if place == "sidecar" and told.dose_total and agree(told.dose_total, exposure):
            return total is not None
        of_a_frame = exposure / (n if header.n_raw_frames is None else header.n_frames)
        return by(place, DOSE_PER_FRAME, of_a_frame) is not None and by(place, EXPOSURE, exposure) is not None

    each, n_told = told.frame_doses, told.n_frames or header.n_frames
    has_each = bool(each) and are_doses("sidecar", sum(each or ()), len(each or ()))
    # their mean is judged with them
    has_mean = told.dose_per_frame is not None and (
        has_each if each else are_doses("sidecar", told.dose_per_frame * n_told, n_told)
    )
    of_header = header.frame_doses
    return (
        replace(
            sidecar,
            dose_total=total,
            frame_doses=each if has_each else None,
            dose_per_frame=told.dose_per_frame if has_mean else None,
        ),
        replace(
            header,
            pixel_size=None if by("header", PIXEL_SIZE, own) is None else header.pixel_size,
            frame_doses=of_header if of_header and are_doses("header", sum(of_header), len(of_header)) else None,
            voltage_kv=by("header", VOLTAGE, header.voltage_kv) or None,
        ),
    )
