"""Which pages of a TIFF or EER file are frames: more than it has pages, fewer, and none that is not one."""

import struct

import numpy as np
import pytest
import tifffile

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported, StreamerError
from streamer.readers import movie
from streamer.settings import EerSettings
from streamer.simulation.eer_encoder import encode_eer, encode_frame
from tests.streamer.readers.test_eer import TOLD, random_events, true_counts

FRAMES = np.random.default_rng(0).poisson(1.5, (20, 64, 48)).astype(np.uint16)


def read(path, eer=None):
    header = movie.read_header(path, eer=eer)
    return header, movie.read_counts(path, header, in_memory_bytes=1 << 30, threads=2, eer=eer)


def one_page(path, *, description="", extra=(), order="<", frames=FRAMES, rows=64):
    """One page, then the pixels of all frames in a row."""
    height, width = frames.shape[1:]
    data = frames[:, ::-1].astype(f"{order}u2").tobytes()
    strips = -(-height // rows)
    text = description.encode() + b"\0"
    places = [8 + 2 * width * rows * strip for strip in range(strips)]
    sizes = [2 * width * min(rows, height - rows * strip) for strip in range(strips)]
    tables = 8 + len(data) + len(text)
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 16),
        259: (3, 1, 1),
        270: (2, len(text), 8 + len(data)),
        273: (4, strips, tables if strips > 1 else 8),
        278: (4, 1, rows),
        279: (4, strips, tables + 4 * strips if strips > 1 else sizes[0]),
    } | dict(extra)
    directory = struct.pack(f"{order}H", len(entries))
    for number, (kind, count, value) in sorted(entries.items()):
        packed = struct.pack(f"{order}HH", value, 0) if (kind, count) == (3, 1) else struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", number, kind, count) + packed
    lists = struct.pack(f"{order}{2 * strips}I", *places, *sizes) if strips > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data) + len(text) + len(lists))
    path.write_bytes(head + data + text + lists + directory + bytes(4))
    return path


IMAGEJ = "ImageJ=1.54f\nimages={n}\nframes={n}\nloop=false\n"
SCIFIO = "SCIFIO=0.46.0\naxes=X,Y,Time\nlengths=48,64,{n}\nimages={n}\nbitsPerPixel=16\n"
SHAPED = '{{"shape": [{n}, 64, 48], "truncated": true}}'


# ------------------------------------------------------------------------------------- more frames than pages


@pytest.mark.parametrize("description", [IMAGEJ, SCIFIO, SHAPED, '{{"shape": [4, 5, 64, 48, 1]}}'])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows", [64, 10])
def test_frames_without_pages_of_their_own_are_read(tmp_path, description, order, rows):
    header, counts = read(one_page(tmp_path / "a.tif", description=description.format(n=20), order=order, rows=rows))
    assert (header.n_frames, header.flags) == (20, ())
    np.testing.assert_array_equal(counts, FRAMES)


def test_frames_of_metamorph_are_read(tmp_path):
    header, counts = read(one_page(tmp_path / "a.tif", extra={33629: (5, 20, 8)}))
    assert header.n_frames == 20
    np.testing.assert_array_equal(counts, FRAMES)


@pytest.mark.parametrize("options", [{"imagej": True}, {}])
def test_stacks_by_tifffile_are_read(tmp_path, options):
    for truncate in (True, False):
        tifffile.imwrite(tmp_path / "a.tif", FRAMES[:, ::-1], truncate=truncate, **options)
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[1], FRAMES)


@pytest.mark.parametrize("description", [IMAGEJ, SCIFIO, SHAPED])
def test_fewer_frames_than_announced_are_waited_for(tmp_path, description):
    path = one_page(tmp_path / "a.tif", description=description.format(n=40))
    with pytest.raises(MovieNotReady, match="fewer frames than it announces; expected 40 frames of 64 x 48") as caught:
        movie.read_header(path)
    assert "copy it again" in caught.value.hint
    # no pixels of more frames can follow pages that are compressed, or that are several
    tifffile.imwrite(path, FRAMES[0], compression="lzw", description=description.format(n=20), metadata=None)
    with pytest.raises(MovieNotReady, match="expected 20 frames"):
        movie.read_header(path)


@pytest.mark.parametrize("cut", [1, 6144, 6144 * 19])
def test_a_cut_stack_of_one_page_is_waited_for(tmp_path, cut):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, truncate=True)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(MovieNotReady):
        movie.read_header(path)


def test_an_image_of_ome_counts_its_planes(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, FRAMES[:, ::-1], ome=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(read(path)[1], FRAMES)
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    with tifffile.TiffWriter(path) as file:
        for number, frame in enumerate(FRAMES[:8]):
            file.write(frame, description=text if number == 0 else None, metadata=None)
    with pytest.raises(MovieNotReady, match="expected 20 frames"):
        movie.read_header(path)
    # one of several files of an image has a part of its planes
    with tifffile.TiffWriter(path) as file:
        for number, frame in enumerate(FRAMES[:8]):
            named = text.replace("<TiffData", '<TiffData><UUID FileName="b.ome.tif"/></TiffData><TiffData')
            file.write(frame, description=named if number == 0 else None, metadata=None)
    assert movie.read_header(path).n_frames == 8


def test_pixels_that_nothing_announces_are_not_passed_over(tmp_path):
    with pytest.raises(MovieNotReady, match="contains more than the frames that it announces"):
        movie.read_header(one_page(tmp_path / "a.tif"))


def ends_early(path, after):
    """Page ``after`` says that it is the last."""
    data = bytearray(path.read_bytes())
    link = 4
    for _ in range(after):
        page = struct.unpack_from("<I", data, link)[0]
        link = page + 2 + 12 * struct.unpack_from("<H", data, page)[0]
    struct.pack_into("<I", data, link, 0)
    path.write_bytes(data)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("after", [1, 10, 14])
def test_a_list_of_frames_that_ends_early_is_noticed(tmp_path, compression, after):
    """By what the file holds beside its frames; thumbnails are not taken for frames, nor are small previews within."""
    frames = np.random.default_rng(8).poisson(2.0, (20, 256, 192)).astype(np.uint16)
    options = {"compression": compression, "metadata": None, "contiguous": False}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(frames[0, ::2, ::2], subfiletype=1, **options)
        for frame in frames:
            file.write(frame, subifds=1 if after == 10 else 0, **options)
            if after == 10:
                file.write(frame[::2, ::2], subfiletype=1, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[1][:, ::-1], frames)
    if after == 10:
        return
    ends_early(tmp_path / "a.tif", 1 + after)
    with pytest.raises(MovieNotReady, match=f"{after} and as much as {20 - after} more") as caught:
        read(tmp_path / "a.tif")
    assert "page for each frame" in caught.value.hint


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_frames_on_pages_within_a_page_are_refused(tmp_path, compression):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(FRAMES[0], subifds=len(FRAMES) - 1, compression=compression, metadata=None)
        for frame in FRAMES[1:]:
            file.write(frame, compression=compression, metadata=None)
    with pytest.raises(MovieUnsupported, match="pages within a page"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("frames", "options"),
    [
        (FRAMES, {"planarconfig": "separate"}),
        (np.moveaxis(FRAMES, 0, -1), {"planarconfig": "contig"}),
        (FRAMES, {"volumetric": True}),
    ],
)
def test_frames_on_one_page_are_no_colours(tmp_path, frames, options):
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack", metadata=None, rowsperstrip=64, **options)
    with pytest.raises(MovieUnsupported, match="20 images on page 1"):
        read(tmp_path / "a.tif")


def test_fewer_announced_than_there_are_pages_means_nothing(tmp_path):
    """Each page may describe itself, or have kept the description of what it was cut from."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for frame in FRAMES:
            file.write(frame[::-1], description=IMAGEJ.format(n=3), metadata=None, contiguous=False)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[1], FRAMES)


@pytest.mark.parametrize(
    "text",
    [
        "ImageJ=1.5\nimages=999999999\n",
        "ImageJ=1.5\nimages=-4\n",
        "ImageJ=1.5\nimages=1e9\n",
        '{"shape": [' + "9" * 300 + ", 64, 48]}",
        '{"shape": ' + "[" * 5000,
        '{"shape": [20, 48, 64]}',
        '{"shape": 7}',
        '<OME SizeC="1" SizeZ="1" SizeT="',
        "\xff" * 100,
    ],
)
def test_strange_descriptions_do_no_harm(tmp_path, text):
    try:
        header = read(one_page(tmp_path / "a.tif", description=text, frames=FRAMES[:1]))[0]
    except MovieNotReady:
        return
    assert header.n_frames == 1


# ------------------------------------------------------------------------------------- pages that are no frames


def thumbnail(height=16, width=12, channels=()):
    return np.random.default_rng(1).integers(0, 255, (height, width, *channels)).astype(np.uint8)


@pytest.mark.parametrize("place", [0, 7, 20])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("said", [False, True])
def test_a_thumbnail_in_a_tiff_movie_is_left_out(tmp_path, place, colour, said):
    path = tmp_path / "a.tif"
    picture = thumbnail(channels=(3,) if colour else ())
    with tifffile.TiffWriter(path) as file:
        for number in range(21):
            if number == place:
                file.write(picture, subfiletype=int(said), metadata=None, compression="jpeg" if colour else None)
            if number < 20:
                file.write(FRAMES[number, ::-1], metadata=None, contiguous=False, compression="lzw")
    header, counts = read(path)
    np.testing.assert_array_equal(counts, FRAMES)
    left_out = f"frames: page {place + 1} of the file is smaller than the frames, and left out"
    assert header.flags == (() if said else (left_out,))


def test_a_frame_that_is_said_to_be_reduced_is_a_frame(tmp_path):
    """Some programs mark all pages but the first so."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, frame in enumerate(FRAMES):
            file.write(frame[::-1], subfiletype=int(number > 0), metadata=None, contiguous=False)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[1], FRAMES)


@pytest.mark.parametrize(("height", "width", "dtype"), [(64, 49, "u2"), (60, 48, "u2"), (64, 48, "u1"), (60, 40, "u2")])
def test_a_page_that_could_be_a_damaged_frame_is_not_left_out(tmp_path, height, width, dtype):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, frame in enumerate(FRAMES):
            other = np.ones((height, width), dtype)
            file.write(other if number == 5 else frame, metadata=None, contiguous=False)
    with pytest.raises(MovieCorrupt, match=r"is damaged after frame 5; .*streamer movies skip"):
        movie.read_header(tmp_path / "a.tif")


def eer_with(tmp_path, pages, *, told=TOLD, n_raw=12, shape=(21, 34)):
    """An EER movie with other pages ``(place, tags, content)`` among its own, and its true counts.

    The pages of the file are chained anew: each keeps its place in the file, the others follow at the end.
    """
    rng = np.random.default_rng(3)
    events = [random_events(rng, shape, int(rng.integers(1, 40))) for _ in range(n_raw)]
    streams = [encode_frame(frame, shape[0] * shape[1], (7, 2, 2)) for frame in events]
    data = bytearray(encode_eer(streams, shape, metadata=told))
    chain, offset = [], struct.unpack_from("<Q", data, 8)[0]
    while offset:
        chain.append(offset)
        offset = struct.unpack_from("<Q", data, offset + 8 + 20 * struct.unpack_from("<Q", data, offset)[0])[0]
    for place, tags, content in pages:
        tags = {273: len(data), 279: len(content)} | tags
        data += content + bytes(-len(content) % 8)
        chain.insert(place, len(data))
        data += struct.pack("<Q", len(tags))
        data += b"".join(struct.pack("<HHQQ", number, 16, 1, value) for number, value in sorted(tags.items()))
        data += bytes(8)
    struct.pack_into("<Q", data, 8, chain[0])
    for here, following in zip(chain, [*chain[1:], 0], strict=True):
        struct.pack_into("<Q", data, here + 8 + 20 * struct.unpack_from("<Q", data, here)[0], following)
    path = tmp_path / "a.eer"
    path.write_bytes(data)
    return path, np.stack([true_counts([frame], shape, 1) for frame in events])


def picture(height, width, compression=1, bits=8, **tags):
    size = height * width * bits // 8 if compression == 1 else 50
    named = {256: width, 257: height, 258: bits, 259: compression, 277: 1, 278: height}
    return named | {int(number[1:]): value for number, value in tags.items()}, b"\7" * size


PICTURES = [
    picture(5, 8),
    picture(21, 34, bits=16),  # the sum of all frames
    picture(21, 34, compression=7),
    picture(42, 68, bits=32, t339=3),
    picture(8, 8, t277=3, t278=8),
    picture(1, 1),
    picture(10, 17, t254=1),
    picture(21, 34, t278=2),  # whose strips are not where they should be
]


@pytest.mark.parametrize("place", [0, 5, 12])
@pytest.mark.parametrize("number", range(len(PICTURES)))
@pytest.mark.parametrize("told", [TOLD, None])
def test_a_picture_in_an_eer_movie_is_ignored(tmp_path, place, number, told):
    path, truth = eer_with(tmp_path, [(place, *PICTURES[number])], told=told)
    header, counts = read(path, EerSettings(group=1))
    assert (header.format, header.n_raw_frames, header.flags) == ("eer", 12, ())
    np.testing.assert_array_equal(counts, truth)


@pytest.mark.parametrize("place", [0, 5, 12])
@pytest.mark.parametrize("told", [TOLD, None])
def test_a_page_without_an_image_in_an_eer_movie_is_ignored(tmp_path, place, told):
    """It says something about the acquisition; a frame that lost its width is damaged."""
    path, truth = eer_with(tmp_path, [(place, {65002: 1}, b"")], told=told)
    header, counts = read(path, EerSettings(group=1))
    assert (header.n_raw_frames, header.flags) == (12, ())
    np.testing.assert_array_equal(counts, truth)
    path, _ = eer_with(tmp_path, [(place, {65002: 1, 257: 21, 259: 65001}, b"7" * 40)], told=told)
    with pytest.raises(MovieCorrupt, match="without its width"):
        read(path, EerSettings(group=1))


def test_several_pictures_at_once(tmp_path):
    path, truth = eer_with(tmp_path, [(0, *PICTURES[0]), (1, *PICTURES[1]), (9, *PICTURES[4]), (15, *PICTURES[5])])
    np.testing.assert_array_equal(read(path, EerSettings(group=1))[1], truth)


def test_a_small_page_of_events_is_no_frame_and_is_said_unless_the_camera_counts(tmp_path):
    tags, content = picture(8, 8, compression=65001)
    path, truth = eer_with(tmp_path, [(4, tags, content)], told=None)
    header, counts = read(path, EerSettings(group=1))
    assert header.flags == ("frames: page 5 of the file is smaller than the frames, and left out",)
    np.testing.assert_array_equal(counts, truth)
    path, _ = eer_with(tmp_path, [(4, tags, content)])
    assert read(path, EerSettings(group=1))[0].flags == ()


@pytest.mark.parametrize(
    ("height", "width", "compression"), [(21, 35, 65001), (20, 34, 65001), (21, 34, 65000), (21, 34, 65003), (5, 34, 9)]
)
@pytest.mark.parametrize("told", [TOLD, None])
def test_a_damaged_frame_is_not_taken_for_a_picture(tmp_path, height, width, compression, told):
    tags, content = picture(height, width, compression=compression)
    path, _ = eer_with(tmp_path, [(6, tags, content)], told=told)
    with pytest.raises(MovieCorrupt, match="is damaged after frame 6"):
        movie.read_header(path)


def test_a_frame_that_lost_its_compression_is_not_taken_for_a_picture(tmp_path):
    tags, content = picture(21, 34)
    del tags[259]
    path, _ = eer_with(tmp_path, [(6, tags, content)], told=None)
    with pytest.raises(MovieCorrupt, match="is damaged after frame 6"):
        movie.read_header(path)


def test_many_pages_that_cannot_be_frames_are_no_movie(tmp_path):
    path, _ = eer_with(tmp_path, [(1, *PICTURES[4])] * 65)
    with pytest.raises(StreamerError, match="colour"):
        movie.read_header(path)


def test_a_frame_that_became_a_picture_is_missed(tmp_path):
    """Where the camera says how many there were."""
    path, _ = eer_with(tmp_path, [(3, *PICTURES[0])], told=TOLD | {"numberOfFrames": ("", "13")})
    with pytest.raises(MovieNotReady, match="fewer raw frames"):
        movie.read_header(path)


def test_no_wrong_bit_changes_the_number_of_frames(tmp_path):
    path, _ = eer_with(
        tmp_path, [(0, *PICTURES[0]), (6, *PICTURES[1])], n_raw=4, told=TOLD | {"numberOfFrames": ("", "4")}
    )
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for bit in rng.choice(8 * len(whole), 1500, replace=False):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        try:
            header = movie.read_header(path)
        except StreamerError:
            continue
        assert header.n_raw_frames == 4 or (header.format, header.n_frames) == ("tiff", 1)
