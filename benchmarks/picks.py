"""Particles picked in fields of every kind, against RELION's LoG picker and topaz on the same images.

    python -m benchmarks.picks [--models DIRECTORY] [--topaz PYTHON] [--seeds 101,102] [--scenes a,b] [--peers no]

Images are sums with the true shifts, so that only picking is compared. All get the true diameter (of the sphere that
holds 99 % of the atoms); RELION 0.8 to 1.2 of it. A pick counts within 0.3 diameters of a particle, once per particle;
particles under a crystal or a film count for nobody, for or against, and what is nearer to the edge than 0.4 diameters
neither. RELION and topaz have a threshold that users set by eye: each is given the best of several per kind of field,
chosen with the truth, beside its default. Ours is the default, everywhere.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch

from benchmarks.harness import measured, table
from streamer import dose, fourier
from streamer.detector.correction import correction_for
from streamer.picking.pick import pick
from streamer.quality.not_specimen import find_not_specimen
from streamer.simulation.movie import Detector
from streamer.simulation.scenes.scene import scene
from streamer.simulation.specimen import Specimen, assembled, random_protein, read_model
from streamer.simulation.true_sums import recorded
from streamer.sums.frame_sum import sum_frames
from streamer.sums.halves import half_sums

SCENES = {
    "clean": {},
    "crystal": {},
    "crystals": {},
    "frost": {},
    "carbon": {},
    "gold-hole": {},
    "waves-1": {},
    "waves-3": {},
    "gradient-20": {},
    "heights": {},
    "crowded": {},
    "overlapping": {},
    "sparse": {},
    "small": {},
    "small+waves-3+crystal": {},
    "weak": {},
    "clean low defocus": {"defocus_um": (0.4, 0.7)},
    "clean high defocus": {"defocus_um": (2.5, 3.5)},
    "clean 10 e/Å²": {"dose_per_frame": 1.25},
    "phase-plate": {},
    "membrane": {},
    "virus": {"pixel_size": 3.0},
    "empty": {},
    "empty+crystals+waves-1": {},
}
TOLERANCE, EDGE = 0.3, 0.4
RELION_THRESHOLDS = (0.0, 0.5, 1.0, 2.0)
TOPAZ_THRESHOLDS = (0.0, -4.0, -2.0, 2.0)
"""Default first."""
EMPTY_DIAMETER = 140.0


@dataclass
class Case:
    """One image and what is in it; positions (n, 2) y, x in px."""

    image: np.ndarray
    usable: np.ndarray
    pixel_size: float
    diameter: float
    particles: np.ndarray
    clear: np.ndarray


def specimen(kind: str, seed: int, models: Path | None) -> Specimen | None:
    """A structure from the directory as it is or as a small oligomer, or a random one; None: the kind has its own."""
    if models is None:
        return None
    rng = np.random.default_rng([seed, 31])
    files = sorted(models.glob("*.pdb.gz"))
    copies, dihedral = int(rng.integers(1, 5)), bool(rng.integers(2))
    if kind.startswith("small"):
        copies, dihedral = 1, False
    part = read_model(files[int(rng.integers(len(files)))])
    return assembled(part, copies, dihedral=dihedral) if copies > 1 or dihedral else part


def case(name: str, seed: int, models: Path | None, side: int) -> Case:
    """Simulate one field."""
    kind = name.split()[0]
    options = {"n_frames": 8, "dose_per_frame": 5.0, **SCENES[name]}
    own = None if kind in ("virus", "membrane") else specimen(kind, seed, models)
    view = scene(kind, seed, shape=(side, side), specimen=own or random_protein(seed), **options)
    frames, scope, truth = recorded(view, Detector((side, side), seed)), view.scope, view.truth()
    correction = correction_for(scope.shape, frames.gain, frames.defects)
    sums = sum_frames(
        lambda index: correction.frame(frames.counts, index),
        torch.from_numpy(-view.displacement).double(),
        dose.frame_exposures(len(frames.counts), scope.dose_per_frame),
        pixel_size=scope.pixel_size,
        voltage_kv=scope.voltage_kv,
    )
    halves = half_sums(sums, scope.pixel_size, scope.voltage_kv)
    return Case(
        image=fourier.to_image(halves.total, halves.shape).numpy(),
        usable=~find_not_specimen(halves).at(halves.shape).numpy(),
        pixel_size=scope.pixel_size,
        diameter=truth.diameter or EMPTY_DIAMETER,
        particles=truth.particles,
        clear=truth.clear,
    )


def judged(points: np.ndarray, field: Case) -> tuple[int, int, int]:
    """Hits, picks and particles of one image."""
    diameter, shape = field.diameter / field.pixel_size, np.array(field.image.shape)
    margin = EDGE * diameter
    counted = ((field.particles >= margin) & (field.particles < shape - margin)).all(1)
    hits, ignored, taken = 0, 0, set[int]()
    points = points[((points >= margin) & (points < shape - margin)).all(1)]
    for point in points:
        distance = np.hypot(*(field.particles - point).T)
        near = [int(i) for i in np.argsort(distance)[:4] if distance[i] <= TOLERANCE * diameter and int(i) not in taken]
        if not near:
            continue
        taken.add(near[0])
        good = field.clear[near[0]] and counted[near[0]]
        hits, ignored = hits + int(good), ignored + int(not good)
    return hits, len(points) - ignored, int((counted & field.clear).sum())


def pooled(counts: list[tuple[int, int, int]]) -> tuple[float, float, float]:
    """Recall, precision and F1 of several images."""
    hits, picks, particles = (sum(column) for column in zip(*counts, strict=True))
    return hits / max(particles, 1), hits / max(picks, 1), 2.0 * hits / max(picks + particles, 1)


def relion(field: Case, threshold: float) -> np.ndarray:
    """(n, 2) y, x of ``relion_autopick --LoG``."""
    with tempfile.TemporaryDirectory() as directory:
        with mrcfile.new(f"{directory}/m.mrc") as file:
            file.set_data(field.image.astype(np.float32))
        low, high = 0.8 * field.diameter, 1.2 * field.diameter
        command = (
            f"relion_autopick --i m.mrc --angpix {field.pixel_size} --LoG --LoG_diam_min {low:.1f} "
            f"--LoG_diam_max {high:.1f} --LoG_adjust_threshold {threshold} --odir ./ --verb 0"
        )
        # it aborts where it finds nothing
        subprocess.run(command.split(), cwd=directory, capture_output=True, check=False)
        star = Path(directory) / "m_autopick.star"
        return _columns(star.read_text().splitlines() if star.exists() else [], 0)[:, 1::-1]


def topaz(fields: list[Case], python: str) -> list[np.ndarray]:
    """(n, 3) y, x and score of topaz's pretrained network in each image, all of one size of particle."""
    first = fields[0]
    step = max(1, round(first.diameter / (20.0 * first.pixel_size)))
    radius = max(3, round(0.5 * first.diameter / first.pixel_size / step))
    with tempfile.TemporaryDirectory() as directory:
        for number, field in enumerate(fields):
            with mrcfile.new(f"{directory}/m{number}.mrc") as file:
                file.set_data(field.image.astype(np.float32))
        script = str(Path(__file__).parent / "peers" / "topaz_pick.py")
        subprocess.run([python, script, directory, str(radius), str(step)], capture_output=True, check=True)
        lines = (Path(directory) / "picks.txt").read_text().splitlines()
    of = [[line for line in lines if line.split("\t")[0] == f"m{number}"] for number in range(len(fields))]
    return [_columns(some, 1)[:, [1, 0, 2]] for some in of]


def _columns(lines: list[str], start: int) -> np.ndarray:
    """(n, ≥3) numbers of the lines that consist of numbers from column ``start`` on."""
    rows = []
    for line in lines:
        try:
            rows.append([float(word) for word in line.split()[start:]])
        except ValueError:
            continue
    rows = [row for row in rows if len(row) >= 3]
    return np.array(rows) if rows else np.zeros((0, 3))


def ours(field: Case) -> tuple[np.ndarray, float]:
    """(n, 2) y, x of our picker, and CPU-seconds."""
    with measured() as cost:
        usable = None if field.usable.all() else torch.from_numpy(field.usable)
        found = pick(torch.from_numpy(field.image), field.pixel_size, field.diameter, usable=usable)
    return np.array([found.y, found.x]).T.reshape(-1, 2), cost.cpu_s


def row(name: str, seeds: list[int], options: argparse.Namespace) -> tuple[list[object], bool | None]:
    """The table's line of one kind of field, and whether ours is at least as good as the better peer."""
    fields = [case(name, seed, options.models, options.side) for seed in seeds]
    own = [ours(field) for field in fields]
    peers: dict[str, list[list[tuple[int, int, int]]]] = {}
    if options.peers:
        peers["RELION"] = [[judged(relion(field, value), field) for field in fields] for value in RELION_THRESHOLDS]
    if options.topaz:
        found = [topaz([field], options.topaz)[0] for field in fields]
        peers["topaz"] = [
            [judged(points[points[:, 2] >= value, :2], field) for points, field in zip(found, fields, strict=True)]
            for value in TOPAZ_THRESHOLDS
        ]
    counts = [judged(points, field) for (points, _), field in zip(own, fields, strict=True)]
    empty = "empty" in name
    if empty:
        cells = [f"{sum(c[1] for c in counts) / len(seeds):.1f} false"]
        for runs in peers.values():
            each = [sum(c[1] for c in run) / len(seeds) for run in runs]
            cells += [f"{each[0]:.0f}", f"{min(each):.0f}"]
        best = min((min(sum(c[1] for c in run) for run in runs) for runs in peers.values()), default=math.inf)
        better = sum(c[1] for c in counts) <= best
    else:
        recall, precision, mine = pooled(counts)
        cells, best = [f"{recall:.2f} / {precision:.2f} / {mine:.3f}"], 0.0
        for runs in peers.values():
            each = [pooled(run)[2] for run in runs]
            cells += [f"{each[0]:.3f}", f"{max(each):.3f}"]
            best = max(best, *each)
        better = mine >= best
    cpu = sum(seconds for _, seconds in own) / len(own)
    size = sum(field.diameter for field in fields) / len(fields)
    number = sum(len(field.particles) for field in fields)
    line: list[object] = [name, f"{size:.0f}", number, *cells, f"{cpu:.2f}"]
    return line, better if peers else None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, help="directory of .pdb.gz files; without it: random proteins")
    parser.add_argument("--topaz", help="Python of an environment that holds topaz-em")
    parser.add_argument("--seeds", default="101,102,103")
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--peers", choices=("yes", "no"), default="yes")
    options = parser.parse_args()
    options.peers = options.peers == "yes"
    torch.set_num_threads(1)
    seeds = [int(word) for word in options.seeds.split(",")]
    rows, won = [], []
    for name in options.scenes.split(","):
        line, better = row(name, seeds, options)
        rows.append(line)
        won.append(better)
        print(*line, sep=" | ", flush=True)
    header = ["field", "Å", "particles", "ours: recall / precision / F1"]
    header += ["RELION LoG", "its best"] if options.peers else []
    header += ["topaz", "its best"] if options.topaz else []
    note = f"seeds {options.seeds}; {'structures' if options.models else 'random proteins'}; {options.side}² px"
    if None not in won:
        note += f"; ours is at least as good as the better peer at its best threshold in {sum(won)} of {len(won)}"
    table("picks in every kind of field", [*header, "CPU-s"], rows, note)


if __name__ == "__main__":
    main()
