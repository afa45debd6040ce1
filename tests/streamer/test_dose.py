import math

import numpy as np
import pytest
import torch
from torch_fourier_filter.dose_weight import dose_weight_movie

from streamer import dose, fourier
from tests.simulated_movies import images, unchanged


@pytest.mark.parametrize(
    ("spatial_frequency", "exposure"),
    # 0.245 k^-1.665 + 2.81 by hand
    [(0.05, 38.74), (0.1, 14.14), (0.25, 5.274), (0.5, 3.587)],
)
def test_the_critical_exposure_is_grants(spatial_frequency, exposure):
    assert float(dose.critical_exposure(torch.tensor(spatial_frequency))) == pytest.approx(exposure, rel=1e-3)


@pytest.mark.parametrize(
    ("voltage_kv", "scale"),
    [(300, 1.0), (200, 0.8), (100, 0.64), (250, 0.9), (150, 0.72), (80, 0.64), (400, 1.0)],
)
def test_lower_voltages_damage_more(voltage_kv, scale):
    assert dose.voltage_scale(voltage_kv) == pytest.approx(scale)
    at_300, here = (dose.critical_exposure(torch.tensor(0.2), v) for v in (300.0, voltage_kv))
    assert float(here / at_300) == pytest.approx(scale)


@pytest.mark.parametrize("pixel_size", [1.0, 0.66, 2.1])
def test_after_the_critical_exposure_e_to_the_minus_half_is_left(pixel_size):
    fftfreq = torch.tensor([0.1, 0.37])
    rate = dose.decay_rate(fftfreq, pixel_size, 200.0)
    exposure = dose.critical_exposure(fftfreq / pixel_size, 200.0)
    torch.testing.assert_close(torch.exp(-exposure * rate), torch.full((2,), math.exp(-0.5)))


def test_the_mean_is_never_damaged():
    fftfreq = torch.tensor([0.0, 0.2])
    with unchanged(fftfreq):
        rate = dose.decay_rate(fftfreq, 1.3, 300.0)
    assert float(rate[0]) == 0.0
    assert float(rate[1]) > 0.0


def test_exposures_are_those_at_the_end_of_each_frame():
    np.testing.assert_allclose(dose.frame_exposures(4, 1.5), [1.5, 3.0, 4.5, 6.0])
    np.testing.assert_array_equal(dose.frame_exposures(3, None), [0, 0, 0])


@pytest.mark.parametrize("shape", [(16, 16), (15, 22)])
@pytest.mark.parametrize("n_frames", [1, 7, 80])
def test_the_table_of_squared_weights_equals_the_sum_over_frames(shape, n_frames):
    exposures = dose.frame_exposures(n_frames, 1.1)
    rate = dose.decay_rate(fourier.radius(shape), 0.9, 300.0)
    with unchanged(exposures, rate):
        found = dose.sum_of_squares(exposures, rate)
    expected = sum(np.exp(-2.0 * float(e) * rate.double().numpy()) for e in exposures)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_without_a_dose_every_frame_counts_one():
    rate = dose.decay_rate(fourier.radius((8, 8)), 1.0, 300.0)
    np.testing.assert_array_equal(dose.sum_of_squares(torch.zeros(9, dtype=torch.float64), rate), 9.0)
    np.testing.assert_array_equal(dose.sum_of_squares(torch.ones(9, dtype=torch.float64), torch.zeros(4)), 9.0)


@pytest.mark.parametrize("shape", [(24, 24), (21, 26)])
@pytest.mark.parametrize("voltage_kv", [300.0, 200.0, 100.0])
def test_the_exposure_filter_is_torch_fourier_filters(shape, voltage_kv):
    """Σ w F/√Σ w², the plain micrograph, against another implementation of Grant & Grigorieff 2015."""
    frames = torch.fft.rfft2(images(12, *shape))
    theirs = dose_weight_movie(
        frames.clone(), shape, pixel_size=1.37, pre_exposure=2.0, dose_per_frame=1.6, voltage=voltage_kv
    ).sum(0)
    rate = dose.decay_rate(fourier.radius(shape), 1.37, voltage_kv)
    exposures = dose.frame_exposures(12, 1.6)
    weights = torch.exp(-exposures.float()[:, None, None] * rate)
    ours = (weights * frames).sum(0) * dose.sum_of_squares(exposures, rate).rsqrt()
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-4)
