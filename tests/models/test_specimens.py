"""Telling specimens apart: two movies in a row, never one, and the first one known again."""

import numpy as np
import pytest

from models import specimens
from models.specimens import LEAST_KNOWN, Specimens, TextureSample

RNG = np.random.default_rng(0)
SPREAD = specimens.Specimens()._spread
ROOT = np.linalg.cholesky(SPREAD)


def look(centre=0.0, seed=None, pixel_size=1.5):
    """A movie of a specimen whose textures lie about a centre, so many standard deviations away along each axis."""
    rng = np.random.default_rng(seed) if seed is not None else RNG
    texture = ROOT @ (rng.normal(size=len(ROOT)) + centre)
    return TextureSample(f"m{rng.integers(1 << 40)}", tuple(texture), pixel_size)


@pytest.fixture
def watch():
    watch = Specimens()
    for seed in range(10):
        watch.decide(look(seed=seed))
    return watch


def test_the_spread_that_is_known_is_a_covariance():
    assert SPREAD.shape == (17, 17)
    assert np.allclose(SPREAD, SPREAD.T, atol=1e-9)
    assert np.linalg.eigvalsh(SPREAD).min() > 0


def test_movies_of_one_specimen_stay_one(watch):
    for seed in range(100, 160):
        assert watch.decide(look(seed=seed)).change is None
    assert watch.current == 1


def test_the_second_movie_of_another_specimen_tells(watch):
    first, second = look(4.0, 1000), look(4.0, 1001)
    assert watch.decide(first).decided == ()
    told = watch.decide(second)
    assert (told.change.previous, told.change.specimen, told.change.returned) == (1, 2, False)
    assert [(one.look, one.specimen) for one in told.decided] == [(first, 2), (second, 2)]
    assert "look different" in told.change.reason


def test_one_odd_movie_is_an_outlier(watch):
    odd = look(4.0, 1000)
    assert watch.decide(odd).decided == ()
    usual = look(seed=200)
    told = watch.decide(usual)
    assert told.change is None
    assert [(one.look, one.specimen, one.odd) for one in told.decided] == [(odd, 1, True), (usual, 1, False)]
    assert watch.current == 1


def test_movies_that_are_odd_in_different_ways_are_no_specimen(watch):
    """Each is odd by itself, none is like another one, and none is waited for longer than three movies."""
    looks = []
    for n in range(6):
        axis = np.zeros(17)
        axis[n] = 9.0 * (-1) ** n
        looks.append(TextureSample(f"o{n}", tuple(ROOT @ axis), 1.5))
    told = [watch.decide(one) for one in looks]
    assert all(one.change is None for one in told)
    assert [one.look.movie_id for t in told for one in t.decided] == ["o0", "o1", "o2", "o3"]
    assert all(one.odd for t in told for one in t.decided)


def test_a_specimen_that_returns_is_known_again(watch):
    for seed in range(2000, 2008):
        watch.decide(look(4.0, seed))
    assert watch.current == 2
    changes = [watch.decide(look(seed=seed)).change for seed in range(300, 306)]
    (change,) = [one for one in changes if one is not None]
    assert (change.specimen, change.returned) == (1, True)
    third = [watch.decide(look(-5.0, seed)).change for seed in range(3000, 3003)]
    assert [one.specimen for one in third if one] == [3]


def test_another_pixel_size_tells_at_once(watch):
    told = watch.decide(look(seed=400, pixel_size=0.8))
    assert told.change.specimen == 2
    assert "0.8 Å/px instead of 1.5" in told.change.reason
    back = watch.decide(look(seed=401))
    assert (back.change.specimen, back.change.returned) == (1, True)


def test_few_movies_tell_nothing():
    watch = Specimens()
    for seed in range(LEAST_KNOWN - 1):
        watch.decide(look(seed=seed))
    assert watch.decide(look(4.0, 1000)).change is None
    assert watch.current == 1


def test_what_was_decided_can_be_taken_over(watch):
    again = Specimens()
    for seed in range(10):
        again.remember(look(seed=seed), 1)
    for one, other in ((watch, again),):
        for seed in (1000, 1001):
            assert (one.decide(look(4.0, seed)).change is None) == (other.decide(look(4.0, seed)).change is None)
    assert watch.current == again.current == 2


def test_the_first_movie_of_a_specimen_seen_before_brings_it_back(watch):
    for seed in range(2000, 2008):
        watch.decide(look(4.0, seed))
    assert watch.current == 2
    back = look(seed=300)
    told = watch.decide(back)
    assert (told.change.specimen, told.change.returned) == (1, True)
    assert "it looks like specimen 1" in told.change.reason
    assert [(one.look, one.specimen) for one in told.decided] == [(back, 1)]


def test_an_outlier_just_before_the_change_does_not_hide_which_specimen_is_back(watch):
    for seed in range(2000, 2008):
        watch.decide(look(4.0, seed))
    assert watch.current == 2
    odd, back = look(-6.0, 5000), look(seed=300)  # an ice crystal, say
    assert watch.decide(odd).change is None
    told = watch.decide(back)
    assert (told.change.specimen, told.change.returned) == (1, True)
    assert [(one.look, one.specimen, one.odd) for one in told.decided] == [(odd, 2, True), (back, 1, False)]


def test_a_square_of_something_else_is_left_with_the_first_movie_after_it(watch):
    """Two crystals in a row are taken for a specimen, which is new and hardly known; the first good movie ends that."""
    for seed in (5000, 5001):
        watch.decide(look(-6.0, seed))
    assert watch.current == 2
    assert watch.decide(look(seed=300)).change.specimen == 1


def test_one_movie_that_fits_both_specimens_brings_nothing_back(watch):
    """Specimens that look nearly alike: what is unlike neither decides nothing by itself."""
    for seed in range(2000, 2012):
        watch.decide(look(1.8, seed))
    assert watch.current == 2
    assert watch.decide(look(1.3, 4000)).change is None
    assert watch.current == 2
