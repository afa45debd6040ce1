"""A movie's settings, sidecar and header combined, disagreements flagged.

A value from the settings overrides the sidecar's, and the sidecar's overrides the header's; where two of them differ by
more than 1 %, a flag says so. A value that is given nowhere stays unknown. The rules for the pixel size and for the
exposure stand in ``pixel_size`` and ``doses``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import MovieMismatch
from streamer.metadata.agreement import choose
from streamer.metadata.doses import choose_doses
from streamer.metadata.pixel_size import choose_pixel_size
from streamer.metadata.possible import possible
from streamer.movie_record import MovieSource
from streamer.readers import gain as gain_reader
from streamer.readers.movie import fingerprint

if TYPE_CHECKING:
    from streamer.records import Gain, Movie, MovieHeader
    from streamer.settings import DataPathSettings, EerSettings

_LEAST_SIDE = 16
_ONE_OF_A_SERIES = re.compile(r"(?:frame|frm|fraction|subframe)[_-]?\d+$|[-_]n\d+$|-\d{4}$", re.IGNORECASE)


def describe_source(
    movie: Movie, header: MovieHeader, settings: DataPathSettings, gain: Gain | None, *, is_refused: bool = False
) -> tuple[MovieSource, tuple[str, ...]]:
    """Describe a movie for its record.

    Parameters
    ----------
    is_refused : the frames refute the gain reference, and it is not applied.

    Returns
    -------
    The source as understood, and flags for the user.

    Raises
    ------
    MovieMismatch
        If the pixel size is given nowhere, or the sidecar gives a different number of frames.
    """
    set_by_user, flags = settings.movie, [*header.flags, *movie.acquisition.remarks]
    _check_frames(movie, header)
    told, header = possible(movie.acquisition, header, flags)
    pixel_size, pixel_size_from = choose_pixel_size(told, header, set_by_user, flags)
    if pixel_size is None:
        raise MovieMismatch(
            "the pixel size is unknown",
            where=movie.path,
            expected="movie.pixel_size, or a sidecar or header that gives it",
            found="; ".join(flag for flag in flags if flag.startswith("pixel_size:")),
            hint="set movie.pixel_size in Å/px",
        )
    dose, doses = choose_doses(told, header, set_by_user.dose_per_frame, pixel_size, flags)
    voltage = choose(
        "voltage_kv", flags, settings=set_by_user.voltage_kv, sidecar=told.voltage_kv, header=header.voltage_kv
    )
    before = choose("pre_exposure", flags, settings=set_by_user.pre_exposure, sidecar=told.pre_exposure)
    if dose is None:
        flags.append("dose: unknown, frames are not weighted")
    if voltage is None:
        flags.append("voltage: unknown, 300 kV assumed for the exposure filter; left out of micrographs.star")
    flags += _fraction_flags(header, settings.eer)
    flags += _gain_flags(movie, header, gain, is_set=set_by_user.gain is not None, is_refused=is_refused)
    if movie.evidence == "unproven":
        flags.append("frame count: unproven")
    if movie.usual_frames is not None and header.n_frames < movie.usual_frames:
        flags.append(f"short: {header.n_frames} frames, {movie.usual_frames} are usual in this session")
    source = MovieSource(
        path=movie.relative,
        bytes=movie.identity.size,
        mtime_ns=str(movie.identity.mtime_ns),
        fingerprint=fingerprint(Path(movie.path)),
        format=header.format,
        n_frames=header.n_frames,
        height=header.height,
        width=header.width,
        evidence=movie.evidence,
        pixel_size=pixel_size,
        pixel_size_from=pixel_size_from,
        voltage_kv=voltage,
        cs_mm=set_by_user.cs_mm,
        amplitude_contrast=set_by_user.amplitude_contrast,
        dose_per_frame=dose,
        frame_doses=doses,
        n_raw_frames=header.n_raw_frames,
        upsampling=header.upsampling,
        pre_exposure=before or 0.0,
        gain=gain.sha256 if gain and not is_refused else None,
        gain_path=gain.path if gain and not is_refused else None,
        gain_refused=gain.path if gain and is_refused else None,
        acquisition=movie.acquisition,
    )
    return source, tuple(flags)


def is_one_of_a_series(stem: str) -> bool:
    """Whether a file name without its suffix is that of one frame, as programs write that make a file of each."""
    return _ONE_OF_A_SERIES.search(stem) is not None


def _fraction_flags(header: MovieHeader, settings: EerSettings) -> list[str]:
    """What a user should know about the number of fractions of an EER movie."""
    raw, wanted = header.n_raw_frames, settings.fractions
    if raw is None or header.n_frames >= wanted:
        return []
    return [f"eer: {raw} raw frames, fewer than the {wanted} fractions asked for"]


def _gain_flags(movie: Movie, header: MovieHeader, gain: Gain | None, *, is_set: bool, is_refused: bool) -> list[str]:
    """What a user should know about how the gain reference was chosen."""
    told = [("sidecar", movie.acquisition.gain_reference), ("movie", header.gain_reference)]
    if gain is None:
        is_expected = not is_set and not movie.acquisition.gain_corrected
        missing = [f"gain: the {place} names {named}: put it beside the movies" for place, named in told if named]
        return ["gain: none", *(missing[:1] if is_expected else [])]
    path, flags = Path(gain.path), []
    stems = [None if named is None else gain_reader.stem(named) for _, named in told]
    for (place, named), stem in zip(told, stems, strict=True):
        if stem not in (None, gain_reader.stem(path.name)) and (place == "sidecar" or stem != stems[0]):
            flags.append(f"gain: the {place} names {named}, {path.name} was {'tried' if is_refused else 'used'}")
    if movie.acquisition.gain_corrected:
        used = "" if is_refused else f", and {path.name} was used as well"
        flags.append(f"gain: the camera has corrected the frames, says the sidecar{used}")
    if gain.is_made:
        flags.append(f"gain: {path.name} was made from movies")
    elif not is_set and path.parent not in Path(movie.path).parents:
        flags.append(f"gain: {path} does not lie above the movie, but is the only one")
    return flags


def _check_frames(movie: Movie, header: MovieHeader) -> None:
    """Raise MovieMismatch for frames that are too small, or not as many as the sidecar says."""
    told = movie.acquisition
    if min(header.height, header.width) < _LEAST_SIDE:
        raise MovieMismatch(
            "has smaller frames than any camera",
            where=movie.path,
            expected=f"at least {_LEAST_SIDE} × {_LEAST_SIDE} px",
            found=f"{header.height} × {header.width} px",
            hint="it is no movie of a camera: move it away, or leave its name out with watch.exclude",
        )
    if header.n_frames == 1 and is_one_of_a_series(Path(movie.path).stem):
        raise MovieMismatch(
            "is one of a series of single-frame files",
            where=movie.path,
            expected="all frames of a movie in one file",
            hint="stack them, for example with IMOD: newstack frame*.mrc movie.mrc",
        )
    if told.n_frames is not None and told.n_frames != (found := header.frames_told(told.n_frames)):
        raise MovieMismatch(
            "the sidecar gives a different number of frames",
            where=movie.path,
            expected=f"{told.n_frames} ({told.sidecar})",
            found=str(found),
            hint="a copy may have been cut: copy both again; a sidecar of another movie: move it away",
        )
