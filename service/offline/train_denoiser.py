"""``streamer models train``: a version from finished movies, judged by the same gate as the daemon's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from msgspec import Struct

from models.gate.candidate import TrainedCandidate, propose
from models.gate.denoiser import Decision, Thresholds, probe_failure
from models.gate.probes import probes
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.settings import SessionModelSettings, is_held_out
from models.training.denoiser import learning_rate_after
from models.training.movie import TrainingMovie, common_resolution, fits, movies_below, useful_resolution
from models.versions.checkpoint import load_version
from streamer.ctf.table import optics_of, read_optics
from streamer.errors import UsageError
from streamer.runtime.clock import SYSTEM
from streamer.runtime.device import use_threads
from streamer.settings import DenoiseSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.manifest import Manifest
    from models.networks.denoiser import Denoiser
    from streamer.ctf.transfer import Optics


class TrainingResult(Struct, frozen=True, kw_only=True):
    """What ``models train --json`` prints."""

    directory: str
    decision: Decision
    steps: int
    seconds: float
    trained_on: list[str]
    held_out: list[str]


def train_offline(
    directories: list[Path],
    out: Path,
    *,
    steps: int | None,
    seconds: float | None,
    base: Path | None,
    network: str,
    seed: int,
    ctf: Path | None,
) -> TrainingResult:
    """Train, judge and store a version.

    Parameters
    ----------
    network : one of ``DENOISERS``; that of ``base`` where there is one.
    ctf : STAR file with the movies' CTF, to flip phases by; None: phases stay as they are.

    Raises
    ------
    UsageError
        If there are too few movies with group sums and significant signal, the sums were made with different settings,
        or the base learned from flipped phases and there is no CTF, or the other way round.
    ModelError
        If the base cannot be loaded, or the version's directory exists.
    """
    settings, low = SessionModelSettings(), DenoiseSettings().low
    use_threads(settings.threads)
    movies = _movies(directories, low, ctf)
    net, parent = _started(base, network, seed, flipped=ctf is not None)
    made_to = _resolution(movies, directories)
    resolution = max(made_to, parent.resolution if parent else useful_resolution(movies))
    for movie in movies:
        movie.crop(resolution)
    learned = [movie for index, movie in enumerate(movies) if not is_held_out(index)]
    held_out = [movie for index, movie in enumerate(movies) if is_held_out(index)]
    candidate = propose(
        net,
        learned,
        held_out,
        seed=seed,
        clock=SYSTEM.monotonic,
        steps=None if seconds else steps or settings.first_steps,
        seconds=seconds,
        learning_rate=learning_rate_after(parent),
        trained_before=parent.trained_on if parent else (),
    )
    return stored(candidate, out, resolution=resolution, base=parent.sha256 if parent else None)


def stored(
    candidate: TrainedCandidate, out: Path, *, resolution: float, base: str | None = None, general: bool = False
) -> TrainingResult:
    """Store a candidate as a version; what is printed of it."""
    candidate.save(out, resolution=resolution, base=base, general=general)
    return TrainingResult(
        directory=str(out),
        decision=candidate.decision,
        steps=candidate.report.steps,
        seconds=round(candidate.report.seconds, 2),
        trained_on=candidate.trained_on,
        held_out=[movie.movie_id for movie in candidate.held_out],
    )


def _started(base: Path | None, network: str, seed: int, *, flipped: bool) -> tuple[Denoiser, Manifest | None]:
    """Network to start from, and the manifest of its version."""
    torch.manual_seed(seed)
    if base is None:
        return build(DENOISERS[network]), None
    net, parent = load_version(base)
    if (parent.ctf == "flip") != flipped:
        raise UsageError(
            "the version to start from learned from images of another kind",
            where=base,
            expected="phases flipped: give --ctf" if parent.ctf == "flip" else "phases as they are: omit --ctf",
            hint="start from another version, or from scratch",
        )
    return net, parent


class ProbeResult(Struct, frozen=True, kw_only=True):
    """What ``models probe --json`` prints."""

    probes: dict[str, float]
    """See ``models.gate.probes``."""
    limits: dict[str, str]
    """What the gate allows."""
    failure: str
    """Empty: all limits are kept."""
    movies: int


def probe(directory: Path, places: list[Path], ctf: Path | None) -> ProbeResult:
    """Probe a version on finished movies that it has not learned from."""
    net, manifest = load_version(directory)
    if manifest.ctf == "flip" and ctf is None:
        raise UsageError("the model learned from flipped phases", where=directory, hint="give --ctf")
    movies = _movies(places, manifest.low, ctf if manifest.ctf == "flip" else None)
    unseen = [movie for movie in movies if movie.movie_id not in manifest.trained_on]
    for movie in unseen:
        movie.crop(manifest.resolution)
    unseen = [movie for movie in unseen if fits(movie, manifest)]
    if not unseen:
        expected = f"sums to {manifest.resolution:g} Å at {manifest.pixel_size:g} Å/px, not learned from"
        raise UsageError(
            "no movie to probe with",
            where=places[0],
            expected=expected,
            found=f"{len(movies)} others",
            hint="give movies that the version was not trained on, processed with --keep-groups",
        )
    found, limits = probes(net, unseen), Thresholds()
    highest = f"at most {limits.noise_coherence:g}"
    return ProbeResult(
        probes=found,
        limits={
            "noise_coherence": highest,
            "other_movie_coherence": highest,
            "blank_contrast": f"at most {limits.blank_contrast:g}",
            "injected": f"{limits.injected_low:g} to {limits.injected_high:g}",
            "injected_weak": f"at most {limits.injected_high:g}",
        },
        failure=probe_failure(found, limits),
        movies=len(unseen),
    )


def _movies(directories: list[Path], low: float, ctf: Path | None) -> list[TrainingMovie]:
    """Movies with signal below some directories, each once."""
    found = movies_below(directories, low, optics=None if ctf is None else _reader_of_optics(ctf))
    if len(found) < 2:
        raise UsageError(
            "too few movies to learn from",
            where=", ".join(str(d) for d in directories),
            expected="at least 2 with frame-group sums and signal",
            found=str(len(found)),
            hint="process them with --keep-groups",
        )
    return found


def _reader_of_optics(star: Path) -> Callable[[Path], Optics]:
    """Finds a movie's CTF by the path of its group sums."""
    table = read_optics(star)
    return lambda path: optics_of(table, path.name, star)


def _resolution(movies: list[TrainingMovie], directories: list[Path]) -> float:
    """Fine end of the band that all group sums were made in, Å: where the network will be applied."""
    bands = [movie.band for movie in movies]
    resolution = common_resolution(bands, DenoiseSettings().resolution)
    if resolution is None:
        kinds = Counter((f"{2.0 * band.band_pixel_size:.1f} Å", f"{band.pixel_size:.3g} Å/px") for band in bands)
        found = ", ".join(f"{n} to {fine} at {pixel_size}" for (fine, pixel_size), n in sorted(kinds.items()))
        raise UsageError(
            "the frame-group sums were made with different settings",
            where=", ".join(str(d) for d in directories),
            expected="one band and one pixel size",
            found=f"movies with sums {found}",
            hint="train on each kind separately, or process all with the same denoise.resolution",
        )
    return resolution
