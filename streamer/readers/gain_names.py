"""Whether two names mean the same gain reference: programs name the original, people convert and rename it."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SUFFIXES = (".mrc", ".mrcs", ".tif", ".tiff", ".gain", ".dm4", ".dm3", ".raw")
_MAX_NAME = 255


def base_name(path: str | None) -> str | None:
    """Name of a file that a program gives with its path, a Windows one or not; None where there is none."""
    return PureWindowsPath(path.strip().strip('"')).name[:_MAX_NAME] or None if path else None


def stem(name: str) -> str:
    """The name without its suffixes and without the case of its letters: ``A.dm4.mrc`` and ``a.gain`` are both a."""
    short = name.lower()
    while (suffix := next((end for end in _SUFFIXES if short.endswith(end) and short != end), None)) is not None:
        short = short.removesuffix(suffix)
    return short


def named_among(candidates: Iterable[Path], name: str | None) -> list[Path]:
    """The files that a name means: those that are called so, else those of the same stem."""
    if name is None:
        return []
    known = list(candidates)
    for fits in (
        lambda path: path.name.lower() == name.lower(),
        lambda path: stem(path.name) == stem(name),
    ):
        if found := [path for path in known if fits(path)]:
            return found
    return []
