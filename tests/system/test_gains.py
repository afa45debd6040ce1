"""A daemon whose movies have no gain reference, or one that they refute."""

import json

import mrcfile
import numpy as np

from service.layout import layout_of
from service.subscribers.connection import connection
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Detector, Microscope
from tests.system.conftest import until

SCOPE = Microscope(shape=(128, 128), n_frames=6, pixel_size=2.0, dose_per_frame=6.0)


def written(site, movies, first=0):
    """Movies of one camera without their gain reference, complete at once."""
    plan = Plan(directory=site.root, movies=movies, first=first, scope=SCOPE, seed=4, format="mrc", layout="serialem")
    for _ in expose(plan):
        for path in site.root.glob("CountRef*"):
            path.unlink()


def records(site):
    found = [json.loads(path.read_text()) for path in site.results.rglob("r1/*.json")]
    return {record["path"]: record for record in found if "movie_id" in record}


def test_a_session_without_a_gain_is_an_alarm_and_gets_one_from_its_movies_where_the_settings_say_so(make_site):
    site = make_site(gain__from_movies='"use"', outputs__super_resolution='"never"', motion__min_information="0.0")
    daemon = site.start()
    with connection(site.config) as client:
        written(site, 8)
        site.wait_for(done=8)
        until(lambda: any(a.name == "gain-missing" for a in client.heartbeat().alarms), "the alarm")
        (made,) = layout_of(site.config).made_gains("test").rglob("*.mrc")
        assert made.name == "from-00008-movies.mrc"
        written(site, 1, first=8)
        site.wait_for(done=9)
        until(lambda: not client.heartbeat().alarms, "the alarm to clear")
    assert site.stop(daemon) == 0
    with_gain = [record for record in records(site).values() if record["source"]["gain_path"]]
    assert [record["source"]["gain_path"] for record in with_gain] == [str(made)]
    assert "gain: from-00008-movies.mrc was made from movies" in with_gain[0]["flags"]
    without = [record for record in records(site).values() if not record["source"]["gain_path"]]
    assert len(without) == 8
    assert all(record["metrics"]["pattern_may_raise"] for record in without)


def test_a_gain_that_the_movies_refute_is_one_alarm_and_is_not_applied(make_site):
    site = make_site(outputs__super_resolution='"never"')
    written(site, 3)
    with mrcfile.new(site.root / "gain.mrc") as file:
        file.set_data(np.ascontiguousarray(Detector(SCOPE.shape, 4).gain_reference()[::-1]))
    daemon = site.start()
    with connection(site.config) as client:
        site.wait_for(done=3)
        until(lambda: client.heartbeat().alarms, "the alarm")
        (alarm,) = client.heartbeat().alarms
        assert alarm.name == "gain-wrong"
        assert "gain.rotate = 0 and gain.flip = 1" in alarm.message
    assert site.stop(daemon) == 0
    found = list(records(site).values())
    assert [record["source"]["gain"] for record in found] == [None] * 3
    assert {record["source"]["gain_refused"] for record in found} == {str(site.root / "gain.mrc")}
