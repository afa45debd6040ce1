"""True signal beyond the low-resolution Nyquist frequency: fusion beside bilinear upsampling and shuffled shifts.

Movies are integrated over detector pixels, never Fourier-cropped. FRC with the noise-free image in three bands strictly
beyond the physical Nyquist frequency (cycles per fine pixel), and one below. Control: the same frames with the shifts
of other frames; what it keeps beyond Nyquist is chance.
"""

from __future__ import annotations

import torch

from benchmarks.harness import band_frc, measured, simulated, table
from streamer import fuse
from streamer.settings import SuperResolutionSettings
from streamer.simulate import Microscope
from streamer.specimen import apoferritin, random_protein
from streamer.super_resolve import super_resolve

BANDS = [(0.12, 0.245), (0.255, 0.30), (0.30, 0.36), (0.36, 0.45)]


def main() -> None:
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    cases = [
        ("apoferritin 3.0 Å", Microscope(pixel_size=3.0, dose_per_frame=1.5), apoferritin(), 1),
        ("random 3.0 Å", Microscope(pixel_size=3.0, dose_per_frame=1.5), random_protein(11), 2),
        ("apoferritin 2.0 Å", Microscope(pixel_size=2.0, dose_per_frame=1.0), apoferritin(), 3),
        ("random 1.5 Å", Microscope(), random_protein(12), 4),
    ]
    for name, scope, specimen, seed in cases:
        movie = simulated(scope, specimen, seed)
        fine = (2 * scope.shape[0], 2 * scope.shape[1])
        truth = torch.fft.rfft2(torch.from_numpy(movie.truth.image))
        shifts = movie.motion().shifts
        true = -torch.from_numpy(movie.truth.displacement).double()
        order = torch.randperm(len(shifts), generator=torch.Generator().manual_seed(0))
        noise = float(movie.counts.mean())
        plain = torch.fft.irfft2(movie.halves(shifts).total, s=scope.shape)
        bilinear = torch.nn.functional.interpolate(plain[None, None], size=fine, mode="bilinear", align_corners=False)
        arms: list[tuple[str, torch.Tensor | None, torch.Tensor]] = [
            ("bilinear", None, bilinear[0, 0]),
            ("fusion, own shifts", shifts, bilinear),
            ("fusion, true shifts", true, bilinear),
            ("fusion, shuffled shifts", shifts[order], bilinear),
        ]
        for arm, moved, image in arms:
            verdict, cpu = "", "-"
            if moved is not None:
                with measured() as cost:
                    result = super_resolve(
                        movie.fused(moved, 2),
                        noise,
                        pixel_size=scope.pixel_size,
                        voltage_kv=300.0,
                        min_diversity=SuperResolutionSettings().min_diversity,
                    )
                if result.image is None:
                    continue
                image, verdict, cpu = result.image, result.verdict.verdict, f"{cost.cpu_s:.1f}"
            figures = band_frc(torch.fft.rfft2(image), truth, fine, BANDS)
            spread = f"{fuse.diversity(moved, movie.exposures):.2f}" if moved is not None else "-"
            rows.append([name, arm, *(f"{value:.4f}" for value in figures), spread, verdict, cpu])
    table(
        "super-resolution, FRC with the truth",
        ["movie", "arm", *(f"{low:g}-{high:g}" for low, high in BANDS), "diversity", "verdict", "CPU-s"],
        rows,
        "Chance: about 0.002 in each band. Global shifts only; the bend of the field is not followed.",
    )


if __name__ == "__main__":
    main()
