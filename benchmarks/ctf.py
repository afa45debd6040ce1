"""CTF estimation: accuracy beside the Cramér-Rao floor, honesty, false alarms, real spectra, time.

    PYTHONPATH=. python benchmarks/ctf.py [anchor scenes empty faint real time] [--micrographs N] [--seed S]

CTFFIND 5.0.2 on the anchor of this kind (1024², 1 Å/px, 30 e⁻/px, 0.8-2.5 µm; measured apart, not run here): 17.9 Å
mean defocus, 53 Å astigmatism, 4.0°, 0.37 CPU-s.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import torch

from benchmarks.ctf_scenes import EMPTY, SCENES, Scene, Truth, ctf, drawn, empty, envelope_of, micrograph
from benchmarks.harness import measured, table
from streamer.ctf import polar
from streamer.ctf.estimate import SearchRange, estimate_ctf
from streamer.ctf.evidence import LEAST_GAIN, LEAST_SEARCH
from streamer.ctf.lens import lens_of

if TYPE_CHECKING:
    from streamer.transfer_figures import CtfFigures

REAL = Path(__file__).parents[1] / ".." / "shared" / "data" / "relion-tutorial-10204"
_FAR = 300.0
"""Å of mean defocus: a failure."""


def estimated(image: np.ndarray, scene: Scene, band: tuple[float, float] = (25.0, 3.0)) -> CtfFigures:
    cells = polar.cells_of_image(torch.from_numpy(image), scene.pixel_size, polar.band_of(scene.pixel_size, *band))
    within = SearchRange(phase_shift=(0.0, 0.0) if scene.phase_deg == (0.0, 0.0) else (0.0, 180.0))
    lens = lens_of(scene.voltage_kv, scene.cs_mm, scene.amplitude_contrast)
    return estimate_ctf({"sum": cells}, lens, within).figures


def floor(truth: Truth, band: tuple[float, float] = (25.0, 3.0)) -> tuple[float, float]:
    """Cramér-Rao floor of mean defocus and of an astigmatism component (U − V), Å: envelope and noise known."""
    scene = truth.scene
    height, width = scene.size
    ky = np.fft.fftfreq(height, scene.pixel_size)[:, None]
    kx = np.fft.rfftfreq(width, scene.pixel_size)[None, 1:]
    k = np.sqrt(kx**2 + ky**2)
    low, high = polar.band_of(scene.pixel_size, *band)
    signal = envelope_of(scene, ky, kx) ** 2 * scene.counts
    step = 1.0

    def power(z: float, a1: float, a2: float) -> np.ndarray:
        angle = 0.5 * math.degrees(math.atan2(a2, a1))
        moved = replace(truth, defocus=z, astigmatism=2.0 * math.hypot(a1, a2), angle=angle)
        return 1.0 + signal * ctf(moved, ky, kx) ** 2

    half, twice = 0.5 * truth.astigmatism, math.radians(2.0 * truth.angle)
    at = np.array([truth.defocus, half * math.cos(twice), half * math.sin(twice)])
    slopes = [(np.log(power(*(at + d))) - np.log(power(*(at - d)))) / (2 * step) for d in step * np.eye(3)]
    inside = (k >= low) & (k <= high)
    columns = np.stack([slope[inside] for slope in slopes])
    sds = np.sqrt(np.diag(np.linalg.inv(columns @ columns.T)))
    return float(sds[0]), float(2.0 * math.sqrt(0.5 * (sds[1] ** 2 + sds[2] ** 2)))


def errors(truth: Truth, found: CtfFigures) -> dict[str, float]:
    """Errors of one micrograph; NaN where nothing is stated."""
    if found.defocus_u_angstrom is None or found.astigmatism_angle_deg is None:
        return {}
    mean = 0.5 * (found.defocus_u_angstrom + found.defocus_v_angstrom)
    split = found.astigmatism_angstrom
    turn = (found.astigmatism_angle_deg - truth.angle + 90.0) % 180.0 - 90.0
    vector = split * np.exp(2j * math.radians(found.astigmatism_angle_deg))
    off = vector - truth.astigmatism * np.exp(2j * math.radians(truth.angle))
    phase = (found.phase_shift_deg - truth.phase_deg + 90.0) % 180.0 - 90.0
    return {
        "mean": mean - truth.defocus,
        "pull": (mean - truth.defocus) / found.defocus_sd_angstrom,
        "size": split - truth.astigmatism,
        "component": math.sqrt(0.5) * abs(off),
        "component_pull": math.sqrt(0.5) * abs(off) / found.astigmatism_sd_angstrom,
        "angle": turn if truth.astigmatism > 200.0 else math.nan,
        "phase": phase,
    }


def rms(rows: list[dict[str, float]], name: str) -> float:
    values = [row[name] for row in rows if row and math.isfinite(row[name])]
    return math.sqrt(sum(v * v for v in values) / len(values)) if values else math.nan


def of_scene(name: str, scene: Scene, number: int, seed: int, *, with_floor: bool = False) -> dict[str, object]:
    rows, floors, states, cpu = [], [], [], []
    for index in range(number):
        rng = np.random.default_rng([seed, index, sum(map(ord, name))])
        truth = drawn(scene, rng)
        image = micrograph(truth, rng)
        with measured() as cost:
            found = estimated(image, scene)
        cpu.append(cost.cpu_s)
        states.append(found.state)
        rows.append(errors(truth, found))
        if with_floor:
            floors.append(floor(truth))
    stated = [row for row in rows if row]
    far = sum(abs(row["mean"]) > _FAR for row in stated)
    row: dict[str, object] = {
        "scene": name,
        "n": number,
        "stated": len(stated),
        "good": states.count("good"),
        "off by > 300 Å": far,
        "mean Å": rms(rows, "mean"),
        "bias": float(np.mean([r["mean"] for r in stated])) if stated else math.nan,
        "size Å": rms(rows, "size"),
        "component Å": rms(rows, "component"),
        "angle °": rms(rows, "angle"),
        "phase °": rms(rows, "phase") if scene.phase_deg != (0.0, 0.0) else math.nan,
        "pull": rms(rows, "pull"),
        "component pull": rms(rows, "component_pull"),
        "CPU-s": float(np.median(cpu)),
    }
    if floors:
        row |= {
            "floor mean": float(np.mean([f[0] for f in floors])),
            "floor comp.": float(np.mean([f[1] for f in floors])),
        }
    return row


def of_empty(kind: str, number: int, seed: int) -> dict[str, object]:
    gains, scores, alarms = [], [], []
    for index in range(number):
        rng = np.random.default_rng([seed, index, sum(map(ord, kind))])
        found = estimated(empty(kind, rng), Scene(size=(768, 768)))
        gains.append(found.gain or 0.0)
        scores.append(found.search_score or 0.0)
        alarms.append(found.state != "none")
    return {
        "without CTF": kind,
        "n": number,
        "false alarms": sum(alarms),
        "gain max": max(gains),
        "search max": max(scores),
        "nearest": max(min(g / LEAST_GAIN, s / LEAST_SEARCH) for g, s in zip(gains, scores, strict=True)),
    }


def of_faint(ice: float, number: int, seed: int) -> dict[str, object]:
    """Faint rings: how many are kept, and how many of the kept ones are more than 4 sd off."""
    scene = replace(SCENES["base"], ice=ice, astigmatism=(0.0, 400.0))
    kept, off, sds = 0, 0, []
    for index in range(number):
        rng = np.random.default_rng([seed, index, 99])
        truth = drawn(scene, rng)
        found = estimated(micrograph(truth, rng), scene)
        row = errors(truth, found)
        if row:
            kept += 1
            off += abs(row["pull"]) > 4.0
            sds.append(found.defocus_sd_angstrom)
    return {
        "ice": ice,
        "n": number,
        "kept": kept,
        "> 4 sd off": off,
        "median sd": float(np.median(sds)) if sds else math.nan,
    }


def of_real(band: tuple[float, float]) -> list[dict[str, object]]:
    lens, rows, parts = lens_of(200.0, 1.4, 0.1), [], []
    for line in (REAL / "micrographs_ctf.reference.star").read_text().splitlines():
        words = line.split()
        if len(words) != 9 or "Movies" not in words[0]:
            continue
        u, v, _, angle, _, published = map(float, words[3:])
        name = Path(words[0]).stem
        picture = mrcfile.read(REAL / "power-spectra" / f"{name}_PS.mrc").astype(np.float32)
        cells = polar.cells_of_picture(torch.from_numpy(picture), 1.39955, polar.band_of(1.39955, *band))
        with measured() as cost:
            found = estimate_ctf({"picture": cells}, lens).figures
        truth = Truth(defocus=0.5 * (u + v), astigmatism=u - v, angle=angle)
        row = errors(truth, found)
        parts.append(found.astigmatism_angstrom * np.exp(2j * math.radians(found.astigmatism_angle_deg)))
        rows.append({
            "spectrum": name[9:14], "state": found.state, "mean Å": row["mean"], "size Å": row["size"],
            "angle °": row["angle"], "search": found.search_score, "fit resolution": found.fit_resolution_angstrom,
            "published": published, "CPU-s": cost.cpu_s,
        })  # fmt: skip
    scatter = np.array(parts)
    within = sum(abs(r["mean Å"]) < 35 and abs(r["size Å"]) < 60 and abs(r["angle °"]) < 4 for r in rows)
    print(f"band {band}: {within} of {len(rows)} within 35 Å, 60 Å, 4°; astigmatism scatters by "
          f"{math.sqrt(0.5 * (scatter.real.var(ddof=1) + scatter.imag.var(ddof=1))):.1f} Å per component")  # fmt: skip
    return rows


def of_time(number: int) -> list[dict[str, object]]:
    rows = []
    for size, pixel in (((1024, 1024), 1.0), ((4096, 5760), 0.83)):
        scene = Scene(size=(1024, 1024), pixel_size=pixel)
        rng = np.random.default_rng(3)
        part = micrograph(drawn(scene, rng), rng)
        image = np.tile(part, (-(-size[0] // 1024), -(-size[1] // 1024)))[: size[0], : size[1]].copy()
        image = rng.poisson(image).astype(np.float32) if size[0] > 1024 else image
        scene = replace(scene, size=size)
        estimated(image, scene)
        with measured() as cost:
            for _ in range(number):
                estimated(image, scene)
        rows.append({"size": f"{size[0]} × {size[1]}", "CPU-s": cost.cpu_s / number})
    return rows


def report(title: str, rows: list[dict[str, object]]) -> None:
    """A table, and the same as JSON."""
    header = list(rows[0])
    table(title, header, [[_shown(row[name]) for name in header] for row in rows])


def _shown(value: object) -> object:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return value


def main() -> None:
    parser = argparse.ArgumentParser()
    parts = ("anchor", "scenes", "empty", "faint", "real", "time")
    parser.add_argument("parts", nargs="*", default=parts)
    parser.add_argument("--micrographs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2026)
    asked = parser.parse_args()
    n, seed = asked.micrographs, asked.seed
    torch.set_num_threads(1)
    if "anchor" in asked.parts:
        report("ctf_anchor", [of_scene("anchor", Scene(), n, seed, with_floor=True)])
    if "scenes" in asked.parts:
        report("ctf_scenes", [of_scene(name, scene, max(4, n // 4), seed) for name, scene in SCENES.items()])
    if "empty" in asked.parts:
        report("ctf_empty", [of_empty(kind, 4 * n, seed) for kind in EMPTY])
    if "faint" in asked.parts:
        report("ctf_faint", [of_faint(ice, n, seed) for ice in (0.12, 0.1, 0.08, 0.06)])
    if "real" in asked.parts and REAL.is_dir():
        for band in ((30.0, 5.0), (20.0, 3.0)):
            report(f"ctf_real_{band[1]:.0f}", of_real(band))
    if "time" in asked.parts:
        report("ctf_time", of_time(max(1, n // 10)))


if __name__ == "__main__":
    main()
