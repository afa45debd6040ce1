"""Alarms about movies without a gain reference, and about one that many movies refute together."""

from dataclasses import replace

import pytest

from service.daemon.gain_watch import GainWatch
from tests.service.daemon.test_gain_watch import Alarms
from tests.service_samples import make_record


@pytest.fixture
def scene():
    alarms, offers = Alarms(), {}
    return alarms, GainWatch(alarms, offers.get), offers


def record(number=0, *, session="s", gain=None, refused=None, advice=None, residual=None, error=0.01, **metrics):
    base = make_record()
    path = None if gain is None else f"/g/{gain}.mrc"
    return replace(
        base,
        path=f"{number}.tif",
        session=session,
        source=replace(base.source, gain=gain, gain_path=path, gain_refused=refused),
        metrics=replace(base.metrics, residual_gain=residual, residual_gain_error=error, gain_advice=advice, **metrics),
    )


def test_a_session_without_a_gain_is_an_alarm_once_with_the_cure(scene):
    alarms, watch, _ = scene
    for number in range(100):
        watch.judge(record(number, pattern_may_raise=True))
    assert len(alarms.history) == 1
    message = alarms.raised["gain-missing"]
    for words in ("session s", "may raise SSNR, FRC and resolution", 'movie.gain = "none"', "streamer gain MOVIE"):
        assert words in message


def test_it_says_so_once_more_when_the_pattern_is_seen(scene):
    alarms, watch, _ = scene
    for number in range(30):
        watch.judge(record(number, pattern_may_raise=True, fixed_pattern=0.052 if number % 3 == 1 else None))
    assert len(alarms.history) == 2
    assert "5.2% from pixel to pixel, and raises" in alarms.raised["gain-missing"]


def test_a_gain_that_was_made_is_offered_whenever_it_is_a_new_one(scene):
    alarms, watch, offers = scene
    for number in range(40):
        if number in (8, 16, 32):
            offers["s"] = f"or use /state/from-{number:05d}-movies.mrc"
        watch.judge(record(number, pattern_may_raise=True))
    assert len(alarms.history) == 4
    assert "from-00032-movies.mrc" in alarms.raised["gain-missing"]


def test_it_ends_with_a_reference_or_with_movies_that_need_none(scene):
    alarms, watch, _ = scene
    watch.judge(record(pattern_may_raise=True))
    watch.judge(record(gain="ab", residual=0.01, pattern_may_raise=False))
    assert alarms.raised == {}
    watch.judge(record(pattern_may_raise=True))
    for _ in range(2):
        watch.judge(record(pattern_may_raise=False))
    assert "gain-missing" in alarms.raised
    watch.judge(record(pattern_may_raise=False))
    assert alarms.raised == {}


def test_records_of_earlier_versions_and_corrected_movies_raise_nothing(scene):
    alarms, watch, _ = scene
    for number in range(10):
        watch.judge(record(number))
        watch.judge(record(number, pattern_may_raise=False))
        watch.judge(record(number, gain="ab", residual=0.01, pattern_may_raise=False))
    assert alarms.history == []


def test_a_refuted_reference_is_one_alarm_for_the_session_not_one_per_movie(scene):
    alarms, watch, _ = scene
    for number in range(50):
        watch.judge(record(number, refused="/g/a.mrc", advice="set this", residual=1.0, pattern_may_raise=True))
    assert len(alarms.history) == 1
    assert alarms.raised["gain-wrong"] == "0.tif: set this (/g/a.mrc is not applied)"
    watch.judge(record(51, refused="/g/b.mrc", advice="set that", residual=1.0))
    assert "/g/b.mrc is not applied" in alarms.raised["gain-wrong"]
    watch.judge(record(52))
    assert alarms.raised == {}


def test_movies_that_cannot_tell_alone_tell_it_together(scene):
    alarms, watch, _ = scene
    for number in range(40):
        watch.judge(record(number, gain="ab", residual=1.0 + 0.3 * (-1) ** number, error=0.3))
    assert len(alarms.history) == 1
    assert "together show that 103% of its pattern is left" in alarms.raised["gain-wrong"]
    assert "still applied" in alarms.raised["gain-wrong"]


@pytest.mark.parametrize("residual", [0.0, 0.3])
def test_a_reference_that_fits_roughly_is_never_refuted_by_numbers(scene, residual):
    alarms, watch, _ = scene
    for number in range(200):
        watch.judge(record(number, gain="ab", residual=residual + 0.3 * (-1) ** number, error=0.3))
    assert alarms.history == []


def test_two_sessions_in_turn_do_not_end_each_others_alarms(scene):
    alarms, watch, _ = scene
    for number in range(60):
        watch.judge(record(number, pattern_may_raise=True))
        watch.judge(record(number, session="t", refused="/g/t.mrc", advice="set this", residual=1.0))
        watch.judge(record(number, session="u", gain="ab", residual=0.01))
    assert [name for name, _ in alarms.history] == ["gain-missing", "gain-wrong"]
    for number in range(25):
        watch.judge(record(number, session="u", gain="ab", residual=0.01))
    assert alarms.raised == {}
    watch.judge(record(pattern_may_raise=True))
    watch.judge(record(session="t", refused="/g/t.mrc", advice="set this", residual=1.0))
    assert set(alarms.raised) == {"gain-missing", "gain-wrong"}


def test_a_pattern_that_stays_under_a_recorded_reference_is_an_alarm_and_ends_with_another(scene):
    alarms, watch, _ = scene
    seen = {"residual": 0.01, "fixed_pattern": 0.031, "pattern_may_raise": True}
    for number in range(2):
        watch.judge(record(number, gain="old", **seen))
    assert alarms.history == []
    for number in range(20):
        watch.judge(record(number, gain="old", **seen))
    assert [name for name, _ in alarms.history] == ["gain-wrong"]
    assert "/g/old.mrc is applied, but the detector's pattern stays in the frames, 3.1%" in alarms.raised["gain-wrong"]
    watch.judge(record(gain="new", residual=0.01))
    assert alarms.raised == {}


def test_a_gain_made_from_movies_is_known_to_leave_some(scene):
    alarms, watch, _ = scene
    for number in range(20):
        watch.judge(record(number, gain="from-00008-movies", residual=0.01, fixed_pattern=0.03, pattern_may_raise=True))
    assert alarms.history == []
