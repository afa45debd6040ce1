"""What the user is shown of dirty fields, by the truth: served picture over Wiener filter, scene by scene.

    python -m benchmarks.dirty_denoise [--model DIRECTORY] [--seeds N] [--first SEED] [--side PX]
                                       [--structures DIRECTORY] [SCENE…]

Every scene has its own structure and seed. *Bare* is the network as it is, with λ(k) alone: no bound, no map, no guard.
*Largest pixel*: over the largest of the Wiener filter's within 100 Å, each about its mean. Controls: a field without
anything in it, and a micrograph whose odd half is another movie's, where nothing is there to be confirmed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import measured, table
from models.gate.scoring import weight_curve
from models.networks.denoiser import infer
from models.serving.session_model import SessionModel
from models.versions.base_weights import shipped_base
from streamer import fourier, restore
from streamer.band import band_of
from streamer.quality import estimators
from streamer.simulation.movie import Detector
from streamer.simulation.scenes.scene import scene
from streamer.simulation.specimen import random_protein, read_model
from streamer.simulation.true_sums import recorded, true_sums
from streamer.sums.halves import half_sums

if TYPE_CHECKING:
    from streamer.records import HalfSums, Spectrum
    from streamer.simulation.movie import Microscope
    from streamer.simulation.specimen import Specimen
    from streamer.sums.frame_sum import FrameSums

SCENES = (
    "clean", "crystal", "crystals", "crystal-edge", "frost", "carbon", "carbon-hole", "gold", "gold-hole", "waves-3",
    "gradient-20", "boiling", "overlapping", "sparse", "torn", "virus", "membrane", "actin", "phase-plate", "weak",
    "crystals+waves-3", "crystal+carbon", "crystals+gold", "carbon+empty", "crystals+empty", "empty",
)  # fmt: skip
NEAR = 100.0
"""Å."""


def snbr(image: Tensor, truth: Tensor, mask: Tensor, shape: fourier.Shape) -> float:
    """SNBR* of a spectrum by the truth."""
    tapered = estimators.tapered(image, shape)
    pairs = ((tapered, truth), (tapered, tapered), (truth, truth))
    cross, own, true = (float(estimators.covariance(a, b, shape)[mask].sum()) for a, b in pairs)
    rho2 = cross * abs(cross) / (own * true) if own > 0.0 and true > 0.0 else 0.0
    return max(rho2, 1e-9) / (1.0 - min(rho2, 1.0 - 1e-9))


def largest_pixel(shown: Tensor, linear: Tensor, pixel_size: float) -> float:
    """Largest |pixel| over the largest of the Wiener filter's nearby."""
    reach = round(NEAR / pixel_size)
    there = (linear - linear.mean()).abs()[None, None]
    for kernel in ((2 * reach + 1, 1), (1, 2 * reach + 1)):
        there = nn.functional.max_pool2d(there, kernel, 1, (kernel[0] // 2, kernel[1] // 2))
    return float(((shown - shown.mean()).abs() / there[0, 0].clamp(min=1e-9)).max())


def bare(model: SessionModel, sums: HalfSums, spectrum: Spectrum) -> Tensor:
    """Spectrum of W·y + λ(k)·(f − W·y), nothing else, as the network alone would have it."""
    band = band_of(sums.shape, sums.pixel_size, model.manifest.resolution, model.manifest.low)
    area = (band.small[0] * band.small[1]) / (band.shape[0] * band.shape[1])
    amplitude = (spectrum.noise * area).clamp(min=1e-12).sqrt()
    scale = fourier.from_rings(band.curve(amplitude), band.small)
    window, wiener = band.window(), fourier.from_rings(band.curve(spectrum.wiener), band.small)
    both = torch.stack([band.crop(sums.total) / scale, band.crop(sums.total) / scale * wiener]) * window
    raw, linear = fourier.to_image(both, band.small)
    change = torch.fft.rfft2(infer(model.net, raw, linear) - linear) * window
    weight = weight_curve(model.manifest.weight, spectrum.fftfreq / sums.pixel_size)
    plain = restore.filtered(sums.total, spectrum.wiener, sums.shape)
    return restore.merge(plain, plain + band.pad(change * scale), weight, sums.shape)


def fused_and_truth(
    name: str, specimen: Specimen, seed: int, side: int, camera: Detector
) -> tuple[FrameSums, Microscope, Tensor]:
    """Sums of a scene with its true shifts, its settings, and the tapered spectrum of what is there."""
    rng = np.random.default_rng([seed, 5])
    defocus = float(rng.uniform(0.8, 2.2))
    field = scene(
        name, seed, specimen=specimen, shape=(side, side), n_frames=10, dose_per_frame=float(rng.uniform(1.5, 3.5)),
        defocus_um=(defocus - 0.02, defocus + 0.02), bend_px=0.0,
    )  # fmt: skip
    scope = field.scope
    band = band_of(scope.shape, scope.pixel_size, 6.0, 100.0)
    fused = true_sums(recorded(field, camera), field.displacement, band)
    return fused, scope, estimators.tapered(field.noise_free(camera), scope.shape)


def halves_and_truth(name: str, specimen: Specimen, seed: int, side: int) -> tuple[HalfSums, Tensor]:
    """Halves of a scene on a camera of its own, and the truth."""
    fused, scope, truth = fused_and_truth(name, specimen, seed, side, Detector((side, side), seed % 5))
    return half_sums(fused, scope.pixel_size, scope.voltage_kv), truth


def shown(model: SessionModel, sums: HalfSums, truth: Tensor) -> dict[str, object]:
    """Figures of one movie; empty where nothing is restored."""
    spectrum, shape = estimators.measure(sums), sums.shape
    if not spectrum.significant:
        return {}
    mask = estimators.band_mask(shape, sums.pixel_size, 100.0, 6.0)
    with measured() as cost:
        proposal = model.propose(sums, spectrum)
    image, made = restore.restore(sums, spectrum, proposal)
    linear = restore.filtered(sums.total, spectrum.wiener, shape)
    alone = bare(model, sums, spectrum)
    wiener, served, by_itself = (snbr(one, truth, mask, shape) for one in (linear, torch.fft.rfft2(image), alone))
    plain = fourier.to_image(linear, shape)
    score = proposal.score
    return {
        "made": made,
        "wiener": wiener,
        "bare": by_itself / wiener,
        "gain": served / wiener,
        "pixel_bare": largest_pixel(fourier.to_image(alone, shape), plain, sums.pixel_size),
        "pixel": largest_pixel(image, plain, sums.pixel_size),
        "share": score.share if score else None,
        "said": score.gain_shown if score else None,
        "said_half": score.gain if score else None,
        "refused": proposal.refused or "",
        "cpu": cost.cpu_s,
    }


def structure(directory: Path | None, index: int) -> Specimen:
    """A real structure where there are any, else a random protein."""
    known = sorted(directory.glob("*.pdb.gz")) if directory else []
    if known:
        return read_model(known[37 * index % len(known)])
    return random_protein(7000 + index, 1500 + 400 * (index % 5))


def rows_of(  # type: ignore[type-arg]
    model: SessionModel, names: list[str], seeds: int, first: int, side: int, directory: Path | None
) -> list[dict]:
    """One row for each scene and seed."""
    rows, before = [], None
    for seed, name in enumerate((name for _ in range(seeds) for name in names), start=first):
        specimen = structure(directory, seed)
        sums, truth = halves_and_truth(name, specimen, seed, side)
        found = shown(model, sums, truth)
        if found:
            rows.append({"scene": name, "structure": specimen.name, "seed": seed} | found)
            print(_line(rows[-1]), flush=True)
        if before is not None and before.shape == sums.shape and name == "clean":
            mixed = replace(sums, odd=before.odd)
            control = shown(model, mixed, truth)
            if control:
                rows.append({"scene": "control: another's half", "structure": specimen.name, "seed": seed} | control)
        before = sums
    return rows


def _line(row: dict) -> list[object]:  # type: ignore[type-arg]
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    figures = [row[key] for key in ("wiener", "bare", "gain", "pixel_bare", "pixel", "share", "said", "said_half")]
    return [row["scene"], row["structure"], row["seed"], *(text(v) for v in figures), row["refused"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=shipped_base())
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=52_000, help="first seed; also chooses the structures")
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--structures", type=Path, help="directory of *.pdb.gz")
    parser.add_argument("scenes", nargs="*", default=list(SCENES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = SessionModel(given.model)
    rows = rows_of(model, given.scenes, given.seeds, given.first, given.side, given.structures)
    header = ["scene", "structure", "seed", "Wiener", "bare network", "served", "largest pixel, bare", "served "]
    table(
        "served pictures of dirty fields",
        [*header, "share", "said of the picture", "of a half", "refused"],
        [_line(row) for row in rows],
        summary(rows),
    )


def summary(rows: list[dict]) -> str:  # type: ignore[type-arg]
    """What all rows together say."""

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    gain, alone, refused = column("gain"), column("bare"), column("refused") != ""
    said = [row["said"] / row["gain"] for row in rows if row["said"] and not row["refused"]]
    return (
        "gain over the Wiener filter by the truth, 100-6 Å. "
        f"Served below .98: {(gain < 0.98).sum()} of {len(rows)}, bare: {(alone < 0.98).sum()}. "
        f"Pixel above 1.5: {(column('pixel') > 1.5).sum()}, bare: {(column('pixel_bare') > 1.5).sum()}. "
        f"Helpful (bare above 1.05): {(alone > 1.05).sum()}, of these refused: {((alone > 1.05) & refused).sum()}. "
        f"Median gain {np.median(gain):.2f}, bare {np.median(alone):.2f}. "
        f"Said over true: {np.quantile(said, [0.05, 0.5, 0.95]).round(3)}. "
        f"{column('cpu').mean():.2f} CPU-s per movie."
    )


if __name__ == "__main__":
    main()
