import struct
import tracemalloc
from contextlib import suppress

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported, StreamerError
from streamer.readers import mrc
from tests.streamer.readers.decoding import read_counts

IMOD_STAMP = 1_146_047_817


def header_bytes(nx=7, ny=5, nz=3, mode=6, *, mx=None, cell_x=0.0, nsymbt=0, map_id=b"MAP ", imod=None, order="<"):
    head = bytearray(1024)
    struct.pack_into(f"{order}4i", head, 0, nx, ny, nz, mode)
    struct.pack_into(f"{order}i", head, 28, nx if mx is None else mx)
    struct.pack_into(f"{order}f", head, 40, cell_x)
    struct.pack_into(f"{order}i", head, 92, nsymbt)
    if imod is not None:
        struct.pack_into(f"{order}2i", head, 152, IMOD_STAMP, imod)
    head[208:212] = map_id
    return bytes(head)


def write(path, head, data=b"\1" * (7 * 5 * 3 * 2)):
    path.write_bytes(head + data)
    return path


@pytest.mark.parametrize(("dtype", "mode"), [("int8", 0), ("int16", 1), ("float32", 2), ("uint16", 6), ("float16", 12)])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 8, 6), (4, 1, 9)])
def test_every_mode_comes_back_as_written(tmp_path, dtype, mode, shape):
    frames = np.random.default_rng(0).integers(-100 if mode != 6 else 0, 100, shape).astype(dtype)
    path = tmp_path / "movie.mrc"
    with mrcfile.new(path) as file:
        file.set_data(frames)
        file.voxel_size = 1.25
    header = mrc.read_header(path)
    assert (header.n_frames, header.height, header.width, header.dtype) == (*shape, dtype)
    assert header.pixel_size == pytest.approx(1.25)
    counts = read_counts(mrc, path, header)
    assert counts.dtype == frames.dtype
    np.testing.assert_array_equal(counts, frames)


def test_row_0_is_the_first_row_of_the_file(tmp_path):
    data = np.arange(2 * 3 * 4, dtype="<i2")
    path = write(tmp_path / "a.mrc", header_bytes(4, 3, 2, 1), data.tobytes())
    counts = read_counts(mrc, path, mrc.read_header(path))
    np.testing.assert_array_equal(counts[0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(counts[1, 2], [20, 21, 22, 23])


@pytest.mark.parametrize(
    ("imod", "dtype", "counts"),
    [
        (None, "int8", [-56, 1]),
        (0, "uint8", [200, 1]),
        (1, "uint8", [72, 129]),  # IMOD subtracts 128 where it writes signed bytes
        (2, "uint8", [200, 1]),
        (3, "uint8", [72, 129]),
    ],
)
def test_bytes_too_few_to_be_asked_are_read_as_the_file_says(tmp_path, imod, dtype, counts):
    path = write(tmp_path / "a.mrc", header_bytes(2, 1, 1, 0, imod=imod), b"\xc8\x01")
    header = mrc.read_header(path)
    assert header.dtype == dtype
    assert read_counts(mrc, path, header)[0, 0].tolist() == counts


def test_extended_header_is_skipped(tmp_path):
    path = write(tmp_path / "a.mrc", header_bytes(2, 1, 1, 1, nsymbt=100), b"\7" * 100 + b"\1\0\2\0")
    assert read_counts(mrc, path, mrc.read_header(path)).tolist() == [[[1, 2]]]


@pytest.mark.parametrize("map_id", [b"MAP ", b"MAP\0", b"\0\0\0\0"])
def test_the_map_id_is_optional(tmp_path, map_id):
    path = write(tmp_path / "a.mrc", header_bytes(map_id=map_id))
    assert mrc.read_header(path).n_frames == 3
    assert mrc.looks_like_mrc(path.read_bytes())


@pytest.mark.parametrize(
    ("cell_x", "mx", "expected"),
    [
        (7 * 0.83, 7, 0.83),
        (0.0, 7, None),
        (7.0, 0, None),
        (7.0, -7, None),
        (float("nan"), 7, None),
        (float("inf"), 7, None),
        (7.0, 7, None),  # what a program writes that was never told
        (7 * 0.049, 7, 0.049),  # said to be impossible where the sources are compared
        (7 * 51.0, 7, 51.0),
    ],
)
def test_pixel_size_only_where_it_can_be_one(tmp_path, cell_x, mx, expected):
    path = write(tmp_path / "a.mrc", header_bytes(cell_x=cell_x, mx=mx))
    found = mrc.read_header(path).pixel_size
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"nx": 0},
        {"nx": -1},
        {"nx": 65_537},
        {"ny": 65_537},
        {"nz": 0},
        {"nz": 20_001},
        {"nsymbt": -1},
        {"nsymbt": (16 << 20) + 1},
        {"mode": 5},
        {"mode": -1},
        {"mode": 7},
    ],
)
def test_impossible_headers_are_corrupt(tmp_path, wrong):
    with pytest.raises(MovieCorrupt):
        mrc.read_header(write(tmp_path / "a.mrc", header_bytes(**wrong)))


@pytest.mark.parametrize("mode", [3, 4])
def test_other_modes_are_refused_with_a_hint(tmp_path, mode):
    with pytest.raises(MovieUnsupported) as caught:
        mrc.read_header(write(tmp_path / "a.mrc", header_bytes(mode=mode)))
    assert caught.value.hint


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_counts_of_4_bits_in_mode_101(tmp_path, width):
    """Two to a byte, the first in the low half; each row begins at a whole byte."""
    frames = np.random.default_rng(width).integers(0, 16, (3, 5, width)).astype(np.uint8)
    even = np.pad(frames, ((0, 0), (0, 0), (0, width % 2)))
    packed = even[..., 0::2] | even[..., 1::2] << 4
    path = write(tmp_path / "a.mrc", header_bytes(width, 5, 3, 101), packed.tobytes())
    header = mrc.read_header(path)
    assert (header.width, header.dtype, header.decoded_bytes) == (width, "uint8", frames.size)
    np.testing.assert_array_equal(read_counts(mrc, path, header), frames)
    for cut in range(1, packed.nbytes):
        with pytest.raises(MovieNotReady):
            mrc.read_header(write(tmp_path / "cut.mrc", header_bytes(width, 5, 3, 101), packed.tobytes()[:-cut]))


@pytest.mark.parametrize(("size", "imod"), [((4, 5), 16), ((4, 5), 17), ((5760, 8184), None), ((3838, 7420), 0)])
def test_counts_of_4_bits_at_half_the_width_in_mode_0(tmp_path, size, imod):
    """By IMOD's flag, or at half the width of a K2's or K3's super-resolution frames, which nothing else has."""
    frames = np.random.default_rng(0).integers(0, 16, (1, size[1], 2 * size[0])).astype(np.uint8)
    packed = frames[..., 0::2] | frames[..., 1::2] << 4
    path = write(tmp_path / "a.mrc", header_bytes(*size, 1, 0, imod=imod), packed.tobytes())
    header = mrc.read_header(path)
    assert (header.height, header.width) == (size[1], 2 * size[0])
    np.testing.assert_array_equal(read_counts(mrc, path, header), frames)


def test_big_endian_is_refused_by_name(tmp_path):
    with pytest.raises(MovieUnsupported, match="big-endian"):
        mrc.read_header(write(tmp_path / "a.mrc", header_bytes(order=">")))


@pytest.mark.parametrize("cut", [0, 1, 100, 1023, 1024, 1025, 1024 + 209])
def test_a_shorter_file_is_not_ready(tmp_path, cut):
    whole = header_bytes() + b"\1" * 210
    (tmp_path / "a.mrc").write_bytes(whole[:cut])
    with pytest.raises(MovieNotReady):
        mrc.read_header(tmp_path / "a.mrc")


@pytest.mark.parametrize("more", [1, 70, 10_000])
def test_a_longer_file_is_not_ready_and_says_both_sizes(tmp_path, more):
    path = write(tmp_path / "a.mrc", header_bytes(), b"\1" * (210 + more))
    with pytest.raises(MovieNotReady) as caught:
        mrc.read_header(path)
    assert caught.value.expected == "1234 bytes"
    assert caught.value.found == f"{1234 + more} bytes"


def test_a_preallocated_file_is_not_ready(tmp_path):
    path = write(tmp_path / "a.mrc", bytes(1024), bytes(210))
    with pytest.raises(MovieNotReady, match="not filled in"):
        mrc.read_header(path)


def test_a_file_that_says_something_else_now_is_not_ready(tmp_path):
    path = write(tmp_path / "a.mrc", header_bytes())
    header = mrc.read_header(path)
    write(path, header_bytes(nz=2), b"\1" * 140)
    with pytest.raises(MovieNotReady, match="changed"):
        read_counts(mrc, path, header)


def test_a_file_that_shrinks_while_it_is_read_is_not_ready(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mrc", header_bytes())
    header = mrc.read_header(path)
    monkeypatch.setattr(mrc, "read_into", lambda *_: 69)
    with pytest.raises(MovieNotReady, match="shorter"):
        read_counts(mrc, path, header)


def test_nothing_is_allocated_for_a_lying_header(tmp_path):
    path = write(tmp_path / "a.mrc", header_bytes(65_536, 65_536, 20_000, 2))
    tracemalloc.start()
    try:
        with pytest.raises(MovieNotReady):
            mrc.read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 1300),
    map_id=st.booleans(),
)
def test_no_header_raises_anything_but_our_errors(tmp_path, flips, cut, map_id):
    whole = bytearray(header_bytes(map_id=b"MAP " if map_id else b"\0\0\0\0") + b"\1" * 210)
    for place, value in flips:
        whole[place] = value
    path = tmp_path / "a.mrc"
    path.write_bytes(whole[:cut])
    try:
        counts = read_counts(mrc, path, mrc.read_header(path))
    except StreamerError:
        return
    assert counts.nbytes + 1024 <= cut


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3),
    mode=st.sampled_from([0, 1, 2, 6, 12, 3, 4, 101, 7, -5]),
    mx=st.integers(-(2**31), 2**31 - 1),
    cell=st.floats(width=32),
    nsymbt=st.integers(-(2**31), 2**31 - 1),
)
def test_no_fields_raise_anything_but_our_errors(tmp_path, numbers, mode, mx, cell, nsymbt):
    path = write(tmp_path / "a.mrc", header_bytes(*numbers, mode, mx=mx, cell_x=cell, nsymbt=nsymbt))
    with suppress(StreamerError):
        read_counts(mrc, path, mrc.read_header(path))
