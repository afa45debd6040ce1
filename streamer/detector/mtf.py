"""A detector's modulation transfer function, from a STAR file as RELION reads it.

Measured up to the physical Nyquist frequency at most. Beyond it, where the fine grid needs it, the pixel's own box is
known exactly; the rest, the spread of an electron over pixels, continues as the Gaussian that fits the measured part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import gemmi
import torch
from torch import Tensor

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_COLUMNS = ("_rlnResolutionInversePixel", "_rlnMtfValue")
_FITTED = (0.1, 0.5)
"""cycles/px between which the Gaussian is fitted."""


def read_blur(path: Path) -> Callable[[Tensor], Tensor]:
    """Transfer beyond the pixel's box, MTF(f)/sinc(f), as a function of (…) cycles per physical px.

    Raises
    ------
    ConfigError
        If the file does not exist or contains no such table.
    """
    frequency, value = _table(path)
    used = (frequency >= _FITTED[0]) & (frequency <= _FITTED[1])
    blur = (value / torch.sinc(frequency)).clamp(min=1e-3)
    # −ln blur = a f², by least squares
    square = frequency[used] ** 2
    steepness = float((-blur[used].log() * square).sum() / square.square().sum())
    last = float(frequency[frequency <= 0.5].max())

    def transfer(fftfreq: Tensor) -> Tensor:
        index = torch.searchsorted(frequency, fftfreq.double().cpu().contiguous()).clamp(1, len(frequency) - 1)
        low, high = frequency[index - 1], frequency[index]
        share = ((fftfreq.double().cpu() - low) / (high - low)).clamp(0.0, 1.0)
        measured = torch.lerp(blur[index - 1], blur[index], share).to(fftfreq)
        beyond = torch.exp(-steepness * (fftfreq**2 - last**2)) * float(blur[frequency <= 0.5][-1])
        return torch.where(fftfreq <= last, measured, beyond)

    return transfer


def _table(path: Path) -> tuple[Tensor, Tensor]:
    """Frequencies in cycles/px, ascending, and values, both float64."""
    hint = "give a STAR file of _rlnResolutionInversePixel and _rlnMtfValue, as for RELION's --mtf"
    try:
        block = gemmi.cif.read(str(path)).sole_block()
        rows = [(float(row[0]), float(row[1])) for row in block.find(list(_COLUMNS))]
    except OSError as error:
        raise ConfigError(f"the MTF cannot be read: {error.strerror or error}", where=path, hint=hint) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the MTF cannot be read: {error}", where=path, hint=hint) from error
    rows = sorted(set(rows))
    if len(rows) < 4 or rows[0][0] < 0.0 or not any(_FITTED[0] <= f <= _FITTED[1] for f, _ in rows):
        raise ConfigError(
            "contains no MTF",
            where=path,
            expected="at least four rows, up to 0.5 cycles/px",
            found=f"{len(rows)} rows",
            hint=hint,
        )
    if not all(math.isfinite(v) and 0.0 < v <= 1.2 for _, v in rows):
        raise ConfigError("contains no MTF", where=path, expected="values between 0 and 1", hint=hint)
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, 0].contiguous(), table[:, 1].contiguous()
