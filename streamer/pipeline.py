"""A movie from start to finish, one call per line. Read this first.

``process_movie`` reads, computes and writes; the daemon's worker runs its three parts in three threads, so that
decoding, computing and writing of neighbouring movies overlap, and the command line runs them one after the other.
Both therefore write the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from streamer import dose, restore
from streamer.band import band_of
from streamer.ctf.of_sum import ctf_of_sum
from streamer.detector.correction import correction_for, defects_of, known_defects
from streamer.detector.defect_search import find_defects
from streamer.detector.fixed_pattern import what_is_left
from streamer.detector.gain_check import fit_gain
from streamer.detector.listed_defects import listed_defects
from streamer.errors import MovieNotReady
from streamer.metadata.source import describe_source
from streamer.micrograph import Micrograph
from streamer.motion import align
from streamer.motion.left_out import at_all_frames
from streamer.quality import estimators
from streamer.quality.emptiness import why_empty
from streamer.quality.judged_part import judged_part
from streamer.quality.movie_quality import movie_quality
from streamer.quality.not_specimen import find_not_specimen
from streamer.readers import movie as movie_reader
from streamer.readers.files import below, root_of
from streamer.records import Frames, Gain, Instructions, Movie, Propose
from streamer.settings import NO_GAIN
from streamer.sums import frame_sum, halves
from streamer.sums.group_files import encode_groups
from streamer.super_resolution.step import SuperResolutionRequest, super_resolve_movie
from streamer.super_resolution.training_data import encode_training_data
from streamer.writers.atomic import write_atomically
from streamer.writers.outputs import write_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from streamer.movie_record import MovieRecord, MovieSource
    from streamer.records import MovieHeader
    from streamer.runtime.stopwatch import Stopwatch
    from streamer.settings import DataPathSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do with a movie, and with what."""

    instructions: Instructions
    settings: DataPathSettings
    device: torch.device
    gain: Gain | None
    propose: Propose | None
    """Asks the session model for a correction; None: use the Wiener estimate."""
    super_resolution: SuperResolutionRequest
    uncorrected: Callable[[MovieHeader, NDArray[np.float32]], None] | None = None
    """Given the header and the sum of the frames as stored, where no recorded gain corrects them."""


def process_movie(movie: Movie, job: Job, stage: Stopwatch) -> MovieRecord:
    """Take one movie from its file to its outputs.

    Raises
    ------
    MovieError, MovieNotReady, StageError, OutputError
        See ``streamer.errors``; nothing is left under a final name then, unless it is complete.
    """
    frames, source = read_movie(movie, job, stage)
    micrograph = compute_micrograph(frames, source, job, stage)
    return write_micrograph(movie, micrograph, job, stage)


def read_movie(movie: Movie, job: Job, stage: Stopwatch) -> tuple[Frames, MovieSource]:
    """Decode, check and describe a movie."""
    limits = job.settings.compute
    with stage("read"):
        header, counts, content = movie_reader.read_whole(
            movie,
            in_memory_bytes=int(limits.frames_in_memory_gib * 2**30),
            threads=torch.get_num_threads(),
            limit_bytes=int(limits.read_limit_gib * 2**30),
            eer=job.settings.eer,
            places=job.instructions.follow_links_to,
            stood_still=job.instructions.stood_still,
        )
        total, kept = content.total, content.kept
        used = content.of(counts)
    with stage("gain"):
        fitted = fit_gain(job.gain, header, total, job.settings.gain, movie.path)
        with below(root_of(movie.path, movie.relative), job.instructions.follow_links_to):
            described, flags = describe_source(movie, header, job.settings, job.gain, is_refused=fitted.is_refused)
        source = replace(
            described,
            frames_left_out=tuple(sorted(content.faults)),
            frame_doses=dose.received(described.dose_per_frame, described.frame_doses, content.shares),
        )
        if job.uncorrected is not None and (job.gain is None or job.gain.is_made):
            job.uncorrected(header, total)
        said_corrected = job.settings.movie.gain == NO_GAIN or movie.acquisition.gain_corrected is True
        left = what_is_left(used, total, fitted, header.upsampling, said_corrected=said_corrected)
        corrected = total if fitted.gain is None else total * fitted.gain.values
        listed = listed_defects(movie, job.settings.gain.defects, corrected, job.instructions.follow_links_to)
        known = known_defects(total.shape, fitted.gain, listed.mask)
        found = find_defects(corrected, known, job.settings.gain.hot_pixel_sigma, header.upsampling)
        source = replace(source, defects=listed.sha256, defects_path=listed.path)
    frames = Frames(
        counts=used,
        kept=kept if content.faults else None,
        gain=fitted.gain,
        defects=defects_of(fitted.gain, found.places, listed.mask),
        hot_pixels=found.places,
        n_wide_defects=found.wide,
        n_listed_defects=listed.count,
        gain_fit=fitted.fit,
        fixed_pattern=left.seen,
        pattern_may_raise=left.may_raise,
        mean_counts=float(corrected.mean()) / len(kept),
        pixel_size=source.pixel_size,
        voltage_kv=source.voltage_kv or 300.0,
        dose_per_frame=source.dose_per_frame,
        frame_doses=source.frame_doses,
        flags=(*flags, *content.flags, *fitted.flags, *left.flags, *listed.flags, *found.flags(corrected.size)),
    )
    return frames, source


def compute_micrograph(frames: Frames, source: MovieSource, job: Job, stage: Stopwatch) -> Micrograph:
    """Everything between the counts and the files."""
    settings, instructions = job.settings, job.instructions
    pixel_size, voltage_kv = frames.pixel_size, frames.voltage_kv
    correction = correction_for(frames.shape, frames.gain, frames.defects, job.device)
    exposures = dose.frame_exposures(source.n_frames, source.dose_per_frame, source.frame_doses, source.frames_left_out)
    band = band_of(frames.shape, pixel_size, settings.denoise.resolution, settings.denoise.low)
    keeps_groups = instructions.groups is not None or settings.outputs.keep_groups
    frame = partial(correction.frame, frames.counts)
    with stage("align"):
        motion = align.estimate_motion(frame, len(frames), pixel_size, settings.motion, kept=frames.kept)
    with stage("fuse"):
        summed = frame_sum.sum_frames(
            frame,
            motion.shifts,
            exposures,
            pixel_size=pixel_size,
            voltage_kv=voltage_kv,
            local=motion.local,
            group_shape=band.small,
            n_groups=halves.group_count(len(frames)) if keeps_groups else 0,
        )
    with stage("split"):
        sums = halves.finite(halves.half_sums(summed, pixel_size, voltage_kv))
        groups = halves.group_sums(summed, band.small, pixel_size, voltage_kv)
    with stage("quality"):
        spectrum = estimators.measure(sums)
        field = find_not_specimen(sums, has_pattern=frames.pattern_may_raise or motion.fixed_pattern)
        judged = judged_part(sums, spectrum, field)
    with stage("ctf"):
        ctf = ctf_of_sum(sums, source, settings.ctf, judged.field)
    with stage("restore"):
        propose = None if "denoise" in instructions.shed else job.propose
        restored = restore.restored(propose, sums, spectrum, pattern_stays=frames.pattern_stays)
    with stage("super_resolve"):
        super_resolution = super_resolve_movie(
            frame,
            frames,
            source,
            motion=motion,
            exposures=exposures,
            spectrum=spectrum,
            settings=settings,
            request=job.super_resolution,
            instructions=instructions,
        )
    with stage("figures"):
        in_file = at_all_frames(motion, frames.kept, source.n_frames)  # what is published has a line for each frame
        metrics = movie_quality(
            sums, spectrum, restored.correction, in_file, frames, settings.quality, super_resolution.verdict, judged
        )
        empty = why_empty(metrics, len(frames), instructions.usual, agrees=judged.spectrum.significant)
        seen = (*judged.flags, *(() if empty is None else (f"specimen: nothing to see here: {empty}",)))
    return Micrograph(
        sums=sums,
        spectrum=spectrum,
        field=judged.field,
        restored=restored,
        super_resolution=super_resolution,
        groups=groups,
        motion=in_file,
        hot_pixels=frames.hot_pixels,
        metrics=replace(metrics, empty=empty),
        source=source,
        ctf=ctf,
        shed=instructions.shed,
        flags=(*frames.flags, *instructions.notes, *restored.flags, *super_resolution.flags, *motion.flags, *seen),
    )


def write_micrograph(movie: Movie, micrograph: Micrograph, job: Job, stage: Stopwatch) -> MovieRecord:
    """Write all outputs, each completely or not at all, the record last."""
    instructions, learned = job.instructions, micrograph.super_resolution.training_data
    with stage("write"):
        if not movie_reader.identity_of(Path(movie.path)).has_same_content(movie.identity):
            raise MovieNotReady(
                "the file changed while it was being processed",
                where=movie.path,
                hint="it is looked at again once it stands still",
            )
        if micrograph.groups is not None and instructions.groups is not None:
            write_atomically(Path(instructions.groups), encode_groups(movie.movie_id, micrograph.groups))
        if learned is not None and instructions.training_data is not None:
            encoded = encode_training_data(movie.movie_id, learned, micrograph.source.pixel_size)
            write_atomically(Path(instructions.training_data), encoded)
        return write_outputs(movie, micrograph, Path(instructions.session_directory), job.settings, job.device, stage)
