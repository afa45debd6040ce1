import itertools
import struct
import tracemalloc
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported, StreamerError
from streamer.readers import tiff, tiff_pages, tiff_tags
from tests.streamer.readers.decoding import read_counts

RNG = np.random.default_rng(1)


def movie(dtype="uint8", shape=(3, 11, 13)):
    if np.dtype(dtype).kind == "f":
        return RNG.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def write(path, frames, **options):
    """Write page by page, as cameras do; our row 0 is the last row of a TIFF page."""
    kind = {key: options.pop(key) for key in ("bigtiff", "byteorder") if key in options}
    with tifffile.TiffWriter(path, **kind) as file:
        for frame in frames:
            file.write(frame[::-1], metadata=None, contiguous=False, **options)
    return path


def read(path, threads=1):
    header = tiff.read_header(path)
    return read_counts(tiff, path, header, threads=threads)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "deflate", "packbits", "zstd"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_kind_comes_back_as_written(tmp_path, dtype, compression, big, byte_order):
    frames = movie(dtype)
    for rows, threads in ((1, 1), (4, 2), (11, 3), (64, 1)):
        path = write(
            tmp_path / "a.tif",
            frames,
            compression=compression,
            rowsperstrip=rows,
            bigtiff=big,
            byteorder=byte_order,
        )
        header = tiff.read_header(path)
        assert (header.format, header.n_frames, header.height, header.width) == ("tiff", 3, 11, 13)
        assert header.dtype == dtype
        counts = read_counts(tiff, path, header, threads=threads)
        assert counts.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(counts, frames)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_horizontal_differences_are_undone(tmp_path, dtype, compression, byte_order):
    frames = movie(dtype)
    path = write(
        tmp_path / "a.tif",
        frames,
        compression=compression,
        predictor=2,
        rowsperstrip=3,
        byteorder=byte_order,
    )
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].predictor == 2
    np.testing.assert_array_equal(read(path), frames)


def test_the_last_row_of_the_file_is_row_0(tmp_path):
    page = np.array([[1, 2], [3, 4], [5, 6]], np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(page, metadata=None, rowsperstrip=2)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], [[5, 6], [3, 4], [1, 2]])


def test_strips_may_be_padded_at_the_end_of_a_page(tmp_path):
    # 5 rows in strips of 2: some writers fill up the third strip.
    frame = movie(shape=(5, 4))
    strips = [frame[::-1][0:2], frame[::-1][2:4], np.concatenate([frame[:1], frame[:1]])]
    for compression, encode in ((1, bytes), (5, imagecodecs.lzw_encode), (8, imagecodecs.zlib_encode)):
        path = tmp_path / "a.tif"
        path.write_bytes(classic([encode(np.ascontiguousarray(s).tobytes()) for s in strips], 5, 4, 2, compression))
        np.testing.assert_array_equal(read(path)[0], frame)


def classic(strips, height, width, rows, compression, *, extra=(), bits=8):
    """A little-endian classic TIFF of one page, laid out strips first."""
    body, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip
    tables = 8 + len(body)
    body += struct.pack(f"<{len(strips)}I", *offsets)
    body += struct.pack(f"<{len(strips)}I", *(len(strip) for strip in strips))
    counts = tables + 4 * len(strips)
    n = len(strips)
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, bits),
        259: (3, 1, compression),
        273: (4, n, tables if n > 1 else offsets[0]),
        277: (3, 1, 1),
        278: (4, 1, rows),
        279: (4, n, counts if n > 1 else len(strips[0])),
    } | dict(extra)
    directory = struct.pack("<H", len(entries))
    for number, (kind, count, value) in sorted(entries.items()):
        directory += struct.pack("<HHII", number, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({259: (3, 1, 65000)}, "compression"),
        ({259: (3, 1, 7)}, "compression"),
        ({317: (3, 1, 2)}, "predictor"),
        ({317: (3, 1, 3), 259: (3, 1, 5)}, "predictor"),
        ({322: (3, 1, 16)}, "tiled"),
        ({277: (3, 1, 3)}, "colour"),
        ({266: (3, 1, 2)}, "FillOrder"),
        ({258: (3, 1, 2)}, "sample type"),
        ({258: (3, 1, 4), 317: (3, 1, 2), 259: (3, 1, 5)}, "predictor"),
        ({258: (3, 1, 64)}, "sample type"),
        ({339: (3, 1, 3)}, "sample type"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, extra, match):
    (tmp_path / "a.tif").write_bytes(classic([b"\1" * 12], 3, 4, 3, 1, extra=extra.items()))
    with pytest.raises(MovieUnsupported, match=match):
        tiff.read_header(tmp_path / "a.tif")


@pytest.mark.parametrize("width", [1, 6, 7])
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_counts_of_4_bits(tmp_path, width, rows, compression):
    """Two to a byte, the first in the high half; each row begins at a whole byte."""
    frame = np.random.default_rng(width).integers(0, 16, (5, width)).astype(np.uint8)
    even = np.pad(frame, ((0, 0), (0, width % 2)))
    packed = even[:, 0::2] << 4 | even[:, 1::2]
    encode = {1: bytes, 5: imagecodecs.lzw_encode, 8: imagecodecs.deflate_encode}[compression]
    strips = [encode(packed[start : start + rows].tobytes()) for start in range(0, 5, rows)]
    path = tmp_path / "a.tif"
    path.write_bytes(classic(strips, 5, width, rows, compression, bits=4))
    header = tiff.read_header(path)
    assert (header.width, header.dtype) == (width, "uint8")
    np.testing.assert_array_equal(read_counts(tiff, path, header)[0], frame[::-1])


@pytest.mark.slow
def test_frames_of_a_k3_in_super_resolution(tmp_path):
    """11520 × 8184 px, in one strip, in rows, and as SerialEM's 4 bits at half the width."""
    frame = (np.arange(8184 * 11520, dtype=np.uint32) * 2654435761 >> 28).astype(np.uint8).reshape(8184, 11520)
    frame[:, ::3] = 0
    for rows in (8184, 1):
        path = write(tmp_path / "a.tif", np.stack([frame, frame[::-1]]), compression="lzw", rowsperstrip=rows)
        header = tiff.read_header(path)
        assert (header.height, header.width) == (8184, 11520)
        np.testing.assert_array_equal(read_counts(tiff, path, header, threads=2)[0], frame)


def test_not_a_tiff(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II\x2b\x01" + bytes(100))
    with pytest.raises(MovieUnsupported, match="not a TIFF"):
        tiff.read_header(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "extra",
    [
        {256: (4, 1, 0)},
        {256: (4, 1, 65_537)},
        {257: (4, 1, 0)},
        {257: (4, 1, 2**32 - 1)},
        {278: (4, 1, 0)},
        {278: (4, 1, 1)},  # three strips by the rows, one by the tables
        {273: (4, 2, 8)},
        {273: (2, 1, 8)},
        {273: (5, 1, 8)},
        {256: (4, 100_000_000, 8)},
        {279: (4, 1, 11)},  # too few bytes for the rows
        {259: (3, 1, 5), 256: (4, 1, 60_000), 257: (4, 1, 60_000), 278: (4, 1, 60_000)},
    ],
)
def test_nonsense_is_corrupt(tmp_path, extra):
    (tmp_path / "a.tif").write_bytes(classic([b"\1" * 12], 3, 4, 3, 1, extra=extra.items()))
    with pytest.raises(MovieCorrupt):
        tiff.read_header(tmp_path / "a.tif")


@pytest.mark.parametrize("number", [273, 279])
def test_negative_places_are_corrupt(tmp_path, number):
    (tmp_path / "a.tif").write_bytes(classic([b"\1" * 12], 3, 4, 3, 1, extra={number: (9, 1, 2**32 - 12)}.items()))
    with pytest.raises(MovieCorrupt, match="impossible places"):
        tiff.read_header(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["StripOffsets", "StripByteCounts", "ImageWidth", "ImageLength", "RowsPerStrip"])
def test_numbers_beyond_63_bits_are_corrupt(tmp_path, name):
    path = write(tmp_path / "a.tif", movie(), bigtiff=True)
    with tifffile.TiffFile(path) as file:
        entry = file.pages[1].tags[name].offset
    patch(path, entry + 2, struct.pack("<HQQ", 16, 1, 2**64 - 3))
    with pytest.raises(MovieCorrupt):
        tiff.read_header(path)


def test_a_damaged_bigtiff_header_is_corrupt(tmp_path):
    path = write(tmp_path / "a.tif", movie(), bigtiff=True)
    for place in (4, 6):
        whole = path.read_bytes()
        patch(path, place, b"\4")
        with pytest.raises(MovieCorrupt, match="BigTIFF header"):
            tiff.read_header(path)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("number", "what"), [(256, "its width"), (257, "its height"), (273, "its pixels are"), (279, "its pixels are")]
)
def test_missing_tags_are_corrupt(tmp_path, number, what):
    whole = classic([b"\1" * 12], 3, 4, 3, 1)
    start = struct.unpack_from("<I", whole, 4)[0]
    n = struct.unpack_from("<H", whole, start)[0]
    entries = [whole[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(n)]
    kept = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != number]
    (tmp_path / "a.tif").write_bytes(whole[:start] + struct.pack("<H", n - 1) + b"".join(kept) + bytes(4))
    with pytest.raises(MovieCorrupt, match=what):
        tiff.read_header(tmp_path / "a.tif")


def chain(path):
    """Offsets of the directories, their lengths, and where each one's pointer to the next stands."""
    with tifffile.TiffFile(path) as file:
        return [(page.offset, page.offset + 2 + 12 * len(page.tags)) for page in file.pages]


def patch(path, offset, data):
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(data)] = data
    path.write_bytes(whole)


def test_a_loop_of_pages_is_corrupt(tmp_path):
    path = write(tmp_path / "a.tif", movie())
    pages = chain(path)
    patch(path, pages[-1][1], struct.pack("<I", pages[1][0]))
    with pytest.raises(MovieCorrupt, match=r"after frame 3;.*back to an earlier frame.*streamer movies skip a\.tif"):
        tiff.read_header(path)


def test_too_many_pages_are_corrupt(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", movie())
    monkeypatch.setattr(tiff_pages, "MAX_PAGES", 2)
    with pytest.raises(MovieCorrupt, match=r"is damaged after frame 2;.*at most 2 frames"):
        tiff.read_header(path)


def test_too_many_strips_are_corrupt(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", movie(), rowsperstrip=1)
    monkeypatch.setattr(tiff_pages, "MAX_STRIPS", 32)
    with pytest.raises(MovieCorrupt, match="at most 32 strips"):
        tiff.read_header(path)


def test_too_long_a_directory_is_corrupt(tmp_path):
    path = write(tmp_path / "a.tif", movie())
    patch(path, chain(path)[0][0], struct.pack("<H", tiff_tags.MAX_ENTRIES + 1))
    with pytest.raises(MovieCorrupt, match=r"is damaged at its first frame;.*257"):
        tiff.read_header(path)


def test_a_page_inside_the_header_is_corrupt(tmp_path):
    path = write(tmp_path / "a.tif", movie())
    patch(path, 4, struct.pack("<I", 5))
    with pytest.raises(MovieCorrupt, match="leads to the file's header"):
        tiff.read_header(path)


def test_pages_of_different_kinds_are_corrupt(tmp_path):
    for other in (movie(shape=(11, 14)), movie(shape=(12, 13)), movie("uint16", (11, 13))):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(movie(shape=(11, 13)), metadata=None)
            file.write(other, metadata=None)
        with pytest.raises(MovieCorrupt, match=r"is damaged (after frame 1|at its first frame).*all of one kind"):
            tiff.read_header(path)


@pytest.mark.parametrize("value", [0, 4])
def test_a_page_not_filled_in_yet_is_not_ready(tmp_path, value):
    # 0: no page at all so far; 4: the directory's place is there, its content is zeros.
    path = write(tmp_path / "a.tif", movie())
    if value == 0:
        patch(path, 4, bytes(4))
    else:
        patch(path, chain(path)[1][0], bytes(20))
    with pytest.raises(MovieNotReady):
        tiff.read_header(path)


@pytest.mark.parametrize("number", [273, 279])
def test_strips_not_written_yet_are_not_ready(tmp_path, number):
    (tmp_path / "a.tif").write_bytes(classic([b"\1" * 12], 3, 4, 3, 1, extra={number: (4, 1, 0)}.items()))
    with pytest.raises(MovieNotReady, match="not written"):
        tiff.read_header(tmp_path / "a.tif")


def boundaries(path):
    """Every place where a part of the file begins or ends."""
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            yield page.offset
            yield page.offset + 2 + 12 * len(page.tags)
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                yield offset
                yield offset + count


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
def test_no_cut_gives_a_whole_movie(tmp_path, compression):
    """Whatever is cut off, the header has fewer frames than the sidecar will say, or there is an error."""
    path = write(tmp_path / "a.tif", movie(), compression=compression, rowsperstrip=4)
    whole = path.read_bytes()
    places = {place + step for place in boundaries(path) for step in (-1, 0, 1)}
    places |= set(RNG.integers(0, len(whole), 40).tolist())
    cut = tmp_path / "cut.tif"
    for place in sorted(place for place in places if place < len(whole)):
        cut.write_bytes(whole[:place])
        try:
            header = tiff.read_header(cut)
            counts = read_counts(tiff, cut, header)
        except (MovieNotReady, MovieCorrupt, MovieUnsupported):
            continue
        assert len(counts) == header.n_frames < 3, f"cut at {place} of {len(whole)}"


def test_a_cut_file_is_not_ready_rather_than_corrupt(tmp_path):
    path = write(tmp_path / "a.tif", movie(), compression="lzw")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 5])
    with pytest.raises(MovieNotReady, match=r"is not complete.*beyond them"):
        tiff.read_header(path)


def test_a_directory_beyond_the_end_is_not_ready(tmp_path):
    for big in (False, True):
        path = write(tmp_path / "a.tif", movie(), bigtiff=big)
        patch(path, 8 if big else 4, struct.pack("<I", 2**31))
        with pytest.raises(MovieNotReady, match="the directory of frame 1 is beyond them"):
            tiff.read_header(path)


def test_a_damaged_strip_names_its_frame(tmp_path):
    for compression, threads in itertools.product(("lzw", "zlib", "zstd"), (1, 4)):
        path = write(tmp_path / "a.tif", movie(shape=(5, 40, 40)), compression=compression)
        with tifffile.TiffFile(path) as file:
            page = file.pages[3]
            offset, count = page.dataoffsets[0], page.databytecounts[0]
        patch(path, offset, b"\xff\x07" * (count // 2))
        header = tiff.read_header(path)
        with pytest.raises(MovieCorrupt, match="is damaged after frame 3; found frame 4 cannot be decoded"):
            read_counts(tiff, path, header, threads=threads)


def test_a_strip_that_decodes_short_is_corrupt(tmp_path):
    for compression, encode in ((5, imagecodecs.lzw_encode), (8, imagecodecs.zlib_encode)):
        path = tmp_path / "a.tif"
        path.write_bytes(classic([encode(b"\1" * 11)], 3, 4, 3, compression))
        header = tiff.read_header(path)
        with pytest.raises(MovieCorrupt, match=r"at its first frame.*11 of 12"):
            read_counts(tiff, path, header)


def test_a_strip_of_zeros_is_not_ready(tmp_path):
    path = write(tmp_path / "a.tif", movie(), compression="lzw")
    with tifffile.TiffFile(path) as file:
        page = file.pages[2]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    patch(path, offset, bytes(count))
    header = tiff.read_header(path)
    with pytest.raises(MovieNotReady, match="frame 3 is not filled in"):
        read_counts(tiff, path, header)


def test_no_strip_unpacks_to_more_than_it_declares(tmp_path):
    """A MB of deflate that would unpack to a GB, in a page that declares a few rows."""
    bomb = imagecodecs.zlib_encode(bytes(200 << 20))
    for compression in (8, 32946):
        path = tmp_path / "a.tif"
        path.write_bytes(classic([bomb[: 1 << 16]], 3, 4, 3, compression))
        header = tiff.read_header(path)
        tracemalloc.start()
        try:
            with pytest.raises(MovieCorrupt, match="frame 1 cannot be decoded"):
                read_counts(tiff, path, header)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_a_strip_far_too_long_for_its_rows_is_corrupt(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(classic([b"\1" * 100_000], 3, 4, 3, 5))
    with pytest.raises(MovieCorrupt, match="too large"):
        tiff.read_header(path)


@pytest.mark.parametrize("compression", [5, 8, 32946, 50000])
def test_a_strip_that_claims_more_than_its_format_can_hold_is_corrupt(tmp_path, compression):
    # 120 bytes that would be 1 GiB: refused by arithmetic, nothing is allocated.
    path = tmp_path / "a.tif"
    path.write_bytes(classic([b"\1" * 120], 32768, 32768, 32768, compression))
    with pytest.raises(MovieCorrupt, match="too small"):
        tiff.read_header(path)


def test_blank_frames_are_within_what_the_formats_can_hold(tmp_path):
    for compression in ("lzw", "zlib", "zstd"):
        path = write(tmp_path / "a.tif", np.zeros((1, 2048, 2048), np.uint8), compression=compression)
        assert not read(path).any()


@pytest.mark.parametrize(("unit", "scale"), [(2, 2.54e8), (3, 1e8)])
@pytest.mark.parametrize("big", [False, True])
def test_pixel_size_by_the_resolution(tmp_path, unit, scale, big):
    path = write(tmp_path / "a.tif", movie(), resolution=(scale / 1.25, scale / 1.25), resolutionunit=unit, bigtiff=big)
    assert tiff.read_header(path).pixel_size == pytest.approx(1.25, rel=1e-6)


def test_a_resolution_of_a_printer_is_no_pixel_size(tmp_path):
    path = write(tmp_path / "a.tif", movie(), resolution=(72, 72), resolutionunit=2)
    assert tiff.read_header(path).pixel_size is None


def test_a_file_that_says_something_else_now_is_not_ready(tmp_path):
    path = write(tmp_path / "a.tif", movie())
    header = tiff.read_header(path)
    write(path, movie()[:2])
    with pytest.raises(MovieNotReady, match="changed"):
        read_counts(tiff, path, header)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    kind=st.sampled_from(
        [
            (None, False, "<"),
            ("lzw", False, "<"),
            ("zlib", True, ">"),
            ("zstd", True, "<"),
            ("lzw", False, ">"),
        ]
    ),
)
def test_no_bytes_raise_anything_but_our_errors(tmp_path, data, kind):
    compression, big, byte_order = kind
    original = tmp_path / f"{compression}-{big}-{ord(byte_order)}.tif"
    if not original.exists():
        write(original, movie(), compression=compression, rowsperstrip=4, bigtiff=big, byteorder=byte_order)
    whole = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path = tmp_path / "a.tif"
    path.write_bytes(whole[:cut])
    with suppress(StreamerError):
        header = tiff.read_header(path)
        if header.decoded_bytes < 1 << 24:
            read_counts(tiff, path, header)


def test_threads_give_the_same_as_one(tmp_path):
    frames = RNG.poisson(1.0, (17, 64, 48)).astype(np.uint8)
    for rows in (5, 64):
        path = write(tmp_path / "a.tif", frames, compression="lzw", rowsperstrip=rows)
        for threads in (1, 2, 8, 40):
            np.testing.assert_array_equal(read(path, threads), frames)
