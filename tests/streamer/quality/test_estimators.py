import math

import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.quality import estimators
from streamer.records import Spectrum
from tests.simulated_movies import full_ring_sums, half_sums, images, unchanged

SHAPES = [(64, 64), (63, 64), (64, 63), (40, 91)]


def signal_of(shape, power, seed=9):
    """An image whose expected power per coefficient, over that of unit white noise, is ``power`` at cycles/px."""
    shaped = torch.fft.rfft2(images(*shape, seed=seed)) * power(fourier.radius(shape)).sqrt()
    shaped[0, 0] = 0
    return fourier.to_image(shaped, shape)


def falling(radius):
    """SSNR of a half that looks like a micrograph's: strong and coarse."""
    return 4.0 * torch.exp(-((radius / 0.08) ** 2))


def spectra(*pictures):
    return tuple(estimators.tapered(torch.fft.rfft2(p), tuple(p.shape)) for p in pictures)


class Scene:
    """Two halves of one signal, and what a denoiser made of each."""

    def __init__(self, shape=(512, 512), seed=0):
        self.shape = shape
        self.signal = signal_of(shape, falling, seed + 5)
        self.halves = tuple(self.signal + images(*shape, seed=seed + i) for i in (1, 2))
        self.band = estimators.band_mask(shape, 1.0, 200.0, 8.0)

    def figures(self, denoise, pooled=True):
        outputs = denoise if isinstance(denoise, tuple) else tuple(denoise(half) for half in self.halves)
        sums = estimators.estimate(spectra(*self.halves), spectra(*outputs), self.shape)
        return estimators.pooled(sums, self.band) if pooled else estimators.ratios(sums)

    def true_snbr(self, denoise):
        """ρ²/(1 − ρ²) with the correlation of an output and the signal itself, over the same band."""
        output, truth = spectra(denoise(self.halves[0]), self.signal)
        common, power, there = (
            float(estimators.covariance(a, b, self.shape)[self.band].sum())
            for a, b in ((output, truth), (output, output), (truth, truth))
        )
        rho2 = common**2 / (power * there)
        return rho2 / (1 - rho2)

    def low_pass(self, cut):
        factor = torch.exp(-((fourier.radius(self.shape) / cut) ** 2))
        return lambda half: fourier.to_image(torch.fft.rfft2(half) * factor, self.shape)


@pytest.fixture(scope="module")
def scene():
    return Scene()


# -------------------------------------------------------------------------------------------------------------- FRC


@pytest.mark.parametrize("shape", SHAPES)
def test_the_frc_is_that_of_the_full_plane(shape):
    a, b = images(*shape, seed=1), images(*shape, seed=2) + images(*shape, seed=1)
    first, second = torch.fft.rfft2(a), torch.fft.rfft2(b)
    with unchanged(first, second):
        found = estimators.frc(first, second, shape)
    f, g = np.fft.fft2(a.double().numpy()), np.fft.fft2(b.double().numpy())
    common, p, q = (full_ring_sums((u.conj() * v).real) for u, v in ((f, g), (f, f), (g, g)))
    np.testing.assert_allclose(found, common / np.sqrt(p * q), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_frc_does_not_change_when_both_images_are_transposed(shape):
    a, b = images(*shape, seed=1), images(*shape, seed=2)
    upright = estimators.frc(torch.fft.rfft2(a), torch.fft.rfft2(b), shape)
    lying = estimators.frc(torch.fft.rfft2(a.T), torch.fft.rfft2(b.T), (shape[1], shape[0]))
    np.testing.assert_allclose(upright, lying, atol=1e-5)


def test_an_image_agrees_with_itself_and_disagrees_with_its_negative():
    spectrum = torch.fft.rfft2(images(32, 30))
    np.testing.assert_allclose(estimators.frc(spectrum, 3.0 * spectrum, (32, 30)), 1.0, atol=1e-6)
    np.testing.assert_allclose(estimators.frc(spectrum, -spectrum, (32, 30)), -1.0, atol=1e-6)


def test_the_frc_of_noise_is_zero_within_chance():
    found = estimators.frc(
        torch.fft.rfft2(images(256, 256, seed=1)), torch.fft.rfft2(images(256, 256, seed=2)), (256, 256)
    )
    chance = (2.0 * fourier.coefficient_counts((256, 256))).rsqrt()
    assert float((found / chance)[1:].abs().max()) < 4.5
    assert float((found / chance)[1:].std()) == pytest.approx(1.0, abs=0.2)


def test_an_empty_ring_has_no_correlation():
    spectrum = torch.fft.rfft2(images(16, 16))
    spectrum[fourier.ring_index((16, 16)) == 3] = 0
    found = estimators.frc(spectrum, spectrum, (16, 16))
    assert float(found[3]) == 0.0
    assert float(found[4]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("correlation", "half", "full"),
    [(0.0, 0.0, 0.0), (0.5, 1.0, 2.0), (0.143, 0.16686, 0.33372), (0.9, 9.0, 18.0), (-0.3, 0.0, 0.0)],
)
def test_the_ssnr_of_a_half_and_of_the_whole(correlation, half, full):
    value = torch.tensor(correlation, dtype=torch.float64)
    assert float(estimators.ssnr_half(value)) == pytest.approx(half, rel=1e-4)
    assert float(estimators.ssnr_full(value)) == pytest.approx(full, rel=1e-4)


def test_the_ssnr_of_perfect_agreement_is_finite():
    assert math.isfinite(float(estimators.ssnr_full(torch.tensor(1.0))))


def test_smoothing_sums_neighbouring_rings():
    sums = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_array_equal(estimators.smooth(sums, 1), [3, 7, 14, 28, 24])


# ---------------------------------------------------------------------------------------------- curves of a movie


@pytest.mark.parametrize("shape", [(384, 384), (383, 400)])
@pytest.mark.parametrize(("level", "tolerance"), [(0.3, 0.13), (2.0, 0.04)])
def test_the_ssnr_of_the_whole_is_found(shape, level, tolerance):
    """Halves with SSNR level/2 each; the micrograph is their sum, so its noise power is twice theirs."""
    picture = signal_of(shape, lambda radius: torch.full_like(radius, level / 2.0))
    spectrum = estimators.measure(half_sums(*(picture + images(*shape, seed=i) for i in (1, 2))))
    # the shrinking by chance costs (2σ/FRC)² of it: a twentieth where FRC is 0.13, next to nothing where it is 0.5
    assert float(spectrum.ssnr_full[40:].mean()) == pytest.approx(level, rel=tolerance)
    assert float(spectrum.noise[40:].mean()) == pytest.approx(2.0, rel=0.03)
    assert float(spectrum.wiener[40:].mean()) == pytest.approx(level / (1 + level), rel=tolerance)
    assert float(spectrum.wiener_half[40:].mean()) == pytest.approx(level / (2 + level), rel=tolerance)
    assert spectrum.significant


@pytest.mark.parametrize("share", [0.5, 2 / 3, 0.8])
def test_unequal_halves_give_the_same_curves(share):
    """An odd number of frames: the even half has more of the signal and more of the noise."""
    shape, level = (384, 384), 1.5
    picture = signal_of(shape, lambda radius: torch.full_like(radius, level))
    even = share * picture + math.sqrt(share) * images(*shape, seed=1)
    odd = (1 - share) * picture + math.sqrt(1 - share) * images(*shape, seed=2)
    spectrum = estimators.measure(half_sums(even, odd, share=share))
    assert float(spectrum.ssnr_full[40:].mean()) == pytest.approx(level, rel=0.06)
    assert float(spectrum.noise[40:].mean()) == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_curves_have_a_value_for_each_ring(shape):
    spectrum = estimators.measure(half_sums(images(*shape, seed=1), images(*shape, seed=2)))
    np.testing.assert_allclose(spectrum.fftfreq, np.arange(min(shape) // 2 + 1) / min(shape))
    np.testing.assert_allclose(spectrum.counts, full_ring_sums(np.ones(shape)) / 2)
    for curve in (spectrum.frc, spectrum.noise, spectrum.ssnr_full):
        assert curve.shape == (min(shape) // 2 + 1,)
        assert torch.isfinite(curve).all()


def test_blank_movies_are_not_significant():
    """Forty fields of counting noise, no false alarm; and nothing is left of most rings."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        halves = torch.poisson(torch.full((2, 128, 128), 20.0), generator=generator)
        spectrum = estimators.measure(half_sums(*halves))
        assert not spectrum.significant
        assert float((spectrum.ssnr_full == 0).double().mean()) > 0.8


def test_weak_signal_is_significant():
    picture = signal_of((256, 256), lambda radius: 0.3 * (radius < 0.1))
    assert estimators.measure(half_sums(*(picture + images(256, 256, seed=i) for i in (1, 2)))).significant


def test_one_frame_has_an_empty_half_and_nothing_significant():
    spectrum = estimators.measure(half_sums(1.0 + images(64, 64), torch.zeros(64, 64), share=1.0))
    assert not spectrum.significant
    assert float(spectrum.ssnr_full.abs().max()) == 0.0
    assert float(spectrum.noise[5:].mean()) == pytest.approx(1.0, rel=0.1)


def test_equal_halves_have_a_finite_ssnr():
    picture = images(64, 64)
    spectrum = estimators.measure(half_sums(picture, picture))
    assert torch.isfinite(spectrum.ssnr_full).all()
    assert float(spectrum.wiener[5:].min()) > 0.99


def test_measuring_leaves_the_halves_as_they_are():
    sums = half_sums(images(32, 33, seed=1), images(32, 33, seed=2))
    with unchanged(sums.even, sums.odd, sums.even_share):
        estimators.measure(sums)


def curve(frc, shape=(100, 100)):
    counts = fourier.coefficient_counts(shape)
    zeros = torch.zeros_like(counts)
    return Spectrum(
        fftfreq=fourier.ring_frequencies(shape), counts=counts, frc=frc, noise=zeros, ssnr_full=zeros, significant=True
    )


@pytest.mark.parametrize("pixel_size", [1.0, 2.5])
def test_the_resolution_is_where_the_correlation_falls_for_good(pixel_size):
    frequency = fourier.ring_frequencies((100, 100))
    assert estimators.resolution_at(curve((frequency <= 0.3).double()), pixel_size) == pytest.approx(
        pixel_size / 0.3, rel=0.1
    )
    # Thon rings: a gap before the last crossing does not end it
    gaps = ((frequency <= 0.3) & ((frequency * 100).long() % 20 < 10)).double()
    assert estimators.resolution_at(curve(gaps), pixel_size) == pytest.approx(pixel_size / 0.3, rel=0.1)


def test_without_correlation_there_is_no_resolution():
    assert estimators.resolution_at(curve(torch.zeros(51, dtype=torch.float64)), 1.0) is None


# ----------------------------------------------------------------------------------------------- what a denoiser did


def test_doing_nothing_has_the_snbr_of_the_data(scene):
    figures = scene.figures(lambda half: half)
    assert float(figures.snbr) == pytest.approx(float(figures.snr), rel=1e-9)
    assert float(figures.snr) == pytest.approx(scene.true_snbr(lambda half: half), rel=0.05)
    assert float(figures.gamma) == pytest.approx(1.0)
    assert float(figures.bias) == pytest.approx(0.0, abs=1e-6 * float(figures.signal))


@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_the_scale_of_the_output_does_not_matter(scene, scale):
    plain, scaled = scene.figures(scene.low_pass(0.06)), scene.figures(lambda half: scale * scene.low_pass(0.06)(half))
    assert float(scaled.snbr) == pytest.approx(float(plain.snbr), rel=1e-5)
    assert float(scaled.gamma) == pytest.approx(scale * float(plain.gamma), rel=1e-5)


def test_an_output_of_nothing_has_nothing(scene):
    figures = scene.figures(torch.zeros_like)
    assert float(figures.snbr) == 0.0
    assert float(figures.gamma) == 0.0
    assert float(figures.bias) == 0.0
    assert float(figures.noise) == 0.0


@pytest.mark.parametrize("cut", [0.03, 0.06, 0.12])
def test_a_low_pass_is_worth_what_the_truth_says(scene, cut):
    figures = scene.figures(scene.low_pass(cut))
    assert float(figures.snbr) == pytest.approx(scene.true_snbr(scene.low_pass(cut)), rel=0.05)


def test_no_linear_filter_changes_any_ring(scene):
    """What a network is worth ring by ring is therefore what it learned."""
    raw, filtered = scene.figures(lambda half: half, False), scene.figures(scene.low_pass(0.1), False)
    rings = scene.band & (raw.signal > 0)
    # tapering after filtering mixes neighbouring rings a little
    np.testing.assert_allclose(filtered.snbr[rings], raw.snbr[rings], rtol=0.15)
    assert float((filtered.snbr[rings] / raw.snbr[rings]).mean()) == pytest.approx(1.0, abs=0.02)


def test_an_invented_pattern_is_bias(scene):
    """Both outputs hold the same thing that is not in the specimen."""
    pattern = signal_of(scene.shape, falling, seed=77)
    figures = scene.figures(lambda half: half + pattern)
    (there,) = spectra(pattern)
    expected = float(estimators.covariance(there, there, scene.shape)[scene.band].sum())
    assert float(figures.bias) == pytest.approx(expected, rel=0.05)
    assert float(figures.snbr) < 0.6 * float(figures.snr)


def test_noise_that_is_added_is_noise(scene):
    noise = iter(2.0 * images(2, *scene.shape, seed=55))
    raw, figures = scene.figures(lambda half: half), scene.figures(lambda half: half + next(noise))
    assert float(figures.noise / raw.noise) == pytest.approx(5.0, rel=0.05)
    assert float(figures.gamma) == pytest.approx(1.0, abs=0.05)


def test_a_denoiser_that_knows_the_other_halfs_noise_is_caught(scene):
    """A leak: B⊥ below zero says so, and SNBR* must not look like a figure."""
    honest = scene.figures(scene.low_pass(0.1))
    assert float(honest.bias) > -0.01 * float(honest.signal)
    even, odd = scene.halves
    partly = scene.figures((even + 0.3 * odd, odd + 0.3 * even))
    assert float(partly.bias) < -0.05 * float(partly.signal)
    wholly = scene.figures((odd, even))
    assert float(wholly.bias) < -float(wholly.signal) * 0.1
    assert float(wholly.snbr) > 1e6


def test_the_total_bias_counts_what_was_lost_and_the_ratios_do_not(scene):
    """Half the amplitude: nothing is invented, a quarter of the signal's power is missing."""
    honest, halved = scene.figures(lambda half: half), scene.figures(lambda half: 0.5 * half)
    assert float(halved.bias_total) == pytest.approx(0.25 * float(halved.signal), rel=1e-3)
    assert float(honest.bias_total) == pytest.approx(0.0, abs=1e-6 * float(honest.signal))
    assert float(halved.snr_denoised) == pytest.approx(float(honest.snr_denoised), rel=1e-5)
    pattern = signal_of(scene.shape, falling, seed=77)
    invented, doubled = scene.figures(lambda half: half + pattern), scene.figures(lambda half: 2.0 * (half + pattern))
    assert float(invented.sbr) == pytest.approx(float(invented.gamma**2 * invented.signal / invented.bias), rel=1e-6)
    assert float(doubled.sbr) == pytest.approx(float(invented.sbr), rel=1e-5)
    assert float(invented.rho2) == pytest.approx(float(invented.snbr / (1 + invented.snbr)), rel=1e-6)


def test_frames_that_were_held_out_judge_the_whole(scene):
    """Denoised at four units of exposure, judged by a fifth: SNBR* is that of the sum, not of a half."""
    shape = scene.shape
    units = [scene.signal + images(*shape, seed=300 + i) for i in range(5)]
    whole, rest = sum(units[:4]) / 2.0, 2.0 * units[4]  # the whole has noise 1; the rest the same signal
    blur = scene.low_pass(0.06)
    found = {}
    for name, output in (("nothing", whole), ("blur", blur(whole)), ("blank", torch.zeros(shape))):
        sums = estimators.estimate_held_out(*spectra(whole, output, rest), shape)
        found[name] = estimators.pooled(sums, scene.band)
    assert float(found["nothing"].snbr) == pytest.approx(float(found["nothing"].snr), rel=1e-6)
    (truth, plain, blurred) = spectra(scene.signal, whole, blur(whole))
    for output, figures in ((plain, found["nothing"]), (blurred, found["blur"])):
        common, power, there = (
            float(estimators.covariance(a, b, shape)[scene.band].sum())
            for a, b in ((output, truth), (output, output), (truth, truth))
        )
        rho2 = common**2 / (power * there)
        assert float(figures.snbr) == pytest.approx(rho2 / (1 - rho2), rel=0.08)
        assert math.isnan(float(figures.bias))
    assert float(found["blank"].snbr) == 0.0


def test_where_there_is_no_signal_there_is_no_figure():
    noise = spectra(images(64, 64, seed=1), images(64, 64, seed=2))
    sums = estimators.estimate(noise, noise, (64, 64))
    figures = estimators.ratios(torch.where(torch.arange(33) % 2 == 0, -1.0, 1.0)[None] * sums.abs())
    assert torch.isnan(figures.snbr[::2]).all()
    assert torch.isnan(figures.gamma[::2]).all()


def test_sums_are_pooled_before_ratios_are_taken(scene):
    outputs = spectra(*(scene.low_pass(0.06)(half) for half in scene.halves))
    sums = estimators.estimate(spectra(*scene.halves), outputs, scene.shape)
    pooled = estimators.pooled(sums, scene.band)
    v, p_1, p_2, c_x, _, p_d1, p_d2 = sums[:, scene.band].sum(1)
    rho2 = float(c_x**2 / ((p_d1 * p_d2).sqrt() * v))
    assert float(pooled.snbr) == pytest.approx(rho2 / (1 - rho2))
    assert float(pooled.snr) == pytest.approx(float(v / ((p_1 * p_2).sqrt() - v)))
    assert float(pooled.snbr) != pytest.approx(float(estimators.ratios(sums).snbr[scene.band].mean()), rel=0.05)


@pytest.mark.parametrize(
    ("pixel_size", "low", "high", "first", "last"), [(1.0, 100.0, 10.0, 2, 20), (2.0, 100.0, 10.0, 4, 40)]
)
def test_the_band_is_in_angstrom(pixel_size, low, high, first, last):
    rings = torch.nonzero(estimators.band_mask((200, 300), pixel_size, low, high)).flatten()
    assert (int(rings[0]), int(rings[-1])) == (first, last)


def test_the_band_ends_at_nyquist_and_never_holds_the_mean():
    mask = estimators.band_mask((64, 64), 4.0, 1e9, 1.0)
    assert not mask[0]
    assert bool(mask[1:].all())


@pytest.mark.parametrize(("value", "kept"), [(1.5, 1.5), (math.nan, None), (math.inf, None), (-math.inf, None)])
def test_what_is_not_a_number_is_not_recorded(value, kept):
    assert estimators.finite(value) == kept


@pytest.mark.parametrize("shape", SHAPES)
def test_tapering_takes_the_mean_and_fades_the_edge(shape):
    image = 7.0 + images(*shape)
    spectrum = torch.fft.rfft2(image)
    with unchanged(spectrum):
        faded = fourier.to_image(estimators.tapered(spectrum, shape), shape)
    torch.testing.assert_close(faded, (image - image.mean()) * fourier.cosine_taper(shape), rtol=0, atol=1e-4)


def test_halves_of_a_batch_are_tapered_one_by_one():
    batch = torch.fft.rfft2(images(3, 20, 24))
    torch.testing.assert_close(estimators.tapered(batch, (20, 24))[1], estimators.tapered(batch[1], (20, 24)))


def test_the_pixel_size_does_not_touch_the_curves():
    pictures = [images(64, 64, seed=i) for i in (1, 2)]
    one, other = (estimators.measure(half_sums(*pictures, pixel_size=p)) for p in (1.0, 3.3))
    assert torch.equal(one.ssnr_full, other.ssnr_full)
