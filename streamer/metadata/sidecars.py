"""What is known about a movie besides its own bytes: the sidecar that EPU or SerialEM writes, and its path."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.errors import MovieMismatch, MovieUnsupported
from streamer.metadata import epu, mdoc
from streamer.metadata.mdoc_kind import ENDINGS
from streamer.readers.files import opened, read_up_to

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.movie_record import Acquisition

MAX_BYTES = 16 << 20
MAX_SESSION = 64

_CONVERTED = (".tif", ".tiff", ".mrc", ".mrcs", ".eer")
_NO_SESSION = ("images-disc*", "gridsquare_*", "data")


def read_sidecar(movie_path: Path) -> Acquisition | None:
    """Read the sidecar of a movie: SerialEM's ``<file>.mdoc``, Tomo5's ``<stem>.mdoc`` or EPU's ``<exposure>.xml``.

    Returns
    -------
    Its content, with the position from the movie's path; None where there is no sidecar.

    Raises
    ------
    MovieMismatch
        The sidecar cannot be understood: damaged, or still being written.
    MovieNotReady
        It exists, but cannot be read at present.
    """
    found = _read_mdoc(movie_path) or _read_epu(movie_path)
    return None if found is None else with_position(found, movie_path.as_posix())


def with_position(acquisition: Acquisition, relative: str) -> Acquisition:
    """Add grid square, foil hole and template as far as the path contains them."""
    grid_square, foil_hole, template = epu.position(relative)
    return replace(acquisition, grid_square=grid_square, foil_hole=foil_hole, template=template)


def session_of(relative: str, root_name: str, override: str = "") -> str:
    """Name the session that a movie belongs to.

    Parameters
    ----------
    relative : path of the movie below the watched root, with slashes.
    root_name : name of the watched root.
    override : ``[session] name``; empty for none.

    Returns
    -------
    The override, else the first directory that is not one of EPU's own, else the root's name; only of the
    characters ``A-Z a-z 0-9 . _ -``, so that it can name a directory.
    """
    directories = [part for part in relative.split("/")[:-1] if not _is_epu_directory(part)]
    return _restricted(override or (directories[0] if directories else root_name))


def session_directory(movie: Path) -> Path:
    """Directory of a movie's session when nothing is watched: the nearest above it that is not one of EPU's own."""
    return next((place for place in movie.parents if not _is_epu_directory(place.name)), movie.parent)


def _is_epu_directory(part: str) -> bool:
    return any(fnmatch.fnmatchcase(part.lower(), pattern) for pattern in _NO_SESSION)


def _restricted(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    # A leading dot would hide the directory or, as "..", leave it; a leading dash looks like an option.
    safe = re.sub(r"^[.-]", "_", safe) or "session"
    if len(safe) <= MAX_SESSION:
        return safe
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{safe[: MAX_SESSION - 9]}-{digest[:8]}"


def _read_mdoc(movie_path: Path) -> Acquisition | None:
    name, stem = movie_path.name, movie_path.stem
    for ending in ENDINGS:
        for own in (name, stem):
            if (document := read_mdoc(movie_path.with_name(own + ending))) is not None:
                return about(document, movie_path.with_name(own + ending), name)
    for suffix in _CONVERTED:
        # of the movie before it was converted, or of another image with this stem
        path = movie_path.with_name(stem + suffix + ENDINGS[0])
        try:
            document = None if path.name == name + ENDINGS[0] else read_mdoc(path)
        except MovieMismatch:
            continue  # what is of no movie's name stops none
        if document is not None and document.names_movie(name):
            return about(document, path, name)
    return None


def about(document: mdoc.Document, path: Path, movie_name: str) -> Acquisition:
    """What the mdoc at a path says about one movie."""
    return replace(mdoc.about(document, movie_name), sidecar=path.name)


def read_mdoc(path: Path) -> mdoc.Document | None:
    """An mdoc, None where there is none; raises as ``read_sidecar``, and MovieMismatch for what is none."""
    content = _read(path)
    try:
        return None if content is None else mdoc.read(mdoc.decoded(content))
    except ValueError as error:
        raise MovieMismatch(
            "its mdoc cannot be read",
            where=path,
            found=str(error),
            hint="repair it or move it away, set what is then unknown in [movie], and: streamer movies retry",
        ) from error


def _read_epu(movie_path: Path) -> Acquisition | None:
    image = read_xml(movie_path.with_name(epu.exposure_stem(movie_path.stem) + ".xml"))
    return epu.merge(image, read_recorded(movie_path))


def read_recorded(movie_path: Path) -> Acquisition | epu.Recorded | None:
    """What the camera's computer wrote about the fractions next to a movie; None where there is nothing.

    Raises as ``read_sidecar``.
    """
    stem = movie_path.stem
    return _read_document(movie_path.with_name(stem + ".xml")) if epu.is_fractions(stem) else None


def read_xml(path: Path) -> Acquisition | None:
    """Read one XML sidecar of EPU; None where there is none, or one of another kind."""
    found = _read_document(path)
    return found.acquisition if isinstance(found, epu.Recorded) else found


def _read_document(path: Path) -> Acquisition | epu.Recorded | None:
    document = _read(path)
    if document is None:
        return None
    try:
        found = epu.read(document)
    except ValueError as error:
        raise MovieMismatch(
            "its XML sidecar cannot be read",
            where=path,
            found=str(error),
            hint="repair it or move it away, set what is then unknown in [movie], and: streamer movies retry",
        ) from error
    if isinstance(found, epu.Recorded):
        return replace(found, acquisition=replace(found.acquisition, sidecar=path.name))
    return None if found is None else replace(found, sidecar=path.name)


def _read(path: Path) -> bytes | None:
    """Content of a sidecar, None where there is none."""
    if not os.path.lexists(path):
        return None
    try:
        with opened(path) as descriptor:
            document = read_up_to(descriptor, MAX_BYTES + 1, 0)
    except MovieUnsupported as error:
        raise MovieMismatch(
            "its sidecar is not a regular file", where=path, hint="put the sidecar itself beside the movie"
        ) from error
    if len(document) > MAX_BYTES:
        raise MovieMismatch(
            "its sidecar is too large",
            where=path,
            expected=f"at most {MAX_BYTES} bytes",
            hint="is it really the sidecar of this movie? remove it if it is not, then: streamer movies retry",
        )
    return document
