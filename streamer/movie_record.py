"""What is published about a movie: its JSON file, the event and ``process --json`` are the same ``MovieRecord``.

Decoded from JSON by annotation, so every name is imported at run time. ``None`` means unknown, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamer.errors import Reason
from streamer.transfer_figures import CtfFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How a movie was recorded, according to the sidecar; everything may be unknown."""

    sidecar: str | None = None
    """Name of the sidecar file."""
    n_frames: int | None = None
    """Frame-count evidence."""
    pixel_size: float | None = None
    """Å/px."""
    voltage_kv: float | None = None
    dose_total: float | None = None
    """e⁻/Å² over the whole movie."""
    dose_per_frame: float | None = None
    """e⁻/Å²."""
    magnification: float | None = None
    defocus_target_um: float | None = None
    """As requested by the operator, positive underfocus."""
    beam_shift_x: float | None = None
    """As EPU writes it, without a unit; from SerialEM there is ``image_shift_x_um``."""
    beam_shift_y: float | None = None
    stage_x_um: float | None = None
    stage_y_um: float | None = None
    stage_z_um: float | None = None
    super_res_factor: int | None = None
    gain_reference: str | None = None
    """Base name of the gain that the sidecar names."""
    defect_file: str | None = None
    """Base name of the list of the camera's defects that the sidecar names."""
    grid_square: str | None = None
    foil_hole: str | None = None
    template: str | None = None
    acquired: str | None = None
    """Date and time as written by the microscope."""
    program: Literal["EPU", "SerialEM"] | None = None
    """Which program's sidecar it is."""
    image_height: int | None = None
    """Of the image that ``pixel_size`` belongs to, px; it may be another than the movie, such as a binned preview."""
    image_width: int | None = None
    binning: float | None = None
    """Of that image on the camera; 0.5: super-resolution."""
    reference_pixel_size: float | None = None
    """A second value for the same image: by EPU's ReferenceTransformation, or SerialEM's RefinedPixelSpacing, Å/px."""
    frame_doses: tuple[float, ...] | None = None
    """e⁻/Å² of each frame that the sidecar counts, where they differ."""
    pre_exposure: float | None = None
    """e⁻/Å² before the first frame."""
    electrons_per_pixel: float | None = None
    """On the camera over the whole movie, by mean counts and ``counts_per_electron``: behind the specimen."""
    counts_per_electron: float | None = None
    electron_counting: bool | None = None
    gain_corrected: bool | None = None
    """Whether the camera has multiplied the frames with its gain reference."""
    image_shift_x_um: float | None = None
    """As SerialEM writes it, µm; None on microscopes where its unit is another."""
    image_shift_y_um: float | None = None
    camera: str | None = None
    exposure_time_s: float | None = None
    spot_size: int | None = None
    c2_aperture_um: float | None = None
    slit_width_ev: float | None = None
    """Of the energy filter; None also where the slit is out."""
    phase_plate: bool | None = None
    tilt_deg: float | None = None
    remarks: tuple[str, ...] = ()
    """What in the sidecar contradicts itself or was not used; flags of the movie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieSource:
    """The movie as found and as interpreted."""

    path: str
    """Below the watched root."""
    bytes: int
    mtime_ns: str | int
    """As decimal text, because most readers of JSON keep 53 bits of a number; records of before have a number."""
    fingerprint: str
    """sha256 of the size and the first and last MiB."""
    format: str
    n_frames: int
    height: int
    width: int
    evidence: str
    pixel_size: float
    voltage_kv: float | None
    cs_mm: float
    amplitude_contrast: float
    dose_per_frame: float | None
    pre_exposure: float
    gain: str | None
    """sha256 of the gain reference that was applied."""
    gain_path: str | None = None
    gain_refused: str | None = None
    """Path of a gain reference that was not applied, because the frames refute it."""
    acquisition: Acquisition = field(default_factory=Acquisition)
    frame_doses: tuple[float, ...] | None = None
    """e⁻/Å² of each frame, where they differ; 0 for one that nothing reached."""
    frames_left_out: tuple[int, ...] = ()
    """Places in the file, from 0, of frames that carry no information: blank, doubled, cut off, not an image."""
    n_raw_frames: int | None = None
    """Of an EER movie: hardware frames, of which a frame is a sum."""
    upsampling: int = 1
    """How much finer than the detector's pixels the frames are, along each axis."""
    pixel_size_from: str | None = None
    """Which rule chose the pixel size, see ``streamer.metadata.pixel_size``."""
    defects: str | None = None
    """sha256 of the list of the detector's defects that was used."""
    defects_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Which version of which network made an output."""

    version: str
    sha256: str
    """Of its weights."""
    weight: tuple[tuple[float, float], ...] = ()
    """λ as (spatial frequency in 1/Å, value)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScore:
    """How the serving network did on a movie before it could learn from it, applied or refused: prequential.

    From the movie's own halves, in the network's band.
    """

    version: str
    gain: float
    """SNBR* divided by that of the movie's own Wiener filter."""
    gain_error: float
    """Standard error of its logarithm."""
    expected_gain: float | None
    """Expected at this movie's SNR, from the movies that the version was judged on."""
    gain_shown: float | None = None
    """The same for the whole sum over 100-6 Å, the picture that is shown: an estimate. Halves gain more."""
    share: float | None = None
    """Share of the field where the network serves; elsewhere the picture is the Wiener estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperResolutionVerdict:
    """Whether fusing the frames on the finer grid can help, and why."""

    verdict: Literal["helps", "cannot help", "not shown", "not tried"]
    """not shown: it may help, but one movie's halves are too noisy to tell."""
    reason: str
    diversity: float | None = None
    """0: all frames at one sub-pixel position; 1: evenly spread."""
    frc_beyond_nyquist: float | None = None
    """Half-set FRC between 1.02 and 1.5 times the physical Nyquist frequency; halves may share artefacts."""
    confirmed: float | None = None
    """Share of what super-resolution adds that is confirmed by frames it was not made from: 1 all, ½ as much harm as
    good, 0 none, as for an image without super-resolution."""
    confirmed_error: float | None = None
    """Its standard error."""
    control: float | None = None
    """The same with the aliases turned by other frames' shifts, for cryo-ZSSR against another tile's frames: the part
    that is not due to super-resolution."""
    method: Literal["fusion", "network", "zssr"] | None = None
    """What made the image: raw-frame fusion, a session's network on top of it, or cryo-ZSSR as published."""
    model: ModelRef | None = None
    """Version of the network; None: no network, or one trained on this movie alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieQuality:
    """The live figures of one movie. ``_half``: at half the exposure; ``_full``: of the whole sum."""

    shifts_yx_px: list[list[float]]
    """Per frame of the file (y, x), moving it onto the first; between its neighbours for one that is left out."""
    total_motion_angstrom: float | None
    """None, like the two below, where the motion is not trusted: nothing is known of it."""
    early_motion_angstrom: float | None
    """Up to 4 e⁻/Å²; None also when the exposure is unknown."""
    late_motion_angstrom: float | None
    motion_information: float | None
    motion_trusted: bool
    mean_counts: float | None
    n_hot_pixels: int
    snr_half: float | None
    """Pooled over the band: equals SNBR* of the raw half."""
    ssnr_full: float | None
    """Pooled signal over noise power of the whole sum."""
    frc_resolution_angstrom: float | None
    """Where the half-set FRC falls below 0.143 for good."""
    snbr_half_wiener: float | None
    snbr_half_denoised: float | None
    """Also None where the network learned from this movie."""
    band_angstrom: list[float]
    """Coarse and fine end of the pooled band."""
    frc: list[float | None] = field(default_factory=list)
    """Half-set FRC on 64 equal steps up to Nyquist; None where an image is too small to have anything in a step."""
    sr: SuperResolutionVerdict
    motion_model: Literal["none", "global", "local"] = "global"
    """What was applied: nothing, one shift per frame, or shifts that differ over the field."""
    motion_converged: bool = True
    motion_error_px: float | None = None
    """Expected distance of the shifts from the truth, root mean square over frames and field, px; None where the motion
    is not trusted."""
    motion_errors_px: list[float] = field(default_factory=list)
    """The same of each frame of the file; empty likewise."""
    local_motion_angstrom: float | None = None
    """Root mean square over the field of what the local shifts add to the global one, at its largest; None where the
    motion is not trusted."""
    residual_gain: float | None = None
    """Share of the gain reference's pattern that correcting with it leaves: 0 fits, 1 does not fit at all, 2 is the
    wrong sense. None without a gain or where it has no pattern."""
    residual_gain_error: float | None = None
    """Its standard error."""
    gain_advice: str | None = None
    """What to set, where the frames refute the gain reference, which is not applied then; None: it fits, or nothing
    can be said."""
    fixed_pattern: float | None = None
    """Relative standard deviation from pixel to pixel of a pattern that stays with the detector, in frames that no gain
    corrected, or not wholly; None: none is seen, or nobody looked."""
    pattern_may_raise: bool | None = None
    """Whether such a pattern, seen or not, may have raised every figure that comes from the halves: SNR, SSNR, FRC,
    resolution and SNBR*. None: unknown, in records of earlier versions."""
    texture: tuple[float, ...] | None = None
    """Appearance of the plain micrograph: distinguishes one specimen from another."""
    structure: float | None = None
    """How much its grey values differ from those of noise, ice or carbon alone, which give 0.2 to 1; particles mostly
    give 3 to 50."""
    empty: str | None = None
    """Why there is nothing to see, compared with the session's other movies; None: there is, or it cannot be told."""
    n_wide_defects: int | None = None
    """Of the ``n_hot_pixels`` that were found in the movie's own data: parts of columns, rows and clusters, or dead."""
    n_listed_defects: int | None = None
    """Pixels that a list of the detector's defects names; None: no list was used."""
    usable_share: float | None = None
    """Share of the field that is not named in ``not_specimen``. SNR, SSNR, FRC, resolution, SNBR*, texture and
    structure are of this part. None: in records of earlier versions."""
    not_specimen: dict[str, float] = field(default_factory=dict)
    """Share of the field by what it is instead: ``crystal``, ``carbon``, ``gold``, ``vacuum``."""
    not_judged: str | None = None
    """Why the figures of the halves are None: too little of the field is left."""
    score: ModelScore | None = None
    """Of the network in use when the movie was processed; None if there was none, or it had learned from the movie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What the movies of a session usually show: medians over those in which there was something."""

    structure: float | None = None
    """How much stands out of the noise; about 0.5 is noise alone."""
    least_structure: float | None = None
    """The lowest of them; None: too few to say."""
    ssnr_full: float | None = None
    electrons: float | None = None
    """Per pixel and movie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file that is complete on disk."""

    role: str
    path: str
    """Relative to the session's directory."""
    bytes: int
    sha256: str
    shape: list[int] | None = None
    dtype: str | None = None
    pixel_size: float | None = None
    derived: bool = False
    """Made with a network, a prior or a finer grid."""
    not_for_reconstruction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What computed it: everything that a reproduction has to match."""

    version: str
    torch: str
    device: str
    instruction_set: str
    threads: int
    settings_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When, in UTC (ISO 8601), and how long each stage took in seconds. The only part that differs between runs."""

    detected: str | None = None
    """When the file was first seen."""
    complete: str | None = None
    """Since when it has not changed, by the daemon's own clock: latency counts from here."""
    ready: str | None = None
    """When it was certain that it is complete."""
    started: str | None = None
    done: str | None = None
    stage_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieRecord:
    """The full record of one movie: what came in, what was done, what it is worth, what came out."""

    movie_id: str
    session: str
    path: str = ""
    """Below the watched root."""
    revision: int = 1
    supersedes: int | None = None
    state: Literal["done", "failed", "quarantined", "vanished", "superseded", "skipped", "incomplete"]
    reason: Reason | None = None
    flags: list[str] = field(default_factory=list)
    shed: list[str] = field(default_factory=list)
    """What was left out because the daemon could not keep up: preview, denoise, super-resolution."""
    source: MovieSource | None = None
    metrics: MovieQuality | None = None
    ctf: CtfFigures | None = None
    """Of the aligned sum; None: not estimated, because the voltage is unknown or the settings say so."""
    restoration: Literal["none", "wiener", "network"] | None = None
    model: ModelRef | None = None
    outputs: list[OutputFile] = field(default_factory=list)
    software: Software | None = None
    times: Times = Times()


DENOISER, SUPER_RESOLUTION, CRYO_ZSSR = "denoiser", "super-resolution", "cryo-zssr"
"""What a version's network is for."""
