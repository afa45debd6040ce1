"""The CTF of a movie's aligned sum, with the constants and the settings that belong to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamer import fourier
from streamer.ctf import polar
from streamer.ctf.estimate import SearchRange, estimate_ctf
from streamer.ctf.lens import lens_of

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.field_mask import FieldMask
    from streamer.movie_record import MovieSource
    from streamer.records import HalfSums
    from streamer.settings import CtfSettings
    from streamer.transfer_figures import CtfFigures


_LEAST_USABLE = 0.1
"""Share of the field; where less of it is specimen the rings of the rest are looked for, and that is said."""


def ctf_of_sum(
    sums: HalfSums, source: MovieSource, settings: CtfSettings, field: FieldMask | None = None
) -> CtfFigures | None:
    """Figures of the aligned sum; None where the voltage is unknown, on which every defocus depends, or not wanted.

    Parameters
    ----------
    field : what is not specimen. Edges of films and crystals scatter strongly, and their fringes are no rings of a weak
        phase object: left in, they move the defocus by several of its standard deviations.
    """
    if not settings.enabled or source.voltage_kv is None:
        return None
    band = polar.band_of(sums.pixel_size, settings.band_low, settings.band_high)
    if not polar.is_wide_enough(band):
        return None
    lens = lens_of(source.voltage_kv, source.cs_mm, source.amplitude_contrast)
    weight: Tensor | None = None
    flags: tuple[str, ...] = ()
    if field is not None and not field.is_clean:
        if field.usable >= _LEAST_USABLE:
            weight = field.weight(sums.shape)
        else:
            flags = ("ctf: hardly any specimen in the field; the defocus is that of the film or the crystals",)
    cells = polar.cells_of_image(fourier.to_image(sums.total, sums.shape), sums.pixel_size, band, weight)
    found = estimate_ctf({"sum": cells}, lens, range_of(settings)).figures
    return replace(found, flags=(*flags, *found.flags)) if flags and found.state != "none" else found


def range_of(settings: CtfSettings) -> SearchRange:
    """Where the settings say that the answer is."""
    return SearchRange(
        defocus=(settings.defocus_low_um * 1e4, settings.defocus_high_um * 1e4),
        phase_shift=(settings.phase_shift_low, settings.phase_shift_high),
    )
