"""A simulated movie, read and summed with its true shifts: for training that is about denoising, not alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import dose
from streamer.detector.correction import correction_for, defects_of, find_hot_pixels
from streamer.records import Frames, Gain
from streamer.sums.frame_sum import sum_frames
from streamer.sums.halves import group_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.band import Band
    from streamer.simulation.movie import Detector, Field
    from streamer.sums.frame_sum import FrameSums

_HOT_PIXEL_SIGMA = 7.0


def recorded(field: Field, camera: Detector) -> Frames:
    """Expose a field on a camera; returns the movie as it is read, with the camera's own gain reference."""
    scope = field.scope
    counts = np.stack(list(field.frames(camera)))
    gain = Gain(path="simulated", sha256="", values=camera.gain_reference())
    total = counts.sum(0, dtype=np.float32) * gain.values
    hot = find_hot_pixels(total, _HOT_PIXEL_SIGMA)
    return Frames(
        counts=counts,
        gain=gain,
        defects=defects_of(gain, hot),
        hot_pixels=hot,
        mean_counts=float(total.mean()) / len(counts),
        pixel_size=scope.pixel_size,
        voltage_kv=scope.voltage_kv,
        dose_per_frame=scope.dose_per_frame,
    )


def true_sums(frames: Frames, displacement: NDArray[np.floating], band: Band) -> FrameSums:
    """Sum a movie, and its frame groups in a network's band.

    Parameters
    ----------
    displacement : (t, 2) px (y, x) by which the specimen was displaced in each frame; its negative moves it back.
    """
    correction = correction_for(frames.shape, frames.gain, frames.defects)
    return sum_frames(
        lambda index: correction.frame(frames.counts, index),
        torch.from_numpy(-displacement).double(),
        dose.frame_exposures(len(frames), frames.dose_per_frame),
        pixel_size=frames.pixel_size,
        voltage_kv=frames.voltage_kv,
        group_shape=band.small,
        n_groups=group_count(len(frames)),
    )
