"""The session model against each micrograph's own Wiener filter, by the truth, on specimens nobody tuned for.

Per specimen: four movies to learn from, two for the gate, six that neither saw. SNBR* is pooled over 100–6 Å of the
whole sum (not of halves) against the noise-free image through the same transfer. The Wiener filter is the bar: any blur
beats the raw image.
"""

from __future__ import annotations

import statistics
import sys

import torch

from benchmarks.harness import Simulated, measured, simulated, snbr_true, table
from models.gate import Thresholds, judge, weight_curve
from models.manifest import NetConfig
from models.noise2noise import WienerResidualNet
from models.settings import SessionModelSettings
from models.training import TrainingMovie, train
from streamer import fourier, quality, split
from streamer.band import Band, band_of
from streamer.simulate import Microscope
from streamer.specimen import Specimen, apoferritin, random_protein

LEARN, GATE, TEST, STEPS = 4, 2, 6, SessionModelSettings().first_steps


def training_movie(movie: Simulated, name: str) -> tuple[TrainingMovie, Band]:
    """Group sums as the daemon keeps them."""
    from streamer import fuse

    scope = movie.scope
    band = band_of(scope.shape, scope.pixel_size, 6.0, 100.0)
    fused = fuse.fuse(
        movie.frame(),
        movie.motion().shifts,
        movie.exposures,
        pixel_size=scope.pixel_size,
        voltage_kv=scope.voltage_kv,
        group_shape=band.small,
        n_groups=split.group_count(len(movie.counts)),
    )
    sums = split.group_sums(fused, band.small, scope.pixel_size, scope.voltage_kv)
    if sums is None:
        raise ValueError("too few frames")
    return TrainingMovie(name, sums, 100.0), band


def session(specimen: Specimen, seed: int, scope: Microscope) -> dict[str, object]:
    """Train on one specimen and test on movies of it that were never seen."""
    movies = []
    for number in range(LEARN + GATE + TEST):
        movie = simulated(scope, specimen, seed * 1000 + number)
        prepared, band = training_movie(movie, str(number))
        movies.append((prepared, band.crop(movie.expected()), movie.truth.optics.defocus_u_um))
    learned = [m for m, _, _ in movies[:LEARN]]
    torch.manual_seed(20)
    net = WienerResidualNet(NetConfig()).to(memory_format=torch.channels_last)
    with measured() as cost:
        train(net, learned, steps=STEPS, seed=20)
    net = net.to(memory_format=torch.contiguous_format)
    held_out = [m for m, _, _ in movies[LEARN : LEARN + GATE]]
    decision = judge(net, held_out, incumbent=None, thresholds=Thresholds(), trained_on=frozenset("0123"))
    weight = decision.figures.weight if decision.figures else []
    return {"decision": decision, "cpu": cost.cpu_s, "scores": [score(net, weight, *m) for m in movies[LEARN + GATE :]]}


def score(
    net: WienerResidualNet, weight: list[tuple[float, float]], movie: TrainingMovie, truth: torch.Tensor, defocus: float
) -> tuple[float, float, float, float]:
    """Defocus, and SNBR* of raw, Wiener and served output of the whole sum."""
    from models.gate import outputs

    small, pixel = movie.band.small, movie.band.band_pixel_size
    raw, linear, proposed = outputs(net, movie, torch.ones(len(movie), dtype=torch.bool))
    curve = weight_curve(weight, fourier.ring_frequencies(small) / pixel)
    served = torch.lerp(linear, proposed, fourier.from_rings(curve, small).to(linear.dtype))
    mask = quality.band_mask(small, pixel, 100.0, max(6.0, 2.0 * pixel))
    values = (snbr_true(image / movie.whitening, truth, small, mask) for image in (raw, linear, served))
    return (defocus, *values)  # type: ignore[return-value]


def main() -> None:
    torch.set_num_threads(1)
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 101
    specimens = [(apoferritin(), 1), (random_protein(first), 2), (random_protein(first + 1, 1200, 3), 3)]
    rows: list[list[object]] = []
    for specimen, seed in specimens:
        result = session(specimen, seed, Microscope())
        scores, decision = result["scores"], result["decision"]
        for defocus, raw, wiener, net in scores:  # type: ignore[attr-defined]
            rows.append(
                [
                    specimen.name,
                    f"{defocus:.2f}",
                    f"{raw:.2f}",
                    f"{wiener:.2f}",
                    f"{net:.2f}",
                    f"{net / wiener:.2f}",
                    "",
                ]
            )
        gains = [net / wiener for _, _, wiener, net in scores]  # type: ignore[attr-defined]
        verdict = f"{decision.result}, {result['cpu']:.0f} CPU-s"  # type: ignore[attr-defined]
        rows.append([specimen.name, "median", "", "", "", f"{statistics.median(gains):.2f}", verdict])
    table(
        "session model against own Wiener filter, SNBR* by the truth",
        ["specimen", "defocus µm", "raw", "Wiener", "served", "gain", "gate, training"],
        rows,
        f"{LEARN} movies to learn from, {STEPS} steps, {TEST} unseen movies each; 100-6 Å, whole sum.",
    )


if __name__ == "__main__":
    main()
