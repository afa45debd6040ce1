"""The network on top of fusion: what it is before it learned, what it learns, and what the gate lets through."""

import math

import msgspec
import pytest
import torch

from models.gate.fusion_residual import band_sums, gains, judge, measure_weight, points
from models.manifest import DENOISERS, NetConfig
from models.networks.fusion_residual import (
    EDGES,
    KIND,
    BandNoise,
    FusionResidualNet,
    band_noise,
    correct,
    train,
    windows,
)
from models.serving import super_resolution
from models.serving.super_resolution import FusionModel
from models.versions.checkpoint import save_version
from streamer import fourier
from streamer.errors import ModelError
from streamer.quality import estimators
from streamer.super_resolution.fusion import super_resolve
from tests.fusion_samples import example, noise_example, resolved
from tests.model_samples import manifest
from tests.simulated_movies import images

TRAINING = (0, 1, 2, 3)
HELD_OUT = (10, 11)


def random_net(seed=0):
    torch.manual_seed(seed)
    net = FusionResidualNet()
    for layer in (net.gains, net.additions):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def examples():
    return {seed: example(seed) for seed in (*TRAINING, *HELD_OUT, 20)}


@pytest.fixture(scope="module")
def taught(examples):
    torch.manual_seed(0)
    net = FusionResidualNet()
    report = train(net, [examples[seed][0] for seed in TRAINING], steps=150, seed=1)
    return net, report


def band_frc(image, truth, low, high):
    shape = tuple(truth.shape)
    a, b = (estimators.tapered(torch.fft.rfft2(one), shape) for one in (image, truth))
    frequency = fourier.ring_frequencies(shape)
    inside = (frequency >= low) & (frequency < high)
    cross, own, true = (estimators.covariance(p, q, shape)[inside].sum() for p, q in ((a, b), (a, a), (b, b)))
    return float(cross / (own * true).sqrt())


def test_bands_add_up_to_all():
    radius = fourier.radius((64, 96))
    found = windows(radius)
    assert found.shape == (7, 64, 49)
    assert float((found.sum(0) - 1.0).abs().max()) < 1e-6
    assert float(found.min()) >= 0.0
    for low, high, window in zip(EDGES, EDGES[1:], found, strict=False):
        inside = (radius > low + 0.011) & (radius < high - 0.011)
        assert bool((window[inside] == 1.0).all())
        assert bool((window[(radius < low - 0.011) | (radius > high + 0.011)] == 0.0).all())


def test_before_it_learned_nothing_is_changed():
    noise = BandNoise(deviation=torch.full((7,), 0.4), wiener=torch.linspace(0.9, 0.01, 7))
    with torch.inference_mode():
        changes, bands = correct(FusionResidualNet(), images(2, 64, 96), noise)
    assert float(changes.abs().max()) < 1e-5
    assert float((bands.sum(1) - images(2, 64, 96)).abs().max()) < 1e-4


def test_a_change_stays_in_its_band():
    """Gains that vary would spill a strong band into a weak one."""
    noise = BandNoise(deviation=torch.full((7,), 0.4), wiener=torch.full((7,), 0.5))
    with torch.inference_mode():
        changes, _ = correct(random_net(), images(1, 64, 96), noise)
    within = windows(fourier.radius((64, 96)))
    spectra = torch.fft.rfft2(changes[0])
    for spectrum, window in zip(spectra, within, strict=True):
        inside = spectrum[window > 0].abs().square().sum()
        assert float(spectrum[window == 0].abs().square().sum()) < 1e-9 * float(inside)


def test_nothing_is_added_beyond_the_coarse_bands():
    """What is 0 stays 0 there, whatever the network: gains only."""
    noise = BandNoise(deviation=torch.full((7,), 0.4), wiener=torch.full((7,), 0.5))
    spectrum = torch.fft.rfft2(images(1, 64, 96))
    spectrum = spectrum * (fourier.radius((64, 96)) < 0.2)
    with torch.inference_mode():
        changes, _ = correct(random_net(), fourier.to_image(spectrum, (64, 96)), noise)
    assert float(changes[:, :3].abs().max()) > 0.01
    assert float(changes[:, 4:].abs().max()) < 1e-5


def test_noise_is_as_strong_as_is_said(examples):
    found, _, _ = examples[20]
    empty = noise_example(30)
    chosen, tiles = torch.ones(len(empty), dtype=torch.bool), torch.arange(empty.n_tiles)
    # a prior that lets much pass, so that there is noise to be measured
    empty.prior = torch.full_like(empty.prior, 3.0)
    fused, noise = empty.fused(chosen, tiles)
    assert noise.wiener.tolist() == sorted(noise.wiener.tolist(), reverse=True)
    inner = slice(48, -48)
    within = windows(fourier.radius(tuple(fused.shape[-2:])))
    bands = fourier.to_image(torch.fft.rfft2(fused)[:, None] * within, tuple(fused.shape[-2:]))[..., inner, inner]
    measured = bands.square().mean((0, 2, 3)).sqrt()
    # aliases are taken as independent, which they are not quite
    assert torch.allclose(measured / noise.deviation.float(), torch.ones(7), atol=0.35)
    fewer = band_noise(found.grid, found.grid.sensitivity(found.sums.exposures[:4]), found.prior, found.sums.white)
    more = band_noise(found.grid, found.grid.sensitivity(found.sums.exposures), found.prior, found.sums.white)
    assert bool((fewer.wiener < more.wiener).all())


@pytest.mark.slow
def test_it_learns_where_there_is_something(examples, taught):
    """On a movie it never saw: beyond Nyquist nearly what is there is kept, and the empty places fade."""
    net, report = taught
    assert report.finite
    assert report.steps == 150
    _, sums, truth = examples[20]
    decision = judge(net, [examples[s][0] for s in HELD_OUT], incumbent=None, trained_on=frozenset(report.movies))
    assert decision.promoted, decision.reason
    assert all(s.gain > 0.2 for s in decision.scores)
    assert [f for f, _ in decision.weight] == sorted(f for f, _ in decision.weight)

    class Network:
        reference = None

        def __call__(self, fused, grid, exposures, prior, white):
            noise = band_noise(grid, grid.sensitivity(exposures), prior, white)
            with torch.inference_mode():
                changes, _ = correct(net, fused, noise)
            return torch.einsum("c,bchw->bhw", torch.tensor([lam for _, lam in decision.weight]), changes)

    plain, changed = resolved(sums).image(), resolved(sums, Network()).image()
    for low, high in ((0.06, 0.12), (0.12, 0.24), (0.26, 0.36)):
        before, after = (band_frc(image, truth, low, high) for image in (plain, changed))
        assert after > before + 0.02, (low, high, before, after)
    assert resolved(sums, Network()).confirmation().share > 0.5


def test_the_same_seed_gives_the_same_weights(examples):
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        net = FusionResidualNet()
        train(net, [examples[0][0]], steps=3, seed=5)
        nets.append(net)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_stops_when_told_and_needs_something_to_learn_from(examples):
    assert train(FusionResidualNet(), [examples[0][0]], steps=9, seed=0, stop=lambda: True).steps == 0
    with pytest.raises(ModelError, match="nothing to train on"):
        train(FusionResidualNet(), [], steps=1, seed=0)


# ------------------------------------------------------------------------------------------------------- the gate


def test_the_gate_refuses_what_it_must(examples):
    held_out = [examples[s][0] for s in HELD_OUT]

    def refused(net, movies=held_out, trained_on=frozenset()):
        decision = judge(net, movies, incumbent=None, trained_on=frozenset(trained_on))
        assert not decision.promoted
        return decision.reason

    assert "were trained on" in refused(random_net(), trained_on={held_out[0].movie_id})
    assert "needs 2" in refused(random_net(), movies=held_out[:1])
    broken = random_net()
    torch.nn.init.constant_(broken.gains.bias, math.nan)
    assert "not finite" in refused(broken)
    # a network that changes nothing, and one that changes at random
    assert "needs more than" in refused(FusionResidualNet())
    assert "needs more than" in refused(random_net())


@pytest.mark.slow
def test_noise_promotes_nothing_and_only_fades(taught):
    """That noise should fade is rightly confirmed by unseen frames; but there is nothing to predict them with."""
    movies = [noise_example(seed) for seed in (40, 41, 42)]
    decision = judge(taught[0], movies, incumbent=None, trained_on=frozenset())
    assert not decision.promoted
    chosen, tiles = torch.ones(8, dtype=torch.bool), torch.arange(movies[0].n_tiles)
    fused, noise = movies[0].fused(chosen, tiles)
    with torch.inference_mode():
        changes, bands = correct(taught[0], fused, noise)
    before, after = (float(one.square().sum()) for one in (bands, bands + changes))
    assert after < before


@pytest.mark.slow
def test_an_incumbent_is_only_replaced_by_a_better_one(examples, taught):
    held_out = [examples[s][0] for s in HELD_OUT]
    weight = judge(taught[0], held_out, incumbent=None, trained_on=frozenset()).weight
    same = judge(taught[0], held_out, incumbent=(taught[0], weight), trained_on=frozenset())
    assert not same.promoted
    assert len(same.incumbent) == len(held_out)
    worse = judge(random_net(), held_out, incumbent=(taught[0], weight), trained_on=frozenset())
    assert not worse.promoted


def test_lambda_is_what_the_left_out_frames_confirm(examples):
    """A change that is twice what it should be gets λ ½; one that is noise gets 0."""
    table = torch.zeros(40, 7, 4, dtype=torch.float64)
    table[:, 0, :2] = torch.tensor([1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    table[:, 1, 0] = torch.randn(40, generator=generator, dtype=torch.float64) * 0.1
    table[:, 1, 1] = 1.0
    table[..., 2:] = torch.tensor([3.0, 2.0])
    weight = measure_weight([table])
    assert weight == [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    both = gains(table, weight)
    # 2 λ a − λ² b and 2 c − d, of 40 tiles
    assert both[0].tolist() == [20.0, 160.0]
    assert both[1].tolist() == [0.0, 160.0]
    assert points([1.0] * 7, 3.0)[0] == (0.02, 1.0)
    sums = band_sums(FusionResidualNet(), examples[0][0])
    assert sums.shape == (examples[0][0].n_tiles, 7, 4)
    assert float(sums[..., :2].abs().max()) < 1e-3 * float(sums[..., 2:].abs().max())


# ------------------------------------------------------------------------------------------------------ in service


@pytest.fixture
def version(tmp_path):
    """A network that changes something; what it has learned plays no part in how it is applied."""
    net, weight = random_net(), points([1.0, 1.0, 0.5, 0.5, 1.0, 0.0, 0.0], 3.0)
    save_version(tmp_path / "v0001", net, manifest(net=net.config, pixel_size=3.0, weight=weight))
    return tmp_path / "v0001"


def test_a_version_serves_and_is_named(version, examples):
    _, sums, _ = examples[20]
    shifts = torch.from_numpy(torch.linspace(0, 3, 32).reshape(16, 2).double().numpy())
    model = FusionModel(version)
    found = super_resolve(resolved(sums), shifts=shifts, min_diversity=0.0, network=model)
    plain = super_resolve(resolved(sums), shifts=shifts, min_diversity=0.0)
    assert (found.verdict.method, plain.verdict.method) == ("network", "fusion")
    assert found.verdict.model.version == "v0001"
    assert plain.verdict.model is None
    assert found.image.shape == plain.image.shape
    assert not torch.allclose(found.image, plain.image)


@pytest.mark.parametrize("shape", [(1, 40, 70), (2, 33, 47)])
def test_any_size_can_be_changed(version, examples, shape):
    known, sums, _ = examples[20]
    change = FusionModel(version)(images(*shape), sums.grid, sums.exposures, known.prior, known.sums.white)
    assert change.shape == shape


def test_a_large_field_is_worked_on_in_parts_that_do_not_show(version, examples, monkeypatch):
    known, sums, _ = examples[20]
    rest = sums.grid, sums.exposures, known.prior, known.sums.white
    fused = resolved(sums).image() / 4.0
    fused = torch.cat([fused, fused.flip(1), fused, fused.flip(1)], 1)[None]
    whole = FusionModel(version)(fused, *rest)
    monkeypatch.setattr(super_resolution, "_PART", 192)
    parts = FusionModel(version)(fused, *rest)
    error = float((parts - whole)[:, 16:-16, 16:-16].square().mean().sqrt())
    assert error < 0.05 * float(whole.std())


def test_another_pixel_size_or_kind_is_refused(version, examples, tmp_path):
    known, sums, _ = examples[20]
    sums.grid.pixel_size = 2.0
    try:
        with pytest.raises(ModelError, match="another pixel size"):
            FusionModel(version)(images(1, 32, 32), sums.grid, sums.exposures, known.prior, known.sums.white)
    finally:
        sums.grid.pixel_size = 3.0
    save_version(tmp_path / "v0002", random_net(), manifest(net=DENOISERS["small"]))
    with pytest.raises(ModelError, match="unknown network"):
        FusionModel(tmp_path / "v0002")


def test_configurations_that_cannot_be_are_refused():
    for change in ({"kind": "other"}, {"widths": (8,)}, {"widths": (8, 0)}):
        with pytest.raises(ModelError, match="unknown network"):
            FusionResidualNet(msgspec.structs.replace(NetConfig(kind=KIND, widths=(8, 8)), **change))
