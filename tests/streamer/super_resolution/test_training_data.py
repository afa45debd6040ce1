from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from streamer.errors import ModelError
from streamer.super_resolution.fusion import Fusion
from streamer.super_resolution.training_data import encode_fusion_data, read_training_data, training_data_of
from tests.fusion_samples import NOISE, sparse, sums_of


@pytest.fixture(scope="module")
def made():
    frames, motion, _ = sparse(0)
    return training_data_of(Fusion(sums_of(frames, motion), NOISE), 3.0)


@pytest.fixture
def path(made, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(encode_fusion_data("m", made))
    return path


def test_a_lesson_comes_back_as_it_was(made, path):
    movie_id, found = read_training_data(path)
    assert movie_id == "m"
    assert (found.white, found.pixel_size) == (made.white, made.pixel_size)
    for name in ("group_of", "fractions", "exposures", "prior"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    assert torch.equal(found.grid.transfer, made.grid.transfer)
    assert torch.equal(found.grid.rate, made.grid.rate)
    # float16 of one scale: far below the noise
    error = (found.groups - made.groups).abs().square().mean().sqrt()
    frames_per_group = len(made.group_of) / len(made.groups)
    assert float(error) < 0.02 * (made.white * frames_per_group) ** 0.5


def test_groups_add_up_to_the_sums():
    frames, motion, _ = sparse(1)
    sums = sums_of(frames, motion)
    assert torch.allclose(sums.groups.sum(0), sums.sums.sum(0)[:, sums.training_tiles], atol=1e-2)
    for parity in (0, 1):
        assert torch.allclose(sums.groups[parity::2].sum(0), sums.sums[parity][:, sums.training_tiles], atol=1e-2)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tensor", save({"x": torch.zeros(1)}), save({"x": torch.zeros(1)}, {"description": "{}"})],
)
def test_what_is_no_lesson_is_refused(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="sums of the fine grid"):
        read_training_data(path)


def test_a_damaged_lesson_is_refused(made, path, tmp_path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError):
        read_training_data(path)
    broken = made.groups.clone()
    broken[0] = float("nan")
    other = tmp_path / "nan.safetensors"
    other.write_bytes(encode_fusion_data("m", replace(made, groups=broken)))
    with pytest.raises(ModelError, match="damaged"):
        read_training_data(other)
