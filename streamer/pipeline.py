"""The whole way of a movie, one call per line. Read this first.

``process_movie`` reads, computes and writes; the daemon's worker runs its three parts in three threads, so that
decoding, computing and writing of neighbouring movies overlap, and the command line runs them one after the other.
Both therefore write the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import dose, restore
from streamer.band import band_of
from streamer.detector import orientation
from streamer.detector.correction import correction_for, defects_of, find_hot_pixels
from streamer.detector.gain_check import check_fit
from streamer.detector.mtf import read_blur
from streamer.errors import ModelError, MovieNotReady, StageError
from streamer.metadata.source import describe_source
from streamer.micrograph import Micrograph
from streamer.motion import align
from streamer.movie_record import MovieRecord, MovieSource, SuperResolutionVerdict
from streamer.quality import estimators
from streamer.quality.movie_quality import movie_quality
from streamer.readers import movie as movie_reader
from streamer.readers.defects import read_defects
from streamer.readers.files import below, root_of
from streamer.records import Correction, Frames, Gain, HalfSums, Motion, Movie, Propose, Spectrum, SuperResolution
from streamer.sums import frame_sum, halves
from streamer.sums.group_files import encode_groups
from streamer.super_resolution.accumulate import accumulate
from streamer.super_resolution.averages import Averages, average
from streamer.super_resolution.fusion import Fusion, super_resolve
from streamer.super_resolution.training_data import (
    TRAINING_GROUPS,
    FusionTrainingData,
    encode_training_data,
    training_data_of,
)
from streamer.super_resolution.verdict import cannot_help, nothing_near_nyquist
from streamer.super_resolution.zssr import LEAST_FRAMES, super_resolve_averages
from streamer.writers.atomic import write_atomically
from streamer.writers.outputs import write_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from streamer.records import GainFit, MovieHeader
    from streamer.runtime.stopwatch import Stopwatch
    from streamer.settings import DataPathSettings, GainSettings
    from streamer.super_resolution.networks import FusionNetwork, ZssrNetwork


_SEEN = ("super-resolution: the network learned from this movie, no figure of it is unseen",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do with a movie, and with what."""

    movie_id: str
    settings: DataPathSettings
    device: torch.device
    gain: Gain | None
    propose: Propose | None
    """The session model's voice; None: the Wiener estimate serves."""
    network: FusionNetwork | None
    """What changes the fused image on the fine grid; None: it stays as it is."""
    zssr: ZssrNetwork | None
    """cryo-ZSSR, where ``super_resolution.method`` asks for it."""
    session_directory: Path
    """Where ``movies/…`` is made."""
    groups: Path | None
    """Where the frame-group sums go that a session model learns from; None: they are not made for one."""
    training_data: Path | None
    """Where the fine grid's sums go that a network on top of fusion learns from; None: not made for one."""
    notes: tuple[str, ...] = ()
    """Flags that are known before the movie is read."""
    shed: tuple[str, ...] = ()
    """Left out so that the others get their turn: preview (the pictures), denoise, super-resolution."""


def process_movie(movie: Movie, job: Job, stage: Stopwatch) -> MovieRecord:
    """Take one movie from its file to its outputs.

    Raises
    ------
    MovieError, MovieNotReady, StageError, OutputError
        See ``streamer.errors``; nothing is left under a final name then, unless it is whole.
    """
    frames, source = read_movie(movie, job, stage)
    micrograph = compute_micrograph(frames, source, job, stage)
    return write_micrograph(movie, micrograph, job, stage)


def read_movie(movie: Movie, job: Job, stage: Stopwatch) -> tuple[Frames, MovieSource]:
    """Decode, check and describe a movie."""
    limits = job.settings.compute
    with stage("read"):
        header, counts, total = movie_reader.read_whole(
            movie,
            in_memory_bytes=int(limits.frames_in_memory_gib * 2**30),
            threads=torch.get_num_threads(),
            limit_bytes=int(limits.read_limit_gib * 2**30),
            eer=job.settings.eer,
        )
    with stage("gain"):
        with below(root_of(movie.path, movie.relative)):
            source, flags = describe_source(movie, header, job.settings, job.gain)
        gain, fit = _fitted_gain(job.gain, header, total, job.settings.gain, movie.path)
        corrected = total if gain is None else total * gain.values
        hot = find_hot_pixels(corrected, job.settings.gain.hot_pixel_sigma)
        listed = read_defects(Path(named), total.shape) if (named := job.settings.gain.defects) else None
    frames = Frames(
        counts=counts,
        gain=gain,
        defects=defects_of(gain, hot, listed),
        hot_pixels=hot,
        gain_fit=fit,
        mean_counts=float(corrected.mean()) / len(counts),
        pixel_size=source.pixel_size,
        voltage_kv=source.voltage_kv or 300.0,
        dose_per_frame=source.dose_per_frame,
        frame_doses=source.frame_doses,
        flags=flags if fit is None or fit.advice is None else (*flags, f"gain: {fit.advice}"),
    )
    return frames, source


def _fitted_gain(
    gain: Gain | None, header: MovieHeader, total: NDArray[np.float32], settings: GainSettings, movie: str
) -> tuple[Gain | None, GainFit | None]:
    """The gain as it multiplies this movie's frames, and whether their own pattern agrees."""
    if gain is None:
        return None, None
    fitted = orientation.fitted(gain, header, settings, movie)
    sense = "divide" if orientation.divides(gain, header, settings) else "multiply"
    return fitted, check_fit(total, fitted.values, settings, sense)


def compute_micrograph(frames: Frames, source: MovieSource, job: Job, stage: Stopwatch) -> Micrograph:
    """Everything between the counts and the files."""
    settings, pixel_size, voltage_kv = job.settings, frames.pixel_size, frames.voltage_kv
    correction = correction_for(frames.shape, frames.gain, frames.defects, job.device)
    exposures = dose.frame_exposures(len(frames), frames.dose_per_frame, frames.frame_doses)
    band = band_of(frames.shape, pixel_size, settings.denoise.resolution, settings.denoise.low)

    def frame(index: int) -> Tensor:
        return correction.frame(frames.counts, index)

    with stage("align"):
        motion = align.estimate_motion(frame, len(frames), pixel_size, settings.motion)
    with stage("fuse"):
        fused = frame_sum.sum_frames(
            frame,
            motion.shifts,
            exposures,
            pixel_size=pixel_size,
            voltage_kv=voltage_kv,
            local=motion.local,
            group_shape=band.small,
            n_groups=halves.group_count(len(frames)) if job.groups or settings.outputs.keep_groups else 0,
        )
    with stage("split"):
        sums = _finite(halves.half_sums(fused, pixel_size, voltage_kv))
        groups = halves.group_sums(fused, band.small, pixel_size, voltage_kv)
    with stage("quality"):
        spectrum = estimators.measure(sums)
    with stage("restore"):
        proposal, model_flags = _propose(
            None if "denoise" in job.shed else job.propose, sums, spectrum, frames.gain_fit
        )
        restored, restoration = restore.restore(sums, spectrum, proposal)
    with stage("super_resolve"):
        super_resolution, training_data, super_resolution_flags = _super_resolve(
            frame, frames, source, motion, exposures, spectrum, job
        )
    with stage("figures"):
        metrics = movie_quality(sums, spectrum, proposal, motion, frames, settings.quality, super_resolution.verdict)
    return Micrograph(
        sums=sums,
        spectrum=spectrum,
        restored=restored,
        super_resolution=super_resolution,
        groups=groups,
        training_data=training_data,
        motion=motion,
        hot_pixels=frames.hot_pixels,
        metrics=metrics,
        restoration=restoration,
        model=proposal.model if proposal is not None and restoration == "network" else None,
        source=source,
        shed=job.shed,
        flags=(*frames.flags, *job.notes, *model_flags, *super_resolution_flags, *_motion_flags(motion)),
    )


def write_micrograph(movie: Movie, micrograph: Micrograph, job: Job, stage: Stopwatch) -> MovieRecord:
    """Write all outputs, each whole or not at all, the record last."""
    with stage("write"):
        if not movie_reader.identity_of(Path(movie.path)).has_same_content(movie.identity):
            raise MovieNotReady("the file changed while it was processed", where=movie.path)
        if micrograph.groups is not None and job.groups is not None:
            write_atomically(job.groups, encode_groups(movie.movie_id, micrograph.groups))
        if micrograph.training_data is not None and job.training_data is not None:
            pixel_size = micrograph.source.pixel_size
            write_atomically(
                job.training_data, encode_training_data(movie.movie_id, micrograph.training_data, pixel_size)
            )
        return write_outputs(movie, micrograph, job.session_directory, job.settings, job.device, stage)


def _super_resolve(
    frame: Callable[[int], Tensor],
    frames: Frames,
    source: MovieSource,
    motion: Motion,
    exposures: Tensor,
    spectrum: Spectrum,
    job: Job,
) -> tuple[SuperResolution, FusionTrainingData | Averages | None, tuple[str, ...]]:
    """Make the image of half the pixel size, a second pass over the frames, unless it is known to be in vain."""
    chosen = job.settings.super_resolution
    if "super-resolution" in job.shed:
        return SuperResolution(image=None, verdict=SuperResolutionVerdict(verdict="not tried", reason="shed")), None, ()
    in_vain = _in_vain(frames, source, motion, exposures, spectrum, job.settings)
    if in_vain is not None:
        return SuperResolution(image=None, verdict=in_vain), None, ()
    sums = accumulate(
        frame,
        motion,
        exposures,
        pixel_size=frames.pixel_size,
        voltage_kv=frames.voltage_kv,
        blur=None if chosen.mtf is None else read_blur(Path(chosen.mtf)),
        n_groups=halves.group_count(len(frames), TRAINING_GROUPS)
        if job.training_data and chosen.method == "fusion"
        else 0,
    )
    resolver = Fusion(sums, float(spectrum.noise[1:].mean()))
    fused = partial(
        super_resolve,
        resolver,
        shifts=motion.shifts,
        min_diversity=chosen.min_diversity,
        filtered=chosen.filtered,
    )
    if chosen.method == "fusion":
        training_data = training_data_of(resolver, frames.pixel_size) if len(sums.groups) else None
        seen = job.network is not None and job.movie_id in job.network.trained_on
        try:
            return fused(network=job.network, learned_from=seen), training_data, _SEEN if seen else ()
        except ModelError as error:
            return fused(), training_data, (f"super-resolution: {error.what}; fused without a network",)
    averages = None
    try:
        averages = average(frame, motion)
        if job.zssr is None:
            return fused(), averages, ("super-resolution: no cryo-ZSSR of this session serves yet; fused instead",)
        made = super_resolve_averages(job.zssr, averages, frame, motion, resolver, min_diversity=chosen.min_diversity)
        return made, averages, _SEEN if job.movie_id in job.zssr.trained_on else ()
    except (ModelError, StageError) as error:
        return fused(), averages, (f"super-resolution: {error.what}; fused instead of cryo-ZSSR",)


def _in_vain(
    frames: Frames,
    source: MovieSource,
    motion: Motion,
    exposures: Tensor,
    spectrum: Spectrum,
    settings: DataPathSettings,
) -> SuperResolutionVerdict | None:
    """The verdict where it is known before anything is fused; else None."""
    chosen = settings.super_resolution
    if settings.outputs.super_resolution == "never":
        return SuperResolutionVerdict(verdict="not tried", reason="switched off")
    if (source.acquisition.super_res_factor or 1) > 1:
        return SuperResolutionVerdict(verdict="cannot help", reason="the movie is super-resolution already")
    if source.upsampling > 1:
        return SuperResolutionVerdict(verdict="cannot help", reason="events were put on a finer grid already")
    if source.format == "eer":
        reason = "EER events hold finer positions than the pixels they were put on: eer.upsampling = 2 reads them"
        return SuperResolutionVerdict(verdict="cannot help", reason=reason)
    if chosen.method == "zssr" and len(frames) < LEAST_FRAMES:
        reason = f"cryo-ZSSR needs {LEAST_FRAMES} frames, early and late ones in each half"
        return SuperResolutionVerdict(verdict="cannot help", reason=reason)
    if settings.outputs.super_resolution == "when-it-helps":
        return cannot_help(motion.shifts, exposures, chosen.min_diversity) or nothing_near_nyquist(spectrum)
    return None


def _propose(
    propose: Propose | None, sums: HalfSums, spectrum: Spectrum, gain_fit: GainFit | None
) -> tuple[Correction | None, tuple[str, ...]]:
    """Ask the session model; what it cannot do or may not do is flagged and the Wiener estimate serves."""
    if propose is None or not spectrum.significant:
        return None, ()
    if gain_fit is not None and gain_fit.advice is not None:
        return None, ("model: not applied, the detector's pattern is left in the movie: its halves agree on it",)
    try:
        proposal = propose(sums, spectrum)
    except ModelError as error:
        return None, (f"model: {error.what}",)
    if proposal.refused is not None:
        return proposal, (f"model: not applied, {proposal.refused}",)
    return proposal, ("model: it learned from this movie, no figure of it is unseen",) if proposal.learned_from else ()


def _motion_flags(motion: Motion) -> tuple[str, ...]:
    """What a user should know about the alignment."""
    if motion.trusted:
        return ()
    return ("motion: too little information" if motion.converged else "motion: the fit did not settle",)


def _finite(sums: HalfSums) -> HalfSums:
    """Raise StageError where the sums are not numbers."""
    for half in (sums.even, sums.odd):
        if not bool(torch.isfinite(half).all()):
            raise StageError("the aligned sum holds values that are not finite", where="fuse")
    return sums
