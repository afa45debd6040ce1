"""What is in the frames: whether a camera wrote them, and which of them carry no information.

A frame that carries none is left out of everything that follows, because it would spoil more than itself: a blank one
pulls the track, and a copy of another agrees with it better than any two frames of a specimen. Each frame is judged
against the others of its movie, by what is known far beyond chance: a frame of few electrons is not a blank one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady
from streamer.frame_stack import KeptFrames
from streamer.readers.encoding import BelowZero
from streamer.readers.files import copy_again
from streamer.readers.frame_look import BANDS, BLOCKS, FrameLook, near_copies, parts, texture, unlikeness

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.frame_stack import FrameSource, FrameStack

    Array = NDArray[np.float64]

LARGEST_COUNT = 1e9
"""No camera writes numbers beyond it, positive or negative; those that it writes as integers end at 65,535."""

Fault = Literal["blank", "a copy of another frame", "cut off", "not an image"]

_BANDS = (BANDS, 16, 8, 4)
"""Parts along each axis in which a frame's level is compared: as many as the counts suffice for."""
_KNOWN, _FAR = 8.0, 20.0
"""Standard errors at which a level is known; factor from the usual one beyond which a frame is no exposure."""
_UNEVEN = 0.25
"""Share by which a frame's level has to differ from the usual one for its dose to be counted accordingly."""
_ROUGH, _SMOOTH = 4.0, 0.1
"""Factors of the variance that a level allows: from noise alone it grows with the level, from contrast with its square.
Beyond them numbers are not those of an image."""
_WAS_THE_BEAM_ON = "was the beam on, and the screen up?"
_FEWEST_PIXELS = 20
"""Pixels with counts in a frame below which two frames may be the same by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was found in a movie's frames."""

    total: NDArray[np.float32]
    """(h, w) sum over the frames that are kept."""
    faults: dict[int, Fault]
    """Why a frame is left out, by its place in the file, from 0."""
    shares: tuple[float, ...]
    """Of the usual exposure, per frame of the file: 0 where the beam was off, 1 unless it certainly differs."""
    below_zero: BelowZero = field(default_factory=BelowZero)

    @property
    def kept(self) -> tuple[int, ...]:
        """Places in the file of the frames that are used."""
        return tuple(index for index in range(len(self.shares)) if index not in self.faults)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a user should know; frames are counted from 1, as people and RELION do."""
        n, flags = len(self.shares), list(self.below_zero.flags)
        for fault in get_args(Fault):
            places = [str(index + 1) for index, found in self.faults.items() if found == fault]
            if places:
                flags.append(f"frames: left out as {fault}: {', '.join(places)} of {n}, counted from 1")
        uneven = [
            f"{index + 1} ({100.0 * self.shares[index]:.0f} %)" for index in self.kept if self.shares[index] != 1.0
        ]
        if uneven:
            flags.append(f"frames: exposed unlike the others, weighted accordingly: {', '.join(uneven)} of {n}")
        return tuple(flags)

    def of(self, counts: np.ndarray | FrameStack) -> FrameSource:
        """The frames that are used, of (t, h, w) counts."""
        return KeptFrames(counts, self.kept) if self.faults else counts


def check_content(
    path: Path,
    counts: np.ndarray | FrameStack,
    *,
    doses: Sequence[float] | None = None,
    stood_still: bool = False,
) -> Content:
    """Refuse frames that no camera wrote, find those that carry no information, and add up the others.

    Parameters
    ----------
    path : for the message.
    counts : (t, h, w) as stored; iterated over once, and again where a frame is left out.
    doses : e⁻/Å² of each frame, where they are known to differ.
    stood_still : the file has not changed for so long that an empty end is the exposure's.

    Raises
    ------
    MovieNotReady
        The last frame is empty while others are not: the file was given its full size before it was filled.
    MovieCorrupt
        All frames are empty or the same, fewer than two carry information, or there are numbers that are not finite or
        larger than any camera's.
    """
    total = np.zeros(counts.shape[1:], dtype=np.float32)
    looks, unlike, below_zero = [], [], BelowZero()
    before: NDArray[np.float32] | None = None
    for index, frame in enumerate(counts):
        _check_numbers(path, index, frame)
        below_zero.add(frame)
        looks.append(FrameLook.at(frame))
        if min(total.shape) >= BLOCKS:
            now = texture(frame, looks[-1])
            if before is not None:
                unlike.append(unlikeness(before, now))
            before = now
        total += frame
    if not looks[-1].any and total.any() and not stood_still:
        hint = "still being copied, or the exposure was cut short"
        raise MovieNotReady("has an empty last frame", where=path, hint=hint)
    if not total.any() and not any(look.any for look in looks):
        raise MovieCorrupt("no counts in any frame", where=path, hint=_WAS_THE_BEAM_ON)
    copies = _copies(counts, looks)
    if len(looks) > 1 and len(copies) == len(looks) - 1:
        raise MovieCorrupt("all frames are the same", where=path, hint="no camera records the same frame twice")
    copies |= near_copies(unlike)
    # smaller than any camera's: refused by whoever knows that
    faults, shares = _judge(looks, copies, doses) if min(total.shape) >= BLOCKS else ({}, (1.0,) * len(looks))
    content = Content(total=total, faults=faults, shares=shares, below_zero=below_zero)
    if faults and len(content.kept) < min(2, len(looks)):
        raise MovieCorrupt(
            "fewer than two frames carry information",
            where=path,
            expected="at least 2",
            found="; ".join(content.flags),
            hint=_WAS_THE_BEAM_ON,
        )
    return replace(content, total=_sum(content.of(counts))) if faults else content


def _check_numbers(path: Path, index: int, frame: np.ndarray) -> None:
    """Integers cannot be too large, and sums of allowed numbers stay far from the largest float."""
    if frame.dtype.kind != "f":
        return
    if not np.isfinite(frame).all():
        raise MovieCorrupt(f"frame {index + 1} contains numbers that are not finite", where=path, hint=copy_again(path))
    if max(largest := float(frame.max()), -float(frame.min())) > LARGEST_COUNT:
        raise MovieCorrupt(
            f"frame {index + 1} contains numbers that no camera counts",
            where=path,
            expected=f"at most {LARGEST_COUNT:g}",
            found=f"{float(frame.min()):g} to {largest:g}",
            hint="the file is damaged, or its numbers are not counts",
        )


def _copies(counts: np.ndarray | FrameStack, looks: list[FrameLook]) -> set[int]:
    """Frames with the very numbers of an earlier one, where that cannot be chance: in all frames it never is."""
    first: dict[bytes, int] = {}
    all_alike = len({look.sample for look in looks}) == 1
    copies = set()
    for index, look in enumerate(looks):
        if not all_alike and (look.constant is not None or look.filled < _FEWEST_PIXELS):
            continue
        original = first.setdefault(look.sample, index)
        if original != index and np.array_equal(counts[original].copy(), counts[index]):
            copies.add(index)
    return copies


def _judge(
    looks: list[FrameLook], copies: set[int], doses: Sequence[float] | None
) -> tuple[dict[int, Fault], tuple[float, ...]]:
    """Faults by frame, and each frame's share of the usual exposure."""
    told = _relative(doses, len(looks))
    images = [index for index, look in enumerate(looks) if look.constant is None and index not in copies]
    usual = _usual_look([looks[index] for index in images], told[images])
    faults: dict[int, Fault] = {}
    shares = [1.0] * len(looks)
    for index, look in enumerate(looks):
        if index in copies:
            faults[index] = "a copy of another frame"
        elif usual is None:
            # nothing is known of what a frame should hold: only a picture of one value other than 0 is certainly none
            if look.constant or not images:
                faults[index] = "blank"
        else:
            fault, share = _fault(look, usual, told[index])
            if fault is not None:
                faults[index] = fault
            shares[index] = float(share)
    return faults, tuple(shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usual:
    """The medians over a movie's exposed frames, at a dose of 1."""

    level: float
    variance: float
    error: float
    rows: Array
    columns: Array


def _relative(doses: Sequence[float] | None, n: int) -> Array:
    """Doses over their median, (t,); ones where they are not known."""
    if doses is None or len(doses) != n or min(doses) <= 0:
        return np.ones(n)
    return np.asarray(doses) / float(np.median(doses))


def _usual_look(looks: list[FrameLook], told: Array) -> _Usual | None:
    """What most exposed frames are like; None where that is not known, or the numbers are no counts.

    A beam that is blanked for most of a movie leaves a minority of exposed frames, so that the usual level is that of
    the brightest ones. A few may be brighter for a wrong reason; they are not asked.
    """
    if not looks:
        return None
    levels = np.array([look.level for look in looks]) / told
    top = np.sort(levels)[-1 - (max(1, len(levels) // 8) if len(levels) > 2 else 0)]
    asked = [
        (look, by) for look, by, level in zip(looks, told, levels, strict=True) if top / _FAR <= level <= top * _FAR
    ]
    if not asked:
        return None
    level, variance, error = np.median(
        [(look.level / by, look.variance / by, look.error / by) for look, by in asked], axis=0
    ).tolist()
    # numbers about zero are no counts: their mean says nothing about the beam
    if variance <= 0.0 or level <= _KNOWN * error or (level**2 < variance and any(look.negative for look, _ in asked)):
        return None
    return _Usual(
        level=level,
        variance=variance,
        error=error,
        # an upper quartile: what is missing in many frames is missed all the same
        rows=np.quantile([look.rows / by for look, by in asked], 0.75, axis=0),
        columns=np.quantile([look.columns / by for look, by in asked], 0.75, axis=0),
    )


def _fault(look: FrameLook, usual: _Usual, told: float) -> tuple[Fault | None, float]:
    """What is wrong with a frame, and its share of the exposure that its dose promises."""
    expected, error = usual.level * told, usual.error * told**0.5
    if expected <= _KNOWN * error:
        return None, 1.0
    if look.constant is not None:
        # zeros: nothing arrived; another value tells nothing about the beam
        return "blank", 0.0 if look.constant == 0.0 else 1.0
    share = look.level / expected
    if share < 1.0 / _FAR:
        return "blank", max(0.0, share)
    if _is_cut(look, usual, told, share):
        return "cut off", 1.0
    variance = look.variance / (usual.variance * told)
    if share > _FAR or not _SMOOTH * min(1.0, share) < variance < _ROUGH * max(1.0, share, told * share**2):
        return "not an image", 1.0
    differs = abs(share - 1.0) > _UNEVEN and abs(look.level - expected) > _KNOWN * max(look.error, error)
    return None, share if differs else 1.0


def _is_cut(look: FrameLook, usual: _Usual, told: float, share: float) -> bool:
    """Whether a part of the frame's rows or columns is empty compared with the rest, unlike in other frames."""
    level, error = usual.level * told * min(1.0, share), usual.error * (told * min(1.0, share)) ** 0.5
    number = next((n for n in _BANDS if n <= len(usual.rows) and level > _KNOWN * error * n**0.5), None)
    if number is None:
        return False
    for found, expected in ((look.rows, usual.rows), (look.columns, usual.columns)):
        here, there = parts(found, number), parts(expected, number) * told
        known = there * min(1.0, share) > _KNOWN * error * number**0.5
        ratio = np.sort(here[known] / there[known])
        # the second brightest: one may be bright because of a single pixel
        if len(ratio) > 2 and ratio[0] < ratio[-2] / _FAR:
            return True
    return False


def _sum(frames: FrameSource) -> NDArray[np.float32]:
    """(h, w) sum of (t, h, w) counts."""
    start = np.zeros(frames.shape[1:], dtype=np.float32)
    return reduce(lambda total, frame: np.add(total, frame, out=total, casting="same_kind"), frames, start)
