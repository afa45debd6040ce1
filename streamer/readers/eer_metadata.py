"""What an EER movie says about its acquisition: the XML document in tag 65001 of its first page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from streamer.errors import MovieCorrupt, StreamerError
from streamer.readers.files import copy_again, opened
from streamer.readers.tiff_pages import first_eer_metadata
from streamer.readers.xml import parse_xml

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The values that are used; each may be unknown."""

    n_frames: int | None = None
    """Raw frames that were recorded."""
    pixel_size: float | None = None
    """Å per physical pixel, at the specimen."""
    dose_per_pixel: float | None = None
    """e⁻ per physical pixel over the whole exposure."""
    exposure_time_s: float | None = None
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
        exposure_time_s=_number(items.get("exposureTime")),
        gain_reference=PureWindowsPath(items.get("eerGainReference", "")).name or None,
    )


def gain_named_by(path: Path) -> str | None:
    """Base name of the gain reference that an EER movie names; None where it names none or cannot be read."""
    try:
        with opened(path) as descriptor:
            document = first_eer_metadata(path, descriptor)
        return parse_metadata(path, document).gain_reference
    except StreamerError:
        # the reader says what is wrong with the movie
        return None


def _number(text: str | None) -> float | None:
    """A positive number, else None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
