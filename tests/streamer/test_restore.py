import pytest
import torch

from streamer import fourier, restore
from streamer.movie_record import ModelRef
from streamer.quality import estimators
from streamer.records import Correction, Spectrum
from tests.simulated_movies import half_sums, images, unchanged

SHAPES = [(64, 64), (63, 64), (64, 63), (40, 91)]
MODEL = ModelRef(version="v0001", sha256="0" * 64)


def scene(shape):
    """Halves with signal, what was measured of them, and what a network makes of them."""
    picture = fourier.to_image(
        torch.fft.rfft2(images(*shape)) * torch.exp(-((fourier.radius(shape) / 0.1) ** 2)), shape
    )
    sums = half_sums(*(5.0 + 3.0 * picture + 0.2 * images(*shape, seed=i) for i in (1, 2)))
    return sums, estimators.measure(sums)


def correction(sums, value):
    rings = fourier.ring_count(sums.shape)
    total, even, odd = (torch.fft.rfft2(images(*sums.shape, seed=i)) for i in (11, 12, 13))
    weight = torch.full((rings,), value, dtype=torch.float64)
    return Correction(total=total, even=even, odd=odd, weight=weight, model=MODEL)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_significant_signal_the_plain_sum_comes_back_bit_for_bit(shape):
    sums, spectrum = scene(shape)
    blank = Spectrum(**{name: getattr(spectrum, name) for name in spectrum.__slots__} | {"significant": False})
    image, what = restore.restore(sums, blank, correction(sums, 1.0))
    assert what == "none"
    assert torch.equal(image, fourier.to_image(sums.total, shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_network_it_is_the_wiener_estimate(shape):
    sums, spectrum = scene(shape)
    image, what = restore.restore(sums, spectrum, None)
    assert what == "wiener"
    plane = fourier.from_rings(spectrum.ssnr_full / (1.0 + spectrum.ssnr_full), shape)
    plane[0, 0] = 1.0
    assert torch.equal(image, fourier.to_image(sums.total * plane, shape))
    # the mean of the micrograph is kept although no half can vouch for it
    assert float(image.mean()) == pytest.approx(float(fourier.to_image(sums.total, shape).mean()), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_without_weight_is_the_wiener_estimate_bit_for_bit(shape):
    sums, spectrum = scene(shape)
    plain, _ = restore.restore(sums, spectrum, None)
    image, what = restore.restore(sums, spectrum, correction(sums, 0.0))
    assert what == "wiener"
    assert torch.equal(image, plain)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_with_full_weight_is_itself(shape):
    sums, spectrum = scene(shape)
    proposed = correction(sums, 1.0)
    image, what = restore.restore(sums, spectrum, proposed)
    assert what == "network"
    torch.testing.assert_close(image, fourier.to_image(proposed.total, shape), rtol=1e-5, atol=1e-5)


def test_the_weight_counts_ring_by_ring():
    sums, spectrum = scene((64, 64))
    proposed = correction(sums, 0.0)
    proposed.weight[10:20] = 0.25
    image, what = restore.restore(sums, spectrum, proposed)
    assert what == "network"
    linear = restore.filtered(sums.total, spectrum.wiener, (64, 64))
    plane = fourier.from_rings(proposed.weight, (64, 64))
    expected = linear + plane * (proposed.total - linear)
    torch.testing.assert_close(image, fourier.to_image(expected, (64, 64)), rtol=1e-5, atol=1e-4)
    untouched = fourier.radius((64, 64)) < 8.5 / 64
    torch.testing.assert_close(torch.fft.rfft2(image)[untouched], linear[untouched], rtol=1e-3, atol=2e-2)


def test_inputs_stay_as_they_are():
    sums, spectrum = scene((33, 40))
    proposed = correction(sums, 0.5)
    with unchanged(sums.even, sums.odd, spectrum.ssnr_full, proposed.total, proposed.weight):
        restore.restore(sums, spectrum, proposed)


def test_the_wiener_estimate_is_nearer_to_the_truth_than_the_data():
    shape = (128, 128)
    truth = 4.0 * fourier.to_image(
        torch.fft.rfft2(images(*shape)) * torch.exp(-((fourier.radius(shape) / 0.1) ** 2)), shape
    )
    sums = half_sums(*(truth / 2 + images(*shape, seed=i) for i in (1, 2)))
    image, _ = restore.restore(sums, estimators.measure(sums), None)
    plain = fourier.to_image(sums.total, shape)
    best = (truth**2).mean() - (image - truth).square().mean()
    assert float((image - truth).square().mean()) < 0.5 * float((plain - truth).square().mean())
    assert float(best) > 0.3 * float((truth**2).mean())
