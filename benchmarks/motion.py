"""Global shifts against the truth, beside RELION 3.1's own motion correction where it is installed.

Simulated movies with drift, bend, damage and a gain pattern; error is the 2-D RMS over frames against the field's mean
displacement, time mean removed. RELION runs with 1×1 patches, its global estimate.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import torch

from benchmarks.harness import Simulated, measured, shift_error, simulated, table
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import apoferritin, random_protein


def relion(movie: Simulated, directory: Path) -> tuple[np.ndarray, float]:
    """RELION's global shifts (t, 2) y, x in px, and its CPU-seconds."""
    with mrcfile.new(str(directory / "movie.mrcs"), overwrite=True) as file:
        file.set_data(movie.counts.clip(max=127).astype(np.int8))
    with mrcfile.new(str(directory / "gain.mrc"), overwrite=True) as file:
        file.set_data(movie.camera.gain_reference())
    scope = movie.scope
    (directory / "Import").mkdir()
    options = {"cwd": directory, "check": True, "capture_output": True}
    start = f"relion_import --do_movies --angpix {scope.pixel_size} --kV {scope.voltage_kv} --Cs 2.7 --Q0 0.1"
    subprocess.run([*start.split(), "--i", "movie.mrcs", "--odir", "Import/", "--ofile", "movies.star"], **options)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    correct = (
        "relion_run_motioncorr --i Import/movies.star --o MC --use_own --j 2 --patch_x 1 --patch_y 1 "
        "--gainref gain.mrc --bin_factor 1 --bfactor 150 --dose_weighting --preexposure 0 "
        f"--dose_per_frame {scope.dose_per_frame}"
    )
    subprocess.run(correct.split(), **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    block = gemmi.cif.read(str(directory / "MC" / "movie.star")).find_block("global_shift")
    columns = [list(block.find_loop(f"_rlnMicrographShift{axis}")) for axis in "YX"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return np.array(columns, dtype=np.float64).T, cpu


def main() -> None:
    torch.set_num_threads(2)
    cases = [
        ("apoferritin 1.0 Å", Microscope(pixel_size=1.0, dose_per_frame=1.0), apoferritin(), 1),
        ("random A 1.0 Å", Microscope(pixel_size=1.0, dose_per_frame=1.0), random_protein(11), 2),
        ("apoferritin 1.5 Å", Microscope(), apoferritin(), 3),
        ("random B 1.5 Å", Microscope(), random_protein(12), 4),
        ("random B half dose", Microscope(dose_per_frame=0.33), random_protein(12), 5),
        ("random C 2048²", Microscope(shape=(2048, 2048)), random_protein(13), 6),
    ]
    rows: list[list[object]] = []
    for name, scope, specimen, seed in cases:
        movie = simulated(scope, specimen, seed)
        truth = movie.truth.displacement
        with measured() as cost:
            motion = movie.motion()
        ours = f"{shift_error(motion.shifts.numpy(), truth):.3f}"
        peer, peer_cpu = "-", "-"
        if shutil.which("relion_run_motioncorr"):
            with tempfile.TemporaryDirectory() as directory:
                shifts, cpu = relion(movie, Path(directory))
            peer, peer_cpu = f"{shift_error(shifts, truth):.3f}", f"{cpu:.1f}"
        nothing = f"{shift_error(np.zeros_like(truth), truth):.2f}"
        rows.append([name, nothing, ours, peer, f"{motion.information:.0f}", f"{cost.cpu_s:.1f}", peer_cpu])
    table(
        "global shifts, px RMS",
        ["movie", "nothing", "ours", "RELION 1x1", "information", "CPU-s estimate", "CPU-s RELION whole"],
        rows,
        "RELION's CPU-seconds hold reading, both sums and writing; ours the estimate alone. "
        f"{os.cpu_count()} cores, 2 threads each.",
    )


if __name__ == "__main__":
    main()
