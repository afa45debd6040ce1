"""What the denoiser makes of the little real data there is: figures from halves and pictures, no truth.

    python -m benchmarks.denoise_real DATA [--topaz PYTHON] [--pictures DIRECTORY]

A motion-corrected micrograph has no frames left. Its four lattices of every second pixel stand in for frame groups,
each moved onto the common grid: what the pixels' own noise is, they do not share. A camera's pixels do share a little
of it (an electron spreads over several), and binning by Fourier cropping does not; so figures of unbinned particles are
too good for all methods alike, and only their order says something. One side of the field is learned from, the other
judged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import torch
from torch import Tensor

from benchmarks.denoise import topaz_images
from benchmarks.harness import table
from models.gate.scoring import measure_weight, outputs, weight_curve
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.training.denoiser import train
from models.training.movie import TrainingMovie
from streamer import fourier
from streamer.quality import estimators
from streamer.records import GroupSums
from streamer.writers.thumbnail import encode_png

LATTICES = ((0, 0), (0, 1), (1, 1), (1, 0))
"""Even and odd groups hold opposite corners of each square, so that both halves are centred in it."""
STEPS = 400


def groups_of(image: np.ndarray) -> Tensor:
    """(4, h/2, w/2) lattices of an image on one grid."""
    height, width = (size // 2 * 2 for size in image.shape)
    moved = []
    for row, column in LATTICES:
        lattice = torch.from_numpy(np.ascontiguousarray(image[row:height:2, column:width:2]))
        shape = (int(lattice.shape[0]), int(lattice.shape[1]))
        # a lattice pixel lies a quarter of the new pixel away from the square's centre
        shift = torch.tensor([row / 2.0 - 0.25, column / 2.0 - 0.25])
        moved.append(fourier.to_image(torch.fft.rfft2(lattice) * fourier.shift_ramp(shape, shift), shape))
    stack = torch.stack(moved)
    return (stack - stack.mean((1, 2), keepdim=True)) / stack.std()


def field(name: str, image: np.ndarray, pixel_size: float, low: float) -> TrainingMovie:
    """A part of an image as a movie of four groups."""
    groups = groups_of(image.astype(np.float32))
    side = tuple(int(size) // 8 * 8 for size in groups.shape[1:])
    groups = groups[:, : side[0], : side[1]]
    sums = GroupSums(
        groups=groups,
        exposures=((0.0,),) * 4,
        shape=(side[0], side[1]),
        pixel_size=2.0 * pixel_size,
        voltage_kv=300.0,
    )
    return TrainingMovie(name, sums, low)


def halves() -> tuple[Tensor, Tensor]:
    """Masks of the even and the odd groups."""
    even = torch.tensor([True, False, True, False])
    return even, ~even


def judged(
    label: str, learned: list[TrainingMovie], unseen: list[TrainingMovie], python: str | None
) -> list[list[object]]:
    """Rows of figures: SNBR* of halves, pooled over the parts that were not learned from."""
    torch.manual_seed(20)
    net = build(DENOISERS["small"])
    train(net, learned, steps=STEPS, seed=20)
    weight = measure_weight(net, unseen)
    found: dict[str, list[Tensor]] = {}
    for movie in unseen:
        shape, pixel = movie.band.small, movie.band.band_pixel_size
        mask = estimators.band_mask(shape, pixel, movie.band.low, 2.0 * pixel)
        plane = fourier.from_rings(weight_curve(weight, fourier.ring_frequencies(shape) / pixel), shape)
        made = [outputs(net, movie, chosen) for chosen in halves()]
        spectra = {
            "raw": [m[0] for m in made],
            "own Wiener filter": [m[1] for m in made],
            "ours": [torch.lerp(m[1], m[2], plane.to(m[1].dtype)) for m in made],
        }
        if python is not None:
            plain = np.stack([fourier.to_image(m[0], shape).numpy() for m in made])
            images, _ = topaz_images(python, plain)
            spectra["topaz"] = list(torch.fft.rfft2(images))
        raw = [estimators.tapered(s, shape) for s in spectra["raw"]]
        for method, pair in spectra.items():
            tapered = [estimators.tapered(s, shape) for s in pair]
            sums = estimators.estimate((raw[0], raw[1]), (tapered[0], tapered[1]), shape)[:, mask].sum(-1)
            found.setdefault(method, []).append(sums)
    pooled = {method: float(estimators.ratios(torch.stack(s).sum(0)).snbr) for method, s in found.items()}
    return [[label, m, f"{v:.2f}", f"{v / pooled['own Wiener filter']:.2f}"] for m, v in pooled.items()]


def picture(
    net_input: TrainingMovie,
    learned: list[TrainingMovie],
    unseen: list[TrainingMovie],
    target: Path,
    python: str | None,
) -> None:
    """Plain, Wiener, topaz and ours side by side at one grey scale."""
    torch.manual_seed(20)
    net = build(DENOISERS["small"])
    train(net, learned, steps=STEPS, seed=20)
    everything = torch.ones(len(net_input), dtype=torch.bool)
    raw, linear, proposed = outputs(net, net_input, everything)
    shape = net_input.band.small
    rings = fourier.ring_frequencies(shape) / net_input.band.band_pixel_size
    plane = fourier.from_rings(weight_curve(measure_weight(net, unseen), rings), shape)
    served = torch.lerp(linear, proposed, plane.to(linear.dtype))
    images = [fourier.to_image(s * net_input.window, shape) for s in (raw, linear, served)]
    if python is not None:
        made, _ = topaz_images(python, fourier.to_image(raw, shape).numpy()[None])
        images.insert(2, fourier.to_image(torch.fft.rfft2(made[0]) * net_input.window, shape))
    scale = 3.0 * float(images[-1].std())
    strip = torch.cat([(image / scale).clamp(-1, 1) for image in images], dim=1).numpy()
    target.write_bytes(encode_png(strip, longer_side_px=strip.shape[1], label="plain, Wiener, topaz, ours"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--topaz")
    parser.add_argument("--pictures", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    torch.set_num_threads(1)
    (path,) = (given.data / "micrograph-apoferritin-ds8").glob("*.mrc")
    with mrcfile.open(path) as file:
        image = np.array(file.data, dtype=np.float32)[16:496, 16:496]  # the edge is a dark frame
    parts = [field(f"part {n}", image[rows, columns], 6.3, 400.0) for n, (rows, columns) in enumerate(
        (r, c) for r in (slice(0, 240), slice(240, 480)) for c in (slice(0, 240), slice(240, 480)))]  # fmt: skip
    rows = judged("apoferritin, 8 times binned, 12.6 Å/px", parts[:2], parts[2:], given.topaz)
    picture(parts[3], parts[:2], parts[2:], given.pictures / "real_apoferritin.png", given.topaz)
    (path,) = (given.data / "particles-10076-fullres").glob("*.mrc")
    with mrcfile.open(path) as file:
        stack = np.array(file.data, dtype=np.float32)
    particles = [field(f"particle {n}", one, 1.31, 100.0) for n, one in enumerate(stack)]
    rows += judged("ribosomes, 2.62 Å/px", particles[:4], particles[4:], given.topaz)
    picture(particles[5], particles[:4], particles[4:], given.pictures / "real_ribosome.png", given.topaz)
    table(
        "real images, SNBR* from halves",
        ["data", "method", "SNBR*", "over Wiener"],
        rows,
        "Lattices of pixels stand in for halves; no truth.",
    )


if __name__ == "__main__":
    main()
