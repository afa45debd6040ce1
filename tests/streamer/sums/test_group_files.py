import os

import pytest
import torch
from safetensors.torch import save

from streamer.errors import ModelError
from streamer.records import GroupSums
from streamer.sums.group_files import encode_groups, find_groups, read_groups


def sums(n=4, **changes):
    return GroupSums(
        **{
            "groups": torch.randn((n, 8, 16), generator=torch.Generator().manual_seed(0)).half(),
            "exposures": tuple((1.0 + i, 5.0 + i) for i in range(n)),
            "shape": (33, 64),
            "pixel_size": 1.37,
            "voltage_kv": 200.0,
        }
        | changes
    )


def test_what_was_written_is_read(tmp_path):
    path, written = tmp_path / "movie.safetensors", sums()
    path.write_bytes(encode_groups("0123456789abcdef", written))
    movie_id, read = read_groups(path)
    assert movie_id == "0123456789abcdef"
    assert torch.equal(read.groups, written.groups)
    assert (read.exposures, read.shape, read.pixel_size, read.voltage_kv) == (
        written.exposures,
        (33, 64),
        1.37,
        200.0,
    )


def test_the_same_sums_give_the_same_bytes():
    assert encode_groups("a" * 16, sums()) == encode_groups("a" * 16, sums())


def damaged(case):
    whole = encode_groups("a" * 16, sums())
    values = sums().groups.clone()
    values[1, 2, 3] = torch.nan
    return {
        "empty": b"",
        "cut": whole[:-50],
        "cut in the header": whole[:20],
        "not safetensors": b"MAP " * 100,
        "no description": save({"groups": sums().groups}),
        "foreign description": save({"groups": sums().groups}, {"description": '{"format": "other/1"}'}),
        "no groups": save({"other": sums().groups}, {"description": "{}"}),
        "other number of groups": encode_groups("a" * 16, sums(exposures=((1.0,),) * 3)),
        "not finite": encode_groups("a" * 16, sums(groups=values)),
        "of another format": whole.replace(b"streamer.groups/1", b"streamer.groups/9"),
    }[case]


@pytest.mark.parametrize(
    "case",
    [
        "empty",
        "cut",
        "cut in the header",
        "not safetensors",
        "no description",
        "foreign description",
        "no groups",
        "other number of groups",
        "not finite",
        "of another format",
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, case):
    path = tmp_path / "movie.safetensors"
    path.write_bytes(damaged(case))
    with pytest.raises(ModelError, match=r"movie\.safetensors: "):
        read_groups(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.safetensors"):
        read_groups(tmp_path / "nowhere.safetensors")


def stored(directory, names, size=100):
    for age, name in enumerate(names):
        path = directory / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(10**18 + age, 10**18 + age))


def test_groups_are_found_oldest_first_and_weights_are_none_of_them(tmp_path):
    stored(tmp_path, ["b", "sub/a", "c", "v0001/model"])
    assert [p.stem for p in find_groups([tmp_path])] == ["b", "a", "c"]
    assert [p.stem for p in find_groups([tmp_path / "c.safetensors", tmp_path / "sub"])] == ["a", "c"]
