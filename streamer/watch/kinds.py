"""What a whole file is, if it is no movie: decided by its content, its sidecar and what lies around it.

A movie is several frames of one exposure. Everything else that detectors and programs write below a watched directory
has one image, or images that are exposures, particles or slices. A name alone decides nothing; where the content is
not enough, two signs have to agree.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from streamer.errors import NotAMovie
from streamer.metadata import epu
from streamer.metadata.mdoc_kind import kind_beside
from streamer.metadata.source import is_one_of_a_series
from streamer.readers.gain import is_around_one, is_gain_name
from streamer.watch.lists_beside import pieces_listed, tilts_listed
from streamer.watch.mrc_words import MrcWords, read_words
from streamer.watch.names import DEFECT_MAPS, EPU_IMAGES, REFERENCES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.records import MovieHeader

TILT_SERIES, MONTAGES, PICTURES = "tilt series", "montages", "stacks of pictures"
VOLUMES, PARTICLES, OTHER_SIZE = "volumes", "particle images", "frames much smaller than the session's"
SINGLE, OWN = "single images", "results of this program"
_OF_MDOC = {"tilt series": TILT_SERIES, "montage": MONTAGES, "pictures": PICTURES}

_SAME_TILT = 1.0  # degrees
_BOX = 1024
"""Largest side of a particle's box, px; frames of cameras that are as small are not normalised floats."""
_SMALLER = 8
"""How many times smaller than the session's a frame's area must be: binning and subareas reduce it by 4."""
_FEWEST_SLICES = 32

_VOLUME = re.compile(r"(?:^|[_-])(?:rec|vol|tomo|tomogram|recon\w*|sirt|wbp|bp_\w+)$", re.IGNORECASE)
_VOLUMES = re.compile(r"(?:tomogram|reconstruction|volume)s?", re.IGNORECASE)
_BOXES = re.compile(r"particle|extract|class(?:es|_?average)|template", re.IGNORECASE)
_REFERENCE = re.compile(r"gain|defect|dark|(?:count|super)(?:cds)?ref|(?:^|[^a-z])(?:flat|ref)", re.IGNORECASE)
_DEFECTS = re.compile(r"defect|(?:^|[^a-z])(?:bad|hot)", re.IGNORECASE)
_JOB = re.compile(r"job\d{3,}")
_JOB_FILES = ("job.star", "run.job", "job_pipeline.star", "note.txt", "RELION_JOB_EXIT_SUCCESS")
_JOB_TYPES = frozenset(
    "autopick class2d class3d ctffind denoise dynamight extract external initialmodel localres manualpick maskcreate "
    "modelangelo motioncorr multibody subtract polish postprocess refine3d reconstructtomograms select joinstar "
    "excludetiltimages aligntiltseries tomograms".split()
)
_CRYOSPARC, _CRYOSPARC_FILES = re.compile(r"[JS]\d+"), ("job.json", "session.json", "job.log")
_CRYOSPARC_RESULTS = frozenset({"motioncorrected", "extract", "restack", "ctfestimated", "downsample", "denoised"})
_PROGRAMS = (
    ("cryoem-streamer", OWN),
    ("relion", "images made by RELION"),
    ("motioncor", "images made by MotionCor"),
    ("cryosparc", "images made by cryoSPARC"),
    ("warp", "images made by Warp"),
    ("unblur", "images made by cisTEM"),
)
_ALIGNED = re.compile(r"_(?:stk|dw_stk|aligned|ali)$", re.IGNORECASE)
_MOVIE_SUFFIXES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer")
_MADE = re.compile(
    r"_(?:dw|dws|aligned_mic|aligned|patch_aligned(?:_doseweighted)?|rigid_aligned(?:_doseweighted)?|doseweighted|evn|odd|"
    r"ps|ave|avg|average|sum|denoised|sr|ctf|diag|mic)$",
    re.IGNORECASE,
)


def why_no_movie(
    path: Path,
    header: MovieHeader,
    *,
    root: Path,
    told: int | None = None,
    usual_size: tuple[int, int] | None = None,
) -> NotAMovie | None:
    """Why a file whose header stands is no movie; None: it is one.

    Parameters
    ----------
    path : of the file, below ``root``.
    header : of the file, checked.
    told : number of frames that the movie's own sidecar gives.
    usual_size : height and width of most of the session's movies, px; None: not known.
    """
    by_mdoc = by_sidecar(path)
    if by_mdoc is not None or header.format == "eer":
        return by_mdoc
    words = read_words(path) if header.format == "mrc" else None
    where = _job_above(path, root)
    if where is not None:
        return NotAMovie(f"lies among the results of {where}", kind=f"results of {where}", where=path)
    if header.n_frames == 1:
        single = _single(path, header, words)
        # whoever reads one of a series says how to stack them
        return None if single.kind == SINGLE and is_one_of_a_series(path.stem) else single
    if words is not None and (stack := _stack(path, header, words)) is not None:
        return stack
    if _ALIGNED.search(path.stem) and header.dtype == "float32" and _raw_movie_beside(path):
        return NotAMovie("holds the aligned frames of the movie beside it", kind="aligned frames", where=path)
    if told is not None and told > 1:
        return None
    if (listed := _by_list(path, header)) is not None:
        return listed
    if words is not None and (pictures := _of_densities(path, header, words, root)) is not None:
        return pictures
    if usual_size is not None and header.height * header.width * _SMALLER <= usual_size[0] * usual_size[1]:
        return NotAMovie(
            f"has images of {header.height} × {header.width} px, while the session's movies have "
            f"{usual_size[0]} × {usual_size[1]} px",
            kind=OTHER_SIZE,
            where=path,
        )
    return None


def by_sidecar(path: Path) -> NotAMovie | None:
    """Why a file is no movie according to the mdoc next to it, whatever its header says."""
    beside = kind_beside(path)
    if beside is None or beside[1].kind == "frames":
        return None
    mdoc, (kind, n_images) = beside
    images = f" of {n_images} images" if n_images else ""
    return NotAMovie(f"is a {kind}{images} according to {mdoc.name}", kind=_OF_MDOC[kind], where=path)


def by_name(path: Path) -> NotAMovie | None:
    """Why a file that cannot be read as a movie need not be one: its name is that of a reference."""
    if not (is_gain_name(path.name) or _REFERENCE.search(path.stem)):
        return None
    kind = DEFECT_MAPS if _DEFECTS.search(path.stem) else REFERENCES
    return NotAMovie("cannot be read, and has the name of a reference", kind=kind, where=path)


def _single(path: Path, header: MovieHeader, words: MrcWords | None) -> NotAMovie:
    """What one image is. A movie of which only the first frame is written looks the same, so it may grow."""

    def found(what: str, kind: str) -> NotAMovie:
        return NotAMovie(f"is one image: {what}", kind=kind, may_grow=True, where=path)

    for word, kind in _PROGRAMS:
        if words is not None and word in words.labels:
            return NotAMovie(f"is one image, labelled by {word}", kind=kind, where=path)
    if _is_around_one(header, words) or is_gain_name(path.name):
        return found("a gain reference", REFERENCES)
    if _DEFECTS.search(path.stem):
        return found("a defect map", DEFECT_MAPS)
    if epu.is_integrated(path.name):
        return found("EPU's image of an exposure, a square or the atlas", EPU_IMAGES)
    if _MADE.search(path.stem):
        return found("an average or a micrograph", "micrographs")
    return NotAMovie("has one image only", kind=SINGLE, may_grow=True, where=path)


def _is_around_one(header: MovieHeader, words: MrcWords | None) -> bool:
    if words is None or words.statistics is None or header.dtype not in ("float32", "float16"):
        return False
    smallest, _, mean, deviation = words.statistics
    return is_around_one(smallest, mean, deviation)


def _stack(path: Path, header: MovieHeader, words: MrcWords) -> NotAMovie | None:
    """Several images that are no frames, by what the file says of each, or of itself."""
    if words.tilts and max(words.tilts) - min(words.tilts) > _SAME_TILT:
        low, high = min(words.tilts), max(words.tilts)
        return NotAMovie(f"is a tilt series from {low:.0f}° to {high:.0f}°", kind=TILT_SERIES, where=path)
    if words.pieces > 1:
        return NotAMovie(f"is a montage of {words.pieces} pieces", kind=MONTAGES, where=path)
    is_cube = header.n_frames == header.height == header.width and header.n_frames >= _FEWEST_SLICES
    if is_cube or "emdatabank" in words.labels or "tomographic reconstruction" in words.labels:
        return NotAMovie(_volume(header), kind=VOLUMES, where=path)
    return None


def _volume(header: MovieHeader) -> str:
    return f"is a volume of {header.n_frames} × {header.height} × {header.width} px"


def _by_list(path: Path, header: MovieHeader) -> NotAMovie | None:
    """Several images for each of which a list beside them has a line."""
    n_images = header.n_frames
    if (tilts := tilts_listed(path, n_images)) is not None:
        return NotAMovie(f"is a tilt series of {n_images} images according to {tilts}", kind=TILT_SERIES, where=path)
    if (pieces := pieces_listed(path, n_images)) is not None:
        return NotAMovie(f"is a montage of {n_images} pieces according to {pieces}", kind=MONTAGES, where=path)
    return None


def _of_densities(path: Path, header: MovieHeader, words: MrcWords, root: Path) -> NotAMovie | None:
    """Several images of densities, which may be below zero, where frames hold counts."""
    if _is_named_volume(path, header, words, root):
        return NotAMovie(_volume(header), kind=VOLUMES, where=path)
    if _are_particles(path, header, words, root):
        what = f"holds {header.n_frames} normalised boxes of {header.width} px, no frames"
        return NotAMovie(what, kind=PARTICLES, where=path)
    return None


def _is_named_volume(path: Path, header: MovieHeader, words: MrcWords, root: Path) -> bool:
    """Whether a stack is a tomogram: by its name or that of a directory, and by densities below zero."""
    is_named = _VOLUME.search(path.stem) or any(map(_VOLUMES.fullmatch, _below(path, root)[:-1]))
    is_signed = words.statistics is not None and words.statistics[0] < 0.0
    return bool(is_named) and is_signed and header.n_frames >= _FEWEST_SLICES


def _below(path: Path, root: Path) -> tuple[str, ...]:
    """Names on the way from the root: what lies above it decides nothing."""
    return path.relative_to(root).parts if path.is_relative_to(root) else path.parts


def _raw_movie_beside(path: Path) -> bool:
    stem = _ALIGNED.sub("", path.stem)
    return any(os.path.lexists(path.with_name(stem + suffix)) for suffix in _MOVIE_SUFFIXES)


def _are_particles(path: Path, header: MovieHeader, words: MrcWords, root: Path) -> bool:
    """Whether a stack holds extracted particles: small square boxes of floats whose background was set to zero.

    Counts are never below zero, so that no movie of a counting camera has such values.
    """
    is_box = header.height == header.width <= _BOX and header.dtype in ("float32", "float16")
    if not is_box or words.statistics is None:
        return False
    smallest, largest, mean, deviation = words.statistics
    spread = deviation if deviation > 0.0 else (largest - smallest) / 8.0
    is_normalised = smallest < 0.0 < largest and abs(mean) < 0.3 * spread
    is_named = path.suffix.lower() == ".mrcs" or any(map(_BOXES.search, _below(path, root)))
    return is_normalised and (is_named or any(word in words.labels for word, _ in _PROGRAMS))


def _job_above(path: Path, root: Path) -> str | None:
    """The program in whose directory of results a file lies: by a name that only it gives, and what lies in it."""
    parts = _below(path, root)
    for above, name, below in _places(parts[:-1]):
        place = root.joinpath(*above, name)
        if _JOB.fullmatch(name) and (
            (above and above[-1].lower() in _JOB_TYPES)
            or any(os.path.lexists(place / file) for file in _JOB_FILES)
            or os.path.lexists(place.parent.parent / "default_pipeline.star")
        ):
            return "RELION"
        if _CRYOSPARC.fullmatch(name) and below and below[0] not in ("imported", "import_movies"):
            if below[0] in _CRYOSPARC_RESULTS or any(os.path.lexists(place / file) for file in _CRYOSPARC_FILES):
                return "cryoSPARC"
    return None


def _places(directories: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Each directory of a path, with those above it and those below it."""
    for index, name in enumerate(directories):
        yield directories[:index], name, directories[index + 1 :]
