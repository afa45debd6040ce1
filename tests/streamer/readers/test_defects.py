import gzip
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from streamer.errors import ConfigError, MovieMismatch
from streamer.readers.defects import read_defects

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


def test_serialems_own_format_gets_a_way_out(tmp_path):
    path = tmp_path / "defects.txt"
    path.write_text("CameraSizeX 11520\nCameraSizeY 8184\nBadColumns 5 6\n")
    with pytest.raises(ConfigError, match="SerialEM") as caught:
        read_defects(path, (6, 8))
    assert "clip defect -D" in caught.value.hint


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
    began = time.perf_counter()
    with pytest.raises(ConfigError, match=match) as caught:
        read_defects(path, (6, 8))
    assert time.perf_counter() - began < 2
    assert "map" in caught.value.hint
