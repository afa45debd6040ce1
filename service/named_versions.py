"""Checks that versions named in the settings exist and are of the right kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.manifest import DENOISER_KINDS, SUPER_RESOLUTION_KINDS, load_manifest
from models.versions.base_weights import base_directory
from streamer.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from service.config import Config


def check_versions(config: Config) -> None:
    """Raise ConfigError where a version named in the settings does not exist or is of another kind."""
    fine, base = config.super_resolution, base_of(config)
    for setting, directory, expected in (
        ("super_resolution.model", fine.model, (SUPER_RESOLUTION_KINDS[fine.method],)),
        ("session_model.base", base, DENOISER_KINDS),
    ):
        if directory is None:
            continue
        try:
            manifest = load_manifest(Path(directory).absolute())
        except ModelError as error:
            raise ConfigError(
                f"{setting} cannot be used: {error.what}",
                where=error.where,
                expected="the directory of a version",
                hint="streamer models list shows the versions of a session",
            ) from error
        kind = manifest.net.kind
        if kind not in expected:
            what = f"{setting} is a version of a different network"
            raise ConfigError(
                what,
                where=directory,
                expected=" or ".join(expected),
                found=kind,
                hint="give a version of that kind; streamer models show tells what one is",
            )
        if manifest.ctf != "none":
            what = f"{setting} was trained on phase-flipped images, and the daemon does not measure the CTF"
            raise ConfigError(what, where=directory, hint="streamer denoise --ctf applies it to finished movies")


def base_of(config: Config) -> Path | None:
    """Directory of the version that sessions start with; None: from scratch, or nothing is denoised."""
    return base_directory(config.session_model) if config.session_model.enabled and config.denoise.enabled else None
