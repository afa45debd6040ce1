import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from streamer.errors import DeviceError, MovieCorrupt, MovieNotReady, MovieUnsupported, MovieVanished, StreamerError
from streamer.frame_stack import FrameStack
from streamer.readers import movie, mrc, tiff
from streamer.readers.files import below, root_of
from streamer.records import Movie

FRAMES = np.random.default_rng(2).integers(0, 50, (3, 9, 12)).astype(np.uint16)


def write_tiff(path, frames=FRAMES, compression="lzw"):
    with tifffile.TiffWriter(path) as file:
        for frame in frames:
            file.write(frame[::-1], metadata=None, compression=compression)
    return path


def write_mrc(path, frames=FRAMES):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(frames)
    return path


def read(path, **options):
    header = movie.read_header(path)
    return movie.read_counts(path, header, **({"in_memory_bytes": 1 << 30, "threads": 2} | options))


@pytest.mark.parametrize(
    ("write", "name", "kind"),
    [
        (write_tiff, "a.mrc", "tiff"),
        (write_mrc, "a.tiff", "mrc"),
        (write_tiff, "a.xyz", "tiff"),
        (write_mrc, "a.mrcs", "mrc"),
    ],
)
def test_the_first_bytes_tell_the_format_not_the_name(tmp_path, write, name, kind):
    path = write(tmp_path / name)
    assert movie.read_header(path).format == kind
    np.testing.assert_array_equal(read(path), FRAMES)


def test_tiff_and_mrc_of_one_movie_are_the_same_way_up(tmp_path):
    np.testing.assert_array_equal(read(write_tiff(tmp_path / "a.tif")), read(write_mrc(tmp_path / "a.mrc")))


@pytest.mark.parametrize(
    ("content", "says", "hints"),
    [
        (b"this is not a movie at all\n" * 50, "text file", ""),
        (b"short text", "text file", ""),
        (gzip.compress(b"x" * 5000, mtime=0), "gzip", "gunzip"),
        (b"BZh91AY" + bytes(range(256)) * 8, "bzip2", "bunzip2"),
        (b"PK\x03\x04" + bytes(range(256)) * 8, "zip", "unzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8, "HDF5", "TIFF or MRC"),
        (b"\0\0\0\x04\0\0\0\0" + bytes(range(256)) * 8, "DM4", "dm2mrc"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, "PNG", ""),
        (bytes(range(256)) * 8, "not a movie of a known format", ""),
    ],
)
def test_what_is_no_movie_is_refused_by_name(tmp_path, content, says, hints):
    path = tmp_path / "movie_fractions.tiff"
    path.write_bytes(content)
    with pytest.raises(MovieUnsupported, match=says) as caught:
        movie.read_header(path)
    assert hints in caught.value.hint
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\x07\0\0", "shorter"),
        (b"\x80\0\1\2" * 20, "shorter"),
        (bytes(500), "shorter"),
        (bytes(5000), "not filled in"),
    ],
)
def test_what_may_become_a_movie_is_not_ready(tmp_path, content, match):
    path = tmp_path / "a.mrc"
    path.write_bytes(content)
    with pytest.raises(MovieNotReady, match=match):
        movie.read_header(path)


def test_a_movie_above_the_limit_is_refused_before_it_is_read(tmp_path):
    for path in (write_tiff(tmp_path / "a.tif"), write_mrc(tmp_path / "a.mrc")):
        n_bytes = FRAMES.nbytes
        assert movie.read_header(path, limit_bytes=n_bytes).decoded_bytes == n_bytes
        with pytest.raises(MovieUnsupported, match="more than is allowed") as caught:
            movie.read_header(path, limit_bytes=n_bytes - 1)
        assert "read_limit_gib" in caught.value.expected


def within(seconds, function):
    """Run in a thread, so that a test fails rather than hangs."""
    result = []

    def run():
        try:
            result.append(function())
        except StreamerError as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "blocked"
    return result[0]


def test_only_regular_files_are_opened_and_nothing_blocks(tmp_path):
    target = write_mrc(tmp_path / "a.mrc")
    os.mkfifo(tmp_path / "fifo.mrc")
    (tmp_path / "link.mrc").symlink_to(target)
    (tmp_path / "directory.mrc").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.mrc"))
        for name in ("fifo.mrc", "link.mrc", "directory.mrc", "socket.mrc"):
            for function in (movie.read_header, movie.identity_of, movie.fingerprint):
                error = within(5, lambda function=function, name=name: function(tmp_path / name))
                assert isinstance(error, MovieUnsupported), (name, function)


def test_a_device_is_not_opened_for_reading():
    with pytest.raises(MovieUnsupported):
        movie.read_header(Path("/dev/zero"))


def test_a_file_that_is_gone_has_vanished_unless_its_directory_went_with_it(tmp_path):
    with pytest.raises(MovieVanished, match="no longer exists"):
        movie.read_header(tmp_path / "absent.mrc")
    with pytest.raises(MovieNotReady, match="cannot be read at present") as caught:
        movie.read_header(tmp_path / "unmounted" / "absent.mrc")
    assert not isinstance(caught.value, MovieVanished)


def test_a_forbidden_file_is_not_ready(tmp_path):
    if os.getuid() != 0:
        path = write_mrc(tmp_path / "a.mrc")
        path.chmod(0)
        with pytest.raises(MovieNotReady, match="cannot be read"):
            movie.read_header(path)


@pytest.mark.parametrize("write", [write_tiff, write_mrc])
def test_another_identity_than_expected_is_not_ready(tmp_path, write):
    path = write(tmp_path / "a.x")
    before = movie.identity_of(path)
    np.testing.assert_array_equal(read(path, expected=before), FRAMES)
    os.utime(path, ns=(0, before.mtime_ns + 1))
    with pytest.raises(MovieNotReady, match="changed"):
        read(path, expected=before)


@pytest.mark.parametrize(("module", "write"), [(tiff, write_tiff), (mrc, write_mrc)])
@pytest.mark.parametrize("fails", [False, True])
def test_a_change_while_it_is_read_is_not_ready(tmp_path, monkeypatch, module, write, fails):
    """Also when the change made the reader fail: that is no fault of the movie."""
    path = write(tmp_path / "a.x")
    header = movie.read_header(path)
    genuine = module.decoder

    def decoder_while_written(*arguments):
        decode = genuine(*arguments)
        with path.open("r+b") as file:
            file.seek(0, 2)
            file.write(b"more")
        if fails:
            raise MovieCorrupt("a strip cannot be decoded")
        return decode

    monkeypatch.setattr(module, "decoder", decoder_while_written)
    with pytest.raises(MovieNotReady, match="changed"):
        movie.read_counts(path, header, in_memory_bytes=1 << 30, threads=1, expected=None)


def test_a_corrupt_movie_that_does_not_change_is_corrupt(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif")

    def fail(*_, **__):
        raise MovieCorrupt("a strip cannot be decoded")

    monkeypatch.setattr(tiff, "decoder", fail)
    with pytest.raises(MovieCorrupt, match="strip"):
        read(path)


def test_too_little_memory_is_an_error_of_the_device(tmp_path, monkeypatch):
    path = write_mrc(tmp_path / "a.mrc")

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(mrc, "decoder", fail)
    with pytest.raises(DeviceError, match="memory"):
        read(path)


def test_large_movies_are_not_held_in_memory(tmp_path):
    path = write_mrc(tmp_path / "a.mrc")
    assert isinstance(read(path, in_memory_bytes=FRAMES.nbytes - 1), FrameStack)
    assert isinstance(read(path, in_memory_bytes=FRAMES.nbytes), np.ndarray)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 5])
def test_fingerprint_is_of_the_size_and_both_ends(tmp_path, size):
    path = tmp_path / "a.bin"
    content = np.random.default_rng(size).bytes(size)
    path.write_bytes(content)
    expected = hashlib.sha256(str(size).encode() + content[: 1 << 20] + content[-(1 << 20) :] * (size > 0))
    assert movie.fingerprint(path) == expected.hexdigest()


def test_identity_changes_with_content_and_with_the_file(tmp_path):
    path = write_mrc(tmp_path / "a.mrc")
    first = movie.identity_of(path)
    assert movie.identity_of(path) == first
    assert first.size == path.stat().st_size
    write_mrc(tmp_path / "b.mrc")
    (tmp_path / "b.mrc").replace(path)
    assert movie.identity_of(path).inode != first.inode


def test_a_preallocated_copy_is_not_ready(tmp_path):
    """The length is set first, the data follow: size, header and two polls agree, the last frame is zero."""
    frames = FRAMES.copy()
    frames[2:] = 0
    path = write_mrc(tmp_path / "a.mrc", frames)
    counts = read(path)
    with pytest.raises(MovieNotReady, match="empty last frame"):
        movie.check_content(path, counts)


def test_a_movie_without_a_count_is_corrupt(tmp_path):
    for n in (1, 3):
        with pytest.raises(MovieCorrupt, match="no counts"):
            movie.check_content(tmp_path, np.zeros((n, 4, 5), np.uint8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_name_their_frame(tmp_path, bad):
    for dtype in ("float32", "float16"):
        counts = FRAMES[:, :4, :5].astype(dtype)
        movie.check_content(tmp_path, counts)
        counts[1, 2, 3] = bad
        with pytest.raises(MovieCorrupt, match="frame 2"):
            movie.check_content(tmp_path, counts)


def test_frames_that_are_all_the_same_are_no_movie(tmp_path):
    """A constant, or one picture copied: its halves would agree to any resolution."""
    for frame in (np.full((4, 5), 3), FRAMES[0]):
        with pytest.raises(MovieCorrupt, match="all frames are the same"):
            movie.check_content(tmp_path, np.stack([frame] * 3).astype(np.uint8))
    movie.check_content(tmp_path, FRAMES[:1])


def test_an_empty_frame_in_the_middle_is_no_reason_to_wait(tmp_path):
    counts = FRAMES.copy()
    counts[1] = 0
    movie.check_content(tmp_path, counts)


def test_a_growing_mrc_file_is_ready_only_at_its_full_size(tmp_path):
    whole = write_mrc(tmp_path / "whole.mrc").read_bytes()
    path = tmp_path / "a.mrc"
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(MovieNotReady):
            movie.read_header(path)
    path.write_bytes(whole)
    assert movie.read_header(path).n_frames == 3


@pytest.mark.skipif(shutil.which("relion_convert_to_tiff") is None, reason="RELION is not installed")
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate"])
def test_tiff_by_relion_is_the_mrc_it_was_made_from(tmp_path, compression):
    """Another writer, libtiff, and another opinion on which way is up."""
    frames = np.random.default_rng(0).poisson(1.0, (4, 33, 48)).astype(np.int8)
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(frames)
        file.voxel_size = 1.25
    command = ("relion_convert_to_tiff", "--i", "a.mrcs", "--o", "out", "--compression", compression)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    header = movie.read_header(tmp_path / "out" / "a.tif")
    assert (header.dtype, header.pixel_size) == ("int8", pytest.approx(1.25))
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif"), frames)


# --------------------------------------------------------------------------------------------------- movies as a whole


def there(path, relative=None):
    return Movie(path=str(path), relative=relative or path.name, session="s", identity=movie.identity_of(path))


def whole(movie_found, **options):
    return movie.read_whole(movie_found, **({"in_memory_bytes": 1 << 30, "threads": 2} | options))


@pytest.mark.parametrize("in_memory_bytes", [0, 1 << 30])
def test_a_movie_as_a_whole(tmp_path, in_memory_bytes):
    header, counts, content = whole(there(write_tiff(tmp_path / "a.tif")), in_memory_bytes=in_memory_bytes)
    assert header.n_frames == len(FRAMES)
    np.testing.assert_array_equal(np.stack([np.array(frame) for frame in counts]), FRAMES)
    np.testing.assert_array_equal(content.total, FRAMES.sum(0))


CORRUPT = {
    "header": lambda path: path.write_bytes(b"II*\0\x08\0\0\0\xff\xff" + bytes(2000)),
    "frame": lambda path: path.write_bytes(write_tiff(path).read_bytes().replace(b"\x80", b"\xff")),
    "content": lambda path: write_tiff(path, np.repeat(FRAMES[:1], 3, axis=0)),
    "kind": lambda path: path.write_bytes(b"this is no movie" * 100),
}


@pytest.mark.parametrize("in_memory_bytes", [0, 1 << 30])
@pytest.mark.parametrize("what", CORRUPT)
def test_what_is_wrong_with_a_file_that_has_changed_is_that_it_has_changed(tmp_path, what, in_memory_bytes):
    path = write_tiff(tmp_path / "a.tif")
    found = there(path)
    CORRUPT[what](path)
    with pytest.raises(MovieNotReady, match="changed since it was found"):
        whole(found, in_memory_bytes=in_memory_bytes)
    with pytest.raises(MovieUnsupported if what == "kind" else MovieCorrupt):
        whole(there(path), in_memory_bytes=in_memory_bytes)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("../b.tif"), os.mkfifo, Path.mkdir])
def test_a_movie_in_whose_place_there_is_no_file_has_vanished(tmp_path, make):
    write_tiff(tmp_path / "b.tif")
    (tmp_path / "root").mkdir()
    path = write_tiff(tmp_path / "root" / "a.tif")
    found = there(path)
    path.unlink()
    make(path)
    with pytest.raises(MovieVanished):
        whole(found)


@pytest.mark.parametrize("depth", ["s", "s/t", "s/t/u"])
def test_no_link_below_the_root_is_followed(tmp_path, depth):
    root, outside = tmp_path / "root", tmp_path / "outside"
    relative = "s/t/u/a.tif"
    path = root / relative
    path.parent.mkdir(parents=True)
    found = there(write_tiff(path), relative)
    (tmp_path / "link").symlink_to(root)
    through_link = there(tmp_path / "link" / relative, relative)
    assert whole(found)[0] == whole(through_link)[0]
    (root / depth).rename(outside)
    (root / depth).symlink_to(outside)
    for one in (found, through_link):
        with pytest.raises(MovieVanished, match="a link"):
            whole(one)
    # who names a file by hand may name it through links
    assert movie.read_header(path).n_frames == len(FRAMES)


def test_what_lies_elsewhere_is_read_though_a_root_is_set(tmp_path):
    (tmp_path / "root").mkdir()
    path = write_tiff(tmp_path / "a.tif")
    with below(tmp_path / "root"):
        assert movie.read_header(path) == movie.read_header(tmp_path / "root" / ".." / "a.tif")


def test_the_root_of_a_path():
    assert root_of("/data/root/s/a.tif", "s/a.tif") == Path("/data/root")
    assert root_of("/data/root/s/a.tif", "t/a.tif") is None
    assert root_of("/data/root/s/a.tif", "") is None


@pytest.mark.parametrize("value", [1e30, -1e30, 2e9])
@pytest.mark.parametrize("in_memory_bytes", [0, 1 << 30])
def test_numbers_that_no_camera_counts_are_refused(tmp_path, value, in_memory_bytes):
    frames = FRAMES.astype(np.float32)
    frames[1, 2, 3] = value
    with pytest.raises(MovieCorrupt, match="frame 2 contains numbers that no camera counts; expected at most 1e"):
        whole(there(write_tiff(tmp_path / "a.tif", frames)), in_memory_bytes=in_memory_bytes)


def test_large_numbers_are_counts(tmp_path):
    frames = FRAMES.astype(np.float32) * 1e7
    np.testing.assert_array_equal(whole(there(write_mrc(tmp_path / "a.mrc", frames)))[1], frames)
