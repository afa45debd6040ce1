import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from models.gate.scoring import score
from models.manifest import DENOISERS
from models.networks import denoiser, optimise
from models.networks.denoiser import WienerResidualNet
from models.training import denoiser as training
from models.training.denoiser import train
from models.training.movie import TrainingMovie
from streamer import fourier
from streamer.errors import ModelError
from streamer.records import GroupSums
from tests.model_samples import manifest, synthetic
from tests.simulated_movies import images, unchanged


def fresh(seed=0):
    torch.manual_seed(seed)
    return WienerResidualNet(DENOISERS["small"])


def mask(n, *chosen):
    inside = torch.zeros(n, dtype=torch.bool)
    inside[list(chosen)] = True
    return inside


@pytest.fixture(scope="module")
def movie():
    return synthetic("one", 1)[0]


# ---------------------------------------------------------------------------------------------- a movie's parts


def weighted_movie(seed=0, n=6, shape=(128, 144)):
    """Groups whose signal and noise follow Σw and Σw² of their exposures, as dose-weighted sums do."""
    exposures = tuple((2.0 * (i + 1), 2.0 * (i + 1 + n)) for i in range(n))
    radius = fourier.radius(shape) / 2.5
    rate = 0.5 / (0.245 * radius.clamp(min=1e-9).pow(-1.665) + 2.81)
    signal = torch.fft.rfft2(images(*shape, seed=seed)) * torch.exp(-((radius / 0.05) ** 2)) * 1.5
    groups = []
    for i, pair in enumerate(exposures):
        squares = sum(torch.exp(-2 * e * rate) for e in pair)
        # in a dose-weighted sum of frames that are damaged by the same law the signal goes with Σw²
        spectrum = signal * squares + torch.fft.rfft2(images(*shape, seed=100 + seed + i)) * squares.sqrt()
        groups.append(fourier.to_image(spectrum, shape))
    sums = GroupSums(
        groups=torch.stack(groups).half(), exposures=exposures, shape=shape, pixel_size=2.5, voltage_kv=300.0
    )
    return TrainingMovie("weighted", sums, 100.0), signal


def test_whitened_noise_has_variance_one_at_any_exposure():
    whole, signal = weighted_movie()
    rings = fourier.ring_index((128, 144))
    high = (rings > 40) & (rings < 60)  # next to no signal there
    for chosen in (mask(6, 0, 1, 2, 3, 4, 5), mask(6, 5), mask(6, 0, 3)):
        micrograph, _, squares = whole.part(chosen)
        assert float((micrograph.abs().square()[high]).mean() / (128 * 144)) == pytest.approx(1.0, abs=0.1)
        assert squares.shape == (65,)
    assert signal.shape == (128, 73)


def test_a_part_and_the_target_from_the_others_have_one_signal():
    """Σ_B · r_A/r_B² has the signal of M_A: the mean difference between them vanishes in a coarse ring."""
    whole, signal = weighted_movie()
    chosen = mask(6, 0, 2, 5)
    micrograph, _, squares = whole.part(chosen)
    target = torch.fft.rfft2(whole.target(~chosen, squares))
    strong = (fourier.ring_index((128, 144)) > 3) & (fourier.ring_index((128, 144)) < 12)
    for one in (micrograph * whole.window, target):
        transferred = (one.conj() * signal * whole.window).real[strong].sum()
        expected = (signal.abs().square() * whole.window**2)[strong].sum()
        root = fourier.from_rings(squares.sqrt(), (128, 144)) * whole.whitening
        scale = (root * signal.abs().square() * whole.window**2)[strong].sum() / expected
        assert float(transferred / expected / scale) == pytest.approx(1.0, abs=0.1)


def test_the_wiener_filter_grows_with_the_exposure(movie):
    squares = [movie.part(mask(10, *range(n)))[2] for n in (1, 5, 10)]
    curves = [movie.wiener(s)[0, :64] for s in squares]
    inside = curves[2] > 0.05
    assert bool((curves[0] < curves[1])[inside].all())
    assert bool((curves[1] < curves[2])[inside].all())
    whole = movie.spectrum.ssnr_full / (1 + movie.spectrum.ssnr_full)
    np.testing.assert_allclose(curves[2], whole[:64], atol=1e-5)


def test_inputs_are_the_part_and_its_wiener_estimate(movie):
    chosen = mask(10, 1, 2, 3)
    with unchanged(movie.spectra, movie.whitening):
        raw, linear, _ = movie.inputs(chosen)
    micrograph, wiener, _ = movie.part(chosen)
    torch.testing.assert_close(torch.fft.rfft2(raw), micrograph * movie.window, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(torch.fft.rfft2(linear), micrograph * wiener * movie.window, rtol=1e-3, atol=1e-2)


def test_unweighted_groups_count_their_frames():
    whole, _ = synthetic("a", 1, n=4)
    np.testing.assert_allclose(whole.squares, 1.0)
    assert len(whole) == 4


# ------------------------------------------------------------------------------------------------------- training


def test_training_beats_the_wiener_filter_on_movies_it_never_saw(trained, session_movies):
    """Noise of the target included, which no net can take away: a percent of the loss is a good part of the signal."""
    net, report = trained
    assert report.finite
    assert report.steps == 80
    assert report.movies == ["movie-0", "movie-1", "movie-2", "movie-3"]
    assert len(report.losses) == 10
    everything = [(0.0, 1.0), (1.0, 1.0)]
    for movie in session_movies[4:]:
        found = score(net, movie, everything)
        assert found.loss < 0.995 * found.loss_wiener
        assert found.snbr > 1.5 * found.snbr_wiener
        assert found.snbr_wiener > found.snbr_raw


def test_every_step_splits_anew(monkeypatch):
    """No noise draw is ever a fixed target: inputs of half to nine tenths, all the other groups as target."""
    movie, _ = synthetic("a", 1)
    inputs, targets = [], []
    original_inputs, original_target = movie.inputs, movie.target
    monkeypatch.setattr(movie, "inputs", lambda chosen: (inputs.append(chosen.clone()), original_inputs(chosen))[1])
    monkeypatch.setattr(
        movie, "target", lambda others, s: (targets.append(others.clone()), original_target(others, s))[1]
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        training._batch([movie], torch.ones(1), (0.5, 0.9), 32, generator)
    assert all(bool((a ^ b).all()) for a, b in zip(inputs, targets, strict=True))
    sizes = {int(chosen.sum()) for chosen in inputs}
    assert sizes == {5, 6, 7, 8, 9}
    # 200 draws among 637 splits
    assert len({tuple(chosen.tolist()) for chosen in inputs}) > 100
    assert all(0.4 < float(torch.stack(inputs).double().mean(0)[group]) < 1.0 for group in range(10))


@pytest.mark.parametrize("n", [4, 6, 8])
def test_few_groups_leave_at_least_one_for_the_target(monkeypatch, n):
    movie, _ = synthetic("a", 1, n=n)
    seen = []
    original = movie.target
    monkeypatch.setattr(movie, "target", lambda others, s: (seen.append(int(others.sum())), original(others, s))[1])
    for seed in range(30):
        training._batch([movie], torch.ones(1), (0.5, 0.9), 32, torch.Generator().manual_seed(seed))
    assert min(seen) == 1
    assert max(seen) == n // 2


def test_patches_are_turned_together():
    """Input, Wiener estimate and target of a patch keep to the same place and orientation."""
    movie, signal = synthetic("a", 1, strength=8.0)
    for seed in range(8):
        inputs, targets = training._batch([movie], torch.ones(1), (0.5, 0.5), 64, torch.Generator().manual_seed(seed))
        assert inputs.shape == (4, 2, 64, 64)
        assert targets.shape == (4, 1, 64, 64)
        for pair, target in zip(inputs, targets, strict=True):
            assert np.corrcoef(pair[0].flatten(), target[0].flatten())[0, 1] > 0.9
            assert np.corrcoef(pair[1].flatten(), target[0].flatten())[0, 1] > 0.9
    assert float(signal.std()) == pytest.approx(8.0, rel=1e-3)


def test_movies_smaller_than_a_patch_are_cut_in_eights():
    movie, _ = synthetic("a", 1, shape=(72, 88))
    inputs, _ = training._batch([movie], torch.ones(1), (0.5, 0.9), 128, torch.Generator().manual_seed(0))
    assert inputs.shape[2:] == (72, 72)


def test_a_seed_is_a_training(movie):
    one, again, other = (fresh() for _ in range(3))
    reports = [train(net, [movie], steps=3, seed=seed) for net, seed in ((one, 5), (again, 5), (other, 6))]
    assert reports[0].losses == reports[1].losses != reports[2].losses
    for a, b in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.last.weight, other.last.weight)


def test_the_movies_stay_as_they_are(movie):
    with unchanged(movie.spectra, movie.squares, movie.whitening, movie.window):
        train(fresh(), [movie], steps=2, seed=0)


def test_stop_ends_before_a_step(movie):
    answers = iter([False, False, True])
    report = train(fresh(), [movie], steps=99, seed=0, stop=lambda: next(answers), clock=iter([10.0, 14.5]).__next__)
    assert (report.steps, len(report.losses), report.seconds) == (2, 2, 4.5)
    assert report.finite


def test_stopping_at_once_leaves_the_net_as_it_was(movie):
    net = fresh()
    before = copy.deepcopy(dict(net.named_parameters()))
    report = train(net, [movie], steps=5, seed=0, stop=lambda: True)
    assert (report.steps, report.losses, report.finite) == (0, [], True)
    assert all(torch.equal(before[name], value) for name, value in net.named_parameters())
    assert not net.training


def test_what_is_not_a_number_ends_the_training_and_says_so():
    broken, _ = synthetic("a", 1)
    broken.spectra[3, 5, 7] = torch.nan
    report = train(fresh(), [broken], steps=20, seed=0)
    assert not report.finite
    assert report.steps == 1


def test_there_must_be_something_to_learn_from():
    with pytest.raises(ModelError, match="nothing to train on"):
        train(fresh(), [], steps=1, seed=0)


@pytest.mark.parametrize(("share", "part"), [(0.0, 0.01), (0.04, 0.505), (0.08, 1.0), (0.54, 0.5), (1.0, 0.0)])
def test_the_learning_rate_rises_and_falls(share, part):
    assert optimise.schedule(share) == pytest.approx(part, abs=1e-6)


def test_a_budget_in_time_drives_the_learning_rate(movie, monkeypatch):
    asked = []
    monkeypatch.setattr(optimise, "schedule", lambda share: (asked.append(share), 0.0)[1])
    clock = iter([10.0, 10.0, 17.0, 19.9, 29.0, 31.0]).__next__
    report = train(fresh(), [movie], seed=0, seconds=10.0, clock=clock)
    assert asked == pytest.approx([0.0, 0.7, 0.99])
    assert (report.steps, report.seconds) == (3, 21.0)


def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch):
    for flags, pays in (("avx512f avx512_bf16", True), ("amx_bf16", True), ("avx2", False)):
        monkeypatch.setattr("models.networks.denoiser.Path.read_text", lambda *_, f=flags, **__: f"flags : {f}")
        assert denoiser.bf16_is_faster("cpu") is pays

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("models.networks.denoiser.Path.read_text", missing)
    assert denoiser.bf16_is_faster("cpu") is False


def test_a_blank_is_learned_as_nothing():
    """One movie in sixteen: white noise whose Wiener estimate is nothing, and nothing is the answer."""
    movie, _ = synthetic("a", 1, strength=4.0)
    blanks = 0
    for seed in range(64):
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = training._batch([movie], torch.ones(1), (0.5, 0.9), 64, generator, blanks=True)
        for pair, target in zip(inputs, targets, strict=True):
            if not pair[1].any():
                blanks += 1
                assert not target.any()
                assert float(pair[0].std()) == pytest.approx(1.0, abs=0.1)
    assert 4 <= blanks <= 40
    inputs, _ = training._batch([movie], torch.ones(1), (0.5, 0.9), 64, torch.Generator().manual_seed(3))
    assert all(pair[1].any() for pair in inputs)


def test_learning_goes_on_gently_from_base_weights():
    assert training.learning_rate_after(None) == training.LEARNING_RATE
    base = manifest(general=True)
    assert training.learning_rate_after(base) < training.LEARNING_RATE / 3
    child = manifest(learning_rate=training.learning_rate_after(base))
    assert training.learning_rate_after(child) == training.learning_rate_after(base)
    assert training.learning_rate_after(manifest()) == training.LEARNING_RATE


def test_movies_are_drawn_as_often_as_their_weights_say():
    seen = Counter()
    movies = [synthetic(name, seed)[0] for seed, name in enumerate("ab")]
    for movie in movies:
        inputs = movie.inputs
        movie.inputs = lambda chosen, inputs=inputs, name=movie.movie_id: (seen.update([name]), inputs(chosen))[1]
    for seed in range(60):
        training._batch(
            movies, torch.tensor([0.8, 0.2], dtype=torch.float64), (0.5, 0.9), 32, torch.Generator().manual_seed(seed)
        )
    assert 0.65 < seen["a"] / 120 < 0.95


def test_whichever_budget_ends_first_ends_the_training():
    movie, _ = synthetic("a", 1)
    now = itertools.count()
    net = WienerResidualNet(DENOISERS["small"])
    assert train(net, [movie], seed=1, steps=50, seconds=6.0, clock=lambda: float(next(now))).steps < 10
    assert train(net, [movie], seed=1, steps=3, seconds=1e9, clock=lambda: 0.0).steps == 3
    with pytest.raises(ModelError, match="without a budget"):
        train(net, [movie], seed=1)
