"""What stored integers mean: one count in a byte or two, with a sign, without one, or shifted by half of the range.

Files say it wrongly or not at all, so the numbers themselves are asked: counts are never below zero, they scatter as
their mean does, and two counts that share a byte are alike. What the numbers leave open, the header decides; what
nobody decides is refused or flagged, never guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from streamer.errors import MovieUnsupported

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


Packing = Literal["two counts", "one count", "unclear"]
Sign = Literal["signed", "unsigned", "shifted"]
"""Shifted: half of the range was subtracted, 128 or 32768, so that unsigned counts fit into signed integers."""

BY_NUMBERS_ALONE = "counts: two of 4 bits in each byte, which only the numbers themselves show"
_PACKED_WIDTHS = ((3838, 7420), (3710, 7676), (3840, 7424), (3712, 7680), (5760, 8184), (4092, 11520))
"""Half the width, and the height, of the super-resolution frames of a K2 and a K3, either way round, with and without
the border. No camera has frames of this size."""
_SIZE_TOLERANCE = 2

_FEWEST = 1024
"""Bytes that are needed to tell two counts from one."""
_FEWEST_TO_SIGN = 64
_LEAST_SHARE = 0.005
"""Of bytes with a count in one half: fewer are hot pixels or dust."""
_RARE = 0.01
_FAR_APART = 20.0
_FITS, _CLEARLY = 3.0, math.log(2.0)
"""Factor within which counts scatter as their mean does, contrast included, and how much better than the other reading
one has to fit."""


def has_packed_size(width: int, height: int) -> bool:
    """Whether frames of bytes have half the width of a K2's or K3's super-resolution frames."""
    return any(
        abs(width - half) <= _SIZE_TOLERANCE and abs(height - whole) <= _SIZE_TOLERANCE
        for half, whole in _PACKED_WIDTHS
    )


def packing_of(sample: NDArray[np.uint8]) -> Packing:
    """Whether bytes hold two counts of 4 bits each.

    Two counts are told by the halves of a byte: both have the same distribution, which is not a flat one, and neither
    follows the other from pixel to pixel. One count cannot do that: as long as counts are small the high half is empty,
    and where they are large the low half is flat.

    Parameters
    ----------
    sample : (n,) bytes from all over the movie.
    """
    if len(sample) < _FEWEST:
        return "unclear"
    joint = np.bincount(sample, minlength=256).reshape(16, 16) / len(sample)
    high, low = joint.sum(1), joint.sum(0)
    filled_high, filled_low = 1.0 - high[0], 1.0 - low[0]
    if filled_low >= _LEAST_SHARE and filled_high < filled_low / 10.0:
        return "one count"
    if min(filled_high, filled_low) < _LEAST_SHARE:
        return "unclear"
    follows = _follows((sample >> 4).astype(np.float32), (sample & 15).astype(np.float32))
    alike = 0.5 * float(np.abs(high - low).sum()) < 0.1 and 0.5 < filled_high / filled_low < 2.0
    flat = max(float(high[12:].sum()), float(low[12:].sum())) > 0.1
    return "two counts" if alike and abs(follows) < 0.5 and not flat else "unclear"


def _follows(high: NDArray[np.float32], low: NDArray[np.float32]) -> float:
    """Correlation of the halves of bytes from pixel to pixel: contrast, such as a grid bar, raises both alike."""
    high, low = np.diff(high), np.diff(low)
    spread = math.sqrt(float(high.var()) * float(low.var()))
    return 0.0 if spread == 0.0 else float((high * low).mean() - high.mean() * low.mean()) / spread


def sign_of(
    sample: NDArray[np.uint8] | NDArray[np.uint16], *, named: Sign, limits: tuple[float, float] | None
) -> Sign | None:
    """How to read integers, of which a file says one thing and the numbers may say another.

    Parameters
    ----------
    sample : (n,) numbers from all over the movie, as unsigned integers.
    named : what the file says.
    limits : lowest and highest number by the header.

    Returns
    -------
    None where nearly all numbers are beyond half of the range, and could be unsigned or shifted.
    """
    half = 1 << (8 * sample.itemsize - 1)
    if len(sample) < _FEWEST_TO_SIGN:
        return named
    signed = sample.astype(np.int32)
    signed[signed >= half] -= 2 * half
    below = signed[signed < 0]
    share = len(below) / len(signed)
    if named == "shifted":
        return "shifted" if share >= 0.5 else _of_bright(signed, below, half)
    if share == 0.0:
        return named
    told = _told(limits, half)
    if share >= 1.0 - _RARE:
        return named if named == "unsigned" else _of_all_below(signed, half) or told
    seen = _seen(signed, below, half, named)
    if told == "unsigned" and (seen is None or share < _RARE):
        return "unsigned"
    if seen is None and told is not None:
        return "signed"
    return seen or named


def sign_flags(sign: Sign, *, named: Sign, bits: int) -> tuple[str, ...]:
    """What a user should know where the numbers have overruled the file."""
    # MRC files without IMOD's stamp do not say whether bytes have a sign, and with it plain ones are none the worse
    if sign == named or (sign == "unsigned" and bits == 8):
        return ()
    if sign == "shifted":
        return (f"counts: {1 << (bits - 1)} was subtracted when the movie was saved, and is added again",)
    return (f"counts: read as {sign} integers of {bits} bits, which is not what the header says",)


def no_sign(path: Path, sample: NDArray[np.uint8] | NDArray[np.uint16], mode: int) -> MovieUnsupported:
    """What to say of numbers that could be unsigned or shifted."""
    signed, bits = sample.view(f"<i{sample.itemsize}"), 8 * sample.itemsize
    return MovieUnsupported(
        "has numbers below zero that can be meant in two ways",
        where=path,
        expected=f"counts of 0 and more: unsigned integers, or {1 << (bits - 1)} subtracted from each",
        found=f"{bits}-bit integers from {signed.min()} to {signed.max()} (MRC mode {mode})",
        hint="save movies as unsigned 16-bit integers (MRC mode 6) or as TIFF, and convert this one likewise",
    )


def not_packed(path: Path, width: int, height: int) -> MovieUnsupported:
    """What to say of bytes that should hold two counts each and hold one."""
    return MovieUnsupported(
        "should hold two counts of 4 bits in each byte, by its size or its label, but holds one",
        where=path,
        expected="a K2 or K3 super-resolution movie at half the width, as SerialEM writes it",
        found=f"hardly a byte beyond 15, {width} x {height} px",
        hint="if its frames really have this size, save it in 16 bits; else save it again from SerialEM",
    )


def _told(limits: tuple[float, float] | None, half: int) -> Sign | None:
    """What the header's lowest and highest number say about numbers beyond half of the range."""
    if limits is None or not (math.isfinite(limits[0]) and math.isfinite(limits[1]) and limits[0] < limits[1]):
        return None
    if limits[0] >= 0:
        return "unsigned" if half <= limits[1] < 2 * half else None
    return "shifted" if limits[1] < half and limits[0] >= -half else None


def _of_bright(signed: NDArray[np.int32], below: NDArray[np.int32], half: int) -> Sign:
    """Numbers that a file calls shifted although few are below zero: counts beyond half the range, or plain ones."""
    if len(below) > _RARE * len(signed) and _where_below(below, half) != "unsigned":
        return "shifted"
    if np.count_nonzero(signed == 0) > 0.002 * len(signed) + 4 * len(below):
        return "unsigned"  # so many zeros are no counts of half the range
    # a few far from the rest are dead or hot pixels; what the many say is their scatter
    mean, variance = _scatter(signed[signed >= 0])
    return "unsigned" if _misfit(variance, mean) + _CLEARLY < _misfit(variance, mean + half) else "shifted"


def _of_all_below(signed: NDArray[np.int32], half: int) -> Sign | None:
    """Nearly everything is below zero: unsigned and bright, or shifted. Counts scatter as their mean does."""
    if np.count_nonzero(signed == -half) > len(signed) / 4:
        return "shifted"  # the count of most pixels is 0
    mean, variance = _scatter(signed)
    shifted, unsigned = _misfit(variance, mean + half), _misfit(variance, mean + 2 * half)
    # a camera that does not count scatters more than its mean, which only small numbers of 16 bits can show
    few, bright = (_FITS, _FITS) if half == 128 else (10 * _FITS, 1.28)
    if shifted + _CLEARLY < unsigned and shifted < math.log(few):
        return "shifted"
    return "unsigned" if unsigned + _CLEARLY < shifted and unsigned < math.log(bright) else None


def _seen(signed: NDArray[np.int32], below: NDArray[np.int32], half: int, named: Sign) -> Sign | None:
    """Whether what is below zero belongs there."""
    if named == "unsigned" and float(np.median(below)) < -half / 2:
        return "unsigned"  # nearer to the upper half of the range than to zero
    if len(below) < _RARE * len(signed):
        return _of_few_below(signed, below, half, named)
    seen = _of_apart(signed, below, half, named) or _where_below(below, half)
    if named == "unsigned" and seen == "signed":
        # saturated pixels of a bright image look like -1: what is really below zero reaches as far as what is above
        reach = _FAR_APART * float(-np.percentile(below, 1.0)) + 8.0
        return "signed" if float(np.percentile(signed[signed >= 0], 99.0)) <= reach else "unsigned"
    return seen


def _of_few_below(signed: NDArray[np.int32], below: NDArray[np.int32], half: int, named: Sign) -> Sign | None:
    """The tail of the others, or single pixels far above them, which would be hot ones."""
    if bool((below == -1).all()):
        # saturated, as hot pixels in bytes are; what is really below zero would also be a little further below
        return "unsigned" if named == "unsigned" or half == 128 else None
    mean, variance = _scatter(signed[signed >= 0])
    reach = 6.0 * math.sqrt(variance) + 2.0
    in_tail = np.count_nonzero(below >= -reach) / len(below) if mean <= reach else 0.0
    if in_tail >= (0.9 if named == "unsigned" else 0.5):
        return "signed"
    if named == "signed" and half > 128 and np.count_nonzero(below < -half // 2) < len(below) / 3:
        return None  # nearer to the others from below than from above
    return "unsigned"


def _of_apart(signed: NDArray[np.int32], below: NDArray[np.int32], half: int, named: Sign) -> Sign | None:
    """Many numbers below zero that do not begin at zero, such as the bright side of a grid bar, or its dark one.

    What is really below zero thins out downwards. Others are counts, which scatter as their mean does.
    """
    near = float(np.median(below))
    width = max(1.0, -near / 8.0)
    if 2 * np.count_nonzero(below >= -width) > np.count_nonzero(abs(below - near) <= width / 2):
        return None
    away = np.abs(below - near)
    most = below[away <= 6.0 * float(np.median(away)) + 2.0].astype(np.float64)
    mean, variance = float(most.mean()), float(most.var())
    shifted, unsigned = _misfit(variance, mean + half), _misfit(variance, mean + 2 * half)
    if unsigned + _CLEARLY < shifted and unsigned < math.log(_FITS):
        return "unsigned"
    # unsigned counts around the middle of the range go on from its upper half to its lower one, shifted ones do not
    edge = half - max(2, half // 64)
    goes_on = 10 * np.count_nonzero(signed >= edge) > np.count_nonzero(below <= -edge)
    if named == "signed" and shifted + _CLEARLY < unsigned and shifted < math.log(_FITS) and not goes_on:
        return "shifted"
    return None


def _where_below(below: NDArray[np.int32], half: int) -> Sign | None:
    """Many numbers below zero: they follow zero downwards, or the top of the range upwards, from where they wrapped."""
    near = np.count_nonzero(below >= -half // 2) / len(below)
    if near <= 0.2:
        return "unsigned"
    at_zero, at_bottom = np.count_nonzero(below >= -half // 8), np.count_nonzero(below < half // 8 - half)
    if near >= 0.8 or at_zero > _FAR_APART * at_bottom:
        return "signed"
    return "unsigned" if at_bottom > _FAR_APART * at_zero else None


def _scatter(values: NDArray[np.int32]) -> tuple[float, float]:
    """Mean and variance without the strangest hundredth at either end."""
    low, high = np.percentile(values, (1.0, 99.0))
    usual = values[(values >= low) & (values <= high)].astype(np.float64)
    return float(usual.mean()), float(usual.var())


def _misfit(variance: float, mean: float) -> float:
    """How far a variance is from the mean, as that of counts is not; natural logarithm of the ratio."""
    return abs(math.log(max(variance, 1e-6) / max(mean, 1e-6)))


@dataclass(slots=True)
class BelowZero:
    """Counts below zero, frame by frame: no camera counts so, but some programs subtract."""

    n: int = 0
    n_below: int = 0
    lowest: float = 0.0

    def add(self, frame: np.ndarray) -> None:
        """Look at a frame as stored."""
        self.n += frame.size
        if frame.dtype.kind != "u" and (least := float(frame.min())) < 0:
            self.n_below += int(np.count_nonzero(frame < 0))
            self.lowest = min(self.lowest, least)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a user should know."""
        if not self.n_below:
            return ()
        share = f"{100.0 * self.n_below / self.n:.2g} %" if self.n_below > 1e-4 * self.n else f"{self.n_below}"
        return (f"counts: {share} of the pixels are below zero, down to {self.lowest:g}: something was subtracted",)
