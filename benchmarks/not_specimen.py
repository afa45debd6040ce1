"""What in a field is not specimen: how well it is found, and whether figures still rank dirt above protein.

    python -m benchmarks.not_specimen [--seeds 4] [--first 1] [--models DIRECTORY]

Scenes of ``streamer.simulation.scenes`` with their truth masks, true shifts, 4 exposures of 7.5 e⁻/Å². Recall is the
share of what is there that is masked; false is the share of the field that is masked more than 40 Å away from it. The
control of the ranking is the same figure of the whole field, as before there was a mask. A field that is said not to
be worth judging ranks below all others.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import measured, table
from streamer.band import band_of
from streamer.field_mask import KINDS
from streamer.quality import estimators
from streamer.quality.judged_part import judged_part
from streamer.quality.not_specimen import find_not_specimen
from streamer.simulation.movie import Detector
from streamer.simulation.scenes.scene import scene
from streamer.simulation.specimen import random_protein, read_model
from streamer.simulation.true_sums import recorded, true_sums
from streamer.sums import halves

SHAPE, PIXEL = (640, 640), 1.5
CLEAN = ("clean", "crowded", "sparse", "small", "virus", "membrane", "vesicles", "actin", "tubes", "waves-3",
         "gradient-20", "phase-plate", "weak", "heights", "overlapping+waves-3")  # fmt: skip
DIRTY = ("crystal", "crystals", "big-crystal", "crystal-edge", "carbon", "carbon-hole", "gold", "gold-hole", "torn",
         "virus+crystals", "weak+carbon-hole", "crowded+crystal+waves-1", "crowded+torn", "virus+torn")  # fmt: skip
PROTEIN = ("clean", "weak", "small", "waves-1", "crystal", "carbon-hole", "crystals+waves-1", "virus")
NONE = ("empty", "empty+carbon", "empty+carbon-hole", "empty+crystals", "empty+big-crystal", "empty+gold-hole",
        "empty+frost", "all-carbon")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What was found in one field."""

    recall: dict[str, float]
    false: float
    before: float
    """SSNR of the whole field."""
    after: float
    """SSNR as published; −1 where nothing is said."""
    seconds: float


def found(kind: str, seed: int, models: list[Path]) -> Found:
    """Simulate and judge one field."""
    specimen = read_model(models[seed * 37 % len(models)]) if models else random_protein(seed)
    view = scene(kind, seed, shape=SHAPE, pixel_size=PIXEL, motion="still", n_frames=4, dose_per_frame=7.5,
                 specimen=specimen)  # fmt: skip
    frames = recorded(view, Detector(SHAPE, 0))
    band = band_of(SHAPE, PIXEL, 6.0, 100.0)
    sums = halves.half_sums(true_sums(frames, view.displacement, band), PIXEL, view.scope.voltage_kv)
    with measured() as spent:
        field = find_not_specimen(sums)
    part = judged_part(sums, estimators.measure(sums), field)
    got, masks = field.at(SHAPE), {k: torch.from_numpy(m) for k, m in view.truth().masks.items()}
    recall = {k: float((got & m).sum() / m.sum()) for k, m in masks.items() if float(m.float().mean()) > 0.002}
    there = torch.stack([*masks.values(), torch.zeros(SHAPE, dtype=torch.bool)]).any(0)
    reach = 2 * round(40.0 / PIXEL) + 1
    near = torch.nn.functional.max_pool2d(there.float()[None, None], reach, 1, reach // 2)[0, 0] > 0
    rings = estimators.band_mask(SHAPE, PIXEL, 100.0, 6.0)
    ssnr = [
        2.0 * float(estimators.pooled(estimators.estimate(pair, pair, SHAPE), rings).snr)
        for window in (None, part.window)
        for pair in [tuple(estimators.tapered(half, SHAPE, window) for half in (sums.even, sums.odd))]
    ]
    return Found(
        recall=recall,
        false=float((got & ~near).float().mean()),
        before=ssnr[0],
        after=-1.0 if part.why_not else ssnr[1],
        seconds=spent.cpu_s,
    )


def _auc(good: list[float], bad: list[float]) -> float:
    """Probability that one of the good ranks above one of the bad."""
    pairs = np.subtract.outer(good, bad)
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--models", type=Path, help="directory of PDB files; random proteins without")
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = sorted(given.models.glob("*.pdb*")) if given.models else []
    kinds = tuple(dict.fromkeys((*CLEAN, *DIRTY, *PROTEIN, *NONE)))
    all_found: dict[str, list[Found]] = {kind: [] for kind in kinds}
    for seed in range(given.first, given.first + given.seeds):
        for kind in kinds:
            all_found[kind].append(found(kind, seed, models))
            print(kind, seed, all_found[kind][-1], flush=True)
        _tell(all_found, f"Seeds {given.first} to {seed}")


def _tell(all_found: dict[str, list[Found]], seeds: str) -> None:
    """Tables of all fields so far."""
    rows: list[list[object]] = []
    for kind, each in all_found.items():
        recalls = [value for one in each for value in one.recall.values()]
        names = "/".join(name for name in KINDS if any(name in one.recall for one in each))
        rows.append(
            [
                kind,
                names or "-",
                f"{np.mean(recalls):.2f}" if recalls else "-",
                f"{sum(r >= 0.9 for r in recalls)} of {len(recalls)}" if recalls else "-",
                f"{max(one.false for one in each):.3f}",
                f"{sum(one.false > 0.01 for one in each)} of {len(each)}",
                f"{np.median([one.before for one in each]):.3f}",
                f"{np.median([one.after for one in each]):.3f}",
                f"{np.median([one.seconds for one in each]):.2f}",
            ]
        )
    good, bad = ([one for kind in group for one in all_found[kind]] for group in (PROTEIN, NONE))
    ranks = [_auc([getattr(o, when) for o in good], [getattr(o, when) for o in bad]) for when in ("before", "after")]
    table(
        "what is not specimen",
        ["scene", "there", "recall", ">= 0.9", "false, worst", "> 1 %", "SSNR whole", "SSNR published", "CPU-s"],
        rows,
        f"Order of SSNR, protein ({len(good)}) against none ({len(bad)}): AUC {ranks[0]:.3f} of the whole field, "
        f"{ranks[1]:.3f} as published. {seeds}, {SHAPE[0]}², {PIXEL} Å/px.",
    )


if __name__ == "__main__":
    main()
