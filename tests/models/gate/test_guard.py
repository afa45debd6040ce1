import math
from dataclasses import replace

import pytest
import torch

from models.gate.guard import Evidence, Guard, pattern_of, pattern_strength
from models.manifest import MovieScore
from streamer import fourier
from tests.simulated_movies import images

SHAPE = (256, 256)
PIXEL = 3.0


def score(wiener, gain):
    return MovieScore(
        movie_id="m", snbr_raw=0.1, snbr_wiener=wiener, snbr=wiener * gain, bias_ratio=0.1, loss=1.0, loss_wiener=1.1
    )


def coarse(seed, strength=1.0):
    """A signal of particles' size."""
    shaped = torch.fft.rfft2(images(*SHAPE, seed=seed)) * torch.exp(-((fourier.radius(SHAPE) / 0.08) ** 2))
    return strength * fourier.to_image(shaped, SHAPE)


def movie(seed=0, *, better=1.0, strength=2.0, fixed=None):
    """Halves of coarse signal; what is served holds ``better`` times less of the Wiener estimate's noise."""
    signal = coarse(seed, strength)
    raw = [signal + images(*SHAPE, seed=1000 + 2 * seed + i) for i in (0, 1)]
    if fixed is not None:
        raw = [half + fixed for half in raw]
    blur = torch.exp(-((fourier.radius(SHAPE) / 0.08) ** 2))
    halves = [torch.fft.rfft2(half) for half in raw]
    linear = [half * blur for half in halves]
    there = torch.fft.rfft2(signal) * blur
    served = [there + (half - there) * better**-0.5 for half in linear]
    return Evidence(
        raw=tuple(halves), linear=tuple(linear), served=tuple(served), shape=SHAPE, band_pixel_size=PIXEL, low=100.0
    )


USUAL = [score(0.5, 2.0), score(1.0, 1.9), score(2.0, 1.7)]


def test_a_movie_like_those_before_is_let_through():
    verdict = Guard(USUAL).look(movie(better=2.0))
    assert verdict.refusal is None
    assert verdict.gain == pytest.approx(2.0, rel=0.2)
    assert 1.4 < verdict.expected_gain < 2.4
    assert 0.0 < verdict.gain_error < 0.1
    assert verdict.pattern is None


@pytest.mark.parametrize("better", [1.0, 0.5])
def test_what_is_no_better_than_the_wiener_filter_is_refused(better):
    verdict = Guard(USUAL).look(movie(better=better))
    assert "no better than the Wiener filter on this movie" in verdict.refusal


def test_what_helps_much_less_than_before_is_served_with_a_remark():
    much = [score(0.5, 6.0), score(1.0, 5.5), score(2.0, 5.0)]
    verdict = Guard(much).look(movie(better=2.0))
    assert verdict.refusal is None
    assert "another specimen, or another pixel size" in verdict.remark
    # one that helps more than was expected is nobody's loss, and nothing is known of a network without scores
    assert Guard(USUAL).look(movie(better=6.0)).remark is None
    assert Guard([]).look(movie(better=2.0)).remark is None


def test_two_movies_before_leave_more_room_than_many():
    few, many = Guard(USUAL[:2])._expected(1.0), Guard(USUAL * 6)._expected(1.0)
    assert few[1] > many[1] > 0.0
    assert math.exp(many[0]) == pytest.approx(1.85, rel=0.05)
    assert Guard([])._expected(1.0) == (None, 0.0)


def test_halves_that_share_nothing_are_refused():
    refusals = [Guard(USUAL).look(movie(seed, strength=0.0, better=2.0)).refusal for seed in range(6)]
    assert all(refusals)


def test_a_gain_of_unknown_error_is_no_gain():
    """One tile alone holds all that the halves share: leaving it out leaves nothing."""
    lucky = movie(3, strength=0.0, better=2.0)
    place = torch.zeros(SHAPE)
    place[:64, :64] = 3.0 * coarse(5)[:64, :64]
    both = torch.fft.rfft2(place)
    changed = {name: tuple(half + both for half in getattr(lucky, name)) for name in ("raw", "linear", "served")}
    verdict = Guard([]).look(replace(lucky, **changed))
    assert math.isnan(verdict.gain_error) or verdict.gain_error > 0.3
    assert verdict.refusal
    assert Guard([])._refusal(0.5, math.nan, None)
    assert Guard([])._refusal(0.5, 0.01, None) is None


def test_a_pattern_that_all_movies_hold_is_found_and_chance_is_not():
    fixed = 0.15 * images(*SHAPE, seed=9)
    plain = [fourier.to_image(sum(movie(seed, fixed=fixed).raw), SHAPE) for seed in range(20, 26)]
    clean = [fourier.to_image(sum(movie(seed).raw), SHAPE) for seed in range(20, 26)]
    guard = Guard(USUAL, pattern_of(plain))
    assert "a detector pattern" in guard.look(movie(better=2.0, fixed=fixed)).refusal
    assert guard.look(movie(better=2.0)).refusal is None
    chance = [pattern_strength(movie(seed), pattern_of(clean)) for seed in range(40, 80)]
    assert max(abs(value) for value in chance) < 4.0
    assert torch.tensor(chance).std() == pytest.approx(1.0, abs=0.35)


def test_a_pattern_of_another_size_is_not_looked_for():
    verdict = Guard(USUAL, torch.ones(128, 256)).look(movie(better=2.0))
    assert (verdict.refusal, verdict.pattern) == (None, None)


def test_smooth_ice_in_the_same_place_is_no_pattern():
    """Holes and beams lie where they lie in every movie."""
    edge = 3.0 * coarse(77)
    smooth = torch.exp(-((fourier.radius(SHAPE) / 0.02) ** 2))
    edge = fourier.to_image(torch.fft.rfft2(edge) * smooth, SHAPE)
    pattern = pattern_of([fourier.to_image(sum(movie(seed, fixed=edge).raw), SHAPE) for seed in range(20, 26)])
    assert abs(pattern_strength(movie(fixed=edge), pattern)) < 5.0
