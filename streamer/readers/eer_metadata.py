"""What an EER movie says about its acquisition: the XML document in tag 65001 of one of its first pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from streamer.errors import MovieCorrupt, MovieNotReady, StreamerError
from streamer.readers.files import copy_again, damaged, opened, read_up_to
from streamer.readers.tiff_tags import (
    COMPRESSION,
    EER_COMPRESSIONS,
    Tags,
    TiffFile,
    is_tiff,
    open_tiff,
    read_tags,
    tag_bytes,
    tag_value,
)
from streamer.readers.xml import parse_xml

if TYPE_CHECKING:
    from pathlib import Path


EER_METADATA = 65001
"""Tag of the document."""
_PAGES_BEFORE_EVENTS, _MAX_BYTES = 8, 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The values that are used; each may be unknown."""

    n_frames: int | None = None
    """Raw frames that were recorded."""
    pixel_size: float | None = None
    """Å per physical pixel, at the specimen."""
    dose_per_pixel: float | None = None
    """e⁻ per physical pixel over the whole exposure."""
    gain_reference: str | None = None
    """Base name."""


def parse_metadata(path: Path, document: bytes | None) -> Metadata:
    """Read the ``item`` elements, ``<item name="exposureTime" unit="s">6.2</item>``; nothing where there are none.

    Raises
    ------
    MovieCorrupt
        The document is not XML, or is one that no camera writes.
    """
    if document is None:
        return Metadata()
    try:
        root = parse_xml(document.rstrip(b"\0"))
    except ValueError as error:
        raise MovieCorrupt(
            "has damaged acquisition metadata", where=path, found=str(error), hint=copy_again(path)
        ) from error
    items = {item.get("name", ""): (item.text or "").strip() for item in root.iter() if item.get("name")}
    n_frames = _number(items.get("numberOfFrames"))
    metres = _number(items.get("sensorPixelSize.width"))
    dose = _number(items.get("totalDose"))
    if dose is None:
        rate, time = _number(items.get("meanDoseRate")), _number(items.get("exposureTime"))
        dose = None if rate is None or time is None else rate * time
    return Metadata(
        n_frames=None if n_frames is None else int(n_frames),
        pixel_size=None if metres is None else metres * 1e10,
        dose_per_pixel=dose,
        gain_reference=PureWindowsPath(items.get("eerGainReference", "")).name or None,
    )


def gain_named_by(path: Path) -> str | None:
    """Base name of the gain reference that an EER movie names; None where it names none or cannot be read."""
    try:
        with opened(path) as descriptor:
            document = _first_document(path, descriptor)
        return parse_metadata(path, document).gain_reference
    except StreamerError:
        # the reader says what is wrong with the movie
        return None


def holds_events(path: Path, descriptor: int) -> bool:
    """Whether one of the first pages of a TIFF file is a stream of events: that of an EER movie is not always first."""
    file, offset = open_tiff(path, descriptor)
    for page in range(_PAGES_BEFORE_EVENTS):
        if offset < 8:
            break
        try:
            tags, offset = read_tags(file, offset, page)
            if tag_value(file, tags, COMPRESSION, page, 1) in EER_COMPRESSIONS:
                return True
        except (MovieCorrupt, MovieNotReady):
            if page == 0:
                raise
            break  # whoever reads the frames says what is wrong
    return False


def document_of(file: TiffFile, tags: Tags) -> bytes | None:
    """The document about the acquisition in one page of an EER file."""
    if tags[EER_METADATA][1] > _MAX_BYTES:
        raise damaged(file.path, None, found=f"acquisition metadata of {tags[EER_METADATA][1]} bytes")
    return tag_bytes(file, tags, EER_METADATA, _MAX_BYTES)


def _first_document(path: Path, descriptor: int) -> bytes | None:
    """The document among the first pages of a file; None where there is none."""
    if not is_tiff(read_up_to(descriptor, 4, 0)):
        return None
    file, offset = open_tiff(path, descriptor)
    for page in range(_PAGES_BEFORE_EVENTS):
        if offset < 8:
            break
        tags, offset = read_tags(file, offset, page)
        if EER_METADATA in tags:
            return document_of(file, tags)
    return None


def _number(text: str | None) -> float | None:
    """A positive number, else None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
