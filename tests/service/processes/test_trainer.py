"""The trainer, and what daemon and operator decide about its candidates. Training and gate themselves are stood in."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from models.gate.denoiser import Decision
from models.manifest import DENOISERS, Figures, load_manifest
from models.networks.denoiser import WienerResidualNet
from models.networks.optimise import TrainingReport
from models.settings import SessionModelSettings
from models.versions.checkpoint import save_version
from models.versions.roles import ROLES, Roles
from models.versions.store import ModelStore
from service.config import Config
from service.daemon import group_space, trainer_process
from service.daemon.group_space import GroupSpace
from service.daemon.operator import Operator
from service.daemon.serving_version import ServingVersions
from service.daemon.trainer_process import TrainerProcess
from service.health.prometheus import Metrics
from service.layout import Layout
from service.processes import trainer as trainer_module
from service.processes.messages import Candidate, Learn, Serving, Training
from service.processes.trainer import Trainer
from service.wire.messages import NO_VERSION, ModelChange, parse_event
from streamer.band import band_of
from streamer.errors import ConfigError, UsageError
from streamer.records import GroupSums
from streamer.settings import DenoiseSettings, MovieSettings
from streamer.sums.group_files import encode_groups
from tests.clocks import SetClock
from tests.model_samples import blobs, manifest
from tests.simulated_movies import images

SESSION = "grid1"


class Ear:
    """The daemon's end of the channel: keeps what it is told, and lets a promoted version serve."""

    def __init__(self, store):
        self.heard, self._store = [], store

    def send(self, message):
        self.heard.append(message)
        if isinstance(message, Candidate) and message.result == "promoted":
            self._store.set_current(message.version)

    def candidates(self):
        return [m for m in self.heard if isinstance(m, Candidate)]


def group_file(directory, movie_id, *, resolution=4.0, pixel_size=2.0, strength=1.0, seed=0):
    """A movie's group sums on disk, as the worker leaves them."""
    band = band_of((96, 96), pixel_size, resolution, 100.0)
    groups = strength * blobs(band.small, seed) + images(10, *band.small, seed=1000 + seed)
    sums = GroupSums(
        groups=groups.half(), exposures=((0.0,),) * 10, shape=(96, 96), pixel_size=pixel_size, voltage_kv=300.0
    )
    path = directory / f"{movie_id}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_groups(movie_id, sums))
    return path


def alone(**settings):
    """Settings without base weights; two movies before the first training."""
    return Config(session_model=SessionModelSettings(base="none", first_movies=2), **settings)


class School:
    """A session's directory, and trainers that learn there one after the other."""

    def __init__(self, directory, monkeypatch):
        self.directory, self.movies, self.verdict = directory, 0, "promoted"
        self.trained = []
        """Ids of the movies of each training, in order."""
        self.during = lambda trainer: None
        """What happens while a candidate is trained."""
        self.config = alone()
        self.session = directory / "sessions" / SESSION
        self.store = ModelStore(self.session / "models")
        monkeypatch.setattr(trainer_module, "train", self._train)
        monkeypatch.setattr(trainer_module, "judge", self._judge)

    def _train(self, net, movies, *, steps, stop, **_):
        self.during(self.trainer)
        self.trained.append([movie.movie_id for movie in movies])
        return TrainingReport(
            steps=0 if stop() else steps, losses=[1.0], movies=self.trained[-1], seconds=0.0, finite=True
        )

    def _judge(self, net, held_out, **_):
        return Decision(result=self.verdict, reason="", figures=Figures(scores=[SCORE], weight=[], probes={}))

    def enter(self):
        """A trainer, as it is after its start."""
        self.ear = Ear(self.store)
        self.trainer = Trainer(self.ear, self.config, self.session)
        self.trainer.begin()
        return self.trainer

    def enter_again(self):
        """Another trainer, told of all movies whose group sums are there."""
        self.enter()
        for path in sorted((self.directory / "groups").iterdir()):
            self.trainer.take(Learn(movie_id=path.stem, groups=str(path)))
        self.work()

    def lesson(self, **what):
        movie_id, seed = f"m{self.movies:02d}", self.movies
        self.movies += 1
        return Learn(movie_id=movie_id, groups=str(group_file(self.directory / "groups", movie_id, seed=seed, **what)))

    def learn(self, movies, **what):
        for _ in range(movies):
            self.trainer.take(self.lesson(**what))
            self.work()

    def work(self):
        """Train as long as there is a reason to, as the trainer's loop does."""
        rounds = 0
        while self.trainer.is_due():
            rounds += 1
            assert rounds < 20, "it never ends"
            self.trainer.train_denoiser()

    def choose(self, version):
        """The operator's choice, as the daemon marks and tells it."""
        self.store.set_current(version, held=version is None)
        self.trainer._choices += 1
        self.trainer.take(Serving(version=version))
        self.work()


SCORE = SimpleNamespace(
    movie_id="m01", snbr_raw=1.0, snbr_wiener=1.0, snbr=2.0, bias_ratio=0.1, loss=1.0, loss_wiener=1.0
)


@pytest.fixture
def school(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "models.gate.candidate.save_version", lambda directory, net, manifest, _: stored(directory, manifest)
    )
    return School(tmp_path, monkeypatch)


def stored(directory, of):
    """Store a version without figures: a stand-in's are none."""
    net = WienerResidualNet(DENOISERS["small"])
    return save_version(directory, net, manifest(**{**fields(of), "figures": None}))


def fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


# ----------------------------------------------------------------------------------------- the operator's choice


def test_the_first_version_comes_with_enough_movies_the_next_with_new_ones(school):
    school.enter()
    school.learn(3)
    assert school.ear.candidates() == []
    school.learn(1)
    assert [c.version for c in school.ear.candidates()] == ["v0001"]
    assert school.trained == [["m00", "m03"]]
    school.learn(2)
    assert [(c.version, c.result) for c in school.ear.candidates()] == [("v0001", "promoted"), ("v0002", "promoted")]
    assert load_manifest(school.store.path("v0002")).parent == "v0001"
    assert [m.active for m in school.ear.heard if isinstance(m, Training)] == [True, False] * 2


def test_no_network_stays_no_network_whatever_comes_and_through_a_restart(school):
    school.enter()
    school.learn(4)
    school.choose(None)
    assert len(school.trained) == 1, "nothing is trained at once"
    school.learn(6)
    assert len(school.trained) == 1, "nor when movies come"
    school.enter_again()
    school.learn(4)
    assert len(school.trained) == 1, "nor by another trainer"
    school.choose("v0001")
    assert len(school.trained) == 1
    school.learn(4)
    assert [load_manifest(school.store.path(c.version)).parent for c in school.ear.candidates()] == ["v0001"]


def test_after_a_rollback_to_a_version_only_new_movies_count(school):
    school.enter()
    school.learn(9)
    assert school.trained == [["m00", "m03"], ["m00", "m03", "m04", "m05"], ["m00", "m03", "m04", "m05", "m06", "m08"]]
    school.choose("v0001")
    assert len(school.trained) == 3, "not at once, although v0001 has seen less"
    school.learn(1)
    assert len(school.trained) == 3
    school.enter_again()
    assert len(school.trained) == 3, "what v0003 has learned from is not new to a trainer that starts again"
    school.learn(2)
    (candidate,) = school.ear.candidates()
    assert candidate.version == "v0004"
    assert load_manifest(school.store.path("v0004")).parent == "v0001"
    assert school.store.before("v0004") == "v0001"


@pytest.mark.parametrize("version", [None, "v0001"])
def test_a_training_that_is_overtaken_by_the_operator_is_dropped(school, version):
    school.enter()
    school.learn(4)

    def choose(trainer):
        trainer._choices += 1
        trainer._inbox.put(Serving(version=version))

    school.during = choose
    school.trainer.take(school.lesson())
    school.trainer.take(school.lesson())
    assert school.trainer.is_due()
    school.trainer.train_denoiser()
    assert [c.version for c in school.ear.candidates()] == ["v0001"]
    assert school.store.versions() == ["v0001"]
    assert not [m for m in school.ear.heard if isinstance(m, Training)][-1].active
    school.trainer.take(school.trainer._inbox.get())
    assert not school.trainer.is_due()


def test_a_paused_training_ends_when_the_operator_chooses(school):
    trainer = school.enter()
    trainer._paused.set()
    released = threading.Timer(0.1, lambda: setattr(trainer, "_choices", 1))
    released.start()
    assert trainer._is_over()
    released.join()


def test_a_rejected_first_candidate_is_trained_on_for_a_few_rounds_only(school):
    school.verdict = "rejected"
    school.enter()
    school.learn(4)
    assert len(school.trained) == 4
    school.learn(1)
    assert len(school.trained) == 8
    assert school.store.versions() == []


# ------------------------------------------------------------------------------------------------- what is learned


def test_movies_of_another_band_or_pixel_size_are_left_out_and_told_once(school, capsys):
    school.config = alone(denoise=DenoiseSettings(resolution=8.0))
    school.enter()
    school.learn(2, resolution=6.0)
    assert len(school.trainer._movies.learned) == 0
    school.learn(1, resolution=8.0)
    school.learn(1, resolution=8.0, pixel_size=2.5)
    school.learn(3, resolution=8.0)
    assert school.trained == [["m02", "m06"]]
    told = capsys.readouterr().err
    assert told.count("another make") == 1
    assert "movie m00" in told
    assert "expected sums to 8 Å at 2 Å/px; found to 6 Å at 2 Å/px" in told
    assert load_manifest(school.store.path("v0001")).resolution == pytest.approx(8.0, rel=0.1)


def test_what_serves_says_what_is_learned_from_when_the_settings_change(school, capsys):
    school.enter()
    school.learn(4)
    school.config = alone(denoise=DenoiseSettings(resolution=8.0))
    school.enter_again()
    school.learn(4, resolution=8.0)
    assert len(school.trained) == 1
    learned_to = load_manifest(school.store.path("v0001")).resolution
    assert 4.0 <= learned_to < 8.0
    assert f"expected sums to {learned_to:g} Å" in capsys.readouterr().err
    school.config = alone()
    school.enter_again()
    school.learn(2)
    assert len(school.trained) == 2
    assert load_manifest(school.store.path("v0002")).resolution == learned_to


def test_a_pixel_size_that_was_put_right_is_believed(school):
    school.enter()
    school.learn(2, pixel_size=2.5)
    school.config = alone(movie=MovieSettings(pixel_size=2.0))
    school.enter_again()
    school.learn(6)
    assert school.trained == [["m03", "m04", "m05", "m06"]]


# ------------------------------------------------------------------------------------- the daemon and its operator


class Desk:
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
        teacher = SimpleNamespace(serving=lambda session, version: self.told.append(version))
        desk = SimpleNamespace(session=SESSION)
        self.control = Operator(
            SimpleNamespace(
                movies=desk, journal=self.journal, layout=self.layout, versions=self.serving, trainer=teacher
            )
        )

    def candidate(self, parent=None):
        """A version that the trainer has made and the gate let pass."""
        name = self.store.next_version()
        torch.manual_seed(0)
        stored(self.store.directory / name, manifest(version=name, parent=parent))
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
def desk(tmp_path, journal):
    return Desk(tmp_path, journal)


def test_a_candidate_that_passed_serves(desk):
    assert desk.candidate() == desk.serves == desk.store.current() == "v0001"
    assert desk.candidate("v0001") == desk.serves
    assert [result for _, result, _ in desk.changes()] == ["promoted"] * 2


def test_networks_of_the_fine_grid_serve_beside_the_denoiser(desk):
    """Each kind counts its versions from one: neither takes the other's place, in the store or in the journal."""
    desk.candidate()
    store = ModelStore(desk.layout.super_resolution_models(SESSION, "fusion"))
    stored(store.directory / "v0001", manifest(version="v0001"))
    desk.serving.judged(SESSION, Candidate(result="promoted", version="v0001", reason="", network="super-resolution"))
    desk.serving.judged(SESSION, Candidate(result="rejected", version="v0001", reason="", network="cryo-zssr"))
    assert desk.serving.super_resolution_version(SESSION, "fusion") == store.path("v0001")
    assert desk.serving.super_resolution_version(SESSION, "zssr") is None
    desk.restart()
    assert desk.serves == "v0001" == desk.store.current()
    desk.operator("rollback")
    assert desk.serves is None
    assert desk.serving.super_resolution_version(SESSION, "fusion") is not None


def test_a_candidate_does_not_undo_what_the_operator_chose_meanwhile(desk):
    desk.candidate()
    desk.candidate("v0001")
    assert desk.operator("rollback") == "v0001"
    desk.candidate("v0002")
    assert desk.serves == "v0001"
    assert desk.operator("rollback") is None
    desk.candidate("v0001")
    desk.candidate()
    assert desk.serves is None
    assert desk.store.is_held
    assert desk.changes()[-1] == ("v0005", "rejected", "it passed, but no network had been chosen meanwhile")
    assert desk.operator("promote", version="v0005") == "v0005", "it is there all the same"
    assert desk.candidate("v0005") == desk.serves
    assert desk.told == ["v0001", None, "v0005"]


def test_no_network_survives_the_daemon_and_a_store_that_lags_behind(desk):
    desk.candidate()
    desk.operator("rollback")
    desk.store.set_current("v0001")  # killed between the event and the mark
    desk.restart()
    assert desk.serves is None
    assert desk.store.is_held
    with pytest.raises(UsageError, match="nothing to roll back"):
        desk.operator("rollback")


def test_a_version_that_is_gone_is_not_the_operators_will(desk):
    desk.journal.events.append(ModelChange(version="v0007", result="promoted"), SESSION)
    assert desk.serves is None
    assert not desk.store.is_held
    desk.candidate()
    assert desk.serves == "v0001"


def test_a_candidate_that_is_not_whole_does_not_end_the_daemon(desk):
    desk.serving.judged(SESSION, Candidate(result="promoted", version="v0009", reason=""))
    assert desk.serves is None
    ((version, result, reason),) = desk.changes()
    assert (version, result) == ("v0009", "failed")
    assert "no such version" in reason


def test_rollback_goes_where_the_version_came_from(desk):
    desk.candidate()
    desk.candidate("v0001")
    desk.operator("rollback")
    desk.candidate("v0001")
    assert desk.serves == "v0003"
    assert desk.operator("rollback") == "v0001", "v0002 was taken back before"
    assert [version for version, result, _ in desk.changes() if result == "rolled-back"] == ["v0001", "v0001"]
    desk.operator("rollback")
    assert desk.changes()[-1][0] == NO_VERSION


def test_versions_do_not_pile_up_and_the_operators_choice_stays(desk, monkeypatch):
    monkeypatch.setattr("models.versions.store._NEWEST", 3)
    desk.candidate()
    for _ in range(3):
        desk.candidate(desk.serves)
    desk.operator("promote", version="v0002")
    for _ in range(6):
        desk.candidate(desk.serves)
    assert desk.store.versions() == ["v0002", "v0007", "v0008", "v0009", "v0010"]
    assert desk.operator("rollback") == "v0009"


# ------------------------------------------------------------------------------------------------ space on the disk


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
def teacher(tmp_path, monkeypatch):
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


def test_the_limit_holds_while_the_trainer_does_nothing(teacher, tmp_path, monkeypatch):
    """Movies without signal, a paused trainer: nobody but the daemon sees to it."""
    roles = Roles(tmp_path / "sessions" / SESSION / ROLES)
    for number in range(30):
        path = sums_file(tmp_path / "groups", f"m{number:02d}")
        roles.held_out(path.stem)
        teacher.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
        assert len(names(tmp_path / "groups")) <= 5
    assert names(tmp_path / "groups") == ["m23", "m26", "m27", "m28", "m29"]
    assert len(CHILDREN[0].sent) == 29


def test_the_directory_is_read_once(teacher, tmp_path, monkeypatch):
    read = []
    scandir = group_space.os.scandir
    monkeypatch.setattr(group_space.os, "scandir", lambda path: read.append(path) or scandir(path))
    for number in range(4):
        path = sums_file(tmp_path / "groups", f"m{number}")
        teacher.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
    assert len(read) == 1


def test_damaged_roles_do_not_end_the_daemon(teacher, tmp_path):
    (tmp_path / "sessions" / SESSION).mkdir(parents=True)
    (tmp_path / "sessions" / SESSION / ROLES).write_text("what\n")
    for number in range(8):
        path = sums_file(tmp_path / "groups", f"m{number}")
        teacher.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
    assert names(tmp_path / "groups") == ["m3", "m4", "m5", "m6", "m7"]


def test_a_trainer_is_replaced_at_once_but_not_all_the_time(teacher, tmp_path, monkeypatch):
    path = sums_file(tmp_path / "groups", "m0")
    teacher.learn(SESSION, Learn(movie_id=path.stem, groups=str(path)))
    for wait_s, started in ((1000.0, 2), (1.0, 2), (28.0, 2), (2.0, 3)):
        teacher.clock.now += wait_s
        CHILDREN[-1].alive = False
        teacher.attend(0)
        teacher.attend(0)
        assert len(CHILDREN) == started


def test_where_sessions_alternate_each_has_its_turn_and_nothing_said_is_lost(teacher, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(teacher, "_candidate", lambda session, message: heard.append((session, message)))

    def finish(session):
        path = sums_file(tmp_path / "groups", f"m{teacher.clock.now}")
        teacher.learn(session, Learn(movie_id=path.stem, groups=str(path)))
        teacher.clock.now += 1.5

    for _ in range(28):
        finish("one")
        finish("two")
    assert len(CHILDREN) == 1
    teacher.clock.now += 120.0
    CHILDREN[-1].receive = lambda: [Candidate(result="rejected", version="v0001", reason="")]
    finish("two")
    assert (len(CHILDREN), teacher.session) == (2, "two")
    assert [session for session, _ in heard] == ["one"], "what it said before its end is of its own session"
    teacher.clock.now += 120.0
    teacher.is_training = True
    finish("one")
    assert teacher.session == "two", "a training is not cut short"
    teacher.is_training = False
    teacher.attend(0)
    assert teacher.session == "one"


def test_a_new_specimen_gets_a_trainer_of_its_own_at_once(teacher, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(Child, "__init__", lambda self, module, begin, **_: (begun.append(begin), CHILDREN.append(self),
                        setattr(self, "sent", []), setattr(self, "alive", True), None)[-1])  # fmt: skip
    monkeypatch.setattr(teacher, "_to_learn", lambda session, specimen: [Learn(movie_id=f"of{specimen}", groups="x")])
    path = sums_file(tmp_path / "groups", "m0")
    teacher.learn(SESSION, Learn(movie_id="m0", groups=str(path)))
    teacher.change_specimen("another session", 2, None)
    assert len(begun) == 1, "not the one that is trained on"
    teacher.change_specimen(SESSION, 2, "v0003")
    assert [(one.specimen, one.warm) for one in begun] == [(1, None), (2, "v0003")]
    assert [one.movie_id for one in CHILDREN[-1].sent] == ["of2"]
    teacher.learn(SESSION, Learn(movie_id="m1", groups=str(path)), 2)
    assert [one.movie_id for one in CHILDREN[-1].sent] == ["of2", "m1"]
    assert len(begun) == 2


def test_the_trainer_gives_way_to_a_worker_without_memory_and_comes_back(teacher, tmp_path, monkeypatch):
    path = sums_file(tmp_path / "groups", "m0")
    teacher.learn(SESSION, Learn(movie_id="m0", groups=str(path)))
    teacher.give_way()
    assert teacher.pid is None
    teacher.clock.now += 5.0
    teacher.attend(0)
    assert teacher.pid is None, "not at once"
    teacher.clock.now += 30.0
    teacher.attend(0)
    assert teacher.pid is not None


def test_the_kernel_ends_the_trainer_first_when_memory_runs_out():
    words = "from pathlib import Path; from service.processes.trainer import _give_way; _give_way(); "
    words += "print(Path('/proc/self/oom_score_adj').read_text())"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 800


def test_a_version_to_start_from_is_kept_if_it_is_one_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_process, "Child", Child)
    layout = Layout(root=tmp_path / "in", output=tmp_path / "out", state=tmp_path / "state", runtime=tmp_path / "run")
    ours, theirs = layout.models("yesterday") / "v0003", tmp_path / "elsewhere" / "v0001"
    for directory in (ours, theirs):
        stored(directory, manifest(version=directory.name))
    for base in (ours, theirs):
        config = Config(session_model=SessionModelSettings(base=str(base)))
        teacher = TrainerProcess(config, layout, to_learn=lambda *_: [], candidate=lambda *_: None, died=lambda _: None)
        path = sums_file(tmp_path, "m0")
        teacher.learn(SESSION, Learn(movie_id="m0", groups=str(path)))
    with pytest.raises(ConfigError, match=r"session_model\.base cannot be started from"):
        TrainerProcess(
            Config(session_model=SessionModelSettings(base=str(tmp_path / "nothing"))),
            layout,
            to_learn=lambda *_: [],
            candidate=lambda *_: None,
            died=lambda _: None,
        )
    assert (ours / "pinned").exists()
    assert not (theirs / "pinned").exists()
