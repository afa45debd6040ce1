import gzip
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from streamer.detector.defect_files import read_defects
from streamer.errors import ConfigError, MovieMismatch

REAL = Path(__file__).parents[4] / "shared" / "data" / "k3-defect-map" / "k3_defect_map.mrc.gz"


def test_lines_of_x_y_width_height(tmp_path):
    path = tmp_path / "defects.txt"
    path.write_text("# x y w h\n1 2 3 1\n\n7 0 1 9   # a column\n100 100 5 5\n")
    found = read_defects(path, (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[2, 1:4] = expected[:, 7] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("line", ["1 2 3", "a b c d", "-1 0 1 1", "1 1 0 1", "1 2 3 4 5"])
def test_a_line_that_cannot_be_used_is_told(tmp_path, line):
    path = tmp_path / "defects.txt"
    path.write_text(f"1 1 1 1\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_defects(path, (6, 8))


SERIALEM = """CameraSizeX 12
CameraSizeY 8
RotationAndFlip 7
WasScaled 0
K2Type 1
FalconType 0
NumToAvgSuperRes 0
UsableArea 0 0 0 0
PartialBadColumn 9 2 1 3
PartialBadRow 6 1 0 4
BadPixels 0 0 11 7
BadColumns 5 6
BadRows 4
SomethingNew 1 2 3
"""


def serialem_truth():
    """By hand, row 0 at the top as SerialEM counts, then turned upside down."""
    truth = np.zeros((8, 12), bool)
    truth[1:4, 9:11] = truth[6, 0:5] = truth[0, 0] = truth[7, 11] = truth[:, 5:7] = truth[4] = True
    return truth[::-1]


def test_serialems_own_list(tmp_path):
    path = tmp_path / "defects.txt"
    path.write_text(SERIALEM)
    np.testing.assert_array_equal(read_defects(path, (8, 12)), serialem_truth())


def test_serialems_list_on_frames_of_other_sizes(tmp_path):
    path = tmp_path / "defects.txt"
    path.write_bytes(SERIALEM.replace("\n", "\r\n").encode())
    truth = serialem_truth()
    for factor in (2, 4):
        fine = truth.repeat(factor, 0).repeat(factor, 1)
        np.testing.assert_array_equal(read_defects(path, fine.shape), fine)
    # binned by 2, and the middle of the chip
    np.testing.assert_array_equal(read_defects(path, (4, 6)), truth.reshape(4, 2, 6, 2).any((1, 3)))
    np.testing.assert_array_equal(read_defects(path, (8, 10)), truth[:, 1:11])
    for shape in ((9, 40), (12, 8), (7, 30)):
        with pytest.raises(MovieMismatch, match="camera of another size"):
            read_defects(path, shape)


def test_a_scaled_list_of_serialem_has_pixels_of_2_by_2_and_a_usable_area_leaves_a_border(tmp_path):
    path = tmp_path / "defects.txt"
    path.write_text("CameraSizeX 12\nCameraSizeY 8\nWasScaled 1\nBadPixels 4 2\nUsableArea 1 2 6 10\n")
    truth = np.ones((8, 12), bool)
    truth[1:7, 2:11] = False
    truth[2:4, 4:6] = True
    np.testing.assert_array_equal(read_defects(path, (8, 12)), truth[::-1])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("CameraSizeX 12\nBadColumns 5\n", "how large the camera is"),
        ("CameraSizeX 12\nCameraSizeY 8\nPartialBadColumn 5 1\n", "line 3"),
        ("CameraSizeX 12\nCameraSizeY 8\nBadRows x\n", "line 3"),
        ("CameraSizeX 12\nCameraSizeY 8\nBadPixels -1 4\n", "line 3"),
        ("CameraSizeX 99999999\nCameraSizeY 99999999\n", "how large the camera is"),
    ],
)
def test_a_list_of_serialem_that_cannot_be_used(tmp_path, text, match):
    path = tmp_path / "defects.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_defects(path, (8, 12))


def test_maps(tmp_path):
    truth = np.random.default_rng(0).random((6, 8)) < 0.2
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(truth.astype(np.int8))
    tifffile.imwrite(tmp_path / "map.tif", truth.astype(np.uint8)[::-1])
    for name in ("map.mrc", "map.tif"):
        np.testing.assert_array_equal(read_defects(tmp_path / name, (6, 8)), truth)
    with pytest.raises(MovieMismatch, match="differ in size"):
        read_defects(tmp_path / "map.mrc", (6, 9))


def test_what_is_no_defect_file(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_defects(tmp_path / "none", (6, 8))
    with mrcfile.new(tmp_path / "stack.mrc") as file:
        file.set_data(np.ones((2, 6, 8), np.int8))
    with pytest.raises(ConfigError, match="not a defect map"):
        read_defects(tmp_path / "stack.mrc", (6, 8))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0\0\0")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_defects(tmp_path / "a.png", (6, 8))


@pytest.mark.skipif(not REAL.is_file(), reason="the real map is not at hand")
def test_the_map_of_a_real_k3(tmp_path):
    path = tmp_path / "k3.mrc"
    path.write_bytes(gzip.decompress(REAL.read_bytes()))
    found = read_defects(path, (4092, 5760))
    assert found.mean() == pytest.approx(0.00035, abs=0.0001)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"1 1 1 1\n" * 2_000_000, "too long; expected at most 100000 lines"),
        (b"1 1 1 1" + b" " * (16 << 20) + b"\n2 2 1 1\n", "too large; expected at most 16777216 bytes"),
    ],
)
def test_a_list_longer_than_any_cameras_is_refused_not_cut(tmp_path, text, match):
    path = tmp_path / "defects.txt"
    path.write_bytes(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=match) as caught:
        read_defects(path, (6, 8))
    assert time.process_time() - began < 2
    assert "map" in caught.value.hint
