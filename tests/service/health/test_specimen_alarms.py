"""Alarms about the specimen belong to a session: movies of another one, finished in between, do not end them."""

import pytest

from models.specimens import Change
from service.health.specimen_alarms import MANY_EMPTY, SpecimenAlarms


class Told:
    """Alarms that remember what was said of them."""

    def __init__(self):
        self.states, self._messages = [], {}

    def raise_(self, name, message, severity="warning"):
        if self._messages.get(name) != message:
            self._messages[name] = message
            self.states.append("raised")

    def clear(self, name, words=""):
        if self._messages.pop(name, None):
            self.states.append("cleared")

    def tell(self, name, message, severity="warning"):
        self.states.append("happened")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def alarms(told):
    return SpecimenAlarms(told, learns=True)


def nothing(alarms, session, in_a_row):
    alarms.empty(session, in_a_row, *(("m1", "ice") if in_a_row else ("", "")))


def test_two_sessions_in_turn_raise_one_alarm(alarms, told):
    for number in range(MANY_EMPTY, MANY_EMPTY + 10):
        nothing(alarms, "a", number)
        nothing(alarms, "b", 0)
    assert told.states == ["raised"]
    nothing(alarms, "a", 0)
    assert told.states == ["raised", "cleared"]


def test_a_session_that_has_ended_leaves_no_alarm_behind(alarms, told):
    nothing(alarms, "a", MANY_EMPTY)
    for _ in range(19):
        nothing(alarms, "b", 0)
    assert told.states == ["raised"]
    nothing(alarms, "b", 0)
    assert told.states == ["raised", "cleared"]


def test_a_network_of_another_session_does_not_end_the_alarm_of_a_new_specimen(alarms, told):
    change = Change(previous=1, specimen=2, returned=False, reason="other texture")
    alarms.specimen("a", 2, "m1", change, None, has_network=False)
    for _ in range(5):
        alarms.specimen("b", 1, "", None, "v0001", has_network=True)
        alarms.specimen("a", 2, "m1", None, None, has_network=False)
    assert told.states == ["raised"]
    alarms.specimen("a", 2, "m1", None, "v0002", has_network=True)
    assert told.states == ["raised", "cleared"]
