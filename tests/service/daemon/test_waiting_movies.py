"""Movies that wait until it is clear whether there is anything to see: none is lost, counted twice or forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.daemon.specimen_watch import SPECIMENS, SessionSpecimens
from service.processes.messages import Finished
from streamer.movie_record import ModelScore
from tests.service.daemon.test_empty_movies import Microscope, Session, figures
from tests.service_samples import make_movie, make_record

PLAIN = {"structure": 0.6, "ssnr_full": 0.03}


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "s" / SPECIMENS)


@pytest.fixture
def microscope(journal, tmp_path):
    return Microscope(journal, tmp_path)


def record(name, number, centre=0.0, **changes):
    full = make_record(f"grid1/{name}.tif")
    metrics = replace(full.metrics, **figures(number, centre, **changes))
    return replace(full, movie_id=name, path=name, metrics=metrics)


def test_a_change_among_movies_that_waited_is_told(session):
    """Two movies without structure wait; the third good one decides them, and they have other pixels."""
    specimens = session.specimens
    assert session.see(2, structure=1.2) == ([], [])
    coarse = replace(make_record("grid1/x.tif").source, pixel_size=2.2)
    waiting = specimens._waiting
    for name, one in waiting.items():
        waiting[name] = replace(one, source=coarse)
    changes = session.see(3, structure=2.5)[1]
    assert [one.specimen for one in changes] == [2]
    assert specimens.current == 2


def test_a_movie_that_is_tried_again_waits_once(session):
    specimens = session.specimens
    for _ in range(30):
        assert specimens.observe(record("same", 1, **PLAIN), None) == ([], None)
    assert len(specimens._waiting) == 1
    assert specimens.usual is None, "one movie is not twelve"


def test_movies_found_empty_later_are_counted_and_their_sums_removed(microscope):
    microscope.take(5, centre=6.0, structure=0.5, ssnr_full=0.004)
    assert microscope.metrics.registry.get_sample_value("streamer_movies_empty_total") == 0.0
    microscope.take(3)
    assert microscope.metrics.registry.get_sample_value("streamer_movies_empty_total") == 5.0
    assert len(list(microscope.layout.groups("x").parent.iterdir())) == 3
    assert len(microscope.learned) == 3


def test_the_present_movie_is_counted_once(microscope):
    microscope.take(8)
    microscope.take(4, centre=6.0, structure=0.5, ssnr_full=0.004)
    microscope.take(2)
    assert microscope.metrics.registry.get_sample_value("streamer_movies_empty_total") == 4.0


@pytest.mark.parametrize("restart", [False, True])
def test_a_session_that_begins_with_many_empty_squares_has_no_specimen_of_them(session, restart):
    """Fifteen movies of carbon: after twelve they are taken as they are; the first good ones show what they were."""
    decided, changes = session.see(15, centre=6.0, structure=0.5, ssnr_full=0.3)
    assert len(decided) >= 12
    assert session.see(2) == ([], [])
    decided, changes = session.see(1)
    assert changes == [], "nothing was there before"
    assert decided == [("m015", 1), ("m016", 1), ("m017", 1)]
    assert session.specimens.began_again
    assert sorted(session.specimens.found_empty) == [f"m{n:03d}" for n in range(15)]
    if restart:
        session.restart()
    assert session.specimens.is_empty("m003")
    assert session.specimens.of("m003") is None
    assert session.specimens.usual.structure == 15.0
    assert session.see(5) == ([(f"m{n:03d}", 1) for n in range(18, 23)], [])
    assert not session.specimens.began_again


def test_the_trainer_begins_again_without_them(microscope):
    microscope.take(15, centre=6.0, structure=0.5, ssnr_full=0.3)
    microscope.take(3)
    assert microscope.changed == [("grid1", 1, None)]
    assert microscope.alerts("specimen-changed") == []
    assert len(list(microscope.layout.groups("x").parent.iterdir())) == 3
    assert [b["result"] for b in microscope.bodies("model")] == ["promoted"]


def test_one_crystal_in_a_faint_session_does_not_make_it_empty(session):
    """A small protein at a low dose; a movie or two with dirt stand out."""
    session.see(20, structure=0.6, ssnr_full=0.03)
    assert session.see(2, centre=3.0, structure=6.0) == ([], [])
    decided, _ = session.see(4, structure=0.6, ssnr_full=0.03)
    assert decided
    assert session.specimens.of("m003") == 1


# --------------------------------------------------------------------------------------------- what scores decide


def score(gain, version="v0007"):
    return ModelScore(version=version, gain=gain, gain_error=0.05, expected_gain=2.0)


@pytest.fixture
def with_own(microscope, monkeypatch):
    """A session whose first specimen has a version of its own."""
    microscope.take(8, score=score(2.0))
    store = microscope.serving._store("grid1")
    monkeypatch.setattr(type(store), "versions", lambda _self: ["v0000", "v0007"])
    microscope.serving._versions["grid1"] = "v0007"
    monkeypatch.setattr(microscope.serving, "has_own", lambda _session, specimen: specimen == 1)
    monkeypatch.setattr(
        microscope.serving, "_mark", lambda session, v: microscope.serving._versions.update({session: v})
    )
    return microscope


def serves(microscope):
    return microscope.serving.version("grid1")


def test_a_version_serves_on_after_a_change_while_its_scores_hold(with_own):
    with_own.take(8, centre=4.0, score=score(1.9))
    assert with_own.lifecycle.specimens.session("grid1").current == 2
    assert serves(with_own) == "v0007"
    assert [b["result"] for b in with_own.bodies("model")] == ["promoted"]
    assert "v0007 is used now" in with_own.alerts("specimen-changed")[0][1]


def test_it_is_given_up_once_its_scores_prove_the_change(with_own):
    with_own.take(2, centre=4.0, score=score(1.2))
    assert serves(with_own) == "v0007", "two scores prove nothing"
    with_own.take(2, centre=4.0, score=score(1.2))
    assert serves(with_own) == "v0000"
    assert with_own.bodies("model")[-1]["result"] == "fell-back"
    assert "1.20 times the Wiener filter in 3 movies, where 2.00" in with_own.bodies("model")[-1]["reason"]
    assert "v0007 does not fit specimen 2" in with_own.alerts("specimen-changed")[-1][1]
    assert with_own.changed == [("grid1", 2, None), ("grid1", 2, None)]


def test_bad_scores_without_a_change_are_the_guards_business(with_own):
    with_own.take(6, score=score(1.2))
    assert serves(with_own) == "v0007"


def test_scores_are_known_after_a_restart(with_own, tmp_path):
    with_own.take(4, centre=4.0, score=score(1.9))
    path = with_own.layout.session_state("grid1") / SPECIMENS
    again = SessionSpecimens(path)
    assert len(again._scores_of("v0007")[0]) == 4
    assert len(again._scores_of("v0007")[1]) == 8


def test_a_version_that_fits_is_kept_when_a_specimen_returns(with_own):
    with_own.take(6, centre=4.0, score=score(1.9))
    with_own.take(2, score=score(2.0))
    assert serves(with_own) == "v0007"
    assert len(with_own.bodies("model")) == 1


# ------------------------------------------------------------------------------------------------ ends of movies


def test_a_movie_that_was_given_up_needs_nothing_any_more(microscope):
    movie = make_movie("grid1/lost.tif")
    microscope.journal.add_ready(movie, "2026-11-20T12:00:00.000Z", "2026-11-20T12:00:01.000Z")
    lifecycle = microscope.lifecycle
    lifecycle._without_gain.add(movie.movie_id)
    lifecycle._alarms.raise_("gain-unclear", "two gains", "critical")
    lifecycle.gave_up(movie.movie_id)
    assert [alarm.name for alarm in microscope.alarms.raised] == []


@pytest.mark.parametrize("newer", [False, True])
def test_a_movie_that_was_skipped_or_superseded_while_it_was_computed(microscope, newer):
    """Skipped, it needs nothing any more; a newer revision of it may still wait."""
    movie = make_movie("grid1/late.tif")
    utc = "2026-11-20T12:00:00.000Z"
    microscope.journal.add_ready(movie, utc, utc)
    microscope.journal.start(movie.movie_id, 1)
    lifecycle = microscope.lifecycle
    lifecycle.load.arrived(movie.movie_id)
    if newer:
        other = replace(movie, identity=replace(movie.identity, size=movie.identity.size + 1))
        microscope.journal.add_ready(other, utc, utc)
    else:
        microscope.journal.skip(movie.movie_id, "by hand")
    lifecycle.finished(Finished(record=make_record(movie.relative)))
    assert lifecycle.load.waiting == (1 if newer else 0)
