import numpy as np
import pytest

from streamer.detector.listed_defects import listed_defects
from streamer.errors import ConfigError, MovieMismatch
from streamer.movie_record import Acquisition
from streamer.records import FileIdentity, Movie

COLUMNS, ROWS = 160, 128
LIST = f"CameraSizeX {COLUMNS}\nCameraSizeY {ROWS}\nPartialBadColumn 20 2 10 60\nBadPixels 100 15 140 90\n"


@pytest.fixture
def truth():
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[10:61, 20:22] = mask[15, 100] = mask[90, 140] = True
    return mask[::-1]


def total_with(mask, seed=0):
    total = np.random.default_rng(seed).poisson(30.0, mask.shape).astype(np.float32)
    total[mask] = 0.0
    return total


def movie(root, named="defects_a.txt"):
    path = root / "grid1" / "frames" / "a.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = FileIdentity(device=1, inode=1, size=1, mtime_ns=1, ctime_ns=1)
    acquisition = Acquisition(defect_file=named)
    return Movie(
        path=str(path), relative="grid1/frames/a.tif", session="grid1", identity=identity, acquisition=acquisition
    )


@pytest.mark.parametrize("place", ["grid1/frames", "grid1", "."])
def test_the_list_that_the_sidecar_names_is_found_next_to_the_movie_or_above_it(tmp_path, truth, place):
    one = movie(tmp_path)
    (tmp_path / place / "defects_a.txt").write_text(LIST)
    listed = listed_defects(one, None, total_with(truth))
    np.testing.assert_array_equal(listed.mask, truth)
    assert listed.path == str(tmp_path / place / "defects_a.txt")
    assert (listed.count, len(listed.sha256), listed.flags) == (int(truth.sum()), 64, ())


def test_a_list_that_is_named_but_not_there_is_flagged(tmp_path, truth):
    listed = listed_defects(movie(tmp_path / "root"), None, total_with(truth))
    assert listed.flags == ("defects: the sidecar names defects_a.txt, which is not there",)
    (tmp_path / "defects_a.txt").write_text(LIST)  # above the root: another session's
    assert listed_defects(movie(tmp_path / "root"), None, total_with(truth)).mask is None


def test_where_nothing_is_named_nothing_is_said(tmp_path, truth):
    listed = listed_defects(movie(tmp_path, None), None, total_with(truth))
    assert (listed.mask, listed.count, listed.flags) == (None, None, ())


def test_the_list_that_is_set_comes_first_and_has_to_be_right(tmp_path, truth):
    one = movie(tmp_path)
    (tmp_path / "defects_a.txt").write_text(LIST)
    (tmp_path / "set.txt").write_text("0 0 1 1\n")
    assert listed_defects(one, str(tmp_path / "set.txt"), total_with(truth)).count == 1
    with pytest.raises(ConfigError, match="does not exist"):
        listed_defects(one, str(tmp_path / "none.txt"), total_with(truth))
    (tmp_path / "set.txt").write_text(LIST.replace(str(COLUMNS), "300"))
    with pytest.raises(MovieMismatch, match="another size"):
        listed_defects(one, str(tmp_path / "set.txt"), total_with(truth))


def test_a_named_list_that_cannot_be_used_does_not_stop_the_movie(tmp_path, truth):
    one = movie(tmp_path)
    (tmp_path / "defects_a.txt").write_text("CameraSizeX 5\nBadRows x\n")
    listed = listed_defects(one, None, total_with(truth))
    assert listed.mask is None
    assert listed.flags[0].startswith("defects: defects_a.txt, which the sidecar names, was not used: ")
    assert "line 2" in listed.flags[0]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda mask: mask[::-1], "0 quarter turns and flip 1"),
        (lambda mask: mask[:, ::-1], "0 quarter turns and flip 2"),
        (lambda mask: np.rot90(mask, -1), "1 quarter turns and flip 0"),
        (lambda mask: np.rot90(mask, -1)[::-1], "1 quarter turns and flip 1"),
    ],
)
def test_frames_saved_in_another_orientation_are_recognised_and_said(tmp_path, truth, turn, words):
    one, turned = movie(tmp_path), np.ascontiguousarray(turn(truth))
    (tmp_path / "defects_a.txt").write_text(LIST)
    listed = listed_defects(one, None, total_with(turned))
    np.testing.assert_array_equal(listed.mask, turned)
    assert listed.flags == (f"defects: defects_a.txt fits the frames after {words}, and was used so",)


def test_a_turned_list_whose_pixels_do_not_show_is_not_used(tmp_path, truth):
    one = movie(tmp_path)
    (tmp_path / "defects_a.txt").write_text(LIST)
    listed = listed_defects(one, None, total_with(np.zeros(truth.T.shape, bool)))
    assert listed.mask is None
    assert listed.flags == (
        "defects: defects_a.txt is turned against the frames, which do not show how; it was not used",
    )


def test_a_list_whose_pixels_do_not_show_is_used_as_it_is_written(tmp_path, truth):
    one = movie(tmp_path)
    (tmp_path / "defects_a.txt").write_text(LIST)
    listed = listed_defects(one, None, total_with(np.zeros(truth.shape, bool)))
    np.testing.assert_array_equal(listed.mask, truth)
    assert listed.flags == ()
