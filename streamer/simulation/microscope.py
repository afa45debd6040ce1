"""A simulated microscope that fills a directory: names, sidecars, gain reference, truth, and how files grow.

EPU: ``<root>/Images-Disc1/GridSquare_<id>/Data/FoilHole_<hole>_Data_<template>_<acquisition>_<date>_<time>_fractions``
with an XML next to it. SerialEM: ``<root>/<name>_0001_X+0Y+0-1.tif`` with ``.mdoc`` appended. The truth of each movie
is next to it as ``<stem>_truth.npz``. Dates follow from the movie's number, so that a seed always gives the same bytes.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray

from streamer.runtime.clock import SYSTEM
from streamer.simulation import eer_encoder
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.scenes.kinds import CLEAN, kind_of
from streamer.simulation.scenes.scene import Scene, specimen_for
from streamer.simulation.truth_file import write_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.runtime.clock import Clock
    from streamer.simulation.specimen import Specimen

Counts = NDArray[np.uint8]
_FIRST_DAY = datetime(2026, 1, 5, 9, 0, 0)  # noqa: DTZ001 - microscopes write local time without a zone
_STRIP_ROWS = 512
RAW_FRAMES = 20
"""Hardware frames of a simulated EER movie per frame of the plan."""
_EER_COMPRESSION = 65001


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to simulate, and how it is written."""

    directory: Path
    movies: int = 1
    first: int = 0
    """Number of the first movie; numbers make names and noise."""
    scope: Microscope = field(default_factory=Microscope)
    specimen: Specimen | None = None
    """None: empty ice."""
    scene: str | None = None
    """Kind of field or mixture (``scenes.kinds``), several joined by +; None: clean fields."""
    motion: str | None = None
    """Name in ``scenes.motions.MOTIONS``; None: the usual drift."""
    seed: int = 0
    layout: Literal["epu", "serialem"] = "epu"
    format: Literal["mrc", "tiff", "eer"] = "tiff"
    mode: Literal["rename", "grow", "page"] = "rename"
    """rename: under a hidden name until complete; grow: under its final name, in pieces; page: a frame at a time, EER
    in pieces."""
    interval_s: float = 0.0
    """Minimum time from the start of one movie to that of the next."""
    write_s: float = 0.0
    """How long a file takes to be written in the growing modes."""
    per_square: int = 0
    """Movies per grid square; 0: all in one."""
    corrupt: frozenset[int] = frozenset()
    """Numbers of movies (from 0) that are damaged."""
    truth: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A movie that is on disk."""

    path: Path
    number: int
    corrupt: bool
    seconds: float
    """How long simulating and writing it took."""


def expose(
    plan: Plan, *, stop: Callable[[], bool] = lambda: False, device: str = "cpu", clock: Clock = SYSTEM
) -> Iterator[Exposure]:
    """Simulate and write movies one after the other; each is yielded when it is complete on disk."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    detector = Detector(plan.scope.shape, plan.seed)
    write_gain(plan, detector)
    for number in range(plan.first, plan.first + plan.movies):
        began = clock.monotonic()
        if stop():
            return
        view = _field(plan, number, device)
        shown = replace(plan, scope=view.scope)  # kinds of fields and motions change how a movie is taken
        counts = np.stack(list(view.frames(detector)))
        path = plan.directory / _name(plan, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if plan.truth:
            write_truth(path.with_name(f"{path.stem}_truth.npz"), view.truth())
        _write_sidecar(shown, number, path, view)
        write_movie(shown, path, counts, corrupt=number in plan.corrupt, clock=clock)
        yield Exposure(path=path, number=number, corrupt=number in plan.corrupt, seconds=clock.monotonic() - began)
        while clock.monotonic() - began < plan.interval_s and not stop():
            clock.sleep(min(0.1, plan.interval_s))


def _field(plan: Plan, number: int, device: str) -> Field | Scene:
    """What the microscope sees; scenes are drawn on the CPU."""
    seed = plan.seed * 100_003 + number
    if plan.scene is None and plan.motion is None:
        return Field(plan.scope, plan.specimen, seed=seed, device=device)
    kind = kind_of(plan.scene or CLEAN, number, plan.seed)
    return Scene(kind, plan.scope, specimen_for(kind, plan.specimen, plan.seed), seed, plan.motion)


# ----------------------------------------------------------------------------------------------------- files


def write_gain(plan: Plan, detector: Detector) -> Path:
    """Write the gain reference where the acquisition program puts it; for EER movies as a TIFF that multiplies them."""
    if plan.format == "eer":
        path = plan.directory / f"{_FIRST_DAY:%Y%m%d_%H%M%S}_EER_GainReference.gain"
        tifffile.imwrite(path, detector.gain_reference(), metadata=None)
        return path
    name = "gain_reference.mrc" if plan.layout == "epu" else "CountRef_session.mrc"
    path = plan.directory / name
    with mrcfile.new(str(path), overwrite=True) as file:
        file.set_data(detector.gain_reference())
        file.voxel_size = plan.scope.pixel_size
    return path


def write_movie(plan: Plan, path: Path, counts: Counts, *, corrupt: bool = False, clock: Clock = SYSTEM) -> None:
    """Write frames the way the plan's camera does."""
    if plan.mode == "page" and plan.format != "eer":
        _write_pages(plan, path, counts, clock)
        if corrupt:
            path.write_bytes(_damaged(path.read_bytes(), plan.format))
        return
    data = encode(counts, plan.format, plan.scope.pixel_size, plan.scope.dose_per_frame)
    if corrupt:
        data = _damaged(data, plan.format)
    if plan.mode == "rename":
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(data)
        temporary.rename(path)
        return
    pieces = 16
    with path.open("wb") as file:
        for start in range(0, len(data), -(-len(data) // pieces)):
            file.write(data[start : start + -(-len(data) // pieces)])
            file.flush()
            clock.sleep(plan.write_s / pieces)


def encode(counts: Counts, kind: str, pixel_size: float, dose_per_frame: float = 1.0) -> bytes:
    """Bytes of a movie file: MRC mode 0, LZW TIFF of 8 bit with its rows from the top, or EER."""
    if kind == "eer":
        return _eer(counts, pixel_size, dose_per_frame)
    if kind == "mrc":
        return _mrc_header(counts.shape, pixel_size) + counts.clip(max=127).tobytes()
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for frame in counts:
            _add_page(writer, frame)
    return buffer.getvalue()


def _eer(counts: Counts, pixel_size: float, dose_per_frame: float) -> bytes:
    """Each frame's electrons divided over hardware frames and quarters of pixels, indistinguishable from the truth."""
    n, height, width = counts.shape
    rng = np.random.default_rng(int(counts.sum()))
    bits = eer_encoder.BITS[_EER_COMPRESSION]
    raw = [events for frame in counts.clip(max=RAW_FRAMES) for events in eer_encoder.events_of(frame, RAW_FRAMES, rng)]
    metadata = {
        "numberOfFrames": ("", str(n * RAW_FRAMES)),
        "exposureTime": ("s", f"{n * RAW_FRAMES / 250:g}"),
        "totalDose": ("e/pixel", f"{dose_per_frame * pixel_size**2 * n:.6g}"),
        "sensorPixelSize.width": ("m", f"{pixel_size * 1e-10:.8g}"),
        "sensorPixelSize.height": ("m", f"{pixel_size * 1e-10:.8g}"),
    }
    streams = (eer_encoder.encode_frame(events, height * width, bits) for events in raw)
    return eer_encoder.encode_eer(streams, (height, width), compression=_EER_COMPRESSION, metadata=metadata)


def _add_page(writer: tifffile.TiffWriter, frame: Counts) -> None:
    # without tifffile's own description, as cameras write them
    writer.write(
        frame[::-1],
        compression="lzw",
        metadata=None,
        rowsperstrip=_STRIP_ROWS,
        photometric="minisblack",
        contiguous=False,
    )


def _write_pages(plan: Plan, path: Path, counts: Counts, clock: Clock) -> None:
    """Append frame by frame: at any moment a valid shorter movie (TIFF), or a header that promises more (MRC)."""
    pause = plan.write_s / len(counts)
    if plan.format == "mrc":
        with path.open("wb") as file:
            file.write(_mrc_header(counts.shape, plan.scope.pixel_size))
            for frame in counts:
                file.write(frame.clip(max=127).tobytes())
                file.flush()
                clock.sleep(pause)
        return
    for number, frame in enumerate(counts):
        with tifffile.TiffWriter(path, append=number > 0) as writer:
            _add_page(writer, frame)
        clock.sleep(pause)


def _mrc_header(shape: tuple[int, ...], pixel_size: float) -> bytes:
    """MRC2014 header of a stack of signed bytes."""
    n, height, width = shape
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, width, height, n, 0)
    struct.pack_into("<3i", header, 28, width, height, n)
    struct.pack_into("<3f", header, 40, width * pixel_size, height * pixel_size, n * pixel_size)
    struct.pack_into("<3f", header, 52, 90.0, 90.0, 90.0)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    struct.pack_into("<i", header, 108, 20140)
    header[208:216] = b"MAP \x44\x44\x00\x00"
    return bytes(header)


def _damaged(data: bytes, kind: str) -> bytes:
    """Overwrite a stretch in the middle (TIFF: a strip that cannot be decoded), or falsify the header (MRC)."""
    broken = bytearray(data)
    if kind == "mrc":
        struct.pack_into("<i", broken, 12, 77)
    else:
        middle = len(broken) // 2
        broken[middle : middle + 4096] = b"\xff" * 4096
    return bytes(broken)


# ---------------------------------------------------------------------------------------- names and sidecars


def _moment(number: int) -> datetime:
    return _FIRST_DAY + timedelta(seconds=41 * number)


def _name(plan: Plan, number: int) -> Path:
    """Path of a movie below the root."""
    moment = _moment(number)
    extension = {"mrc": "mrc", "tiff": "tiff" if plan.layout == "epu" else "tif", "eer": "eer"}[plan.format]
    if plan.layout == "serialem":
        return Path(f"session_{number:04d}_X+{number % 3}Y+0-1_{moment:%b%d_%H.%M.%S}.{extension}")
    square = 19_770_000 + 13 * (number // plan.per_square if plan.per_square else 0)
    hole = 19_780_000 + 7 * number
    stem = f"FoilHole_{hole}_Data_{19_771_000}_{19_771_002}_{moment:%Y%m%d_%H%M%S}"
    kind = "EER" if plan.format == "eer" else "fractions"
    return Path("Images-Disc1") / f"GridSquare_{square}" / "Data" / f"{stem}_{kind}.{extension}"


def _write_sidecar(plan: Plan, number: int, path: Path, view: Field | Scene) -> None:
    """Write what the acquisition program says about the exposure, completely or not at all."""
    if plan.layout == "epu":
        target, text = path.with_name(path.stem.rpartition("_")[0] + ".xml"), _epu_xml(plan, number, view)
    else:
        target, text = path.with_name(path.name + ".mdoc"), _mdoc(plan, number, path, view)
    temporary = target.with_name(f".{target.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(target)


def _epu_xml(plan: Plan, number: int, view: Field | Scene) -> str:
    """The fields of EPU's MicroscopeImage that are commonly read, in its namespaces."""
    scope = plan.scope
    height, width = scope.shape
    arrays = "http://schemas.microsoft.com/2003/10/Serialization/Arrays"
    schema = "http://www.w3.org/2001/XMLSchema"
    size = f"<numericValue>{scope.pixel_size * 1e-10:.16g}</numericValue>"
    dose = scope.dose_per_frame * scope.n_frames * 1e20
    plate = "true" if scope.phase_shift_deg else "false"
    defocus = -0.5e-6 * (view.optics.defocus_u_um + view.optics.defocus_v_um)

    def pair(key: str, kind: str, value: object) -> str:
        return (
            f'<a:KeyValueOfstringanyType><a:Key>{key}</a:Key><a:Value i:type="b:{kind}" xmlns:b="{schema}">'
            f"{value}</a:Value></a:KeyValueOfstringanyType>"
        )

    fractions = (
        "<a:KeyValueOfstringanyType><a:Key>FractionationSettings</a:Key>"
        '<a:Value i:type="b:EquidistantFractionation" '
        'xmlns:b="http://schemas.datacontract.org/2004/07/Fei.Applications.Common.Omp.Interface">'
        f"<b:NumberOffractions>{scope.n_frames}</b:NumberOffractions></a:Value></a:KeyValueOfstringanyType>"
    )
    return (
        '<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects" '
        'xmlns:i="http://www.w3.org/2001/XMLSchema-instance">'
        f'<CustomData xmlns:a="{arrays}">{pair("Dose", "double", f"{dose:.10g}")}'
        f"{pair('PhasePlateUsed', 'boolean', plate)}{pair('AppliedDefocus', 'double', f'{defocus:.6g}')}</CustomData>"
        f"<SpatialScale><pixelSize><x>{size}</x><y>{size}</y></pixelSize></SpatialScale>"
        f"<microscopeData><acquisition><acquisitionDateTime>{_moment(number).isoformat()}</acquisitionDateTime>"
        '<camera><Binning xmlns:a="http://schemas.datacontract.org/2004/07/System.Drawing">'
        f'<a:x>1</a:x><a:y>1</a:y></Binning><CameraSpecificInput xmlns:a="{arrays}">'
        f"{pair('ElectronCountingEnabled', 'boolean', 'true')}{pair('SuperResolutionFactor', 'int', 1)}{fractions}"
        f"</CameraSpecificInput><ExposureTime>{0.05 * scope.n_frames:g}</ExposureTime><Name>EF-Simulated</Name>"
        '<ReadoutArea xmlns:a="http://schemas.datacontract.org/2004/07/System.Drawing">'
        f"<a:height>{height}</a:height><a:width>{width}</a:width></ReadoutArea></camera></acquisition>"
        f"<gun><AccelerationVoltage>{scope.voltage_kv * 1000:g}</AccelerationVoltage></gun>"
        '<optics><BeamShift xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types">'
        f"<a:_x>{0.01 * (number % 3):g}</a:_x><a:_y>0</a:_y></BeamShift>"
        "<TemMagnification><NominalMagnification>64000</NominalMagnification></TemMagnification></optics>"
        f"<stage><Position><A>0</A><B>0</B><X>{1e-6 * number:g}</X><Y>0</Y><Z>0</Z></Position></stage>"
        "</microscopeData></MicroscopeImage>"
    )


def _mdoc(plan: Plan, number: int, path: Path, view: Field | Scene) -> str:
    """One frame set, as SerialEM writes it next to the frames."""
    scope = plan.scope
    total = scope.dose_per_frame * scope.n_frames
    defocus = -0.5 * (view.optics.defocus_u_um + view.optics.defocus_v_um)
    return (
        f"T = SerialEM: simulated camera          {_moment(number):%d-%b-%y  %H:%M:%S}\n"
        f"Voltage = {scope.voltage_kv:g}\n\n[FrameSet = 0]\nGainReference = CountRef_session.mrc\nTiltAngle = 0\n"
        f"StagePosition = {number} 0\nStageZ = 0\nMagnification = 64000\nExposureDose = {total:g}\n"
        f"PixelSpacing = {scope.pixel_size:g}\nTargetDefocus = {defocus:.3f}\nImageShift = 0 0\n"
        f"ExposureTime = {0.05 * scope.n_frames:g}\nBinning = 1\nSubFramePath = X:\\frames\\{path.name}\n"
        f"NumSubFrames = {scope.n_frames}\nFrameDosesAndNumber = {scope.dose_per_frame:g} {scope.n_frames}\n"
        f"DateTime = {_moment(number):%d-%b-%y  %H:%M:%S}\n"
    )
