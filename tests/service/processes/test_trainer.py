"""The trainer, and what daemon and operator decide about its candidates. Training and gate themselves are stood in."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from models.gate import candidate
from models.gate.denoiser import Decision
from models.manifest import Figures, load_manifest
from models.networks.optimise import TrainingReport
from models.settings import SessionModelSettings
from models.versions.store import ModelStore
from service.config import Config
from service.processes.messages import Candidate, Learn, Serving, Training
from service.processes.trainer import Trainer
from streamer.band import band_of
from streamer.records import GroupSums
from streamer.settings import DenoiseSettings, MovieSettings
from streamer.sums.group_files import encode_groups
from tests.model_samples import blobs, stored_version
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
        self.trained, self.judged = [], 0
        """Ids of the movies of each training, in order."""
        self.during = lambda trainer: None
        """What happens while a candidate is trained."""
        self.config = alone()
        self.session = directory / "sessions" / SESSION
        self.store = ModelStore(self.session / "models")
        monkeypatch.setattr(candidate, "train", self._train)
        monkeypatch.setattr(candidate, "judge", self._judge)

    def _train(self, net, movies, *, steps, stop, **_):
        self.during(self.trainer)
        self.trained.append([movie.movie_id for movie in movies])
        return TrainingReport(
            steps=0 if stop() else steps, losses=[1.0], movies=self.trained[-1], seconds=0.0, finite=True
        )

    def _judge(self, net, held_out, **_):
        self.judged += 1
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
            self.trainer.handle(Learn(movie_id=path.stem, groups=str(path)))
        self.work()

    def example(self, **what):
        movie_id, seed = f"m{self.movies:02d}", self.movies
        self.movies += 1
        return Learn(movie_id=movie_id, groups=str(group_file(self.directory / "groups", movie_id, seed=seed, **what)))

    def learn(self, movies, **what):
        for _ in range(movies):
            self.trainer.handle(self.example(**what))
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
        self.trainer.handle(Serving(version=version))
        self.work()


SCORE = SimpleNamespace(
    movie_id="m01", snbr_raw=1.0, snbr_wiener=1.0, snbr=2.0, bias_ratio=0.1, loss=1.0, loss_wiener=1.0
)


@pytest.fixture
def school(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "models.gate.candidate.save_version", lambda directory, net, manifest, _: stored_version(directory, manifest)
    )
    return School(tmp_path, monkeypatch)


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
    school.trainer.handle(school.example())
    school.trainer.handle(school.example())
    assert school.trainer.is_due()
    before = school.judged
    school.trainer.train_denoiser()
    assert school.judged == before, "the gate is not asked about what nobody wants"
    assert [c.version for c in school.ear.candidates()] == ["v0001"]
    assert school.store.versions() == ["v0001"]
    assert not [m for m in school.ear.heard if isinstance(m, Training)][-1].active
    school.trainer.handle(school.trainer._inbox.get())
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
    assert told.count("made with other settings") == 1
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


def test_the_kernel_ends_the_trainer_first_when_memory_runs_out():
    words = "from pathlib import Path; from service.processes.trainer import _give_way; _give_way(); "
    words += "print(Path('/proc/self/oom_score_adj').read_text())"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 800
