"""The session denoiser against the Wiener filter, by the truth, on movies and a specimen that nobody tuned for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import denoise
from models.gate.scoring import outputs
from models.manifest import DENOISERS
from models.networks.denoiser import build
from models.training.denoiser import train
from models.training.movie import TrainingMovie
from streamer import fourier
from streamer.quality import estimators, intervals
from streamer.quality.checks import leak


@pytest.mark.slow
def test_it_beats_each_micrographs_own_wiener_filter_and_tells_the_truth_about_it(monkeypatch):
    monkeypatch.setitem(denoise.SPECIMENS, "r777-1800", lambda: denoise.random_protein(777, 1800, 4))
    found = denoise.cell("r777-1800", 0.03, None)
    assert found["gate"].startswith("promoted"), found["gate"]
    assert found["worst"] > 1.3, found
    assert found["pooled"]["ours"] > 2.0 * found["pooled"]["wiener"], found["pooled"]
    assert found["refused"] == 0
    # ring by ring no linear filter can add anything: what is there was learned, and nothing may be lost. Within a band
    # that has hardly any signal the Wiener filter's own weights differ with its noise: there it is the bar, as λ is 0
    for ours, raw, wiener in zip(*(found["bands"][name] for name in ("ours", "raw", "wiener")), strict=True):
        assert ours > 0.9 * min(raw, wiener) - 0.01
    for ours, raw in list(zip(found["bands"]["ours"], found["bands"]["raw"], strict=True))[:-1]:
        assert ours > 0.9 * raw - 0.01
    assert found["estimator"]["ratio"] == pytest.approx(1.0, abs=0.05)
    assert found["estimator"]["covered"]


@pytest.mark.slow
def test_a_network_that_learned_the_noise_of_the_halves_is_found_out():
    """One split of one micrograph, until it is known by heart: the estimate is far above the truth, and B⊥ below 0."""
    movie = denoise.prepared(denoise.microscope(1.0, 0.03, 0.5), denoise.random_protein(404, 800, 2), 123)
    groups = movie.groups
    two = torch.stack([groups.groups[start::2].float().sum(0) for start in range(2)])
    ends = tuple(tuple(e for group in groups.exposures[start::2] for e in group) for start in range(2))
    learned = TrainingMovie(
        "m", replace(groups, groups=(two / two.std()).half(), exposures=ends), 100.0, resolution=8.0
    )
    torch.manual_seed(20)
    net = build(DENOISERS["small"])
    small, pixel = learned.band.small, learned.band.band_pixel_size
    tile = intervals.tile_shape(small)
    mask = estimators.band_mask(tile, pixel, 100.0, 2.0 * pixel)
    found = {}
    for steps in (200, 1500):
        train(net, [learned], steps=steps, seed=20)
        made = [outputs(net, learned, torch.tensor(chosen)) for chosen in ([True, False], [False, True])]
        images = [fourier.to_image(half[part], small) for part in (0, 2) for half in made]
        sums = intervals.tile_sums(images)
        checks = leak(estimators.ratios(sums.sum(0)), intervals.bootstrap(sums), 100.0 * mask)
        found[steps] = float(estimators.ratios(sums[:, :, mask].sum((0, 2))).snbr), {c.name: c.ok for c in checks}
    assert all(found[200][1].values()), "honest so far"
    assert found[1500][0] > 1.2 * found[200][0]
    assert not found[1500][1]["negative_bias"]
