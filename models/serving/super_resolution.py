"""Super-resolution networks in use: one on top of fusion, and cryo-ZSSR as published."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from models.networks import zssr
from models.networks.denoiser import bf16_is_faster
from models.networks.fusion_residual import MULTIPLE, BandNoise, FusionResidualNet, band_noise, correct
from models.settings import is_same_pixel_size
from models.versions.checkpoint import load_net
from streamer.errors import ModelError
from streamer.movie_record import ModelRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.manifest import Manifest
    from streamer.settings import SuperResolutionSettings
    from streamer.super_resolution.averages import Averages
    from streamer.super_resolution.networks import FusionNetwork, ZssrNetwork
    from streamer.super_resolution.normal_equations import AliasGrid

_SEED = 40
_PART, _HALO = 2048, 256
"""px per side processed at a time, to limit the memory of seven bands, and the margin seen around them."""


def _reference(manifest: Manifest) -> ModelRef:
    return ModelRef(version=manifest.version, sha256=manifest.sha256, weight=tuple(manifest.weight))


def _check_pixel_size(manifest: Manifest, pixel_size: float, directory: Path) -> None:
    if not is_same_pixel_size(pixel_size, manifest.pixel_size):
        expected, found = f"{manifest.pixel_size:g} Å/px", f"{pixel_size:g} Å/px"
        raise ModelError(
            "the model was trained at another pixel size",
            where=directory,
            expected=expected,
            found=found,
            hint="use a version that was trained on movies of this pixel size",
        )


class FusionModel:
    """One version of a network on top of fusion, loaded; a ``streamer.super_resolution.networks.FusionNetwork``."""

    def __init__(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """Load and check a version; raises ModelError."""
        self.directory = directory
        self._net, self.manifest = load_net(directory, FusionResidualNet, device)
        self.reference = _reference(self.manifest)
        self.trained_on = frozenset(self.manifest.trained_on)

    def __call__(self, fused: Tensor, grid: AliasGrid, exposures: Tensor, prior: Tensor, white: float) -> Tensor:
        """See ``streamer.super_resolution.networks.FusionNetwork``."""
        _check_pixel_size(self.manifest, grid.pixel_size, self.directory)
        noise = band_noise(grid, grid.sensitivity(exposures), prior, white)
        height, width = fused.shape[-2:]
        change = torch.empty_like(fused)
        for top in range(0, height, _PART):
            for left in range(0, width, _PART):
                rows, columns = slice(top, min(top + _PART, height)), slice(left, min(left + _PART, width))
                seen = [_around(rows, height), _around(columns, width)]
                part = self._change(fused[:, seen[0], seen[1]], noise)
                y, x = rows.start - seen[0].start, columns.start - seen[1].start
                change[:, rows, columns] = part[:, y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]
        if not bool(torch.isfinite(change).all()):
            raise ModelError(
                "the network's output is not finite",
                where=self.directory,
                hint="take another version, or set super_resolution.network = false",
            )
        return change

    def _change(self, fused: Tensor, noise: BandNoise) -> Tensor:
        """What to add to images (b, h, w), processed in one piece."""
        height, width = fused.shape[-2:]
        # any size; the padding repeats the edge
        around = nn.functional.pad(fused[:, None], (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        low_precision = bf16_is_faster(fused.device)
        with torch.inference_mode(), torch.autocast(fused.device.type, dtype=torch.bfloat16, enabled=low_precision):
            changes, _ = correct(self._net, around[:, 0], noise)
        weight = torch.tensor([value for _, value in self.manifest.weight], device=fused.device)
        return torch.einsum("c,bchw->bhw", weight, changes)[:, :height, :width]


def _around(part: slice, size: int) -> slice:
    return slice(max(0, part.start - _HALO), min(size, part.stop + _HALO))


class ZssrModel:
    """cryo-ZSSR; a ``streamer.super_resolution.networks.ZssrNetwork``."""

    def __init__(self, directory: Path | None, device: torch.device | str = "cpu") -> None:
        """Load and check a session's version; None: a separate network is trained on every movie."""
        self._net: zssr.ZssrNet | None = None
        self.reference: ModelRef | None = None
        self.trained_on: frozenset[str] = frozenset()
        self._device = device
        if directory is not None:
            self._net, manifest = load_net(directory, zssr.ZssrNet, device)
            self.reference, self.trained_on = _reference(manifest), frozenset(manifest.trained_on)

    def __call__(self, averages: Averages) -> Callable[[Averages], Tensor]:
        """See ``streamer.super_resolution.networks.ZssrNetwork``."""
        net = self._net
        if net is None:
            torch.manual_seed(_SEED)
            net = zssr.ZssrNet().to(self._device)
            report = zssr.train(net, [zssr.Pair("", averages)], seed=_SEED)
            if not report.finite:
                raise ModelError(
                    "training on this movie did not stay finite",
                    where=zssr.KIND,
                    hint='use a version that was trained on several movies, or method = "fusion"',
                )
        return partial(_super_resolved, net)


def _super_resolved(net: zssr.ZssrNet, averages: Averages) -> Tensor:
    """The network's image (2h, 2w), with what was measured put back."""
    return zssr.back_project(zssr.apply(net, averages), averages.whole)


class _Unusable:
    """Stands for a session's version that cannot be loaded: the movie is fused without it and its flag says why."""

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
        """Say why."""
        raise self._error


class SuperResolutionNetworks:
    """Loads each version once."""

    def __init__(self, settings: SuperResolutionSettings, device: torch.device) -> None:
        """Load what the settings name; raises ModelError."""
        self._device, self._chosen = device, settings
        self._known: dict[Path, FusionModel | ZssrModel | _Unusable] = {}
        self._fixed: FusionModel | ZssrModel | None = None
        if self._chosen.model is not None:
            self._fixed = self._load(Path(self._chosen.model))
        elif self._chosen.method == "zssr" and self._chosen.per_movie:
            self._fixed = ZssrModel(None, device)

    def on_fusion(self, session_version: str | None) -> FusionNetwork | None:
        """The network on top of fusion; a session's version is given by its directory."""
        found = self._found(session_version) if self._chosen.method == "fusion" else None
        return None if isinstance(found, ZssrModel) else found

    def zssr(self, session_version: str | None) -> ZssrNetwork | None:
        """cryo-ZSSR, likewise."""
        found = self._found(session_version) if self._chosen.method == "zssr" else None
        return None if isinstance(found, FusionModel) else found

    def _found(self, session_version: str | None) -> FusionModel | ZssrModel | _Unusable | None:
        if self._fixed is not None or session_version is None or not self._chosen.learns:
            return self._fixed
        directory = Path(session_version)
        if directory not in self._known:
            try:
                self._known = {directory: self._load(directory)}
            except ModelError as error:
                self._known = {directory: _Unusable(error)}
        return self._known[directory]

    def _load(self, directory: Path) -> FusionModel | ZssrModel:
        kind = ZssrModel if self._chosen.method == "zssr" else FusionModel
        return kind(directory, self._device)
