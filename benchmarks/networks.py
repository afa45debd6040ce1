"""What a larger network is worth on one session, and restore's own way, by the truth.

    python -m benchmarks.networks [--seconds N]

Same movies, same single thread. *restore, its own way*: Palovcak et al. 2020 as published: 2.4 million weights with
weight normalisation, one half as input and the other as target, always the same, 192² patches each with its own mean
and spread, phases flipped by the known CTF, mean squared error, Adam; but for the learning rate, ten times theirs,
because the budget is a ten-thousandth of theirs. *restore's network, our way*: the same weights, our recipe.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from benchmarks.denoise import (
    DEFOCI,
    GATE,
    LEARN,
    SPECIMENS,
    TEST,
    against_truth,
    dose_for,
    microscope,
    prepared,
    snbr,
    trained,
    wiener,
)
from benchmarks.harness import measured, table
from models.gate.scoring import weight_curve
from models.manifest import DENOISERS
from models.networks.denoiser import bf16_is_faster, build, infer
from models.training.movie import TrainingMovie
from streamer import restore
from streamer.ctf.transfer import ctf_2d
from streamer.quality import estimators

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.denoise import Prepared

PATCH, BATCH = 192, 10


def pairs_of(movies: list[Prepared]) -> tuple[Tensor, Tensor]:
    """Patches of even and odd halves, each with its own mean and spread, (n, 1, 192, 192)."""
    even, odd = [], []
    for n, movie in enumerate(movies):
        ready = TrainingMovie(str(n), movie.groups, 100.0, optics=movie.movie.truth.optics)
        chosen = torch.zeros(len(ready), dtype=torch.bool)
        chosen[0::2] = True
        for mask, patches in ((chosen, even), (~chosen, odd)):
            image = ready.inputs(mask)[0]
            patches += list(image.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).reshape(-1, PATCH, PATCH))
    scored = [(torch.stack(side) - torch.stack(side).mean((1, 2), keepdim=True)) for side in (even, odd)]
    one, other = (side / side.std((1, 2), keepdim=True) for side in scored)
    return one[:, None], other[:, None]


def restore_faithful(movies: list[Prepared], seconds: float) -> tuple[nn.Module, int]:
    """Train as restore does, for so many CPU-seconds."""
    torch.manual_seed(20)
    net = build(DENOISERS["restore"])
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        weight_norm(module)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99))
    even, odd = pairs_of(movies)
    generator = torch.Generator().manual_seed(20)
    began, steps = time.process_time(), 0
    while (share := (time.process_time() - began) / seconds) < 1.0:
        optimiser.param_groups[0]["lr"] = 1e-3 * 0.5 ** int(4.0 * share)
        chosen = torch.randint(len(even), (BATCH,), generator=generator)
        inputs = even[chosen].expand(-1, 2, -1, -1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16_is_faster("cpu")):
            output = net(inputs.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.mse_loss(output.float(), odd[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
    for module in convolutions:
        remove_parametrizations(module, "weight")
    return net.eval(), steps


def applied(net: nn.Module, movie: Prepared) -> Tensor:
    """Spectrum of restore's output for the whole sum, phases turned back."""
    ready = TrainingMovie("", movie.groups, 100.0, optics=movie.movie.truth.optics)
    image = ready.inputs(torch.ones(len(ready), dtype=torch.bool))[0]
    image = (image - image.mean()) / image.std()
    spectrum = torch.fft.rfft2(infer(net, image, image)) / ready.whitening
    spectrum = spectrum * torch.where(_ctf(ready, movie) < 0, -1.0, 1.0)
    return ready.band.pad(spectrum)


def _ctf(ready: TrainingMovie, movie: Prepared) -> Tensor:

    return ctf_2d(ready.band.small, ready.band.band_pixel_size, movie.movie.truth.optics)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU-seconds of each long training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    specimen = SPECIMENS["r101-2400"]()
    dose = dose_for(specimen, 0.03)
    movies = [prepared(microscope(DEFOCI[n % 4], 0.03, dose), specimen, 80_000 + n) for n in range(LEARN + GATE + TEST)]
    unseen = movies[LEARN + GATE :]
    shape = unseen[0].sums.shape
    mask = estimators.band_mask(shape, 1.5, 100.0, 6.0)

    def score(outputs: list[Tensor]) -> float:
        return snbr(torch.stack([against_truth(o, m) for o, m in zip(outputs, unseen, strict=True)]).sum(0), mask)

    at_most = score([wiener(m, m.spectrum.ssnr_full) for m in unseen])
    rows: list[list[object]] = [["own Wiener filter", "", "", f"{at_most:.2f}", "1.00", ""]]
    for label, network, seconds, flip in (
        ("small", "small", 3.0, False),
        ("small", "small", None, False),
        ("small, longer", "small", given.seconds, False),
        ("large", "large", given.seconds, False),
        ("restore's network, our way", "restore", given.seconds, False),
        ("restore's network with a skip, our way", "restore-skip", given.seconds, False),
        ("small, phases flipped", "small", None, True),
        ("small, phases flipped, longer", "small", given.seconds, True),
    ):
        with tempfile.TemporaryDirectory() as place:
            model, gate, cpu = trained(
                movies[: LEARN + GATE], Path(place) / "v0001", flip=flip, network=network, seconds=seconds
            )
        outputs, figures = [], model.manifest.figures
        with measured() as applying:
            for m in unseen:
                proposal = model.propose(m.sums, m.spectrum, optics=m.movie.truth.optics if flip else None)
                # as measured, whether the gate let it serve or not
                weight = weight_curve(figures.weight, m.spectrum.fftfreq / 1.5) if figures else proposal.weight
                outputs.append(restore.merge(wiener(m, m.spectrum.ssnr_full), proposal.total, weight, shape))
        found = score(outputs)
        cost = f"{applying.cpu_s / len(unseen):.2f}"
        rows.append([label, f"{cpu:.0f}", model.manifest.steps, f"{found:.2f}", f"{found / at_most:.2f}", cost])
        print(label, gate, found / at_most, flush=True)
    with measured() as cost_of:
        net, steps = restore_faithful(movies[: LEARN + GATE], given.seconds)
    found = score([applied(net, m) for m in unseen])
    rows.append(["restore, its own way", f"{cost_of.cpu_s:.0f}", steps, f"{found:.2f}", f"{found / at_most:.2f}", ""])
    table(
        "networks on one session",
        ["network", "training CPU-s", "steps", "SNBR*", "over Wiener", "per movie CPU-s"],
        rows,
        "r101-2400 with ice; 4 movies to learn from (restore's own way 8), 12 unseen; 100-6 Å, whole sum. Per movie: "
        "sum, halves, guard.",
    )


if __name__ == "__main__":
    main()
