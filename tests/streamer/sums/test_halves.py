import math

import numpy as np
import pytest
import torch

from streamer import dose, fourier
from streamer.quality import estimators
from streamer.sums import frame_sum, halves
from tests.simulated_movies import images

SHIFTS = torch.tensor(np.random.default_rng(3).uniform(-2, 2, (12, 2)))


def fused(frames, dose_per_frame=2.0, shifts=None, **options):
    exposures = dose.frame_exposures(len(frames), dose_per_frame)
    shifts = torch.zeros(len(frames), 2, dtype=torch.float64) if shifts is None else shifts
    return frame_sum.sum_frames(lambda i: frames[i], shifts, exposures, pixel_size=1.2, voltage_kv=200.0, **options)


@pytest.mark.parametrize("size", [(16, 16), (15, 18), (16, 13)])
@pytest.mark.parametrize("dose_per_frame", [2.0, None])
def test_the_micrograph_is_the_weighted_sum_over_the_root_of_the_squared_weights(size, dose_per_frame):
    frames = images(12, *size)
    sums = halves.half_sums(fused(frames, dose_per_frame, SHIFTS - SHIFTS.round()), 1.2, 200.0)
    rows, columns = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :]
    rate = 0.5 / ((0.245 * (np.hypot(rows, columns) / 1.2).clip(1e-12) ** -1.665 + 2.81) * 0.8)
    exposures = 2.0 * np.arange(1, 13) if dose_per_frame else np.zeros(12)
    total, squares = np.zeros((size[0], size[1] // 2 + 1), dtype=complex), 0.0
    for t, (y, x) in enumerate((SHIFTS - SHIFTS.round()).numpy()):
        weight = np.exp(-exposures[t] * rate)
        total += np.fft.rfft2(frames[t].double()) * weight * np.exp(-2j * math.pi * (rows * y + columns * x))
        squares = squares + weight**2
    np.testing.assert_allclose(sums.total, total / np.sqrt(squares), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("n_frames", [2, 5, 12])
def test_even_and_odd_add_up_to_the_micrograph(n_frames):
    frames = images(n_frames, 14, 17)
    accumulated = fused(frames)
    sums = halves.half_sums(accumulated, 1.2, 200.0)
    assert torch.equal(sums.total, sums.even + sums.odd)
    rate = dose.decay_rate(fourier.radius((14, 17)), 1.2, 200.0)
    norm = dose.sum_of_squares(accumulated.exposures, rate).sqrt()
    torch.testing.assert_close(sums.even * norm, accumulated.even)
    torch.testing.assert_close(sums.odd * norm, accumulated.odd)


@pytest.mark.parametrize("n_frames", [1, 2, 7, 12])
@pytest.mark.parametrize("dose_per_frame", [None, 2.0])
def test_the_even_share_is_their_part_of_the_squared_weights(n_frames, dose_per_frame):
    sums = halves.half_sums(fused(images(n_frames, 20, 22), dose_per_frame), 1.2, 200.0)
    weights = np.exp(-2 * (1.0 + 2.0 * np.arange(1, n_frames + 1))[:, None] * _rate(sums)) if dose_per_frame else None
    expected = -(-n_frames // 2) / n_frames if weights is None else weights[0::2].sum(0) / weights.sum(0)
    np.testing.assert_allclose(sums.even_share, np.broadcast_to(expected, 11), rtol=1e-3)


def _rate(sums):
    frequency = fourier.ring_frequencies(sums.shape).numpy().clip(1e-12) / sums.pixel_size
    return 0.5 / ((0.245 * frequency**-1.665 + 2.81) * 0.8)


@pytest.mark.parametrize("dose_per_frame", [None, 2.0])
def test_counting_noise_stays_white_and_is_the_mean_counts(dose_per_frame):
    frames = torch.poisson(torch.full((16, 200, 200), 3.0), generator=torch.Generator().manual_seed(0))
    spectrum = estimators.measure(halves.half_sums(fused(frames, dose_per_frame), 1.2, 200.0))
    pooled = spectrum.noise[5:].reshape(-1, 8).mean(1)
    # 32 rings of 7 smoothed: the thinnest hold some 400 coefficients
    np.testing.assert_allclose(pooled, 3.0, rtol=0.12)
    assert float(spectrum.noise[5:].mean()) == pytest.approx(3.0, rel=0.02)


# ----------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(
    ("n_frames", "groups"), [(1, 0), (3, 0), (4, 4), (5, 4), (9, 8), (10, 10), (11, 10), (40, 10), (400, 10)]
)
def test_groups_are_even_in_number(n_frames, groups):
    assert halves.group_count(n_frames) == groups


def test_group_sums_are_those_of_the_frames_on_one_scale():
    frames = 5.0 + images(10, 32, 40)
    sums = halves.group_sums(fused(frames, None, group_shape=(16, 24), n_groups=4), (16, 24), 1.2, 200.0)
    assert sums.groups.dtype == torch.float16
    assert sums.groups.shape == (4, 16, 24)
    assert float(sums.groups.float().std()) == pytest.approx(1.0, abs=1e-3)
    assert float(sums.groups.float().mean((1, 2)).abs().max()) < 1e-3
    for group in range(4):
        spectrum = fourier.resize(torch.fft.rfft2(frames[group::4].sum(0)), (32, 40), (16, 24))
        spectrum[0, 0] = 0
        expected = fourier.to_image(spectrum, (16, 24)).flatten()
        assert np.corrcoef(expected, sums.groups[group].float().flatten())[0, 1] > 0.9999
    assert (sums.shape, sums.pixel_size, sums.voltage_kv) == ((32, 40), 1.2, 200.0)


def test_groups_know_when_their_frames_were_exposed():
    sums = halves.group_sums(fused(images(6, 16, 16), 2.0, group_shape=(8, 8), n_groups=4), (8, 8), 1.2, 200.0)
    assert sums.exposures == ((2.0, 10.0), (4.0, 12.0), (6.0,), (8.0,))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_any_cameras_counts_fit_into_float16(scale):
    frames = images(4, 16, 16)
    plain, scaled = (
        halves.group_sums(fused(f, None, group_shape=(8, 8), n_groups=4), (8, 8), 1.2, 200.0)
        for f in (frames, scale * frames)
    )
    torch.testing.assert_close(plain.groups, scaled.groups, rtol=1e-2, atol=1e-2)


def test_without_groups_there_are_no_group_sums():
    assert halves.group_sums(fused(images(3, 8, 8)), (8, 8), 1.2, 200.0) is None
