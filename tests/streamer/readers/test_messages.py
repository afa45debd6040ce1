"""What is said of a file that cannot be read: in the words of the person who took it, with what to do."""

import re
import struct

import numpy as np
import pytest

from streamer.errors import MovieCorrupt, MovieNotReady, StreamerError
from streamer.readers import movie
from streamer.settings import EerSettings
from streamer.simulation.microscope import RAW_FRAMES, encode

COUNTS = np.random.default_rng(0).poisson(1.0, (6, 20, 24)).astype(np.uint8)
INSIDES = re.compile(r"\b(tag|tags|directory|page|strip|IFD|offset|entries|entry|mode|bytes)\b", re.IGNORECASE)
"""Of a file format: they may be in the detail of what was found, not in the sentence that says what happened."""


def read(path):
    eer = EerSettings(group=RAW_FRAMES)
    header = movie.read_header(path, eer=eer)
    return movie.read_counts(path, header, in_memory_bytes=1 << 30, threads=1, eer=eer)


def errors_of(path, data, changes):
    for change in changes:
        path.write_bytes(change(bytearray(data)))
        try:
            read(path)
        except StreamerError as error:
            yield error


def flipped(place):
    def change(data):
        data[place // 8] ^= 1 << (place % 8)
        return data

    return change


@pytest.mark.parametrize("kind", ["tiff", "eer", "mrc"])
def test_every_message_says_what_happened_and_what_to_do(tmp_path, kind):
    data, rng = encode(COUNTS, kind, 1.0), np.random.default_rng(4)
    bits = rng.choice(8 * (len(data) if kind != "mrc" else 256), 400, replace=False)
    cuts = [lambda data, size=size: data[:size] for size in rng.choice(len(data), 40, replace=False)]
    errors = list(errors_of(tmp_path / "a_b_01.tif", data, [*map(flipped, bits), *cuts]))
    assert len(errors) > 60
    for error in errors:
        assert error.hint, error.message()
        assert not INSIDES.search(error.what), error.message()
        assert "MovieHeader(" not in error.message()
    corrupt = [error for error in errors if isinstance(error, MovieCorrupt)]
    assert corrupt
    for error in corrupt:
        assert error.hint.endswith("leave it out: streamer movies skip a_b_01.tif")
    for error in errors:
        if type(error) is MovieNotReady:
            assert "copy it again" in error.hint or "still writing it" in error.hint


@pytest.mark.parametrize(("frame", "says"), [(0, "at its first frame"), (1, "after frame 1"), (4, "after frame 4")])
def test_damage_is_told_by_the_last_frame_that_is_whole(tmp_path, frame, says):
    path = tmp_path / "a.tif"
    data = bytearray(encode(COUNTS, "tiff", 1.0))
    offset = struct.unpack_from("<I", data, 4)[0]
    for _ in range(frame):
        offset = struct.unpack_from("<I", data, offset + 2 + 12 * struct.unpack_from("<H", data, offset)[0])[0]
    struct.pack_into("<H", data, offset, 60_000)
    path.write_bytes(data)
    with pytest.raises(MovieCorrupt, match=f"a.tif: is damaged {says}; .*; copy it again from the camera's computer"):
        movie.read_header(path)
