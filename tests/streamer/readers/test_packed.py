"""Two counts of 4 bits in a byte: unpacked as IMOD and RELION do, or refused."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile

from streamer.errors import MovieUnsupported
from streamer.readers import encoding, movie

K2, K3 = (7420, 7676), (8184, 11520)
"""(h, w) in super-resolution."""


def electrons(shape, mean=0.4, seed=0):
    """(t, h, w), at most 15; large ones repeat themselves."""
    block = np.minimum(np.random.default_rng(seed).poisson(mean, (shape[0], *np.minimum(shape[1:], 500))), 15)
    times = [-(-shape[axis] // block.shape[axis]) for axis in (1, 2)]
    return np.tile(block.astype(np.uint8), (1, *times))[:, : shape[1], : shape[2]]


def packed(frames):
    """Two neighbours in a byte, the first in the low half."""
    return frames[..., 0::2] | frames[..., 1::2] << 4


def write_tiff(path, stored, **options):
    """Our row 0 is the last row of a TIFF page."""
    with tifffile.TiffWriter(path) as file:
        for page in stored:
            file.write(page[::-1], metadata=None, contiguous=False, **({"compression": "lzw"} | options))
    return path


def write_mrc(path, stored, *, imod=None, label=""):
    head = bytearray(1024)
    struct.pack_into("<4i", head, 0, stored.shape[2], stored.shape[1], stored.shape[0], 0)
    if imod is not None:
        struct.pack_into("<2i", head, 152, 1_146_047_817, imod)
    struct.pack_into("<i", head, 220, 1)
    head[224 : 224 + len(label)] = label.encode()
    head[208:212] = b"MAP "
    path.write_bytes(bytes(head) + stored.tobytes())
    return path


def read(path):
    header = movie.read_header(path)
    return header, movie.read_counts(path, header, in_memory_bytes=1 << 32, threads=2)


@pytest.mark.parametrize("size", [K2, K2[::-1], K3, K3[::-1], (7424, 7680)])
def test_half_the_width_of_a_super_resolution_camera_is_unpacked(tmp_path, size):
    frames = electrons((1, *size))
    header, counts = read(write_tiff(tmp_path / "a.tif", packed(frames), compression=None, rowsperstrip=100))
    assert (header.height, header.width, header.dtype, header.flags) == (*size, "uint8", ())
    np.testing.assert_array_equal(counts, frames)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("mean", [0.02, 0.4, 3.0])
@pytest.mark.parametrize("write", [write_tiff, write_mrc])
def test_the_numbers_alone_show_it_whatever_the_size(tmp_path, compression, mean, write):
    frames = electrons((4, 96, 200), mean)
    options = {"compression": compression, "rowsperstrip": 7} if write is write_tiff else {}
    header, counts = read(write(tmp_path / "a", packed(frames), **options))
    assert (header.height, header.width) == (96, 200)
    assert header.flags == (encoding.BY_NUMBERS_ALONE,)
    np.testing.assert_array_equal(counts, frames)
    assert counts.mean() == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("rows", [3, 50])
def test_differences_between_neighbouring_bytes_are_undone_first(tmp_path, rows):
    frames = electrons((3, 50, 80))
    path = write_tiff(tmp_path / "a.tif", packed(frames), predictor=2, rowsperstrip=rows)
    np.testing.assert_array_equal(read(path)[1], frames)


def test_the_description_of_the_plug_in_for_gatan_cameras_says_it(tmp_path):
    # too few bytes to be asked
    frames = electrons((1, 10, 16))
    said = "SerialEMCCD: Dose fractionated image, 4 bits packed, scaled by 1.00"
    header, counts = read(write_tiff(tmp_path / "a.tif", packed(frames), description=said))
    assert (header.width, header.flags) == (16, ())
    np.testing.assert_array_equal(counts, frames)
    header, counts = read(write_mrc(tmp_path / "a.mrc", packed(frames), label=said))
    np.testing.assert_array_equal(counts, frames)
    header = movie.read_header(write_tiff(tmp_path / "b.tif", packed(frames)))
    assert header.width == 8


def test_real_4_bits_in_a_tiff_are_the_other_way_round(tmp_path):
    """As TIFF 6.0 has it: the first sample in the high half. Only bytes that SerialEM packs have it in the low half."""
    frame = electrons((1, 40, 64))[0]
    strip = imagecodecs.lzw_encode((frame[:, 0::2] << 4 | frame[:, 1::2]).tobytes())
    entries = {256: 64, 257: 40, 258: 4, 259: 5, 262: 1, 273: 8, 277: 1, 278: 40, 279: len(strip)}
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", n, 4, 1, v) for n, v in entries.items())
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory + bytes(4))
    header, counts = read(path)
    assert (header.width, header.flags) == (64, ())
    np.testing.assert_array_equal(counts[0], frame[::-1])


@pytest.mark.parametrize("write", [write_tiff, write_mrc])
def test_a_packed_size_whose_bytes_hold_one_count_is_refused(tmp_path, write):
    frames = electrons((1, 7420, 3838))
    with pytest.raises(MovieUnsupported, match="holds one") as caught:
        movie.read_header(write(tmp_path / "a", frames))
    assert "SerialEM" in caught.value.hint


@pytest.mark.parametrize(
    ("shape", "mean"), [((1, 4092, 5760), 1.0), ((1, 3838, 3710), 0.8), ((3, 96, 128), 40.0), ((3, 96, 128), 0.01)]
)
@pytest.mark.parametrize("write", [write_tiff, write_mrc])
def test_counting_mode_stays_as_it_is(tmp_path, shape, mean, write):
    frames = np.minimum(np.random.default_rng(1).poisson(mean, shape), 127).astype(np.uint8)
    header, counts = read(write(tmp_path / "a", frames))
    assert ((header.height, header.width), header.flags) == (shape[1:], ())
    np.testing.assert_array_equal(counts, frames)


@pytest.mark.parametrize("mean", [0.005, 0.02, 0.1, 0.5, 2.0, 8.0, 16.0, 40.0, 120.0, 200.0])
@pytest.mark.parametrize("hot", [0.0, 1e-4, 1e-3])
@pytest.mark.parametrize("factor", [1, 10, 16, 17])
def test_one_count_is_never_taken_for_two(mean, hot, factor):
    """With contrast, hot pixels, and counts that were multiplied."""
    rng = np.random.default_rng(3)
    counts = factor * rng.poisson(mean * np.exp(0.3 * rng.normal(size=50_000)))
    where = rng.random(counts.size) < hot
    counts[where] = rng.integers(16, 256, where.sum())
    assert encoding.packing_of(np.minimum(counts, 255).astype(np.uint8)) != "two counts"


def bar(height, width):
    return np.where(np.arange(width) < width / 2, 0.0, 4.0) * np.ones((height, 1))


def film(height, width):
    """A hole and its surroundings."""
    rows, columns = np.ogrid[:height, :width]
    return np.where((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 3) ** 2, 5.0, 0.3)


@pytest.mark.parametrize("scene", [bar, film, lambda height, width: bar(width, height).T])
@pytest.mark.parametrize("write", [write_tiff, write_mrc])
def test_a_strong_contrast_hides_nothing(tmp_path, scene, write):
    """Both counts of a byte are in the dark, or in the light."""
    mean = np.broadcast_to(scene(300, 400), (3, 300, 400))
    frames = np.minimum(np.random.default_rng(5).poisson(mean), 15).astype(np.uint8)
    header, counts = read(write(tmp_path / "a", packed(frames)))
    assert header.flags == (encoding.BY_NUMBERS_ALONE,)
    np.testing.assert_array_equal(counts, frames)
    bright = np.random.default_rng(6).poisson(12.0 * mean).astype(np.uint8)
    header, counts = read(write(tmp_path / "b", bright))
    assert header.flags == ()
    np.testing.assert_array_equal(counts, bright)


def test_noise_without_a_camera_is_not_taken_for_two():
    assert encoding.packing_of(np.random.default_rng(0).integers(0, 256, 50_000).astype(np.uint8)) == "unclear"
