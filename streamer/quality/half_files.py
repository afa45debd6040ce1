"""The files of each micrograph that ``quality`` compares: its halves, and what a denoiser made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamer import fourier, jsontext
from streamer.ctf.table import key_of
from streamer.errors import UsageError
from streamer.movie_record import MovieRecord
from streamer.quality.images import size_of

_MRC = (".mrc", ".mrcs")


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfFiles:
    """Files of one micrograph."""

    even: Path
    odd: Path
    denoised: tuple[Path, Path] | None

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [self.even, self.odd, *(self.denoised or ())]


def half_files(even: Path, odd: Path, denoised_even: Path | None, denoised_odd: Path | None) -> list[HalfFiles]:
    """The files that belong together."""
    if (denoised_even is None) != (denoised_odd is None):
        raise UsageError(
            "both denoised halves are needed",
            expected="--denoised-even and --denoised-odd",
            hint="a denoiser is judged by what it makes of each half: give both, or neither",
        )
    places = [even, odd, *(place for place in (denoised_even, denoised_odd) if place is not None)]
    for place in places:
        if not place.exists():
            raise UsageError("there is no such file or directory", where=place)
    if not any(place.is_dir() for place in places):
        return [_set_of(places)]
    if not all(place.is_dir() for place in places):
        raise UsageError(
            "files and directories are mixed",
            where=places[0],
            expected="all files, or all directories",
            hint="give a file for each, or a directory for each",
        )
    listed = [_named(place) for place in places]
    keys = sorted(set(listed[0]).intersection(*listed[1:]))
    alone = sorted(set().union(*listed) - set(keys))
    if not keys:
        found = "; ".join(f"{place.name}: {next(iter(names), 'no MRC file')}" for place, names in
                          zip(places, listed, strict=True))  # fmt: skip
        raise UsageError(
            "no images with the same name",
            where=even,
            expected="one of each micrograph",
            found=found,
            hint="give the halves of one micrograph the same name, apart from EVN and ODD, even and odd",
        )
    if alone:
        raise UsageError(
            f"{len(alone)} micrographs are not in all of the directories",
            where=even,
            found=", ".join(alone[:3]),
            hint="move those away, or make their other halves",
        )
    return [_set_of([names[key] for names in listed]) for key in keys]


def _set_of(paths: list[Path]) -> HalfFiles:
    return HalfFiles(even=paths[0], odd=paths[1], denoised=(paths[2], paths[3]) if len(paths) == 4 else None)


def _named(directory: Path) -> dict[str, Path]:
    """MRC files of a directory by the part of their names that all files of a micrograph share."""
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() in _MRC:
            key = key_of(path.name)
            if key in found:
                raise UsageError(
                    "two images of one micrograph",
                    where=path,
                    found=found[key].name,
                    hint="keep one image of each micrograph in a directory",
                )
            found[key] = path
    return found


def geometry(path: Path, pixel_size: float | None) -> tuple[fourier.Shape, float]:
    """Size in px and Å/px of an image, from its header."""
    shape, header = size_of(path)
    pixel = pixel_size or header
    if pixel is None or not pixel > 0:
        raise UsageError("the pixel size is unknown", where=path, hint="give --pixel-size in Å/px")
    return shape, pixel


def check_pair(pair: list[Tensor], where: Path, what: str) -> None:
    """Two halves have noise of their own; identical images have none, and every figure from them is meaningless."""
    if len(pair) == 2 and torch.equal(*pair):
        raise UsageError(
            what,
            where=where,
            expected="two images that share no frame",
            hint="give two halves; the same image twice agrees with itself everywhere",
        )


def may_be_raised(sets: list[HalfFiles]) -> int | None:
    """Number of micrographs whose record says that no gain corrected the detector's pattern; None without records."""
    # halves that were gathered in one place may be links to where their records are
    halves = [one.even.resolve() for one in sets]
    words: dict[Path, bool] = {}
    for directory in {half.parent for half in halves}:
        words |= _words_of_records(directory)
    told = [words[half] for half in halves if half in words]
    return sum(told) if told else None


def _words_of_records(directory: Path) -> dict[Path, bool]:
    """Whether a pattern may have raised the figures of each file that a record in the directory names."""
    words: dict[Path, bool] = {}
    for path in directory.glob("*.json"):
        try:
            record = jsontext.decode(path.read_bytes(), MovieRecord)
        except (OSError, ValueError):
            continue  # not one of ours
        if record.metrics is not None and record.metrics.pattern_may_raise is not None:
            named = [directory / Path(output.path).name for output in record.outputs]
            words |= dict.fromkeys(named, record.metrics.pattern_may_raise)
    return words
