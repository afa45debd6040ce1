import math

import pytest
import torch

from streamer import fourier
from streamer.quality import estimators, intervals
from tests.simulated_movies import images


def micrograph(seed, shape=(96, 96), level=0.4):
    """Sums of one micrograph whose halves have this SSNR in every ring, and those with the truth."""
    signal = math.sqrt(level) * images(*shape, seed=5000 + seed)
    halves = [signal + images(*shape, seed=2 * seed + i) for i in (0, 1)]
    spectra = [torch.fft.rfft2(image) for image in halves]
    return estimators.estimate((spectra[0], spectra[1]), (spectra[0], spectra[1]), shape)


def test_intervals_hold_what_is_true_as_often_as_they_say():
    """Sets of eight micrographs of SSNR 0.4: of 60 intervals three may miss; seven would be very unlikely."""
    missed = 0
    for start in range(0, 480, 8):
        sums = torch.stack([micrograph(seed) for seed in range(start, start + 8)])[:, :, 2:12].sum(-1)
        lower, upper = intervals.bootstrap(sums)["snbr"]
        missed += not lower <= 0.4 <= upper
        assert upper - lower < 0.3
    assert missed <= 6


def test_more_micrographs_make_an_interval_narrower():
    sums = torch.stack([micrograph(seed) for seed in range(40)])[:, :, 2:12].sum(-1)
    few, many = (intervals.bootstrap(sums[:n])["snr"] for n in (10, 40))
    assert float(many[1] - many[0]) < 0.7 * float(few[1] - few[0])


def test_every_ring_gets_its_own_interval_and_the_same_seed_the_same():
    sums = torch.stack([micrograph(seed) for seed in range(6)])
    found = intervals.bootstrap(sums)
    assert set(found) == set(intervals.FIGURES)
    assert found["snbr"][0].shape == (fourier.ring_count((96, 96)),)
    again, other = intervals.bootstrap(sums)["snbr"][0], intervals.bootstrap(sums, seed=1)["snbr"][0]
    assert torch.equal(found["snbr"][0][10:], again[10:])
    assert not torch.equal(found["snbr"][0][10:], other[10:])


def test_where_signal_is_not_sure_to_be_there_is_no_interval():
    noise = torch.stack([micrograph(seed, level=0.0) for seed in range(6)])
    lower, upper = intervals.bootstrap(noise)["snbr"]
    assert torch.isnan(lower[1:]).double().mean() > 0.5
    assert torch.equal(torch.isnan(lower), torch.isnan(upper))


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (7, 2.365), (15, 2.131), (1000, 1.962)])
def test_students_quantile(freedom, quantile):
    assert intervals._student(freedom) == pytest.approx(quantile, rel=0.01)


def test_tiles_cover_the_field_and_pool_to_its_figure():
    shape = (384, 400)
    signal = 0.8 * images(*shape, seed=3)
    halves = [signal + images(*shape, seed=i) for i in (1, 2)]
    tiles = intervals.tile_sums(halves)
    assert tiles.shape == (16, 7, fourier.ring_count(intervals.tile_shape(shape)))
    pooled = estimators.ratios(tiles[:, :, 3:].sum((0, 2)))
    assert float(pooled.snr) == pytest.approx(0.64, rel=0.05)
