"""cryo-ZSSR as published: its parts, its training, and what it cannot do."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from models.manifest import NetConfig
from models.networks import zssr
from models.networks.zssr import Pair, ZssrNet, apply, back_project, loss, train, upsample
from models.serving.super_resolution import ZssrModel
from models.versions.checkpoint import save_version
from streamer import fourier
from streamer.errors import ModelError
from streamer.super_resolution.averages import Averages, average
from streamer.super_resolution.fusion import Fusion
from streamer.super_resolution.zssr import super_resolve_averages
from tests.fusion_samples import NOISE, sparse, sums_of
from tests.model_samples import manifest
from tests.simulated_movies import images


def small(seed=0):
    torch.manual_seed(seed)
    return ZssrNet(NetConfig(kind=zssr.KIND, widths=(8,)))


def averages_of(shape=(64, 96), seed=0, k=4):
    """Early and late averages of one smooth image with noise of their own."""
    signal = fourier.to_image(torch.fft.rfft2(images(*shape, seed=seed)) * (fourier.radius(shape) < 0.1), shape)
    early, late = (signal + 0.1 * images(*shape, seed=seed + n) for n in (50, 51))
    offsets = torch.rand((k, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    return Averages(early=early, late=late, early_share=0.5, offsets=offsets, scale=float(early.std()))


def test_parameters_are_those_of_highres_net():
    """Source: methods of the paper, counted: encoder 185,861, fusion 368,963; the decoder is a 1×1 convolution."""
    net = ZssrNet()
    counts = [sum(p.numel() for p in part.parameters()) for part in (net.encode, net.sum_frames, net.decode)]
    assert counts == [185_861, 368_963, 65]


def test_the_reference_is_the_mean_of_the_middle_two():
    seen = []
    net = small()
    net.encode.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.tensor([1.0, 5.0, 2.0, 9.0])[None, :, None, None].expand(1, 4, 4, 4))
    assert [float(x[0, 0, 0, 0]) for x in seen] == [1.0, 5.0, 2.0, 9.0]
    assert all(float(x[0, 1, 0, 0]) == 3.5 for x in seen)


def test_views_are_fused_first_with_last():
    pairs = []
    net = small()
    net.sum_frames.register_forward_pre_hook(lambda _, inputs: pairs.append(inputs[0]))
    states = iter([torch.full((1, 8, 4, 4), float(n)) for n in range(4)])
    net.encode.forward = lambda _: next(states)
    net(images(1, 4, 4, 4))
    assert [(float(p[0, 0, 0, 0]), float(p[0, 8, 0, 0])) for p in pairs[:2]] == [(0.0, 3.0), (1.0, 2.0)]
    assert len(pairs) == 3


@pytest.mark.parametrize("count", [3, 6])
def test_other_numbers_of_views_are_refused(count):
    with pytest.raises(ModelError, match="fused in pairs"):
        small()(images(1, count, 8, 8))


def test_a_residual_on_the_interpolation():
    net = small()
    torch.nn.init.zeros_(net.decode.weight)
    torch.nn.init.zeros_(net.decode.bias)
    inputs = images(2, 4, 8, 8)
    assert torch.allclose(net(inputs), inputs.mean(1, keepdim=True))


def test_pairs_are_late_views_at_half_the_resolution_and_the_early_average():
    averages = averages_of((65, 97))
    pair = Pair("m", averages)
    assert pair.target.shape == (64, 96)
    assert pair.views.shape == (4, 32, 48)
    assert torch.allclose(pair.target, averages.early[:64, :96] / averages.scale)
    still = replace(averages, offsets=torch.zeros(4, 2, dtype=torch.float64))
    expected = averages.late[:64, :96].reshape(32, 2, 48, 2).mean((1, 3)) / averages.scale
    assert torch.allclose(Pair("m", still).views[2], expected, atol=1e-5)


def test_a_patch_and_its_target_show_the_same_place():
    averages = averages_of((300, 310))
    pair = Pair("m", averages)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        inputs, target = pair.crop(generator)
        assert inputs.shape == (1, 4, 256, 256)
        assert target.shape == (1, 1, 256, 256)
        both = torch.stack([inputs.mean(1).flatten(), target.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.8


def test_the_loss_is_what_it_says():
    found, target = images(2, 1, 16, 16), images(2, 1, 16, 16, seed=9)
    difference = found - target
    window = torch.hann_window(16, periodic=False)
    spectra = torch.fft.fft2(difference * window[:, None] * window, norm="ortho")
    f = torch.fft.fftfreq(16)
    weight = torch.exp(-(f[:, None] ** 2 + f**2) / (2 * 0.15**2))
    expected = difference.abs().mean() + (weight * spectra.abs().square()).mean()
    assert float(loss(found, target)) == pytest.approx(float(expected), rel=1e-5)
    assert float(loss(target, target)) == 0.0


@pytest.mark.slow
def test_it_learns_and_stops_when_its_rate_has_fallen():
    pair = Pair("m", averages_of((64, 64)))
    net = small()
    report = train(net, [pair], seed=1, most_steps=1500)
    assert report.finite
    inputs, target = pair.crop(torch.Generator().manual_seed(1))
    interpolated = float((inputs.mean(1, keepdim=True) - target).square().mean())
    assert report.losses[-1] < 0.9 * report.losses[0]
    assert report.losses[-1] < 0.9 * interpolated
    assert [round(rate, 9) for _, rate in report.rates] == [1e-4, 1e-5]
    first, second = (step for step, _ in report.rates)
    assert first >= 60
    assert second >= first + 60
    assert report.steps == second < 1500


def test_the_policy_looks_at_the_slope():
    assert zssr._has_settled([1.0, 1.0, 1.01, 0.99, 1.0, 1.0])
    assert not zssr._has_settled([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert not zssr._has_settled([1.0, 0.5])


def test_training_is_ended_and_needs_movies():
    pair = Pair("m", averages_of((32, 32)))
    assert train(small(), [pair], seed=0, stop=lambda: True).steps == 0
    assert train(small(), [pair, pair], seed=0, most_steps=3).steps == 3
    with pytest.raises(ModelError, match="nothing to train on"):
        train(small(), [], seed=0)
    with pytest.raises(ModelError, match="too small"):
        Pair("m", averages_of((12, 40)))
    flat = replace(averages_of((32, 32)), scale=0.0)
    with pytest.raises(ModelError, match="has no contrast"):
        Pair("m", flat)


@pytest.mark.parametrize("shape", [(40, 57), (300, 280)])
def test_tiles_do_not_show(shape, monkeypatch):
    averages, net = averages_of(shape), small().eval()
    whole = apply(net, averages)
    assert whole.shape == (2 * shape[0], 2 * shape[1])
    monkeypatch.setattr(zssr, "_TILE", 64)
    # bfloat16 sums in another order
    difference = float((apply(net, averages) - whole).square().mean().sqrt())
    assert difference < 0.01 * float(whole.std())


def test_what_was_measured_is_put_back():
    image, average = images(64, 96), images(32, 48, seed=4)
    found = back_project(image, average)
    shape, small_shape = (64, 96), (32, 48)
    kept = fourier.resize(torch.fft.rfft2(found), shape, small_shape)
    expected = fourier.upsampled(torch.fft.rfft2(average), small_shape)
    assert torch.allclose(fourier.resize(expected, shape, small_shape), kept, atol=1e-2)
    beyond = fourier.radius(shape) > 0.36
    assert torch.allclose(torch.fft.rfft2(found)[beyond], torch.fft.rfft2(image)[beyond], atol=1e-3)
    # bilinear interpolation and Fourier padding lie on the same grid
    smooth = fourier.to_image(torch.fft.rfft2(average) * (fourier.radius(small_shape) < 0.1), small_shape)
    padded = back_project(torch.zeros(64, 96), smooth)
    bilinear = upsample(smooth[None, None])[0, 0]
    assert float((padded - bilinear)[4:-4, 4:-4].square().mean().sqrt()) < 0.1 * float(smooth.std())


# ------------------------------------------------------------------------------------------------------ in service


class Knows:
    """A network that gives an image of its own."""

    reference = None

    def __init__(self, image_of):
        self.image_of = image_of

    def __call__(self, averages):
        assert averages.scale > 0.0
        return self.image_of


def test_a_network_that_invents_is_not_confirmed_and_one_that_knows_is():
    frames, motion, truth = sparse(0, strength=4.0)
    sums = sums_of(frames, motion, 0)

    halves = [average(lambda i: frames[i], motion, torch.arange(parity, 16, 2)).whole for parity in (0, 1)]
    whole = average(lambda i: frames[i], motion)
    verdicts = {}
    for name, image in (("truth", truth), ("invented", truth.flip(0, 1)), ("nothing", torch.zeros_like(truth))):
        network = Knows(partial(_lookup, halves, image))
        made = super_resolve_averages(
            network, whole, lambda i: frames[i], motion, Fusion(sums, NOISE), min_diversity=0.0
        )
        verdicts[name] = made.verdict
        assert made.image.shape == truth.shape
        assert made.verdict.method == "zssr"
    assert verdicts["truth"].verdict == "helps"
    assert verdicts["truth"].confirmed == pytest.approx(1.0, abs=0.2)
    assert verdicts["invented"].verdict == "not shown"
    assert abs(verdicts["invented"].confirmed) < 0.3
    assert verdicts["nothing"].verdict == "not shown"


def _lookup(halves, image, averages):
    """The part of an image that a window of some average shows."""
    height, width = averages.whole.shape
    if (height, width) == tuple(halves[0].shape):
        return image
    for known in halves:
        windows = known.unfold(0, height, 1).unfold(1, width, 1)
        same = (windows[..., 0, 0] == averages.whole[0, 0]) & (windows[..., -1, -1] == averages.whole[-1, -1])
        if bool(same.any()):
            y, x = same.nonzero()[0].tolist()
            return image[2 * y : 2 * (y + height), 2 * x : 2 * (x + width)]
    raise AssertionError


def test_trained_on_the_movie_or_loaded(tmp_path, monkeypatch):
    averages = averages_of((32, 40))
    monkeypatch.setattr(zssr, "MOST_STEPS", 2)
    monkeypatch.setattr(zssr.train, "__kwdefaults__", zssr.train.__kwdefaults__ | {"most_steps": 2})
    own = ZssrModel(None)
    assert own.reference is None
    image = own(averages)(averages)
    assert image.shape == (64, 80)
    again = ZssrModel(None)(averages)(averages)
    assert torch.equal(image, again)
    save_version(tmp_path / "v0001", small(), manifest(net=small().config, pixel_size=3.0, weight=[]))
    loaded = ZssrModel(tmp_path / "v0001")
    assert loaded.reference.version == "v0001"
    assert loaded(averages)(averages).shape == (64, 80)
    with pytest.raises(ModelError):
        ZssrModel(tmp_path / "none")


def test_training_that_diverges_is_told(monkeypatch):
    averages = averages_of((32, 40))
    broken = replace(averages, early=torch.full_like(averages.early, math.inf))
    monkeypatch.setattr(zssr.train, "__kwdefaults__", zssr.train.__kwdefaults__ | {"most_steps": 20})
    with pytest.raises(ModelError, match="did not stay finite"):
        ZssrModel(None)(broken)
