"""The experiment of the cryo-ZSSR paper (Huang et al. 2023), in simulation, with the truth at hand.

Movies of a detector with the fine pixel are simulated and binned 2×2, as the paper bins its own: the same electrons.
From the binned movies come the arms; "full resolution" is the movie before binning. All use our own shifts, found on
the binned movies. Networks that learn from a session are applied to movies that they never saw (two halves in turn).

Figures: FRC with the truth in bands beyond the low-resolution Nyquist frequency; how far the Thon rings of the known
CTF can be followed, and how well they correlate; the map that RELION makes of true poses, between halves of the movies
(0.143) and against the atomic model (0.5). Controls: fusion with other frames' shifts; the network's λ.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.binned import CASES, Case, Movie, simulate
from benchmarks.harness import band_frc, table
from benchmarks.reconstruct import Particles, fsc, model_map, read_map, resolution
from models.gate import fusion_residual as fusion_gate
from models.networks import fusion_residual, zssr
from streamer import fourier
from streamer.ctf.transfer import ctf_2d
from streamer.movie_record import ModelRef
from streamer.super_resolution.averages import average
from streamer.super_resolution.fusion import Fusion
from streamer.super_resolution.training_data import training_data_of

if TYPE_CHECKING:
    from streamer.simulation.movie import Truth
    from streamer.super_resolution.normal_equations import AliasGrid

BANDS = [(0.255, 0.30), (0.30, 0.36), (0.36, 0.45)]
_ZSSR_STEPS, _NETWORK_STEPS = 300, 400

_IN_3D = (
    "low resolution",
    "bilinear",
    "ZSSR per movie",
    "ZSSR session",
    "shift and add",
    "fusion",
    "fusion, unfiltered",
    "fusion + network, unfiltered",
    "full resolution",
)


@dataclass
class Session:
    """What networks learned from half of the movies; the one on top of fusion is a ``FusionNetwork``."""

    zssr: zssr.ZssrNet | None
    network: fusion_residual.FusionResidualNet
    weight: list[tuple[float, float]]
    reference = ModelRef(version="benchmark", sha256="")
    trained_on = ()

    def __call__(
        self, fused: torch.Tensor, grid: AliasGrid, exposures: torch.Tensor, prior: torch.Tensor, white: float
    ) -> torch.Tensor:
        """What to add to the fused image."""
        noise = fusion_residual.band_noise(grid, grid.sensitivity(exposures), prior, white)
        with torch.inference_mode():
            changes, _ = fusion_residual.correct(self.network, fused, noise)
        weight = torch.tensor([lam for _, lam in self.weight] or [0.0] * changes.shape[1], device=fused.device)
        return torch.einsum("c,bchw->bhw", weight, changes)


def learn(movies: list[Movie], seed: int, *, with_zssr: bool) -> Session:
    """Train a session's networks on some movies; a quarter of them judges the one on top of fusion."""
    device = movies[0].device
    net = None
    if with_zssr:
        torch.manual_seed(seed)
        net = zssr.ZssrNet().to(device)
        pairs = [zssr.Pair(str(n), average(movie.coarse, movie.motion)) for n, movie in enumerate(movies)]
        zssr.train(net, pairs, seed=seed, most_steps=_ZSSR_STEPS)
    examples = []
    for n, movie in enumerate(movies):
        sums = movie.sums(movie.motion, 8)
        examples.append(
            fusion_residual.FusionExample(
                str(n), training_data_of(Fusion(sums, movie.noise), 2 * movie.case.fine_pixel)
            )
        )
    torch.manual_seed(seed)
    network = fusion_residual.FusionResidualNet().to(device)
    held_out = max(1, len(examples) // 4)
    report = fusion_residual.train(network, examples[held_out:], steps=_NETWORK_STEPS, seed=seed)
    judges = examples[:held_out] if held_out > 1 else examples[:1] * 2
    decision = fusion_gate.judge(network, judges, incumbent=None, trained_on=frozenset(report.movies[:0]))
    print(f"  network on fusion: {decision.reason}; λ {[lam for _, lam in decision.weight]}", flush=True)
    return Session(net, network, decision.weight)


def arms(movie: Movie, session: Session, *, per_movie: bool) -> dict[str, tuple[torch.Tensor, int]]:
    """Images of one movie by each way, and how much finer than the binned movie's their pixels are."""
    shape = movie.coarse(0).shape
    low = movie.plain(movie.coarse, movie.motion, 2 * movie.case.fine_pixel)
    made: dict[str, tuple[torch.Tensor, int]] = {"low resolution": (low, 1)}
    made["bilinear"] = zssr.upsample(low[None, None])[0, 0], 2
    made["Fourier padding"] = (
        fourier.to_image(fourier.upsampled(torch.fft.rfft2(low), shape), (2 * shape[0], 2 * shape[1])),
        2,
    )
    averages = average(movie.coarse, movie.motion)
    if per_movie:
        torch.manual_seed(0)
        net = zssr.ZssrNet().to(movie.device)
        zssr.train(net, [zssr.Pair("", averages)], seed=1, most_steps=_ZSSR_STEPS)
        made["ZSSR per movie"] = zssr.back_project(zssr.apply(net, averages), averages.whole), 2
    if session.zssr is not None:
        made["ZSSR session"] = zssr.back_project(zssr.apply(session.zssr, averages), averages.whole), 2
    sums = movie.sums(movie.motion)
    added = sums.sums.sum(0) * sums.grid.transfer.conj()[:, None]
    made["shift and add"] = sums.tiles.blend(sums.grid.image(added), 2), 2
    for name, network in (("fusion", None), ("fusion + network", session)):
        resolver = Fusion(sums, movie.noise, network)
        made[name] = resolver.image(), 2
        made[f"{name}, unfiltered"] = resolver.image(filtered=False), 2
    order = torch.randperm(len(movie.motion.shifts), generator=torch.Generator().manual_seed(0))
    other = replace(movie.motion, shifts=movie.motion.shifts[order], local=None)
    made["control: other frames' shifts"] = Fusion(movie.sums(other), movie.noise).image(), 2
    made["full resolution"] = movie.full(), 2
    return made


def thon_rings(image: torch.Tensor, truth: Truth, pixel_size: float) -> tuple[float, float]:
    """How well the power of an image follows the known CTF, from 10 Å to 3 Å, and how far it can be followed, Å.

    As CTFFIND scores: radial mean of the power, its trend taken away, correlated with |CTF|² in a sliding window of one
    and a half oscillations at least; the end is where the correlation falls below one half for good.
    """
    side = min(512, *image.shape)
    tiles = image.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    window = fourier.cosine_taper((side, side), 0.25, image.device)
    power = torch.fft.rfft2((tiles - tiles.mean((1, 2), keepdim=True)) * window).abs().square().mean(0)
    counts = fourier.ring_sums(torch.ones_like(power), (side, side))
    rings = (fourier.ring_sums(power, (side, side)) / counts).cpu().numpy()
    known = ctf_2d((side, side), pixel_size, truth.optics, image.device).square()
    curve = (fourier.ring_sums(known, (side, side)) / counts).cpu().numpy()
    frequency = fourier.ring_frequencies((side, side)).numpy() / pixel_size
    width, found = 24, np.full(len(rings), np.nan)
    logarithm = np.log(np.maximum(rings, 1e-30))
    for middle in range(width, len(rings) - width):
        part = slice(middle - width, middle + width + 1)
        x = np.arange(-width, width + 1)
        flat = logarithm[part] - np.polyval(np.polyfit(x, logarithm[part], 2), x)
        found[middle] = np.corrcoef(flat, curve[part])[0, 1]
    inside = (frequency > 0.1) & (frequency < 1.0 / 3.0)
    values = np.where(np.isnan(found), 0.0, found)
    followed = [f for f, v in zip(frequency, values, strict=True) if f > 0.1 and v < 0.5]
    return float(values[inside].mean()), 1.0 / (followed[0] if followed else frequency[-1])


def run(
    case: Case, paths: list[Path], device: torch.device, work: Path, per_movie: int
) -> dict[tuple[str, int], Particles]:
    """Make all arms of all movies, tell what the images are worth, and collect the particles."""
    print(f"{case.name}: {len(paths)} movies", flush=True)
    movies = [Movie(case, path, device) for path in paths]
    sessions = [learn(movies[half::2], half, with_zssr=per_movie >= 0) for half in (0, 1)]
    found: dict[str, list[list[float]]] = {}
    stacks: dict[tuple[str, int], Particles] = {}
    for number, movie in enumerate(movies):
        wide = (2 * movie.coarse(0).shape[0], 2 * movie.coarse(0).shape[1])
        spectrum = torch.fft.rfft2(torch.from_numpy(movie.truth.image).to(device))
        truth = fourier.resize(spectrum, movie.truth.image.shape, wide).cpu() * fourier.shift_ramp(
            wide, torch.tensor([-0.25, -0.25])
        )
        made = arms(movie, sessions[1 - number % 2], per_movie=number < min(per_movie, case.per_movie))
        coarse = replace(movie.truth, particles=(movie.truth.particles - 0.5) / 2.0)
        for name, (image, upsampling) in made.items():
            pixel_size = 2 * case.fine_pixel / upsampling
            frc = band_frc(torch.fft.rfft2(image).cpu(), truth, wide, BANDS) if upsampling == 2 else [0.0] * len(BANDS)
            found.setdefault(name, []).append([*frc, *thon_rings(image, movie.truth, pixel_size)])
            if name not in _IN_3D or (name == "ZSSR per movie" and case.per_movie < len(paths)):
                continue
            box = case.box * upsampling // 2
            place = work / case.symmetry / f"{len(stacks)}"
            stack = stacks.setdefault((name, number % 2), Particles(place, box, pixel_size))
            stack.add(image.float().cpu().numpy(), coarse, upsampling)
    rows: list[list[object]] = []
    full = np.mean(found["full resolution"], 0)[:3]
    for name, values in found.items():
        mean, error = np.mean(values, 0), np.std(values, 0) / math.sqrt(max(1, len(values) - 1))
        efficiency = 100.0 * (mean[:3] ** 2 / (1 - mean[:3] ** 2)) / (full**2 / (1 - full**2))
        shown = [f"{m:.4f} ± {e:.4f}" for m, e in zip(mean[:3], error[:3], strict=True)]
        rows.append([name, len(values), *shown, *(f"{v:.1f}" for v in efficiency), f"{mean[3]:.3f}", f"{mean[4]:.2f}"])
    bands = [f"{a:g}-{b:g}" for a, b in BANDS]
    header = ["arm", "movies", *bands, *(f"% {b}" for b in bands), "Thon rings", "followed to Å"]
    table(
        f"paper images {case.name}{_without(per_movie)}",
        header,
        rows,
        "FRC with the truth, bands in cycles per fine px; % of full resolution's SSNR.",
    )
    return stacks


def reconstruct(
    case: Case, stacks: dict[tuple[str, int], Particles], relion: Path, processes: int, per_movie: int
) -> None:
    """Maps of both halves of each arm, and what they say."""
    specimen = case.specimen()
    counts = {key: len(stack) for key, stack in stacks.items()}
    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(lambda stack: stack.reconstruct(relion, case.symmetry), [s for s in stacks.values() if len(s)]))
    rows: list[list[object]] = []
    models: dict[int, np.ndarray] = {}
    for name in dict.fromkeys(key[0] for key in stacks):
        halves = [stacks[name, half] for half in (0, 1) if (name, half) in stacks]
        maps = [read_map(stack.map) for stack in halves if stack.map.is_file()]
        if len(maps) < 2:
            rows.append([name, sum(counts[name, h] for h in (0, 1) if (name, h) in counts), "no map", *[""] * 4])
            continue
        box, pixel_size = halves[0].box, halves[0].pixel_size
        model = models.setdefault(box, model_map(specimen, box, pixel_size))
        diameter = specimen.diameter / pixel_size
        between, against = fsc(*maps, diameter), np.abs(fsc(maps[0] + maps[1], model, diameter))
        shells = [round(box * pixel_size / d) for d in (6.0, 5.0, 4.0)]
        at = [f"{between[s]:.3f} / {against[s]:.3f}" if s < len(between) else "-" for s in shells]
        figures = resolution(between, box, pixel_size, 0.143), resolution(against, box, pixel_size, 0.5)
        rows.append([name, counts[name, 0] + counts[name, 1], *(f"{f:.2f}" for f in figures), *at])
    header = ["arm", "particles", "halves .143 Å", "model .5 Å", "6 Å", "5 Å", "4 Å"]
    table(
        f"paper maps {case.name}{_without(per_movie)}",
        header,
        rows,
        "FSC between halves of the movies / against the atomic model; true poses.",
    )


def _without(per_movie: int) -> str:
    return "" if per_movie >= 0 else ", without ZSSR"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--movies", type=int, default=20)
    parser.add_argument("--side", type=int, default=1024, help="of a binned frame, px")
    parser.add_argument(
        "--per-movie",
        type=int,
        default=20,
        help="movies that a cryo-ZSSR of their own is trained on; -1: none at all, hours without a GPU",
    )
    parser.add_argument("--work", type=Path, default=Path("paper_experiment"))
    parser.add_argument("--relion", type=Path, default=Path("/usr/bin/relion_reconstruct"))
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="one specimen alone")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen.work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for case in CASES if chosen.case is None else [CASES[chosen.case]]:
        with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
            orders = [(case, n, chosen.side, chosen.work) for n in range(chosen.movies)]
            paths = pool.map(simulate, orders, chunksize=1)
        print(f"simulated at {time.perf_counter() - began:.0f} s", flush=True)
        stacks = run(case, paths, device, chosen.work, chosen.per_movie)
        print(f"images at {time.perf_counter() - began:.0f} s", flush=True)
        reconstruct(case, stacks, chosen.relion.absolute(), chosen.processes, chosen.per_movie)
        print(f"maps at {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
