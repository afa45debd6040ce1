"""Shifts over the field against the truth, beside RELION 3.1's own motion correction, in one run.

    python benchmarks/local_motion.py [directory for the simulated movies, kept] [cases…]

Error: 2-D root mean square over 24 frames and 9 × 9 places, each place's mean over time removed. FRC: of the
unweighted sum with the noise-free image. CPU-seconds: of everything between the counts in memory and the dose-weighted
sum, without imports and files; of RELION the whole process, whose reading is a small part. Controls: the true shifts,
the global ones alone, none, those of another movie; movies that do not bend, stand still, or hold noise only.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import gemmi
import mrcfile
import numpy as np
import torch

from benchmarks.bent import CASES, DOSE, N_FRAMES, Bent, simulate
from benchmarks.harness import band_frc, measured, table
from streamer import dose
from streamer.detector import correction
from streamer.motion import align
from streamer.motion.field import legendre_values, shifts_at
from streamer.motion.track import LocalMotion, Motion
from streamer.records import Gain
from streamer.settings import MotionSettings
from streamer.sums import frame_sum, halves

BANDS = [(1 / 4.5, 1 / 3.5), (1 / 3.5, 1 / 2.8)]
REPEATS = 3


def places(size: int) -> torch.Tensor:
    """(81, 2) px."""
    axis = (torch.arange(9, dtype=torch.float64) + 0.5) / 9 * size - 0.5
    return torch.cartesian_prod(axis, axis)


def error(shifts: torch.Tensor, truth: torch.Tensor) -> float:
    """Of (t, n, 2) px, each place's mean over time removed."""
    off = shifts - truth
    return float((off - off.mean(0)).square().sum(-1).mean().sqrt())


class Ours:
    """A movie in memory, and what is done to it."""

    def __init__(self, movie: Bent) -> None:
        gain = Gain(path="simulated", sha256="", values=movie.gain)
        self.shape, self.counts = movie.gain.shape, movie.counts
        self.correction = correction.correction_for(self.shape, gain, np.zeros((0, 2), dtype=np.int64))

    def frame(self, index: int) -> torch.Tensor:
        """Corrected frame."""
        return self.correction.frame(self.counts, index)

    def motion(self) -> Motion:
        """Our own shifts."""
        return align.estimate_motion(self.frame, N_FRAMES, 1.0, MotionSettings())

    def total(self, motion: Motion, dose_per_frame: float | None) -> torch.Tensor:
        """Spectrum of the normalised sum."""
        exposures = dose.frame_exposures(N_FRAMES, dose_per_frame)
        options = {"pixel_size": 1.0, "voltage_kv": 300.0, "local": motion.local}
        fused = frame_sum.sum_frames(self.frame, motion.shifts, exposures, **options)
        return halves.half_sums(fused, 1.0, 300.0).total


def true_motion(movie: Bent) -> Motion:
    """The simulated shifts in our own description, which holds them exactly."""
    size = movie.case.size
    axis = torch.linspace(0, size - 1, 12, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    truth = torch.from_numpy(movie.case.truth(points.numpy()))
    basis = legendre_values(points, (size, size))
    found = torch.einsum("on,tna->tao", torch.linalg.pinv(basis), truth)
    field = LocalMotion(coefficients=found[:, :, 1:], shape=(size, size), evidence=0.0)
    return Motion(shifts=found[:, :, 0], information=0.0, trusted=True, iterations=0, local=field)


def relion(movie: Bent, directory: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    """RELION's shifts (t, n, 2) at ``places``, its unweighted sum, and its CPU-seconds."""
    with mrcfile.new(str(directory / "movie.mrcs"), overwrite=True) as file:
        file.set_data(movie.counts.astype(np.int8))
    with mrcfile.new(str(directory / "gain.mrc"), overwrite=True) as file:
        file.set_data(movie.gain)
    (directory / "Import").mkdir()
    options = {"cwd": directory, "check": True, "capture_output": True}
    start = "relion_import --do_movies --angpix 1.0 --kV 300 --Cs 2.7 --Q0 0.1"
    subprocess.run([*start.split(), "--i", "movie.mrcs", "--odir", "Import/", "--ofile", "movies.star"], **options)
    correct = (
        "relion_run_motioncorr --i Import/movies.star --o MC --use_own --j 2 --patch_x 5 --patch_y 5 "
        "--gainref gain.mrc --bin_factor 1 --bfactor 150 --dose_weighting --preexposure 0 --save_noDW "
        f"--dose_per_frame {DOSE}"
    )
    costs = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(correct.split(), **options)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    with mrcfile.open(str(directory / "MC" / "movie_noDW.mrc"), permissive=True) as file:
        image = torch.from_numpy(np.array(file.data, dtype=np.float32))
    return relion_shifts(directory / "MC" / "movie.star", places(movie.case.size)), image, median(costs)


def relion_shifts(star: Path, points: torch.Tensor) -> torch.Tensor:
    """Shifts (t, n, 2) (y, x) px at points (n, 2) by a per-movie STAR file of RELION's, global plus local."""
    document = gemmi.cif.read(str(star))
    general, shift = document.find_block("general"), document.find_block("global_shift")
    size = [int(general.find_value(f"_rlnImageSize{axis}")) for axis in "YX"]
    whole = torch.tensor([[float(v) for v in shift.find_loop(f"_rlnMicrographShift{a}")] for a in "YX"]).T.double()
    block = document.find_block("local_motion_model")
    if block is None:
        return whole[:, None, :].expand(-1, len(points), -1)
    model = np.array([float(v) for v in block.find_loop("_rlnMotionModelCoeff")]).reshape(2, 6, 3)[::-1].copy()
    z = torch.arange(len(whole), dtype=torch.float64)
    y, x = (points[:, axis] / size[axis] - 0.5 for axis in (0, 1))
    place = torch.stack([torch.ones_like(x), x, x**2, y, y**2, x * y])
    time = torch.stack([z, z**2, z**3])
    return whole[:, None, :] + torch.einsum("akm,kn,mt->tna", torch.from_numpy(model), place, time)


def compare(name: str, cache: Path) -> list[list[object]]:
    """Rows of one case."""
    movie = simulate(name, cache)
    size, ours = movie.case.size, Ours(movie)
    points = places(size)
    truth = torch.from_numpy(movie.case.truth(points.numpy()))
    clean = torch.fft.rfft2(torch.from_numpy(movie.clean))
    other = simulate("B" if movie.case.strength < 2.0 else "A", cache)
    swapped = replace(true_motion(other))
    costs, walls, estimates = [], [], []
    for _ in range(REPEATS):
        with measured() as whole:
            with measured() as alone:
                motion = ours.motion()
            ours.total(motion, DOSE)
        costs.append(whole.cpu_s)
        walls.append(whole.wall_s)
        estimates.append(alone.cpu_s)
    rows: list[list[object]] = []

    def row(who: str, shifts: torch.Tensor, total: torch.Tensor, cpu: str = "", wall: str = "", more: str = "") -> None:
        frc = band_frc(total, clean, (size, size), BANDS)
        rows.append([name, who, f"{error(shifts, truth):.3f}", *(f"{v:.3f}" for v in frc), cpu, wall, more])

    row(
        "ours",
        shifts_at(motion, points),
        ours.total(motion, None),
        f"{median(costs):.2f} ({median(estimates):.2f})",
        f"{median(walls):.2f}",
        f"{motion.information:.0f}, {'bends' if motion.local else 'global' if motion.trusted else 'none'}",
    )
    if shutil.which("relion_run_motioncorr"):
        with tempfile.TemporaryDirectory() as scratch:
            peer, image, cpu = relion(movie, Path(scratch))
        row("RELION 5×5", peer, torch.fft.rfft2(image), f"{cpu:.2f}")
    if size > 2048:
        return rows
    whole = replace(motion, local=None)
    row("ours, global part", shifts_at(whole, points), ours.total(whole, None))
    best = true_motion(movie)
    row("true shifts", shifts_at(best, points), ours.total(best, None))
    if size == other.case.size:
        row("another movie's", shifts_at(swapped, points), ours.total(swapped, None))
    still = Motion(shifts=torch.zeros_like(motion.shifts), information=0.0, trusted=False, iterations=0)
    row("none", shifts_at(still, points), ours.total(still, None))
    return rows


def main() -> None:
    torch.set_num_threads(2)
    os.environ["OMP_NUM_THREADS"] = "2"
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "bent-movies"
    rows = [row for name in sys.argv[2:] or CASES for row in compare(name, cache)]
    header = ["movie", "shifts", "px", "FRC 4.5–3.5 Å", "FRC 3.5–2.8 Å", "CPU-s (shifts)", "s", "1/px², model"]
    note = "px 2-D RMS, each place's time mean removed; two threads; RELION 3.1.3 --patch_x 5 --patch_y 5 --bfactor 150"
    table("Local motion", header, rows, note)


if __name__ == "__main__":
    main()
