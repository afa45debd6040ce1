"""The trainer process from the daemon's side, and the disk space of what it learns from."""

from __future__ import annotations

import pytest

from models.settings import SessionModelSettings
from models.versions.roles import ROLES, Roles
from service.config import Config
from service.daemon import group_space, trainer_process
from service.daemon.group_space import GroupSpace
from service.daemon.trainer_process import TrainerProcess
from service.layout import Layout
from service.processes.messages import Candidate, Learn
from streamer.errors import ConfigError
from tests.clocks import SetClock
from tests.model_samples import manifest, stored_version

SESSION = "grid1"


def sums_file(directory, name, size=100):
    path = directory / f"{name}.safetensors"
    directory.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def names(directory):
    return sorted(path.stem for path in directory.iterdir())


def test_group_sums_are_counted_as_they_come(tmp_path):
    sums_file(tmp_path, "old")
    sums_file(tmp_path, ".half-written")
    (tmp_path / "notes.txt").write_text("x" * 1000)
    space = GroupSpace(tmp_path, 250)
    assert not space.is_full
    space.add(sums_file(tmp_path, "new"))
    space.add(sums_file(tmp_path, "new", size=140))
    assert not space.is_full
    space.add(tmp_path / "gone.safetensors")
    space.add(sums_file(tmp_path, "newer", size=20))
    assert space.is_full
    assert [p.stem for p in space.make_room(frozenset(), most_held_out=2)] == ["old"]
    assert not space.is_full
    assert not GroupSpace(tmp_path / "nowhere", 1).is_full


def test_the_oldest_go_first_and_the_newest_held_out_last(tmp_path):
    space = GroupSpace(tmp_path, 500)
    for name in "abcdefgh":
        space.add(sums_file(tmp_path, name))
    removed = space.make_room(frozenset("aceg"), most_held_out=2)
    assert [path.stem for path in removed] == ["a", "b", "c", "d"]
    assert names(tmp_path) == ["e", "f", "g", "h"]
    space = GroupSpace(tmp_path, 10)
    for name in "efgh":
        space.add(tmp_path / f"{name}.safetensors")
    space.make_room(frozenset("eg"), most_held_out=2)
    assert names(tmp_path) == ["h"], "what has just come is left for the trainer"


class Child:
    """A trainer process that never does anything."""

    def __init__(self, *_, **__):
        self.pid, self.alive = 1, True
        CHILDREN.append(self)
        self.sent = []

    ending = "killed by SIGKILL"

    def send(self, message):
        self.sent.append(message)

    def receive(self):
        return []

    def stop(self, timeout_s=0.0):
        self.alive = False

    kill = stop


CHILDREN: list[Child] = []


@pytest.fixture
def process(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_process, "Child", Child)
    CHILDREN.clear()
    layout = Layout(root=tmp_path / "in", output=tmp_path / "out", state=tmp_path, runtime=tmp_path / "run")
    config = Config(session_model=SessionModelSettings(base="none", groups_limit_gb=550 / 1e9, most_held_out=2))
    (tmp_path / "groups").mkdir()
    clock = SetClock(100.0)
    made = TrainerProcess(
        config, layout, to_learn=lambda *_: [], candidate=lambda *_: None, died=lambda _: None, clock=clock
    )
    made.clock = clock
    return made


def test_the_limit_holds_while_the_trainer_does_nothing(process, tmp_path, monkeypatch):
    """Movies without signal, a paused trainer: nobody but the daemon sees to it."""
    roles = Roles(tmp_path / "sessions" / SESSION / ROLES)
    for number in range(30):
        path = sums_file(tmp_path / "groups", f"m{number:02d}")
        roles.held_out(path.stem)
        process.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
        assert len(names(tmp_path / "groups")) <= 5
    assert names(tmp_path / "groups") == ["m23", "m26", "m27", "m28", "m29"]
    assert len(CHILDREN[0].sent) == 29


def test_the_directory_is_read_once(process, tmp_path, monkeypatch):
    read = []
    scandir = group_space.os.scandir
    monkeypatch.setattr(group_space.os, "scandir", lambda path: read.append(path) or scandir(path))
    for number in range(4):
        path = sums_file(tmp_path / "groups", f"m{number}")
        process.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
    assert len(read) == 1


def test_damaged_roles_do_not_end_the_daemon(process, tmp_path):
    (tmp_path / "sessions" / SESSION).mkdir(parents=True)
    (tmp_path / "sessions" / SESSION / ROLES).write_text("what\n")
    for number in range(8):
        path = sums_file(tmp_path / "groups", f"m{number}")
        process.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
    assert names(tmp_path / "groups") == ["m3", "m4", "m5", "m6", "m7"]


def test_a_trainer_is_replaced_at_once_but_not_all_the_time(process, tmp_path, monkeypatch):
    path = sums_file(tmp_path / "groups", "m0")
    process.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
    for wait_s, started in ((1000.0, 2), (1.0, 2), (28.0, 2), (2.0, 3)):
        process.clock.now += wait_s
        CHILDREN[-1].alive = False
        process.attend(0)
        process.attend(0)
        assert len(CHILDREN) == started


def test_where_sessions_alternate_each_has_its_turn_and_nothing_said_is_lost(process, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(process, "_candidate", lambda session, message: heard.append((session, message)))

    def finish(session):
        path = sums_file(tmp_path / "groups", f"m{process.clock.now}")
        process.learn(session, Learn(movie_id=path.stem, groups=str(path)))
        process.clock.now += 1.5

    for _ in range(28):
        finish("one")
        finish("two")
    assert len(CHILDREN) == 1
    process.clock.now += 120.0
    CHILDREN[-1].receive = lambda: [Candidate(result="rejected", version="v0001", reason="")]
    finish("two")
    assert (len(CHILDREN), process.session) == (2, "two")
    assert [session for session, _ in heard] == ["one"], "what it said before its end is of its own session"
    process.clock.now += 120.0
    process.is_training = True
    finish("one")
    assert process.session == "two", "a training is not cut short"
    process.is_training = False
    process.attend(0)
    assert process.session == "one"


def test_a_new_specimen_gets_a_trainer_of_its_own_at_once(process, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(Child, "__init__", lambda self, module, begin, **_: (begun.append(begin), CHILDREN.append(self),
                        setattr(self, "sent", []), setattr(self, "alive", True), None)[-1])  # fmt: skip
    monkeypatch.setattr(process, "_to_learn", lambda session, specimen: [Learn(movie_id=f"of{specimen}", groups="x")])
    path = sums_file(tmp_path / "groups", "m0")
    process.learn(SESSION, Learn(movie_id="m0", groups=str(path)))
    process.change_specimen("another session", 2, None)
    assert len(begun) == 1, "not the one that is trained on"
    process.change_specimen(SESSION, 2, "v0003")
    assert [(one.specimen, one.warm) for one in begun] == [(1, None), (2, "v0003")]
    assert [one.movie_id for one in CHILDREN[-1].sent] == ["of2"]
    process.learn(SESSION, Learn(movie_id="m1", groups=str(path)), 2)
    assert [one.movie_id for one in CHILDREN[-1].sent] == ["of2", "m1"]
    assert len(begun) == 2


def test_the_trainer_gives_way_to_a_worker_without_memory_and_comes_back(process, tmp_path, monkeypatch):
    path = sums_file(tmp_path / "groups", "m0")
    process.learn(SESSION, Learn(movie_id="m0", groups=str(path)))
    process.give_way()
    assert process.pid is None
    process.clock.now += 5.0
    process.attend(0)
    assert process.pid is None, "not at once"
    process.clock.now += 30.0
    process.attend(0)
    assert process.pid is not None


def test_a_version_to_start_from_is_kept_if_it_is_one_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_process, "Child", Child)
    layout = Layout(root=tmp_path / "in", output=tmp_path / "out", state=tmp_path / "state", runtime=tmp_path / "run")
    ours, theirs = layout.models("yesterday") / "v0003", tmp_path / "elsewhere" / "v0001"
    for directory in (ours, theirs):
        stored_version(directory, manifest(version=directory.name))
    for base in (ours, theirs):
        config = Config(session_model=SessionModelSettings(base=str(base)))
        process = TrainerProcess(config, layout, to_learn=lambda *_: [], candidate=lambda *_: None, died=lambda _: None)
        path = sums_file(tmp_path, "m0")
        process.learn(SESSION, Learn(movie_id="m0", groups=str(path)))
    with pytest.raises(ConfigError, match=r"session_model\.base cannot be used"):
        TrainerProcess(
            Config(session_model=SessionModelSettings(base=str(tmp_path / "nothing"))),
            layout,
            to_learn=lambda *_: [],
            candidate=lambda *_: None,
            died=lambda _: None,
        )
    assert (ours / "pinned").exists()
    assert not (theirs / "pinned").exists()
