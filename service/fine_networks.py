"""Which network makes or changes the super-resolved image: that of the settings, else what the session learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.fine_model import FineModel, ZssrModel

if TYPE_CHECKING:
    import torch

    from service.config import Config


class FineNetworks:
    """Loads each version once."""

    def __init__(self, config: Config, device: torch.device) -> None:
        """Load what the settings name; raises ModelError."""
        self._device = device
        self._is_wanted = config.super_resolution.network
        named = None if config.super_resolution.model is None else Path(config.super_resolution.model)
        self.zssr = ZssrModel(named, device) if config.super_resolution.method == "zssr" else None
        self._fixed = FineModel(named, device) if named is not None and self.zssr is None else None
        self._learned: FineModel | None = None

    def on_fusion(self, session_version: str | None) -> FineModel | None:
        """The network on top of fusion; a session's version is given by its directory."""
        if self._fixed is not None or not self._is_wanted or session_version is None:
            return self._fixed
        if self._learned is None or str(self._learned.directory) != session_version:
            self._learned = FineModel(Path(session_version), self._device)
        return self._learned
