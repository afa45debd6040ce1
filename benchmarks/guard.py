"""Where the denoiser must not be believed: sessions of other kinds, and movies that the guard has to refuse.

    python -m benchmarks.guard [--clean N]

First table: sessions whose movies are not what a denoiser is shown off with; each is trained, gated and judged by the
truth as in ``benchmarks.denoise``. Second table: movies that do not belong to the session that the network learned in.
What counts is the truth: a refusal of a movie that the network would have spoilt, and none of one that it would not.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.denoise import DEFOCI, SPECIMENS, against_truth, dose_for, microscope, prepared, snbr, trained, wiener
from benchmarks.harness import table
from models.gate.denoiser import Thresholds, judge
from models.gate.scoring import weight_curve
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.training.denoiser import train
from models.training.movie import TrainingMovie, useful_resolution
from streamer import restore
from streamer.detector.gain_check import check_fit
from streamer.quality import estimators
from streamer.settings import GainSettings
from streamer.simulation.movie import Detector, Microscope
from streamer.simulation.specimen import Specimen, apoferritin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.denoise import Prepared
    from models.serving.session_model import SessionModel

SESSIONS = ("r101-2400", "r303-4800", "r404-800")
INJECTED = 12


def shown(model: SessionModel, movie: Prepared, pixel_size: float | None = None) -> tuple[str | None, float, float]:
    """The refusal, and by the truth the gain over the Wiener filter with the network, whether it was refused or not."""
    sums = movie.sums if pixel_size is None else replace(movie.sums, pixel_size=pixel_size)
    fit = gain_advice(movie)
    proposal = model.propose(sums, movie.spectrum)
    refusal = proposal.refused or (fit and f"gain: {fit}")
    shape = movie.sums.shape
    mask = estimators.band_mask(shape, movie.sums.pixel_size, 100.0, 6.0)
    linear = wiener(movie, movie.spectrum.ssnr_full)
    # the network as it would have been served without the guard
    weight = unguarded(model, movie)
    served = restore.merge(linear, proposal.total, weight, shape)
    at_most, with_network = (snbr(against_truth(s, movie), mask) for s in (linear, served))
    return refusal, with_network / max(at_most, 1e-9), at_most


def unguarded(model: SessionModel, movie: Prepared) -> torch.Tensor:
    """1 where the version may change anything; λ itself is in the correction."""
    return (weight_curve(model.manifest.weight, movie.spectrum.fftfreq / movie.sums.pixel_size) > 0.0).double()


def gain_advice(movie: Prepared) -> str | None:
    """What the pipeline would have said of the gain."""
    gain = movie.movie.frames.gain
    if gain is None:
        return None
    fit = check_fit(movie.movie.counts.sum(0, dtype=np.float32), gain.values, GainSettings(), "multiply")
    return None if fit is None else fit.advice


def movies(
    specimen: Specimen | None,
    dose: float,
    count: int,
    seed: int,
    change: Callable[[Microscope], Microscope],
    **kind: object,
) -> Iterator[Prepared]:
    """Movies over the defoci."""
    for n in range(count):
        scope = change(microscope(DEFOCI[n % 4], 0.03, dose))
        yield prepared(scope, specimen, seed + n, **kind)  # type: ignore[arg-type]


def plain(scope: Microscope) -> Microscope:
    return scope


def flat(shape: tuple[int, int]) -> np.ndarray:
    """A gain that corrects nothing."""
    return np.ones(shape, dtype=np.float32)


def kinds_of_sessions() -> None:
    """First table."""
    name = SESSIONS[0]
    specimen = SPECIMENS[name]()
    dose = dose_for(specimen, 0.03)
    kinds: list[tuple[str, Callable[[Microscope], Microscope], dict[str, object]]] = [
        ("as in benchmarks.denoise", plain, {}),
        ("crowded: coverage 0.6", lambda s: replace(s, coverage=0.6), {}),
        ("sparse: coverage 0.05", lambda s: replace(s, coverage=0.05), {}),
        ("on carbon: four times the ice contrast", lambda s: replace(s, ice_contrast=0.12), {}),
        ("200 kV", lambda s: replace(s, voltage_kv=200.0), {}),
        ("phase plate: 90 degrees at 0.6 to 2.2 µm", lambda s: replace(s, phase_shift_deg=90.0), {}),
        ("shifts wrong by 1 px at the end", plain, {"drift_error": 1.0}),
        ("shifts wrong by 3 px at the end", plain, {"drift_error": 3.0}),
        ("no gain correction", plain, {"gain": flat((1024, 1024))}),
        ("gain of another day: a tenth of the pattern left", plain, {"gain": stale((1024, 1024))}),
    ]
    rows = []
    for label, change, kind in kinds:
        ready = list(movies(specimen, dose, 8 + 4, 70_000, change, **kind))
        with tempfile.TemporaryDirectory() as place:
            model, gate, _ = trained(ready[:8], Path(place) / "v0001")
        found = [shown(model, movie) for movie in ready[8:]]
        gains = [gain for _, gain, _ in found]
        refused = [refusal for refusal, _, _ in found if refusal]
        reason = refused[0] if refused else ""
        wieners = float(np.mean([at_most for _, _, at_most in found]))
        rows.append(
            [label, f"{wieners:.2f}", f"{min(gains):.2f}", f"{np.median(gains):.2f}", gate, len(refused), reason]
        )
    table(
        "sessions of other kinds",
        ["session", "Wiener SNBR*", "worst gain", "median gain", "gate", "refused of 4", "first reason"],
        rows,
        f"{name}; gain: SNBR* by the truth over the Wiener filter's if the network were served whatever gate and guard "
        "say.",
    )


def stale(shape: tuple[int, int]) -> np.ndarray:
    """The camera's reference with an error of a tenth of its pattern."""
    gain, other = (Detector(shape, seed).gain_reference() for seed in (0, 99))
    there = gain > 0
    wrong = gain.copy()
    wrong[there] *= 1.0 + 0.1 * (other[there] / other[other > 0].mean() - 1.0)
    return wrong


def intruders(
    specimen: Specimen, dose: float, seed: int, clean: int
) -> Iterator[tuple[str, Iterator[Prepared], float | None]]:
    """Kind, movies, and the pixel size that their header states where it is wrong."""
    other, shape = apoferritin(), (1024, 1024)
    camera = Detector(shape, 5).gain_reference()
    yield "clean", movies(specimen, dose, clean, seed + 100, plain), None
    yield "empty ice", movies(None, dose, INJECTED, seed + 300, plain), None
    uncorrected = movies(specimen, dose, INJECTED, seed + 400, plain, gain=flat(shape))
    yield "gain not applied to the movie", uncorrected, None
    yield "another camera's gain", movies(specimen, dose, INJECTED, seed + 500, plain, gain=camera), None
    for pixel_size in (0.75, 3.0):
        wrong = movies(specimen, dose, INJECTED, seed + 600, lambda s, p=pixel_size: replace(s, pixel_size=p))
        yield f"{pixel_size:g} Å/px where the header says 1.5", wrong, 1.5
    yield "another specimen: apoferritin", movies(other, dose_for(other, 0.03), INJECTED, seed + 800, plain), None


def injected(clean: int) -> None:
    """Second table."""
    counts: dict[str, list[tuple[str | None, float]]] = {}
    for name in SESSIONS:
        specimen = SPECIMENS[name]()
        dose = dose_for(specimen, 0.03)
        seed = sum(ord(c) for c in name) * 1000
        with tempfile.TemporaryDirectory() as place:
            ready = list(movies(specimen, dose, 8, seed, plain))
            model, gate, _ = trained(ready, Path(place) / "v0001")
            print(name, "one split of one micrograph by heart:", overfit(ready), flush=True)
            bare, bare_gate, _ = trained(
                list(movies(specimen, dose, 8, seed, plain, gain=flat((1024, 1024)))), Path(place) / "v0002"
            )
        print(name, gate, "/", bare_gate, flush=True)

        for kind, ready, stated in intruders(specimen, dose, seed, clean):
            for movie in ready:
                counts.setdefault(kind, []).append(shown(model, movie, stated)[:2])
                if kind == "gain not applied to the movie":
                    counts.setdefault("gain never applied in the session", []).append(gated(bare, bare_gate, movie)[:2])
    rows = []
    for kind, found in counts.items():
        gains = np.array([gain for _, gain in found])
        refused = np.array([refusal is not None for refusal, _ in found])
        harmful = gains < 1.0
        passed = f"{gains[~refused].min():.2f}" if (~refused).any() else "-"
        reason = next((r for r, _ in found if r), "")
        rows.append(
            [kind, len(found), int(refused.sum()), int(harmful.sum()), int((harmful & ~refused).sum()), passed, reason]
        )
    table(
        "movies that the guard has to refuse",
        ["movies", "n", "refused", "network worse than Wiener", "of these let through", "worst let through", "reason"],
        rows,
        f"{', '.join(SESSIONS)}; worse, and worst let through: SNBR* by the truth over the Wiener filter's.",
    )


def overfit(ready: list[Prepared]) -> str:
    """The gate's word on a network that learned one split of one micrograph by heart."""
    first = ready[0].groups
    two = torch.stack([first.groups[0::2].float().sum(0), first.groups[1::2].float().sum(0)])
    ends = tuple(tuple(e for group in first.exposures[start::2] for e in group) for start in range(2))
    learned = TrainingMovie("0", replace(first, groups=(two / two.std()).half(), exposures=ends), 100.0)
    held_out = [TrainingMovie(str(n), movie.groups, 100.0) for n, movie in enumerate(ready[1:8], 1)]
    resolution = max(6.0, useful_resolution(held_out))
    for movie in (learned, *held_out):
        movie.crop(resolution)
    torch.manual_seed(20)
    net = build(DENOISERS["small"])
    train(net, [learned], steps=1500, seed=20)
    decision = judge(net, held_out, incumbent=None, thresholds=Thresholds(), trained_on=frozenset("0"))
    figures = decision.figures
    gains = [s.snbr / s.snbr_wiener for s in figures.scores] if figures else []
    return f"{decision.result}: {decision.reason}; gains {min(gains):.2f} to {max(gains):.2f}"


def gated(model: SessionModel, gate: str, movie: Prepared) -> tuple[str | None, float, float]:
    """As ``shown``, refused too where the gate kept the version from serving."""
    refusal, gain, at_most = shown(model, movie)
    return refusal or (None if gate.startswith("promoted") else f"gate: {gate}"), gain, at_most


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["sessions", "movies"], help="one of the tables")
    parser.add_argument("--clean", type=int, default=36, help="clean movies per session")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only != "movies":
        kinds_of_sessions()
    if given.only != "sessions":
        injected(given.clean)


if __name__ == "__main__":
    main()
