"""Outputs that are no longer what was written: found after a start, told, and made once more."""

import hashlib

import pytest

from service.config import Config, InstanceSettings
from service.daemon.upkeep import Upkeep
from service.health.alarms import Alarms
from service.health.prometheus import Metrics
from service.journal.output_check import NEWEST, Damage, damaged_outputs
from service.layout import Layout
from service.wire.messages import parse_event
from streamer.movie_record import OutputFile
from tests.service_samples import UTC, make_movie, make_record

ROLES = {"micrograph": ".mrc", "even": "_EVN.mrc", "motion": ".star"}


@pytest.fixture
def scene(journal, tmp_path):
    """A session with outputs on disk, and the upkeep of a daemon that starts."""
    layout = Layout(root=tmp_path / "in", output=tmp_path / "out", state=tmp_path / "state", runtime=tmp_path / "run")
    metrics = Metrics()
    upkeep = Upkeep(
        Config(instance=InstanceSettings(disk_reserve_gb=0.0)),
        layout,
        journal,
        Alarms(journal.events, metrics),
        metrics,
    )

    class Scene:
        def done(self, name):
            """A movie with its outputs; the files by role."""
            movie = make_movie(f"grid1/{name}.tif", inode=len(journal.movies.newest()) + 1)
            journal.add_ready(movie, UTC, UTC)
            journal.start(movie.movie_id, 1)
            outputs, files = [], {}
            for role, suffix in ROLES.items():
                data = f"{name} {role}".encode() * 100
                path = f"movies/{name}.tif/r1/{name}{suffix}"
                files[role] = layout.session_output("grid1") / path
                files[role].parent.mkdir(parents=True, exist_ok=True)
                files[role].write_bytes(data)
                sha256 = hashlib.sha256(data).hexdigest()
                outputs.append(OutputFile(role=role, path=path, bytes=len(data), sha256=sha256, shape=[64, 96]))
            journal.finish(make_record(movie.relative, outputs=outputs))
            return movie, files

        def begin(self):
            """Start verifying, and wait until every file has been read."""
            upkeep.verify_outputs()
            upkeep._verifying._thread.join(30.0)
            assert not upkeep._verifying._thread.is_alive()

        def look(self):
            upkeep.look(None, ())

        def verify(self):
            self.begin()
            self.look()

        def told(self):
            bodies = [parse_event(row.raw).body for row in journal.events.page(1) if row.kind == "alert"]
            assert {(body["name"], body["severity"], body["state"]) for body in bodies} <= {
                ("output-damaged", "critical", "happened")
            }
            return [body["message"] for body in bodies]

        def state(self, movie):
            latest = journal.movie(movie.movie_id)
            return latest.state, latest.movie.revision

    scene = Scene()
    scene.upkeep = upkeep
    yield scene
    upkeep.close()
    for thread in upkeep.disks._threads:
        thread.join(5.0)


def test_outputs_as_they_were_written_are_nothing_to_tell(scene):
    movies = [scene.done(name)[0] for name in "abc"]
    scene.verify()
    assert scene.told() == []
    assert [scene.state(movie) for movie in movies] == [("done", 1)] * 3


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "empty"])
def test_a_movie_with_an_altered_output_is_processed_once_more(scene, journal, damage):
    movie, files = scene.done("a")
    whole, _ = scene.done("b")
    data = files["even"].read_bytes()
    changed = {"flipped": b"A" + data[1:], "cut": data[:-1], "grown": data + b"\0", "empty": b""}[damage]
    files["even"].write_bytes(changed)
    scene.verify()
    assert scene.state(movie) == ("ready", 2)
    assert journal.movie(movie.movie_id).supersedes == 1
    assert scene.state(whole) == ("done", 1)
    (words,) = scene.told()
    assert words == (
        f"movies/a.tif/r1/a_EVN.mrc: sha256 {hashlib.sha256(changed).hexdigest()[:12]}..., "
        f"{len(changed)} of {len(data)} bytes; the movie is processed again"
    )


def test_what_somebody_has_removed_is_only_told(scene):
    movie, files = scene.done("a")
    files["even"].unlink()
    scene.verify()
    assert scene.told() == ["movies/a.tif/r1/a_EVN.mrc: No such file or directory"]
    assert scene.state(movie) == ("done", 1)


def test_several_damaged_files_of_a_movie_are_one_retry_and_each_is_told(scene):
    movie, files = scene.done("a")
    files["micrograph"].write_bytes(b"x")
    files["even"].unlink()
    files["motion"].write_bytes(b"y")
    scene.verify()
    assert scene.state(movie) == ("ready", 2)
    words = scene.told()
    assert [text.split(":")[0].rpartition("/")[2] for text in words] == ["a.mrc", "a_EVN.mrc", "a.star"]
    assert ["processed again" in text for text in words] == [True, False, False]


def test_a_movie_that_was_mended_is_not_processed_again_for_its_other_files(scene, journal):
    """The thread reads on while the movie is processed: it still finds the files of the first revision."""
    movie, files = scene.done("a")
    files["even"].write_bytes(b"x")
    scene.verify()
    journal.start(movie.movie_id, 2)
    journal.finish(make_record(movie.relative, revision=2))
    scene.upkeep._mend(Damage(movie.movie_id, "movies/a.tif/r1/a.star", "sha256 0123", is_altered=True))
    assert scene.state(movie) == ("done", 2)
    assert scene.told()[-1] == "movies/a.tif/r1/a.star: sha256 0123"


def test_a_missing_file_does_not_hide_an_altered_one(scene):
    movie, files = scene.done("a")
    files["micrograph"].unlink()
    files["motion"].write_bytes(b"y")
    scene.verify()
    assert scene.state(movie) == ("ready", 2)


def test_a_movie_that_waits_or_is_at_work_already_is_no_error(scene, journal):
    waits, files = scene.done("a")
    works, more = scene.done("b")
    files["even"].write_bytes(b"x")
    more["even"].write_bytes(b"x")
    scene.begin()
    for movie in (waits, works):  # the operator was quicker than the thread
        journal.retry(movie.movie_id)
    journal.start(works.movie_id, 2)
    scene.look()
    assert (scene.state(waits), scene.state(works)) == (("ready", 2), ("started", 2))
    assert len(scene.told()) == 2
    assert not any("processed again" in text for text in scene.told())


def test_what_was_found_is_told_once(scene):
    _, files = scene.done("a")
    files["even"].write_bytes(b"x")
    scene.verify()
    scene.look()
    scene.look()
    assert len(scene.told()) == 1


def test_the_newest_movies_are_looked_at_and_not_the_whole_session(scene):
    made = [scene.done(f"m{n:02}") for n in range(NEWEST + 1)]
    for number in (0, 1):
        made[number][1]["even"].write_bytes(b"x")
    scene.verify()
    assert [scene.state(movie) for movie, _ in made[:3]] == [("done", 1), ("ready", 2), ("done", 1)]


def test_damages_of_a_record_by_file(scene, journal, tmp_path):
    movie, files = scene.done("a")
    files["motion"].unlink()
    files["micrograph"].write_bytes(b"")
    (record,) = journal.movies.done("grid1")
    found = list(damaged_outputs(record, tmp_path / "out" / "grid1"))
    assert [(damage.movie_id, damage.is_altered) for damage in found] == [
        (movie.movie_id, True),
        (movie.movie_id, False),
    ]
