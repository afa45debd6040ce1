"""What is left out while more movies wait than can be processed: in the declared order, and only then."""

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service import config
from service.config import ORDER, Config, OverloadSettings
from service.daemon.overload import LoadShedding, in_order
from service.processes.messages import Failed, Finished
from streamer.errors import ConfigError, Handling, MovieVanished
from tests.service.daemon.lifecycles import arrival_of, lifecycle_of
from tests.service_samples import REASON, UTC, make_movie, make_record

LIMITS = OverloadSettings(preview_after=4, denoise_after=8, super_resolution_after=12)


def loaded(n, settings=LIMITS):
    """A load with so many movies waiting."""
    load = LoadShedding(settings)
    for number in range(n):
        load.arrived(str(number))
    return load


# ------------------------------------------------------------ order


thresholds = st.lists(st.integers(1, 12), min_size=3, max_size=3).map(sorted)
moves = st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=150)


@given(thresholds, moves)
@examples(deadline=None)
def test_whatever_comes_and_ends_the_declared_order_holds(after, moves):
    load, waiting = (
        LoadShedding(OverloadSettings(**dict(zip(OverloadSettings.__struct_fields__, after, strict=False)))),
        set(),
    )
    for comes, number in moves:
        before = load.shed
        (load.arrived if comes else load.ended)(str(number))
        (waiting.add if comes else waiting.discard)(number)
        assert load.waiting == len(waiting)
        assert load.shed == ORDER[: len(load.shed)], "always the first of the order, and none of it twice"
        for name, threshold in zip(ORDER, after, strict=True):
            if len(waiting) >= threshold:
                assert name in load.shed
            elif 2 * len(waiting) < threshold:
                assert name not in load.shed
            else:
                assert (name in load.shed) == (name in before), "between the two it stays as it was"


def test_the_order_is_the_one_that_the_documents_declare():
    assert ORDER == ("preview", "denoise", "super-resolution")
    assert in_order({"super-resolution", "preview"}) == ("preview", "super-resolution")


@pytest.mark.parametrize(
    ("waiting", "shed"),
    [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (11, 2), (12, 3), (40, 3)],
)
def test_nothing_is_left_out_before_its_threshold(waiting, shed):
    assert loaded(waiting).shed == ORDER[:shed]


def test_it_is_taken_up_again_at_half_of_the_threshold_so_that_it_does_not_flicker():
    load, seen = loaded(12), []
    for number in range(12):
        load.ended(str(number))
        seen.append(len(load.shed))
    #             11 10 9  8  7  6  5  4  3  2  1  0 movies wait
    assert seen == [3, 3, 3, 3, 3, 3, 2, 2, 1, 1, 0, 0]
    load.arrived("next")
    assert load.shed == ()


def test_a_movie_counts_once_however_often_it_is_seen():
    load = LoadShedding(LIMITS)
    for _ in range(50):
        load.arrived("the same")
    assert (load.waiting, load.shed) == (1, ())
    load.ended("the same")
    load.ended("never seen")
    assert load.waiting == 0


def test_where_it_is_switched_off_the_queue_grows_and_nothing_is_left_out():
    load = loaded(1000, OverloadSettings(preview_after=1, denoise_after=1, super_resolution_after=1, shed=False))
    assert (load.waiting, load.shed) == (1000, ())


@pytest.mark.parametrize("after", [(9, 8, 24), (8, 25, 24), (25, 24, 24), (24, 16, 8)])
def test_thresholds_in_another_order_are_refused(after):
    names = ("preview_after", "denoise_after", "super_resolution_after")
    with pytest.raises(ConfigError, match="left out in this order"):
        config.load(None, tuple(f"overload.{name}={value}" for name, value in zip(names, after, strict=True)))
    with pytest.raises(ValueError, match="left out in this order"):
        OverloadSettings(**dict(zip(names, after, strict=True)))


def test_equal_thresholds_are_an_order_too():
    settings = OverloadSettings(preview_after=2, denoise_after=2, super_resolution_after=2)
    assert (loaded(1, settings).shed, loaded(2, settings).shed) == ((), ORDER)


# ------------------------------------------------------------ in the life of a movie


@pytest.fixture
def lifecycle(journal, tmp_path):
    return lifecycle_of(journal, tmp_path, Config(overload=LIMITS))


def movies(n):
    return [make_movie(f"grid1/m{number:02}.tif", inode=number) for number in range(n)]


def test_movies_that_were_there_at_the_start_are_no_overload(lifecycle, journal):
    for movie in movies(30):
        lifecycle.arrived(arrival_of(movie, found_at_start=True))
    assert journal.movies.pending() == 30
    assert (lifecycle.load.waiting, lifecycle.load.shed) == (0, ())
    assert lifecycle.order(journal.movies.next_ready()).instructions.shed == ()


def test_what_comes_meanwhile_is_an_overload_and_every_order_names_what_is_left_out(lifecycle, journal):
    for movie in movies(8):
        lifecycle.arrived(arrival_of(movie))
    order = lifecycle.order(journal.movies.next_ready())
    assert order.instructions.shed == ("preview", "denoise")
    assert order.instructions.notes == ("shed: preview, denoise: 8 movies wait",)
    assert order.instructions.groups is None, "who was not denoised is not learned from under load"
    assert not order.on_cpu


def test_each_end_of_a_movie_takes_it_off_the_load(lifecycle, journal):
    came = movies(6)
    for movie in came:
        lifecycle.arrived(arrival_of(movie))
        journal.start(movie.movie_id, 1)
    assert lifecycle.load.waiting == 6
    lifecycle.finished(Finished(record=make_record(came[0].relative)))
    lifecycle.failed(Failed(movie_id=came[1].movie_id, revision=1, reason=REASON, handling=Handling.FAIL, stage="read"))
    lifecycle.failed(
        Failed(movie_id=came[2].movie_id, revision=1, reason=REASON, handling=Handling.VANISH, stage="read")
    )
    lifecycle.waits_no_more(came[3].movie_id)
    lifecycle.gave_up(came[4].movie_id)
    assert lifecycle.load.waiting == 1
    # one that is only tried again still waits
    lifecycle.failed(
        Failed(movie_id=came[5].movie_id, revision=1, reason=REASON, handling=Handling.HOLD, stage="write")
    )
    assert lifecycle.load.waiting == 1


def test_what_is_known_or_cannot_be_processed_is_no_load(lifecycle, journal):
    known, gone = movies(2)
    journal.add_ready(known, UTC, UTC)
    journal.start(known.movie_id, 1)
    journal.finish(make_record(known.relative))
    lifecycle.arrived(arrival_of(known))
    lifecycle.arrived(arrival_of(gone, error=MovieVanished("it is gone")))
    assert lifecycle.load.waiting == 0
