"""The exposure of each frame, from the first source that knows one.

1. ``settings``: movie.dose_per_frame, the same for all frames.
2. ``header``: what an EER movie or its integration file says of each fraction.
3. ``sidecar``: the doses of single frames, else the exposure of the whole movie divided evenly. The doses of the
   frames hold against the total, which also counts exposure that was not saved. What a sidecar says of the raw frames
   of an EER movie, or of other fractions than ours, is spread over ours.
4. ``header`` of another movie: some programs write the dose of the whole exposure, some that of an image. It is taken
   for the former, and flagged where it could be the latter.
5. ``camera``: where nobody tells a dose, what the camera counted, by its mean counts and its counts per electron. That
   is the exposure behind the specimen, always less than before it: flagged.

Sources that differ by more than 1 %, and a total that differs by more than 5 % from its frames, are flagged. A dose of
0, which programs write when they do not know it, is unknown, and so is one below 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.metadata.agreement import choose
from streamer.metadata.numbers import positive
from streamer.plausible import EXPOSURE

if TYPE_CHECKING:
    from streamer.movie_record import Acquisition
    from streamer.records import MovieHeader

Doses = tuple[float, ...]
_OF_TOTAL = 0.05
_COUNTED_TOO_MUCH = 1.25
"""Times the exposure that a camera may count of it: calibrations are off by some percent, and no specimen adds any."""


def choose_doses(
    told: Acquisition, header: MovieHeader, set_by_user: float | None, pixel_size: float, flags: list[str]
) -> tuple[float | None, Doses | None]:
    """e⁻/Å² per frame on average, and of each frame where they differ and the settings do not override them.

    Parameters
    ----------
    pixel_size : Å/px of the frames.
    flags : gets what a user should know.
    """
    set_by_user, own = positive(set_by_user), _known(header.frame_doses)
    by_sidecar = _of_sidecar(told, header)
    by_place = {
        "header": None if own is None else sum(own) / len(own),
        "sidecar": None if by_sidecar is None else _mean(by_sidecar),
    }
    if header.format != "eer":
        by_place = {place: by_place[place] for place in ("sidecar", "header")}
        own = own if by_sidecar is None else None
    mean = choose("dose_per_frame", flags, settings=set_by_user, **by_place)
    if header.n_raw_frames_left_out:
        flags.append(f"eer: {header.n_raw_frames_left_out} raw frames that do not fill a fraction are left out")
    physical = pixel_size * header.upsampling
    counted = None if told.electrons_per_pixel is None else told.electrons_per_pixel / physical**2
    if told.image_width is not None and not _are_of_one_size(told, header):
        # of whose pixels it is, nobody says
        counted = None
    if mean is None:
        return _by_counts(counted, header, flags), None
    if set_by_user is not None:
        # what is given for a fraction is that of one of average size
        return mean, _by_size(mean * header.n_frames, header)
    doses = own or by_sidecar or ()
    if own is None:
        flags += _contradictions(told, counted)
    elif header.format != "eer":
        flags += _of_a_frame_perhaps(sum(own), len(own))
    return mean, None if max(doses) == min(doses) else doses


def _are_of_one_size(told: Acquisition, header: MovieHeader) -> bool:
    """Whether the sidecar's image is as large as the frames are in physical pixels, either way round."""
    sides = sorted((header.height // header.upsampling, header.width // header.upsampling))
    return sides == sorted((told.image_height or 0, told.image_width or 0))


def _known(doses: Doses | None) -> Doses | None:
    """The doses if they can be some, else None."""
    return doses if doses and positive(sum(doses)) is not None and min(doses) >= 0 else None


def _mean(doses: Doses) -> float:
    return doses[0] if max(doses) == min(doses) else sum(doses) / len(doses)


def _of_sidecar(told: Acquisition, header: MovieHeader) -> Doses | None:
    """The sidecar's doses for the frames of this movie."""
    n, n_told = header.n_frames, told.n_frames
    each, total, per_frame = _known(told.frame_doses), positive(told.dose_total), positive(told.dose_per_frame)
    if header.n_raw_frames is None:
        if each is not None and len(each) == n:
            return each
        mean = per_frame if per_frame is not None else None if total is None else total / n
        return None if mean is None else (mean,) * n
    # What the sidecar counts may be raw frames, or fractions of its own: only all of them together are ours.
    if each is not None:
        return _spread(each, header)
    of_frames = None if per_frame is None or n_told is None else per_frame * n_told
    if total is None or (of_frames is not None and _differ(of_frames, total)):
        total = of_frames
    if total is None:
        return None
    return _by_size(total, header) or (total * _share(header) / n,) * n


def _by_size(total: float, header: MovieHeader) -> Doses | None:
    """An exposure divided by the raw frames of each fraction; None where they do not differ."""
    sizes = header.fraction_sizes
    return None if sizes is None else tuple(total * size / sum(sizes) for size in sizes)


def _spread(told: Doses, header: MovieHeader) -> Doses:
    """Doses of parts of equal length in time for the fractions of an EER movie.

    Parameters
    ----------
    told : of each part; together they are all raw frames.
    """
    raw = header.n_raw_frames or header.n_frames
    sizes = header.fraction_sizes or ((raw - header.n_raw_frames_left_out) / header.n_frames,) * header.n_frames
    edges = np.concatenate([[0.0], np.cumsum(sizes)])
    received = np.concatenate([[0.0], np.cumsum(told)])
    at = np.interp(edges, np.linspace(0.0, raw, len(received)), received)
    return tuple(float(dose) for dose in np.diff(at))


def _share(header: MovieHeader) -> float:
    """Share of the exposure that is in the frames: all except raw frames that were left out."""
    return 1.0 - header.n_raw_frames_left_out / header.n_raw_frames if header.n_raw_frames else 1.0


def _by_counts(counted: float | None, header: MovieHeader, flags: list[str]) -> float | None:
    mean = None if counted is None else positive(counted * _share(header) / header.n_frames)
    if mean is not None:
        flags.append(
            f"dose: only what the camera counted is known, {mean:g} e⁻/Å² per frame: too little by what the specimen "
            "held back; set movie.dose_per_frame"
        )
    return mean


def _of_a_frame_perhaps(whole: float, n: int) -> list[str]:
    """Words where the header's dose, taken for that of the whole exposure, could be that of a frame."""
    if n == 1 or whole * n > EXPOSURE.usual[1]:
        return []
    return [
        f"dose: the header's {whole:.4g} e⁻/Å² was taken for that of all frames; if it is that of one, set "
        f"movie.dose_per_frame = {whole:.4g}"
    ]


def _differ(of_frames: float, total: float) -> bool:
    return abs(total - of_frames) > _OF_TOTAL * max(total, of_frames)


def _contradictions(told: Acquisition, counted: float | None) -> list[str]:
    """What in the sidecar does not fit the doses that it gives."""
    total, n = positive(told.dose_total), told.n_frames
    each, mean = _known(told.frame_doses), positive(told.dose_per_frame)
    of_frames = sum(each) if each is not None else None if mean is None or n is None else mean * n
    if of_frames is None:
        of_frames, total = total, None
    flags = []
    # EPU's total has the hardware frames before the first fraction in it
    before = told.pre_exposure or 0.0 if told.program == "EPU" else 0.0
    if of_frames is not None and total is not None and _differ(of_frames, total) and _differ(of_frames + before, total):
        flags.append(
            f"dose: the sidecar's frames add up to {of_frames:.4g} e⁻/Å², its total is {total:.4g}: that of the "
            "frames was used"
        )
    if of_frames is not None and counted is not None and counted > _COUNTED_TOO_MUCH * of_frames:
        flags.append(f"dose: the sidecar says {of_frames:.4g} e⁻/Å², but the camera counted {counted:.4g}")
    return flags
