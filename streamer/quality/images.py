"""MRC images of any program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import torch

from streamer.errors import MovieCorrupt, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def image_of(path: Path) -> tuple[torch.Tensor, float | None]:
    """An image as (h, w) float32, and its pixel size in Å/px, None where the header gives none.

    Raises
    ------
    UsageError
        If there is no such file.
    MovieCorrupt
        If it is not an MRC image.
    """
    if path.is_dir():
        hint = "name the image itself, such as the _EVN.mrc or _ODD.mrc in it"
        raise UsageError("is a directory, but an image is needed", where=path, hint=hint)
    try:
        with mrcfile.open(str(path)) as file:
            image = np.squeeze(np.array(file.data, dtype=np.float32))
            pixel_size = _given(file.voxel_size.x)
    except OSError as error:
        raise UsageError(
            f"cannot be read as an image: {error.strerror or error}",
            where=path,
            hint="check the name, and that you may read it",
        ) from error
    except ValueError as error:
        raise MovieCorrupt(
            f"cannot be read as an image: {error}",
            where=path,
            expected="MRC",
            hint="give MRC images; newstack of IMOD converts others",
        ) from error
    if image.ndim != 2:
        raise MovieCorrupt(
            "is not a single image",
            where=path,
            expected="one image",
            found=" × ".join(map(str, image.shape)) + " px",
            hint="give one half image of one micrograph",
        )
    return torch.from_numpy(image), pixel_size


def _given(pixel_size: float) -> float | None:
    """What a header states, which writes 0 where it does not know."""
    return float(pixel_size) if pixel_size > 0 else None


def size_of(path: Path) -> tuple[tuple[int, int], float | None]:
    """Height and width in px, and pixel size in Å/px or None, from the header alone; errors as for ``image_of``."""
    try:
        with mrcfile.open(str(path), header_only=True) as file:
            return (int(file.header.ny), int(file.header.nx)), _given(file.voxel_size.x)
    except (OSError, ValueError):
        image, pixel_size = image_of(path)
        return (int(image.shape[0]), int(image.shape[1])), pixel_size


def same_size(paths: list[Path]) -> tuple[list[torch.Tensor], float | None]:
    """Images of one size, and the first pixel size in Å/px that a header gives."""
    images: list[torch.Tensor] = []
    pixel_size: float | None = None
    for path in paths:
        image, told = image_of(path)
        pixel_size = pixel_size or told
        if images and images[0].shape != image.shape:
            expected, found = f"{tuple(images[0].shape)}", f"{tuple(image.shape)}"
            raise UsageError(
                "the images differ in size",
                where=path,
                expected=expected,
                found=found,
                hint="give halves of the same micrograph",
            )
        images.append(image)
    return images, pixel_size
