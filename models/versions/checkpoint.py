"""Weights on disk: safetensors with a manifest, one directory per version, never a pickled object.

A version appears whole (temporary directory, fsync, rename). Loading checks the weights' sha256, their names and
shapes against the manifest's configuration, and that all are finite.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

import msgspec
import safetensors
import torch
from safetensors.torch import load, save

from models.manifest import PATTERN, WEIGHTS, Manifest, load_manifest
from models.networks.denoiser import build, infer
from models.versions.store import write_version
from streamer.band import MULTIPLE
from streamer.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from models.manifest import NetConfig
    from models.networks.denoiser import Denoiser

_Net = TypeVar("_Net", bound="nn.Module")


def save_version(directory: Path, net: nn.Module, manifest: Manifest, pattern: Tensor | None = None) -> Manifest:
    """Write a version into a directory of its own; returns the manifest with the hashes filled in.

    ``pattern``, (h', w'), is what the guard looks for in later movies.
    """
    weights = save({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()})
    manifest = msgspec.structs.replace(manifest, sha256=hashlib.sha256(weights).hexdigest())
    shared = None if pattern is None else save({"pattern": pattern.detach().cpu().to(torch.float16).contiguous()})
    if shared is not None:
        manifest = msgspec.structs.replace(manifest, pattern_sha256=hashlib.sha256(shared).hexdigest())
    write_version(directory, {WEIGHTS: weights} | ({} if shared is None else {PATTERN: shared}), manifest)
    return manifest


def load_version(directory: Path, device: torch.device | str = "cpu") -> tuple[Denoiser, Manifest]:
    """Session denoiser and manifest of a version, checked and tried out."""
    net, manifest = load_net(directory, build, device)
    try_out(net, directory)
    return net, manifest


def load_net(
    directory: Path, network: Callable[[NetConfig], _Net], device: torch.device | str = "cpu"
) -> tuple[_Net, Manifest]:
    """Net and manifest of a version of a kind of network, checked."""
    manifest = load_manifest(directory)
    path = directory / WEIGHTS
    tensors = _tensors(path, manifest.sha256, "weights")
    try:
        net = network(manifest.net)
    except ModelError as error:
        raise ModelError(
            error.what, where=directory, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        raise ModelError(
            "weights do not fit the network",
            where=path,
            expected=str(wanted),
            found=str(found),
            hint="the version is damaged: take another one, or train it again",
        )
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise ModelError(
            "weights are not finite", where=path, hint="the version is damaged: take another one, or train it again"
        )
    net.load_state_dict(tensors)
    return net.to(device).eval(), manifest


def try_out(net: Denoiser, where: Path) -> None:
    """Let a network denoise some noise before it is used: finite weights may yield values that are not finite."""
    device = next(net.parameters()).device
    noise = torch.randn((4 * MULTIPLE, 4 * MULTIPLE), generator=torch.Generator().manual_seed(0)).to(device)
    if not bool(torch.isfinite(infer(net, noise, 0.5 * noise)).all()):
        raise ModelError(
            "the network's output for noise is not finite",
            where=where,
            hint="the version is damaged: take another one, or train it again",
        )


def load_pattern(directory: Path, manifest: Manifest) -> Tensor | None:
    """What a version's movies share at the same place, (h', w') float16; None if none was kept."""
    if manifest.pattern_sha256 is None:
        return None
    return _tensors(directory / PATTERN, manifest.pattern_sha256, "values of the pattern")["pattern"]


def _tensors(path: Path, sha256: str, what: str) -> dict[str, Tensor]:
    """Tensors of a file, checked against its hash."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{what} cannot be read: {error.strerror}",
            where=path,
            hint="check that the daemon's user may read it; else take another version",
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ModelError(
            f"{what} do not match their manifest",
            where=path,
            expected=sha256,
            found=digest,
            hint="the version is damaged: take another one, or train it again",
        )
    try:
        return load(data)
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{what} cannot be read: {error}",
            where=path,
            hint="the version is damaged: take another one, or train it again",
        ) from error
