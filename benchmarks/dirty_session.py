"""A session with dirt in it: its own version, the base weights, and what is served of the two, movie by movie.

    python -m benchmarks.dirty_session [--seed N] [--side PX] [--structure FILE] [--rounds N]

One specimen, one camera, fresh movies throughout. The version continues the shipped base weights as the trainer does:
the same steps, judged by the same gate on movies that were held out; it is stored and compared whatever the gate says,
and the gate's word is reported. *Better*: the larger of what base weights and version gain when each is alone. Control:
base weights, which serve where there is no version. SNBR* by the truth, whole sum, 100-6 Å.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from msgspec.structs import replace

from benchmarks.dirty_denoise import fused_and_truth, snbr
from benchmarks.harness import measured, table
from models.gate.candidate import propose
from models.serving.session_model import SessionModel
from models.settings import SessionModelSettings
from models.training.denoiser import learning_rate_after
from models.training.movie import TrainingMovie
from models.versions.base_weights import shipped_base
from models.versions.checkpoint import load_pattern, load_version, save_version
from streamer import restore
from streamer.band import band_of
from streamer.quality import estimators
from streamer.simulation.movie import Detector
from streamer.simulation.specimen import random_protein, read_model
from streamer.sums.halves import group_sums, half_sums

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.records import HalfSums
    from streamer.simulation.movie import Microscope
    from streamer.simulation.specimen import Specimen
    from streamer.sums.frame_sum import FrameSums

LEARNED = ("clean", "crystals", "carbon-hole", "clean", "waves-3", "crystal", "gold-hole", "clean")
HELD_OUT = ("clean", "crystals", "carbon-hole", "clean")
SERVED = ("clean", "crystal", "crystals", "carbon", "gold-hole", "waves-3", "sparse", "weak", "clean", "empty")


LOW, FINEST = 100.0, 6.0
"""Å; ends of the band that group sums are kept in."""


class Session:
    """Movies of one specimen on one camera."""

    def __init__(self, specimen: Specimen, seed: int, side: int) -> None:
        self.specimen, self.seed, self.side = specimen, seed, side
        self.camera, self.exposed = Detector((side, side), seed % 5), 0

    def serve(self, name: str) -> tuple[HalfSums, Tensor]:
        """The next movie as it is served, and the truth."""
        fused, scope, truth = self._next(name)
        return half_sums(fused, scope.pixel_size, scope.voltage_kv), truth

    def teach(self, name: str, resolution: float) -> TrainingMovie:
        """The next movie as it is learned from."""
        fused, scope, _ = self._next(name)
        small = band_of(scope.shape, scope.pixel_size, FINEST, LOW).small
        sums = group_sums(fused, small, scope.pixel_size, scope.voltage_kv)
        if sums is None:
            raise ValueError("too few frames")
        return TrainingMovie(f"{self.exposed}", sums, LOW, resolution=resolution)

    def _next(self, name: str) -> tuple[FrameSums, Microscope, Tensor]:
        self.exposed += 1
        return fused_and_truth(name, self.specimen, self.seed + self.exposed, self.side, self.camera)


def trained(session: Session, rounds: int, directory: Path) -> str:
    """Make a version of the session; returns what the gate says of it."""
    base, parent = load_version(shipped_base())
    learned, held_out = ([session.teach(name, parent.resolution) for name in names] for names in (LEARNED, HELD_OUT))
    net, settings, said = copy.deepcopy(base), SessionModelSettings(), []
    for number in range(rounds):
        candidate = propose(
            net,
            learned,
            held_out,
            seed=20 + number,
            clock=time.process_time,
            steps=settings.first_steps,
            learning_rate=learning_rate_after(parent),
            incumbent=(base, parent.weight),
            first=True,
        )
        net, decision = candidate.net, candidate.decision
        said.append(f"{decision.result}: {decision.reason}, {candidate.report.seconds:.0f} CPU-s of training")
        if decision.result == "promoted":
            break
    figures = decision.figures
    if figures is None:
        raise ValueError(decision.reason)
    if candidate.is_promoted:
        candidate.save(directory, resolution=parent.resolution)
    else:  # compared all the same, with the λ that it would have
        aside = directory.with_name("rejected")
        manifest = candidate.save(aside, resolution=parent.resolution)
        known = replace(manifest, version=directory.name, weight=figures.weight)
        save_version(directory, net, known, load_pattern(aside, manifest))
    return "; ".join(said)


def gain(model: SessionModel, sums: HalfSums, truth: Tensor) -> tuple[float, str, float]:
    """SNBR* of what is served over the Wiener filter's, by whom, and CPU-seconds."""
    spectrum, mask = estimators.measure(sums), estimators.band_mask(sums.shape, sums.pixel_size, LOW, FINEST)
    if not spectrum.significant:
        return math.nan, "nothing is restored", 0.0
    with measured() as cost:
        proposal = model.propose(sums, spectrum, "new")
    image, made = restore.restore(sums, spectrum, proposal)
    wiener = restore.filtered(sums.total, spectrum.wiener, sums.shape)
    served = snbr(torch.fft.rfft2(image), truth, mask, sums.shape) / snbr(wiener, truth, mask, sums.shape)
    return served, proposal.model.version if made == "network" else made, cost.cpu_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=56_000)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--structure", type=Path, help="a *.pdb.gz; without it, a random protein")
    parser.add_argument("--rounds", type=int, default=1, help="of training, until the gate promotes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    specimen = read_model(given.structure) if given.structure else random_protein(given.seed, 2400)
    session, rows = Session(specimen, given.seed, given.side), []
    with tempfile.TemporaryDirectory() as place:
        said = trained(session, given.rounds, Path(place) / "v0001")
        print(said, flush=True)
        models = [SessionModel(shipped_base()), SessionModel(Path(place) / "v0001")]
        models.append(SessionModel(Path(place) / "v0001", rival=shipped_base()))
        for name in SERVED:
            sums, truth = session.serve(name)
            found = [gain(model, sums, truth) for model in models]
            rows.append((name, found))
            print(line(name, found), flush=True)
    title = "own versions and base weights in a session with dirt"
    header = ["scene", "base alone", "own alone", "served", "of the better", "by", "CPU-s, one", "CPU-s, both"]
    table(title, header, [line(*row) for row in rows], f"{specimen.name}, seed {given.seed}. {summary(rows)} {said}")


def line(name: str, found: list[tuple[float, str, float]]) -> list[object]:
    """One movie."""
    (base, _, _), (own, _, one), (both, by, two) = found
    return [name, *(f"{v:.2f}" for v in (base, own, both, both / max(base, own))), by, f"{one:.2f}", f"{two:.2f}"]


def summary(rows: list[tuple[str, list[tuple[float, str, float]]]]) -> str:
    """What all movies together say."""
    kept = [found for _, found in rows if math.isfinite(found[0][0])]
    base, own, both = (np.array([found[n][0] for found in kept]) for n in range(3))
    share = both / np.maximum(base, own)
    return (
        f"{(share >= 0.95).sum()} of {len(share)} at .95 of the better or more, worst {share.min():.3f}; "
        f"median {np.median(both):.2f}, base {np.median(base):.2f}, own {np.median(own):.2f}."
    )


if __name__ == "__main__":
    main()
