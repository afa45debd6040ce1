import os
from pathlib import Path

import pytest

from models import store
from models.manifest import MANIFEST
from models.store import ModelStore
from streamer.errors import ModelError


@pytest.fixture
def models(tmp_path):
    return ModelStore(tmp_path / "models")


def add(models, *versions):
    for version in versions:
        directory = models.directory / version
        directory.mkdir(parents=True)
        (directory / MANIFEST).write_text("{}")


def test_an_empty_store(models):
    assert models.versions() == []
    assert models.current() is None
    assert models.next_version() == "v0001"
    models.set_current(None)


def test_numbers_go_up_and_gaps_are_not_filled(models):
    add(models, "v0002", "v0010", "v0001")
    (models.directory / ".v0011.tmp-1").mkdir()
    (models.directory / "notes").mkdir()
    assert models.versions() == ["v0001", "v0002", "v0010"]
    assert models.next_version() == "v0011"


def test_a_version_serves(models):
    add(models, "v0001", "v0002")
    for version in ("v0001", "v0002", "v0001"):
        models.set_current(version)
        assert models.current() == version
        # relative, so that the store can be moved
        assert (models.directory / "current").readlink() == Path(version)
    models.set_current(None)
    assert models.current() is None
    assert not os.path.lexists(models.directory / "current")


@pytest.mark.parametrize("version", ["v0009", "v1", "../v0001", "", "current", "v0001/"])
def test_what_does_not_exist_cannot_serve(models, version):
    add(models, "v0001")
    models.set_current("v0001")
    with pytest.raises(ModelError, match=r"no such version.*known: v0001"):
        models.set_current(version)
    assert models.current() == "v0001"


def test_a_version_without_a_manifest_does_not_count(models):
    (models.directory / "v0001").mkdir(parents=True)
    with pytest.raises(ModelError, match="no such version"):
        models.path("v0001")


def test_at_no_moment_does_nothing_serve(models, monkeypatch):
    """The link is replaced by a rename; when that fails the old one stays."""
    add(models, "v0001", "v0002")
    models.set_current("v0001")
    seen = []

    def replace(self, target):
        seen.append((self.is_symlink(), models.current()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(OSError, match="No space"):
        models.set_current("v0002")
    monkeypatch.undo()
    assert seen == [(True, "v0001")]
    assert models.current() == "v0001"
    # what is left over from a killed process is in nobody's way
    models.set_current("v0002")
    assert models.current() == "v0002"


@pytest.mark.parametrize("target", ["v0007", "/elsewhere/v0001", "../models/v0001"])
def test_a_link_that_leads_nowhere_serves_nothing(models, target):
    add(models, "v0001")
    (models.directory / "current").symlink_to(target)
    assert models.current() is None


def test_a_file_in_place_of_the_link_serves_nothing(models):
    add(models, "v0001")
    (models.directory / "current").write_text("v0001")
    assert models.current() is None


def test_renames_are_made_durable(models, monkeypatch):
    add(models, "v0001")
    flushed = []
    monkeypatch.setattr(store, "sync_directory", flushed.append)
    models.set_current("v0001")
    models.set_current(None)
    assert flushed == [models.directory] * 2
