"""Sign and offset of the integers in MRC files: what the file says, what its numbers say, and what neither says."""

import struct

import mrcfile
import numpy as np
import pytest

from streamer.errors import MovieUnsupported
from streamer.movie_record import Acquisition
from streamer.readers import movie
from streamer.readers.encoding import BelowZero, sign_of
from streamer.readers.files import identity_of
from streamer.records import Movie

SHAPE = (4, 60, 70)
SHIFTED = "counts: {} was subtracted when the movie was saved, and is added again"
OVERRULED = "counts: read as {} integers of {} bits, which is not what the header says"


def write(path, stored, mode, *, imod=None, limits=(0.0, 0.0)):
    head = bytearray(1024)
    struct.pack_into("<4i", head, 0, stored.shape[2], stored.shape[1], stored.shape[0], mode)
    struct.pack_into("<2f", head, 76, *limits)
    if imod is not None:
        struct.pack_into("<2i", head, 152, 1_146_047_817, imod)
    head[208:212] = b"MAP "
    path.write_bytes(bytes(head) + stored.tobytes())
    return path


def read(path, **options):
    header = movie.read_header(path)
    return header, movie.read_counts(path, header, **({"in_memory_bytes": 1 << 30, "threads": 1} | options))


def electrons(mean, seed=0, contrast=0.1):
    rng = np.random.default_rng(seed)
    return rng.poisson(mean * np.exp(contrast * rng.normal(size=SHAPE)))


def with_hot_pixels(counts, *values):
    counts = counts.copy()
    for number, value in enumerate(values):
        counts[:, 3 + number, 5 * number] = value
    return counts


@pytest.mark.parametrize("mean", [0.02, 1.0, 9.0, 60.0, 120.0, 170.0])
@pytest.mark.parametrize("in_memory_bytes", [1 << 30, 0])
def test_the_signed_bytes_of_imod_are_128_less_than_the_counts(tmp_path, mean, in_memory_bytes):
    counts = with_hot_pixels(electrons(mean, contrast=0.05), 255, 0)
    assert counts.max() == 255
    path = write(tmp_path / "a.mrc", (counts - 128).astype(np.int8), 0, imod=1)
    header, found = read(path, in_memory_bytes=in_memory_bytes)
    assert (header.dtype, header.flags) == ("uint8", ())
    np.testing.assert_array_equal(np.stack([frame.copy() for frame in found]), counts)


@pytest.mark.parametrize("mean", [0.3, 4.0])
def test_counts_that_imod_only_stamped_stay_as_they_are(tmp_path, mean):
    counts = electrons(mean)
    header, found = read(write(tmp_path / "a.mrc", counts.astype(np.int8), 0, imod=1))
    assert header.flags == ()
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize(
    ("counts", "limits"),
    [
        (electrons(120.0), (0, 0)),
        (electrons(150.0, contrast=0.02), (0, 0)),
        (electrons(190.0), (60, 255)),
        (with_hot_pixels(electrons(0.4), 130, 200, 255), (0, 0)),
        (with_hot_pixels(electrons(12.0), 255), (0, 0)),
        (with_hot_pixels(electrons(3.0), 254), (0, 254)),
    ],
)
def test_bytes_beyond_127_without_a_stamp_are_unsigned(tmp_path, counts, limits):
    counts = np.minimum(counts, 255)
    header, found = read(write(tmp_path / "a.mrc", counts.astype(np.uint8), 0, limits=limits))
    assert (header.dtype, header.flags) == ("uint8", ())
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize(
    ("counts", "limits"),
    [
        (electrons(33_000.0, contrast=0.02), (0, 0)),
        (electrons(40_000.0, contrast=0.0), (0, 0)),
        (electrons(50_000.0, contrast=0.03), (20_000, 60_000)),
        (with_hot_pixels(electrons(40.0), 40_000, 65_535, 50_000), (0, 0)),
        (8000 * electrons(2.0, contrast=0.0).clip(max=8), (5, 4)),
    ],
)
def test_unsigned_integers_in_mode_1_are_unsigned(tmp_path, counts, limits):
    header, found = read(write(tmp_path / "a.mrc", counts.astype(np.uint16), 1, limits=limits))
    assert (header.dtype, header.flags) == ("uint16", (OVERRULED.format("unsigned", 16),))
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize(("dtype", "mode", "shift"), [(np.int8, 0, 128), (np.int16, 1, 32_768)])
@pytest.mark.parametrize("mean", [0.05, 1.0, 14.0])
def test_a_subtracted_half_of_the_range_is_added_again(tmp_path, dtype, mode, shift, mean):
    counts = electrons(mean)
    header, found = read(write(tmp_path / "a.mrc", (counts - shift).astype(dtype), mode))
    assert (header.dtype, header.flags) == (f"u{np.dtype(dtype).name}", (SHIFTED.format(shift),))
    np.testing.assert_array_equal(found, counts)


def split(dark, bright, share=0.5):
    """A grid bar beside a hole."""
    mean = np.where(np.arange(SHAPE[2]) < share * SHAPE[2], dark, bright)
    return np.random.default_rng(7).poisson(np.broadcast_to(mean, SHAPE))


@pytest.mark.parametrize(("dark", "bright"), [(1.0, 200.0), (10.0, 150.0), (0.2, 180.0)])
def test_bytes_of_dark_and_bright_parts(tmp_path, dark, bright):
    """The bright part of unsigned ones looks like numbers below zero, and so does the dark one where 128 was taken."""
    counts = split(dark, bright).clip(max=255).astype(np.uint8)
    for imod in (None, 0):
        header, found = read(write(tmp_path / "a.mrc", counts, 0, imod=imod))
        assert header.flags == ()
        np.testing.assert_array_equal(found, counts)
    stored = counts ^ np.uint8(128)
    for imod, flags in ((None, (SHIFTED.format(128),)), (1, ())):
        header, found = read(write(tmp_path / "a.mrc", stored, 0, imod=imod))
        assert header.flags == flags
        np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize(("dark", "bright"), [(100.0, 50_000.0), (5.0, 36_000.0), (400.0, 62_000.0)])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_integers_of_dark_and_bright_parts(tmp_path, dark, bright, share):
    counts = split(dark, bright, share).clip(max=65_535).astype(np.uint16)
    for stored, mode, flags in (
        (counts, 6, ()),
        (counts, 1, (OVERRULED.format("unsigned", 16),)),
        (counts ^ np.uint16(32_768), 1, (SHIFTED.format(32_768),)),
    ):
        header, found = read(write(tmp_path / "a.mrc", stored, mode))
        assert header.flags == flags
        np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize(("dark", "bright"), [(0.0, 30.0), (0.05, 60.0)])
def test_many_zeros_are_no_counts_of_128(tmp_path, dark, bright):
    """IMOD's stamp on bytes from which nothing was taken."""
    counts = split(dark, bright).clip(max=127)
    header, found = read(write(tmp_path / "a.mrc", counts.astype(np.int8), 0, imod=1))
    assert header.flags == ()
    np.testing.assert_array_equal(found, counts)


def test_the_headers_limits_tell_a_shift_where_the_numbers_do_not(tmp_path):
    # a camera that does not count: 5000 per pixel, and 20 times the noise of counts
    rng = np.random.default_rng(0)
    counts = np.rint(rng.normal(5000.0, (20 * 5000.0) ** 0.5, SHAPE)).astype(np.int64)
    stored = (counts - 32_768).astype(np.int16)
    path = write(tmp_path / "a.mrc", stored, 1, limits=(stored.min(), stored.max()))
    header, found = read(path)
    assert header.flags == (SHIFTED.format(32_768),)
    np.testing.assert_array_equal(found, counts)
    with pytest.raises(MovieUnsupported, match="two ways") as caught:
        movie.read_header(write(path, stored, 1))
    assert "mode 6" in caught.value.hint


def below_zero(counts):
    found = BelowZero()
    for frame in counts:
        found.add(frame)
    return found.flags


@pytest.mark.parametrize(("dtype", "mode"), [(np.int8, 0), (np.int16, 1), (np.int16, 6), (np.float32, 2)])
@pytest.mark.parametrize(("mean", "spread"), [(10.0, 12.0), (0.0, 5.0), (30.0, 11.0)])
def test_what_is_really_below_zero_is_said(tmp_path, dtype, mode, mean, spread):
    """A background that was subtracted: read as it is, also where the mode has no sign."""
    values = np.rint(np.random.default_rng(1).normal(mean, spread, SHAPE)).astype(dtype)
    path = write(tmp_path / "a.mrc", values, mode)
    found = Movie(path=str(path), relative="a.mrc", session="s", identity=identity_of(path), acquisition=Acquisition())
    header, counts, content = movie.read_whole(found, in_memory_bytes=1 << 30, threads=1)
    np.testing.assert_array_equal(counts, values)
    (said,) = [flag for flag in content.flags if flag.startswith("counts")]
    assert "of the pixels are below zero, down to " + f"{values.min():g}" in said
    assert float(said.split()[1]) == pytest.approx(100.0 * (values < 0).mean(), rel=0.05)
    assert header.flags == ((OVERRULED.format("signed", 16),) if mode == 6 else ())


@pytest.mark.parametrize(("dtype", "mode"), [("int8", 0), ("int16", 1), ("uint16", 6), ("float32", 2), ("float16", 12)])
@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 25.0])
@pytest.mark.parametrize("seed", range(3))
def test_clean_counts_are_read_as_they_are(tmp_path, dtype, mode, mean, seed):
    counts = np.minimum(electrons(mean, seed), 127).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(counts)
    assert struct.unpack_from("<i", (tmp_path / "a.mrc").read_bytes(), 12) == (mode,)
    header, found = read(tmp_path / "a.mrc")
    assert (header.dtype, header.flags, below_zero(found)) == (dtype, (), ())
    assert found.tobytes() == counts.tobytes()


@pytest.mark.parametrize("bright", [300.0, 20_000.0, 33_000.0, 60_000.0])
def test_bright_and_saturated_pixels_of_unsigned_integers_are_bright(bright):
    """Those that have the top bit set are no negative ones, be they many or few."""
    counts = np.minimum(electrons(bright, contrast=0.3), 65_535)
    for stored in (counts, with_hot_pixels(counts, 65_535, 65_534, 40_000)):
        sample = stored.astype(np.uint16).ravel()
        assert sign_of(sample, named="unsigned", limits=None) == "unsigned"
        assert sign_of(sample, named="unsigned", limits=(0.0, 65_535.0)) == "unsigned"


@pytest.mark.parametrize(
    "limits", [(0.0, 0.0), (1.0, -1.0), (float("nan"), 3.0), (float("-inf"), float("inf")), (0, 9)]
)
def test_limits_that_nobody_computed_say_nothing(tmp_path, limits):
    counts = electrons(130.0)
    assert (read(write(tmp_path / "a.mrc", counts.astype(np.uint8), 0, limits=limits))[1] == counts).all()


def test_few_counts_below_zero_are_counted():
    counts = np.ones((3, 100, 100), np.float32)
    counts[1, 5, 5] = -2.5
    assert below_zero(counts) == ("counts: 1 of the pixels are below zero, down to -2.5: something was subtracted",)


@pytest.mark.parametrize(("mean", "contrast", "factor"), [(103.0, 0.28, 1), (112.0, 0.04, 1), (130.0, 0.06, 200)])
def test_a_header_that_says_unsigned_is_right_about_counts_around_the_middle_of_the_range(mean, contrast, factor):
    counts = (factor * electrons(mean, contrast=contrast)).clip(max=255 if factor == 1 else 65_535)
    sample = counts.astype(np.uint8 if factor == 1 else np.uint16).ravel()
    assert sign_of(sample, named="unsigned", limits=None) == "unsigned"
    assert sign_of(sample[sample.argsort()], named="unsigned", limits=None) == "unsigned"
