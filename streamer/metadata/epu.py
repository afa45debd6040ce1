"""EPU's metadata: XML sidecars, and the information in the names of files and directories.

Two documents are known: ``MicroscopeImage``, which EPU writes for each exposure, and ``Acquisition``, which
the Falcon's computer writes next to each movie and which lists the fractions that were recorded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamer.metadata.agreement import agree
from streamer.metadata.elements import child_of, local_name, pairs, plain, rounded, scaled, text_of, truth
from streamer.metadata.numbers import large, number, positive, whole
from streamer.movie_record import Acquisition
from streamer.readers.gain import base_name
from streamer.readers.xml import parse_xml

if TYPE_CHECKING:
    from xml.etree import ElementTree

MAX_TEXT = 64
_DETECTOR = re.compile(r"Detectors\[(.*)\]\.(\w+)")
_GRID_SQUARE = re.compile(r"GridSquare_([^/]+)", re.IGNORECASE)
_FOIL_HOLE = re.compile(r"FoilHole_([^/_]+)_Data_([^/_]+)_[^/]*", re.IGNORECASE)
_IMAGE = re.compile(
    r"FoilHole_\d+(?:_Data)?(?:_\d+)+|GridSquare_\d+(?:_\d+)*|(?:Tile|Atlas|Square)(?:Image)?(?:_[\d-]+)*",
    re.IGNORECASE,
)
_FRACTIONS = re.compile(r"_(?:fractions|eer)$", re.IGNORECASE)
_DISC = re.compile(r"Images-Disc\d*", re.IGNORECASE)


def position(relative: str) -> tuple[str | None, str | None, str | None]:
    """Grid square, foil hole and template from the path of a movie; None where they are not in it.

    Parameters
    ----------
    relative : ``…/GridSquare_<id>/Data/FoilHole_<hole>_Data_<template>_…``, with slashes.
    """
    *directories, name = relative.split("/")
    squares = [match[1] for match in map(_GRID_SQUARE.fullmatch, directories) if match]
    hole = _FOIL_HOLE.fullmatch(name)
    return (squares[-1] if squares else None, hole[1] if hole else None, hole[2] if hole else None)


def is_in_tree(directories: tuple[str, ...]) -> bool:
    """Whether a path of these parts is inside an EPU session: below a grid square of an image disc."""
    discs = [index for index, part in enumerate(directories) if _DISC.fullmatch(part)]
    return bool(discs) and any(_GRID_SQUARE.fullmatch(part) for part in directories[discs[0] + 1 :])


def is_fractions(stem: str) -> bool:
    """Whether a file name without its suffix is that of EPU's fractions; both spellings are in use."""
    return _FRACTIONS.search(stem) is not None


def is_integrated(name: str) -> bool:
    """Whether a file below a grid square has the name of an image that EPU writes of each exposure or square."""
    return _IMAGE.fullmatch(name.rpartition(".")[0]) is not None


def exposure_stem(stem: str) -> str:
    """Name of the exposure that a movie belongs to: without ``_fractions`` or ``_EER``."""
    return _FRACTIONS.sub("", stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the camera's computer says about a movie."""

    acquisition: Acquisition
    shares: tuple[float, ...] | None = None
    """Of each fraction: seconds that it was exposed, else its hardware frames."""
    are_times: bool = False
    frames_before: int = 0
    """Hardware frames before the first fraction."""


def parse(document: bytes) -> Acquisition | None:
    """Read an XML sidecar of EPU; None for XML that is neither of its documents.

    Raises
    ------
    ValueError
        It is not XML, has a DTD or entities, or is larger than a sidecar can be.
    """
    found = read(document)
    return found.acquisition if isinstance(found, Recorded) else found


def read(document: bytes) -> Acquisition | Recorded | None:
    """Read as ``parse`` does, and keep what only ``merge`` needs."""
    root = parse_xml(document)
    kind = local_name(root)
    if kind == "MicroscopeImage":
        return _microscope_image(root)
    return _recorded(root) if kind == "Acquisition" else None


def merge(image: Acquisition | None, recorded: Acquisition | Recorded | None) -> Acquisition | None:
    """Complete what EPU requested with what the camera recorded.

    EPU's dose is that of its exposure time, of which some cameras record only a part: where the camera says how long
    each fraction was exposed, their doses are by these times. Else the dose is all in the fractions, and divided by
    their hardware frames where they are listed.
    """
    if not isinstance(recorded, Recorded):
        return image or recorded
    told = recorded.acquisition
    if image is None:
        return told
    n_frames, total, doses = told.n_frames or image.n_frames, image.dose_total, image.frame_doses
    pre_exposure = image.pre_exposure
    if total is not None and recorded.shares is not None and len(recorded.shares) == n_frames:
        of_all = sum(recorded.shares) + (0 if recorded.are_times else recorded.frames_before)
        if recorded.are_times and image.exposure_time_s is not None and not agree(image.exposure_time_s, of_all):
            of_all = max(of_all, image.exposure_time_s)
        doses = tuple(total * share / of_all for share in recorded.shares)
        pre_exposure = pre_exposure or (0 if recorded.are_times else total * recorded.frames_before / of_all) or None
    elif doses is not None and len(doses) != n_frames:
        doses = None
    return replace(
        image,
        n_frames=n_frames,
        dose_per_frame=per_frame(_saved(doses, total), n_frames),
        frame_doses=_where_they_differ(doses),
        pre_exposure=pre_exposure,
        electrons_per_pixel=told.electrons_per_pixel,
        counts_per_electron=told.counts_per_electron or image.counts_per_electron,
        electron_counting=told.electron_counting if image.electron_counting is None else image.electron_counting,
        gain_corrected=told.gain_corrected,
        camera=image.camera or told.camera,
    )


def per_frame(dose_total: float | None, n_frames: int | None) -> float | None:
    """Exposure per frame, e⁻/Å², when total and number are known."""
    return dose_total / n_frames if dose_total is not None and n_frames else None


def _saved(doses: tuple[float, ...] | None, total: float | None) -> float | None:
    """Exposure of all fractions together; exactly the total where they have all of it."""
    saved = total if doses is None else sum(doses)
    return total if saved is not None and total is not None and math.isclose(saved, total) else saved


def _where_they_differ(doses: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if doses is None or max(doses) - min(doses) <= 1e-3 * max(doses) else doses


def _microscope_image(root: ElementTree.Element) -> Acquisition:
    custom = {key: plain(value) for key, value in pairs(root, "CustomData").items()}
    camera = child_of(root, "microscopeData", "acquisition", "camera")
    special = pairs(root, "microscopeData", "acquisition", "camera", "CameraSpecificInput")
    settings = {key: plain(value) for key, value in special.items()}
    name = text_of(root, "microscopeData", "acquisition", "camera", "Name")
    detector = _of_detector(settings | custom, custom.get("BinaryResult.Detector") or name)
    optics, stage = ("microscopeData", "optics"), ("microscopeData", "stage", "Position")
    n_frames, doses, before = _fractions(special.get("FractionationSettings"), _dose(custom))
    pixel_size, reference, remarks = _pixel_size(root)
    exposure_time = positive(number(text_of(root, "microscopeData", "acquisition", "camera", "ExposureTime")))
    slit = ("EnergyFilter", "EnergySelectionSlitInserted"), ("EnergyFilter", "EnergySelectionSlitWidth")
    electrons_per_count = positive(number(detector.get("CountsToElectrons")))
    return Acquisition(
        program="EPU",
        n_frames=n_frames,
        pixel_size=pixel_size,
        reference_pixel_size=reference,
        image_height=whole(number(text_of(camera, "ReadoutArea", "height"))),
        image_width=whole(number(text_of(camera, "ReadoutArea", "width"))),
        binning=positive(number(text_of(camera, "Binning", "x"))),
        voltage_kv=positive(scaled(text_of(root, "microscopeData", "gun", "AccelerationVoltage"), 1e-3)),
        dose_total=_dose(custom),
        dose_per_frame=per_frame(_saved(doses, _dose(custom)), n_frames),
        frame_doses=_where_they_differ(doses),
        pre_exposure=before or _before(camera, _dose(custom), exposure_time),
        magnification=positive(large(text_of(root, *optics, "TemMagnification", "NominalMagnification"))),
        defocus_target_um=rounded(
            scaled(custom.get("AppliedDefocus"), -1e6)
        ),  # m, negative underfocus, to µm, positive
        beam_shift_x=number(text_of(root, *optics, "BeamShift", "_x")),
        beam_shift_y=number(text_of(root, *optics, "BeamShift", "_y")),
        stage_x_um=rounded(scaled(text_of(root, *stage, "X"), 1e6)),
        stage_y_um=rounded(scaled(text_of(root, *stage, "Y"), 1e6)),
        stage_z_um=rounded(scaled(text_of(root, *stage, "Z"), 1e6)),
        tilt_deg=rounded(scaled(text_of(root, *stage, "A"), 180.0 / math.pi)),
        super_res_factor=whole(number(detector.get("SuperResolutionFactor"))),
        gain_reference=base_name(detector.get("EerGainReference") or detector.get("GainReference")),
        counts_per_electron=None if electrons_per_count is None else 1.0 / electrons_per_count,
        electrons_per_pixel=_on_camera(custom, detector) if _dose(custom) is None else None,
        electron_counting=truth(detector.get("ElectronCountingEnabled") or detector.get("ElectronCounted")),
        camera=(detector.get("CommercialName") or detector.get("DetectorCommercialName") or name or "")[:MAX_TEXT]
        or None,
        exposure_time_s=exposure_time,
        spot_size=whole(number(text_of(root, *optics, "SpotIndex"))),
        c2_aperture_um=positive(number(custom.get("Aperture[C2].Name"))),
        slit_width_ev=positive(number(text_of(root, *optics, *slit[1])))
        if truth(text_of(root, *optics, *slit[0]))
        else None,
        phase_plate=truth(custom.get("PhasePlateUsed")),
        acquired=(text_of(root, "microscopeData", "acquisition", "acquisitionDateTime") or "")[:MAX_TEXT] or None,
        remarks=remarks,
    )


def _dose(custom: dict[str, str]) -> float | None:
    """e⁻/Å² of the exposure; EPU writes e⁻/m², and 0 for what it does not know."""
    return positive(scaled(custom.get("Dose"), 1e-20))


def _on_camera(custom: dict[str, str], detector: dict[str, str]) -> float | None:
    """e⁻/px on the camera, as EPU says it in one of three ways."""
    rate, time = (positive(number(detector.get(name))) for name in ("DoseRate", "ExposureTime"))
    told = positive(number(custom.get("DoseOnCamera"))) or positive(number(detector.get("TotalDose")))
    return told or (rate * time if rate is not None and time is not None else None)


def _pixel_size(root: ElementTree.Element) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Å/px of the image, the same by the transformation to the stage, and what is wrong with them."""
    x, y = (positive(scaled(text_of(root, "SpatialScale", "pixelSize", axis, "numericValue"), 1e10)) for axis in "xy")
    matrix = [number(text_of(root, "ReferenceTransformation", "matrix", f"_m{place}")) for place in ("11", "12")]
    known = [value for value in matrix if value is not None]
    reference = positive(math.hypot(*known) * 1e10) if len(known) == 2 else None
    if x is not None and y is not None and not agree(x, y):
        return None, None, (f"pixel_size: the sidecar says {x:g} along x and {y:g} along y: not used",)
    return x or y, reference, ()


def _before(camera: ElementTree.Element | None, dose: float | None, exposure_time: float | None) -> float | None:
    """e⁻/Å² of the exposure that the camera makes before the frames, at the same rate."""
    time = positive(number(text_of(camera, "PreExposureTime")))
    return None if time is None or dose is None or exposure_time is None else dose * time / exposure_time


def _of_detector(told: dict[str, str], name: str | None) -> dict[str, str]:
    """What is said about the detector of this name, else about the only one, or without the name of any."""
    plainly = {key: value for key, value in told.items() if _DETECTOR.fullmatch(key) is None}
    found: dict[str | None, dict[str, str]] = {}
    for key, value in told.items():
        if (match := _DETECTOR.fullmatch(key)) is not None:
            found.setdefault(match[1], {})[match[2]] = value
    own = found.get(name, next(iter(found.values())) if len(found) == 1 else {})
    return plainly | own


def _fractions(
    settings: ElementTree.Element | None, dose: float | None
) -> tuple[int | None, tuple[float, ...] | None, float | None]:
    """Number of fractions, and e⁻/Å² of each and before the first where they are listed with their hardware frames.

    Parameters
    ----------
    dose : e⁻/Å² up to the last hardware frame that is listed.
    """
    if settings is None:
        return None, None, None
    stated = whole(number(text_of(settings, "NumberOffractions")))
    listed = list(child_of(settings, "DoseFractions") or ())
    ranges = [[whole(number(text_of(child, f"{end}FrameNumber"))) for end in ("Start", "End")] for child in listed]
    known = [(start, end) for start, end in ranges if start is not None and end is not None and end >= start]
    n_frames = stated or len(listed) or None
    if dose is None or not known or len(known) != n_frames:
        return n_frames, None, None
    of_one = dose / max(end for _, end in known)
    before = of_one * (min(start for start, _ in known) - 1)
    return n_frames, tuple((end - start + 1) * of_one for start, end in known), before or None


def _recorded(root: ElementTree.Element) -> Recorded:
    """The camera's list of fractions: their hardware frames, times and mean counts."""
    fractions = [child for child in child_of(root, "Fractions") or () if local_name(child) == "Fraction"]

    def each(name: str) -> tuple[float, ...] | None:
        values = [positive(number(text_of(fraction, name))) for fraction in fractions]
        known = tuple(value for value in values if value is not None)
        return known if known and len(known) == len(values) else None

    times, lengths, means = each("ExposureTime"), each("NumberOfFrames"), each("MeanPixelValue")
    electrons, counts = each("CountsToElectrons"), each("PixelValueToCameraCounts")
    first = number(text_of(fractions[0], "StartFrame")) if fractions else None
    counted = None
    if means is not None and electrons is not None:
        counted = sum(map(math.prod, zip(means, electrons, counts or (1.0,) * len(means), strict=True)))
    return Recorded(
        acquisition=Acquisition(
            program="EPU",
            n_frames=whole(number(text_of(root, "Info", "RecordedNumberOfFractions"))),
            electrons_per_pixel=counted,
            counts_per_electron=1.0 / electrons[0] if electrons is not None and len(set(electrons)) == 1 else None,
            electron_counting=truth(text_of(root, "Info", "ElectronCounting")),
            gain_corrected=truth(text_of(root, "Info", "GainCorrection")),
            camera=(text_of(root, "Info", "Detector") or "")[:MAX_TEXT] or None,
        ),
        shares=times or lengths,
        are_times=times is not None,
        frames_before=int(first) if first is not None and first > 0 else 0,
    )
