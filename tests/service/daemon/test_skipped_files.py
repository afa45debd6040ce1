"""Files that are no movies: journalled with their reason, counted, said once, no alarm, and tried if somebody wants."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest

from service.config import Config
from service.daemon.skipped_files import SkippedFiles
from service.health.alarms import Alarms
from service.health.prometheus import Metrics
from streamer.errors import Handling, MovieError, NotAMovie
from streamer.watch.skips import Skips
from tests.service.daemon.lifecycles import arrival_of, lifecycle_of
from tests.service_samples import make_movie


def no_movie(movie, kind="integrated images (EPU)"):
    return NotAMovie("is one image: an integrated one", kind=kind, may_grow=True, where=movie.path)


@pytest.fixture
def lifecycle(journal, tmp_path):
    return lifecycle_of(journal, tmp_path, Config())


def alerts(journal):
    return [row for row in journal.events.page(1) if row.kind == "alert"]


def grown(movie):
    return dataclasses.replace(movie, identity=dataclasses.replace(movie.identity, size=movie.identity.size + 1000))


def test_it_is_skipped_with_its_reason_and_without_an_alarm(journal, lifecycle):
    movies = [make_movie(f"s/FoilHole_{number}.mrc") for number in range(40)]
    for movie in movies:
        lifecycle.arrived(arrival_of(movie, error=no_movie(movie)))
    known = journal.movie(movies[0].movie_id)
    assert (known.state, known.reason.error, known.reason.found) == ("skipped", "NotAMovie", "integrated images (EPU)")
    assert "is one image" in known.reason.message
    assert alerts(journal) == []
    assert lifecycle.skipped.counts() == {"integrated images (EPU)": 40}
    assert journal.movies.no_movies() == {"integrated images (EPU)": 40}
    assert movies[0].relative in journal.movies.identities()  # not looked at again after a restart


def test_the_counts_survive_a_restart(journal, tmp_path):
    first = lifecycle_of(journal, tmp_path, Config())
    for number, kind in enumerate(["tilt series", "montages", "tilt series"]):
        movie = make_movie(f"s/{number}.mrc")
        first.arrived(arrival_of(movie, error=no_movie(movie, kind)))
    journal.skip(journal.add_ready(make_movie("s/x.mrc"), "2026-01-01", "2026-01-01").movie_id, "by the operator")
    assert lifecycle_of(journal, tmp_path, Config()).skipped.counts() == {"tilt series": 2, "montages": 1}


@pytest.mark.parametrize("kind", ["gain references", "defect maps"])
def test_a_reference_belongs_to_the_movies_and_is_counted_only(journal, lifecycle, kind):
    movie = make_movie("s/gain.mrc")
    for _ in range(3):
        lifecycle.arrived(arrival_of(movie, error=no_movie(movie, kind)))
        movie = grown(movie)
    assert lifecycle.skipped.counts() == {kind: 1}
    assert journal.movie(movie.movie_id) is None
    assert list(journal.events.page(1)) == []


def test_it_begins_no_session(journal, lifecycle):
    movie = make_movie("s1/a.mrc")
    lifecycle.arrived(arrival_of(movie))
    other = dataclasses.replace(make_movie("MotionCorr/job002/a.mrc"), session="MotionCorr")
    lifecycle.arrived(arrival_of(other, error=no_movie(other, "results of RELION")))
    assert lifecycle.session == movie.session == journal.movies.latest_session()


def test_one_that_grows_into_a_movie_gets_a_new_revision(journal, lifecycle):
    movie = make_movie("s/a.mrc")
    lifecycle.arrived(arrival_of(movie, error=no_movie(movie)))
    lifecycle.arrived(arrival_of(grown(movie)))
    known = journal.movie(movie.movie_id)
    assert (known.state, known.revision, known.supersedes) == ("ready", 2, 1)


def test_a_tilt_series_that_grows_is_announced_once(journal, lifecycle):
    movie = make_movie("s/ts.mrc")
    for _ in range(41):
        lifecycle.arrived(arrival_of(movie, error=no_movie(movie, "tilt series")))
        movie = grown(movie)
    known = journal.movie(movie.movie_id)
    assert (known.state, known.revision) == ("skipped", 1)
    assert known.movie.identity.size == movie.identity.size - 1000
    assert len([row for row in journal.events.page(1) if row.kind == "movie"]) == 1


def test_the_operator_may_have_it_processed_all_the_same(journal, lifecycle):
    movie = make_movie("s/a.mrc")
    lifecycle.arrived(arrival_of(movie, error=no_movie(movie)))
    journal.retry(movie.movie_id)
    assert journal.movie(movie.movie_id).state == "ready"
    assert journal.movies.next_ready().movie_id == movie.movie_id


def test_other_errors_still_fail(journal, lifecycle):
    movie = make_movie("s/a.mrc")
    lifecycle.arrived(arrival_of(movie, error=MovieError("is damaged", where=movie.path)))
    assert journal.movie(movie.movie_id).state == "failed"
    assert lifecycle.skipped.counts() == {}


def test_what_rules_leave_out_is_counted_and_what_is_not_followed_is_said_once_per_place(journal, caplog):
    caplog.set_level(logging.INFO)
    metrics = Metrics()
    skipped = SkippedFiles({"tilt series": 2}, Alarms(journal.events, metrics), metrics)
    for count in (3, 5):
        skips = Skips(
            {'watch.exclude "*.tmp"': count, "tilt series": 1}, {"": "a: not followed", "b": "b/c: not followed"}
        )
        counts = skipped.look(SimpleNamespace(skips=skips))
    assert counts == {'watch.exclude "*.tmp"': 5, "tilt series": 3}
    assert list(counts) == ['watch.exclude "*.tmp"', "tilt series"]
    assert len(alerts(journal)) == 2
    assert [record.message for record in caplog.records].count("a: not followed") == 1
    value = metrics.registry.get_sample_value
    assert value("streamer_files_left_out", {"rule": "watch.exclude"}) == 5
    assert value("streamer_files_left_out", {"rule": "tilt series"}) == 3
    skipped.look(SimpleNamespace(skips=Skips()))
    assert value("streamer_files_left_out", {"rule": "watch.exclude"}) == 0


def test_a_hundred_files_of_a_kind_are_three_lines_in_the_log(journal, caplog):
    caplog.set_level(logging.INFO)
    metrics = Metrics()
    skipped = SkippedFiles({}, Alarms(journal.events, metrics), metrics)
    for number in range(100):
        skipped.add(no_movie(make_movie(f"s/{number}.mrc")))
    assert len(caplog.records) == 3


def test_handling():
    assert NotAMovie("x", kind="y").handling is Handling.LEAVE
