"""Movies without anything to see: nothing is announced, learned or changed; the next good movie finds all as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.specimens import Specimens
from service.daemon.specimen_watch import SPECIMENS, SessionSpecimens
from service.health.specimen_alarms import MANY_EMPTY
from service.processes.messages import Finished
from streamer.movie_record import Usual
from tests.service.daemon.test_change_of_specimen import Scene
from tests.service_samples import make_movie, make_record

ROOT = np.linalg.cholesky(Specimens()._spread)
WAYS = {
    "ice": {"structure": 0.4, "ssnr_full": 0.004},
    "carbon": {"structure": 0.5, "ssnr_full": 0.3},
    "beam off": {"structure": 400.0, "ssnr_full": 0.0, "mean_counts": 0.002},
    "the worker says so": {"structure": 0.9, "empty": "no particle stands out"},
}
"""Squares of different kinds; each is odd in its own way by its texture."""


def figures(number, centre, **changes):
    rng = np.random.default_rng(number)
    usual = {"texture": tuple(float(v) for v in ROOT @ (rng.normal(size=17) + centre)), "structure": 15.0}
    return {**usual, "ssnr_full": 0.2, "mean_counts": 1.25, **changes}


class Session:
    """The specimens of a session, and how they see one movie after the other."""

    def __init__(self, path):
        self.path, self.count = path, 0
        self.specimens = SessionSpecimens(path)

    def see(self, movies=1, centre=0.0, restoration="wiener", **changes):
        """Movies of a kind; returns what was decided and the changes."""
        decided, found = [], []
        for _ in range(movies):
            name = f"m{self.count:03d}"
            full = make_record(f"grid1/{name}.tif", restoration=restoration)
            metrics = replace(full.metrics, **figures(self.count, centre, **changes))
            self.count += 1
            settled, change = self.specimens.observe(replace(full, movie_id=name, path=name, metrics=metrics), "v0003")
            decided += settled
            found += [change] if change else []
        return decided, found

    def restart(self):
        self.specimens = SessionSpecimens(self.path)


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "s" / SPECIMENS)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_an_empty_square_is_no_other_specimen(session, way, restart):
    session.see(8)
    assert session.see(10, centre=6.0, **WAYS[way]) == ([], [])
    assert session.specimens.empty_in_a_row == 10
    if restart:
        session.restart()
        assert session.specimens.empty_in_a_row == 10
        assert session.specimens.is_empty("m008")
    assert session.see(1) == ([("m018", 1)], [])
    assert session.specimens.empty_in_a_row == 0


def test_without_the_state_the_same_square_is_another_specimen(session):
    """The control: its texture alone is unlike that of the specimen."""
    session.see(8)
    assert session.see(2, centre=6.0)[1][0].specimen == 2


def test_empty_and_good_movies_in_turn(session):
    session.see(5)
    for _ in range(12):
        assert session.see(1, centre=6.0, **WAYS["ice"]) == ([], [])
        assert len(session.see(1)[0]) == 1
    assert session.specimens.current == 1


def test_empty_movies_do_not_move_what_is_usual(session):
    session.see(8)
    before = session.specimens.usual
    session.see(30, centre=6.0, **WAYS["carbon"])
    assert (
        session.specimens.usual == before == Usual(structure=15.0, least_structure=15.0, ssnr_full=0.2, electrons=5.0)
    )
    session.restart()
    assert session.specimens.usual == before


def test_another_specimen_after_a_long_empty_stretch_is_seen_at_its_second_movie(session):
    session.see(8)
    session.see(40, centre=6.0, **WAYS["ice"])
    assert session.see(1, centre=4.0) == ([], [])
    (change,) = session.see(1, centre=4.0)[1]
    assert (change.specimen, change.returned) == (2, False)
    session.see(6, centre=4.0)
    session.see(5, centre=-6.0, **WAYS["carbon"])
    (back,) = session.see(1)[1]
    assert (back.specimen, back.returned) == (1, True), "one good movie of a specimen seen before is enough"


def test_an_empty_movie_between_two_of_another_specimen_does_not_hide_it(session):
    session.see(8)
    session.see(1, centre=4.0)
    session.see(3, centre=6.0, **WAYS["ice"])
    assert [change.specimen for change in session.see(1, centre=4.0)[1]] == [2]


def test_a_session_that_begins_with_an_empty_square_waits_until_it_has_seen_something(session):
    assert session.see(6, centre=6.0, **WAYS["carbon"]) == ([], [])
    decided, changes = session.see(3)
    assert decided == [("m006", 1), ("m007", 1), ("m008", 1)]
    assert changes == []
    assert all(session.specimens.is_empty(f"m{n:03d}") for n in range(6))
    assert session.specimens.empty_in_a_row == 0
    session.restart()
    assert session.specimens.is_empty("m003")
    assert session.see(4) == ([(f"m{n:03d}", 1) for n in range(9, 13)], [])


def test_where_no_movie_shows_structure_that_is_how_the_specimen_looks(session):
    """Small proteins at a low dose: they are learned from like all others, only a little later."""
    decided, changes = session.see(12, structure=0.6, ssnr_full=0.03)
    assert (decided, changes) == ([], [])
    assert session.see(1, structure=0.6, ssnr_full=0.03)[0] == [(f"m{n:03d}", 1) for n in range(13)]
    assert session.see(4, structure=0.6, ssnr_full=0.01)[0] == [(f"m{n:03d}", 1) for n in range(13, 17)]


def test_movies_whose_halves_share_nothing_are_not_what_a_session_begins_with(session):
    assert session.see(30, centre=6.0, restoration="none", structure=0.4, ssnr_full=0.0) == ([], [])
    assert session.specimens.empty_in_a_row == 30
    assert session.see(1)[0] == [("m030", 1)]


def test_a_session_that_begins_in_the_dark_has_seen_nothing_yet(session):
    dark = {"structure": 400.0, "ssnr_full": None, "mean_counts": 0.002}
    assert session.see(5, centre=6.0, restoration="none", **dark) == ([], [])
    assert session.specimens.empty_in_a_row == 5
    assert session.see(1)[0] == [("m005", 1)]


def test_records_of_before_say_nothing_about_it(session):
    """Without the figure for structure everything is decided as it was."""
    assert len(session.see(8, structure=None)[0]) == 8
    assert session.see(2, centre=4.0, structure=None)[1][0].specimen == 2


# ------------------------------------------------------------------------------------------------- the daemon


class Microscope(Scene):
    """The lifecycle, with movies whose figures a test sets."""

    def take(self, movies=1, centre=0.0, **changes):
        """Movies of a kind; returns their orders."""
        orders = []
        for _ in range(movies):
            name = f"grid1/m{self.count:02d}.tif"
            movie = make_movie(name)
            self.journal.add_ready(movie, "2026-11-20T12:00:00.000Z", "2026-11-20T12:00:01.000Z")
            self.journal.start(movie.movie_id, 1)
            orders.append(self.lifecycle.order(self.journal.movie(movie.movie_id)))
            for path in (self.layout.groups(movie.movie_id), self.layout.training_data(movie.movie_id)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            full = make_record(name, path=name)
            metrics = replace(full.metrics, **figures(self.count, centre, **changes))
            self.count += 1
            self.lifecycle.finished(Finished(record=replace(full, metrics=metrics)))
        return orders

    def alerts(self, name):
        return [(b["state"], b["message"]) for b in self.bodies("alert") if b["name"] == name]


@pytest.fixture
def microscope(journal, tmp_path):
    return Microscope(journal, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_square_changes_no_model_and_teaches_nothing(microscope, way):
    microscope.take(8)
    microscope.take(10, centre=6.0, **WAYS[way])
    microscope.take(2)
    assert microscope.changed == []
    assert [b["result"] for b in microscope.bodies("model")] == ["promoted"], "the base, at the start"
    assert microscope.bodies("alert") == []
    assert len(microscope.learned) == 10
    assert microscope.metrics.registry.get_sample_value("streamer_movies_empty_total") == 10.0
    sums = {path.name for path in microscope.layout.groups("x").parent.iterdir()}
    assert len(sums) == 10, "what nothing is learned from takes no space"


def test_orders_carry_what_is_usual_once_it_is_known(microscope):
    orders = microscope.take(5)
    assert [order.instructions.usual is None for order in orders] == [True, True, True, False, False]
    assert orders[-1].instructions.usual == Usual(structure=15.0, ssnr_full=0.2, electrons=5.0)


def test_many_empty_movies_in_a_row_are_an_alarm_until_there_is_something_again(microscope):
    microscope.take(8)
    microscope.take(MANY_EMPTY - 1, centre=6.0, **WAYS["ice"])
    assert microscope.alerts("nothing-to-see") == []
    microscope.take(6, centre=6.0, **WAYS["ice"])
    ((state, words),) = microscope.alerts("nothing-to-see")
    assert state == "raised"
    assert "20 movies in a row" in words
    assert "from grid1/m08.tif on (no particle stands out" in words
    assert "beam" in words
    assert [alarm.name for alarm in microscope.alarms.raised] == ["nothing-to-see"]
    microscope.take(1)
    assert microscope.alerts("nothing-to-see")[1:] == [("cleared", "there is something to see again")]
    assert microscope.alarms.raised == []


def test_another_specimen_is_raised_and_cleared_when_a_network_has_learned_from_it(microscope, monkeypatch):
    microscope.take(8)
    microscope.take(3, centre=4.0)
    ((state, words),) = microscope.alerts("specimen-changed")
    assert state == "raised"
    assert "specimen 2 appeared at movie" in words
    assert "until a network has learned from it" in words
    monkeypatch.setattr(microscope.serving, "has_own", lambda _session, specimen: specimen == 2)
    microscope.take(1, centre=4.0)
    assert [state for state, _ in microscope.alerts("specimen-changed")] == ["raised", "cleared"]
    assert "is used for specimen 2 now" in microscope.alerts("specimen-changed")[1][1]


def test_a_specimen_that_returns_ends_the_alarm_and_happens(microscope):
    microscope.take(8)
    microscope.take(3, centre=4.0)
    microscope.take(1)
    states = [state for state, _ in microscope.alerts("specimen-changed")]
    assert states == ["raised", "cleared", "happened"]
    assert "specimen 1 returned at movie" in microscope.alerts("specimen-changed")[2][1]


def test_what_only_happens_is_never_said_to_be_over(microscope):
    microscope.alarms.tell("worker-died", "the worker exited and was restarted")
    assert microscope.alerts("worker-died") == [("happened", "the worker exited and was restarted")]
    assert microscope.alarms.raised == []


def test_a_daemon_that_stops_does_not_say_that_what_was_wrong_is_over(microscope):
    microscope.alarms.raise_("gain-missing", "no gain")
    microscope.alarms.clear_all()
    ((_, _), (state, words)) = microscope.alerts("gain-missing")
    assert (state, words) == ("cleared", "no gain; the daemon stops and watches this no more")


@pytest.mark.parametrize("name", ["root-missing", "outputs-failing", "gain-wrong"])
def test_the_end_of_an_alarm_says_that_it_is_one(microscope, name):
    microscope.alarms.raise_(name, "what is wrong")
    microscope.alarms.clear(name)
    assert microscope.alerts(name) == [("raised", "what is wrong"), ("cleared", "what is wrong; this is over")]
