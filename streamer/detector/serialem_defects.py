"""SerialEM's lists of a camera's defects: lines of a keyword and whole numbers, as IMOD reads them.

Coordinates are in px of a camera of CameraSizeX × CameraSizeY, x from the left, y from the top, in the orientation of
the frames that were saved with the list: RotationAndFlip says how that differs from the chip's and is not applied
again. A list of physical pixels is scaled for frames of twice or four times the size; frames smaller than the camera
are binned, else cut from its middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

_LEAST_NUMBERS = {
    "CameraSizeX": 1,
    "CameraSizeY": 1,
    "WasScaled": 1,
    "UsableArea": 4,
    "BadColumns": 1,
    "BadRows": 1,
    "BadPixels": 2,
    "PartialBadColumn": 4,
    "PartialBadRow": 4,
}
"""Keywords that are used, and how many numbers follow each at least."""
_OTHERS = ("RotationAndFlip", "K2Type", "FalconType", "NumToAvgSuperRes")
_LARGEST_SIDE = 65_536
_SCALES = (1, 2, 4)


def is_serialem(text: str) -> bool:
    """Whether the first line that says anything begins with one of SerialEM's keywords."""
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words:
            return words[0] in _LEAST_NUMBERS or words[0] in _OTHERS
    return False


def read_camera(path: Path, text: str) -> Mask:
    """Read a list.

    Returns
    -------
    (CameraSizeY, CameraSizeX), true at defects, row 0 at the bottom.

    Raises
    ------
    ConfigError
        A line cannot be used, or the camera's size is not given; the message names the line.
    """
    lines: list[tuple[str, list[int]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words or words[0] not in _LEAST_NUMBERS:
            continue
        try:
            values = [int(word) for word in words[1:]]
        except ValueError:
            values = []
        if len(values) < _LEAST_NUMBERS[words[0]] or (words[0] != "WasScaled" and min(values) < 0):
            expected = f"{words[0]} and {_LEAST_NUMBERS[words[0]]} or more whole numbers"
            raise ConfigError(
                f"line {number} of the defect file cannot be used",
                where=path,
                expected=expected,
                found=line[:60],
                hint="correct this line, or take it out",
            )
        lines.append((words[0], values))
    sizes = {word: values[0] for word, values in lines if word in {"CameraSizeX", "CameraSizeY"}}
    if len(sizes) < 2 or not all(0 < size <= _LARGEST_SIDE for size in sizes.values()):
        raise ConfigError(
            "the defect file does not say how large the camera is",
            where=path,
            expected="CameraSizeX and CameraSizeY",
            found=", ".join(f"{word} {size}" for word, size in sizes.items()),
            hint="copy the whole file that SerialEM wrote next to the frames",
        )
    found = np.zeros((sizes["CameraSizeY"], sizes["CameraSizeX"]), dtype=bool)
    scaled = next((values[0] for word, values in lines if word == "WasScaled"), 0)
    for word, values in lines:
        _mark(found, word, values, 1 if scaled <= 0 else 2 if scaled == 1 else 4)
    return np.ascontiguousarray(found[::-1])


def _mark(found: Mask, word: str, values: list[int], side: int) -> None:
    """Mark what one line lists, row 0 at the top; ``side`` is that of a single pixel."""
    if word == "BadColumns":
        found[:, [x for x in values if x < found.shape[1]]] = True
    elif word == "BadRows":
        found[[y for y in values if y < found.shape[0]]] = True
    elif word == "BadPixels":
        for x, y in zip(values[0::2], values[1::2], strict=False):
            found[y : y + side, x : x + side] = True
    elif word == "PartialBadColumn":
        x, width, first, last = values[:4]
        found[first : last + 1, x : x + width] = True
    elif word == "PartialBadRow":
        y, height, first, last = values[:4]
        found[y : y + height, first : last + 1] = True
    elif word == "UsableArea" and any(values):
        top, left, bottom, right = values[:4]
        usable = slice(top, bottom + 1 if bottom else None), slice(left, right + 1 if right else None)
        outside = np.ones(found.shape, dtype=bool)
        outside[usable] = False
        found |= outside


def on_frames(camera: Mask, shape: tuple[int, int]) -> Mask | None:
    """The same on frames of (h, w) px; None where they can be neither all of this camera nor a part of it."""
    for scale in _SCALES:
        sizes = camera.shape[0] * scale, camera.shape[1] * scale
        if shape[0] > sizes[0] or shape[1] > sizes[1]:
            continue
        binning = min(size // wanted for size, wanted in zip(sizes, shape, strict=True))
        if scale > 1 and binning > 1:
            return None
        spare = [size - binning * wanted for size, wanted in zip(sizes, shape, strict=True)]
        if any(s > 0.25 * size for s, size in zip(spare, sizes, strict=True)):
            return None
        fine = camera if scale == 1 else camera.repeat(scale, 0).repeat(scale, 1)
        part = fine[
            spare[0] // 2 : spare[0] // 2 + binning * shape[0], spare[1] // 2 : spare[1] // 2 + binning * shape[1]
        ]
        return np.asarray(part.reshape(shape[0], binning, shape[1], binning).any((1, 3)))
    return None
