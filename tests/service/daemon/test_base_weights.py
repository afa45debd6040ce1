"""Base weights and specimens in service: what serves from the first movie on, and after a change of specimen."""

from __future__ import annotations

import pytest
import torch

from models.manifest import DENOISERS, load_manifest
from models.networks.denoiser import WienerResidualNet
from models.settings import SessionModelSettings
from models.specimens import Change
from models.versions.base_weights import base_directory, shipped_base
from models.versions.checkpoint import load_version, save_version
from models.versions.store import BASE, ModelStore, copy_version
from service.config import Config
from service.daemon.serving_version import ServingVersions
from service.health.prometheus import Metrics
from service.layout import Layout
from service.named_versions import base_of
from service.processes.messages import Candidate, Learn
from service.processes.trainer import Trainer
from service.wire.messages import parse_event
from streamer.errors import ModelError, OutputError
from streamer.settings import DenoiseSettings
from tests.model_samples import manifest
from tests.service.processes.test_trainer import Ear, group_file

SESSION = "grid1"
CHANGE = Change(previous=1, specimen=2, returned=False, reason="2 movies in a row look different")
BACK = Change(previous=2, specimen=1, returned=True, reason="2 movies in a row look different")


def stored(directory, **changes):
    torch.manual_seed(0)
    return save_version(directory, WienerResidualNet(DENOISERS["small"]), manifest(version=directory.name, **changes))


class Site:
    """One session as the daemon decides about it."""

    def __init__(self, directory, journal, base):
        self.layout = Layout(
            root=directory / "in", output=directory / "out", state=directory, runtime=directory / "run"
        )
        self.journal, self.base = journal, base
        self.store = ModelStore(self.layout.models(SESSION))
        self.restart()

    def restart(self):
        self.serving = ServingVersions(self.layout, self.journal, Metrics(), self.base)

    def candidate(self, parent, specimen=1):
        name = self.store.next_version()
        stored(self.store.directory / name, parent=parent, specimen=specimen)
        self.serving.judged(SESSION, Candidate(result="promoted", version=name, reason="all conditions hold"))
        return name

    def changes(self):
        bodies = [parse_event(row.raw).body for row in self.journal.events.page(1, kinds=["model"])]
        return [(body["version"], body["result"]) for body in bodies]


@pytest.fixture
def site(tmp_path, journal):
    return Site(tmp_path, journal, shipped_base())


# ------------------------------------------------------------------------------------------------ what is shipped


def test_the_shipped_weights_passed_the_gate_on_specimens_they_never_saw():
    net, made = load_version(shipped_base())
    assert made.general
    assert made.figures is not None
    judged_by = {score.movie_id.rsplit("-", 1)[0] for score in made.figures.scores}
    assert len(judged_by) >= 8
    assert not judged_by & {movie_id.rsplit("-", 1)[0] for movie_id in made.trained_on}
    assert min(score.snbr / score.snbr_wiener for score in made.figures.scores) > 1.3
    assert all(shell.snbr >= shell.snbr_wiener for shell in made.figures.shells if shell.snbr and shell.snbr_wiener)
    assert sum(p.numel() for p in net.parameters()) < 150_000


@pytest.mark.parametrize(
    ("settings", "found"),
    [({}, True), ({"base": "none"}, False), ({"network": "large"}, False), ({"network": "large", "base": "x"}, True)],
)
def test_the_settings_say_where_a_session_starts(settings, found):
    assert (base_directory(SessionModelSettings(**settings)) is not None) == found


def test_without_denoising_or_a_session_model_nothing_is_taken_in():
    assert base_of(Config()) == shipped_base()
    assert base_of(Config(denoise=DenoiseSettings(enabled=False))) is None
    assert base_of(Config(session_model=SessionModelSettings(enabled=False))) is None


# --------------------------------------------------------------------------------------------- serving from the start


def test_a_new_session_is_served_from_its_first_movie(site):
    assert site.serving.version(SESSION) == BASE == site.store.current()
    assert load_manifest(site.store.path(BASE)).version == BASE
    assert site.changes() == [(BASE, "promoted")]
    assert (site.store.directory / BASE / "pinned").exists()
    site.restart()
    assert site.serving.version(SESSION) == BASE
    assert len(site.changes()) == 1, "once"


def test_a_session_that_has_versions_already_keeps_to_them(site, tmp_path):
    stored(site.store.directory / "v0001")
    assert site.serving.version(SESSION) is None
    assert site.store.versions() == ["v0001"]


def test_weights_that_are_damaged_are_told_and_nothing_serves(tmp_path, journal, caplog):
    copy_version(shipped_base(), tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    site = Site(tmp_path / "site", journal, tmp_path / "copy")
    assert site.serving.version(SESSION) is None
    assert "does not match its manifest" in caplog.text
    assert site.store.versions() == []


def test_a_copy_is_whole_and_never_overwrites(tmp_path):
    made = copy_version(shipped_base(), tmp_path / "mine")
    assert made.version == "mine"
    assert load_version(tmp_path / "mine")[1].sha256 == load_manifest(shipped_base()).sha256
    with pytest.raises(ModelError, match="already exists"):
        copy_version(shipped_base(), tmp_path / "mine")
    with pytest.raises(ModelError, match="no model version here"):
        copy_version(tmp_path, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


# -------------------------------------------------------------------------------------------- changes of specimen


def test_a_version_that_does_not_fit_gives_way_to_the_base_and_serves_its_own_specimen_when_it_is_back(site):
    site.serving.version(SESSION)
    own = site.candidate(BASE)
    assert site.serving.has_own(SESSION, 1)
    assert site.serving.change_specimen(SESSION, CHANGE, None) == own, "until its scores prove that it is worse"
    assert site.serving.drop(SESSION, None, "1.2 where 2.0 was to be expected") == BASE
    assert not site.serving.has_own(SESSION, 2)
    assert not site.store.is_held
    other = site.candidate(BASE, specimen=2)
    assert site.serving.version(SESSION) == other
    assert site.serving.has_own(SESSION, 2)
    assert site.serving.change_specimen(SESSION, BACK, own) == own
    assert [result for _, result in site.changes()] == ["promoted", "promoted", "fell-back", "promoted", "returned"]
    site.restart()
    assert site.serving.version(SESSION) == own


def test_without_base_weights_the_wiener_estimate_serves_another_specimen(tmp_path, journal):
    site = Site(tmp_path, journal, None)
    site.candidate(None)
    site.serving.change_specimen(SESSION, CHANGE, None)
    assert site.serving.drop(SESSION, None, "1.2 where 2.0 was to be expected") is None
    assert not site.store.is_held, "the next version may serve"
    site.restart()
    assert site.serving.version(SESSION) is None
    assert not site.store.is_held
    assert site.candidate(None, specimen=2) == site.serving.version(SESSION)


def test_a_candidate_of_the_specimen_before_comes_too_late(site):
    site.serving.version(SESSION)
    first = site.candidate(BASE)
    site.serving.change_specimen(SESSION, CHANGE, None)
    late = site.candidate(first)
    assert site.serving.version(SESSION) == first, "it serves on"
    assert site.changes()[-1] == (late, "rejected")
    assert site.candidate(first, specimen=2) == site.serving.version(SESSION)


def test_a_specimen_that_is_back_keeps_a_version_that_fits(site):
    site.serving.version(SESSION)
    own = site.candidate(BASE)
    site.serving.change_specimen(SESSION, CHANGE, None)
    other = site.candidate(own, specimen=2)
    assert site.serving.change_specimen(SESSION, BACK, own, fits=True) == other
    assert site.serving.drop(SESSION, own, "1.2 where 2.0 was to be expected") == own
    assert site.serving.drop(SESSION, own, "the same") == BASE
    assert site.serving.drop(SESSION, own, "the same") == BASE, "there is nothing better than the base"


def test_an_operator_who_wants_no_network_gets_none_whatever_the_specimen(site):
    site.serving.version(SESSION)
    site.store.set_current(None, held=True)
    site.serving._versions[SESSION] = None
    assert site.serving.change_specimen(SESSION, CHANGE, None) is None
    assert site.store.is_held


# ------------------------------------------------------------------------------------------------------- the trainer


@pytest.fixture
def trainer(site, tmp_path):
    site.serving.version(SESSION)
    trainer = Trainer(Ear(site.store), Config(), site.layout.session_state(SESSION), specimen=2)
    trainer.begin()
    trainer.directory = tmp_path / "groups"
    return trainer


def learn(trainer, names, **what):
    for seed, name in enumerate(names):
        path = group_file(trainer.directory, name, seed=seed, **what)
        trainer.handle(Learn(movie_id=name, groups=str(path)))


def test_the_base_is_the_incumbent_that_the_first_version_has_to_beat(trainer, monkeypatch):
    asked = {}

    def judge(net, held_out, **words):
        asked.update(words, net=net)
        raise StopIteration

    monkeypatch.setattr("models.gate.candidate.judge", judge)
    monkeypatch.setattr(
        "models.gate.candidate.train", lambda net, movies, **words: asked.update(words) or _report(movies)
    )
    learn(trainer, ["a", "b", "c"])
    assert trainer.is_due()
    with pytest.raises(StopIteration):
        trainer.train_denoiser()
    assert asked["first"], "and the Wiener filter as well"
    assert asked["incumbent"][0] is trainer._serves
    assert asked["net"] is not trainer._serves
    assert asked["steps"] == SessionModelSettings().first_steps
    assert asked["seconds"] == SessionModelSettings().seconds_per_movie
    assert sorted(asked["trained_on"]) == ["a"], "simulated movies are not met again"


def _report(movies):
    from models.networks.optimise import TrainingReport

    return TrainingReport(steps=1, losses=[1.0], movies=[m.movie_id for m in movies], seconds=0.0, finite=True)


def test_movies_are_learned_from_in_the_band_of_the_base_at_any_pixel_size(trainer):
    learn(trainer, ["a", "b"], resolution=4.5, pixel_size=1.1)
    (held_out,) = trainer._movies.held_out
    assert 2.0 * held_out.band.band_pixel_size == pytest.approx(8.0, rel=0.15)


def test_large_movies_are_kept_in_part(trainer, monkeypatch):
    monkeypatch.setattr(trainer._movies, "_settings", SessionModelSettings(memory_gb=0.0002))
    learn(trainer, ["a", "b"])
    for movie in (*trainer._movies.learned, *trainer._movies.held_out):
        assert movie.band.small[0] * movie.band.small[1] <= 0.0002e9 / (56 * 10 * 4)
        assert 2.0 * movie.band.band_pixel_size == pytest.approx(2.0 * movie.made_for.band_pixel_size, rel=0.05)


def test_roles_are_counted_for_each_specimen(trainer, site):
    learn(trainer, ["a", "b", "c"])
    assert [movie.movie_id for movie in trainer._movies.held_out] == ["b", "c"]
    other = Trainer(Ear(site.store), Config(), site.layout.session_state(SESSION), specimen=3)
    other.begin()
    other.directory = trainer.directory
    learn(other, ["d", "e", "f"])
    assert [movie.movie_id for movie in other._movies.held_out] == ["e", "f"]


# ------------------------------------------------------------------------------------------------------------ trouble


def test_a_damaged_manifest_of_what_serves_does_not_end_the_daemon(site):
    version = site.serving.version(SESSION)
    (site.store.path(version) / "manifest.json").write_text("{")
    assert not site.serving.has_own(SESSION, 1)


def test_a_full_disk_leaves_a_session_without_base_weights_but_not_without_a_daemon(site, monkeypatch):
    def full(*_):
        raise OutputError("no space left on device", where="there")

    monkeypatch.setattr("models.versions.store.write_atomically", full)
    assert site.serving.version(SESSION) is None
    assert not list(site.store.directory.glob(".v*"))


def test_a_version_to_go_on_from_that_is_gone_does_not_end_the_trainer(tmp_path, journal, capsys):
    site = Site(tmp_path, journal, None)
    trainer = Trainer(Ear(site.store), Config(), site.layout.session_state(SESSION), specimen=2, warm="v0042")
    trainer.begin()
    assert trainer._net is None
    assert "no model version here" in capsys.readouterr().err
