"""A version is given up once its scores prove that it is worse, and not before."""

import pytest

from models.proof import fits, why_unfit
from streamer.movie_record import ModelScore


def score(gain, expected=None, error=0.05):
    return ModelScore(version="v0003", gain=gain, gain_error=error, expected_gain=expected)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [([1.9, 2.1, 2.0, 1.8], 2.0), ([1.7, 1.8, 1.75], 2.0), ([0.6, 0.6], 2.0), ([1.2, 3.0, 2.2, 1.9], 2.0), ([], 2.0)],
)
def test_what_does_well_or_is_hardly_known_is_used_on(gains, expected):
    assert why_unfit([score(gain, expected) for gain in gains], []) is None


def test_less_than_was_to_be_expected_is_a_proof():
    assert "1.20 times the Wiener filter in 4 movies, where 2.00 was to be expected" in why_unfit(
        [score(1.2, 2.0)] * 4, []
    )


def test_worse_than_the_wiener_filter_is_a_proof_without_any_expectation():
    assert "worse than none" in why_unfit([score(0.6)] * 3, [])


def test_a_version_without_expectations_is_compared_with_its_own_history():
    """Base weights and a version whose manifest says nothing."""
    now = [score(1.2)] * 4
    assert why_unfit(now, []) is None
    assert why_unfit(now, [score(2.0)] * 2) is None, "two movies are no history"
    assert "where 2.00 was to be expected" in why_unfit(now, [score(2.0)] * 3)


def test_noisy_scores_prove_less():
    assert why_unfit([score(1.2, 2.0, error=0.6)] * 3, []) is None


def test_whether_a_version_fits_one_movie():
    assert fits(score(1.9, 2.0), [])
    assert not fits(score(1.2, 2.0), [])
    assert not fits(score(1.9), [])
    assert fits(score(1.9), [score(2.0)] * 3)
    assert not fits(score(0.9, 0.9), []), "no better than the Wiener filter"
    assert not fits(None, [score(2.0)] * 3)
