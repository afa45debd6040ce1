"""What kind of file a SerialEM ``.mdoc`` describes: the frames of a movie, or a file whose images are exposures.

An mdoc with a section ``[ZValue = n]`` for each image belongs to a tilt series, a montage or a stack of pictures; the
mdoc of a movie has a ``[FrameSet = n]``, or a section whose ``SubFramePath`` names the movie's file.
"""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from streamer.errors import StreamerError
from streamer.metadata.mdoc import LINE_ENDS, decoded
from streamer.readers.files import opened, read_up_to

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Kind = Literal["frames", "tilt series", "montage", "pictures"]

_MAX_BYTES = 4 << 20
_MOST_SECTIONS, _MOST_TEXT = 100_000, 4096
_TELLING = frozenset({"montage", "piececoordinates", "subframepath", "tiltangle"})
_SAME_TILT = 1.0
"""Degrees by which the tilt of one exposure may be read differently."""


class MdocKind(NamedTuple):
    """What an mdoc describes."""

    kind: Kind
    n_images: int
    """Sections for one image each."""


def kind_of(text: str, file_name: str) -> MdocKind | None:
    """What an mdoc says that a file is; None: it does not say, as for a single section.

    Parameters
    ----------
    text : of the mdoc.
    file_name : of the file beside it, without directories.
    """
    head: dict[str, str] = {}
    names: list[str] = []
    sections: list[dict[str, str]] = []
    values = head
    for line in LINE_ENDS.split(text):
        key, equals, value = line.partition("=")
        key = key.strip().lower()
        if equals and key.startswith("["):
            kind = key[1:].strip()
            if kind != "t" and len(sections) < _MOST_SECTIONS:  # t: a title
                values = {}
                names.append(kind)
                sections.append(values)
        elif equals and key in _TELLING:
            values.setdefault(key, value.strip()[:_MOST_TEXT])
    images = [values for name, values in zip(names, sections, strict=True) if name == "zvalue"]
    tilted = _spread(values.get("tiltangle") for values in images) > _SAME_TILT
    if any(_base_name(values.get("subframepath")) == file_name.lower() for values in sections):
        return MdocKind("frames", 0)
    if "frameset" in names:
        # a tilt series may also be recorded as one long movie
        return MdocKind("tilt series" if tilted else "frames", len(images))
    pieces = {values["piececoordinates"] for values in images if "piececoordinates" in values}
    if head.get("montage", "0") not in ("0", "") or "montsection" in names or len(pieces) > 1:
        return MdocKind("montage", len(images))
    if len(images) < 2:
        return None
    return MdocKind("tilt series" if tilted else "pictures", len(images))


def kind_beside(file: Path) -> tuple[Path, MdocKind] | None:
    """The mdoc next to a file that says what it is, ``<file>.mdoc`` before ``<stem>.mdoc``, and what it says."""
    for path in (file.with_name(file.name + ".mdoc"), file.with_suffix(".mdoc")):
        try:
            with opened(path) as descriptor:
                document = read_up_to(descriptor, _MAX_BYTES, 0)
        except StreamerError:
            continue  # the search for sidecars says what is wrong with it
        found = kind_of(decoded(document), file.name)
        if found is not None:
            return path, found
    return None


def _spread(angles: Iterable[str | None]) -> float:
    """Largest difference, degrees; what is no number does not count."""
    numbers = []
    for angle in angles:
        try:
            numbers.append(float((angle or "").replace(",", ".")))
        except ValueError:
            continue
    return max(numbers) - min(numbers) if numbers else 0.0


def _base_name(path: str | None) -> str | None:
    return PureWindowsPath(path).name.lower() if path else None
