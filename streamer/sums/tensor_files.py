"""Tensors on disk with a description: safetensors, the description as JSON in the header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
import safetensors
from safetensors.torch import save

from streamer.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class _Described(Protocol):
    @property
    def format(self) -> str: ...


D = TypeVar("D", bound=_Described)


def encode_tensors(tensors: dict[str, Tensor], description: msgspec.Struct) -> bytes:
    """Tensors and their description as the bytes of a file."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(content, {"description": msgspec.json.encode(description).decode()})


def read_tensors(path: Path, kind: type[D], expected: str, what: str) -> tuple[D, dict[str, Tensor]]:
    """Description and tensors of a file; ModelError if it is not a file of the ``expected`` format."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("description", "{}")
            description = msgspec.json.decode(text, type=kind)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError, msgspec.DecodeError) as error:
        raise ModelError(
            f"the {what} cannot be read: {error}",
            where=path,
            expected=expected,
            hint="remove it: its movie is left out of the training",
        ) from error
    if description.format != expected:
        raise ModelError(
            f"the {what} are in another format",
            where=path,
            expected=expected,
            found=description.format,
            hint="remove it: its movie is left out of the training",
        )
    return description, tensors
