import re

import pytest

from streamer.movie_record import Times
from streamer.runtime.stopwatch import Stopwatch
from tests.clocks import SetClock


@pytest.fixture
def clock():
    return SetClock(100.0)


def test_a_stage_is_timed_and_a_second_visit_adds_to_it(clock):
    watch = Stopwatch(clock=clock)
    for seconds in (1.5, 0.25):
        with watch("align"):
            clock.now += seconds
    with watch("fuse"):
        pass
    assert watch.times().stage_s == {"align": 1.75, "fuse": 0.0}


def test_a_stage_that_fails_is_timed_too(clock):
    watch = Stopwatch(clock=clock)

    def fail():
        with watch("align"):
            clock.now += 2.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert watch.times().stage_s == {"align": 2.0}


def test_whoever_waits_is_told_before_a_stage_begins():
    told = []
    watch = Stopwatch(notify=told.append)
    with watch("read"):
        assert told == ["read"]
    with watch("align"):
        pass
    assert told == ["read", "align"]


def test_what_was_known_stays_and_done_is_now():
    times = Stopwatch(Times(detected="d", complete="c", ready="r", started="s")).times()
    assert (times.detected, times.complete, times.ready, times.started) == ("d", "c", "r", "s")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", times.done)


def test_times_that_were_given_out_do_not_change():
    watch = Stopwatch()
    before = watch.times()
    with watch("align"):
        pass
    assert before.stage_s == {}
