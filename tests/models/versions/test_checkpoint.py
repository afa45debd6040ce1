import hashlib
import json
import re
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load, save

import models
import service
import streamer
from models.manifest import DENOISERS, MANIFEST, load_manifest
from models.networks.denoiser import WienerResidualNet
from models.versions.checkpoint import load_version, save_version
from streamer.errors import ModelError, OutputError
from tests.model_samples import manifest

WEIGHTS = "model.safetensors"


def net_of(seed=0, **config):
    torch.manual_seed(seed)
    net = WienerResidualNet(msgspec.structs.replace(DENOISERS["small"], **config))
    torch.nn.init.normal_(net.last.weight)
    return net


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "models" / "v0001"
    save_version(directory, net_of(), manifest())
    return directory


def rewrite(directory, change):
    """Replace the weights by others that the manifest vouches for."""
    tensors = load((directory / WEIGHTS).read_bytes())
    data = change(tensors)
    (directory / WEIGHTS).write_bytes(data)
    known = load_manifest(directory)
    digest = hashlib.sha256(data).hexdigest()
    (directory / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(known, sha256=digest)))


def test_what_was_saved_is_loaded(saved):
    net, known = load_version(saved)
    assert known.sha256 == hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    assert not net.training
    for (name, value), (other_name, other) in zip(net.state_dict().items(), net_of().state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(value, other)
    inputs = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(net(inputs), net_of().eval()(inputs))


def test_only_two_files_and_neither_is_a_program(saved):
    assert sorted(p.name for p in saved.iterdir()) == [MANIFEST, WEIGHTS]
    assert json.loads((saved / MANIFEST).read_text())["format"] == "streamer.model/1"
    assert [p.name for p in saved.parent.iterdir()] == ["v0001"]


def test_saving_leaves_the_net_as_it_is(tmp_path):
    net = net_of()
    before = [(p._version, p.clone()) for p in net.parameters()]
    save_version(tmp_path / "v0001", net, manifest())
    for parameter, (version, copy) in zip(net.parameters(), before, strict=True):
        assert parameter._version == version
        assert torch.equal(parameter, copy)


def test_a_version_is_never_overwritten(saved):
    with pytest.raises(ModelError, match="already exists"):
        save_version(saved, net_of(1), manifest())
    load_version(saved)


def test_a_version_that_could_not_be_written_is_not_there(tmp_path, monkeypatch):
    def full(path, data):
        raise OutputError("cannot be written", where=path)

    monkeypatch.setattr("models.versions.store.write_atomically", full)
    with pytest.raises(OutputError):
        save_version(tmp_path / "models" / "v0001", net_of(), manifest())
    assert not (tmp_path / "models" / "v0001").exists()


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_cut_weights_do_not_match_their_manifest(saved, cut):
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors: weights do not match their manifest; expected [0-9a-f]"):
        load_version(saved)


@pytest.mark.parametrize("position", [3, 500, -5])
def test_a_flipped_bit_does_not_match(saved, position):
    data = bytearray((saved / WEIGHTS).read_bytes())
    data[position] ^= 0x10
    (saved / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match="do not match their manifest"):
        load_version(saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: save(t | {"last.bias": torch.zeros(2)}), "do not fit the network"),
        (lambda t: save({k: v for k, v in t.items() if k != "last.bias"}), "do not fit the network"),
        (lambda t: save(t | {"extra": torch.zeros(1)}), "do not fit the network"),
        (lambda t: save(t | {"last.bias": torch.full((4,), torch.nan)}), "are not finite"),
        (lambda t: save(t | {"last.bias": torch.full((4,), -torch.inf)}), "are not finite"),
        (lambda t: save(t)[:-4], "cannot be read"),
        (lambda _: b"MAP " * 999, "cannot be read"),
        (lambda _: b"", "cannot be read"),
        (lambda _: b"\x80\x04\x95", "cannot be read"),
    ],
)
def test_weights_that_the_manifest_vouches_for_are_checked_too(saved, change, says):
    rewrite(saved, change)
    with pytest.raises(ModelError, match=says) as caught:
        load_version(saved)
    assert WEIGHTS in caught.value.where


def test_weights_of_another_net_do_not_fit(saved):
    rewrite(saved, lambda _: save(dict(net_of(widths=(4, 8)).state_dict())))
    with pytest.raises(ModelError, match="do not fit the network"):
        load_version(saved)


def test_missing_weights_are_told(saved):
    (saved / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="weights cannot be read: No such file"):
        load_version(saved)


def test_a_missing_version_is_told(tmp_path):
    with pytest.raises(ModelError, match="no model version here"):
        load_version(tmp_path / "v0009")


def test_nothing_in_the_package_unpickles():
    """Weights and messages come from outside: no pickle, no torch.load, no eval anywhere."""
    word = re.compile(
        r"\b(?:import|from) +(?:pickle|marshal|shelve|dill|joblib)\b|torch\.(?:load|save)\(|\beval\(|\bexec\("
    )
    package_files = [p for package in (streamer, models, service) for p in Path(package.__file__).parent.rglob("*.py")]
    assert len(package_files) > 60
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in package_files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        # nn.Module.eval() takes no argument
        if word.search(line.replace(".eval()", ""))
    ]
    assert not found
