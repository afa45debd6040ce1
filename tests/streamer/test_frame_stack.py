import gc
import threading
import tracemalloc

import mrcfile
import numpy as np
import pytest
import tifffile

from streamer.errors import MovieCorrupt, MovieNotReady
from streamer.frame_stack import FrameStack
from streamer.readers import movie

RNG = np.random.default_rng(0)


def write_tiff(path, frames, **options):
    with tifffile.TiffWriter(path) as file:
        for frame in frames:
            file.write(frame[::-1], compression="lzw", metadata=None, contiguous=False, rowsperstrip=16, **options)
    return path


def write_mrc(path, frames):
    with mrcfile.new(path) as file:
        file.set_data(frames)
    return path


def streamed(path, threads=2):
    return movie.read_counts(path, movie.read_header(path), in_memory_bytes=0, threads=threads)


@pytest.mark.parametrize("threads", [1, 3, 9])
@pytest.mark.parametrize("kind", ["tif", "mrc"])
def test_frames_are_the_same_in_any_order_and_each_time(tmp_path, kind, threads):
    frames = RNG.integers(0, 100, (7, 40, 31)).astype(np.int8 if kind == "mrc" else np.uint8)
    path = (write_mrc if kind == "mrc" else write_tiff)(tmp_path / f"a.{kind}", frames)
    stack = streamed(path, threads)
    assert isinstance(stack, FrameStack)
    assert (len(stack), stack.shape, stack.dtype) == (7, (7, 40, 31), frames.dtype)
    for _ in range(2):
        for index, frame in enumerate(stack):
            np.testing.assert_array_equal(frame, frames[index])
    for index in (6, 0, 3, 3, -1, 2):
        np.testing.assert_array_equal(stack[index], frames[index])
    with pytest.raises(IndexError):
        stack[7]


def test_a_frame_that_cannot_be_decoded_is_told_when_it_is_asked_for(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RNG.integers(0, 255, (6, 64, 64)).astype(np.uint8))
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[4].dataoffsets[1], file.pages[4].databytecounts[1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    stack = streamed(path)
    for index in range(4):
        assert stack[index].any()
    with pytest.raises(MovieCorrupt, match="frame 4"):
        stack[4]


def test_a_file_that_changes_is_noticed_at_the_end_of_the_pass(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RNG.integers(0, 255, (4, 32, 32)).astype(np.uint8))
    stack = streamed(path)
    assert sum(1 for _ in stack) == 4
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(MovieNotReady, match="changed"):
        list(stack)


def test_its_threads_and_its_file_go_with_it(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RNG.integers(0, 255, (4, 32, 32)).astype(np.uint8))
    before = threading.active_count()
    stack = streamed(path)
    assert stack[0].any()
    del stack
    gc.collect()
    assert threading.active_count() == before


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    """Peaks of one whole pass and the sum over it: five times the frames, the same memory; held, five times as much."""
    peaks = {}
    for n in (12, 60):
        path = write_tiff(tmp_path / f"{n}.tif", RNG.integers(0, 4, (n, 256, 256)).astype(np.uint8))
        for limit in (0, 1 << 30):
            tracemalloc.start()
            counts = movie.read_counts(path, movie.read_header(path), in_memory_bytes=limit, threads=2)
            movie.check_content(path, counts)
            peaks[n, limit] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            del counts
    assert peaks[60, 0] < 1.15 * peaks[12, 0]
    assert peaks[60, 1 << 30] > 2.5 * peaks[12, 1 << 30]


def overwrite(path, data):
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def test_a_file_that_is_overwritten_between_two_passes_is_not_ready(tmp_path):
    old, new = (RNG.integers(0, 255, (6, 64, 64)).astype(np.uint8) for _ in range(2))
    path = write_tiff(tmp_path / "a.tif", old)
    other = bytearray(write_tiff(tmp_path / "b.tif", new).read_bytes())
    other[8:] = bytes(byte ^ 0xA5 for byte in other[8:])
    stack = streamed(path, threads=1)
    list(stack)
    overwrite(path, bytes(other))
    with pytest.raises(MovieNotReady, match="changed while it was read"):
        list(stack)
