import itertools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from models.manifest import MANIFEST
from models.versions import store
from models.versions.checkpoint import load_version
from models.versions.roles import ROLES, Roles
from models.versions.store import ModelStore
from streamer.errors import ModelError, OutputError
from tests.model_samples import manifest


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


# ------------------------------------------------------------------------------------------------ many versions


def add_lineage(models, count, first=1):
    """Versions that were each trained from the one before."""
    for number in range(first, first + count):
        name, parent = f"v{number:04d}", f"v{number - 1:04d}" if number > 1 else None
        add(models, name)
        text = msgspec.json.encode(manifest(version=name, parent=parent))
        (models.directory / name / MANIFEST).write_bytes(text)


def test_numbers_go_on_beyond_four_digits(models):
    add(models, "v9999", "v0002", "v10000")
    assert models.versions() == ["v0002", "v9999", "v10000"]
    assert models.next_version() == "v10001"
    assert models.before("v10000") == "v9999"
    models.set_current("v10000")
    assert models.current() == "v10000"
    assert models.path("v10000").is_dir()


@pytest.mark.parametrize("name", ["v00001", "v01000", "v12", "v9999.tmp", "x0001"])
def test_each_number_has_one_name(models, name):
    add(models, "v0001", name)
    assert models.versions() == ["v0001"]


def test_before_a_version_served_what_it_was_trained_from(models):
    add_lineage(models, 3)
    text = msgspec.json.encode(manifest(version="v0004", parent="v0002"))
    add(models, "v0004")
    (models.directory / "v0004" / MANIFEST).write_bytes(text)
    assert models.before("v0004") == "v0002", "v0003 had been taken back when v0004 was trained"
    assert models.before("v0002") == "v0001"
    assert models.before("v0001") is None


def test_without_a_readable_manifest_the_next_older_was_before(models):
    add_lineage(models, 3)
    (models.directory / "v0003" / MANIFEST).write_text("{")
    assert models.before("v0003") == "v0002"
    shutil.rmtree(models.directory / "v0001")
    assert models.before("v0002") is None


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(store, "_NEWEST", 3)


@pytest.mark.usefixtures("few")
def test_the_newest_stay_and_what_a_rollback_can_reach(models):
    add_lineage(models, 12)
    models.set_current("v0008")
    assert models.prune() == ["v0001", "v0002", "v0003", "v0004", "v0009"]
    assert models.versions() == ["v0005", "v0006", "v0007", "v0008", "v0010", "v0011", "v0012"]
    assert models.current() == "v0008"
    assert models.prune() == []
    assert models.next_version() == "v0013"


@pytest.mark.usefixtures("few")
def test_a_rollback_finds_its_target_after_any_number_of_promotions(models):
    for number in range(1, 30):
        add_lineage(models, 1, first=number)
        models.set_current(f"v{number:04d}")
        models.prune()
        target = models.before(models.current())
        assert target == (f"v{number - 1:04d}" if number > 1 else None)
        assert target is None or models.path(target).is_dir()
    assert len(models.versions()) == 4


@pytest.mark.usefixtures("few")
def test_what_is_pinned_stays(models):
    add_lineage(models, 9)
    models.pin("v0002")
    models.set_current("v0009")
    models.prune()
    assert models.versions() == ["v0002", "v0006", "v0007", "v0008", "v0009"]
    with pytest.raises(ModelError, match="no such version"):
        models.pin("v0001")


@pytest.mark.usefixtures("few")
def test_what_a_kill_has_left_of_a_removed_version_goes_too(models):
    add_lineage(models, 4)
    left_over = models.directory / ".removed-v0001"
    left_over.mkdir()
    (left_over / "model.safetensors").touch()
    models.prune()
    assert sorted(p.name for p in models.directory.iterdir()) == ["v0002", "v0003", "v0004"]


def test_no_network_by_the_operators_will_is_another_state_than_no_network_yet(models):
    assert not models.is_held
    models.set_current(None, held=True)
    assert models.is_held
    assert models.current() is None
    add(models, "v0001")
    assert models.current() is None
    assert ModelStore(models.directory).is_held, "on disk: another process sees it"
    models.set_current("v0001")
    assert not models.is_held
    models.set_current(None, held=True)
    models.set_current(None)
    assert not models.is_held


# --------------------------------------------------------------------------------------------------------- roles


def test_a_role_is_given_once_and_for_good(tmp_path):
    path = tmp_path / "session" / ROLES
    roles = Roles(path)
    given = {name: roles.held_out(name) for name in "abcdefgh"}
    assert [name for name, held_out in given.items() if held_out] == ["b", "c", "h"]
    again = Roles(path)
    assert {name: again.held_out(name) for name in "hgfedcba"} == given
    assert again.all_held_out() == {"b", "c", "h"}
    assert len(path.read_bytes().splitlines()) == 8


def test_a_movie_costs_one_line_however_many_there_are(tmp_path):
    path = tmp_path / ROLES
    roles, sizes = Roles(path), []
    for number in range(50):
        roles.held_out(f"{number:016x}")
        sizes.append(path.stat().st_size)
    before = path.stat().st_ino
    roles.held_out("one more")
    assert path.stat().st_ino == before, "appended, not written anew"
    assert max(b - a for a, b in itertools.pairwise(sizes)) < 60


@pytest.mark.parametrize("torn", [b'{"movie_id":"c","hel', b"\x00" * 40, b"{"])
def test_a_torn_last_line_is_ignored_and_overwritten(tmp_path, torn):
    path = tmp_path / ROLES
    roles = Roles(path)
    roles.held_out("a")
    roles.held_out("b")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    again = Roles(path)
    assert again.all_held_out() == {"b"}
    assert again.held_out("c")
    assert path.read_bytes().startswith(whole)
    assert [line["movie_id"] for line in map(msgspec.json.decode, path.read_bytes().splitlines())] == ["a", "b", "c"]


def test_damaged_roles_are_an_error_and_not_new_roles(tmp_path):
    path = tmp_path / ROLES
    path.write_bytes(b'{"movie_id":"a","held_out":false}\nwhat\n')
    with pytest.raises(ModelError, match=r"roles\.jsonl: the movies' roles are damaged.*another session name"):
        Roles(path)


def test_roles_can_be_read_along(tmp_path):
    writer, reader = Roles(tmp_path / ROLES), Roles(tmp_path / ROLES)
    for name in "ab":
        writer.held_out(name)
    assert reader.all_held_out() == set()
    reader.refresh()
    assert reader.all_held_out() == {"b"}


def test_a_full_disk_gives_no_role(tmp_path, monkeypatch):
    roles = Roles(tmp_path / ROLES)
    roles.held_out("a")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space"):
        roles.held_out("b")
    monkeypatch.undo()
    assert roles.held_out("b")
    assert Roles(tmp_path / ROLES).all_held_out() == {"b"}


# ------------------------------------------------------------------------------------------------- killed at any point


_SAVES = """
import sys, itertools, torch
from pathlib import Path
from models.versions.checkpoint import save_version
from models.manifest import DENOISERS
from models.networks.denoiser import WienerResidualNet
from models.versions.store import ModelStore
from tests.model_samples import manifest
store = ModelStore(Path(sys.argv[1]))
net = WienerResidualNet(DENOISERS["small"])
for number in itertools.count(1):
    name = store.next_version()
    save_version(store.directory / name, net, manifest(version=name), torch.zeros(8, 8))
    store.set_current(name)
    print(name, flush=True)
"""


def test_a_trainer_that_is_killed_while_it_stores_leaves_whole_versions(tmp_path):
    """kill -9 at some moment of an endless row of versions: what is there can be loaded, and one of them serves."""
    for wait_ms in (0, 7, 20):
        child = subprocess.Popen(
            [sys.executable, "-c", _SAVES, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        child.stdout.readline()  # the first one is there
        threading.Event().wait(wait_ms / 1000.0)
        child.kill()
        child.wait()
        child.stdout.close()
        store = ModelStore(tmp_path)
        for name in store.versions():
            assert load_version(store.path(name))[1].version == name
        assert store.current() in store.versions()
    left_over = tmp_path / ".v9999.tmp-1"
    left_over.mkdir(exist_ok=True)
    store.sweep()
    assert not list(tmp_path.glob(".v*"))
    assert store.versions()
