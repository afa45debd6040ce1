"""Frame-group sums on disk: what a session model learns from, one safetensors file per movie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import torch

from streamer.errors import ModelError
from streamer.records import GroupSums
from streamer.sums.tensor_files import encode_tensors, read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FORMAT = "streamer.groups/1"


class _Description(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    movie_id: str
    exposures: tuple[tuple[float, ...], ...]
    shape: tuple[int, int]
    pixel_size: float
    voltage_kv: float


def encode_groups(movie_id: str, sums: GroupSums) -> bytes:
    """A movie's group sums as the bytes of a file."""
    description = _Description(
        format=FORMAT,
        movie_id=movie_id,
        exposures=sums.exposures,
        shape=sums.shape,
        pixel_size=sums.pixel_size,
        voltage_kv=sums.voltage_kv,
    )
    return encode_tensors({"groups": sums.groups}, description)


def read_groups(path: Path) -> tuple[str, GroupSums]:
    """Movie id and group sums of a file; ModelError if it is not one or not finite."""
    description, tensors = read_tensors(path, _Description, FORMAT, "frame-group sums")
    groups = tensors.get("groups", torch.empty(0))
    if groups.ndim != 3 or len(groups) != len(description.exposures) or not bool(torch.isfinite(groups).all()):
        raise ModelError(
            "damaged frame-group sums",
            where=path,
            found=str(tuple(groups.shape)),
            hint="remove it: its movie is left out of the training",
        )
    sums = GroupSums(
        groups=groups,
        exposures=description.exposures,
        shape=description.shape,
        pixel_size=description.pixel_size,
        voltage_kv=description.voltage_kv,
    )
    return description.movie_id, sums


def find_groups(places: Iterable[Path]) -> list[Path]:
    """All group files in or below some directories, oldest first."""
    found = {path for place in places for path in ([place] if place.is_file() else place.rglob("*.safetensors"))}
    return sorted((p for p in found if p.name != "model.safetensors"), key=lambda p: (p.stat().st_mtime_ns, p))
