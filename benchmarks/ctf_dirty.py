"""Defocus of dirty fields: the whole field and the part that is specimen, beside the same seed's clean field.

    PYTHONPATH=. python -m benchmarks.ctf_dirty [--seeds N] [--first SEED] [--side PX] [SCENE…]

Frames are summed with their true shifts; the mask is the product's own. ``far``: a stated defocus that is off by more
than 300 Å. Films lie at the height of the ice in these scenes.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
import torch

from benchmarks.harness import table
from streamer import fourier
from streamer.band import band_of
from streamer.ctf import polar
from streamer.ctf.estimate import estimate_ctf
from streamer.ctf.lens import lens_of
from streamer.field_mask import CARBON, SPECIMEN, FieldMask
from streamer.quality.not_specimen import find_not_specimen
from streamer.simulation.movie import Detector
from streamer.simulation.scenes.scene import Scene, scene
from streamer.simulation.true_sums import recorded, true_sums
from streamer.sums import halves

SCENES = ("crystals", "big-crystal", "frost", "carbon", "carbon-hole", "all-carbon", "gold", "gold-hole", "torn")


def figures(one: Scene) -> dict[str, tuple[str, float, float]]:
    """State, error of the mean defocus in Å and its pull, for each way to look at a field."""
    camera, scope = Detector(one.scope.shape, 0), one.scope
    frames = recorded(one, camera)
    summed = true_sums(frames, one.displacement, band_of(scope.shape, scope.pixel_size, 6.0, 100.0))
    sums = halves.half_sums(summed, scope.pixel_size, scope.voltage_kv)
    image, mask = fourier.to_image(sums.total, sums.shape), find_not_specimen(sums)
    lens = lens_of(scope.voltage_kv, scope.cs_mm, scope.amplitude_contrast)
    true = 5_000.0 * (one.optics.defocus_u_um + one.optics.defocus_v_um)
    found = {}
    for way, weight in (("whole", None), ("specimen", weight_of(mask)), ("film too", weight_of(with_film(mask)))):
        cells = polar.cells_of_image(image, scope.pixel_size, polar.band_of(scope.pixel_size, 25.0, 3.0), weight)
        known = estimate_ctf({"sum": cells}, lens).figures
        off = pull = math.nan
        if known.defocus_u_angstrom is not None:
            off = 0.5 * (known.defocus_u_angstrom + known.defocus_v_angstrom) - true
            pull = off / known.defocus_sd_angstrom
        found[way] = (known.state, off, pull)
    return found


def weight_of(mask: FieldMask) -> torch.Tensor | None:
    """None where nothing, or nearly everything, is masked."""
    return None if mask.is_clean or mask.usable < 0.1 else mask.weight(mask.shape)


def with_film(mask: FieldMask) -> FieldMask:
    """A mask that leaves carbon in."""
    return replace(mask, kinds=torch.where(mask.kinds == CARBON, SPECIMEN, mask.kinds).to(torch.uint8))


def row(name: str, way: str, found: list[tuple[str, float, float]]) -> list[object]:
    off = np.array([one[1] for one in found if math.isfinite(one[1])])
    pulls = np.array([one[2] for one in found if math.isfinite(one[2])])
    far = int((np.abs(off) > 300.0).sum())
    near = off[np.abs(off) <= 300.0]
    rms = f"{np.sqrt((near**2).mean()):.1f}" if len(near) else "-"
    bias = f"{near.mean():+.1f}" if len(near) else "-"
    pull = f"{np.sqrt((pulls[np.abs(off) <= 300.0] ** 2).mean()):.2f}" if len(near) else "-"
    states = [one[0] for one in found]
    return [name, way, len(found), states.count("good"), states.count("weak"), far, rms, bias, pull]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", nargs="*", default=SCENES)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=900)
    parser.add_argument("--side", type=int, default=768)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, seeds = [], range(asked.first, asked.first + asked.seeds)
    for name in ("clean", *asked.scenes):
        found = [figures(scene(name, seed, (asked.side, asked.side), n_frames=6, dose_per_frame=6.0)) for seed in seeds]
        rows += [row(name, way, [one[way] for one in found]) for way in found[0] if way == "whole" or name != "clean"]
        print(rows[-3:], flush=True)
    header = ["scene", "spectrum of", "n", "good", "weak", "far", "mean Å", "bias", "pull"]
    table("ctf_dirty", header, rows)


if __name__ == "__main__":
    main()
