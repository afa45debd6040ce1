import numpy as np
import pytest

from streamer.detector.fixed_pattern import measure
from streamer.detector.gain_check import check_fit
from streamer.detector.gain_from_movies import NotUsable, PatternSums
from streamer.settings import GainSettings
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import apoferritin

SCOPE = Microscope(shape=(192, 224), n_frames=8, pixel_size=1.5, dose_per_frame=2.0)
CAMERA = Detector(SCOPE.shape, 0, hot=2e-4, dead=2e-4)
FLAT = Detector(SCOPE.shape, 1, hot=0.0, dead=0.0)
FLAT.efficiency = np.ones_like(FLAT.efficiency)
CHECKPOINTS = (2, 8, 32, 64)


def frames_of(camera, seed):
    """Movie of a specimen of its own, with a drift of its own."""
    return np.stack(list(Field(SCOPE, apoferritin() if seed % 2 else None, seed=seed).frames(camera)))


def total_of(camera, seed):
    return frames_of(camera, seed).sum(0, dtype=np.float32)


def smooth(image):
    """Coarser than about 32 px, by a Gaussian in Fourier space: the test's own way."""
    rows, columns = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None]
    low = np.exp(-0.5 * ((rows**2 + columns**2) * (2 * np.pi * 14.0) ** 2))
    return np.fft.irfft2(np.fft.rfft2(image) * low, s=image.shape)


def spread_of(image, good):
    """Relative standard deviation from pixel to pixel of an image of sensitivities."""
    filled = np.where(good, image, image[good].mean())
    return float((filled / smooth(filled) - 1.0)[good].std())


@pytest.fixture(scope="module")
def made():
    """Gains after so many movies."""
    sums, found = PatternSums(SCOPE.shape), {}
    for number in range(1, max(CHECKPOINTS) + 1):
        sums.add(total_of(CAMERA, number))
        if number in CHECKPOINTS:
            found[number] = sums.made()
    return found


@pytest.mark.parametrize("number", CHECKPOINTS)
def test_what_stays_is_what_was_predicted(made, number):
    gain, truth = made[number], CAMERA.efficiency
    good = (truth > 0.2) & (CAMERA.hot_counts == 0) & (gain.values > 0)
    assert gain.movies == number
    assert gain.spread == pytest.approx(spread_of(truth, good), rel=0.1)
    assert gain.left == pytest.approx(spread_of(truth * gain.values, good), rel=0.15)
    assert gain.left < gain.spread


def test_more_movies_leave_less_and_the_number_that_is_enough_stays_the_same(made):
    left = [made[number].left for number in CHECKPOINTS]
    certainty = [made[number].certainty for number in CHECKPOINTS]
    assert left == sorted(left, reverse=True)
    assert certainty == sorted(certainty)
    assert made[64].movies_needed == pytest.approx(made[8].movies_needed, rel=0.2)
    assert 50 < made[64].movies_needed < 150


def test_dead_and_hot_pixels_are_defects(made):
    values = made[64].values
    assert (values[CAMERA.efficiency == 0] == 0).all()
    assert (values[CAMERA.hot_counts > 4.0] == 0).all()
    assert (values == 0).sum() <= ((CAMERA.efficiency == 0) | (CAMERA.hot_counts > 0)).sum()


def test_it_fits_a_movie_that_it_was_not_made_from(made):
    powers = []
    for seed in range(901, 913):
        frames = frames_of(CAMERA, seed)
        total = frames.sum(0, dtype=np.float32)
        fit = check_fit(total, made[64].values, GainSettings(), "multiply")
        assert fit.advice is None
        assert abs(fit.residual) < 4.0 * fit.error
        powers.append([measure(frames, total, values).power for values in (None, made[64].values)])
    before, after = np.mean(powers, 0)
    error = np.std(powers, 0)[1] / len(powers) ** 0.5
    assert before == pytest.approx(0.05**2, rel=0.2)
    assert after == pytest.approx(made[64].left ** 2, abs=4.0 * error)


def test_few_movies_never_harm(made):
    truth = CAMERA.efficiency
    good = (truth > 0.2) & (CAMERA.hot_counts == 0) & (made[2].values > 0)
    assert spread_of(truth * made[2].values, good) < spread_of(truth, good)


def test_a_camera_without_a_pattern_needs_no_gain():
    sums = PatternSums(SCOPE.shape)
    for number in range(24):
        sums.add(total_of(FLAT, 100 + number))
    found = sums.made()
    assert found.is_flat
    assert found.movies_needed == 0
    assert found.left < 0.01


def test_columns_come_out_long_before_pixels():
    """Two movies tell the columns of a camera of which they cannot tell the pixels."""
    rng = np.random.default_rng(3)
    columns = 1.0 + 0.05 * np.broadcast_to(rng.standard_normal((1, 192)), (192, 192))
    sums = PatternSums((192, 192))
    for _ in range(2):
        sums.add(rng.poisson(20.0 * columns).astype(np.float32))
    found, good = sums.made(), np.ones((192, 192), bool)
    assert spread_of(columns * found.values, good) < 0.3 * spread_of(columns, good)
    assert found.left == pytest.approx(spread_of(columns * found.values, good), rel=0.25)


@pytest.mark.parametrize(
    ("total", "reason"),
    [
        (np.ones((192, 225), np.float32), "225"),
        (np.zeros(SCOPE.shape, np.float32), "empty"),
        (np.full(SCOPE.shape, 20.3, np.float32), "corrected already"),
        (np.where(np.arange(224) < 100, 1.0, 50.0).astype(np.float32) * np.ones((192, 1), np.float32), "partly dark"),
    ],
)
def test_what_says_nothing_is_refused_and_changes_nothing(total, reason):
    sums = PatternSums(SCOPE.shape)
    sums.add(total_of(CAMERA, 1))
    before = sums.sums.copy()
    with pytest.raises(NotUsable, match=reason):
        sums.add(total)
    assert sums.movies == 1
    assert np.array_equal(sums.sums, before)
    assert sums.made() is None
