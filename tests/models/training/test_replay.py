"""The movies that a trainer keeps: the newest for sure, and old ones from the whole session."""

import pytest

from models.training.replay import Replay


def filled(count, most=8, seed=0):
    replay = Replay(most, seed)
    for number in range(count):
        replay.add(number)
    return replay


def test_all_are_kept_while_there_is_room():
    assert filled(8).movies == list(range(8))
    assert len(filled(3)) == 3


def test_the_newest_half_is_kept_and_the_number_is_bounded():
    replay = filled(100)
    assert len(replay) == 8
    assert replay.movies[4:] == [96, 97, 98, 99]
    assert replay.movies == sorted(replay.movies)


def test_the_older_half_comes_from_the_whole_session():
    """No movie of the past is favoured: each stays with the same chance."""
    kept = [movie for seed in range(400) for movie in filled(44, seed=seed).movies[:4]]
    assert len(kept) == 1600
    early, late = (sum(low <= movie < low + 20 for movie in kept) / len(kept) for low in (0, 20))
    assert early == pytest.approx(0.5, abs=0.05)
    assert late == pytest.approx(0.5, abs=0.05)


def test_new_ones_are_drawn_more_often_and_never_less_than_old_ones():
    replay = filled(100)
    old, new = replay.weights[:4], replay.weights[4:]
    assert sum(new) == pytest.approx(2.0 * sum(old))
    young = filled(5)
    assert young.weights[0] <= min(young.weights[1:])
    assert filled(2).weights == [1.0, 1.0]


def test_what_is_let_go_is_gone():
    replay = filled(100)
    kept = [movie for movie in replay if movie % 2 == 0]
    replay.keep(kept)
    assert replay.movies == kept
    replay.add(101)
    assert replay.movies[-1] == 101
