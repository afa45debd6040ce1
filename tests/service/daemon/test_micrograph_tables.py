import pytest

from service.daemon.micrograph_tables import MicrographTables
from service.offline.process import finished_before
from streamer import jsontext
from streamer.errors import OutputError
from streamer.movie_record import OutputFile
from tests.clocks import SetClock
from tests.service_samples import make_movie, make_record


def record(relative, **changes):
    """A finished movie with all that RELION's table names."""
    roles = {"micrograph": ".mrc", "even": "_EVN.mrc", "odd": "_ODD.mrc", "motion": ".star"}
    outputs = [
        OutputFile(role=role, path=f"movies/{relative}/r1/x{suffix}", bytes=1, sha256="d" * 64)
        for role, suffix in roles.items()
    ]
    return make_record(relative, outputs=outputs, **changes)


@pytest.fixture
def clock():
    return SetClock()


def tables(tmp_path, clock, finished=()):
    asked = []

    def ask(session):
        asked.append(session)
        return [r for r in finished if r.session == session]

    made = MicrographTables(lambda session: tmp_path / session, ask, clock)
    made.asked = asked
    return made


def names(tmp_path, session="grid1"):
    text = (tmp_path / session / "micrographs.star").read_text()
    return [line.split()[0] for line in text.splitlines() if "movies/" in line]


def test_what_was_finished_before_stands_before_what_is_added(tmp_path, clock):
    before = [record(f"grid1/m{n}.tif") for n in range(3)]
    table = tables(tmp_path, clock, [*before, record("grid2/other.tif", session="grid2")])
    assert table.asked == []  # years of sessions cost nothing at the start
    table.add(record("grid1/new.tif"))
    table.write(now=True)
    assert table.asked == ["grid1"]
    found = names(tmp_path)
    assert len(found) == 4
    assert "new" in found[-1]


def test_the_newest_revision_takes_the_place_of_the_last(tmp_path, clock):
    table = tables(tmp_path, clock, [record("grid1/a.tif"), record("grid1/b.tif")])
    table.add(record("grid1/a.tif", revision=2))
    table.write(now=True)
    assert len(names(tmp_path)) == 2


def test_what_a_kill_kept_from_the_table_is_made_good_at_the_start(tmp_path, clock):
    table = tables(tmp_path, clock, [record("grid1/m0.tif"), record("grid1/m1.tif")])
    table.resume("grid1")
    table.resume("empty")
    assert table.write()
    assert len(names(tmp_path)) == 2
    assert not (tmp_path / "empty").exists()
    assert not table.write(now=True)


def test_a_table_that_takes_long_is_rewritten_seldom(tmp_path, clock, monkeypatch):
    written = []

    def slow(path, data):
        written.append(clock.now)
        clock.now += 3.0

    monkeypatch.setattr("service.daemon.micrograph_tables.write_atomically", slow)
    table = tables(tmp_path, clock)
    while clock.now < 200.0:
        table.add(record("grid1/a.tif"))
        table.write()
        clock.now += 0.5
    assert written == pytest.approx([0.0, 60.0, 120.0, 180.0], abs=1.0)


def test_a_table_that_cannot_be_written_is_tried_again_later_not_at_once(tmp_path, clock, monkeypatch):
    tried = []

    def full(path, data):
        tried.append(clock.now)
        raise OutputError("no space")

    table = tables(tmp_path, clock)
    table.add(record("grid1/a.tif"))
    with monkeypatch.context() as patch:
        patch.setattr("service.daemon.micrograph_tables.write_atomically", full)
        for _ in range(3):
            if not tried:
                with pytest.raises(OutputError):
                    table.write()
            else:
                table.write()  # too early
            clock.now += 0.5
    clock.now += 2.0
    table.write()
    assert tried == [0.0]
    assert len(names(tmp_path)) == 1


def test_the_journal_gives_the_done_movies_of_a_session_in_order(journal, monkeypatch):
    monkeypatch.setattr("service.journal.movie_queries._PORTION", 2)
    for n in range(5):
        movie = make_movie(f"grid1/m{n}.tif", inode=n)
        journal.add_ready(movie, "2026-11-20T12:00:00.000Z", "2026-11-20T12:00:01.000Z")
        journal.start(movie.movie_id, 1)
        journal.finish(make_record(movie.relative, state="failed" if n == 1 else "done"))
    assert [r.path for r in journal.movies.done("grid1")] == [f"grid1/m{n}.tif" for n in (0, 2, 3, 4)]
    assert list(journal.movies.done("other")) == []


def test_a_second_call_of_process_keeps_the_movies_of_the_first(tmp_path):
    for revision, name in ((1, "a"), (1, "b"), (2, "a")):
        path = tmp_path / "grid1" / "movies" / f"{name}.tif" / f"r{revision}" / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(jsontext.encode(record(f"grid1/{name}.tif", revision=revision)))
    (path.parent / "foreign.json").write_text("[]")
    found = finished_before(tmp_path, "grid1")
    assert sorted((r.movie_id, r.revision) for r in found) == sorted(
        (record(f"grid1/{name}.tif").movie_id, revision) for name, revision in (("a", 2), ("b", 1))
    )
