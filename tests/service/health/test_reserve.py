"""Room that is kept free: when it is used up, who is told, and when work goes on."""

import pytest

from service.config import InstanceSettings
from service.health.alarms import Alarms
from service.health.disks import Space
from service.health.prometheus import Metrics
from service.health.reserve import Reserve
from service.wire.messages import parse_event

GB = 10**9
SMALL, LARGE = 100 * GB, 10_000 * GB
"""Volumes of which 5 % are 5 and 500 GB."""


@pytest.fixture
def alarms(journal):
    return Alarms(journal.events, Metrics())


def reserve_of(alarms, gb=20.0, percent=5.0):
    return Reserve(InstanceSettings(disk_reserve_gb=gb, disk_reserve_percent=percent), alarms)


def look(reserve, **free_gb):
    """Look at small volumes with so much free space; returns whether nothing may be started."""
    reserve.look({name: Space(round(free * GB), SMALL) for name, free in free_gb.items()})
    return reserve.is_used_up


def told(journal):
    return [parse_event(row.raw).body for row in journal.events.page(1)]


@pytest.mark.parametrize(
    ("total", "free_gb", "is_used_up"),
    [(SMALL, 5.1, False), (SMALL, 4.9, True), (LARGE, 20.1, False), (LARGE, 19.9, True), (LARGE, 499.0, False)],
)
def test_the_smaller_of_gb_and_percent_holds(alarms, total, free_gb, is_used_up):
    reserve = reserve_of(alarms)
    reserve.look({"output": Space(round(free_gb * GB), total), "state": Space(total, total)})
    assert reserve.is_used_up == is_used_up


@pytest.mark.parametrize(("gb", "percent"), [(0.0, 5.0), (20.0, 0.0)])
def test_a_reserve_of_nothing_is_none(alarms, gb, percent):
    assert not look(reserve_of(alarms, gb, percent), output=0.0, state=0.0)
    assert alarms.raised == []


def test_the_alarm_is_raised_once_and_cleared_once(alarms, journal):
    reserve = reserve_of(alarms)
    look(reserve, output=50.0, state=50.0)
    assert told(journal) == []
    for free in (4.5, 4.5001, 4.4999, 4.5):  # bytes come and go; nobody wants to hear of each
        assert look(reserve, output=free, state=50.0)
    (raised,) = told(journal)
    assert (raised["name"], raised["state"], raised["severity"]) == ("disk-reserve", "raised", "critical")
    assert raised["message"] == (
        "output volume: 4.5 GB free, reserve 5.0 GB; no movie is started until you free some space"
    )
    for _ in range(3):
        assert not look(reserve, output=50.0, state=50.0)
    assert [body["state"] for body in told(journal)] == ["raised", "cleared"]
    assert alarms.raised == []


def test_work_goes_on_only_with_a_little_more_than_the_reserve(alarms):
    reserve = reserve_of(alarms)
    seen = [look(reserve, output=free, state=50.0) for free in (5.1, 4.9, 5.1, 5.24, 5.26, 5.1, 5.01, 4.99, 5.01)]
    assert seen == [False, True, True, True, False, False, False, True, True]


def test_a_volume_that_does_not_answer_says_nothing(alarms, journal):
    reserve = reserve_of(alarms)
    assert not look(reserve)
    assert not look(reserve, state=50.0)
    assert told(journal) == []
    assert look(reserve, state=1.0), "the other one is heard all the same"
    assert not look(reserve), "what was said before does not hold for ever"
    assert alarms.raised == []


def test_the_volume_of_the_movies_is_not_ours_to_keep_free(alarms):
    assert not look(reserve_of(alarms), input=0.0, output=50.0, state=50.0)


@pytest.mark.parametrize("short", ["output", "state"])
def test_each_of_our_volumes_holds_up_the_work_and_is_named(alarms, short):
    reserve = reserve_of(alarms)
    assert look(reserve, **{"output": 50.0, "state": 50.0, short: 3.0})
    (alarm,) = alarms.raised
    assert alarm.message.startswith(f"{short} volume: 3.0 GB free")


def test_where_both_are_short_both_have_to_be_mended(alarms, journal):
    reserve = reserve_of(alarms)
    assert look(reserve, output=2.0, state=3.0)
    assert look(reserve, output=50.0, state=3.0)
    assert not look(reserve, output=50.0, state=50.0)
    assert [(body["state"], body["message"].split(" ")[0]) for body in told(journal)] == [
        ("raised", "output"),
        ("raised", "state"),
        ("cleared", "state"),
    ]
