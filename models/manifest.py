"""What a model version says about itself. No torch: the daemon and the command line read this too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from streamer.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
PATTERN = "pattern.safetensors"
"""Files of a version; the last one only if there is a pattern."""
FORMAT = "streamer.model/1"
SIMULATED = "simulated-"
"""Prefix of the ids of movies that were simulated for training."""
SUPER_RESOLUTION_KINDS = {"fusion": "gain-residual", "zssr": "cryo-zssr"}
"""Super-resolution networks, by method."""


WIENER_RESIDUAL_KIND = "wiener-residual-unet"
RESTORE_KIND = "restore-wdsr-unet"
"""Networks that denoise."""


class NetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shape of the net; part of every version's manifest."""

    kind: str
    widths: tuple[int, ...]
    """Channels per level, finest first."""
    stride: int = 1
    """Side of the squares of pixels that are folded into channels."""
    full_resolution_skip: bool = False
    """restore's network: whether its first features also reach its end."""


DENOISERS = {
    "small": NetConfig(kind=WIENER_RESIDUAL_KIND, widths=(24, 32, 48), stride=2),
    "large": NetConfig(kind=WIENER_RESIDUAL_KIND, widths=(32, 64, 96, 128), stride=1),
    "restore": NetConfig(kind=RESTORE_KIND, widths=(32,)),
    "restore-skip": NetConfig(kind=RESTORE_KIND, widths=(32,), full_resolution_skip=True),
}
"""Networks that a session can train, by ``session_model.network``."""
DENOISER_KINDS = (WIENER_RESIDUAL_KIND, RESTORE_KIND)


class MovieScore(Struct, frozen=True, kw_only=True):
    """How one net performs on one movie that it never saw."""

    movie_id: str
    snbr_raw: float
    snbr_wiener: float
    snbr: float
    """SNBR* of the merged output, at half the exposure, pooled over the band."""
    bias_ratio: float
    """B⊥/(γ² V)."""
    loss: float
    """Mean squared distance of the merged output from held-out groups, whitened units, noise of the target included."""
    loss_wiener: float
    snbr_held_out: float | None = None
    """SNBR* at about four fifths of the exposure, nearly that of the result, by groups that were left out."""


class ShellFigures(Struct, frozen=True, kw_only=True):
    """Figures of one shell, pooled over the held-out movies, at half the exposure; None: unknown."""

    resolution: tuple[float, float]
    """Coarse and fine end, Å."""
    gamma: float | None
    """Share of the signal that the output keeps."""
    bias_ratio: float | None
    """B⊥/(γ² V)."""
    snbr: float | None
    snbr_wiener: float | None


class Figures(Struct, frozen=True, kw_only=True):
    """Everything that the gate looked at."""

    scores: list[MovieScore]
    weight: list[tuple[float, float]]
    """λ as (spatial frequency in 1/Å, value)."""
    probes: dict[str, float]
    incumbent: list[MovieScore] = []
    shells: list[ShellFigures] = []


class Manifest(Struct, frozen=True, kw_only=True):
    """What a version is and where it comes from."""

    format: str = FORMAT
    version: str
    parent: str | None = None
    """Version that training continued from; None: from scratch."""
    base: str | None = None
    """sha256 of base weights that training started from."""
    net: NetConfig
    resolution: float
    """Fine end of the band, Å."""
    low: float
    """Coarse end of the band, Å."""
    pixel_size: float
    """Å/px of the movies it learned from."""
    general: bool = False
    """Base weights: trained at many pixel sizes in one band in Å, for any pixel size whose Nyquist is beyond it."""
    specimen: int = 1
    """Which of its session's specimens it learned from last (``models.specimens``)."""
    ctf: Literal["none", "flip"] = "none"
    """flip: it was trained on phase-flipped images, and is applied to such."""
    sha256: str
    """Of the weights' file."""
    software: str
    seed: int
    steps: int
    """Of this version's own training."""
    learning_rate: float = 1e-2
    """The same."""
    losses: list[float] = []
    trained_on: list[str] = []
    """Movie ids, those of its parents included."""
    held_out: list[str] = []
    weight: list[tuple[float, float]] = []
    """λ as (spatial frequency in 1/Å, value), measured on the held-out movies."""
    figures: Figures | None = None
    pattern_sha256: str | None = None
    """Of the file with what its movies share at the same place on the detector; None: there is none."""


def load_manifest(directory: Path) -> Manifest:
    """Manifest of a version; ModelError with the reason if there is none that can be read."""
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelError(
            f"no model version here: {error.strerror}",
            where=path,
            hint="give the directory of a version, the one with manifest.json in it",
        ) from error
    except msgspec.DecodeError as error:
        raise ModelError(
            f"damaged manifest: {error}", where=path, hint="take another version, or train it again"
        ) from error
    if manifest.format != FORMAT:
        raise ModelError(
            "the model has an unknown format",
            where=path,
            expected=FORMAT,
            found=manifest.format,
            hint="it was made by another version of this program: train a new one, or use that version",
        )
    return manifest
