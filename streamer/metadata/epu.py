"""EPU's metadata: XML sidecars, and the information in the names of files and directories.

Two documents are known: ``MicroscopeImage``, which EPU writes for each exposure, and ``Acquisition``, which
the Falcon's computer writes next to each movie and which states how many fractions were recorded.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.movie_record import Acquisition
from streamer.readers.xml import parse_xml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree import ElementTree

MAX_COUNT = 1_000_000
MAX_TEXT = 64
_GRID_SQUARE = re.compile(r"GridSquare_([^/]+)", re.IGNORECASE)
_FOIL_HOLE = re.compile(r"FoilHole_([^/_]+)_Data_([^/_]+)_[^/]*", re.IGNORECASE)
_IMAGE = re.compile(
    r"FoilHole_\d+(?:_Data)?(?:_\d+)+|GridSquare_\d+(?:_\d+)*|(?:Tile|Atlas|Square)(?:Image)?(?:_[\d-]+)*",
    re.IGNORECASE,
)
_FRACTIONS = re.compile(r"_(?:fractions|eer)$", re.IGNORECASE)
_DISC = re.compile(r"Images-Disc\d*", re.IGNORECASE)


def position(relative: str) -> tuple[str | None, str | None, str | None]:
    """Grid square, foil hole and template from the path of a movie; None where they are not in it.

    Parameters
    ----------
    relative : ``…/GridSquare_<id>/Data/FoilHole_<hole>_Data_<template>_…``, with slashes.
    """
    *directories, name = relative.split("/")
    squares = [match[1] for match in map(_GRID_SQUARE.fullmatch, directories) if match]
    hole = _FOIL_HOLE.fullmatch(name)
    return (squares[-1] if squares else None, hole[1] if hole else None, hole[2] if hole else None)


def is_in_tree(directories: tuple[str, ...]) -> bool:
    """Whether a path of these parts is inside an EPU session: below a grid square of an image disc."""
    discs = [index for index, part in enumerate(directories) if _DISC.fullmatch(part)]
    return bool(discs) and any(_GRID_SQUARE.fullmatch(part) for part in directories[discs[0] + 1 :])


def is_fractions(stem: str) -> bool:
    """Whether a file name without its suffix is that of EPU's fractions; both spellings are in use."""
    return _FRACTIONS.search(stem) is not None


def is_integrated(name: str) -> bool:
    """Whether a file below a grid square has the name of an image that EPU writes of each exposure or square."""
    return _IMAGE.fullmatch(name.rpartition(".")[0]) is not None


def exposure_stem(stem: str) -> str:
    """Name of the exposure that a movie belongs to: without ``_fractions`` or ``_EER``."""
    return _FRACTIONS.sub("", stem)


def parse(document: bytes) -> Acquisition | None:
    """Read an XML sidecar of EPU; None for XML that is neither of its documents.

    Raises
    ------
    ValueError
        It is not XML, has a DTD or entities, or is larger than a sidecar can be.
    """
    root = parse_xml(document)
    kind = _local(root)
    if kind == "MicroscopeImage":
        return _microscope_image(root)
    if kind == "Acquisition":
        return Acquisition(n_frames=_whole(_text(root, "Info", "RecordedNumberOfFractions")))
    return None


def merge(image: Acquisition | None, recorded: Acquisition | None) -> Acquisition | None:
    """Complete what EPU requested with the number of fractions that the camera recorded."""
    if image is None or recorded is None or recorded.n_frames is None:
        return image or recorded
    return replace(image, n_frames=recorded.n_frames, dose_per_frame=per_frame(image.dose_total, recorded.n_frames))


def per_frame(dose_total: float | None, n_frames: int | None) -> float | None:
    """Exposure per frame, e⁻/Å², when total and number are known."""
    return dose_total / n_frames if dose_total is not None and n_frames else None


def _microscope_image(root: ElementTree.Element) -> Acquisition:
    custom = _pairs(root, "CustomData")
    camera = _pairs(root, "microscopeData", "acquisition", "camera", "CameraSpecificInput")
    n_frames = _fractions(camera.get("FractionationSettings"))
    dose = _scaled(_value(custom, "Dose"), 1e-20)  # e⁻/m² to e⁻/Å²
    defocus = _scaled(_value(custom, "AppliedDefocus"), -1e6)  # m, negative underfocus, to µm, positive
    optics, stage = ("microscopeData", "optics"), ("microscopeData", "stage", "Position")
    return Acquisition(
        n_frames=n_frames,
        pixel_size=_positive(
            _scaled(_text(root, "SpatialScale", "pixelSize", "x", "numericValue"), 1e10)  # m to Å
        ),
        voltage_kv=_positive(_scaled(_text(root, "microscopeData", "gun", "AccelerationVoltage"), 1e-3)),
        dose_total=_positive(dose),
        dose_per_frame=per_frame(_positive(dose), n_frames),
        magnification=_positive(_scaled(_text(root, *optics, "TemMagnification", "NominalMagnification"), 1)),
        defocus_target_um=defocus,
        beam_shift_x=_scaled(_text(root, *optics, "BeamShift", "_x"), 1),
        beam_shift_y=_scaled(_text(root, *optics, "BeamShift", "_y"), 1),
        stage_x_um=_scaled(_text(root, *stage, "X"), 1e6),
        stage_y_um=_scaled(_text(root, *stage, "Y"), 1e6),
        stage_z_um=_scaled(_text(root, *stage, "Z"), 1e6),
        super_res_factor=_whole(_value(camera, "SuperResolutionFactor")),
        acquired=(_text(root, "microscopeData", "acquisition", "acquisitionDateTime") or "")[:MAX_TEXT] or None,
    )


def _fractions(settings: ElementTree.Element | None) -> int | None:
    """Count the fractions: as stated when they are equidistant, else as many as are listed."""
    if settings is None:
        return None
    stated = _whole(_text(settings, "NumberOffractions"))
    if stated is not None:
        return stated
    listed = _child(settings, "DoseFractions")
    return len(listed) or None if listed is not None else None


def _local(element: ElementTree.Element) -> str:
    """Name of an element without its namespace: EPU's versions differ in prefixes, not in names."""
    return element.tag.rpartition("}")[2]


def _child(element: ElementTree.Element, *path: str) -> ElementTree.Element | None:
    found: ElementTree.Element | None = element
    for name in path:
        found = None if found is None else next((child for child in found if _local(child) == name), None)
    return found


def _text(element: ElementTree.Element, *path: str) -> str | None:
    found = _child(element, *path)
    text = "" if found is None or found.text is None else found.text.strip()
    return text or None


def _pairs(root: ElementTree.Element, *path: str) -> dict[str, ElementTree.Element]:
    """Key-value list of EPU, with the elements that contain the values."""

    def pairs() -> Iterator[tuple[str, ElementTree.Element]]:
        for pair in _child(root, *path) or ():
            key, value = _text(pair, "Key"), _child(pair, "Value")
            if key is not None and value is not None:
                yield key, value

    return dict(pairs())


def _value(pairs: dict[str, ElementTree.Element], key: str) -> str | None:
    element = pairs.get(key)
    return None if element is None else _text(element)


def _scaled(text: str | None, factor: float) -> float | None:
    """The number in our unit; None where there is no finite one."""
    try:
        value = float(text or "nan") * factor
    except ValueError:
        return None
    return value + 0.0 if abs(value) < float("inf") else None


def _positive(value: float | None) -> float | None:
    """EPU writes 0 for unknown values."""
    return value if value is not None and value > 0 else None


def _whole(text: str | None) -> int | None:
    value = _scaled(text, 1)
    return int(value) if value is not None and 1 <= value <= MAX_COUNT and value == int(value) else None
