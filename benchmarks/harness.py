"""What all benchmarks share: simulated movies, CPU-seconds, a table, and a JSON file beside it."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import dose, fourier
from streamer.detector.correction import correction_for
from streamer.motion import align
from streamer.quality import estimators
from streamer.settings import MotionSettings
from streamer.simulation.movie import Detector, Field, Microscope, Truth
from streamer.simulation.true_sums import recorded
from streamer.sums import frame_sum
from streamer.sums.halves import half_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.motion.track import Motion
    from streamer.records import Frames, HalfSums
    from streamer.simulation.specimen import Specimen

RESULTS = Path(__file__).parent / "results"


@dataclass
class Cost:
    """CPU and wall seconds of a block."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """Time a block; CPU-seconds of all threads, because the cores are shared."""
    cost, cpu, wall = Cost(), time.process_time(), time.perf_counter()
    yield cost
    cost.cpu_s, cost.wall_s = time.process_time() - cpu, time.perf_counter() - wall


@dataclass
class Simulated:
    """A movie, its truth, and its frames ready to be corrected."""

    scope: Microscope
    camera: Detector
    counts: np.ndarray
    truth: Truth
    frames: Frames

    def frame(self) -> Callable[[int], torch.Tensor]:
        """Corrected frames on the CPU."""
        correction = correction_for(self.scope.shape, self.frames.gain, self.frames.defects)
        return lambda index: correction.frame(self.counts, index)

    def motion(self) -> Motion:
        """Our own shifts."""
        return align.estimate_motion(self.frame(), len(self.counts), self.scope.pixel_size, MotionSettings())

    def fused(self, shifts: torch.Tensor) -> frame_sum.FrameSums:
        """Sums for given shifts."""
        return frame_sum.sum_frames(
            self.frame(),
            shifts,
            self.exposures,
            pixel_size=self.scope.pixel_size,
            voltage_kv=self.scope.voltage_kv,
        )

    def halves(self, shifts: torch.Tensor) -> HalfSums:
        """Normalised halves for given shifts."""
        return half_sums(self.fused(shifts), self.scope.pixel_size, self.scope.voltage_kv)

    @property
    def exposures(self) -> torch.Tensor:
        """(t,) e⁻/Å² at the end of each frame."""
        """(t,) e⁻/Å² at the end of each frame."""
        return dose.frame_exposures(len(self.counts), self.scope.dose_per_frame)

    def expected(self) -> torch.Tensor:
        """Spectrum of the noise-free micrograph as it comes out: truth through damage, weights and detector."""
        shape = self.scope.shape
        radius = fourier.radius(shape)
        rate = dose.decay_rate(radius, self.scope.pixel_size, self.scope.voltage_kv).double()
        half = self.scope.dose_per_frame / 2.0
        signal = sum(torch.exp(-rate * (2.0 * float(n) - half)) for n in self.exposures)
        weight = sum(torch.exp(-2.0 * rate * float(n)) for n in self.exposures).sqrt()
        image = self.truth.image.reshape(shape[0], 2, shape[1], 2).mean((1, 3))
        transfer = (signal / weight).float() * self.camera.transfer(radius)
        return torch.fft.rfft2(torch.from_numpy(image)) * transfer


def simulated(scope: Microscope, specimen: Specimen | None, seed: int, camera_seed: int = 0) -> Simulated:
    """Simulate one movie in memory."""
    camera = Detector(scope.shape, camera_seed)
    field = Field(scope, specimen, seed)
    frames = recorded(field, camera)
    return Simulated(scope=scope, camera=camera, counts=frames.counts, truth=field.truth(), frames=frames)


def band_frc(
    image: torch.Tensor, truth: torch.Tensor, shape: fourier.Shape, bands: list[tuple[float, float]]
) -> list[float]:
    """FRC pooled over bands in cycles per px."""
    image, truth = estimators.tapered(image, shape), estimators.tapered(truth, shape)
    frequency = fourier.ring_frequencies(shape)
    cross, own, true = (estimators.covariance(a, b, shape) for a, b in ((image, truth), (image, image), (truth, truth)))
    masks = [(frequency >= low) & (frequency < high) for low, high in bands]
    return [float(cross[m].sum() / (own[m].sum() * true[m].sum()).sqrt()) for m in masks]


def shift_error(shifts: np.ndarray, displacement: np.ndarray) -> float:
    """2-D RMS of shifts against the true drift, px, time mean removed."""
    error = shifts + displacement
    error = error - error.mean(0)
    return float(np.sqrt((error**2).sum(1).mean()))


def table(title: str, header: list[str], rows: list[list[object]], note: str = "") -> None:
    """Print a table and keep it as JSON with what it was measured on."""
    width = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        print("  " + "  ".join(str(value).rjust(w) for value, w in zip(row, width, strict=True)))
    if note:
        print(f"  {note}")
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    RESULTS.mkdir(exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")
    content = {
        "title": title,
        "header": header,
        "rows": [[str(value) for value in row] for row in rows],
        "note": note,
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
