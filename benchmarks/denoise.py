"""The session denoiser beside its peers, by the truth, on specimens that nothing was tuned on.

    python -m benchmarks.denoise [--topaz PYTHON] [--processes N] [SPECIMEN…]

Per specimen, with ice and without: 20 movies over four defoci, at the exposure that gives halves an SNR of 0.10: four
to learn from, four for the gate, twelve that nobody saw. Everything goes the product's way: group sums, training with
one thread, gate, stored version, guard. SNBR* is pooled over 100-6 Å of the whole sum and over the twelve movies. The
own-micrograph Wiener filter is the bar. topaz runs in its own environment (`PYTHON` is its interpreter).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import RESULTS, Simulated, measured, simulated, table
from models.gate.candidate import propose
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.serving.session_model import SessionModel
from models.settings import SessionModelSettings
from models.training.movie import TrainingMovie, useful_resolution
from streamer import fourier, restore
from streamer.band import band_of
from streamer.detector import correction
from streamer.quality import estimators, intervals
from streamer.records import Gain
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import Specimen, apoferritin, random_protein
from streamer.simulation.true_sums import true_sums
from streamer.sums.halves import group_sums, half_sums

if TYPE_CHECKING:
    from streamer.records import GroupSums, HalfSums, Spectrum

LEARN, GATE, TEST = 4, 4, 12
DEFOCI = (0.6, 1.0, 1.5, 2.2)
"""µm."""
HALF_SNR = 0.10
ROUNDS = 4
"""Trainings on the same movies before the trainer waits for new ones."""
BANDS = ((100.0, 40.0), (40.0, 20.0), (20.0, 12.0), (12.0, 8.0), (8.0, 6.0))
SPECIMENS = {
    "r101-2400": lambda: random_protein(101),
    "r202-1200": lambda: random_protein(202, 1200, 3),
    "r303-4800": lambda: random_protein(303, 4800, 8),
    "r404-800": lambda: random_protein(404, 800, 2),
    "r505-3200": lambda: random_protein(505, 3200, 4),
    "apoferritin": apoferritin,
}
"""The last one was tuned on, and is reported apart."""
CELLS = RESULTS / "denoise_cells.json"
"""Figures of each specimen: those that are not asked for again stay in the tables."""
PEER = Path(__file__).parent / "peers" / "topaz_denoise.py"


@dataclass
class Prepared:
    """A movie as all methods get it."""

    movie: Simulated
    sums: HalfSums
    spectrum: Spectrum
    groups: GroupSums
    truth: Tensor
    """Tapered spectrum of what there is to find."""


def prepared(
    scope: Microscope, specimen: Specimen | None, seed: int, gain: np.ndarray | None = None, drift_error: float = 0.0
) -> Prepared:
    """Simulate, fuse, and keep what the daemon keeps.

    Parameters
    ----------
    gain : applied instead of the camera's own reference.
    drift_error : px by which the shifts are wrong at the end of the movie; 0: the true ones.
    """
    movie = simulated(scope, specimen, seed)
    if gain is not None:
        values = Gain(path="wrong", sha256="", values=gain)
        movie.frames = replace(
            movie.frames, gain=values, defects=correction.defects_of(values, movie.frames.hot_pixels)
        )
    wrong = np.linspace(0.0, drift_error, len(movie.counts))[:, None] ** 2 / max(drift_error, 1e-9)
    band = band_of(scope.shape, scope.pixel_size, 6.0, 100.0)
    fused = true_sums(movie.frames, movie.truth.displacement - wrong, band)
    groups = group_sums(fused, band.small, scope.pixel_size, scope.voltage_kv)
    if groups is None:
        raise ValueError("too few frames")
    sums = half_sums(fused, scope.pixel_size, scope.voltage_kv)
    truth = estimators.tapered(movie.expected(), scope.shape)
    return Prepared(movie, sums, estimators.measure(sums), groups, truth)


def microscope(defocus: float, ice: float, dose: float) -> Microscope:
    """One movie's settings; no bending, so that what is judged is the denoiser."""
    return Microscope(
        n_frames=20,
        dose_per_frame=dose,
        defocus_um=(defocus - 0.05, defocus + 0.05),
        ice_contrast=ice,
        bend_px=0.0,
    )


def dose_for(specimen: Specimen, ice: float) -> float:
    """e⁻/Å² per frame that gives halves the wanted SNR at the middle of the defoci."""
    pilot = prepared(microscope(1.3, ice, 1.0), specimen, 1)
    even, odd = (estimators.tapered(half, pilot.sums.shape) for half in (pilot.sums.even, pilot.sums.odd))
    mask = estimators.band_mask(pilot.sums.shape, pilot.sums.pixel_size, 100.0, 6.0)
    snr = float(estimators.pooled(estimators.estimate((even, odd), (even, odd), pilot.sums.shape), mask).snr)
    return float(np.clip(HALF_SNR / snr, 0.15, 2.5))


def trained(
    movies: list[Prepared], directory: Path, *, flip: bool = False, network: str = "small", seconds: float | None = None
) -> tuple[SessionModel, str, float]:
    """Train as the daemon does; the version, the gate's word and CPU-seconds."""
    ready = [
        TrainingMovie(str(n), m.groups, 100.0, optics=m.movie.truth.optics if flip else None)
        for n, m in enumerate(movies)
    ]
    resolution = max(6.0, useful_resolution(ready))
    for movie in ready:
        movie.crop(resolution)
    learned, held_out = ready[:LEARN], ready[LEARN:]
    torch.manual_seed(20)
    net = build(DENOISERS[network])
    cpu_s, rounds = 0.0, 0
    while True:
        candidate = propose(
            net,
            learned,
            held_out,
            seed=20 + rounds,
            clock=time.process_time,
            steps=None if seconds else SessionModelSettings().first_steps,
            seconds=seconds,
        )
        decision, net = candidate.decision, candidate.net
        cpu_s, rounds = cpu_s + candidate.report.seconds, rounds + 1
        # as the trainer does while nothing serves
        if seconds is not None or decision.result != "rejected" or rounds == ROUNDS:
            break
    candidate.save(directory, resolution=resolution)
    return SessionModel(directory), f"{decision.result}: {decision.reason}", cpu_s


# ------------------------------------------------------------------------------------------------------------ figures


def against_truth(output: Tensor, movie: Prepared) -> Tensor:
    """(3, rings) sums of a spectrum with the truth: cross, own, true."""
    shape = movie.sums.shape
    found = estimators.tapered(output, shape)
    return torch.stack([estimators.covariance(a, b, shape) for a, b in ((found, movie.truth), (found, found),
                                                                    (movie.truth, movie.truth))])  # fmt: skip


def snbr(sums: Tensor, mask: Tensor) -> float:
    """SNBR* of pooled sums."""
    cross, own, true = (float(s) for s in sums[:, mask].sum(-1))
    rho2 = cross**2 / (own * true) if own > 0 else 0.0
    return rho2 / (1.0 - rho2)


def topaz(python: str, movies: list[Prepared]) -> tuple[list[Tensor], float]:
    """Spectra of what topaz makes of the plain micrographs, and its CPU-seconds for one."""
    plain = np.stack([fourier.to_image(m.sums.total, m.sums.shape).numpy() for m in movies])
    images, cpu_s = topaz_images(python, plain)
    return [torch.fft.rfft2(image) for image in images], cpu_s


def topaz_images(python: str, plain: np.ndarray) -> tuple[Tensor, float]:
    """What topaz makes of (n, h, w) images, and its CPU-seconds for one."""
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "in.npy", Path(place) / "out.npy"
        np.save(source, plain)
        done = subprocess.run([python, str(PEER), str(source), str(target)], check=True, capture_output=True, text=True)
        return torch.from_numpy(np.load(target)), float(done.stdout.split()[-1])


def left_out(curves: Tensor) -> list[Tensor]:
    """Mean of the others' curves, for each."""
    return [(curves.sum(0) - curve) / (len(curves) - 1) for curve in curves]


def wiener(movie: Prepared, ssnr: Tensor) -> Tensor:
    """The whole sum under the Wiener filter of an SSNR."""
    return restore.filtered(movie.sums.total, ssnr / (1.0 + ssnr), movie.sums.shape)


def estimator(model: SessionModel, movies: list[Prepared], mask: Tensor) -> dict[str, float]:
    """Estimate of SNBR* from halves over the truth at half the exposure, and whether the interval holds the truth."""
    estimates, true = [], []
    for movie in movies:
        shape, sums = movie.sums.shape, movie.sums
        proposal = model.propose(sums, movie.spectrum)
        halves = [
            restore.merge(restore.filtered(half, movie.spectrum.wiener_half, shape), change, proposal.weight, shape)
            for half, change in ((sums.even, proposal.even), (sums.odd, proposal.odd))
        ]
        raw = estimators.tapered(sums.even, shape), estimators.tapered(sums.odd, shape)
        tapered = estimators.tapered(halves[0], shape), estimators.tapered(halves[1], shape)
        estimates.append(estimators.estimate(raw, tapered, shape)[:, mask].sum(-1))
        true.append(sum(against_truth(half, movie) for half in halves))
    table_ = torch.stack(estimates)
    truth = snbr(torch.stack(true).sum(0), mask)  # type: ignore[arg-type]
    lower, upper = intervals.bootstrap(table_)["snbr"]
    single = [float(estimators.ratios(e).snbr) / snbr(t, mask) for e, t in zip(estimates, true, strict=True)]  # type: ignore[arg-type]
    return {
        "ratio": float(estimators.ratios(table_.sum(0)).snbr) / truth,
        "covered": float(lower <= truth <= upper),
        "single_low": min(single),
        "single_high": max(single),
    }


def cell(name: str, ice: float, python: str | None) -> dict[str, object]:
    """All figures of one specimen with or without ice."""
    torch.set_num_threads(1)
    specimen = SPECIMENS[name]()
    dose = dose_for(specimen, ice)
    seeds = range(sum(ord(c) for c in name) * 100, 10**9)
    movies = [
        prepared(microscope(DEFOCI[n % 4], ice, dose), specimen, seed)
        for n, seed in zip(range(LEARN + GATE + TEST), seeds, strict=False)
    ]
    unseen = movies[LEARN + GATE :]
    shape, pixel = unseen[0].sums.shape, unseen[0].sums.pixel_size
    mask = estimators.band_mask(shape, pixel, 100.0, 6.0)
    sums: dict[str, list[Tensor]] = {}
    with tempfile.TemporaryDirectory() as place:
        model, gate, cpu = trained(movies[: LEARN + GATE], Path(place) / "v0001")
        flipped, _, _ = trained(movies[: LEARN + GATE], Path(place) / "v0002", flip=True)
    refused = 0
    with measured() as applying:
        proposals = [model.propose(m.sums, m.spectrum) for m in unseen]
        ours = [restore.merge(wiener(m, m.spectrum.ssnr_full), p.total, p.weight, shape) for m, p in
                zip(unseen, proposals, strict=True)]  # fmt: skip
    refused = sum(p.refused is not None for p in proposals)
    turned = [flipped.propose(m.sums, m.spectrum, optics=m.movie.truth.optics) for m in unseen]
    outputs = {
        "raw": [m.sums.total for m in unseen],
        "wiener": [wiener(m, m.spectrum.ssnr_full) for m in unseen],
        "loo": [wiener(m, s) for m, s in zip(unseen, left_out(torch.stack([m.spectrum.ssnr_full for m in unseen])),
                                             strict=True)],
        "ours": ours,
        "flip": [restore.merge(wiener(m, m.spectrum.ssnr_full), p.total, p.weight, shape) for m, p in
                 zip(unseen, turned, strict=True)],
    }  # fmt: skip
    topaz_cpu = None
    if python is not None:
        outputs["topaz"], topaz_cpu = topaz(python, unseen)
    for method, spectra in outputs.items():
        sums[method] = [against_truth(s, m) for s, m in zip(spectra, unseen, strict=True)]
    if python is not None:
        tables = torch.stack(sums["topaz"])
        cross, own = left_out(tables[:, 0]), left_out(tables[:, 1])
        gains = [estimators.smooth(c) / estimators.smooth(o) for c, o in zip(cross, own, strict=True)]
        outputs["topaz+gain"] = [restore.filtered(s, g, shape) for s, g in zip(outputs["topaz"], gains, strict=True)]
        sums["topaz+gain"] = [against_truth(s, m) for s, m in zip(outputs["topaz+gain"], unseen, strict=True)]
    gains = [snbr(a, mask) / snbr(b, mask) for a, b in zip(sums["ours"], sums["wiener"], strict=True)]
    band_masks = [estimators.band_mask(shape, pixel, *band) for band in BANDS]
    pooled = {method: torch.stack(values).sum(0) for method, values in sums.items()}
    return {
        "specimen": name,
        "ice": ice,
        "dose": dose * 20,
        "pooled": {method: snbr(values, mask) for method, values in pooled.items()},
        "bands": {m: [snbr(v, b) for b in band_masks] for m, v in pooled.items()},
        "worst": min(gains),
        "gate": gate,
        "refused": refused,
        "cpu": cpu,
        "applying": applying.cpu_s / len(unseen),
        "topaz_cpu": topaz_cpu,
        "estimator": estimator(model, unseen, mask),
    }


def show(results: list[dict]) -> None:  # type: ignore[type-arg]
    """Three tables."""
    methods = [m for m in ("raw", "wiener", "loo", "topaz", "topaz+gain", "ours", "flip") if m in results[0]["pooled"]]
    rows = []
    for r in results:
        p = r["pooled"]
        rows.append(
            [
                *(r["specimen"], f"{r['ice']:g}", f"{r['dose']:.0f}"),
                *(f"{p[m]:.2f}" for m in methods),
                *(f"{p['ours'] / p['wiener']:.2f}", f"{r['worst']:.2f}"),
                f"{p['ours'] / p['topaz']:.2f}" if "topaz" in p else "-",
                *(r["gate"].split(":")[0], r["refused"], f"{r['cpu']:.1f}", f"{r['applying']:.2f}"),
            ]
        )
    header = ["specimen", "ice", "e/Å²", *methods, "ours/Wiener", "worst movie", "ours/topaz"]
    table(
        "denoisers against the truth, pooled SNBR*",
        [*header, "gate", "refused", "training CPU-s", "per movie CPU-s"],
        rows,
        f"{LEARN} movies to learn from, {GATE} for the gate, {TEST} unseen; 1024², 1.5 Å, 0.6-2.2 µm; 100-6 Å. topaz "
        f"takes {results[0]['topaz_cpu'] or 0:.1f} CPU-s for one image. Per "
        "movie: the sum and both halves, FFTs, guard and merge.",
    )
    rows = [[r["specimen"], f"{r['ice']:g}", m, *(f"{v:.2f}" for v in r["bands"][m])] for r in results for m in methods]
    names = [f"{low:g}-{high:g}" for low, high in BANDS]
    table("denoisers against the truth, by band", ["specimen", "ice", "method", *names], rows, "Å; SNBR* pooled.")
    rows = []
    for r in results:
        e = r["estimator"]
        row = [r["specimen"], f"{r['ice']:g}", f"{e['ratio']:.3f}", bool(e["covered"])]
        rows.append([*row, f"{e['single_low']:.2f}-{e['single_high']:.2f}"])
    header = ["specimen", "ice", "estimate/truth, pooled", "interval covers", "single movies"]
    table("SNBR* from halves against the truth", header, rows, "Half exposure; interval over the twelve micrographs.")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--topaz", help="Python of an environment that holds topaz-em")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("specimens", nargs="*", default=list(SPECIMENS))
    given = parser.parse_args()
    jobs = [(name, ice, given.topaz) for name in given.specimens for ice in (0.03, 0.0)]
    if given.processes == 1:
        results = [cell(*job) for job in jobs]
    else:
        with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
            results = pool.starmap(cell, jobs, chunksize=1)
    kept = json.loads(CELLS.read_text()) if CELLS.exists() else []
    done = {(r["specimen"], r["ice"]) for r in results}
    results = sorted(
        [*results, *(r for r in kept if (r["specimen"], r["ice"]) not in done)],
        key=lambda r: (list(SPECIMENS).index(r["specimen"]), -r["ice"]),
    )
    CELLS.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
