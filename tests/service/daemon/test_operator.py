"""The operator and the serving versions, on one session."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from models.versions.store import ModelStore
from service.daemon.operator import Operator
from service.daemon.serving_version import ServingVersions
from service.health.prometheus import Metrics
from service.layout import Layout
from service.processes.messages import Candidate
from service.wire.messages import NO_VERSION, ModelChange, parse_event
from streamer.errors import UsageError
from tests.model_samples import manifest, stored_version

SESSION = "grid1"


class OperatorScene:
    """Journal, store and operator of one session."""

    def __init__(self, directory, journal):
        self.layout = Layout(
            root=directory / "in", output=directory / "out", state=directory, runtime=directory / "run"
        )
        self.journal = journal
        self.store = ModelStore(self.layout.models(SESSION))
        self.told = []
        self.restart()

    def restart(self):
        self.serving = ServingVersions(self.layout, self.journal, Metrics())
        trainer = SimpleNamespace(serving=lambda session, version: self.told.append(version))
        lifecycle = SimpleNamespace(session=SESSION)
        self.control = Operator(
            SimpleNamespace(
                movies=lifecycle, journal=self.journal, layout=self.layout, versions=self.serving, trainer=trainer
            )
        )

    def candidate(self, parent=None):
        """A version that the trainer has made and the gate let pass."""
        name = self.store.next_version()
        torch.manual_seed(0)
        stored_version(self.store.directory / name, manifest(version=name, parent=parent))
        self.serving.judged(SESSION, Candidate(result="promoted", version=name, reason="all conditions hold"))
        return name

    def operator(self, verb, **arguments):
        return self.control.carry_out(verb, arguments)["version"]

    def changes(self):
        """Version, result and reason of every change, in order."""
        bodies = [parse_event(row.raw).body for row in self.journal.events.page(1, kinds=["model"])]
        return [(body["version"], body["result"], body["reason"]) for body in bodies]

    @property
    def serves(self):
        return self.serving.version(SESSION)


@pytest.fixture
def lifecycle(tmp_path, journal):
    return OperatorScene(tmp_path, journal)


def test_a_candidate_that_passed_serves(lifecycle):
    assert lifecycle.candidate() == lifecycle.serves == lifecycle.store.current() == "v0001"
    assert lifecycle.candidate("v0001") == lifecycle.serves
    assert [result for _, result, _ in lifecycle.changes()] == ["promoted"] * 2


def test_networks_of_the_fine_grid_serve_beside_the_denoiser(lifecycle):
    """Each kind counts its versions from one: neither takes the other's place, in the store or in the journal."""
    lifecycle.candidate()
    store = ModelStore(lifecycle.layout.super_resolution_models(SESSION, "fusion"))
    stored_version(store.directory / "v0001", manifest(version="v0001"))
    lifecycle.serving.judged(
        SESSION, Candidate(result="promoted", version="v0001", reason="", network="super-resolution")
    )
    lifecycle.serving.judged(SESSION, Candidate(result="rejected", version="v0001", reason="", network="cryo-zssr"))
    assert lifecycle.serving.super_resolution_version(SESSION, "fusion") == store.path("v0001")
    assert lifecycle.serving.super_resolution_version(SESSION, "zssr") is None
    lifecycle.restart()
    assert lifecycle.serves == "v0001" == lifecycle.store.current()
    lifecycle.operator("rollback")
    assert lifecycle.serves is None
    assert lifecycle.serving.super_resolution_version(SESSION, "fusion") is not None


def test_a_candidate_does_not_undo_what_the_operator_chose_meanwhile(lifecycle):
    lifecycle.candidate()
    lifecycle.candidate("v0001")
    assert lifecycle.operator("rollback") == "v0001"
    lifecycle.candidate("v0002")
    assert lifecycle.serves == "v0001"
    assert lifecycle.operator("rollback") is None
    lifecycle.candidate("v0001")
    lifecycle.candidate()
    assert lifecycle.serves is None
    assert lifecycle.store.is_held
    assert lifecycle.changes()[-1] == ("v0005", "rejected", "it passed, but no network had been chosen in the meantime")
    assert lifecycle.operator("promote", version="v0005") == "v0005", "it is there all the same"
    assert lifecycle.candidate("v0005") == lifecycle.serves
    assert lifecycle.told == ["v0001", None, "v0005"]


def test_no_network_survives_the_daemon_and_a_store_that_lags_behind(lifecycle):
    lifecycle.candidate()
    lifecycle.operator("rollback")
    lifecycle.store.set_current("v0001")  # killed between the event and the mark
    lifecycle.restart()
    assert lifecycle.serves is None
    assert lifecycle.store.is_held
    with pytest.raises(UsageError, match="nothing to roll back"):
        lifecycle.operator("rollback")


def test_a_version_that_is_gone_is_not_the_operators_will(lifecycle):
    lifecycle.journal.events.append(ModelChange(version="v0007", result="promoted"), SESSION)
    assert lifecycle.serves is None
    assert not lifecycle.store.is_held
    lifecycle.candidate()
    assert lifecycle.serves == "v0001"


def test_a_candidate_that_is_not_whole_does_not_end_the_daemon(lifecycle):
    lifecycle.serving.judged(SESSION, Candidate(result="promoted", version="v0009", reason=""))
    assert lifecycle.serves is None
    ((version, result, reason),) = lifecycle.changes()
    assert (version, result) == ("v0009", "failed")
    assert "no such version" in reason


def test_rollback_goes_where_the_version_came_from(lifecycle):
    lifecycle.candidate()
    lifecycle.candidate("v0001")
    lifecycle.operator("rollback")
    lifecycle.candidate("v0001")
    assert lifecycle.serves == "v0003"
    assert lifecycle.operator("rollback") == "v0001", "v0002 was taken back before"
    assert [version for version, result, _ in lifecycle.changes() if result == "rolled-back"] == ["v0001", "v0001"]
    lifecycle.operator("rollback")
    assert lifecycle.changes()[-1][0] == NO_VERSION


def test_versions_do_not_pile_up_and_the_operators_choice_stays(lifecycle, monkeypatch):
    monkeypatch.setattr("models.versions.store._NEWEST", 3)
    lifecycle.candidate()
    for _ in range(3):
        lifecycle.candidate(lifecycle.serves)
    lifecycle.operator("promote", version="v0002")
    for _ in range(6):
        lifecycle.candidate(lifecycle.serves)
    assert lifecycle.store.versions() == ["v0002", "v0007", "v0008", "v0009", "v0010"]
    assert lifecycle.operator("rollback") == "v0009"
