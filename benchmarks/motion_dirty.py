"""Motion of every kind, clean and dirty, weak and strong, against the truth and RELION's own motion correction.

    python benchmarks/motion_dirty.py [first seed] [number of seeds] [rows…]

Error: 2-D root mean square over frames and 9 × 9 places, each place's mean over time removed. Floor: √(2 n / (frames ×
information per frame)), with n = 6 functions of time for a smooth drift, one more for a jump or a rotation, all frames
for vibration, and a field of 3 × 2 more where the specimen bends. "said" is the stated error. RELION runs with 5 × 5
patches and B 150, from the same counts and gain. Control: no correction.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import torch

from benchmarks.harness import measured, table
from benchmarks.local_motion import relion_shifts
from benchmarks.moving import Case, Moving, simulate
from streamer.motion import align
from streamer.motion.field import shifts_at
from streamer.settings import MotionSettings

ROWS = {
    "drift": Case(motion="drift"),
    "drift weak": Case(motion="drift", scale=0.5),
    "bend": Case(motion="bend"),
    "bend weak": Case(motion="bend", scale=0.5),
    "60 px": Case(motion="far"),
    "60 px weak": Case(motion="far", scale=0.5),
    "jump": Case(motion="jump"),
    "jump weak": Case(motion="jump", scale=0.5),
    "reversal weak": Case(motion="reversal", scale=0.5),
    "vibration": Case(motion="vibration"),
    "rotation and doming": Case(motion="rotation"),
    "rotation and doming weak": Case(motion="rotation", scale=0.5),
    "crack": Case(motion="crack"),
    "8 frames": Case(motion="bend", n_frames=8, dose=3.0),
    "200 frames": Case(motion="bend", n_frames=200, dose=0.2),
    "non-square": Case(motion="bend", shape=(512, 1024)),
    "still": Case(motion="still"),
    "still weak": Case(motion="still", scale=0.5),
    "low dose": Case(motion="bend", n_frames=10, dose=0.3),
    "nothing known": Case(motion="bend", n_frames=20, dose=0.5, scale=0.3, shape=(512, 512)),
    "81 kDa 1-2 um": Case(motion="bend", protein="small", ice=0.015),
    "81 kDa .4-.9 um": Case(motion="bend", protein="small", ice=0.01, defocus_um=(0.4, 0.9)),
    "crystal": Case(motion="bend", dirt=("crystal",)),
    "crystal weak": Case(motion="bend", dirt=("crystal",), scale=0.5),
    "crystals": Case(motion="bend", dirt=("crystals",), scale=0.7),
    "carbon": Case(motion="bend", dirt=("carbon",), scale=0.7),
    "gold": Case(motion="bend", dirt=("gold",), scale=0.7),
    "boiling": Case(motion="bend", dirt=("boiling",), scale=0.7),
    "noise alone": Case(motion="drift", protein="none", ice=0.0),
}
FUNCTIONS = {"jump": 7, "rotation": 9, "bend": 12, "crack": 12, "still": 6}


def places(shape: tuple[int, int]) -> torch.Tensor:
    """(81, 2) px."""
    return torch.cartesian_prod(*((torch.arange(9, dtype=torch.float64) + 0.5) / 9 * size - 0.5 for size in shape))


def error(shifts: torch.Tensor, truth: torch.Tensor) -> float:
    """Of (t, n, 2) px, each place's mean over time removed."""
    off = shifts - truth
    return float((off - off.mean(0)).square().sum(-1).mean().sqrt())


def relion(movie: Moving, points: torch.Tensor) -> torch.Tensor:
    """RELION's shifts (t, n, 2) px; its global ones where it could not fit a field."""
    case = movie.case
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with mrcfile.new(str(directory / "movie.mrcs")) as file:
            file.set_data(movie.counts.astype(np.int8))
        with mrcfile.new(str(directory / "gain.mrc")) as file:
            file.set_data(movie.gain)
        (directory / "Import").mkdir()
        for command in (
            f"relion_import --do_movies --angpix {case.pixel_size} --kV 300 --Cs 2.7 --Q0 0.1 --i movie.mrcs "
            "--odir Import/ --ofile movies.star",
            "relion_run_motioncorr --i Import/movies.star --o MC --use_own --j 1 --patch_x 5 --patch_y 5 "
            "--gainref gain.mrc --bin_factor 1 --bfactor 150",
        ):
            subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
        return relion_shifts(directory / "MC" / "movie.star", points)


def compare(name: str, seed: int, cache: Path, *, peer: bool) -> list[object]:
    """One movie."""
    case = ROWS[name]
    movie = simulate(case, seed, cache)
    points = places(case.shape)
    truth = movie.truth(points)
    with measured() as cost:
        motion = align.estimate_motion(movie.frame(), case.n_frames, case.pixel_size, MotionSettings())
    ours, said = error(shifts_at(motion, points), truth), motion.error
    functions = case.n_frames - 1 if case.motion == "vibration" else FUNCTIONS.get(case.motion, 6)
    floor = (2.0 * functions / (min(case.n_frames, 48) * motion.information)) ** 0.5 if motion.trusted else None
    return [
        name,
        seed,
        f"{error(torch.zeros_like(truth), truth):.2f}",
        f"{ours:.3f}",
        f"{error(relion(movie, points), truth):.3f}" if peer else "-",
        "-" if floor is None else f"{floor:.3f}",
        "-" if said is None else f"{said:.3f}",
        "-" if said is None or ours < 0.005 else f"{said / ours:.2f}",
        f"{motion.information:.1f}",
        motion.model,
        f"{cost.cpu_s:.2f}",
    ]


def main() -> None:
    torch.set_num_threads(1)
    first, number = (int(value) for value in (sys.argv[1:3] + ["101", "2"][len(sys.argv[1:3]) :]))
    cache = Path(tempfile.gettempdir()) / "moving-movies"
    peer = shutil.which("relion_run_motioncorr") is not None
    rows = []
    for name in sys.argv[3:] or ROWS:
        for seed in range(first, first + number):
            rows.append(compare(name, seed, cache, peer=peer))
            print(*rows[-1], sep="  ", flush=True)
    header = ["movie", "seed", "nothing", "ours", "RELION 5x5", "floor", "said", "said/true", "1/px²", "model", "CPU-s"]
    table("motion, clean and dirty", header, rows, "px, 2-D RMS, each place's time mean removed; one thread")


if __name__ == "__main__":
    main()
