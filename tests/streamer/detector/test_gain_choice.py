import errno
import os

import mrcfile
import numpy as np
import pytest

from streamer.detector.gain_choice import GainChoice
from streamer.errors import ConfigError
from tests.clocks import AskedClock


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(str(path)) as file:
        file.set_data(np.ones((4, 4), np.float32))
    return path


@pytest.fixture
def choice(tmp_path):
    """Looks through the whole tree at every call."""
    return GainChoice(tmp_path, None, clock=AskedClock(lambda: 0.0))


def test_a_gain_that_is_set_is_used_and_must_be_there(tmp_path):
    gain = write(tmp_path / "elsewhere.mrc")
    movie = tmp_path / "root" / "m.tif"
    write(movie.parent / "gain.mrc")
    assert GainChoice(movie.parent, str(gain)).for_movie(movie) == gain
    with pytest.raises(ConfigError, match=r"movie\.gain: the gain reference does not exist"):
        GainChoice(tmp_path, str(tmp_path / "none.mrc"))


def test_the_nearest_above_the_movie_serves_so_that_sessions_do_not_meet(tmp_path, choice):
    upper = write(tmp_path / "gain.mrc")
    lower = write(tmp_path / "day2" / "CountRef_day2.mrc")
    assert choice.for_movie(tmp_path / "day1" / "Data" / "m.tif") == upper
    assert choice.for_movie(tmp_path / "day2" / "Data" / "m.tif") == lower
    assert choice.for_movie(tmp_path / "m.tif") == upper


def test_one_that_comes_later_is_seen(tmp_path, choice):
    movie = tmp_path / "day1" / "m.tif"
    movie.parent.mkdir()
    assert choice.for_movie(movie) is None
    upper = write(tmp_path / "gain.mrc")
    assert choice.for_movie(movie) == upper
    lower = write(movie.parent / "gain_2.mrc")
    assert choice.for_movie(movie) == lower
    lower.unlink()
    assert choice.for_movie(movie) == upper


def test_the_only_one_anywhere_serves_where_none_is_above(tmp_path, choice):
    gain = write(tmp_path / "references" / "gain.mrc")
    movie = tmp_path / "day1" / "m.tif"
    assert choice.for_movie(movie) == gain
    write(tmp_path / "other" / "gain.mrc")
    with pytest.raises(ConfigError, match="several"):
        choice.for_movie(movie)


def test_looking_through_the_tree_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    now, looks = [0.0], []

    def slow(root, places):
        looks.append(now[0])
        now[0] += 1.0
        return []

    monkeypatch.setattr("streamer.detector.gain_choice.gain_candidates", slow)
    choice = GainChoice(tmp_path, None, clock=AskedClock(lambda: now[0]))
    while now[0] < 100.0:
        choice.for_movie(tmp_path / "m.tif")
        now[0] += 0.5
    assert looks == pytest.approx([0.0, 20.0, 40.0, 60.0, 80.0], abs=1.0)


def test_a_directory_is_read_again_only_when_it_changed(tmp_path, choice, monkeypatch):
    write(tmp_path / "gain.mrc")
    os.utime(tmp_path, (1, 1))
    read = []
    monkeypatch.setattr(
        "streamer.detector.gain_choice.gains_in", lambda directory: read.append(directory) or [directory / "gain.mrc"]
    )
    for _ in range(5):
        choice.for_movie(tmp_path / "m.tif")
    assert len(read) == 1


def test_a_directory_that_cannot_be_listed_is_not_taken_for_one_without_gains(tmp_path, choice, monkeypatch):
    """The next one up may hold another session's."""
    write(tmp_path / "gain.mrc")
    lower = write(tmp_path / "day2" / "gain.mrc")

    def fail(directory):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("streamer.detector.gain_choice.gains_in", fail)
        with pytest.raises(ConfigError, match="cannot be searched for gain references: Input/output error"):
            choice.for_movie(lower.with_name("m.tif"))
    assert choice.for_movie(lower.with_name("m.tif")) == lower


def test_several_in_one_place_are_refused_with_their_names_unless_the_sidecar_decides(tmp_path, choice):
    one, two = (write(tmp_path / name) for name in ("gain_a.mrc", "gain_b.mrc"))
    with pytest.raises(ConfigError, match="several gain references could apply") as caught:
        choice.for_movie(tmp_path / "m.tif")
    for part in (str(one), str(two), "set movie.gain"):
        assert part in str(caught.value)
    assert choice.for_movie(tmp_path / "m.tif", "gain_b.mrc") == two
    with pytest.raises(ConfigError, match=r"expected one, or other\.mrc"):
        choice.for_movie(tmp_path / "m.tif", "other.mrc")
