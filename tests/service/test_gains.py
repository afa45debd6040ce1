import itertools

import mrcfile
import numpy as np
import pytest

from service.gains import GainChoice, only_candidate
from streamer.errors import ConfigError


def write(path):
    with mrcfile.new(str(path)) as file:
        file.set_data(np.ones((4, 4), np.float32))
    return path


def test_a_gain_that_is_set_is_used_and_must_be_there(tmp_path):
    gain = write(tmp_path / "elsewhere.mrc")
    root = tmp_path / "root"
    root.mkdir()
    write(root / "gain.mrc")
    assert GainChoice(root, str(gain)).path() == gain
    with pytest.raises(ConfigError, match=r"movie\.gain: the gain reference is not there"):
        GainChoice(root, str(tmp_path / "none.mrc"))


def test_the_only_one_below_the_root_is_found_when_it_comes_and_kept(tmp_path):
    clock = itertools.count(0.0, 1000.0)
    choice = GainChoice(tmp_path, None, clock=lambda: next(clock))
    assert choice.path() is None
    gain = write(tmp_path / "gain.mrc")
    while (found := choice.path()) is None:
        pass
    assert found == gain
    write(tmp_path / "gain_2.mrc")  # a second one does not unseat it
    assert choice.path() == gain


def test_looking_takes_a_small_part_of_the_time(tmp_path):
    now, looks = [0.0], []

    def clock():
        now[0] += 0.5  # so every look takes half a second
        return now[0]

    choice = GainChoice(tmp_path, None, clock=clock)
    while now[0] < 100.0:
        before = now[0]
        choice.path()
        if now[0] - before > 1.0:
            looks.append(before)
    assert 1 < len(looks) < 12


def test_several_are_refused_with_their_names(tmp_path):
    for name in ("gain_a.mrc", "gain_b.mrc"):
        write(tmp_path / name)
    with pytest.raises(ConfigError, match="several gain references could be meant") as caught:
        only_candidate(tmp_path)
    assert "gain_a.mrc" in str(caught.value)
    assert "gain_b.mrc" in str(caught.value)
    assert "set movie.gain" in str(caught.value)
