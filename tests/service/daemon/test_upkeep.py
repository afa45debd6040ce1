"""What the daemon looks after once a second beside the movies."""

from __future__ import annotations

import pytest

from service.config import Config, EventSettings, InstanceSettings
from service.daemon.upkeep import Upkeep
from service.health.alarms import Alarms
from service.health.prometheus import Metrics
from service.journal.event_log import EventLog
from service.layout import Layout
from service.wire.messages import Alert, parse_event
from tests.clocks import SetClock
from tests.service_samples import changing

_DAY_S = 86_400.0


class Seen:
    """Stands for the watching thread."""

    def __init__(self, *, root_missing: bool = False, overflows: int = 0) -> None:
        self.root_missing, self.overflows = root_missing, overflows


@pytest.fixture
def scene(journal, tmp_path):
    now = SetClock()
    layout = Layout(
        root=tmp_path / "movies", output=tmp_path / "out", state=tmp_path / "state", runtime=tmp_path / "run"
    )
    metrics = Metrics()
    config = Config(instance=InstanceSettings(disk_reserve_gb=0.0), events=EventSettings(retention_days=30.0))
    upkeep = Upkeep(config, layout, journal, Alarms(journal.events, metrics), metrics, clock=now)
    upkeep.now, upkeep.metrics = now, metrics
    yield upkeep
    upkeep.close()
    for thread in upkeep.disks._threads:
        thread.join(5.0)


def alerts(journal):
    bodies = [parse_event(row.raw).body for row in journal.events.page(1)]
    return [(body["name"], body["state"]) for body in bodies]


def test_overload_is_an_alarm_that_names_what_is_left_out_and_how_to_make_it_good(scene, journal):
    scene.look(None, ())
    scene.look(None, ("preview",))
    scene.look(None, ("preview",))
    scene.look(None, ("preview", "denoise"))
    scene.look(None, ())
    assert alerts(journal) == [("overload", "raised"), ("overload", "raised"), ("overload", "cleared")]
    message = parse_event(journal.events.page(2)[0].raw).body["message"]
    assert "preview, denoise" in message
    assert "streamer movies retry --what-was-shed" in message


def test_overflows_are_counted_once(scene):
    for total in (0, 2, 2, 3):
        scene.look(Seen(overflows=total), ())
    assert scene.metrics.registry.get_sample_value("streamer_watcher_overflows_total") == 3.0


def test_a_root_that_goes_away_is_an_alarm_at_once_and_one_that_never_came_after_a_minute(scene, journal):
    scene.look(Seen(root_missing=True), ())
    assert alerts(journal) == []
    scene.now.now += 61.0
    scene.look(Seen(root_missing=True), ())
    scene.look(Seen(), ())
    scene.look(Seen(root_missing=True), ())
    assert alerts(journal) == [("root-missing", "raised"), ("root-missing", "cleared"), ("root-missing", "raised")]


def test_old_events_are_forgotten_once_a_minute(scene, journal, tmp_path):
    for name, days in (("old", 31.0), ("new", 0.0)):
        with changing(tmp_path / "journal.sqlite") as database:
            log = EventLog(database, "default", SetClock(scene.now.now - days * _DAY_S))
            log.add(Alert(name=name, severity="info", state="cleared"), "")
    scene.look(None, ())
    assert journal.events.first_seq == 1
    scene.now.now += 61.0
    scene.look(None, ())
    assert (journal.events.first_seq, journal.events.last_seq) == (2, 2)


def test_a_clock_that_is_set_forward_makes_nothing_old(scene, journal, tmp_path):
    with changing(tmp_path / "journal.sqlite") as database:
        EventLog(database, "default", SetClock(0.0)).add(Alert(name="a", severity="info", state="cleared"), "")
    scene.now.wall = lambda: scene.now.now + 365 * _DAY_S
    scene.now.now += 61.0
    scene.look(None, ())
    assert journal.events.first_seq == 1
    scene.now.now += 31 * _DAY_S
    scene.look(None, ())
    assert journal.events.first_seq == 2, "what has really passed counts"
