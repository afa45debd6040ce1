"""Which of the movies that wait comes next, and what becomes of a second copy of one."""

from dataclasses import replace

import pytest

from service.config import Config
from service.journal.journal import Journal
from service.processes.messages import Finished, Progress, Up
from service.wire.messages import parse_event
from streamer.errors import MovieVanished
from streamer.watch.settings import WatchSettings
from tests.clocks import AskedClock
from tests.service.daemon.lifecycles import arrival_of, lifecycle_of
from tests.service_samples import REASON, UTC, full_fields, make_movie, make_record

FINGERPRINT = "a" * 64


def movies(names):
    return [make_movie(f"grid1/{name}.tif", inode=number) for number, name in enumerate(names, 1)]


def name_of(movie):
    return movie.relative.removeprefix("grid1/").removesuffix(".tif")


# ------------------------------------------------------------ in the journal


def test_the_oldest_or_the_latest_that_may_start_now(tmp_path):
    now = [1_000_000.0]
    journal = Journal.open(tmp_path / "j", clock=AskedClock(lambda: now[0]))
    came = movies("abcd")
    for movie in came:
        journal.add_ready(movie, UTC, UTC)
    assert (name_of(journal.movies.next_ready()), name_of(journal.movies.next_ready(latest=True))) == ("a", "d")
    for movie in (came[0], came[3]):
        journal.start(movie.movie_id, 1)
    assert (name_of(journal.movies.next_ready()), name_of(journal.movies.next_ready(latest=True))) == ("b", "c")
    for movie in (came[0], came[3]):
        journal.retry_later(movie.movie_id, 1, REASON)
    assert (name_of(journal.movies.next_ready()), name_of(journal.movies.next_ready(latest=True))) == ("b", "c")
    now[0] += 5.0
    assert (name_of(journal.movies.next_ready()), name_of(journal.movies.next_ready(latest=True))) == ("a", "d")
    for movie in came:
        journal.skip(movie.movie_id, "enough")
    assert journal.movies.next_ready() is journal.movies.next_ready(latest=True) is None
    journal.close()


# ------------------------------------------------------------ given to the worker


@pytest.fixture
def scene_with(scene_of):
    """Makes a scene whose worker is up, for a policy."""

    def make(policy):
        scene = scene_of(Config(watch=WatchSettings(backlog=policy)))
        scene.say(Up(device="cpu", threads=1))
        return scene

    return make


def started(scene, n=100):
    """Names in the order in which they are given to the worker, each finished at once."""
    order = []
    while len(order) < n and scene.process.dispatch():
        movie = scene.child.sent[-1].movie
        order.append(name_of(movie))
        record = make_record(movie.relative)
        scene.journal.finish(record)
        scene.say(Finished(record=record))
    return "".join(order)


@pytest.mark.parametrize(("policy", "order"), [("oldest", "abcdefg"), ("latest", "gfedcba"), ("alternate", "gafbecd")])
def test_the_order_of_a_backlog(scene_with, policy, order):
    scene = scene_with(policy)
    scene.arrive(*"abcdefg")
    assert started(scene) == order


@pytest.mark.parametrize(("policy", "order"), [("oldest", "abcd"), ("latest", "bdca"), ("alternate", "badc")])
def test_what_comes_meanwhile_takes_its_place_in_it(scene_with, policy, order):
    scene = scene_with(policy)
    scene.arrive(*"ab")
    first = started(scene, 1 if policy != "alternate" else 2)
    scene.arrive(*"cd")
    assert first + started(scene) == order


@pytest.mark.parametrize("policy", ["oldest", "latest", "alternate"])
def test_a_movie_that_a_worker_died_of_is_alone_whatever_the_policy(scene_with, policy):
    scene = scene_with(policy)
    first, _, third = scene.arrive(*"abc")
    dies = third if policy != "oldest" else first
    assert scene.process.dispatch()
    assert scene.child.sent[-1].movie.movie_id == dies.movie_id
    scene.say(Progress(movie_id=dies.movie_id, revision=1, stage="align"))
    scene.child.alive = False
    scene.process.attend()
    assert scene.journal.movie(dies.movie_id).deaths == 1
    scene.process.start()
    scene.say(Up(device="cpu", threads=1))
    sent = []
    while scene.process.dispatch():
        sent.append(scene.child.sent[-1].movie.movie_id)
    alone = [first.movie_id] if policy == "alternate" else []
    # in turn, the oldest was due; the one that has killed a worker waits for an empty hand
    assert sent == (alone or [dies.movie_id])


def test_whose_turn_it_is_does_not_change_while_nothing_is_started(scene_with):
    scene = scene_with("alternate")
    for _ in range(3):
        assert not scene.process.dispatch()
    scene.arrive(*"abc")
    assert started(scene) == "cab"


# ------------------------------------------------------------ copies


@pytest.fixture
def lifecycle(journal, tmp_path):
    return lifecycle_of(journal, tmp_path, Config())


FIRST, COPY = movies(["first", "copy"])


def told(journal):
    rows = [parse_event(row.raw) for row in journal.events.page(1) if row.kind == "movie"]
    return [(row.body["path"], row.body["state"], (row.body.get("reason") or {}).get("message", "")) for row in rows]


SKIPPED = ("grid1/copy.tif", "skipped", "grid1/copy.tif: has the same content as grid1/first.tif")


@pytest.mark.parametrize("first_is", ["ready", "started", "done"])
def test_a_second_copy_is_skipped_with_an_event_that_names_the_first(lifecycle, journal, first_is):
    lifecycle.arrived(arrival_of(FIRST, fingerprint=FINGERPRINT))
    if first_is != "ready":
        journal.start(FIRST.movie_id, 1)
    if first_is == "done":
        fields = full_fields(FIRST.relative)
        journal.finish(make_record(FIRST.relative, source=replace(fields["source"], fingerprint=FINGERPRINT)))
    lifecycle.arrived(arrival_of(COPY, fingerprint=FINGERPRINT))
    assert told(journal)[-1] == SKIPPED
    assert journal.movie(COPY.movie_id).state == "skipped"
    assert journal.movie(FIRST.movie_id).state == first_is
    assert lifecycle.load.waiting == 1, "the copy is no load"
    assert COPY.relative in journal.movies.identities(), "and is not looked at again"
    before = len(told(journal))
    lifecycle.arrived(arrival_of(COPY, fingerprint=FINGERPRINT))
    assert len(told(journal)) == before


def test_a_copy_of_what_was_done_before_copies_were_looked_for(lifecycle, journal):
    """What is done is known by the fingerprint in its record."""
    lifecycle.arrived(arrival_of(FIRST))
    journal.start(FIRST.movie_id, 1)
    journal.finish(make_record(FIRST.relative))
    lifecycle.arrived(arrival_of(COPY, fingerprint="f" * 64))
    assert told(journal)[-1] == SKIPPED


def test_under_process_both_are_processed(lifecycle, journal):
    """The watcher then asks for no fingerprint."""
    for movie in (FIRST, COPY):
        lifecycle.arrived(arrival_of(movie))
    assert journal.movies.counts_by_state() == {"ready": 2}


def test_other_content_is_no_copy_and_a_movie_is_none_of_itself(lifecycle, journal):
    lifecycle.arrived(arrival_of(FIRST, fingerprint=FINGERPRINT))
    lifecycle.arrived(arrival_of(COPY, fingerprint="b" * 64))
    lifecycle.arrived(arrival_of(FIRST, fingerprint=FINGERPRINT))
    assert journal.movies.counts_by_state() == {"ready": 2}
    assert journal.movies.twin_of(FIRST.movie_id, FINGERPRINT) is None
    assert journal.movies.twin_of(COPY.movie_id, FINGERPRINT) == "grid1/first.tif"


@pytest.mark.parametrize("end", ["failed", "quarantined", "skipped", "vanished", "incomplete"])
def test_a_movie_whose_twin_came_to_nothing_is_processed(lifecycle, journal, end):
    lifecycle.arrived(arrival_of(FIRST, fingerprint=FINGERPRINT))
    journal.start(FIRST.movie_id, 1)
    if end == "quarantined":
        for _ in range(2):
            journal.worker_died(FIRST.movie_id, 1, REASON)
            if journal.movie(FIRST.movie_id).state == "ready":
                journal.start(FIRST.movie_id, 1)
    elif end == "skipped":
        journal.skip(FIRST.movie_id, "ice")
    else:
        journal.finish(make_record(FIRST.relative, state=end))
    assert journal.movie(FIRST.movie_id).state == end
    lifecycle.arrived(arrival_of(COPY, fingerprint=FINGERPRINT))
    assert journal.movie(COPY.movie_id).state == "ready"


def test_three_copies_are_processed_once(lifecycle, journal):
    for movie in movies(["one", "two", "three"]):
        lifecycle.arrived(arrival_of(movie, fingerprint=FINGERPRINT))
    assert journal.movies.counts_by_state() == {"ready": 1, "skipped": 2}
    assert [text for _, _, text in told(journal)] == [
        f"grid1/{name}.tif: has the same content as grid1/one.tif" for name in ("two", "three")
    ]


def test_a_copy_that_cannot_be_read_ends_for_its_own_reason(lifecycle, journal):
    lifecycle.arrived(arrival_of(FIRST, fingerprint=FINGERPRINT))
    lifecycle.arrived(arrival_of(COPY, error=MovieVanished("it is gone")))
    assert journal.movie(COPY.movie_id).state == "incomplete"
    assert told(journal)[-1][2] == "it is gone"
