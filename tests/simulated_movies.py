"""What several test modules share: inputs that must stay as they are, simulated movies, halves and group sums."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from models.training.movie import TrainingMovie
from streamer import dose
from streamer.band import band_of
from streamer.ctf.transfer import Optics
from streamer.detector.correction import Correction, correction_for
from streamer.motion import align
from streamer.records import Gain, HalfSums
from streamer.settings import MotionSettings
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.true_sums import recorded
from streamer.sums import halves
from streamer.sums.frame_sum import sum_frames
from streamer.super_resolution import accumulate

OPTICS = Optics(
    defocus_u_um=1.4,
    defocus_v_um=1.0,
    astigmatism_angle_deg=30.0,
    voltage_kv=300.0,
    cs_mm=2.7,
    amplitude_contrast=0.1,
)


@contextmanager
def unchanged(*tensors):
    """Fail if a tensor was written to inside, even through a view, and even if the same values were written."""
    before = [(tensor._version, tensor.clone()) for tensor in tensors]
    yield
    for tensor, (version, copy) in zip(tensors, before, strict=True):
        assert tensor._version == version
        assert torch.equal(tensor, copy)


def images(*shape, seed=0):
    """Standard normal noise, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def full_rings(shape):
    """Ring of each coefficient of the full plane, (h, w) int64: the definition, in float64 and without half-planes."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
    return np.rint(np.hypot(rows, columns) * min(shape)).astype(int)


def full_ring_sums(values):
    """Sums of a real full plane (h, w) over rings up to Nyquist of the shorter axis, float64."""
    rings = full_rings(values.shape)
    return np.array([values[rings == ring].sum() for ring in range(min(values.shape) // 2 + 1)])


def half_sums(even, odd, pixel_size=1.0, share=0.5):
    """Halves of a micrograph from their (h, w) images."""
    shape = tuple(even.shape)
    shares = torch.full((min(shape) // 2 + 1,), share, dtype=torch.float64)
    return HalfSums(
        even=torch.fft.rfft2(even), odd=torch.fft.rfft2(odd), even_share=shares, shape=shape, pixel_size=pixel_size
    )


@dataclass(frozen=True)
class SimulatedMovie:
    """A movie and everything that is true of it."""

    scope: Microscope
    field: Field
    counts: np.ndarray
    gain: Gain
    correction: Correction

    def frame(self, index):
        return self.correction.frame(self.counts, index)

    @property
    def exposures(self):
        return dose.frame_exposures(len(self.counts), self.scope.dose_per_frame)

    def motion(self, settings=MotionSettings()):  # noqa: B008 - frozen
        return align.estimate_motion(self.frame, len(self.counts), self.scope.pixel_size, settings)

    def alignment_error(self, shifts):
        """Root mean square distance in px of shifts from the true ones, mean over time removed."""
        error = -shifts.numpy() - self.field.displacement
        return float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean()))

    def sum_frames(self, shifts, **options):
        return sum_frames(
            self.frame,
            shifts,
            self.exposures,
            pixel_size=self.scope.pixel_size,
            voltage_kv=self.scope.voltage_kv,
            **options,
        )

    def fine_sums(self, motion, **options):
        return accumulate.accumulate(
            self.frame,
            motion,
            self.exposures,
            pixel_size=self.scope.pixel_size,
            voltage_kv=self.scope.voltage_kv,
            **options,
        )

    def halves(self, fused):
        return halves.half_sums(fused, self.scope.pixel_size, self.scope.voltage_kv)

    def training_movie(self, movie_id, resolution=6.0, low=100.0, most=10):
        """Group sums as the pipeline keeps them, ready to be learned from."""
        band = band_of(self.scope.shape, self.scope.pixel_size, resolution, low)
        groups = halves.group_count(len(self.counts), most)
        fused = self.sum_frames(self.motion().shifts, group_shape=band.small, n_groups=groups)
        sums = halves.group_sums(fused, band.small, self.scope.pixel_size, self.scope.voltage_kv)
        return TrainingMovie(movie_id, sums, low)


def simulated(scope, specimen, seed):
    """Simulate a movie on the camera of seed 0 and correct its defects."""
    field = Field(scope, specimen, seed=seed)
    frames = recorded(field, Detector(scope.shape, 0))
    correction = correction_for(scope.shape, frames.gain, frames.defects)
    return SimulatedMovie(scope, field, frames.counts, frames.gain, correction)
