from dataclasses import replace

import pytest

from service.daemon.gain_watch import GainWatch
from streamer.detector.gain_check import check_fit
from streamer.settings import GainSettings
from tests.service_samples import make_record
from tests.streamer.detector.test_gain_check import raw_sum, reference


class Alarms:
    def __init__(self):
        self.raised = {}
        self.history = []

    def raise_(self, name, message, severity="warning"):
        if self.raised.get(name) != message:
            self.history.append((name, message))
        self.raised[name] = message

    def clear(self, name):
        self.raised.pop(name, None)


@pytest.fixture
def scene():
    alarms = Alarms()
    return alarms, GainWatch(alarms)


def record(residual, error=0.005, advice=None, gain="/g/gain.mrc", session="s"):
    base = make_record()
    return replace(
        base,
        session=session,
        source=replace(base.source, gain_path=gain),
        metrics=replace(base.metrics, residual_gain=residual, residual_gain_error=error, gain_advice=advice),
    )


def test_a_reference_that_fits_raises_nothing(scene):
    alarms, watch = scene
    for number in range(100):
        watch.judge(record(0.004 * (-1) ** number))
    assert alarms.history == []


def test_a_figure_of_unknown_certainty_shows_no_change(scene):
    alarms, watch = scene
    for _ in range(20):
        watch.judge(record(0.0))
    for _ in range(20):
        watch.judge(record(0.3, error=None))
    assert alarms.history == []


def test_the_alarm_holds_the_setting_and_goes_when_it_fits(scene):
    alarms, watch = scene
    fit = check_fit(raw_sum(reference()[::-1].copy()), reference(), GainSettings(), "multiply")
    watch.judge(record(fit.residual, advice=fit.advice))
    assert "gain.rotate = 0 and gain.flip = 1" in alarms.raised["gain-wrong"]
    assert "/g/gain.mrc" in alarms.raised["gain-wrong"]
    watch.judge(record(0.01))
    assert alarms.raised == {}


def test_frames_that_are_corrected_already_raise_it_too(scene):
    alarms, watch = scene
    fit = check_fit(raw_sum(reference() * 0 + 1), reference(), GainSettings(), "multiply")
    watch.judge(record(fit.residual, advice=fit.advice))
    assert "corrected already" in alarms.raised["gain-wrong"]


def test_a_gain_that_changes_is_noticed_within_three_movies_and_once(scene):
    alarms, watch = scene
    for number in range(20):
        watch.judge(record(0.01 + 0.001 * (number % 3)))
    for number in range(10):
        watch.judge(record(0.12))
        assert ("gain-changed" in alarms.raised) == (number >= 2)
    assert len(alarms.history) == 1
    assert "12% of the gain reference's pattern" in alarms.raised["gain-changed"]
    watch.judge(record(0.01))
    assert alarms.raised == {}


def test_single_movies_that_differ_and_noisy_ones_raise_nothing(scene):
    alarms, watch = scene
    for number in range(60):
        watch.judge(record(0.2 if number % 10 == 9 else 0.0))
        watch.judge(record(0.2 * (-1) ** number, error=0.1, session="dim"))
    assert alarms.history == []


def test_another_reference_and_another_session_begin_anew(scene):
    alarms, watch = scene
    for _ in range(10):
        watch.judge(record(0.0))
    for _ in range(10):
        watch.judge(record(0.1, gain="/g/new.mrc"))
        watch.judge(record(0.2, session="t"))
    assert alarms.history == []


def test_a_reference_that_replaces_one_that_had_aged_ends_the_alarm(scene):
    alarms, watch = scene
    for residual in (*[0.0] * 10, *[0.1] * 10):
        watch.judge(record(residual))
    assert "gain-changed" in alarms.raised
    for _ in range(5):
        watch.judge(record(0.0, session="t"))
    assert "gain-changed" in alarms.raised
    watch.judge(record(0.0, gain="/g/new.mrc"))
    assert alarms.raised == {}


def test_without_a_figure_nothing_is_said(scene):
    alarms, watch = scene
    for _ in range(10):
        watch.judge(record(None))
    watch.judge(replace(record(0.0), metrics=None))
    assert alarms.history == []
