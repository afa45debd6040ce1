"""The trainer's second subject: lessons in, versions out, and what the worker and the daemon make of them."""

from dataclasses import dataclass, field

import msgspec
import pytest
import torch

from models.learners import FusionLearner, Verdict, ZssrLearner
from models.manifest import load_manifest
from models.networks.fusion_residual import FusionResidualNet
from models.networks.optimise import TrainingReport
from models.networks.zssr import Pair, ZssrNet
from models.serving.super_resolution import SuperResolutionNetworks
from models.settings import SessionModelSettings
from models.versions.checkpoint import load_net, save_version
from models.versions.roles import ROLES, Roles
from models.versions.store import ModelStore
from service.config import Config, load
from service.named_versions import check_versions
from service.processes.messages import Learn
from service.processes.super_resolution_trainer import SuperResolutionTrainer
from streamer.errors import ConfigError, ModelError
from streamer.movie_record import CRYO_ZSSR, SUPER_RESOLUTION
from streamer.super_resolution.averages import average
from streamer.super_resolution.fusion import Fusion
from streamer.super_resolution.training_data import (
    encode_averages,
    encode_fusion_data,
    encode_training_data,
    read_averages,
    training_data_of,
)
from tests.fusion_samples import NOISE, sparse, sums_of
from tests.model_samples import manifest


@dataclass
class School:
    """A session's directory and its trainer; training and judging are replaced."""

    directory: object
    promoted: bool = True
    trained: list = field(default_factory=list)

    def __post_init__(self):
        self.examples = self.directory / "lessons"
        self.examples.mkdir()
        self.session = self.directory / "session"
        self.session.mkdir()
        self.count = 0
        self.learner = FusionLearner()
        frames, motion, _ = sparse(0, size=192)
        self.sums = sums_of(frames, motion)

    def enter(self, **settings):
        self.store = ModelStore(self.session / "fine-models")
        roles = Roles(self.session / ROLES)
        self.trainer = SuperResolutionTrainer(SessionModelSettings(**settings), self.store, roles, "cpu", self.learner)
        return self.trainer

    def learn(self, movies, pixel_size=3.0):
        for _ in range(movies):
            name = f"m{self.count:02d}"
            self.count += 1
            path = self.examples / f"{name}.safetensors"
            path.write_bytes(encode_fusion_data(name, training_data_of(Fusion(self.sums, NOISE), pixel_size)))
            self.trainer.add(Learn(movie_id=name, groups="", training_data=str(path)))

    def work(self):
        candidate = self.trainer.propose(lambda: False)
        if candidate is not None and candidate.result == "promoted":
            self.store.set_current(candidate.version)
        return candidate

    def train(self, net, examples, *, steps, seed, stop):
        self.trained.append(([example.movie_id for example in examples], steps))
        return TrainingReport(
            steps=steps, losses=[-1.0], movies=[one.movie_id for one in examples], seconds=0.0, finite=True
        )

    def judge(self, net, held_out, *, incumbent, trained_on, seed):
        self.judged = [example.movie_id for example in held_out], incumbent, trained_on
        weight = [(0.02 * n, 1.0) for n in range(1, 8)]
        return Verdict(promoted=self.promoted, reason="because", weight=weight, figures={"gain": 0.2})


@pytest.fixture
def school(tmp_path, monkeypatch):
    made = School(tmp_path)
    monkeypatch.setattr(made.learner, "train", made.train)
    monkeypatch.setattr(made.learner, "judge", made.judge)
    return made


def test_it_waits_until_there_is_enough_to_learn_and_to_judge_by(school):
    trainer = school.enter(first_movies=2)
    due = []
    for _ in range(4):
        school.learn(1)
        due.append(trainer.is_due)
    # 1 and 3 are held out
    assert due == [False, False, False, True]


def test_a_promoted_version_is_stored_named_and_gone_on_from(school):
    trainer = school.enter(first_movies=2, refresh_movies=2, first_steps=50, refresh_steps=7)
    school.learn(4)
    candidate = school.work()
    assert (candidate.result, candidate.version, candidate.network) == ("promoted", "v0001", SUPER_RESOLUTION)
    assert candidate.figures["gain"] == 0.2
    assert candidate.figures["held_out"] == 2
    known = load_manifest(school.store.path("v0001"))
    assert (known.trained_on, known.held_out, known.pixel_size) == (["m00", "m03"], ["m01", "m02"], 3.0)
    assert known.sha256 == candidate.sha256
    assert len(known.weight) == 7
    assert not trainer.is_due
    school.learn(2)
    assert trainer.is_due
    second = school.work()
    assert (second.version, load_manifest(school.store.path("v0002")).parent) == ("v0002", "v0001")
    assert school.trained == [(["m00", "m03"], 50), (["m00", "m03", "m04", "m05"], 14)]
    assert school.judged[1][1] == known.weight
    assert school.judged[2] == {"m00", "m03", "m04", "m05"}


def test_a_rejected_candidate_is_not_kept_but_gone_on_from_while_nothing_serves(school):
    trainer = school.enter(first_movies=2)
    school.promoted = False
    school.learn(4)
    assert school.work().result == "rejected"
    assert school.store.versions() == []
    school.learn(2)
    assert trainer.is_due
    school.work()
    # what the first candidate saw counts as seen
    assert school.judged[2] == {"m00", "m03", "m04", "m05"}


def test_after_a_restart_what_was_learned_is_not_new(school):
    school.enter(first_movies=2)
    school.learn(4)
    school.work()
    trainer = school.enter(first_movies=2)
    for path in sorted(school.examples.iterdir()):
        trainer.add(Learn(movie_id=path.stem, groups="", training_data=str(path)))
    assert not trainer.is_due
    school.learn(2)
    assert trainer.is_due


def test_what_cannot_be_learned_from_is_told_and_left(school, capsys):
    trainer = school.enter()
    school.learn(1)
    school.learn(1, pixel_size=1.0)
    broken = school.examples / "broken.safetensors"
    broken.write_bytes(b"nothing")
    trainer.add(Learn(movie_id="broken", groups="", training_data=str(broken)))
    trainer.add(Learn(movie_id="gone", groups="", training_data=str(school.examples / "gone")))
    trainer.add(Learn(movie_id="none", groups=""))
    told = capsys.readouterr().err
    assert "nothing is learned from it" in told
    assert "the sums of the fine grid cannot be read" in told
    assert len(trainer._learned) == 1


def test_ended_by_the_operator_nothing_is_proposed(school):
    trainer = school.enter(first_movies=2)
    school.learn(4)
    assert trainer.propose(lambda: True) is None
    assert not hasattr(school, "judged"), "the gate is not asked about what nobody wants"
    assert school.store.versions() == []


def test_a_damaged_version_is_told_and_training_starts_anew(school, capsys):
    school.enter(first_movies=2)
    school.learn(4)
    school.work()
    (school.store.path("v0001") / "model.safetensors").write_bytes(b"")
    trainer = school.enter(first_movies=2)
    assert "do not match" in capsys.readouterr().err
    assert trainer._serving is None


# ------------------------------------------------------------------------------------------------- which one serves


def config(**chosen):
    return msgspec.structs.replace(
        Config(), super_resolution=msgspec.structs.replace(Config().super_resolution, **chosen)
    )


@pytest.fixture
def version(tmp_path):
    net = FusionResidualNet()
    save_version(tmp_path / "v0003", net, manifest(net=net.config, version="v0003", weight=[(0.1, 1.0)] * 7))
    return tmp_path / "v0003"


def test_the_sessions_version_serves_where_it_is_wanted(version):
    device = torch.device("cpu")
    assert SuperResolutionNetworks(config().super_resolution, device).on_fusion(str(version)) is None
    wanted = SuperResolutionNetworks(config(network=True).super_resolution, device)
    assert wanted.on_fusion(None) is None
    assert wanted.on_fusion(str(version)).reference.version == "v0003"
    assert wanted.on_fusion(str(version)) is wanted.on_fusion(str(version))
    assert wanted.zssr(None) is None
    named = SuperResolutionNetworks(config(model=str(version)).super_resolution, device)
    assert named.on_fusion(None).reference.version == "v0003"


def test_cryo_zssr_takes_its_own_versions_only(version, tmp_path):
    device = torch.device("cpu")
    assert (
        SuperResolutionNetworks(config(method="zssr", per_movie=True).super_resolution, device).zssr(None).reference
        is None
    )
    assert SuperResolutionNetworks(config(method="zssr").super_resolution, device).zssr(None) is None
    with pytest.raises(ModelError, match="unknown network"):
        SuperResolutionNetworks(config(method="zssr", model=str(version)).super_resolution, device)
    net = ZssrNet()
    save_version(tmp_path / "v0004", net, manifest(net=net.config, version="v0004", weight=[]))
    for networks in (
        SuperResolutionNetworks(config(method="zssr", model=str(tmp_path / "v0004")).super_resolution, device),
        SuperResolutionNetworks(config(method="zssr").super_resolution, device),
    ):
        assert networks.zssr(str(tmp_path / "v0004")).reference.version == "v0004"
        assert networks.on_fusion(str(version)) is None
    assert load_net(tmp_path / "v0004", ZssrNet)[1].version == "v0004"


def test_a_sessions_version_that_cannot_be_loaded_fails_when_it_is_used_not_before(version):
    (version / "model.safetensors").write_bytes(b"")
    found = SuperResolutionNetworks(config(network=True).super_resolution, torch.device("cpu")).on_fusion(str(version))
    with pytest.raises(ModelError, match="do not match"):
        found(None, None, None, None, None)


def test_only_what_the_session_makes_itself_is_learned():
    learns = {
        (): False,
        (("network", True),): True,
        (("network", True), ("model", "x")): False,
        (("method", "zssr"),): True,
        (("method", "zssr"), ("per_movie", True)): False,
    }
    for chosen, expected in learns.items():
        assert config(**dict(chosen)).super_resolution.learns is expected


def test_a_network_on_fusion_and_another_method_is_a_contradiction():
    with pytest.raises(ConfigError, match="needs fusion"):
        load(None, ("super_resolution.network=true", "super_resolution.method=zssr"))


def test_per_movie_and_a_version_is_a_contradiction():
    for others in (("super_resolution.method=zssr", "super_resolution.model=x"), ()):
        with pytest.raises(ConfigError, match="can be trained on every movie"):
            load(None, ("super_resolution.per_movie=true", *others))


# ------------------------------------------------------------------------------------------- cryo-ZSSR in a session


@pytest.fixture
def averages():
    frames, motion, _ = sparse(3, size=192, strength=6.0)
    return average(lambda i: frames[i], motion)


def test_averages_come_back_at_unit_contrast(averages, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(encode_training_data("m", averages, 3.0))
    movie_id, found, pixel_size = read_averages(path)
    assert (movie_id, pixel_size, found.scale) == ("m", 3.0, 1.0)
    assert torch.equal(found.offsets, averages.offsets)
    for name in ("early", "late", "whole"):
        expected = getattr(averages, name) / averages.scale
        assert torch.allclose(getattr(found, name), expected, atol=4e-3)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="the averages cannot be read"):
        read_averages(path)


def test_only_the_middle_of_a_large_field_is_kept(averages, tmp_path):
    wide = averages.window(slice(0, 96), slice(0, 96))
    image = torch.randn(1100, 1300, generator=torch.Generator().manual_seed(0))
    wide = type(wide)(early=image, late=image, early_share=0.5, offsets=wide.offsets, scale=1.0)
    path = tmp_path / "m.safetensors"
    path.write_bytes(encode_averages("m", wide, 3.0))
    found = read_averages(path)[1]
    assert torch.allclose(found.early, image[38 : 38 + 1024, 138 : 138 + 1024], atol=4e-3)


@pytest.mark.slow
def test_cryo_zssr_is_learned_by_the_session_and_judged_against_interpolation(averages, tmp_path):
    path, learner = tmp_path / "m.safetensors", ZssrLearner()
    path.write_bytes(encode_training_data("m", averages, 3.0))
    pair = learner.read(path, "cpu")
    assert (pair.movie_id, pair.pixel_size) == ("m", 3.0)
    torch.manual_seed(0)
    net = learner.fresh()
    fresh = learner.judge(net, [pair], incumbent=None, trained_on=frozenset(), seed=0)
    report = learner.train(net, [pair], steps=40, seed=1, stop=lambda: False)
    assert (report.steps, report.movies, report.finite) == (40, ["m"], True)
    held_out = Pair("other", averages, 3.0)
    better = learner.judge(net, [held_out], incumbent=None, trained_on=frozenset({"m"}), seed=0)
    assert better.figures["loss"] < fresh.figures["loss"]
    assert better.promoted == (better.figures["loss"] < better.figures["loss_before"])
    same = learner.judge(net, [held_out], incumbent=(net, []), trained_on=frozenset({"m"}), seed=0)
    assert not same.promoted
    assert "were trained on" in learner.judge(net, [pair], incumbent=None, trained_on=frozenset({"m"}), seed=0).reason
    assert learner.network == CRYO_ZSSR


def test_a_version_that_the_settings_name_is_looked_at_before_anything_starts(version, tmp_path):
    check_versions(config(model=str(version)))
    with pytest.raises(ConfigError, match="model cannot be used"):
        check_versions(config(model=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="a different network; expected cryo-zssr; found gain-residual"):
        check_versions(config(model=str(version), method="zssr"))
    base = msgspec.structs.replace(Config().session_model, base=str(version))
    with pytest.raises(ConfigError, match="a different network"):
        check_versions(msgspec.structs.replace(Config(), session_model=base))
