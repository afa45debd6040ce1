"""One stage alone, on files: what the commands motion, super-resolve and denoise do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from models.serving.apply import denoise_halves
from models.serving.session_model import SessionModel
from service.offline.process import describe, job_for, prepare
from streamer import fourier, jsontext, pipeline
from streamer.ctf.table import optics_of, read_optics
from streamer.detector.correction import correction_for
from streamer.errors import UsageError
from streamer.motion import align, field
from streamer.motion.left_out import at_all_frames
from streamer.movie_record import MovieRecord, SuperResolutionVerdict
from streamer.quality.images import same_size
from streamer.runtime.stopwatch import Stopwatch
from streamer.writers.atomic import write_atomically
from streamer.writers.mrc import encode_image, fitting
from streamer.writers.outputs import corrected_band, super_resolution_labels
from streamer.writers.thumbnail import encode_png

if TYPE_CHECKING:
    from service.config import Config

_OURS = "NOT FOR RECONSTRUCTION"


class MotionResult(Struct, frozen=True, kw_only=True):
    """What ``motion --json`` prints."""

    shifts_yx_px: list[list[float]]
    """Moves each frame onto the first, px as stored, in the micrograph's orientation."""
    shifts_yx_angstrom: list[list[float]]
    frames: int
    pixel_size: float
    total_motion_angstrom: float | None
    """None where the motion is not trusted: nothing is known of it, and all shifts are 0."""
    information: float
    """Per frame, 1/px²."""
    trusted: bool
    model: str
    """What would be applied: ``none``, ``global`` or ``local`` shifts."""
    converged: bool
    local_motion_angstrom: float | None
    """Root mean square over the field of what local shifts add to the global ones, at its largest; None likewise."""
    flags: list[str] = []
    """What the user should know, as in the record of ``process``: no gain, a pattern that rules the fit."""
    error_px: float | None = None
    """Expected distance of the shifts from the truth, root mean square over frames and field; None where the motion is
    not trusted."""
    errors_px: list[float] = []
    """The same of each frame; empty likewise."""
    frames_left_out: list[int] = []
    """Places of frames that carry no information, from 0; their shifts lie between their neighbours'."""


class SuperResolutionResult(Struct, frozen=True, kw_only=True):
    """What ``super-resolve --json`` prints."""

    image: str
    pixel_size: float
    sr: SuperResolutionVerdict
    flags: list[str] = []


class DenoiseResult(Struct, frozen=True, kw_only=True):
    """What ``denoise --json`` prints."""

    files: list[str]
    restoration: str
    model: str
    snbr_half_wiener: float | None
    snbr_half_denoised: float | None
    refused: str | None = None
    """Why the network was not used for this movie."""
    pattern_may_raise: bool | None = None
    """As in the movie's record: whether the detector's pattern may have raised the figures."""


def motion_of(path: Path, config: Config) -> MotionResult:
    """Shifts of a movie."""
    prepared = prepare(config)
    movie = describe(path, config)
    frames, source = pipeline.read_movie(movie, job_for(movie, prepared, Path()), Stopwatch())
    correction = correction_for(frames.shape, frames.gain, frames.defects, prepared.device)
    found = align.estimate_motion(
        lambda index: correction.frame(frames.counts, index),
        len(frames),
        frames.pixel_size,
        config.motion,
        kept=frames.kept,
    )
    found = at_all_frames(found, frames.kept, source.n_frames)
    total, _, _ = align.motion_lengths(found.shifts, frames.pixel_size, None)
    return MotionResult(
        shifts_yx_px=[[round(float(v), 5) + 0.0 for v in row] for row in found.shifts],
        shifts_yx_angstrom=[[round(float(v) * frames.pixel_size, 5) + 0.0 for v in row] for row in found.shifts],
        frames=source.n_frames,
        frames_left_out=list(source.frames_left_out),
        pixel_size=frames.pixel_size,
        total_motion_angstrom=round(total, 5) if found.trusted else None,
        information=round(found.information, 3),
        trusted=found.trusted,
        model=found.model,
        converged=found.converged,
        local_motion_angstrom=round(field.largest_bending(found) * frames.pixel_size, 5) if found.trusted else None,
        flags=[*frames.flags, *found.flags],
        error_px=None if found.error is None else round(found.error, 4),
        errors_px=[] if found.errors is None else [round(float(v), 4) for v in found.errors],
    )


def super_resolve_to(path: Path, config: Config, output: Path) -> SuperResolutionResult:
    """Fuse a movie on the grid of half the pixel size and write the image, whatever the verdict."""
    replaced = msgspec.structs.replace
    config = replaced(config, outputs=replaced(config.outputs, super_resolution="always"))
    movie = describe(path, config)
    job = job_for(movie, prepare(config), output)
    frames, source = pipeline.read_movie(movie, job, Stopwatch())
    micrograph = pipeline.compute_micrograph(frames, source, job, Stopwatch())
    result = micrograph.super_resolution
    if result.image is None:
        raise UsageError(
            "nothing was fused",
            where=path,
            found=result.verdict.reason,
            hint="super-resolution needs counts of physical pixels, and frames that have moved",
        )
    image, stem, pixel = result.image.cpu().numpy(), Path(movie.relative).stem, source.pixel_size / 2.0
    labels = super_resolution_labels(result.verdict, filtered=config.super_resolution.filtered)
    target = output / f"{stem}_SR.mrc"
    write_atomically(target, encode_image(fitting(image, config.outputs.dtype), pixel_size=pixel, labels=labels))
    picture = encode_png(image, longer_side_px=config.outputs.thumbnail_px, label="; ".join(labels))
    write_atomically(output / f"{stem}_SR_thumbnail.png", picture)
    flags = list(micrograph.flags)
    return SuperResolutionResult(image=str(target), pixel_size=pixel, sr=result.verdict, flags=flags)


def denoise_to(directory: Path, model_directory: Path, output: Path, ctf: Path | None = None) -> DenoiseResult:
    """Apply a model to the sum and to both halves of a finished movie.

    ``ctf`` is a STAR file with the micrograph's defocus; models that learned from flipped phases need it.
    """
    record, files = _finished(directory)
    source = record.source
    if source is None:
        raise UsageError("the record does not describe the movie", where=directory, hint="process the movie again")
    (even, odd), _ = same_size([files["even"], files["odd"]])
    model = SessionModel(model_directory)
    optics = None if ctf is None else optics_of(read_optics(ctf), files["micrograph"].name, ctf)
    denoised = denoise_halves(even, odd, source, model, record.movie_id, optics)
    stem, written = files["micrograph"].stem, []
    labels = [
        f"cryoem-streamer: model {model.manifest.version}, {denoised.restoration}",
        f"sha256 {model.manifest.sha256}",
        *([corrected_band(model.reference)] if denoised.restoration == "network" else []),
        _OURS,
    ]
    shape = (int(even.shape[0]), int(even.shape[1]))
    for suffix, image in (
        ("_denoised", denoised.total),
        ("_EVN_denoised", fourier.to_image(denoised.even, shape)),
        ("_ODD_denoised", fourier.to_image(denoised.odd, shape)),
    ):
        target = output / f"{stem}{suffix}.mrc"
        data = image.numpy().astype(np.float32)
        write_atomically(target, encode_image(data, pixel_size=source.pixel_size, labels=labels))
        written.append(str(target))
    return DenoiseResult(
        files=written,
        restoration=denoised.restoration,
        model=model.manifest.version,
        snbr_half_wiener=denoised.snbr_half.get("wiener"),
        snbr_half_denoised=denoised.snbr_half.get("denoised"),
        refused=denoised.refused,
        pattern_may_raise=None if record.metrics is None else record.metrics.pattern_may_raise,
    )


def _finished(directory: Path) -> tuple[MovieRecord, dict[str, Path]]:
    """Record of a movie's output directory, and its files by role."""
    sidecars = sorted(directory.glob("*.json"))
    if len(sidecars) != 1:
        raise UsageError(
            "not the output directory of one movie",
            where=directory,
            expected="one .json record",
            found=str(len(sidecars)),
            hint="give the directory that was written for one movie, such as …/name.tiff/r1",
        )
    try:
        record = jsontext.decode(sidecars[0].read_bytes(), MovieRecord)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the record cannot be read: {error}", where=sidecars[0], hint="process the movie again"
        ) from error
    files = {output.role: directory / Path(output.path).name for output in record.outputs}
    missing = [role for role in ("micrograph", "even", "odd") if not files.get(role, Path()).is_file()]
    if missing:
        raise UsageError(
            "outputs are missing", where=directory, found=", ".join(missing), hint="process the movie again"
        )
    return record, files
