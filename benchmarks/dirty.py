"""Every kind of dirty field through the product, against the truth: motion, restored image, figures, picks.

    python -m benchmarks.dirty [--seeds N] [--first SEED] [--size H W] [--structures N] [--motion NAME]
                               [--pictures DIRECTORY] [SCENE…]

Each row is a kind of field (``streamer simulate --scene``), each movie a fresh seed with a random protein of its own;
with ``--structures N`` the specimens are N real ones of ``../shared/data/models/bm5`` in turn, where they are present.
Frames go the product's whole way from the counts on, with base weights. The control of a row is the same field, seed
for seed, without what the name adds: the row ``clean``. ``SCENES`` and ``seen`` are for other benchmarks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.harness import table
from models.serving.session_model import SessionModel, proposal_of
from models.versions.base_weights import shipped_base
from service.config import Config
from service.demo.checks import matched
from streamer import fourier, restore
from streamer.motion.field import shifts_at
from streamer.movie_record import MovieSource, Times
from streamer.picking.pick import pick
from streamer.pipeline import Job, compute_micrograph
from streamer.quality import estimators
from streamer.records import Instructions
from streamer.runtime.stopwatch import Stopwatch
from streamer.simulation.movie import Detector
from streamer.simulation.scenes.kinds import KINDS
from streamer.simulation.scenes.scene import Scene, SceneTruth, scene
from streamer.simulation.specimen import Specimen, read_model
from streamer.simulation.true_sums import recorded
from streamer.super_resolution.step import SuperResolutionRequest
from streamer.writers.thumbnail import encode_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.micrograph import Micrograph
    from streamer.records import Frames

STRUCTURES = Path(__file__).parents[2] / "shared/data/models/bm5"
JOINED = ("empty+crystals", "empty+carbon-hole", "empty+gold", "virus+carbon", "small+weak", "small+waves-3+crystal")
SCENES = (*KINDS, *JOINED)
"""Every kind, the named motions among them, and some that have more than one thing."""
BAND = (100.0, 6.0)
"""Å, over which SNBR* is pooled."""
_NEAR_PX = 15
"""How far from a pixel Wiener's largest value may be to excuse one as large in the restored image."""
_HIT = 0.25
"""Of the diameter, within which a pick is one."""


@dataclass(frozen=True)
class Seen:
    """A movie, what is true of it, and what the product makes of it."""

    scene: Scene
    truth: SceneTruth
    frames: Frames
    expected: torch.Tensor
    """Spectrum of the micrograph without noise."""
    micrograph: Micrograph


def real_structures(count: int, seed: int = 0) -> list[Specimen]:
    """Real proteins drawn at random; none where the data is not there."""
    files = sorted(STRUCTURES.glob("*.pdb.gz"))
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    return [read_model(files[n]) for n in chosen]


def seen(one: Scene, model: SessionModel | None) -> Seen:
    """Expose a scene and let the product look at it, from the counts to the figures."""
    camera, scope, config = Detector(one.scope.shape, 0), one.scope, Config()
    frames = recorded(one, camera)
    height, width = scope.shape
    source = MovieSource(
        path="simulated",
        bytes=0,
        mtime_ns=0,
        fingerprint="",
        format="tiff",
        n_frames=scope.n_frames,
        height=height,
        width=width,
        evidence="sidecar",
        pixel_size=scope.pixel_size,
        voltage_kv=scope.voltage_kv,
        cs_mm=scope.cs_mm,
        amplitude_contrast=scope.amplitude_contrast,
        dose_per_frame=scope.dose_per_frame,
        pre_exposure=0.0,
        gain="simulated",
    )
    job = Job(
        instructions=Instructions(session_directory="", shed=("super-resolution",)),
        settings=config,
        device=torch.device("cpu"),
        gain=frames.gain,
        propose=None if model is None else lambda sums, spectrum: proposal_of(model, "m", sums, spectrum),
        super_resolution=SuperResolutionRequest(movie_id="m"),
    )
    micrograph = compute_micrograph(frames, source, job, Stopwatch(Times()))
    return Seen(one, one.truth(), frames, one.noise_free(camera), micrograph)


# ------------------------------------------------------------------------------------------------------------ figures


def motion_error(one: Seen) -> tuple[float, float]:
    """Root mean square over 81 places and all frames of what the product leaves, and of what there was, px."""
    places = torch.from_numpy(one.truth.places.reshape(-1, 2)).double()
    local = one.truth.local.reshape(len(one.truth.local), -1, 2)
    true = torch.from_numpy(local + one.truth.displacement[:, None]).double()
    return _spread(shifts_at(one.micrograph.motion, places) + true), _spread(true)


def _spread(off: torch.Tensor) -> float:
    return float((off - off.mean(0)).square().sum(-1).mean().sqrt())


def clear_weight(one: Seen) -> torch.Tensor:
    """(h, w) 1 on the specimen, falling to 0 over some px towards what the truth's mask names."""
    dirty = torch.from_numpy(one.truth.mask).float()[None, None]
    wide = torch.nn.functional.max_pool2d(dirty, 17, stride=1, padding=8)
    soft = torch.nn.functional.avg_pool2d(wide, 17, stride=1, padding=8, count_include_pad=False)
    return 1.0 - soft[0, 0]


def snbr(image: torch.Tensor, one: Seen, weight: torch.Tensor | None = None) -> float:
    """SNBR* of an image (h, w) against the truth, pooled over the band; with a weight, of that part of the field."""
    shape = one.micrograph.sums.shape
    true = fourier.to_image(one.expected, shape)
    if weight is None:
        weight = torch.ones(shape)
    spectra = []
    for picture in (image, true):
        level = (picture * weight).sum() / weight.sum().clamp(min=1.0)
        spectra.append(estimators.tapered(torch.fft.rfft2((picture - level) * weight), shape))
    mask = estimators.band_mask(shape, one.scene.scope.pixel_size, *BAND)
    pairs = ((0, 1), (0, 0), (1, 1))
    cross, own, truth = (float(estimators.covariance(spectra[a], spectra[b], shape)[mask].sum()) for a, b in pairs)
    rho2 = min(cross**2 / max(own * truth, 1e-30), 1.0 - 1e-9)
    return rho2 / (1.0 - rho2)


def wiener_image(one: Seen) -> torch.Tensor:
    """(h, w) the same sum under its own Wiener filter."""
    sums, spectrum = one.micrograph.sums, one.micrograph.spectrum
    return fourier.to_image(restore.filtered(sums.total, spectrum.wiener, sums.shape), sums.shape)


def excess(one: Seen) -> float:
    """Largest value of the restored image over the largest of Wiener's near it, both from the mean."""
    linear, shown = wiener_image(one), one.micrograph.restored.image
    most = (linear - linear.mean()).abs()[None, None]
    most = torch.nn.functional.max_pool2d(most, 2 * _NEAR_PX + 1, stride=1, padding=_NEAR_PX)[0, 0]
    return float(((shown - shown.mean()).abs() / most.clamp(min=1e-6)).max())


def picks(one: Seen) -> tuple[int, int, int]:
    """Hits, picks and particles: what the picker finds in the sum at the true diameter, beside what is not specimen.

    Counted are particles free of dirt and not cut by the edge.
    """
    pixel, diameter = one.scene.scope.pixel_size, one.truth.diameter
    shape = np.array(one.scene.scope.shape)
    true, margin = one.truth.particles[one.truth.clear], 0.4 * diameter / pixel
    inner = ((true >= margin) & (true < shape - margin)).all(1)
    if one.truth.paths or not 0.0 < diameter < 0.5 * pixel * shape.min():
        return 0, 0, 0
    if one.micrograph.restored.by == "none":
        return 0, 0, int(inner.sum())
    sums, field = one.micrograph.sums, one.micrograph.field
    usable = None if field.is_clean else ~field.at(sums.shape)
    found = pick(fourier.to_image(sums.total, sums.shape), pixel, diameter, usable=usable)
    points = np.stack([found.y, found.x], 1) if found.x else np.zeros((0, 2))
    hits = matched(points, true, _HIT * diameter / pixel)
    return min(hits, int(inner.sum())), len(points), int(inner.sum())


def row(name: str, movies: list[Seen]) -> list[object]:
    """Medians over movies; the gain over Wiener also at its worst."""
    errors = [motion_error(one) for one in movies]
    gains, clear, over = [], [], []
    for one in movies:
        if one.micrograph.restored.by == "none":
            continue  # the plain sum is served, and Wiener's filter passes nothing
        weight = clear_weight(one)
        linear, shown = wiener_image(one), one.micrograph.restored.image
        gains.append(snbr(shown, one) / max(snbr(linear, one), 1e-9))
        if float(weight.mean()) > 0.05:
            clear.append(snbr(shown, one, weight) / max(snbr(linear, one, weight), 1e-9))
        over.append(excess(one))
    hits, found, true = (sum(values) for values in zip(*(picks(one) for one in movies), strict=True))
    f1 = f"{2.0 * hits / (found + true):.2f}" if true else "-"
    quality = [one.micrograph.metrics for one in movies]
    applied = [one.micrograph.restored.by for one in movies]
    return [
        name,
        f"{100.0 * np.mean([one.truth.mask.mean() for one in movies]):.0f}",
        f"{np.median([e for _, e in errors]):.2f}",
        f"{np.median([e for e, _ in errors]):.2f}",
        f"{max(e for e, _ in errors):.2f}",
        f"{sum(one.micrograph.motion.trusted for one in movies)}/{len(movies)}",
        f"{applied.count('network')}/{len(movies)}",
        f"{np.median(gains):.2f}" if gains else "-",
        f"{min(gains):.2f}" if gains else "-",
        f"{np.median(clear):.2f}" if clear else "-",
        f"{max(over):.2f}" if over else "-",
        f"{np.median([q.ssnr_full or 0.0 for q in quality]):.3f}",
        f"{np.median([q.frc_resolution_angstrom or np.nan for q in quality]):.1f}",
        f"{sum(q.empty is not None for q in quality)}/{len(movies)}",
        f1,
    ]


def picture(one: Seen) -> bytes:
    """PNG of plain sum, Wiener's, what is served, the truth and its mask, beside each other in one grey scale."""
    shape, sums = one.micrograph.sums.shape, one.micrograph.sums
    plain = fourier.to_image(sums.total, shape)
    linear, true = wiener_image(one), fourier.to_image(one.expected, shape)
    true = true * float(((linear - linear.mean()) * true).sum() / true.square().sum().clamp(min=1e-30))
    images = [plain, linear, one.micrograph.restored.image, true]
    width = float(images[1].std()) * 3.0
    parts = [((image - image.median()) / width).clamp(-1.0, 1.0) for image in images]
    parts.append(torch.from_numpy(one.truth.mask).float())
    return encode_png(torch.cat(parts, 1).numpy(), longer_side_px=5 * max(shape))


def order(higher: list[float], lower: list[float]) -> float:
    """Share of pairs in which the first is larger (area under the ROC curve); nan where there is no pair."""
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in higher for b in lower]
    return float(np.mean(pairs)) if pairs else float("nan")


HEADER = [
    "scene",
    "dirt %",
    "moved px",
    "left px",
    "worst px",
    "aligned",
    "network",
    "over Wiener",
    "worst",
    "off dirt",
    "peak",
    "SSNR",
    "Å",
    "empty",
    "picks F1",
]


def overview(
    names: list[str],
    seeds: range,
    make: Callable[[str, int], Scene],
    model: SessionModel | None,
    title: str,
    pictures: Path | None = None,
) -> None:
    """One row for each kind; a picture of each kind's first movie where a directory is given."""
    rows = []
    figures: dict[bool, list[float]] = {True: [], False: []}
    for name in names:
        movies = [seen(make(name, seed), model) for seed in seeds]
        for one in movies:
            figures[len(one.truth.particles) > 0].append(one.micrograph.metrics.ssnr_full or 0.0)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            (pictures / f"{name}.png").write_bytes(picture(movies[0]))
        rows.append(row(name, movies))
        print("  ".join(str(value) for value in rows[-1]), flush=True)
    table(
        title,
        HEADER,
        rows,
        f"seeds {seeds.start} to {seeds.stop - 1}; over Wiener: SNBR* against the truth over {BAND[0]:g}-{BAND[1]:g} Å "
        "of the served image over that of the movie's own Wiener filter, off dirt: outside the truth's mask; peak: "
        f"largest value over Wiener's largest within {_NEAR_PX} px; SSNR ranks fields with particles above others in "
        f"{order(figures[True], figures[False]):.3f} of all pairs",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", default=list(SCENES), help="kinds of fields; all")
    parser.add_argument("--seeds", type=int, default=3, help="movies per kind")
    parser.add_argument("--first", type=int, default=800, help="first seed")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), help="px")
    parser.add_argument("--structures", type=int, default=0, help="real structures in turn instead of random proteins")
    parser.add_argument("--motion", help="one motion for all kinds")
    parser.add_argument("--pictures", type=Path, help="directory for a picture of each kind's first movie")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = SessionModel(shipped_base(), torch.device("cpu"))
    real = real_structures(given.structures, given.first)

    def make(name: str, seed: int) -> Scene:
        specimen = real[seed % len(real)] if real else None
        return scene(name, seed, tuple(given.size), specimen=specimen, motion=given.motion)

    what = f"{given.structures} real structures" if real else "random proteins"
    moving = f", {given.motion}" if given.motion else ""
    title = f"Dirty fields, {what}, {given.size[0]} by {given.size[1]}{moving}"
    overview(given.scenes, range(given.first, given.first + given.seeds), make, model, title, given.pictures)


if __name__ == "__main__":
    main()
