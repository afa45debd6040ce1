"""Training data of networks for the fine grid, one safetensors file per movie.

For a network on top of fusion: sums of groups of the movie's frames on some tiles of the fine grid. It contains all
that the normal equations need, so that the movie is not read again. For cryo-ZSSR: the middle of the early and late
averages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import torch

from streamer.errors import ModelError
from streamer.sums.tensor_files import encode_tensors, read_tensors
from streamer.super_resolution.averages import Averages
from streamer.super_resolution.normal_equations import AliasGrid

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from streamer.super_resolution.fusion import Fusion

TRAINING_GROUPS = 8
FORMAT, AVERAGES_FORMAT = "streamer.fine-groups/1", "streamer.averages/1"
_MIDDLE = 1024
"""px per side of the averages that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionTrainingData:
    """Group sums of one movie on l tiles."""

    grid: AliasGrid
    groups: Tensor
    """(g, 4, l, side, side//2+1) complex64; see ``accumulate.AliasSums``."""
    group_of: Tensor
    """(t,) int64: the group of each frame."""
    fractions: Tensor
    """(t, l, 2) float64 px."""
    exposures: Tensor
    """(t,) float64 e⁻/Å²."""
    prior: Tensor
    """(4, side, side//2+1) of the movie's fused image."""
    white: float
    """Variance of one frame's noise per coarse coefficient of a tile."""
    pixel_size: float
    """Å, physical."""


class _Description(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    movie_id: str
    pixel_size: float
    voltage_kv: float
    weighted: bool
    white: float


def encode_training_data(movie_id: str, training_data: FusionTrainingData | Averages, pixel_size: float) -> bytes:
    """A movie's training data as the bytes of a file; ``pixel_size`` is the physical one in Å."""
    if isinstance(training_data, FusionTrainingData):
        return encode_fusion_data(movie_id, training_data)
    return encode_averages(movie_id, training_data, pixel_size)


def training_data_of(resolver: Fusion, pixel_size: float) -> FusionTrainingData:
    """Training data of a movie that was accumulated with groups; ``pixel_size`` in Å."""
    sums = resolver.sums
    return FusionTrainingData(
        grid=sums.grid,
        groups=sums.groups,
        group_of=sums.group_of,
        fractions=sums.fractions[:, sums.training_tiles],
        exposures=sums.exposures,
        prior=resolver.prior,
        white=resolver.white,
        pixel_size=pixel_size,
    )


def encode_fusion_data(movie_id: str, training_data: FusionTrainingData) -> bytes:
    """Training data as the bytes of a file; sums as float16 on one scale, which adds 0.05 % to their noise."""
    grid = training_data.grid
    description = _Description(
        format=FORMAT,
        movie_id=movie_id,
        pixel_size=training_data.pixel_size,
        voltage_kv=grid.voltage_kv,
        weighted=grid.weighted,
        white=training_data.white,
    )
    parts = torch.view_as_real(training_data.groups)
    # the coarsest coefficients are the shape of the field, far above the noise: float16 ends at 65504
    scale = (training_data.groups.abs().max() / 3e4).clamp(min=1e-30)
    tensors = {
        "groups": (parts / scale).to(torch.float16),
        "scale": scale.reshape(1),
        "group_of": training_data.group_of,
        "fractions": training_data.fractions,
        "exposures": training_data.exposures,
        "prior": training_data.prior,
        "transfer": torch.view_as_real(grid.transfer),
    }
    return encode_tensors(tensors, description)


def read_training_data(path: Path, device: torch.device | str = "cpu") -> tuple[str, FusionTrainingData]:
    """Movie id and training data of a file; ModelError if it is not one or not finite."""
    told, tensors = read_tensors(path, _Description, FORMAT, "sums of the fine grid")
    try:
        groups = torch.view_as_complex(tensors["groups"].float() * tensors["scale"]).to(device)
        transfer = torch.view_as_complex(tensors["transfer"]).to(device)
        rest = {name: tensors[name] for name in ("group_of", "fractions", "exposures")}
        prior = tensors["prior"].to(device)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"damaged sums of the fine grid: {error}",
            where=path,
            hint="remove it: its movie is left out of the training",
        ) from error
    frames, tiles = (int(size) for size in rest["fractions"].shape[:2])
    consistent = len(rest["group_of"]) == len(rest["exposures"]) == frames and groups.shape[2] == tiles
    if not consistent or not all(bool(torch.isfinite(t).all()) for t in (groups.abs(), prior, *rest.values())):
        raise ModelError(
            "damaged sums of the fine grid",
            where=path,
            found=str(tuple(groups.shape)),
            hint="remove it: its movie is left out of the training",
        )
    grid = AliasGrid(
        int(prior.shape[1]), told.pixel_size, told.voltage_kv, weighted=told.weighted, transfer=transfer, device=device
    )
    training_data = FusionTrainingData(
        grid=grid, groups=groups, prior=prior, white=told.white, pixel_size=told.pixel_size, **rest
    )
    return told.movie_id, training_data


class _AverageDescription(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    movie_id: str
    pixel_size: float
    scale: float
    early_share: float


def encode_averages(movie_id: str, averages: Averages, pixel_size: float) -> bytes:
    """The middle of a movie's averages as the bytes of a file, float16 of unit contrast; ``pixel_size`` in Å."""
    height, width = averages.whole.shape
    rows, columns = (
        slice(max(0, (size - _MIDDLE) // 2), max(0, (size - _MIDDLE) // 2) + _MIDDLE) for size in (height, width)
    )
    kept = averages.window(rows, columns)
    described = _AverageDescription(
        format=AVERAGES_FORMAT,
        movie_id=movie_id,
        pixel_size=pixel_size,
        scale=max(averages.scale, 1e-30),
        early_share=averages.early_share,
    )
    images = {name: (getattr(kept, name) / described.scale).half() for name in ("early", "late")}
    return encode_tensors(images | {"offsets": averages.offsets}, described)


def read_averages(path: Path, device: torch.device | str = "cpu") -> tuple[str, Averages, float]:
    """Movie id, averages and pixel size in Å of a file; ModelError if it is not one or not finite."""
    told, tensors = read_tensors(path, _AverageDescription, AVERAGES_FORMAT, "averages")
    if not {"early", "late", "offsets"} <= tensors.keys():
        raise ModelError(
            "damaged averages",
            where=path,
            found=", ".join(tensors),
            hint="remove it: its movie is left out of the training",
        )
    images = {name: tensors[name].float().to(device) for name in ("early", "late")}
    if len({tuple(t.shape) for t in images.values()}) > 1 or not all(bool(t.isfinite().all()) for t in images.values()):
        raise ModelError("damaged averages", where=path, hint="remove it: its movie is left out of the training")
    # they were divided by their scale
    found = Averages(**images, early_share=told.early_share, offsets=tensors["offsets"], scale=1.0)
    return told.movie_id, found, told.pixel_size
