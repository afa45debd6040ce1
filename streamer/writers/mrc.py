"""MRC2014 images: from an array to the bytes of a file. The same image and labels give the same bytes.

Source: Cheng et al. 2015, doi:10.1016/j.jsb.2015.04.002; mode 12 (float16): ccpem.ac.uk/mrc_format.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LABELS, LABEL_BYTES = 10, 80

_MODES = {"int8": 0, "float32": 2, "float16": 12}
_VERSION = 20141  # the first that knows mode 12
_LITTLE_ENDIAN = b"\x44\x44\x00\x00"
_HEADER = struct.Struct("<10i 6f 3i 3f 2i 8x 4s i 84x 3f 4s 4s f i 800s")
_ROWS_AT_A_TIME = 256


def fitting(image: np.ndarray, dtype: str) -> np.ndarray:
    """An image in the requested type, or in float32 where its values do not fit into that."""
    with np.errstate(over="ignore"):
        wanted = image.astype(dtype)
    return wanted if np.isfinite(wanted).all() else image.astype(np.float32)


def encode_image(image: np.ndarray, *, pixel_size: float, labels: Sequence[str] = ()) -> bytes:
    """Encode one image as an MRC file.

    Parameters
    ----------
    image : (h, w) float32 (mode 2), float16 (mode 12) or int8 (mode 0); row 0, at the bottom, comes first.
    pixel_size : Å/px.
    labels : at most 10 of at most 80 characters; anything not ASCII becomes ``?``. Never a time stamp: the
        bytes must be the same each time.

    Returns
    -------
    Header and data.

    Raises
    ------
    ValueError
        The image has another shape or type, or numbers that are not finite; or there are too many labels.
    """
    if image.ndim != 2 or image.size == 0 or image.dtype.name not in _MODES:
        raise ValueError(f"expected an (h, w) image of {', '.join(_MODES)}, got {image.shape} of {image.dtype.name}")
    if not pixel_size > 0:
        raise ValueError(f"expected a pixel size above 0, got {pixel_size}")
    return _header(image, pixel_size, labels) + image.astype(image.dtype.newbyteorder("<"), order="C").tobytes()


def _header(image: np.ndarray, pixel_size: float, labels: Sequence[str]) -> bytes:
    height, width = image.shape
    minimum, maximum, mean, rms = _statistics(image)
    return _HEADER.pack(
        *(width, height, 1, _MODES[image.dtype.name]),
        *(0, 0, 0),  # start
        *(width, height, 1),  # sampling of the cell
        *(width * pixel_size, height * pixel_size, pixel_size),  # cell, Å
        *(90.0, 90.0, 90.0),
        *(1, 2, 3),  # columns are x, rows y, sections z
        *(minimum, maximum, mean),
        *(0, 0),  # an image, not a volume; no extended header
        b"\0\0\0\0",
        _VERSION,
        *(0.0, 0.0, 0.0),  # origin
        b"MAP ",
        _LITTLE_ENDIAN,
        rms,
        len(labels),
        _labels(labels),
    )


def _labels(labels: Sequence[str]) -> bytes:
    if len(labels) > MAX_LABELS:
        raise ValueError(f"expected at most {MAX_LABELS} labels, got {len(labels)}")
    encoded = [label.encode("ascii", "replace") for label in labels]
    for label in encoded:
        if not 0 < len(label.strip()) <= len(label) <= LABEL_BYTES:
            raise ValueError(f"expected labels of 1 to {LABEL_BYTES} characters, got {label!r}")
    return b"".join(label.ljust(LABEL_BYTES) for label in encoded)


def _statistics(image: np.ndarray) -> tuple[float, float, float, float]:
    """Find minimum, maximum, mean and root mean square deviation, in float64, a few rows at a time."""
    minimum, maximum = float(image.min()), float(image.max())
    if not (np.isfinite(minimum) and np.isfinite(maximum)):
        raise ValueError("expected finite numbers")
    mean = float(image.mean(dtype=np.float64))
    if image.dtype.name == "float16":
        # mrcfile checks it in float16, overflows and refuses the file, even its own; below 0 is unknown.
        return minimum, maximum, mean, -1.0
    squares = sum(
        float(np.square(image[row : row + _ROWS_AT_A_TIME].astype(np.float64) - mean).sum())
        for row in range(0, len(image), _ROWS_AT_A_TIME)
    )
    return minimum, maximum, mean, (squares / image.size) ** 0.5
