"""Whether the network on top of fusion invents, or keeps what is there where it is.

Ideal movies of sparse particles with fine detail on an empty background, true shifts; trained on four, judged by two,
applied to four others. ρ²/(1−ρ²) with the truth per band; 0.25 cycles per fine px is the physical Nyquist frequency.
Beside it an oracle that knows where the signal is and masks each band with the best local gain: what it reaches is what
masking alone can do, and a network that went beyond it would have to know what the frames do not hold.
Control: the same network on frames whose aliases were turned by other frames' shifts.

Cost: the network's training and application, and cryo-ZSSR as published, on a movie of 1024² px.
"""

from __future__ import annotations

import torch

from benchmarks.harness import band_frc, measured, simulated, table
from models.gate import fusion_residual as fusion_gate
from models.networks import fusion_residual, zssr
from streamer import fourier
from streamer.motion.track import Motion
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import apoferritin
from streamer.super_resolution import accumulate
from streamer.super_resolution.averages import average
from streamer.super_resolution.fusion import Fusion
from streamer.super_resolution.training_data import training_data_of

BANDS = [(0.01, 0.06), (0.06, 0.12), (0.12, 0.18), (0.18, 0.245), (0.255, 0.30), (0.30, 0.36), (0.36, 0.45)]
_FRAMES, _SIZE = 40, 512
NOISE = 0.25
"""Variance of a coarse frame per px."""
_TRAINED, _HELD_OUT, _TESTED, _STEPS = 4, 2, 4, 400


def sparse(
    seed: int,
    *,
    size: int = _SIZE,
    frames: int = _FRAMES,
    strength: float = 0.23,
    particles: int = 20,
    radius: float = 30.0,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """A movie whose particles cover a part of the field: coarse frames (size/2)², shifts and the fine truth.

    Parameters
    ----------
    strength : signal over noise power of a fine detector's sum just beyond the physical Nyquist frequency.
    radius : of the particles, fine px.
    """
    generator = torch.Generator().manual_seed(seed)
    around = size // 8
    wide = size + 2 * around
    power = strength * torch.exp(-10.5 * (fourier.radius((wide, wide)) - 0.2775)) / frames
    noise = torch.randn(wide, wide, generator=generator)
    field = fourier.to_image(torch.fft.rfft2(noise) * power.sqrt(), (wide, wide))
    y, x = torch.meshgrid(torch.arange(wide), torch.arange(wide), indexing="ij")
    mask = torch.zeros(wide, wide)
    for place in torch.rand((particles, 2), generator=generator) * wide:
        mask = torch.maximum(mask, torch.sigmoid((radius - torch.hypot(y - place[0], x - place[1])) / 2.0))
    truth = field * mask / mask.square().mean().sqrt()
    steps = 0.7 * torch.randn(frames, 2, generator=generator, dtype=torch.float64)
    displacement = torch.cumsum(steps, 0) - steps[0]
    inner, half, taken = slice(around, -around), size // 2, []
    spectrum = torch.fft.rfft2(truth)
    for moved in displacement:
        image = fourier.to_image(spectrum * fourier.shift_ramp((wide, wide), moved), (wide, wide))[inner, inner]
        counted = NOISE**0.5 * torch.randn(half, half, generator=generator)
        taken.append(image.reshape(half, 2, half, 2).mean((1, 3)) + counted)
    return taken, -displacement / 2.0, truth[inner, inner]


def sums_of(frames: list[torch.Tensor], shifts: torch.Tensor) -> accumulate.AliasSums:
    """Unweighted sums on the fine grid."""
    motion = Motion(shifts=shifts, information=0.0, trusted=True, iterations=0)
    nothing = torch.zeros(len(frames))
    return accumulate.accumulate(lambda i: frames[i], motion, nothing, pixel_size=3.0, voltage_kv=300.0, n_groups=8)


def oracle(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Each band masked by the best gain for the truth's own local power."""
    shape = (image.shape[0], image.shape[1])
    within = fusion_residual.windows(fourier.radius(shape))
    ours, true = (fourier.to_image(torch.fft.rfft2(one)[None] * within, shape) for one in (image, truth))
    scale = ((ours * true).mean((1, 2)) / true.square().mean((1, 2)))[:, None, None]
    noise = (ours - scale * true).square().mean((1, 2))[:, None, None]
    around = torch.ones(1, 1, 17, 17) / 17**2
    local = torch.nn.functional.conv2d(true.square()[:, None], around, padding=8)[:, 0] * scale.square()
    return (ours * local / (local + noise)).sum(0)


def ratio(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """ρ²/(1−ρ²) per band."""
    frc = torch.tensor(band_frc(torch.fft.rfft2(image), torch.fft.rfft2(truth), (_SIZE, _SIZE), BANDS))
    return frc**2 / (1.0 - frc**2)


def sparse_particles() -> None:
    movies = [sparse(seed) for seed in range(_TRAINED + _HELD_OUT + _TESTED)]
    examples = []
    for seed, (frames, shifts, _) in enumerate(movies[: _TRAINED + _HELD_OUT]):
        examples.append(
            fusion_residual.FusionExample(str(seed), training_data_of(Fusion(sums_of(frames, shifts), NOISE), 3.0))
        )
    torch.manual_seed(0)
    net = fusion_residual.FusionResidualNet()
    with measured() as cost:
        fusion_residual.train(net, examples[:_TRAINED], steps=_STEPS, seed=1)
    decision = fusion_gate.judge(net, examples[_TRAINED:], incumbent=None, trained_on=frozenset())
    weight = torch.tensor([lam for _, lam in decision.weight])[:, None, None]
    found: dict[str, list[torch.Tensor]] = {}
    for frames, shifts, truth in movies[_TRAINED + _HELD_OUT :]:
        order = torch.randperm(_FRAMES, generator=torch.Generator().manual_seed(1))
        for name, moved in (("", shifts), (", other frames' shifts", shifts[order])):
            sums = sums_of(frames, moved)
            resolver = Fusion(sums, NOISE)
            image = resolver.image() / _FRAMES**0.5
            sensitive = sums.grid.sensitivity(sums.exposures)
            noise = fusion_residual.band_noise(sums.grid, sensitive, resolver.prior, resolver.white)
            with torch.inference_mode():
                changes, _ = fusion_residual.correct(net, image[None], noise)
            found.setdefault(f"fusion{name}", []).append(ratio(image, truth))
            found.setdefault(f"fusion + network{name}", []).append(ratio(image + (weight * changes[0]).sum(0), truth))
            if not name:
                found.setdefault("oracle mask", []).append(ratio(oracle(image, truth), truth))
    rows: list[list[object]] = [
        [name, *(f"{float(v):.3f}" for v in torch.stack(values).mean(0))] for name, values in found.items()
    ]
    lams = ", ".join(f"{lam:.2f}" for _, lam in decision.weight)
    note = f"Mean of {_TESTED} movies. Training: {_STEPS} steps, {cost.cpu_s:.0f} CPU-s. {decision.reason}; λ {lams}."
    table("network on fusion, sparse particles", ["arm", *(f"{a:g}-{b:g}" for a, b in BANDS)], rows, note)


def costs() -> None:
    scope = Microscope(pixel_size=3.0, dose_per_frame=1.5, n_frames=40)
    movie = simulated(scope, apoferritin(), 1)
    motion = movie.motion()
    rows: list[list[object]] = []

    def row(name: str, seconds: float, note: str) -> None:
        rows.append([name, f"{seconds:.1f}", note])

    with measured() as cost:
        sums = accumulate.accumulate(movie.frame(), motion, movie.exposures, pixel_size=3.0, voltage_kv=300.0)
        resolver = Fusion(sums, float(movie.counts.mean()))
        image = resolver.image()
    row("fusion", cost.cpu_s, "sums, prior and image, without the verdict")
    net = fusion_residual.FusionResidualNet()
    sensitive = sums.grid.sensitivity(sums.exposures)
    noise = fusion_residual.band_noise(sums.grid, sensitive, resolver.prior, resolver.white)
    with measured() as cost, torch.inference_mode():
        fusion_residual.correct(net, image[None], noise)
    row("network on fusion", cost.cpu_s, "one image")
    with measured() as cost:
        averages = average(movie.frame(), motion)
    row("cryo-ZSSR, averages", cost.cpu_s, "early and late frames aligned")
    torch.manual_seed(0)
    published = zssr.ZssrNet()
    with measured() as cost:
        zssr.train(published, [zssr.Pair("", averages)], seed=0, most_steps=10)
    row("cryo-ZSSR, training step", cost.cpu_s / 10, "a patch of 256²; about 200 are needed, per movie as published")
    with measured() as cost:
        zssr.back_project(zssr.apply(published, averages), averages.whole)
    row("cryo-ZSSR, image", cost.cpu_s, "one image, back-projection included")
    table("cost of the fine grid, 1024² × 40", ["what", "CPU-s", "note"], rows)


def main() -> None:
    torch.set_num_threads(2)
    sparse_particles()
    costs()


if __name__ == "__main__":
    main()
