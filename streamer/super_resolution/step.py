"""Super-resolution as a step of the pipeline: whether it is tried, how, and what it leaves for training.

It takes a second pass over the frames, which is saved where it is known to be in vain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.detector.mtf import read_blur
from streamer.errors import ModelError, StageError
from streamer.movie_record import SuperResolutionVerdict
from streamer.sums.halves import group_count
from streamer.super_resolution.accumulate import accumulate
from streamer.super_resolution.averages import Averages, average
from streamer.super_resolution.fusion import Fusion, super_resolve
from streamer.super_resolution.training_data import TRAINING_GROUPS, FusionTrainingData, training_data_of
from streamer.super_resolution.verdict import cannot_help, nothing_near_nyquist
from streamer.super_resolution.zssr import LEAST_FRAMES, super_resolve_averages

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from streamer.motion.track import Motion
    from streamer.movie_record import MovieSource
    from streamer.records import Frames, Instructions, Spectrum, SuperResolution
    from streamer.settings import DataPathSettings
    from streamer.super_resolution.networks import FusionNetwork, ZssrNetwork

_SEEN = ("super-resolution: the network was trained on this movie; its figures are not independent",)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperResolutionRequest:
    """What a movie is super-resolved with."""

    movie_id: str
    network: FusionNetwork | None = None
    """Changes the fused image on the fine grid; None: the image is not changed."""
    zssr: ZssrNetwork | None = None
    """cryo-ZSSR, where ``super_resolution.method`` asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperResolvedMovie:
    """The image at half the pixel size with its verdict, and what a network can learn from the movie."""

    image: Tensor | None
    """(2h, 2w) float32; None when it was not made."""
    verdict: SuperResolutionVerdict
    training_data: FusionTrainingData | Averages | None = None
    """None where nothing was fused, or no network learns from it."""
    flags: tuple[str, ...] = ()
    """What a user should know about how it was made."""


def super_resolve_movie(
    frame: Callable[[int], Tensor],
    frames: Frames,
    source: MovieSource,
    *,
    motion: Motion,
    exposures: Tensor,
    spectrum: Spectrum,
    settings: DataPathSettings,
    request: SuperResolutionRequest,
    instructions: Instructions,
) -> SuperResolvedMovie:
    """Make the image at half the pixel size, unless that is known to be in vain.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    exposures : (t,) e⁻/Å² at the end of each frame, zeros for no weighting.
    spectrum : of the plain halves.

    Raises
    ------
    StageError : no frame contains anything.
    """
    chosen = settings.super_resolution
    if "super-resolution" in instructions.shed:
        return SuperResolvedMovie(image=None, verdict=SuperResolutionVerdict(verdict="not tried", reason="shed"))
    in_vain = _in_vain(frames, source, motion, exposures, spectrum, settings)
    if in_vain is not None:
        return SuperResolvedMovie(image=None, verdict=in_vain)
    for_training = instructions.training_data is not None and chosen.method == "fusion"
    sums = accumulate(
        frame,
        motion,
        exposures,
        pixel_size=frames.pixel_size,
        voltage_kv=frames.voltage_kv,
        blur=None if chosen.mtf is None else read_blur(Path(chosen.mtf)),
        n_groups=group_count(len(frames), TRAINING_GROUPS) if for_training else 0,
    )
    fusion = Fusion(sums, float(spectrum.noise[1:].mean()))
    fused = partial(
        super_resolve, fusion, shifts=motion.shifts, min_diversity=chosen.min_diversity, filtered=chosen.filtered
    )
    if chosen.method == "fusion":
        training_data = training_data_of(fusion, frames.pixel_size) if len(sums.groups) else None
        return _with_network(fused, training_data, request)
    averages = None
    try:
        averages = average(frame, motion)
        if request.zssr is None:
            return _result(fused(), averages, "no cryo-ZSSR of this session serves yet; fused instead")
        made = super_resolve_averages(request.zssr, averages, frame, motion, fusion, min_diversity=chosen.min_diversity)
    except (ModelError, StageError) as error:
        return _result(fused(), averages, f"{error.what}; fused instead of cryo-ZSSR")
    return _result(made, averages, was_seen=request.movie_id in request.zssr.trained_on)


def _with_network(
    fused: Callable[..., SuperResolution], training_data: FusionTrainingData | None, request: SuperResolutionRequest
) -> SuperResolvedMovie:
    """The fused image, changed by the network where there is one that can be used."""
    was_seen = request.network is not None and request.movie_id in request.network.trained_on
    try:
        made = fused(network=request.network, learned_from=was_seen)
    except ModelError as error:
        return _result(fused(), training_data, f"{error.what}; fused without a network")
    return _result(made, training_data, was_seen=was_seen)


def _result(
    made: SuperResolution,
    training_data: FusionTrainingData | Averages | None,
    flag: str = "",
    *,
    was_seen: bool = False,
) -> SuperResolvedMovie:
    flags = _SEEN if was_seen else (f"super-resolution: {flag}",) if flag else ()
    return SuperResolvedMovie(image=made.image, verdict=made.verdict, training_data=training_data, flags=flags)


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
