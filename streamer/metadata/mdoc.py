"""SerialEM's ``.mdoc`` sidecars: ``key = value`` lines, some of them in sections; Tomo5 writes them too.

A file may have sections of many movies. The one that counts is the frame set that names the movie's file, else the only
frame set if it names none, else any other section that names the file, else the only section. A single section that
names another file is used, as files are renamed, and said. Where several sections name other files, none of them is
used, and that is said too. Lines that are not understood are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

from streamer.metadata.epu import MAX_TEXT, per_frame
from streamer.metadata.numbers import (
    DEGREES,
    ELECTRONVOLTS,
    EXPOSURE,
    LENGTH,
    MAX_COUNT,
    MICROMETRES,
    SECONDS,
    VOLTS,
    kilovolts,
    large,
    number,
    numbers,
    positive,
    whole,
)
from streamer.movie_record import Acquisition
from streamer.readers.gain import base_name

_SECTION = re.compile(r"\[\s*(\w+)\s*=\s*(.*?)\s*\]")
LINE_ENDS = re.compile(r"\r\n|\r|\n")
_MAX_SECTIONS = 100_000
_MAX_NAMED = 4
_MOST_DOSES = 20_000
_JEOL = re.compile(r"JEOL|JEM|CRYO[ _-]?ARM", re.IGNORECASE)
_LARGEST_SHIFT_UM = 50.0
"""No microscope shifts the image by more; JEOL's numbers, in a unit of their own, are mostly larger."""


_KEYS = {
    key.lower(): key
    for key in (
        "Binning", "CountsPerElectron", "DE12-PreexposureTime(s)", "DateTime", "DefectFile", "ExposureDose",
        "ExposureTime", "FilterSlitAndLoss", "FrameDosesAndNumber", "FrameDosesAndNumbers", "GainReference",
        "ImageShift", "ImageSize", "Magnification", "Montage", "NumSubFrames", "PieceCoordinates", "PixelSpacing",
        "PriorRecordDose", "RefinedPixelSpacing", "SpotSize", "StagePosition", "StageZ", "SubFramePath",
        "TargetDefocus", "TiltAngle", "Voltage",
    )
}  # fmt: skip
"""What is read, whatever the case of its letters."""


@dataclass(slots=True)
class Section:
    """Lines that belong together, at the beginning of a file or after ``[kind = …]``."""

    kind: str
    values: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> str | None:
        """Base name of the movie that it is about."""
        return base_name(self.values.get("SubFramePath"))


def decoded(document: bytes) -> str:
    """Text of an mdoc: UTF-8 or UTF-16, with a mark or without one, else the code page of SerialEM's computer."""
    if document[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return document.decode("utf-16", "replace")
    start = document[:64]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) >= 4 and not any(start[first::2]) and all(start[1 - first :: 2]):
            return document.decode(encoding, "replace")
    try:
        return document.decode("utf-8-sig")
    except UnicodeDecodeError:
        return document.decode("cp1252", "replace")


@dataclass(frozen=True, slots=True)
class Document:
    """An mdoc."""

    head: Section
    sections: list[Section]
    is_jeol: bool
    """Whether its title names a microscope of JEOL."""

    def names_movie(self, movie_name: str) -> bool:
        """Whether a section says that it is about this file."""
        return any(same_file(section.names, movie_name) for section in self.sections)


def parse(text: str, movie_name: str) -> Acquisition:
    """Read what an mdoc says about one movie; parameters and errors are those of ``read`` and ``about``."""
    return about(read(text), movie_name)


def about(document: Document, movie_name: str) -> Acquisition:
    """What an mdoc says about one movie.

    Parameters
    ----------
    movie_name : its file name, to find its section.
    """
    section, remarks = _section_of(document.sections, movie_name)
    values = document.head.values | section.values
    n_frames, dose_per_frame, doses, doubts = _frames(values)
    binning, defocus = number(values.get("Binning")), number(values.get("TargetDefocus"), MICROMETRES)
    stage, size = numbers(values.get("StagePosition")), numbers(values.get("ImageSize"))
    shift = (None, None) if document.is_jeol else _image_shift(values)
    slit = numbers(values.get("FilterSlitAndLoss"))
    return Acquisition(
        program="SerialEM",
        n_frames=n_frames,
        pixel_size=positive(number(values.get("PixelSpacing"), LENGTH)),
        reference_pixel_size=positive(number(values.get("RefinedPixelSpacing"), LENGTH)),
        image_width=whole(size[0]) if len(size) == 2 else None,
        image_height=whole(size[1]) if len(size) == 2 else None,
        binning=positive(binning),
        voltage_kv=kilovolts(positive(number(values.get("Voltage"), VOLTS))),
        dose_total=positive(number(values.get("ExposureDose"), EXPOSURE)),
        dose_per_frame=dose_per_frame,
        frame_doses=doses,
        pre_exposure=_pre_exposure(values),
        magnification=positive(large(values.get("Magnification"))),
        defocus_target_um=None if defocus is None else -defocus + 0.0,  # SerialEM: negative underfocus
        image_shift_x_um=shift[0],
        image_shift_y_um=shift[1],
        stage_x_um=stage[0] if len(stage) == 2 else None,
        stage_y_um=stage[1] if len(stage) == 2 else None,
        stage_z_um=number(values.get("StageZ"), MICROMETRES),
        tilt_deg=number(values.get("TiltAngle"), DEGREES),
        super_res_factor=None if binning is None else 2 if binning == 0.5 else 1,
        gain_reference=base_name(values.get("GainReference")),
        counts_per_electron=positive(number(values.get("CountsPerElectron"))),
        exposure_time_s=positive(number(values.get("ExposureTime"), SECONDS)),
        spot_size=whole(number(values.get("SpotSize"))),
        slit_width_ev=positive(number(values.get("FilterSlitAndLoss"), ELECTRONVOLTS) if not slit else slit[0]),
        defect_file=base_name(values.get("DefectFile")),
        acquired=values.get("DateTime", "")[:MAX_TEXT] or None,
        remarks=(*remarks, *doubts),
    )


def read(text: str) -> Document:
    """Divide an mdoc into its sections.

    Raises
    ------
    ValueError
        It is not an mdoc, or has more sections than any.
    """
    head = Section("head")
    sections: list[Section] = []
    for line in LINE_ENDS.split(text):
        stripped = line.strip().lstrip("\ufeff")
        start = _SECTION.fullmatch(stripped)
        if start is not None:
            # Titles, in square brackets of their own, are between the global lines and the sections.
            if start[1] != "T":
                sections.append(Section(start[1]))
            if len(sections) > _MAX_SECTIONS:
                raise ValueError(f"has more than {_MAX_SECTIONS} sections")
            continue
        key, equals, value = stripped.partition("=")
        if equals and key.strip():
            values, word = (sections[-1] if sections else head).values, value.strip()
            name = _KEYS.get(key.strip().lower(), key.strip())
            # a line that breaks off does not take back what an earlier one says
            values[name] = word or values.get(name, "")
    if not head.values and not any(section.values for section in sections):
        raise ValueError("contains no 'key = value' line")
    return Document(head, sections, is_jeol=_JEOL.search(text[:4096]) is not None)


def _section_of(sections: list[Section], movie_name: str) -> tuple[Section, tuple[str, ...]]:
    """The section of this movie, empty where there is none, and what a user should know of the choice."""
    sets = [section for section in sections if section.kind == "FrameSet"]
    about = [section for section in sets if same_file(section.names, movie_name)]
    about += [section for section in sets if len(sets) == 1 and section.names is None]
    about = about or [section for section in sections if same_file(section.names, movie_name)]
    if about:
        # a file that is recorded again is added at the end
        return about[-1], ()
    single = sets if len(sets) == 1 else sections if len(sections) == 1 else []
    if single:
        named = single[0].names
        return single[0], () if named is None else (f"sidecar: it names {named}, not this file",)
    if not sections:
        return Section("none"), ()
    named_others = sorted({section.names for section in sections if section.names is not None})
    some = ", ".join(named_others[:_MAX_NAMED]) + (", …" if len(named_others) > _MAX_NAMED else "")
    what = f"names {some}, not this file" if some else "names no file"
    return Section("none"), (f"sidecar: it has {len(sections)} sections and {what}: they were not used",)


def same_file(named: str | None, movie_name: str) -> bool:
    """Whether a name is that of the movie; it may have been converted, and Windows does not know the case."""
    if named is None:
        return False
    one, other = PurePath(named.lower()), PurePath(movie_name.lower())
    return one.name == other.name or (one.stem == other.stem and one.suffix != "")


def _frames(
    values: dict[str, str],
) -> tuple[int | None, float | None, tuple[float, ...] | None, tuple[str, ...]]:
    """Number of frames, e⁻/Å² per frame on average and of each where they differ, and what does not fit.

    The doses of the frames take precedence over the total: after a continuous tilt series the total also counts
    exposure that was not saved.
    """
    n_frames = whole(number(values.get("NumSubFrames")))
    key = next((key for key in ("FrameDosesAndNumbers", "FrameDosesAndNumber") if values.get(key)), None)
    pairs = [] if key is None else numbers(values[key])
    doses, counts = pairs[0::2], [whole(count) for count in pairs[1::2]]
    known = [count for count in counts if count is not None]
    evenly = per_frame(positive(number(values.get("ExposureDose"), EXPOSURE)), n_frames)
    if not pairs or len(doses) != len(known):
        doubt = () if key is None else (f"dose: the sidecar's {key} cannot be read: {values[key][:MAX_TEXT]}",)
        return n_frames, evenly, None, doubt
    total = sum(known)
    if total > MAX_COUNT or n_frames not in (None, total):
        told = f"dose: the sidecar's {key} is of {total} frames, its NumSubFrames {n_frames}"
        return n_frames, evenly, None, (f"{told}: its total was divided evenly",)
    exposure = sum(dose * count for dose, count in zip(doses, known, strict=True)) / total
    if exposure <= 0 or min(doses) < 0:
        return total, None, None, ()
    differ = max(doses) - min(doses) > 1e-3 * max(doses)
    if not differ:
        return total, exposure, None, ()
    if total > _MOST_DOSES:
        return total, exposure, None, (f"dose: the sidecar's {key} is of {total} frames: its average was used",)
    return total, exposure, tuple(dose for dose, count in zip(doses, known, strict=True) for _ in range(count)), ()


def _pre_exposure(values: dict[str, str]) -> float | None:
    """e⁻/Å² before the first frame: of earlier images, and of a camera's pre-exposure at the rate of the exposure."""
    prior = positive(number(values.get("PriorRecordDose"), EXPOSURE))
    dose = positive(number(values.get("ExposureDose"), EXPOSURE))
    before = positive(number(values.get("DE12-PreexposureTime(s)"), SECONDS))
    time = positive(number(values.get("ExposureTime"), SECONDS))
    own = dose * before / time if dose is not None and before is not None and time is not None else None
    known = [part for part in (prior, own) if part is not None]
    return sum(known) if known else None


def _image_shift(values: dict[str, str]) -> tuple[float | None, float | None]:
    """µm along x and y, except on a JEOL, where the numbers have a unit of their own."""
    shift = numbers(values.get("ImageShift"))
    if len(shift) != 2 or max(map(abs, shift)) > _LARGEST_SHIFT_UM:
        return None, None
    return shift[0], shift[1]
