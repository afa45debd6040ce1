from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from service.journal.database import Database, OtherSchema
from service.journal.journal import MIGRATIONS, Journal
from service.journal.recovery import exported_movies, recover
from service.layout import Layout
from streamer.errors import UsageError
from tests.service_samples import UTC, changing, make_movie, make_record

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path / "in", output=tmp_path / "out", state=tmp_path / "state", runtime=tmp_path / "run")


def test_a_sound_journal_is_not_rebuilt(layout: Layout) -> None:
    Journal.open(layout.journal).close()
    with pytest.raises(UsageError, match="is sound"):
        recover(layout, "default", force=False, hash_all=False)


def test_a_journal_of_the_version_before_is_not_taken_for_a_damaged_one(layout: Layout) -> None:
    """After an update, before the daemon has started once: it only has to be migrated."""
    layout.state.mkdir()
    old = Database.open(layout.journal, MIGRATIONS[:-1])
    with old.transaction():
        for item in {"epoch": "e", "instance": "default"}.items():
            old.execute("INSERT INTO meta VALUES (?, ?)", item)
    old.close()
    with pytest.raises(OtherSchema, match="migrates"):
        recover(layout, "default", force=False, hash_all=False)
    journal = Journal.open(layout.journal)
    assert journal.events.epoch == "e"
    journal.close()


def test_what_damage_looks_like_is_rebuilt(layout: Layout) -> None:
    layout.state.mkdir()
    layout.journal.write_bytes(b"no database at all" * 1000)
    found = recover(layout, "default", force=False, hash_all=False)
    assert found.set_aside is not None
    assert found.set_aside.exists()


def test_a_record_is_exported_as_another_version_of_the_program_wrote_it(journal: Journal, tmp_path: Path) -> None:
    movie = journal.add_ready(make_movie(), UTC, UTC)
    journal.start(movie.movie_id, 1)
    journal.finish(make_record())
    with changing(tmp_path / "journal.sqlite") as database:
        database.execute("UPDATE movies SET record = CAST(json_set(CAST(record AS TEXT), '$.of_tomorrow', 7) AS BLOB)")
    (line,) = exported_movies(journal)
    record = json.loads(line)["record"]
    assert (record["of_tomorrow"], record["state"]) == (7, "done")
