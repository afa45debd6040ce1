import math

import pytest
import torch

from streamer import fourier
from streamer.ctf.transfer import ctf_2d
from streamer.quality import checks, estimators, intervals
from tests.simulated_movies import OPTICS, images

SHAPE = (192, 192)


def falling(seed):
    shaped = torch.fft.rfft2(images(*SHAPE, seed=seed)) * torch.exp(-((fourier.radius(SHAPE) / 0.15) ** 2))
    return 2.0 * fourier.to_image(shaped, SHAPE)


def pair(seed, fixed=None):
    """Halves of a specimen of its own, and what is the same in all."""
    signal = falling(100 + seed) + (0.0 if fixed is None else fixed)
    return tuple(signal + images(*SHAPE, seed=1000 + 2 * seed + i) for i in (0, 1))


def spectra(pictures):
    return tuple(estimators.tapered(torch.fft.rfft2(p), SHAPE) for p in pictures)


def checks_of(outputs, n=8):
    halves = [pair(seed) for seed in range(n)]
    sums = torch.stack([estimators.estimate(spectra(h), spectra(outputs(*h)), SHAPE) for h in halves])
    counts = fourier.coefficient_counts(SHAPE) * n
    found = checks.leak(estimators.ratios(sums.sum(0)), intervals.bootstrap(sums), counts)
    return {check.name: check for check in found}


def test_an_honest_denoiser_passes():
    blur = torch.exp(-((fourier.radius(SHAPE) / 0.1) ** 2))
    found = checks_of(lambda a, b: tuple(fourier.to_image(torch.fft.rfft2(h) * blur, SHAPE) for h in (a, b)))
    assert all(check.ok for check in found.values()), found


def test_a_denoiser_that_knows_the_other_halfs_noise_does_not():
    partly = checks_of(lambda a, b: (a + 0.3 * b, b + 0.3 * a))
    assert not partly["negative_bias"].ok
    wholly = checks_of(lambda a, b: (b, a))
    assert not wholly["cauchy_schwarz"].ok
    assert "leak" in wholly["cauchy_schwarz"].meaning


def other(fixed):
    halves = [spectra(pair(seed, fixed)) for seed in range(6)]
    cross, power, counts = [], [], []
    for (first, _), (_, second) in zip(halves, halves[1:], strict=False):
        cross.append(estimators.covariance(first, second, SHAPE))
        power.append((estimators.covariance(first, first, SHAPE) * estimators.covariance(second, second, SHAPE)).sqrt())
        counts.append(fourier.coefficient_counts(SHAPE))
    return checks.other_micrograph(torch.stack(cross), torch.stack(power), torch.stack(counts))


def test_different_micrographs_share_nothing_but_the_detectors_pattern():
    assert other(None).ok
    found = other(0.2 * images(*SHAPE, seed=77))
    assert not found.ok
    assert found.value > 1.4 * found.limit


def test_a_white_pattern_rises_towards_nyquist():
    counts = fourier.coefficient_counts(SHAPE)

    def found(fixed, blur):
        halves = pair(1, fixed)
        smooth = torch.exp(-((fourier.radius(SHAPE) / blur) ** 2))
        halves = tuple(torch.fft.rfft2(h) * smooth for h in halves)
        sums = estimators.estimate(halves, halves, SHAPE)
        return checks.fine_end(sums, counts)

    assert found(None, 10.0).ok
    # a pattern that grows with the frequency, as interpolation and read-out make it
    rising = fourier.to_image(torch.fft.rfft2(images(*SHAPE, seed=5)) * (2.0 * fourier.radius(SHAPE)) ** 4, SHAPE)
    assert not found(2.0 * rising, 10.0).ok


@pytest.mark.parametrize(("fixed", "ok"), [(0.0, True), (0.4, False)])
def test_zeros_of_the_ctf_hold_nothing_of_the_specimen(fixed, ok):
    ctf = ctf_2d(SHAPE, 3.0, OPTICS)
    signal = fourier.to_image(torch.fft.rfft2(3.0 * images(*SHAPE, seed=9)) * ctf, SHAPE)
    signal = signal + fixed * 3.0 * images(*SHAPE, seed=10)
    even, odd = spectra([signal + images(*SHAPE, seed=i) for i in (1, 2)])
    found = checks.ctf_zeros(even, odd, ctf, SHAPE, (3.0 / 40.0, 3.0 / 8.0))
    assert found.ok is ok, found
    assert math.isfinite(found.value)
