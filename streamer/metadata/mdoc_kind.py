"""What kind of file a SerialEM ``.mdoc`` describes: the frames of a movie, or a file whose images are exposures.

An mdoc with a section ``[ZValue = n]`` for each image belongs to a tilt series, a montage or a stack of pictures; the
mdoc of a movie has a ``[FrameSet = n]``, or a section whose ``SubFramePath`` names the movie's file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from streamer.errors import StreamerError
from streamer.metadata.mdoc import Document, decoded, read
from streamer.metadata.numbers import DEGREES, number
from streamer.readers.files import opened, read_up_to

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["frames", "tilt series", "montage", "pictures"]

ENDINGS = (".mdoc", ".MDOC")
_MAX_BYTES = 4 << 20
_SAME_TILT = 1.0
"""Degrees by which the tilt of one exposure may be read differently."""


class MdocKind(NamedTuple):
    """What an mdoc describes."""

    kind: Kind
    n_images: int
    """Sections for one image each."""


def kind_of(document: Document, file_name: str) -> MdocKind | None:
    """What an mdoc says that a file is; None: it does not say, as for a single section.

    Parameters
    ----------
    file_name : of the file beside it, without directories.
    """
    if document.names_movie(file_name):
        return MdocKind("frames", 0)
    kinds = {section.kind.lower() for section in document.sections}
    images = [section.values for section in document.sections if section.kind.lower() == "zvalue"]
    angles = [angle for values in images if (angle := number(values.get("TiltAngle"), DEGREES)) is not None]
    tilted = bool(angles) and max(angles) - min(angles) > _SAME_TILT
    if "frameset" in kinds:
        # a tilt series may also be recorded as one long movie
        return MdocKind("tilt series" if tilted else "frames", len(images))
    pieces = {values["PieceCoordinates"] for values in images if "PieceCoordinates" in values}
    if document.head.values.get("Montage", "0") not in ("0", "") or "montsection" in kinds or len(pieces) > 1:
        return MdocKind("montage", len(images))
    if len(images) < 2:
        return None
    return MdocKind("tilt series" if tilted else "pictures", len(images))


def kind_beside(file: Path) -> tuple[Path, MdocKind] | None:
    """The mdoc next to a file that says what it is, ``<file>.mdoc`` before ``<stem>.mdoc``, and what it says."""
    for path in (file.with_name(own + ending) for own in (file.name, file.stem) for ending in ENDINGS):
        try:
            with opened(path) as descriptor:
                content = read_up_to(descriptor, _MAX_BYTES, 0)
            found = kind_of(read(decoded(content)), file.name)
        except (StreamerError, ValueError):
            continue  # the search for sidecars says what is wrong with it
        if found is not None:
            return path, found
    return None
