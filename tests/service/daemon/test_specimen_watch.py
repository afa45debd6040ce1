"""Which specimen a movie is of, on disk: through restarts, torn lines, and movies that are processed once more."""

from dataclasses import replace

import numpy as np
import pytest

from models.specimens import Specimens
from service.daemon.specimen_watch import SPECIMENS, SessionSpecimens, SpecimenWatch
from streamer.errors import OutputError
from tests.service_samples import make_record

ROOT = np.linalg.cholesky(Specimens()._spread)


def record(name, centre=0.0, pixel_size=1.5, **figures):
    """A record of a movie whose texture lies about a centre; ``figures`` are the other figures."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    figures = {"texture": tuple(float(v) for v in ROOT @ (rng.normal(size=17) + centre)), **figures}
    full = make_record(f"grid1/{name}.tif")
    source, metrics = replace(full.source, pixel_size=pixel_size), replace(full.metrics, **figures)
    return replace(full, movie_id=name, path=f"grid1/{name}.tif", metrics=metrics, source=source)


@pytest.fixture
def session(tmp_path):
    session = SessionSpecimens(tmp_path / "s" / SPECIMENS)
    for number in range(8):
        assert session.observe(record(f"a{number}"), "v0001") == ([(f"a{number}", 1)], None)
    return session


def change(session, serving="v0003"):
    assert session.observe(record("b0", 4.0), serving) == ([], None)
    decided, found = session.observe(record("b1", 4.0), serving)
    assert decided == [("b0", 2), ("b1", 2)]
    return found


def test_a_change_is_told_with_its_first_movie_and_what_served(session):
    found = change(session)
    assert (found.previous, found.specimen) == (1, 2)
    assert (session.current, session.since, session.served(1)) == (2, "b0", "v0003")


def test_a_restart_goes_on_where_it_was(session, tmp_path):
    change(session)
    for number in range(2, 6):
        session.observe(record(f"b{number}", 4.0), "v0004")
    again = SessionSpecimens(tmp_path / "s" / SPECIMENS)
    assert (again.current, again.since, again.served(1), again.served(2)) == (2, "b0", "v0003", None)
    assert [again.of(f"a{n}") for n in range(8)] == [1] * 8
    assert again.of("b0") == 2
    told = [again.observe(record(f"c{n}"), "v0007")[1] for n in range(4)]
    (back,) = [one for one in told if one]
    assert (back.specimen, back.returned) == (1, True)
    assert again.served(2) == "v0007"


def test_a_torn_or_damaged_line_costs_one_movie(session, tmp_path):
    path = tmp_path / "s" / SPECIMENS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"what\n", *lines[3:], b'{"type":"mov']))
    again = SessionSpecimens(path)
    assert again.of("a7") == 1
    again.observe(record("a8"), None)
    assert SessionSpecimens(path).of("a8") == 1
    assert b'{"type":"mov' + b"{" not in path.read_bytes()


def test_a_movie_that_is_processed_once_more_decides_nothing(session):
    before = session.current
    assert session.observe(record("a3", 9.0), None) == ([], None)
    assert session.current == before


def test_a_movie_without_texture_is_of_what_is_there(session):
    assert session.observe(record("x", texture=None), None) == ([("x", 1)], None)


def test_what_cannot_be_written_is_told(session, tmp_path, monkeypatch):
    session._path = tmp_path / "s" / SPECIMENS / "below-a-file"
    with pytest.raises(OutputError, match="the specimen of a movie cannot be written"):
        session.observe(record("a9"), None)


def test_few_sessions_are_kept_in_memory(tmp_path):
    watch = SpecimenWatch(lambda name: tmp_path / name)
    first = watch.session("s0")
    assert watch.session("s0") is first
    for number in range(20):
        watch.session(f"s{number}")
    assert len(watch._sessions) <= 8
    assert watch.session("s0") is not first
