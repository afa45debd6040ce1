"""The records that cross module boundaries. Frozen; no torch at run time, so the main process can use them.

``None`` means unknown, never 0. Tensors in a record are not modified after construction. What is published of them
is in ``movie_record``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from streamer.movie_record import Acquisition, Usual

if TYPE_CHECKING:
    # The main process and subscribers import this module; torch costs a second and is not installed for the latter.
    import numpy as np
    from torch import Tensor

    from streamer.frame_stack import FrameSource
    from streamer.movie_record import ModelRef, ModelScore, SuperResolutionVerdict


def movie_id_of(relative: str) -> str:
    """First 16 hex digits of the sha256 of the path below the watched root: the movie's identity."""
    return hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- input


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """What the file system says a file is; two equal identities some time apart mean that nothing was written."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def has_same_content(self, other: FileIdentity) -> bool:
        """Whether size and modification time agree: a reader sees no more, and a remount or a new owner keeps them."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieHeader:
    """What a movie file says about itself, checked against its size before anything is allocated."""

    format: Literal["mrc", "tiff", "eer"]
    n_frames: int
    height: int
    width: int
    dtype: str
    """numpy name of the stored type, e.g. ``uint8``."""
    pixel_size: float | None = None
    """Å/px from the file, where it states one."""
    proves_its_length: bool = False
    """Whether the header says how many frames there must be, so that a truncated file is detected."""
    n_raw_frames: int | None = None
    """Of an EER movie: hardware frames, of which a frame is a sum."""
    n_raw_frames_left_out: int = 0
    """Those that did not fill a frame."""
    fraction_sizes: tuple[int, ...] | None = None
    """How many of them are in each frame, where all are spread over the frames and do not divide evenly."""
    frame_doses: tuple[float, ...] | None = None
    """e⁻/Å² of each frame, where the file or its integration file gives them."""
    upsampling: int = 1
    """How much finer than the detector's pixels the grid is, along each axis."""
    gain_reference: str | None = None
    """Base name of the gain reference that the file itself names."""
    voltage_kv: float | None = None
    """From the file, where it states one."""
    flags: tuple[str, ...] = ()
    """What a user should know about how the file is read."""

    def frames_told(self, told: int) -> int:
        """Number of frames to compare with what a sidecar says: for an EER movie the raw ones.

        Some sidecars count fractions, which the file cannot know; a file that proves its own length is then believed.
        """
        if self.n_raw_frames is None:
            return self.n_frames
        return told if self.proves_its_length and told < self.n_raw_frames else self.n_raw_frames

    @property
    def decoded_bytes(self) -> int:
        """Size of all frames in memory as stored, in bytes."""
        item = {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2}.get(self.dtype, 4)
        return self.n_frames * self.height * self.width * item


@dataclass(frozen=True, slots=True, kw_only=True)
class Movie:
    """A complete movie: its file, its session, what is known about it."""

    path: str
    relative: str
    """Path below the watched root: the movie's identity."""
    session: str
    revision: int = 1
    identity: FileIdentity
    evidence: Literal["sidecar", "header", "unproven", "none"] = "none"
    """What proved the frame count: a sidecar, the MRC header with the file's size, only the waiting time, or
    nothing because the movie was given by hand."""
    acquisition: Acquisition = field(default_factory=Acquisition)
    usual_frames: int | None = None
    """What most of the session's movies had before this one, where counts do not vary; None: too few to tell."""

    @property
    def movie_id(self) -> str:
        """See ``movie_id_of``."""
        return movie_id_of(self.relative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What to make from a movie, what to leave out, and where to write it. Paths are strings: they are sent as JSON."""

    session_directory: str
    """Where ``movies/…`` is made."""
    groups: str | None = None
    """Where to write the frame-group sums that a session model learns from; None: not written."""
    training_data: str | None = None
    """Where to write the sums that a network for super-resolution learns from; None: not written."""
    notes: tuple[str, ...] = ()
    """Flags that are known before the movie is read, from the movies before it."""
    stood_still: bool = False
    """The file has not changed for so long, or was named by a person: an empty end is the exposure's."""
    shed: tuple[str, ...] = ()
    """Left out so that other movies get their turn: preview (the pictures), denoise, super-resolution."""
    follow_links_to: tuple[str, ...] = ()
    """Directories outside the watched root to which links below it may lead."""
    usual: Usual | None = None
    """To recognise a movie in which there is nothing to see; None: there is nothing to compare it with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A gain reference."""

    path: str
    sha256: str
    values: np.ndarray
    """(h, w) float32; 0 marks a defect."""
    is_multiplicative: bool = True
    """False where an EER movie would have to be divided by it: an MRC image of the beam."""
    is_made: bool = False
    """Made from movies: more of the pattern may stay than a recorded reference leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainFit:
    """How well a reference predicts a movie's fixed pattern."""

    residual: float
    """1 − b: 0 corrected, 1 as if not corrected, 2 corrected the wrong way round."""
    error: float
    """Standard error of the residual."""
    advice: str | None = None
    """What to set, where the frames refute the reference; it is not applied then."""
    spread: float = 0.0
    """Relative standard deviation of the reference from pixel to pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """A decoded movie with all that is needed to correct it frame by frame."""

    counts: FrameSource
    """(t, h, w) as stored, row 0 at the bottom; without frames that carry no information."""
    kept: tuple[int, ...] | None = None
    """Place in the file of each of these frames; None: all of them are here."""
    gain: Gain | None
    defects: np.ndarray
    """(n, 2) int64 rows and columns of all that are replaced: 0 in the gain, listed, or found in this movie."""
    hot_pixels: np.ndarray
    """(n, 2): the defects that were found in this movie's own data."""
    n_wide_defects: int | None = None
    """How many of these are parts of columns, rows and clusters, or dead."""
    n_listed_defects: int | None = None
    """Pixels that a list names; None: no list was used."""
    gain_fit: GainFit | None = None
    """How well the gain predicts this movie's fixed pattern."""
    fixed_pattern: float | None = None
    """Relative standard deviation from pixel to pixel of a pattern that is seen in the corrected frames."""
    pattern_may_raise: bool | None = None
    """Whether such a pattern may be in the frames, seen or not; it correlates the halves."""
    mean_counts: float
    """Mean of the corrected frames, e⁻/px/frame for counted movies."""
    pixel_size: float
    """Å/px."""
    voltage_kv: float
    """300 where it is unknown, and flagged."""
    dose_per_frame: float | None
    """e⁻/Å²; None: do not weight."""
    frame_doses: tuple[float, ...] | None = None
    """e⁻/Å² of each frame of the file, where they differ and the settings do not override them."""
    flags: tuple[str, ...] = ()
    """What a user should know about how these were chosen."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.counts.shape[1], self.counts.shape[2]

    @property
    def pattern_stays(self) -> bool:
        """Whether the gain reference is refuted and its camera's pattern may be left; corrected frames have none."""
        is_refuted = self.gain_fit is not None and self.gain_fit.advice is not None
        return is_refuted and self.pattern_may_raise is not False

    def __len__(self) -> int:
        return int(self.counts.shape[0])


# -------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfSums:
    """Plain micrograph and its halves as half-plane spectra, unnormalised ``rfft2`` of the (h, w) image."""

    even: Tensor
    """(h, w//2+1) complex64: frames 0, 2, 4, … over the total's √Σw², so that even + odd is the micrograph."""
    odd: Tensor
    even_share: Tensor
    """(rings,) float64: Σw² of the even frames over that of all; ½ except for an odd last frame and the damage."""
    shape: tuple[int, int]
    pixel_size: float

    @property
    def total(self) -> Tensor:
        """(h, w//2+1) complex64, the micrograph."""
        return self.even + self.odd


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Radial curves of one micrograph, one value per ring of width 1/min(h, w) cycles/px."""

    fftfreq: Tensor
    """(rings,) cycles/px."""
    counts: Tensor
    """(rings,) number of independent complex coefficients."""
    frc: Tensor
    """(rings,) correlation of the halves."""
    noise: Tensor
    """(rings,) noise power of the total per px, smoothed; the mean counts for a counted movie."""
    ssnr_full: Tensor
    """(rings,) SSNR of the total, smoothed, 0 where the halves show nothing significant."""
    significant: bool
    """False: nowhere do the halves agree beyond chance."""

    @property
    def wiener(self) -> Tensor:
        """(rings,) W = SSNR/(1+SSNR) of the total."""
        return self.ssnr_full / (1.0 + self.ssnr_full)

    @property
    def wiener_half(self) -> Tensor:
        """(rings,) the same at half the exposure."""
        return self.ssnr_full / (2.0 + self.ssnr_full)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What a network proposes for one micrograph, and how far it has been shown to be right."""

    total: Tensor
    """(h, w//2+1) complex64: spectrum of W·y + λ(k, x)·(f − W·y); equal to W·y outside the network's band."""
    even: Tensor
    """The same for the even half, made from the even half alone but for λ(x), which both halves share."""
    odd: Tensor
    weight: Tensor
    """(rings,) 1 where this is served instead of W·y; 0 throughout if it is refused."""
    model: ModelRef
    learned_from: bool = False
    """The network was trained on this very movie: its halves cannot judge it."""
    refused: str | None = None
    """Why it must not be applied to this movie; ``weight`` is then 0."""
    remark: str | None = None
    """What is odd about the movie, although it is applied."""
    score: ModelScore | None = None
    """How it did on this movie's halves; None where it has learned from the movie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSums:
    """Frame-group sums that a session model learns from."""

    groups: Tensor
    """(n, h', w') float16: each the dose-weighted sum of every n-th frame; band-limited, no mean, one scale."""
    exposures: tuple[tuple[float, ...], ...]
    """Per group, exposure at the end of each of its frames in e⁻/Å²; zeros when unweighted."""
    shape: tuple[int, int]
    """Size of the whole micrograph, px."""
    pixel_size: float
    """Å/px of the whole micrograph."""
    voltage_kv: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a network was asked for, and what a user should know about the answer."""

    correction: Correction | None = None
    """None: there is no network, or it was not used."""
    flags: tuple[str, ...] = ()

    @property
    def model(self) -> ModelRef | None:
        """Version that made the correction."""
        return None if self.correction is None else self.correction.model


Propose = Callable[[HalfSums, Spectrum], Correction]
"""The network as the pipeline sees it: from sums and curves to a correction; may raise ModelError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperResolution:
    """The fused image on the grid of half the pixel size, and whether it can be trusted to contain more."""

    image: Tensor | None
    """(2h, 2w) float32; None when it was not made."""
    verdict: SuperResolutionVerdict
