"""The image in a DM4 file of DigitalMicrograph, the format of K2 and K3 gain references."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import MovieCorrupt
from streamer.readers.files import copy_again
from streamer.readers.tiff_tags import MAX_SIDE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def is_dm4(head: bytes) -> bool:
    """Whether a file begins like a DM4 file."""
    return head[:4] == b"\0\0\0\x04"


def read_dm4_image(path: Path) -> NDArray[np.float32]:
    """Read the last image of a DM4 file; those before it are thumbnails.

    Returns
    -------
    (h, w), row 0 at the bottom: the file's first row is the top one, as in TIFF, and rows are flipped.

    Raises
    ------
    MovieCorrupt
        It is not a DM4 file, is truncated, or contains no two-dimensional image.
    """
    # imported here: only users of such files pay for it
    from dm4 import DM4File

    try:
        with DM4File.open(str(path)) as file:
            images = file.read_directory().named_subdirs["ImageList"].unnamed_subdirs
            data = images[-1].named_subdirs["ImageData"]
            sizes = [int(file.read_tag_data(tag)) for tag in data.named_subdirs["Dimensions"].unnamed_tags]
            if len(sizes) != 2 or not all(0 < size <= MAX_SIDE for size in sizes):
                raise MovieCorrupt(
                    "contains no two-dimensional image",
                    where=path,
                    found=f"dimensions {sizes}",
                    hint="export the reference from DigitalMicrograph as one image",
                )
            values = np.asarray(file.read_tag_data(data.named_tags["Data"]), dtype=np.float32)
    except (KeyError, IndexError, TypeError, ValueError, OSError, EOFError, MemoryError, struct.error) as error:
        raise MovieCorrupt(
            "cannot be read as a DM4 image", where=path, found=str(error), hint=copy_again(path)
        ) from error
    if values.size != math.prod(sizes):
        raise MovieCorrupt(
            "contains a different number of px than it says",
            where=path,
            expected=" × ".join(map(str, sizes)),
            found=values.size,
            hint=copy_again(path),
        )
    return values.reshape(sizes[1], sizes[0])[::-1].copy()
