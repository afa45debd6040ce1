import numpy as np
import pytest

from streamer.detector import orientation
from streamer.detector.gain_check import check_fit
from streamer.settings import GainSettings

SHAPE = (192, 192)


def reference(seed=0, spread=0.06, shape=SHAPE):
    """What multiplies the frames: counting efficiency differs from pixel to pixel."""
    values = 1.0 + spread * np.random.default_rng(seed).standard_normal(shape)
    return values.clip(0.3).astype(np.float32)


def raw_sum(gain, seed=1, counts=30.0):
    """Sum of raw frames of a smooth specimen behind a detector of this gain."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.arange(n) for n in gain.shape), indexing="ij")
    specimen = 1.0 + 0.1 * np.sin(0.1 * x + seed) * np.cos(0.07 * y)
    return rng.poisson(counts * specimen / np.where(gain > 0, gain, 1.0)).astype(np.float32) * (gain > 0)


def check(total, in_file, sense="multiply", **settings):
    chosen = GainSettings(sense=sense, **settings)
    values = orientation.turned(in_file, chosen.rotate, chosen.flip)
    if sense == "divide":
        values = np.where(values > 0, values.mean() / np.where(values > 0, values, 1.0), 0).astype(np.float32)
    return check_fit(total, values, chosen, sense)


def test_the_right_reference_leaves_nothing():
    gain = reference()
    fit = check(raw_sum(gain), gain)
    assert fit.advice is None
    assert abs(fit.residual) < 3.5 * fit.error
    assert fit.error < 0.05


def test_no_false_alarm_on_fifty_movies_and_the_error_is_what_it_says():
    gain = reference()
    fits = [check(raw_sum(gain, seed=seed, counts=2.0 + seed), gain) for seed in range(50)]
    assert [fit.advice for fit in fits] == [None] * 50
    scatter = np.array([fit.residual / fit.error for fit in fits])
    assert 0.6 < scatter.std() < 1.4


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_residual_is_the_share_that_is_left(share):
    """A reference that holds only part of the pattern."""
    gain = reference(spread=0.04)
    other = reference(seed=9, spread=0.04)
    mixed = (1.0 + (1.0 - share) * (gain - 1.0) + share * (other - 1.0)).astype(np.float32)
    fit = check(raw_sum(mixed, counts=200.0), gain)
    assert fit.residual == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("true", orientation.ORIENTATIONS)
@pytest.mark.parametrize("now", [(0, 0), (1, 2)])
def test_every_orientation_is_found(true, now):
    in_file = reference()
    fit = check(raw_sum(orientation.turned(in_file, *true)), in_file, rotate=now[0], flip=now[1])
    if np.array_equal(orientation.turned(in_file, *true), orientation.turned(in_file, *now)):
        assert fit.advice is None
    else:
        assert f"gain.rotate = {true[0]} and gain.flip = {true[1]}" in fit.advice
        assert fit.residual == pytest.approx(1.0, abs=0.1)
        assert "sense" not in fit.advice


def test_frames_that_are_not_square_have_four():
    in_file = reference(shape=(120, 160))
    fit = check(raw_sum(orientation.turned(in_file, 2, 0)), in_file)
    assert "gain.rotate = 2 and gain.flip = 0" in fit.advice


@pytest.mark.parametrize(("applied", "right"), [("multiply", "divide"), ("divide", "multiply")])
def test_the_wrong_sense_is_found(applied, right):
    in_file = reference()
    behind = in_file if right == "multiply" else (1.0 / in_file).astype(np.float32)
    fit = check(raw_sum(behind), in_file, sense=applied)
    assert f'gain.sense = "{right}"' in fit.advice
    assert "rotate" not in fit.advice
    assert fit.residual == pytest.approx(2.0, abs=0.15)


def test_another_camera_or_frames_that_are_corrected_already():
    fit = check(raw_sum(np.ones(SHAPE, np.float32)), reference())
    assert "corrected already" in fit.advice
    assert fit.residual == pytest.approx(1.0, abs=0.1)


def test_defects_and_hot_pixels_do_not_decide():
    gain = reference()
    gain[3:6] = 0.0
    total = raw_sum(gain)
    total[50, 60] = 1e5
    fit = check(total, gain)
    assert fit.advice is None
    assert abs(fit.residual) < 0.1


def test_a_reference_without_a_pattern_tells_nothing():
    assert check(raw_sum(np.ones(SHAPE, np.float32)), np.ones(SHAPE, np.float32)) is None


def test_too_few_counts_raise_no_alarm():
    """Where the error is larger than what it would have to tell."""
    in_file = reference(spread=0.004)
    fit = check(raw_sum(orientation.turned(in_file, 1, 0), counts=0.3), in_file)
    assert fit.error > 0.3
    assert fit.advice is None or fit.residual - 3 * fit.error >= 0.5
