"""What programs write beside the pixels: the extended header and the labels of an MRC file, the description of a TIFF.

Everything here is bounded and optional: what cannot be understood is unknown. Source of the extended header: the
specification of Thermo Fisher's MRC files, metadata versions 0 and 2 (``FEI1``, ``FEI2``), which share their beginning.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from itertools import pairwise

MOST_BYTES = 1 << 16
"""Of a description: what matters is at its beginning."""

FEI_KINDS = (b"FEI1", b"FEI2")
_FEI_RECORD_BYTES = 768
"""The shorter of the two."""
_BIT_VOLTAGE, _BIT_DOSE, _BIT_TILT, _BIT_PIXEL_SIZE = 5, 6, 7, 14
_DOSE_OF_EXPOSURE = (5.0, 1000.0)
"""e⁻/Å² that a whole exposure can have. What is less may be that of one frame, and is not used."""

_PLAUSIBLE_PIXEL_SIZE = (0.05, 50.0)  # Å/px; outside it the field contains something else
_AGREE = 0.01

_IN_ANGSTROM = {
    "a": 1.0,
    "å": 1.0,
    "angstrom": 1.0,
    "ångström": 1.0,
    "pm": 0.01,
    "picometer": 0.01,
    "nm": 10.0,
    "nanometer": 10.0,
    "um": 1e4,
    "µm": 1e4,
    "μm": 1e4,
    "micron": 1e4,
    "micrometer": 1e4,
    "m": 1e10,
    "meter": 1e10,
}
_NUMBER = r"(?P<number>[0-9]*[.,]?[0-9]+(?:e[+-]?[0-9]+)?)"
_WORD = (
    r"(?P<unit>å|a|angstr(?:o|ö)m|ångström|picomet(?:er|re)|pm|nanomet(?:er|re)|nm|micron|micromet(?:er|re)|[uµμ]m|m)s?"
)
_OTHERS = r"unbinned|original|physical|camera|detector|sensor|super.?res\w*"
_OF_ANOTHER = rf"(?P<other>\b(?:{_OTHERS})\s+)?"
"""Words before a pixel size that is not that of these images."""
_AFTERWARDS = rf"(?:\s*[(,;]?\s*(?P<after>{_OTHERS})\b(?!\s*(?:pixel|voxel)))?"
"""The same behind it, unless they begin what is said next."""
_SIZE = r"(?:pixel|voxel)[\s_]*(?:size|spacing)?"
_SIZES_IN_LABEL = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_OF_ANOTHER}{_SIZE}\s*(?:of|is)?\s*[:=]?\s*{_NUMBER}\s*{_WORD}\b{_AFTERWARDS}",
        rf"{_OF_ANOTHER}{_SIZE}(?:[\s_]+in[\s_]+|\s*[(\[]|_){_WORD}[)\]]?(?:\s*[:=]\s*|\s+){_NUMBER}(?![0-9.,]){_AFTERWARDS}",
        rf"(?<![0-9.,]){_NUMBER}\s*{_WORD}\s*(?:/|per\s)\s*(?:px|pix|pixel)\b",
    )
)
_UNIT_IN_LABEL = re.compile(
    rf"(?:(?:pixel|voxel|cell)\w*\s+(?:sizes?\s+|spacings?\s+|dimensions?\s+)?(?:is\s+|are\s+)?in|\bunits?\s*[:=]?)"
    rf"\s+\(?{_WORD}\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """What was found; each value may be unknown."""

    pixel_size: float | None = None
    """Å/px."""
    unit: float | None = None
    """Å per unit of lengths that are given without one."""
    voltage_kv: float | None = None
    dose_total: float | None = None
    """e⁻/Å² of the exposure."""
    tilts: tuple[float, ...] = ()
    """Degrees, one for each image, where all are known."""


def plausible_pixel_size(value: float, *, unset: float | None = 1.0) -> float | None:
    """Return the value in Å/px when it can be one, else None: unknown. A header that was never given one has 1.

    Parameters
    ----------
    unset : what stands where nobody gave a value; None: nothing does.
    """
    low, high = _PLAUSIBLE_PIXEL_SIZE
    return float(value) if low <= value <= high and value != unset else None


def of_extended_header(kind: bytes, data: bytes, n_frames: int) -> Remarks:
    """Read what the extended header of an MRC file says of its images.

    Parameters
    ----------
    kind : 4 bytes that name its layout; others than ``FEI1`` and ``FEI2`` are not read.
    data : all of it; a record per image, or one for all.
    n_frames : of the movie.
    """
    if kind not in FEI_KINDS or len(data) < _FEI_RECORD_BYTES:
        return Remarks()
    order = "<" if _FEI_RECORD_BYTES <= struct.unpack_from("<i", data, 0)[0] <= len(data) else ">"
    (size,) = struct.unpack_from(f"{order}i", data, 0)
    if not _FEI_RECORD_BYTES <= size <= len(data):
        return Remarks()
    records = [_FeiRecord.at(data, start, order) for start in range(0, min(len(data), n_frames * size), size)]
    first = records[0]
    # a value that differs from image to image is not the movie's
    pixel_size = first.pixel_size if all(one.pixel_size in (first.pixel_size, None) for one in records) else None
    voltage = first.voltage_kv if all(one.voltage_kv in (first.voltage_kv, None) for one in records) else None
    dose = first.dose if all(one.dose in (first.dose, None) for one in records) else None
    tilts = tuple(one.tilt for one in records if one.tilt is not None)
    low, high = _DOSE_OF_EXPOSURE
    return Remarks(
        pixel_size=pixel_size,
        voltage_kv=voltage,
        dose_total=dose if dose is not None and low <= dose <= high else None,
        tilts=tilts if len(tilts) == n_frames else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FeiRecord:
    """The values of one image that are used."""

    pixel_size: float | None
    voltage_kv: float | None
    dose: float | None
    tilt: float | None

    @classmethod
    def at(cls, data: bytes, start: int, order: str) -> _FeiRecord:
        """Read the record at ``start``; its bit mask says which fields hold anything."""
        if start + _FEI_RECORD_BYTES > len(data):
            return cls(pixel_size=None, voltage_kv=None, dose=None, tilt=None)
        (mask,) = struct.unpack_from("<I", data, start + 8)

        def stated(offset: int, bit: int) -> float | None:
            (number,) = struct.unpack_from(f"{order}d", data, start + offset)
            return float(number) if mask >> bit & 1 and math.isfinite(number) else None

        def value(offset: int, bit: int, scale: float) -> float | None:
            number = stated(offset, bit)
            return number * scale if number is not None and number > 0 else None

        return cls(
            voltage_kv=value(84, _BIT_VOLTAGE, 1e-3),  # V
            dose=value(92, _BIT_DOSE, 1e-20),  # e⁻/m²
            tilt=stated(100, _BIT_TILT),  # of the stage, degrees
            pixel_size=value(156, _BIT_PIXEL_SIZE, 1e10),  # m
        )


def of_labels(labels: list[str]) -> Remarks:
    """Read the pixel size with its unit, or the unit of the header's lengths, from the labels of an MRC file."""
    sizes = [size for label in labels for size in _sizes(label)]
    units = [found for label in labels if not _sizes(label) and (found := _UNIT_IN_LABEL.search(label))]
    # one that was true before the images were binned, and one that is, are no answer
    agree = bool(sizes) and max(sizes) - min(sizes) <= _AGREE * sizes[0]
    return Remarks(
        pixel_size=sizes[0] if agree else None,
        unit=_angstrom(units[0]["unit"]) if units else None,
    )


def _sizes(label: str) -> list[float]:
    """Å/px, as often as a label says it of its own images."""
    found = [one for pattern in _SIZES_IN_LABEL for one in pattern.finditer(label)]
    return [
        float(one["number"].replace(",", ".")) * _angstrom(one["unit"])
        for one in found
        if not any(one.groupdict().get(words) for words in ("other", "after"))
    ]


def _angstrom(word: str) -> float:
    return _IN_ANGSTROM[word.lower().replace("metre", "meter").replace("angström", "angstrom")]


def is_packed(text: str) -> bool:
    """Whether a label or a description says that two counts share a byte, as SerialEM's plug-in for Gatan cameras."""
    return "4 bits packed" in text


def of_description(text: str) -> Remarks:
    """Read the pixel size, or the unit of the resolution, from the description of a TIFF file."""
    if text.startswith("ImageJ="):
        word = _line(text, "unit").replace("\\u00B5", "µ").replace("\\u00C5", "Å").lower()
        unit = _IN_ANGSTROM.get(word) or _IN_ANGSTROM.get(word.removesuffix("s"))
        return Remarks(unit=unit)
    size = _attribute(text, "PhysicalSizeX")
    if "<OME" in text and size is not None:
        unit = _IN_ANGSTROM.get((_attribute(text, "PhysicalSizeXUnit") or "µm").lower())
        number = _number(size)
        return Remarks(pixel_size=None if unit is None or number is None else number * unit)
    return Remarks()


def announced_frames(text: str, height: int, width: int) -> int | None:
    """How many images a TIFF file has by its description; None where it does not say.

    ImageJ and SCIFIO count them in a line, tifffile gives the shape of all, OME-XML that of a file's image.
    """
    if text.startswith(("ImageJ=", "SCIFIO=")):
        return _whole(_line(text, "images"))
    if text.startswith("{") and '"shape"' in text:
        return _of_shape(text, height, width)
    if "<OME" in text and "FileName=" not in text:
        sizes = [_whole(_attribute(text, name) or "") for name in ("SizeC", "SizeZ", "SizeT")]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)
    return None


def _of_shape(text: str, height: int, width: int) -> int | None:
    try:
        shape = json.loads(text).get("shape")
    except (ValueError, AttributeError, RecursionError):
        return None
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
        return None
    # the image may be followed by axes of length 1
    while len(shape) > 2 and shape[-1] == 1 and (shape[-2], shape[-1]) != (height, width):
        shape = shape[:-1]
    places = [place for place, sides in enumerate(pairwise(shape)) if sides == (height, width)]
    return math.prod(shape[: places[-1]]) if places and places[-1] == len(shape) - 2 else None


def _line(text: str, name: str) -> str:
    """Value of ``name=value`` on a line of its own, empty where there is none."""
    found = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _attribute(text: str, name: str) -> str | None:
    found = re.search(rf'\s{name}="([^"]{{0,40}})"', text)
    return found[1] if found else None


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and int(text) > 0 else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
