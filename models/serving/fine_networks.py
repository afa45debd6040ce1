"""Which network makes or changes the super-resolved image: that of the settings, else what the session learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from models.serving.super_resolution import FineModel, ZssrModel
from streamer.errors import ModelError

if TYPE_CHECKING:
    import torch

    from service.config import Config
    from streamer.movie_record import ModelRef
    from streamer.super_resolution.networks import AverageNetwork, FineNetwork


class _Unusable:
    """Stands for a session's version that cannot be loaded: the movie is fused without it and says why."""

    def __init__(self, error: ModelError) -> None:
        self._error = error

    @property
    def reference(self) -> ModelRef:
        """There is none."""
        raise self._error

    @property
    def trained_on(self) -> frozenset[str]:
        """None is known."""
        return frozenset()

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Tell why."""
        raise self._error


class FineNetworks:
    """Loads each version once."""

    def __init__(self, config: Config, device: torch.device) -> None:
        """Load what the settings name; raises ModelError."""
        self._device, self._chosen = device, config.super_resolution
        self._known: dict[Path, FineModel | ZssrModel | _Unusable] = {}
        self._fixed: FineModel | ZssrModel | None = None
        if self._chosen.model is not None:
            self._fixed = self._load(Path(self._chosen.model))
        elif self._chosen.method == "zssr" and self._chosen.per_movie:
            self._fixed = ZssrModel(None, device)

    def on_fusion(self, session_version: str | None) -> FineNetwork | None:
        """The network on top of fusion; a session's version is given by its directory."""
        found = self._found(session_version) if self._chosen.method == "fusion" else None
        return None if isinstance(found, ZssrModel) else found

    def zssr(self, session_version: str | None) -> AverageNetwork | None:
        """cryo-ZSSR, likewise."""
        found = self._found(session_version) if self._chosen.method == "zssr" else None
        return None if isinstance(found, FineModel) else found

    def _found(self, session_version: str | None) -> FineModel | ZssrModel | _Unusable | None:
        if self._fixed is not None or session_version is None or not self._chosen.learns:
            return self._fixed
        directory = Path(session_version)
        if directory not in self._known:
            try:
                self._known = {directory: self._load(directory)}
            except ModelError as error:
                self._known = {directory: _Unusable(error)}
        return self._known[directory]

    def _load(self, directory: Path) -> FineModel | ZssrModel:
        kind = ZssrModel if self._chosen.method == "zssr" else FineModel
        return kind(directory, self._device)
