"""Settings of the data path: one table of the configuration per concern.

Each setting exists here once, with its unit, range, default and meaning; ``service.config`` adds the tables of
the service and reads them all from TOML. ``None`` means unknown: taken from the sidecar or the file.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration; unknown keys are refused."""


Positive = Meta(gt=0)
NO_GAIN = "none"
"""Instead of the path of a gain reference: the movies are corrected, or are not to be."""


class MovieSettings(Table, frozen=True):
    """What is known about the exposure. A value given here overrides the sidecar; a disagreement is reported."""

    pixel_size: Annotated[
        float | None,
        Meta(description="Å/px as stored, for EER the physical pixel; unset: from the sidecar, else the header"),
    ] = None
    voltage_kv: Annotated[float | None, Meta(description="acceleration voltage, kV")] = None
    cs_mm: Annotated[float, Meta(ge=0, description="spherical aberration, mm")] = 2.7
    amplitude_contrast: Annotated[float, Meta(ge=0, le=1, description="fraction of amplitude contrast")] = 0.1
    dose_per_frame: Annotated[
        Annotated[float, Positive] | None,
        Meta(
            description="e-/Å2 per frame, for EER per fraction; neither here nor in the sidecar: no weighting, flagged"
        ),
    ] = None
    pixel_size_by_magnification: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(
            description="calibrated Å/px by the sidecar's magnification, { 105000 = 0.834 }; overrides the sidecar, "
            "not pixel_size"
        ),
    ] = {}
    pre_exposure: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="e-/Å2 received before the first frame; unset: from the sidecar, else 0"),
    ] = None
    gain: Annotated[
        str | None,
        Meta(
            description="gain reference; unset: the nearest one above the movie, else the only one below the root; "
            '"none": the movies are gain corrected already'
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in self.pixel_size_by_magnification:
            if not name.isascii() or not name.isdigit():
                raise ValueError(f'pixel_size_by_magnification: "{name}" is not a magnification')


class EerSettings(Table, frozen=True):
    """How EER movies are divided into frames: at most one of the four ways, else into 40 fractions."""

    group: Annotated[
        int,
        Meta(
            ge=0,
            description="raw frames per fraction, as in RELION; the last ones may be left out; 0: another way",
        ),
    ] = 0
    fractions: Annotated[
        int,
        Meta(
            ge=0,
            description="number of fractions, the same for every movie; raw frames that do not divide evenly are "
            "spread over them; 0: another way",
        ),
    ] = 0
    dose_per_fraction: Annotated[
        float, Meta(ge=0, description="e-/Å2 per fraction, about; the movie must state its dose; 0: another way")
    ] = 0.0
    integration: Annotated[
        str | None,
        Meta(description="MotionCor integration file; lines: raw frames, raw frames per fraction, e-/Å2 per raw frame"),
    ] = None
    upsampling: Annotated[
        Literal[1, 2, 4], Meta(description="1: physical pixels; 2 or 4: a grid that many times finer")
    ] = 1
    flip_y: Annotated[
        bool, Meta(description="flip rows, as IMOD reads EER; false: as RELION does, to which gains are oriented")
    ] = False

    def __post_init__(self) -> None:
        chosen = [n for n in ("group", "fractions", "dose_per_fraction", "integration") if getattr(self, n)]
        if len(chosen) > 1:
            raise ValueError(f"set only one of {', '.join(chosen)}")


class GainSettings(Table, frozen=True):
    """How the gain reference is oriented to the frames, and detector defects."""

    rotate: Annotated[
        int,
        Meta(
            ge=0,
            le=3,
            description="quarter turns counter-clockwise, before the flip: MotionCor -RotGain, RELION --gain_rot, "
            "cryoSPARC rotate_num",
        ),
    ] = 0
    flip: Annotated[
        Literal[0, 1, 2],
        Meta(
            description="0: none; 1: upside down; 2: left to right: MotionCor -FlipGain, RELION --gain_flip; cryoSPARC "
            "flip_y is 1 and flip_x 2"
        ),
    ] = 0
    sense: Annotated[
        Literal["auto", "multiply", "divide"],
        Meta(
            description='"divide": the reference is an image of the beam; "auto": divide for EER movies with an MRC '
            "reference, as RELION does, else multiply"
        ),
    ] = "auto"
    from_movies: Annotated[
        Literal["offer", "use", "never"],
        Meta(
            description='for movies without a gain reference, make one from them: "offer": say where it is; "use": '
            'apply the newest; "never": make none'
        ),
    ] = "offer"
    defects: Annotated[
        str | None,
        Meta(
            description="defects of the detector: a MotionCor text file of x y w h, SerialEM's own list, or a map that "
            "is 1 at defects; empty: the list that the movie's sidecar names"
        ),
    ] = None
    hot_pixel_sigma: Annotated[
        float,
        Meta(
            ge=4,
            description="a pixel this many standard deviations above its neighbours is hot; from 100 on, wider defects "
            "are not looked for either",
        ),
    ] = 7.0


class MotionSettings(Table, frozen=True):
    """Frame alignment."""

    max_shift_angstrom: Annotated[
        float, Meta(gt=0, description="largest distance of a frame from the mean position, Å")
    ] = 60.0
    b_factor: Annotated[
        float,
        Meta(
            ge=0,
            description="low-pass of the first, coarse correlation, px2, as in RELION",
        ),
    ] = 150.0
    min_information: Annotated[
        float,
        Meta(
            ge=0,
            description="information about the smooth track, 1/px2, below which shifts are not applied even where "
            "they would help; 20 is a standard deviation of 0.22 px; 0: the frames' own evidence decides",
        ),
    ] = 0.0


class SuperResolutionSettings(Table, frozen=True):
    """The image on the grid of half the pixel size."""

    method: Annotated[
        Literal["fusion", "zssr"],
        Meta(
            description="fusion of the raw frames, or cryo-ZSSR as published, for comparison only: what it adds beyond "
            "the physical Nyquist frequency is not in the data (docs/super-resolution.md)"
        ),
    ] = "fusion"
    network: Annotated[
        bool,
        Meta(
            description="fusion: a network learns during the session which bands of the fused image to keep where, and "
            "changes it as far as unseen frames confirm that"
        ),
    ] = False
    model: Annotated[
        str | None,
        Meta(
            description="directory of a version to use: of a network for fusion, or of cryo-ZSSR; unset: the one that "
            "the session has learned, and until there is one the fused image"
        ),
    ] = None
    per_movie: Annotated[
        bool,
        Meta(description="zssr: train a new network on every movie, as published; minutes per movie on a CPU"),
    ] = False
    filtered: Annotated[
        bool,
        Meta(
            description="fusion: true: the most probable image, for viewing and picking; false: with white noise, for "
            "reconstruction"
        ),
    ] = True
    min_diversity: Annotated[
        float,
        Meta(
            ge=0, le=1, description="0: all frames at one sub-pixel position; 1: evenly spread. Below it: cannot help"
        ),
    ] = 0.2
    mtf: Annotated[
        str | None,
        Meta(
            description="the detector's MTF, a STAR file as for RELION (rlnResolutionInversePixel, rlnMtfValue); "
            "unset: only the pixels' own box"
        ),
    ] = None

    @property
    def learns(self) -> bool:
        """Whether a network that the session itself learns is to be used."""
        return self.model is None and (self.network if self.method == "fusion" else not self.per_movie)


class DenoiseSettings(Table, frozen=True):
    """Application of the session model."""

    enabled: Annotated[bool, Meta(description="false: the Wiener estimate is the restored image")] = True
    resolution: Annotated[
        float,
        Meta(
            gt=0,
            description="fine end of the band in which a network may work, Å (Nyquist if that is coarser); a session "
            "without signal there learns in a coarser one",
        ),
    ] = 4.0
    low: Annotated[
        float,
        Meta(
            gt=0,
            description="coarse end of the band, Å; slower variation is ice and is left to the Wiener filter",
        ),
    ] = 100.0


class QualitySettings(Table, frozen=True):
    """Live quality figures."""

    band_low: Annotated[float, Meta(gt=0, description="coarse end of the pooled band, Å")] = 100.0
    band_high: Annotated[
        float, Meta(gt=0, description="fine end of the pooled band, Å (Nyquist if that is coarser)")
    ] = 6.0


class CtfSettings(Table, frozen=True):
    """Defocus and astigmatism."""

    enabled: Annotated[bool, Meta(description="false: the CTF is not estimated")] = True
    band_low: Annotated[float, Meta(gt=0, description="coarse end of what is fitted, Å")] = 25.0
    band_high: Annotated[float, Meta(gt=0, description="fine end, Å (Nyquist if that is coarser)")] = 3.0
    defocus_low_um: Annotated[float, Meta(gt=0, description="least underfocus that is looked for, µm")] = 0.2
    defocus_high_um: Annotated[float, Meta(gt=0, le=20, description="largest, µm")] = 6.0
    phase_shift_low: Annotated[
        float, Meta(ge=-180, le=360, description="with a phase plate: least phase shift, degrees; both 0: none")
    ] = 0.0
    phase_shift_high: Annotated[float, Meta(ge=-180, le=360, description="largest; both the same: it is known")] = 0.0


class OutputSettings(Table, frozen=True):
    """What is written."""

    root: Annotated[str, Meta(description="output directory; each session gets a directory in it")] = "output"
    dtype: Annotated[
        Literal["float16", "float32"],
        Meta(description="of halves and derived images; RELION 3.1 cannot read float16: use float32"),
    ] = "float16"
    super_resolution: Annotated[
        Literal["when-it-helps", "always", "never"], Meta(description="when <stem>_SR.mrc is written")
    ] = "when-it-helps"
    thumbnail_px: Annotated[int, Meta(ge=64, le=4096, description="longer side of the PNG pictures, px")] = 512
    keep_groups: Annotated[
        bool,
        Meta(description="also keep the frame-group sums that the session model learns from, next to the outputs"),
    ] = False


class ComputeSettings(Table, frozen=True):
    """Where and how to compute."""

    device: Annotated[str, Meta(description='"auto": the GPU if there is one; else "cpu", "cuda", "cuda:1"')] = "auto"
    threads: Annotated[
        int,
        Meta(
            ge=0, description="CPU threads of a worker; 0: half of the cores. Reproducible results need the same number"
        ),
    ] = 0
    read_limit_gib: Annotated[
        float,
        Meta(
            gt=0,
            description="a movie that decodes to more than this is refused, GiB",
        ),
    ] = 16.0
    frames_in_memory_gib: Annotated[
        float,
        Meta(
            ge=0,
            description="a movie that decodes to more than this is not kept in memory: each pass over its frames "
            "decodes them again, GiB",
        ),
    ] = 2.0


class DataPathSettings(Table, frozen=True):
    """All that ``process_movie`` needs."""

    movie: MovieSettings = MovieSettings()
    eer: EerSettings = EerSettings()
    gain: GainSettings = GainSettings()
    motion: MotionSettings = MotionSettings()
    super_resolution: SuperResolutionSettings = SuperResolutionSettings()
    denoise: DenoiseSettings = DenoiseSettings()
    quality: QualitySettings = QualitySettings()
    ctf: CtfSettings = CtfSettings()
    outputs: OutputSettings = OutputSettings()
    compute: ComputeSettings = ComputeSettings()


def settings_sha256(settings: DataPathSettings) -> str:
    """Hash of all settings that can change a result; where outputs go is not one of them."""
    # a daemon's settings are more than these
    relevant = {name: getattr(settings, name) for name in DataPathSettings.__struct_fields__}
    relevant["outputs"] = msgspec.structs.replace(settings.outputs, root="", keep_groups=False)
    return hashlib.sha256(msgspec.json.encode(relevant, order="sorted")).hexdigest()
