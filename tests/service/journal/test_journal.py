from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.journal.journal import Journal
from service.wire.messages import parse_event
from streamer.errors import ServiceError, UsageError
from streamer.movie_record import Acquisition, Times
from streamer.records import FileIdentity, Movie
from tests.clocks import SetClock
from tests.service_samples import REASON, UTC, make_movie, make_record

if TYPE_CHECKING:
    from pathlib import Path

A = make_movie("grid1/a.tif")
OTHER = make_movie("grid1/a.tif", size=200, mtime_ns=2)


def add(journal: Journal, movie: Movie = A) -> str:
    return journal.add_ready(movie, UTC, UTC).movie.movie_id


def bodies(journal: Journal) -> list[dict[str, Any]]:
    return [parse_event(row.raw).body for row in journal.events.page(1)]


def told(journal: Journal) -> list[tuple[str, int]]:
    return [(body["state"], body["revision"]) for body in bodies(journal)]


# ------------------------------------------------------------ the usual way


def test_a_movie_from_arrival_to_its_event(journal: Journal) -> None:
    movie_id = add(journal)
    ready = journal.movies.next_ready()
    assert ready is not None
    assert (ready.movie, ready.state, ready.attempt, ready.supersedes) == (A, "ready", 0, None)
    assert journal.start(movie_id, 1) == 1
    assert journal.movies.next_ready() is None
    event = journal.finish(make_record())
    assert event is not None
    assert (event.seq, event.kseq, event.kind, event.session) == (1, 1, "movie", "grid1")
    found = journal.movie(movie_id)
    assert found is not None
    assert (found.state, found.attempt) == ("done", 1)
    assert found.record is not None
    assert found.record.metrics.ssnr_full == 0.2
    assert [row.raw for row in journal.events.page(1)] == [event.raw]
    assert journal.movies.counts_by_state() == {"done": 1}


def test_movies_are_taken_oldest_first(journal: Journal) -> None:
    names = ["grid1/c.tif", "grid1/a.tif", "grid1/b.tif"]
    for name in names:
        add(journal, make_movie(name))
    for name in names:
        ready = journal.movies.next_ready()
        assert ready is not None
        assert ready.movie.relative == name
        journal.start(ready.movie.movie_id, 1)
    assert journal.movies.pending() == 3


def test_a_retried_movie_keeps_its_place(tmp_path: Path) -> None:
    clock = SetClock(1_000_000.0)
    journal = Journal.open(tmp_path / "j", clock=clock)
    first, _ = add(journal), add(journal, make_movie("grid1/b.tif"))
    journal.start(first, 1)
    journal.retry_later(first, 1, REASON)
    clock.now += 5.0
    ready = journal.movies.next_ready()
    assert ready is not None
    assert ready.movie.movie_id == first
    journal.close()


def test_what_is_known_as_it_is_is_not_processed_again(journal: Journal) -> None:
    movie_id = add(journal)
    assert add(journal) == movie_id
    assert journal.movies.pending() == 1
    journal.start(movie_id, 1)
    journal.finish(make_record())
    assert journal.add_ready(A, UTC, UTC).state == "done"
    assert journal.movies.pending() == 0


def test_a_remount_or_a_chown_is_no_new_movie(journal: Journal) -> None:
    """Device, inode and ctime are not content; after a reboot thousands of movies would be done again."""
    movie_id = add(journal)
    journal.start(movie_id, 1)
    journal.finish(make_record())
    moved = FileIdentity(device=9, inode=9, size=100, mtime_ns=1, ctime_ns=9)
    again = journal.add_ready(Movie(path=A.path, relative=A.relative, session="grid1", identity=moved), UTC, UTC)
    assert (again.state, again.movie.revision) == ("done", 1)
    assert journal.movies.identities() == {A.relative: moved}


def test_times_that_the_record_lacks_are_filled_in(journal: Journal) -> None:
    journal.start(add(journal), 1)
    journal.finish(make_record(times=Times()))
    times = bodies(journal)[0]["times"]
    assert times["detected"] == times["ready"] == UTC
    assert times["started"] is not None
    assert times["done"] is not None


def test_a_movie_cannot_be_started_twice(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    with pytest.raises(ServiceError, match="started twice"):
        journal.start(movie_id, 1)


# ------------------------------------------------------------ revisions


def test_other_content_at_the_same_path_is_a_new_revision(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    journal.finish(make_record())
    second = journal.add_ready(OTHER, UTC, UTC)
    assert (second.movie.revision, second.supersedes, second.state) == (2, 1, "ready")
    assert told(journal) == [("done", 1), ("superseded", 1)]
    journal.start(movie_id, 2)
    # The worker need not know what it supersedes.
    journal.finish(make_record(revision=2, supersedes=None))
    assert told(journal)[-1] == ("done", 2)
    assert bodies(journal)[-1]["supersedes"] == 1
    old = journal.movie(movie_id, 1)
    assert old is not None
    assert old.state == "superseded"
    assert old.record is not None
    assert old.record.outputs


def test_the_result_of_a_movie_that_was_replaced_at_work_does_not_count(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    journal.add_ready(OTHER, UTC, UTC)
    assert journal.finish(make_record()) is None
    assert journal.worker_died(movie_id, 1, REASON) == "superseded"
    assert journal.retry_later(movie_id, 1, REASON) == "superseded"
    assert told(journal) == [("superseded", 1)]


def test_a_retried_done_movie_is_a_new_revision(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    journal.finish(make_record())
    assert journal.retry(movie_id).movie.revision == 2
    assert told(journal) == [("done", 1), ("superseded", 1)]


# ------------------------------------------------------------ failures, retries


def test_failed_is_final_until_the_operator_says_otherwise(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    event = journal.finish(make_record(state="failed"))
    assert event is not None
    assert event.body["reason"]["found"] == "39"
    assert journal.movies.next_ready() is None
    journal.retry(movie_id)
    assert journal.start(movie_id, 1) == 1
    journal.finish(make_record())
    assert told(journal) == [("failed", 1), ("done", 1)]


def test_the_delay_of_retries_grows_and_the_third_attempt_is_the_last(tmp_path: Path) -> None:
    clock = SetClock(1_000_000.0)
    journal = Journal.open(tmp_path / "j", clock=clock)
    movie_id = add(journal)
    for delay in (5.0, 30.0):
        journal.start(movie_id, 1)
        assert journal.retry_later(movie_id, 1, REASON) == "ready"
        clock.now += delay - 0.1
        assert journal.movies.next_ready() is None
        clock.now += 0.2
        assert journal.movies.next_ready() is not None
    assert journal.start(movie_id, 1) == 3
    assert journal.retry_later(movie_id, 1, REASON) == "quarantined"
    assert told(journal) == [("quarantined", 1)]
    assert bodies(journal)[0]["reason"]["error"] == "MovieCorrupt"
    journal.close()


def test_a_full_disk_never_quarantines_a_movie(tmp_path: Path) -> None:
    clock = SetClock(1_000_000.0)
    journal = Journal.open(tmp_path / "j", clock=clock)
    movie_id = add(journal)
    delays = []
    for _ in range(6):
        begin = clock.now
        journal.start(movie_id, 1)
        assert journal.retry_later(movie_id, 1, REASON, counted=False) == "ready"
        while journal.movies.next_ready() is None:
            clock.now += 1.0
        delays.append(clock.now - begin)
    assert delays == [5.0, 30.0, 120.0, 120.0, 120.0, 120.0]
    journal.close()


def test_a_clock_that_is_set_back_does_not_hold_up_a_retry(tmp_path: Path) -> None:
    clock = SetClock(1_000_000.0)
    journal = Journal.open(tmp_path / "j", clock=clock)
    movie_id = add(journal)
    journal.start(movie_id, 1)
    journal.retry_later(movie_id, 1, REASON)
    clock.now -= 3600.0
    assert journal.movies.next_ready() is not None
    journal.close()


def test_the_second_dead_worker_quarantines(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    assert journal.worker_died(movie_id, 1, REASON) == "ready"
    journal.start(movie_id, 1)
    assert journal.worker_died(movie_id, 1, REASON) == "quarantined"
    assert told(journal) == [("quarantined", 1)]
    assert journal.movies.next_ready() is None


def test_a_movie_that_kills_the_daemon_is_quarantined_at_the_third_attempt(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        journal = Journal.open(tmp_path / "j")
        movie_id = add(journal)
        assert journal.requeue_started() == (0 if attempt == 1 else 1)
        assert journal.start(movie_id, 1) == attempt
        journal.close()
    journal = Journal.open(tmp_path / "j")
    assert journal.requeue_started() == 1
    assert told(journal) == [("quarantined", 1)]
    journal.close()


def test_the_attempt_is_on_disk_before_the_work_begins(journal: Journal, tmp_path: Path) -> None:
    journal.start(add(journal), 1)
    other = Journal.open(tmp_path / "journal.sqlite", read_only=True)
    found = other.movie(A.movie_id)
    other.close()
    assert found is not None
    assert (found.state, found.attempt) == ("started", 1)


def test_stopping_the_daemon_costs_no_attempt(journal: Journal) -> None:
    movie_id = add(journal)
    for _ in range(5):
        assert journal.start(movie_id, 1) == 1
        assert journal.release(movie_id, 1) == "ready"


# ------------------------------------------------------------ never processed


@pytest.mark.parametrize("state", ["failed", "incomplete", "vanished", "skipped"])
def test_a_movie_that_ends_on_arrival(journal: Journal, state: str) -> None:
    event = journal.add_final(A, make_record(state=state), UTC)
    assert event is not None
    assert event.body["state"] == state
    assert journal.movies.next_ready() is None
    assert journal.add_final(A, make_record(state=state), UTC) is None
    assert len(journal.events.page(1)) == 1


@pytest.mark.parametrize("state", ["incomplete", "vanished"])
def test_incomplete_and_vanished_movies_are_rearmed_by_any_change(journal: Journal, state: str) -> None:
    journal.add_final(A, make_record(state=state), UTC)
    again = journal.add_ready(OTHER, UTC, UTC)
    assert (again.movie.revision, again.state, again.movie.identity) == (1, "ready", OTHER.identity)
    assert told(journal) == [(state, 1)]


def test_a_vanished_file_that_comes_back_is_news_to_the_watcher(journal: Journal) -> None:
    journal.add_final(A, make_record(state="vanished"), UTC)
    assert journal.movies.identities() == {}
    assert journal.add_ready(A, UTC, UTC).state == "ready"


def test_a_failed_movie_is_tried_again_when_only_its_permissions_changed(journal: Journal) -> None:
    journal.add_final(A, make_record(state="failed"), UTC)
    assert journal.add_ready(A, UTC, UTC).state == "failed"
    changed = Movie(
        path=A.path, relative=A.relative, session=A.session,
        identity=FileIdentity(device=1, inode=1, size=100, mtime_ns=1, ctime_ns=77),
    )  # fmt: skip
    again = journal.add_ready(changed, UTC, UTC)
    assert (again.state, again.movie.revision) == ("ready", 1)


def test_a_waiting_movie_may_vanish_but_not_one_that_is_at_work(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    assert journal.add_final(A, make_record(state="vanished"), UTC) is None
    journal.release(movie_id, 1)
    assert journal.add_final(A, make_record(state="vanished"), UTC) is not None
    assert journal.movies.pending() == 0


def test_a_replaced_file_that_fails_on_arrival_supersedes_what_is_at_work(journal: Journal) -> None:
    journal.start(add(journal), 1)
    journal.add_final(OTHER, make_record(state="failed"), UTC)
    assert told(journal) == [("superseded", 1), ("failed", 2)]
    assert journal.finish(make_record()) is None


# ------------------------------------------------------------ operator


def test_skip_and_retry(journal: Journal) -> None:
    movie_id = add(journal)
    assert journal.skip(movie_id, "ice").body["reason"]["message"] == "ice"
    assert journal.movies.next_ready() is None
    with pytest.raises(UsageError):
        journal.skip(movie_id, "again")
    journal.retry(movie_id)
    with pytest.raises(UsageError, match="already waiting or being processed"):
        journal.retry(movie_id)
    journal.start(movie_id, 1)
    journal.skip(movie_id, "hangs")
    assert journal.finish(make_record()) is None
    assert told(journal) == [("skipped", 1), ("skipped", 1)]


@pytest.mark.parametrize("action", ["retry", "skip"])
def test_an_unknown_movie_is_the_operators_mistake(journal: Journal, action: str) -> None:
    arguments = {"retry": (), "skip": ("why",)}[action]
    with pytest.raises(UsageError, match="does not know"):
        getattr(journal, action)("0" * 16, *arguments)


def test_listing(journal: Journal) -> None:
    ids = [add(journal, make_movie(f"grid1/{name}.tif")) for name in "abc"]
    journal.start(ids[0], 1)
    assert [found.movie.movie_id for found in journal.movies.newest()] == ids[::-1]
    assert [found.movie.movie_id for found in journal.movies.newest(state="ready", limit=1)] == [ids[2]]
    assert journal.movies.newest(session="grid2") == []
    assert journal.movies.counts_by_state() == {"ready": 2, "started": 1}
    assert journal.movies.oldest_pending() == 1795176000.0
    assert journal.movie("0" * 16) is None


def test_a_movie_that_was_never_detected_is_no_longest_wait(journal: Journal) -> None:
    """Processed by hand, recovered from its record, then tried again: nobody knows since when it waits."""
    journal.add_ready(make_movie("grid1/a.tif"), "", "")
    assert journal.movies.oldest_pending() is None
    add(journal, make_movie("grid1/b.tif"))
    assert journal.movies.oldest_pending() == 1795176000.0


def test_the_session_that_was_collected_last_is_not_that_of_an_old_movie_tried_again(journal: Journal) -> None:
    assert journal.movies.latest_session() is None
    old = add(journal, make_movie("grid1/a.tif"))
    journal.start(old, 1)
    journal.finish(make_record("grid1/a.tif"))
    add(journal, make_movie("grid2/a.tif"))
    assert journal.movies.latest_session() == "grid2"
    assert journal.retry(old).revision == 2
    assert (journal.movies.newest(limit=1)[0].session, journal.movies.latest_session()) == ("grid1", "grid2")


def test_the_longest_wait_counts_by_the_clock_that_was_set_back(journal: Journal) -> None:
    assert journal.movies.oldest_pending() is None
    for name, detected in (("a", "2026-11-20T12:05:00.000Z"), ("b", "2026-11-20T12:01:00.000Z")):
        journal.add_ready(make_movie(f"grid1/{name}.tif"), detected, detected)
    assert journal.movies.oldest_pending() == 1795176060.0


# ------------------------------------------------------------ odd values


@given(st.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw))
@settings(max_examples=50, deadline=None)
def test_any_file_name_survives(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    name = "grid1/" + os.fsdecode(raw)
    journal = Journal.open(tmp_path_factory.mktemp("j") / "j")
    acquisition = Acquisition(sidecar=os.fsdecode(raw))
    movie = Movie(path=f"/data/{name}", relative=name, session="grid1", identity=A.identity, acquisition=acquisition)
    journal.add_ready(movie, UTC, UTC)
    ready = journal.movies.next_ready()
    assert ready is not None
    assert ready.movie == movie
    assert list(journal.movies.identities()) == [name]
    journal.start(movie.movie_id, 1)
    event = journal.finish(make_record(name))
    assert event is not None
    assert event.body["source"]["path"] == name
    journal.close()


@pytest.mark.parametrize("name", ["a\nb.tif", "a\x1b[31mb.tif", "a\udcffb.tif", "\u202egpj.tif", "x" * 300])
def test_odd_names_by_name(journal: Journal, name: str) -> None:
    add(journal, make_movie(name))
    assert list(journal.movies.identities()) == [name]


def test_inodes_of_64_bits(journal: Journal) -> None:
    add(journal, make_movie(inode=2**64 - 1))
    assert journal.movies.identities()[A.relative].inode == 2**64 - 1


def test_a_record_that_is_too_long_for_an_event_is_kept_whole(journal: Journal) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)
    flags = ["x" * 70_000]
    event = journal.finish(make_record(flags=flags))
    found = journal.movie(movie_id)
    assert found is not None
    assert found.record is not None
    assert found.record.flags == flags
    assert event is not None
    assert event.body["flags"] == []
