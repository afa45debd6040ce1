import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.errors import ConfigError, MovieCorrupt, MovieMismatch, MovieNotReady, MovieUnsupported, StreamerError
from streamer.frame_stack import FrameStack
from streamer.readers import movie
from streamer.settings import EerSettings
from streamer.simulation.eer_encoder import BITS, Events, encode_eer, encode_frame, events_of

SHAPE = (21, 34)
TOLD = {
    "numberOfFrames": ("", "12"),
    "exposureTime": ("s", "0.05"),
    "totalDose": ("e/pixel", "24"),
    "sensorPixelSize.width": ("m", "2e-10"),
    "sensorPixelSize.height": ("m", "2e-10"),
    "eerGainReference": ("", "20260101_EER_GainReference.gain"),
}


def random_events(rng, shape, n):
    places = np.sort(rng.choice(shape[0] * shape[1], n, replace=False))
    return Events(places=places, x=rng.integers(0, 4, n), y=rng.integers(0, 4, n))


def made(tmp_path, *, n_raw=12, shape=SHAPE, compression=65001, bits=None, told=TOLD, events=40, name="a.eer"):
    """A file, and its events per raw frame."""
    rng = np.random.default_rng(3)
    frames = [random_events(rng, shape, int(rng.integers(0, events))) for _ in range(n_raw)]
    used = bits or BITS[compression]
    streams = [encode_frame(frame, shape[0] * shape[1], used) for frame in frames]
    path = tmp_path / name
    path.write_bytes(encode_eer(streams, shape, compression=compression, bits=bits, metadata=told))
    return path, frames


def true_counts(frames, shape, upsampling):
    """Where the events really are, on a grid ``upsampling`` times as fine."""
    counts = np.zeros((shape[0] * upsampling, shape[1] * upsampling), dtype=int)
    for frame in frames:
        row, column = np.divmod(frame.places, shape[1])
        y, x = row * upsampling + frame.y * upsampling // 4, column * upsampling + frame.x * upsampling // 4
        np.add.at(counts, (y, x), 1)
    return counts


def read(path, eer=None, **options):
    eer = eer or EerSettings()
    header = movie.read_header(path, eer=eer)
    return header, movie.read_counts(path, header, **({"in_memory_bytes": 1 << 30, "threads": 2} | options), eer=eer)


# ------------------------------------------------------------------------------------------------ every event


@pytest.mark.parametrize(
    ("compression", "bits"), [(65000, None), (65001, None), (65002, (8, 2, 2)), (65002, (7, 1, 1)), (65002, (5, 2, 2))]
)
@pytest.mark.parametrize("shape", [(21, 34), (16, 16), (1, 500), (33, 7)])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_every_event_comes_back_where_it_was(tmp_path, compression, bits, shape, upsampling):
    n = min(shape[0] * shape[1] // 2, 60)
    path, frames = made(tmp_path, compression=compression, bits=bits, shape=shape, events=n)
    if bits == (7, 1, 1) and (upsampling == 4 or (upsampling == 2 and shape != (16, 16))):
        with pytest.raises(MovieUnsupported, match="upsampling = 1"):
            movie.read_header(path, eer=EerSettings(upsampling=upsampling))
        return
    header, counts = read(path, EerSettings(group=4, upsampling=upsampling))
    assert (header.format, header.n_frames, header.n_raw_frames) == ("eer", 3, 12)
    assert counts.shape == (3, shape[0] * upsampling, shape[1] * upsampling)
    for number in range(3):
        truth = true_counts(frames[4 * number : 4 * number + 4], shape, upsampling)
        np.testing.assert_array_equal(counts[number], truth)


def test_an_empty_raw_frame_and_one_full_of_events(tmp_path):
    n = SHAPE[0] * SHAPE[1]
    every = Events(places=np.arange(n), x=np.zeros(n, int), y=np.zeros(n, int))
    nothing = Events(places=np.arange(0), x=np.arange(0), y=np.arange(0))
    path = tmp_path / "a.eer"
    path.write_bytes(encode_eer([encode_frame(one, n, (7, 2, 2)) for one in (every, nothing, every)], SHAPE))
    counts = read(path, EerSettings(group=1))[1]
    assert [int(frame.sum()) for frame in counts] == [n, 0, n]


def test_rows_are_turned_over_only_when_asked(tmp_path):
    path, frames = made(tmp_path)
    truth = true_counts(frames, SHAPE, 1)
    np.testing.assert_array_equal(read(path, EerSettings(fractions=1))[1][0], truth)
    np.testing.assert_array_equal(read(path, EerSettings(fractions=1, flip_y=True))[1][0], truth[::-1])


def test_fractions_of_more_than_255_raw_frames_do_not_overflow(tmp_path):
    n = 64
    everywhere = Events(places=np.arange(n), x=np.zeros(n, int), y=np.zeros(n, int))
    path = tmp_path / "a.eer"
    path.write_bytes(encode_eer([encode_frame(everywhere, n, (7, 2, 2))] * 300, (8, 8)))
    header, counts = read(path, EerSettings(fractions=1))
    assert header.dtype == "uint16"
    assert (counts == 300).all()


def test_the_simulators_counts_come_back(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, (3, *SHAPE)).astype(np.uint8)
    streams = [
        encode_frame(one, SHAPE[0] * SHAPE[1], (7, 2, 2)) for frame in counts for one in events_of(frame, 20, rng)
    ]
    path = tmp_path / "a.eer"
    path.write_bytes(encode_eer(streams, SHAPE))
    np.testing.assert_array_equal(read(path, EerSettings(group=20))[1], counts)
    with pytest.raises(ValueError, match="does not fit"):
        events_of(np.full((2, 2), 21, np.uint8), 20, rng)


def test_a_movie_that_is_too_large_for_memory_is_decoded_again_each_time(tmp_path):
    path, _ = made(tmp_path)
    held = read(path, EerSettings(group=3))[1]
    streamed = read(path, EerSettings(group=3), in_memory_bytes=0)[1]
    assert isinstance(streamed, FrameStack)
    for _ in range(2):
        np.testing.assert_array_equal(np.stack([frame.copy() for frame in streamed]), held)


# -------------------------------------------------------------------------------------------------- fractions


@pytest.mark.parametrize(
    ("eer", "n_frames", "left_out"),
    [
        (EerSettings(group=5), 2, 2),
        (EerSettings(group=12), 1, 0),
        (EerSettings(fractions=5), 5, 0),
        (EerSettings(fractions=7), 7, 0),
        (EerSettings(fractions=12), 12, 0),
        (EerSettings(fractions=99), 12, 0),
        (EerSettings(), 12, 0),
        (EerSettings(dose_per_fraction=1.5), 4, 0),
        (EerSettings(dose_per_fraction=0.001), 12, 0),
        (EerSettings(dose_per_fraction=1000), 1, 0),
        (EerSettings(dose_per_fraction=2.6), 2, 0),
        (EerSettings(dose_per_fraction=3.5), 2, 0),
    ],
)
def test_raw_frames_are_divided_as_asked(tmp_path, eer, n_frames, left_out):
    """24 e⁻/px at 2 Å/px in 12 raw frames: 0.5 e⁻/Å² each."""
    path, _ = made(tmp_path)
    header = movie.read_header(path, eer=eer)
    assert (header.n_frames, header.n_raw_frames_left_out) == (n_frames, left_out)
    assert sum(header.frame_doses) == pytest.approx(0.5 * (12 - left_out))


def test_an_integration_file_gives_groups_and_doses(tmp_path):
    """The first three raw frames each for themselves, then groups of four; the eleventh and twelfth fill none."""
    path, frames = made(tmp_path)
    plan = tmp_path / "integration.txt"
    plan.write_text("# raw frames, group, dose\n3 1 0.2\n\n100 4 0.5\n")
    header, counts = read(path, EerSettings(integration=str(plan)))
    assert header.frame_doses == pytest.approx((0.2, 0.2, 0.2, 2.0, 2.0))
    assert header.n_raw_frames_left_out == 1
    np.testing.assert_array_equal(counts[1], true_counts(frames[1:2], SHAPE, 1))
    np.testing.assert_array_equal(counts[4], true_counts(frames[7:11], SHAPE, 1))


@pytest.mark.parametrize("text", ["", "3 1", "3 0 0.1", "a b c", "3 1 nan", "3 1 -1", "3 1 0.1 7"])
def test_an_integration_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, text):
    path, _ = made(tmp_path)
    plan = tmp_path / "integration.txt"
    plan.write_text("5 5 0.1\n" * bool(text) + text)
    with pytest.raises(ConfigError, match="line 2" if text else "empty"):
        movie.read_header(path, eer=EerSettings(integration=str(plan)))
    with pytest.raises(ConfigError, match="cannot be read"):
        movie.read_header(path, eer=EerSettings(integration=str(tmp_path / "none")))


def test_what_cannot_be_divided_is_told(tmp_path):
    path, _ = made(tmp_path)
    with pytest.raises(MovieMismatch, match="too few raw frames"):
        movie.read_header(path, eer=EerSettings(group=13))
    untold, _ = made(tmp_path, told=None, name="b.eer")
    with pytest.raises(MovieMismatch, match=r"eer\.group or eer\.fractions"):
        movie.read_header(untold, eer=EerSettings(dose_per_fraction=1.0))
    with pytest.raises(ValueError, match="only one of group, fractions"):
        EerSettings(group=1, fractions=1)


# --------------------------------------------------------------------------------------------------- metadata


def test_the_pixel_size_is_that_of_the_grid(tmp_path):
    path, _ = made(tmp_path)
    for upsampling in (1, 2, 4):
        header = movie.read_header(path, eer=EerSettings(upsampling=upsampling))
        assert header.pixel_size == pytest.approx(2.0 / upsampling)
        assert header.upsampling == upsampling
        assert header.proves_its_length


def test_without_metadata_everything_is_unknown(tmp_path):
    path, _ = made(tmp_path, told=None)
    header = movie.read_header(path)
    assert (header.pixel_size, header.frame_doses, header.proves_its_length) == (None, None, False)


@pytest.mark.parametrize(
    "document", ["<metadata>", "<!DOCTYPE a [<!ENTITY b 'c'>]><metadata>&b;</metadata>", "\0", "<a><b></a>"]
)
def test_damaged_metadata_is_corrupt(tmp_path, document):
    path, _ = made(tmp_path)
    data = path.read_bytes()
    start, stop = data.index(b"<metadata>"), data.index(b"</metadata>") + len(b"</metadata>")
    path.write_bytes(data[:start] + document.encode().ljust(stop - start, b" ") + data[stop:])
    with pytest.raises(MovieCorrupt, match="metadata"):
        movie.read_header(path)


# ------------------------------------------------------------------------------------------ what is not whole


def test_every_truncation_is_noticed(tmp_path):
    path, _ = made(tmp_path, n_raw=12, shape=(8, 9), events=20)
    data = path.read_bytes()
    cut = tmp_path / "cut.eer"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        # below eight bytes nobody can tell what it is to become
        with pytest.raises(MovieNotReady if length > 8 else StreamerError):
            read(cut)


def test_a_file_that_ends_at_a_page_is_found_out_by_its_metadata(tmp_path):
    path, _ = made(tmp_path, n_raw=9)
    with pytest.raises(MovieNotReady, match="fewer raw frames"):
        movie.read_header(path)


def test_a_stretch_of_zeros_is_not_filled_in_yet(tmp_path):
    path, _ = made(tmp_path)
    data = bytearray(path.read_bytes())
    data[-20:] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(MovieNotReady, match="not filled in"):
        read(path, EerSettings(group=12))


def test_a_movie_beyond_the_limit_is_refused_before_anything_is_allocated(tmp_path):
    n = 60_000 * 60_000
    nothing = Events(places=np.arange(0), x=np.arange(0), y=np.arange(0))
    path = tmp_path / "a.eer"
    path.write_bytes(encode_eer([encode_frame(nothing, 1000, (7, 2, 2))] * 40, (60_000, 60_000)))
    with pytest.raises(MovieUnsupported, match="more than is allowed"):
        movie.read_header(path, eer=EerSettings(upsampling=4))
    assert n > 0


@pytest.mark.parametrize("bits", [(0, 2, 2), (16, 2, 2), (7, 5, 2), (14, 2, 2)])
def test_events_of_an_impossible_size_are_corrupt(tmp_path, bits):
    path = tmp_path / "a.eer"
    path.write_bytes(encode_eer([b"\xff" * 64], SHAPE, compression=65002, bits=bits))
    with pytest.raises(MovieCorrupt, match="events of at most 16 bits"):
        movie.read_header(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_raises_only_our_errors(tmp_path, data):
    path, _ = made(tmp_path, n_raw=4, shape=(8, 9), events=20, told=TOLD | {"numberOfFrames": ("", "4")})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.eer"
    damaged.write_bytes(content)
    with suppress(StreamerError):
        counts = read(damaged)[1]
        assert counts.shape[0] >= 1


def test_strips_of_one_frame_are_one_stream(tmp_path):
    """As RELION reads them: two strips hold the halves of one stream."""
    path, frames = made(tmp_path, n_raw=1, told=None, events=40)
    data = path.read_bytes()
    stream = encode_frame(frames[0], SHAPE[0] * SHAPE[1], (7, 2, 2))
    start = data.index(stream)
    half = len(stream) // 2 + 1
    entries = [
        (256, 4, 1, SHAPE[1]),
        (257, 4, 1, SHAPE[0]),
        (258, 3, 1, 1),
        (259, 3, 1, 65001),
        (273, 4, 2, start | start + half << 32),
        (278, 4, 1, SHAPE[0] // 2 + 1),
        (279, 4, 2, half | len(stream) - half << 32),
    ]
    directory = struct.pack("<Q", len(entries)) + b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    path.write_bytes(data[:8] + struct.pack("<Q", len(data)) + data[16:] + directory + struct.pack("<Q", 0))
    np.testing.assert_array_equal(read(path)[1][0], true_counts(frames, SHAPE, 1))
