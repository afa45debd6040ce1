"""Which weights a session starts from. No torch: the daemon uses this."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from models.settings import NO_BASE, SHIPPED

if TYPE_CHECKING:
    from models.settings import SessionModelSettings

_SHIPPED_NETWORK = "small"


def base_directory(settings: SessionModelSettings) -> Path | None:
    """Directory of the version that a session starts from; None: from scratch."""
    if settings.base == NO_BASE or (settings.base == SHIPPED and settings.network != _SHIPPED_NETWORK):
        return None
    return shipped_base() if settings.base == SHIPPED else Path(settings.base).absolute()


def shipped_base() -> Path:
    """Directory of the weights that come with the program."""
    return Path(str(files("models") / "data" / "base"))
