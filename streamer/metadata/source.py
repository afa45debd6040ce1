"""A movie's settings, sidecar and header combined, disagreements flagged.

A value from the settings overrides the sidecar's, and the sidecar's overrides the header's; where two of them differ by
more than 1 %, a flag says so. A value that is given nowhere stays unknown.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import MovieMismatch
from streamer.movie_record import MovieSource
from streamer.readers.movie import fingerprint

if TYPE_CHECKING:
    from streamer.movie_record import Acquisition
    from streamer.records import Gain, Movie, MovieHeader
    from streamer.settings import DataPathSettings, EerSettings, MovieSettings

_LEAST_SIDE = 16
_ONE_OF_A_SERIES = re.compile(r"(?:frame|frm|fraction|subframe)[_-]?\d+$|[-_]n\d+$|-\d{4}$", re.IGNORECASE)
_AGREE = 0.01


def describe_source(
    movie: Movie, header: MovieHeader, settings: DataPathSettings, gain: Gain | None
) -> tuple[MovieSource, tuple[str, ...]]:
    """Describe a movie for its record.

    Returns
    -------
    The source as understood, and flags for the user.

    Raises
    ------
    MovieMismatch
        If the pixel size is given nowhere, or the sidecar gives a different number of frames.
    """
    told, set_by_user = movie.acquisition, settings.movie
    _check_frames(movie, header)
    flags: list[str] = []
    pixel_size = _choose(
        "pixel_size",
        flags,
        # people and sidecars give physical pixels, the header those of the grid
        settings=_finer(set_by_user.pixel_size, header),
        magnification=_finer(_by_magnification(told, set_by_user), header),
        sidecar=_finer(told.pixel_size, header),
        header=header.pixel_size,
    )
    if pixel_size is None:
        raise MovieMismatch(
            "the pixel size is unknown",
            where=movie.path,
            expected="movie.pixel_size, or a sidecar or header that gives it",
            hint="set movie.pixel_size in Å/px",
        )
    dose, doses = _dose(told, header, set_by_user.dose_per_frame, flags)
    voltage = _choose("voltage_kv", flags, settings=set_by_user.voltage_kv, sidecar=told.voltage_kv)
    if dose is None:
        flags.append("dose: unknown, frames are not weighted")
    if voltage is None:
        flags.append("voltage: unknown, 300 kV assumed for the exposure filter; left out of micrographs.star")
    flags += [*_fraction_flags(header, settings.eer), *_gain_flags(movie, gain, is_set=set_by_user.gain is not None)]
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
        voltage_kv=voltage,
        cs_mm=set_by_user.cs_mm,
        amplitude_contrast=set_by_user.amplitude_contrast,
        dose_per_frame=dose,
        frame_doses=doses,
        n_raw_frames=header.n_raw_frames,
        upsampling=header.upsampling,
        pre_exposure=set_by_user.pre_exposure,
        gain=gain.sha256 if gain else None,
        gain_path=gain.path if gain else None,
        acquisition=told,
    )
    return source, tuple(flags)


def _fraction_flags(header: MovieHeader, settings: EerSettings) -> list[str]:
    """What a user should know about the number of fractions of an EER movie."""
    raw, wanted = header.n_raw_frames, settings.fractions
    if raw is None or header.n_frames >= wanted:
        return []
    return [f"eer: {raw} raw frames, fewer than the {wanted} fractions asked for"]


def _gain_flags(movie: Movie, gain: Gain | None, *, is_set: bool) -> list[str]:
    """What a user should know about how the gain reference was chosen."""
    if gain is None:
        return ["gain: none"]
    path, named, flags = Path(gain.path), movie.acquisition.gain_reference, []
    if named is not None and Path(named).stem.lower() != path.stem.lower():
        flags.append(f"gain: the sidecar names {named}, {path.name} was used")
    if not is_set and path.parent not in Path(movie.path).parents:
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
        )
    if header.n_frames == 1 and _ONE_OF_A_SERIES.search(Path(movie.path).stem):
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
        )


def _dose(
    told: Acquisition, header: MovieHeader, set_by_user: float | None, flags: list[str]
) -> tuple[float | None, tuple[float, ...] | None]:
    """e⁻/Å² per frame on average, and of each frame where they differ and the settings do not override them.

    A dose of 0, which programs write when they do not know it, is unknown, and so is one below 0.
    """
    by_sidecar, doses, total = _known(told.dose_per_frame), header.frame_doses, _known(told.dose_total)
    if total is not None and (by_sidecar is None or header.n_raw_frames):
        by_sidecar = _known(total * _share_of_exposure(header) / header.n_frames)
    mean = None if doses is None else _known(sum(doses) / len(doses))
    doses = None if mean is None else doses
    set_by_user = _known(set_by_user)
    dose = _choose("dose_per_frame", flags, settings=set_by_user, header=mean, sidecar=by_sidecar)
    if dose is not None and header.fraction_sizes is not None and (doses is None or set_by_user is not None):
        # what is given for a fraction is that of one of average size
        each = dose / (sum(header.fraction_sizes) / header.n_frames)
        return dose, tuple(each * size for size in header.fraction_sizes)
    if header.n_raw_frames_left_out:
        flags.append(f"eer: {header.n_raw_frames_left_out} raw frames that do not fill a fraction are left out")
    if doses is None or set_by_user is not None or max(doses) == min(doses):
        return dose, None
    return dose, doses


def _known(dose: float | None) -> float | None:
    """The dose if it can be one, else None."""
    return dose if dose is not None and math.isfinite(dose) and dose > 0 else None


def _share_of_exposure(header: MovieHeader) -> float:
    """Share of the exposure that is in the frames: all except raw frames that were left out."""
    return 1.0 - header.n_raw_frames_left_out / header.n_raw_frames if header.n_raw_frames else 1.0


def _by_magnification(told: Acquisition, settings: MovieSettings) -> float | None:
    """Å/px that the settings give for the sidecar's magnification."""
    if told.magnification is None:
        return None
    sizes = {float(name): size for name, size in settings.pixel_size_by_magnification.items()}
    return sizes.get(float(told.magnification))


def _finer(pixel_size: float | None, header: MovieHeader) -> float | None:
    """Å/px on the grid of the frames."""
    return None if pixel_size is None else pixel_size / header.upsampling


def _choose(name: str, flags: list[str], **candidates: float | None) -> float | None:
    """First known value; a flag for each other one that disagrees with it."""
    known = [(place, value) for place, value in candidates.items() if value is not None]
    if not known:
        return None
    place, value = known[0]
    for other_place, other in known[1:]:
        if abs(other - value) > _AGREE * abs(value):
            flags.append(f"{name}: {place} says {value:g}, {other_place} says {other:g}")
    return value
