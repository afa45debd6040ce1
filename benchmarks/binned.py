"""Movies of a detector with the fine pixel, and the same electrons binned 2×2, as the cryo-ZSSR paper bins its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import dose, fourier
from streamer.detector import correction
from streamer.motion import align
from streamer.records import Gain
from streamer.settings import MotionSettings
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import Specimen, apoferritin, random_protein
from streamer.sums import frame_sum
from streamer.super_resolution.accumulate import AliasSums, accumulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.motion.track import Motion

_SEED = 100


@dataclass(frozen=True)
class Case:
    """A specimen at the paper's pixel sizes."""

    name: str
    specimen: Callable[[], Specimen]
    fine_pixel: float
    frames: int
    dose_per_frame: float
    symmetry: str
    per_movie: int
    """Movies that a cryo-ZSSR of their own is trained on."""
    box: int
    """On the fine grid, px."""


CASES = (
    Case("apoferritin 1.5 → 3 Å", apoferritin, 1.5, 50, 1.2, "O", 20, 160),
    Case("asymmetric 1.32 → 2.64 Å", partial(random_protein, 12), 1.32, 38, 1.4, "C1", 6, 176),
)


def simulate(arguments: tuple[Case, int, int, Path]) -> Path:
    """One movie before binning, into a file."""
    case, number, side, directory = arguments
    torch.set_num_threads(1)
    path = directory / f"{case.symmetry}-{number}.npz"
    scope = Microscope(
        shape=(2 * side, 2 * side),
        pixel_size=case.fine_pixel,
        n_frames=case.frames,
        dose_per_frame=case.dose_per_frame,
        defocus_um=(0.6, 1.2),
    )
    camera = Detector(scope.shape, 0)
    field = Field(scope, case.specimen(), _SEED + number)
    counts = np.stack(list(field.frames(camera)))
    truth = field.truth()
    np.savez(path, counts=counts, gain=camera.gain_reference(), truth=np.array(truth, dtype=object))
    return path


class Movie:
    """A movie before and after binning, on the device."""

    def __init__(self, case: Case, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=True) as file:
            counts, gain, self.truth = file["counts"], file["gain"], file["truth"].item()
        self.case, self.device = case, device
        total = counts.sum(0, dtype=np.float32) * gain
        hot = correction.find_hot_pixels(total, 7.0)
        whole = Gain(path="simulated", sha256="", values=gain)
        corrected = correction.correction_for(gain.shape, whole, correction.defects_of(whole, hot), device)
        self._frames = [corrected.frame(counts, t).half() for t in range(len(counts))]
        self.exposures = dose.frame_exposures(len(counts), case.dose_per_frame)
        self.motion = align.estimate_motion(self.coarse, len(counts), 2 * case.fine_pixel, MotionSettings())

    def fine(self, t: int) -> torch.Tensor:
        """Frame of the detector with the fine pixel."""
        return self._frames[t].float()

    def coarse(self, t: int) -> torch.Tensor:
        """The same, binned: mean of 2×2."""
        frame = self._frames[t].float()
        return frame.reshape(frame.shape[0] // 2, 2, frame.shape[1] // 2, 2).mean((1, 3))

    def sums(self, motion: Motion, n_groups: int = 0) -> AliasSums:
        """Sums of the binned frames on the fine grid."""
        return accumulate(
            self.coarse,
            motion,
            self.exposures,
            pixel_size=2 * self.case.fine_pixel,
            voltage_kv=300.0,
            n_groups=n_groups,
        )

    @property
    def noise(self) -> float:
        """Variance of a binned frame per px, from neighbouring frames."""
        differences = [(self.coarse(t) - self.coarse(t + 1)).var() / 2.0 for t in range(0, len(self._frames) - 1, 8)]
        return float(sum(differences)) / len(differences)

    def plain(self, frame: Callable[[int], torch.Tensor], motion: Motion, pixel_size: float) -> torch.Tensor:
        """Dose-weighted sum, white noise."""
        fused = frame_sum.sum_frames(
            frame, motion.shifts, self.exposures, pixel_size=pixel_size, voltage_kv=300.0, local=motion.local
        )
        rate = dose.decay_rate(fourier.radius(fused.shape, self.device), pixel_size, 300.0)
        spectrum = (fused.even + fused.odd) * dose.sum_of_squares(self.exposures, rate).rsqrt()
        return fourier.to_image(spectrum, fused.shape)

    def full(self) -> torch.Tensor:
        """The movie before binning, moved as the binned one."""
        local = self.motion.local
        if local is not None:
            shape = (2 * local.shape[0], 2 * local.shape[1])
            local = replace(local, coefficients=2.0 * local.coefficients, shape=shape)
        motion = replace(self.motion, shifts=2.0 * self.motion.shifts, local=local)
        return self.plain(self.fine, motion, self.case.fine_pixel)
