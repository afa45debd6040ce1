"""A change of specimen as the daemon lives through it: what it tells, what serves, who learns from what."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from models.specimens import Specimens
from models.versions.base_weights import shipped_base
from service.config import Config
from service.daemon.movies import MovieLifecycle
from service.daemon.serving_version import ServingVersions
from service.health.alarms import Alarms
from service.health.prometheus import Metrics
from service.health.status import Status
from service.layout import Layout
from service.processes.messages import Finished
from service.wire.messages import parse_event
from tests.service_samples import make_movie, make_record

ROOT = np.linalg.cholesky(Specimens()._spread)


class Scene:
    """A lifecycle with a trainer that takes notes."""

    def __init__(self, journal, directory):
        self.layout = Layout(
            root=directory / "in", output=directory / "out", state=directory, runtime=directory / "run"
        )
        self.journal, self.metrics, self.count = journal, Metrics(), 0
        self.learned, self.changed = [], []
        self.alarms = Alarms(journal.events, self.metrics)
        self.serving = ServingVersions(self.layout, journal, self.metrics, shipped_base())
        trainer = SimpleNamespace(
            learn=lambda session, example, specimen: self.learned.append((example.movie_id, specimen)),
            change_specimen=lambda *what: self.changed.append(what),
        )
        self.lifecycle = MovieLifecycle(
            Config(),
            self.layout,
            journal,
            gains=SimpleNamespace(for_movie=lambda *_: None),
            versions=self.serving,
            trainer=trainer,
            tables=SimpleNamespace(add=lambda record: None),
            metrics=self.metrics,
            status=Status(),
            alarms=self.alarms,
        )

    def expose(self, centre, movies=1):
        """Movies of a specimen whose texture lies about a centre; returns the flags that their orders carried."""
        notes = []
        for _ in range(movies):
            name = f"grid1/m{self.count:02d}.tif"
            rng = np.random.default_rng(self.count)
            self.count += 1
            movie = make_movie(name)
            self.journal.add_ready(movie, "2026-11-20T12:00:00.000Z", "2026-11-20T12:00:01.000Z")
            self.journal.start(movie.movie_id, 1)
            notes.append(self.lifecycle.order(self.journal.movie(movie.movie_id)).instructions.notes)
            groups = self.layout.groups(movie.movie_id)
            groups.parent.mkdir(parents=True, exist_ok=True)
            groups.touch()
            record = make_record(name)
            texture = tuple(float(v) for v in ROOT @ (rng.normal(size=17) + centre))
            self.lifecycle.finished(Finished(record=replace(record, metrics=replace(record.metrics, texture=texture))))
        return notes

    def bodies(self, kind):
        return [parse_event(row.raw).body for row in self.journal.events.page(1, kinds=[kind])]


@pytest.fixture
def scene(journal, tmp_path):
    return Scene(journal, tmp_path)


def test_another_specimen_is_told_flagged_and_learned_apart_and_the_base_serves_on(scene):
    scene.expose(0.0, 8)
    assert [specimen for _, specimen in scene.learned] == [1] * 8
    notes = scene.expose(4.0, 4)
    assert notes[:2] == [(), ()], "two movies are needed to see it"
    assert all("specimen 2 since" in one[0] and "no network has learned from it yet" in one[0] for one in notes[2:])
    assert [specimen for _, specimen in scene.learned[8:]] == [2] * 4, "the first two as well, once it was clear"
    assert scene.changed == [("grid1", 2, None)]
    served = [(b["version"], b["result"]) for b in scene.bodies("model")]
    assert served == [("v0000", "promoted")], "the base is as good for it"
    (alert,) = [b for b in scene.bodies("alert") if b["name"] == "specimen-changed"]
    assert "specimen 2 appeared at movie" in alert["message"]
    assert "v0000 is used now" in alert["message"]
    assert scene.metrics.registry.get_sample_value("streamer_specimen") == 2.0
    assert scene.metrics.registry.get_sample_value("streamer_specimen_changes_total") == 1.0


def test_one_odd_movie_changes_nothing_and_is_learned_from_once_it_is_clear(scene):
    scene.expose(0.0, 8)
    scene.expose(4.0, 1)
    assert len(scene.learned) == 8
    scene.expose(0.0, 1)
    assert [specimen for _, specimen in scene.learned] == [1] * 10
    assert scene.changed == []


def test_the_first_specimen_is_known_again_and_its_movies_are_its_own(scene):
    scene.expose(0.0, 8)
    scene.expose(4.0, 6)
    scene.expose(0.0, 3)
    assert [what[1] for what in scene.changed] == [2, 1]
    assert scene.serving.version("grid1") == "v0000"
    assert "returned at movie" in [b["message"] for b in scene.bodies("alert") if b["name"] == "specimen-changed"][-1]
    assert [specimen for _, specimen in scene.learned][-3:] == [1] * 3
    assert scene.expose(0.0, 1) == [()], "specimen 1 needs no flag: it was the session's first"
