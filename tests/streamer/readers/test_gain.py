import hashlib
import struct

import mrcfile
import numpy as np
import pytest
import tifffile

from streamer.errors import ConfigError, MovieNotReady
from streamer.readers.gain import gain_candidates, is_gain_name, read_gain

GAIN = np.linspace(0.5, 1.5, 7 * 10).reshape(7, 10)


def write_mrc(path, values):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
    return path


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", GAIN),
        ("float16", GAIN),
        ("int16", GAIN * 1000),
        ("uint16", GAIN * 1000),
        ("int8", GAIN * 80),
    ],
)
def test_mrc_gains(tmp_path, dtype, values):
    path = write_mrc(tmp_path / "gain.mrc", values.astype(dtype))
    gain = read_gain(path)
    assert gain.values.dtype == np.float32
    np.testing.assert_array_equal(gain.values, values.astype(dtype).astype(np.float32))
    assert gain.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert gain.path == str(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_gains_are_turned_over_as_movies_are(tmp_path, dtype):
    values = (GAIN * (100 if dtype != "float32" else 1)).astype(dtype)
    tifffile.imwrite(tmp_path / "gain.tif", values[::-1], metadata=None, compression="lzw")
    np.testing.assert_array_equal(read_gain(tmp_path / "gain.tif").values, values.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_impossible_gains_are_an_error_of_the_configuration(tmp_path, bad):
    values = GAIN.astype(np.float32)
    values[3, 4] = bad
    tifffile.imwrite(tmp_path / "gain.tif", values, metadata=None)
    with pytest.raises(ConfigError, match="negative" if bad == -0.1 else "not finite"):
        read_gain(tmp_path / "gain.tif")


def test_a_zero_marks_a_defect_but_all_zeros_are_none(tmp_path):
    values = GAIN.astype(np.float32)
    values[3, 4] = 0
    assert read_gain(write_mrc(tmp_path / "gain.mrc", values)).values[3, 4] == 0
    with pytest.raises(ConfigError, match="no gain above 0"):
        read_gain(write_mrc(tmp_path / "gain.mrc", 0 * values))


def test_several_images_are_no_gain(tmp_path):
    with pytest.raises(ConfigError, match="1 image"):
        read_gain(write_mrc(tmp_path / "gain.mrc", np.ones((2, 3, 4), np.float32)))


def test_dm3_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "a.dm3").write_bytes(b"x")
    with pytest.raises(ConfigError) as caught:
        read_gain(tmp_path / "a.dm3")
    assert "gain.mrc" in caught.value.hint


def dm4_bytes(image, *, sizes=None):
    """A DM4 file with a thumbnail and then ``image`` (h, w) float32, rows from the top."""

    def directory(name, entries, is_named=True):
        body = b"\0\0" + struct.pack(">Q", len(entries)) + b"".join(entries)
        return tag(20, name, body)

    def tag(kind, name, body):
        return struct.pack(">BH", kind, len(name)) + name + struct.pack(">Q", len(body)) + body

    def number(value):
        return tag(21, b"", b"%%%%" + struct.pack(">QQ", 1, 5) + struct.pack("<I", value))

    def pixels(values):
        info = struct.pack(">4Q", 3, 20, 6, values.size)
        return tag(21, b"Data", b"%%%%" + info + values.astype("<f4").tobytes())

    def entry(values, sizes):
        data = directory(b"ImageData", [pixels(values), directory(b"Dimensions", [number(n) for n in sizes])])
        return directory(b"", [data])

    images = [entry(np.ones((2, 2)), (2, 2)), entry(image, sizes or image.shape[::-1])]
    root = b"\0\0" + struct.pack(">Q", 1) + directory(b"ImageList", images)
    return struct.pack(">IQI", 4, len(root), 1) + root


def test_dm4_gives_its_last_image_turned_over(tmp_path):
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    path = tmp_path / "CountRef.dm4"
    path.write_bytes(dm4_bytes(values))
    gain = read_gain(path)
    np.testing.assert_array_equal(gain.values, values[::-1])
    assert gain.is_multiplicative


@pytest.mark.parametrize("cut", [4, 16, 40, 100, 250, -1])
def test_a_damaged_dm4_is_told(tmp_path, cut):
    path = tmp_path / "CountRef.dm4"
    path.write_bytes(dm4_bytes(np.ones((5, 7), np.float32))[:cut])
    with pytest.raises(ConfigError, match="DM4"):
        read_gain(path)
    path.write_bytes(dm4_bytes(np.ones((5, 7), np.float32), sizes=(5, 8)))
    with pytest.raises(ConfigError, match="a different number"):
        read_gain(path)


def test_rows_of_a_gain_for_eer_are_not_turned_over(tmp_path):
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    for name, expected in (("a_EER_GainReference.gain", values), ("gain.tif", values[::-1])):
        tifffile.imwrite(tmp_path / name, values)
        gain = read_gain(tmp_path / name)
        np.testing.assert_array_equal(gain.values, expected)
        assert gain.is_multiplicative
    assert not read_gain(write_mrc(tmp_path / "gain.mrc", values)).is_multiplicative


def test_a_missing_gain_or_one_that_is_no_image(tmp_path):
    with pytest.raises(ConfigError, match="no such"):
        read_gain(tmp_path / "gain.mrc")
    (tmp_path / "gain.mrc").write_text("gain " * 1000)
    with pytest.raises(ConfigError, match="text file"):
        read_gain(tmp_path / "gain.mrc")


def test_a_gain_that_is_still_being_copied_is_waited_for(tmp_path):
    path = write_mrc(tmp_path / "gain.mrc", GAIN.astype(np.float32))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(MovieNotReady):
        read_gain(path)


@pytest.mark.parametrize(
    ("name", "is_gain"),
    [
        ("gain.mrc", True),
        ("GAIN.MRC", True),
        ("my_gain_ref.tiff", True),
        ("FoilHole_1_Data_2-gain-ref.MRC", True),
        ("CountRef_s_0001.dm4", True),
        ("SuperRef_s_mmm_00000_-15.0_Oct08_01.59.24.dm4", True),
        ("CountCDSRef_x.mrc", True),
        ("20241106_143157_EER_GainReference.gain", True),
        ("anything.gain", True),
        ("bargain_001.tif", False),
        ("again_1.mrc", False),
        ("gain_notes.txt", False),
        ("gain.mrc.mdoc", False),
        ("FoilHole_1_Data_2_3_20240101_000000_fractions.tiff", False),
        ("reference.mrc", False),
    ],
)
def test_names_of_gains(name, is_gain):
    assert is_gain_name(name) is is_gain


def test_candidates_below_the_root(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".snapshot").mkdir()
    wanted = [tmp_path / "b" / "CountRef_x.dm4", tmp_path / "b" / "c" / "x_gain.mrc", tmp_path / "z.gain"]
    others = [tmp_path / "b" / "movie_0001.tif", tmp_path / ".snapshot" / "gain.mrc", tmp_path / ".gain.mrc"]
    for path in wanted + others:
        path.write_bytes(b"x")
    (tmp_path / "gain_link.mrc").symlink_to(wanted[1])
    (tmp_path / "gain_directory.mrc").mkdir()
    assert gain_candidates(tmp_path) == sorted(wanted)
    assert gain_candidates(tmp_path / "absent") == []
