"""One simulated micrograph as every method shows it, at one grey scale: plain, Wiener, topaz, ours, the truth.

python -m benchmarks.denoise_picture TARGET.png [--topaz PYTHON] [--specimen NAME]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.denoise import DEFOCI, SPECIMENS, dose_for, microscope, prepared, topaz, trained, wiener
from streamer import fourier, restore
from streamer.writers.thumbnail import encode_png

SIDE = 360
"""px of each cut."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=Path)
    parser.add_argument("--topaz")
    parser.add_argument("--specimen", default="r101-2400")
    given = parser.parse_args()
    torch.set_num_threads(1)
    specimen = SPECIMENS[given.specimen]()
    dose = dose_for(specimen, 0.03)
    movies = [prepared(microscope(DEFOCI[n % 4], 0.03, dose), specimen, 90_000 + n) for n in range(10)]
    shown = movies[9]  # 1 µm
    shape = shown.sums.shape
    with tempfile.TemporaryDirectory() as place:
        model, gate, _ = trained(movies[:8], Path(place) / "v0001")
    proposal = model.propose(shown.sums, shown.spectrum)
    linear = wiener(shown, shown.spectrum.ssnr_full)
    served = restore.merge(linear, proposal.total, proposal.weight, shape)
    spectra = {"plain": shown.sums.total, "Wiener": linear}
    if given.topaz:
        spectra["topaz"] = topaz(given.topaz, [shown])[0][0]
    spectra |= {"ours": served, "truth": shown.movie.expected()}
    # coarser than 200 Å is ice and illumination, the same in all
    rise = ((fourier.radius(shape) / 1.5 * 200.0 - 0.5) * 2.0).clamp(0.0, 1.0)
    images = [fourier.to_image(s * rise, shape)[300 : 300 + SIDE, 300 : 300 + SIDE] for s in spectra.values()]
    # the plain one's noise would leave nothing to be seen of the others at its own scale
    scale = 3.0 * float(images[-1].std())
    strip = torch.cat([(image / scale).clamp(-1, 1) for image in images], dim=1).numpy()
    given.target.write_bytes(encode_png(strip, longer_side_px=strip.shape[1], label=", ".join(spectra)))
    print(gate, proposal.refused or "served", ", ".join(spectra))


if __name__ == "__main__":
    main()
