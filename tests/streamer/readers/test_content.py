"""Frames that carry no information are left out and named; an honest frame never is."""

from pathlib import Path

import numpy as np
import pytest

from streamer.errors import MovieCorrupt, MovieNotReady
from streamer.readers import movie
from streamer.readers.content import check_content

N, SHAPE = 10, (96, 128)


def counts_of(mean=3.0, seed=0, n=N, shape=SHAPE, dtype=np.uint16):
    return np.random.default_rng(seed).poisson(mean, (n, *shape)).astype(dtype)


def dark(frame, mean=0.02, seed=9):
    return np.random.default_rng(seed).poisson(mean, frame.shape).astype(frame.dtype)


def blank_first(counts):
    counts[0] = 0


def blank_middle(counts):
    counts[4:6] = 0


def constant(counts):
    counts[3] = 7


def saturated(counts):
    counts[3] = 65535


def beam_late(counts):
    counts[0] = dark(counts[0])


def beam_gone_for_most(counts):
    for index in range(4, N):
        counts[index] = dark(counts[index], seed=index)


def doubled(counts):
    counts[5] = counts[4]


def doubled_far_apart(counts):
    counts[8] = counts[2]


def all_pairs(counts):
    counts[1::2] = counts[0::2]


def tripled(counts):
    counts[3] = counts[4] = counts[2]


def lower_half_cut(counts):
    counts[7, :48] = 0


def last_columns_cut(counts):
    counts[2, :, -16:] = 0


def half_cut_to_dark(counts):
    counts[6, 48:] = dark(counts[6, 48:])


def garbage(counts):
    counts[6] = np.random.default_rng(5).integers(0, 65536, SHAPE)


def garbage_of_a_like_mean(counts):
    counts[6] = np.random.default_rng(5).choice([0, 60], SHAPE, p=[0.95, 0.05])


FAULTS = [
    (blank_first, {0}, "blank", 0.0),
    (blank_middle, {4, 5}, "blank", 0.0),
    (constant, {3}, "blank", 1.0),
    (saturated, {3}, "blank", 1.0),
    (beam_late, {0}, "blank", 0.02 / 3.0),
    (beam_gone_for_most, set(range(4, N)), "blank", 0.02 / 3.0),
    (doubled, {5}, "a copy of another frame", 1.0),
    (doubled_far_apart, {8}, "a copy of another frame", 1.0),
    (all_pairs, {1, 3, 5, 7, 9}, "a copy of another frame", 1.0),
    (tripled, {3, 4}, "a copy of another frame", 1.0),
    (lower_half_cut, {7}, "cut off", 1.0),
    (last_columns_cut, {2}, "cut off", 1.0),
    (half_cut_to_dark, {6}, "cut off", 1.0),
    (garbage, {6}, "not an image", 1.0),
    (garbage_of_a_like_mean, {6}, "not an image", 1.0),
]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(("spoil", "left_out", "fault", "share"), FAULTS)
def test_a_frame_without_information_is_left_out_and_named(spoil, left_out, fault, share, dtype):
    counts = counts_of()
    spoil(counts)
    found = check_content("m.mrc", counts.astype(dtype))
    assert found.faults == dict.fromkeys(sorted(left_out), fault)
    assert found.kept == tuple(index for index in range(N) if index not in left_out)
    places = ", ".join(str(index + 1) for index in sorted(left_out))
    assert found.flags == (f"frames: left out as {fault}: {places} of {N}, counted from 1",)
    np.testing.assert_array_equal(found.total, counts[list(found.kept)].sum(0, dtype=np.float32))
    assert all(found.shares[index] == pytest.approx(share, abs=2e-3) for index in left_out)
    assert all(found.shares[index] == 1.0 for index in found.kept)
    shown = found.of(counts)
    assert len(shown) == shown.shape[0] == N - len(left_out)
    assert [int(frame.sum()) for frame in shown] == [int(counts[index].sum()) for index in found.kept]


@pytest.mark.parametrize("mean", [0.3, 3.0, 300.0])
def test_a_frame_of_another_dose_is_kept_and_its_dose_follows(mean):
    counts = counts_of(mean, shape=(256, 256))
    for share, index in ((0.5, 0), (0.1, 3), (2.0, 9)):
        counts[index] = np.random.default_rng(index + 50).poisson(share * mean, (256, 256))
    found = check_content("m.mrc", counts)
    assert not found.faults
    assert [round(share, 1) for share in found.shares] == [0.5, 1, 1, 0.1, 1, 1, 1, 1, 1, 2.0]
    (flag,) = found.flags
    assert flag.startswith("frames: exposed unlike the others, weighted accordingly: 1 (")
    assert flag.endswith(f"of {N}")


def test_doses_that_are_known_to_differ_are_no_surprise():
    doses = [0.1] * 3 + [1.0] * 7
    counts = np.stack([counts_of(3.0 * dose, seed, 1)[0] for seed, dose in enumerate(doses)])
    assert not check_content("m.eer", counts, doses=doses).flags
    assert check_content("m.eer", counts).flags
    counts[9] = 0
    assert check_content("m.eer", counts, doses=doses, stood_still=True).faults == {9: "blank"}


@pytest.mark.parametrize("mean", [0.005, 0.02, 0.3, 3.0, 60.0])
@pytest.mark.parametrize("shape", [(32, 32), (96, 128), (700, 512)])
def test_honest_frames_of_any_dose_raise_nothing(mean, shape):
    """Sparse ones too: no electron in a small frame is no blank frame, and two such frames are no copies."""
    for seed in range(4):
        for n in (2, 3, 12):
            counts = counts_of(mean, seed, n, shape, np.uint8)
            if not counts[-1].any():
                continue
            found = check_content("m.eer", counts)
            assert (found.faults, found.flags, set(found.shares)) == ({}, (), {1.0})
            np.testing.assert_array_equal(found.total, counts.sum(0, dtype=np.float32))
            assert found.of(counts) is counts


def test_numbers_about_zero_tell_nothing_about_the_beam():
    """A program may have taken the mean off: the levels are then no doses."""
    frames = counts_of(3.0).astype(np.float32)
    frames -= frames.mean((1, 2), keepdims=True)
    (flag,) = check_content("m.mrc", frames).flags
    assert flag.startswith("counts: ")
    assert "below zero" in flag
    frames[4] = 0
    assert not check_content("m.mrc", frames + np.float32(1e-3) * np.arange(N)[:, None, None]).faults.keys() - {4}


def test_a_pattern_of_the_detector_is_no_fault_of_a_frame():
    """Hot pixels, dead columns, a dead half and one bright hit are there in honest movies."""
    counts = counts_of(0.5, shape=(256, 256))
    counts[:, 10, 10] = 60000
    counts[:, :, 100:103] = 0
    counts[5, 40:44, 200:204] = 5000
    assert not check_content("m.tif", counts).flags
    counts[:, 128:] = 0
    assert not check_content("m.tif", counts).flags


def test_an_empty_end_is_waited_for_and_left_out_in_the_end():
    counts = counts_of()
    counts[8:] = 0
    with pytest.raises(MovieNotReady, match="empty last frame"):
        check_content("m.mrc", counts)
    assert check_content("m.mrc", counts, stood_still=True).faults == {8: "blank", 9: "blank"}


@pytest.mark.parametrize("left", [0, 1])
def test_fewer_than_two_frames_are_no_movie(left):
    counts = counts_of()
    counts[left:-1] = 0
    counts[-1] = 5 if left else 6
    with pytest.raises(MovieCorrupt, match="fewer than two frames carry information"):
        check_content("m.mrc", counts)


def test_a_single_image_stays_one():
    assert check_content("m.mrc", counts_of(n=1)).kept == (0,)


def test_frames_that_are_decoded_on_request_are_judged_alike(tmp_path):
    from tests.streamer.readers.test_movie import write_tiff

    counts = counts_of(dtype=np.uint8)
    counts[0], counts[6] = 0, counts[5]
    path = write_tiff(tmp_path / "a.tif", counts)
    stack = movie.read_counts(path, movie.read_header(path), in_memory_bytes=0, threads=2)
    found = check_content(path, stack)
    assert found.kept == (1, 2, 3, 4, 5, 7, 8, 9)
    shown = [frame.copy() for frame in found.of(stack)]
    np.testing.assert_array_equal(np.stack(shown)[::1], counts[list(found.kept)])


def one_pixel_differs(frame):
    frame[3, 5] += 1


def a_column_was_mended(frame):
    frame[:, -1] = frame[:, -2]


def scaled(frame):
    frame *= 2


def lower_half_is_new(frame):
    lower = frame[SHAPE[0] // 2 :]
    lower[:] = np.random.default_rng(2).poisson(lower.mean(), lower.shape)


@pytest.mark.parametrize("mean", [0.5, 3.0, 60.0])
@pytest.mark.parametrize("change", [one_pixel_differs, a_column_was_mended, scaled, lower_half_is_new])
def test_a_copy_that_is_not_exact_is_left_out_too(change, mean):
    counts = counts_of(mean).astype(np.float32)
    counts[5] = counts[4]
    change(counts[5])
    content = check_content(Path("a.mrc"), counts)
    assert content.faults == {5: "a copy of another frame"}
    np.testing.assert_array_equal(content.total, np.delete(counts, 5, axis=0).sum(0))


def test_what_all_frames_share_makes_none_a_copy():
    """A pattern much stronger than the noise, hot pixels, and one that is hot for two frames."""
    rng = np.random.default_rng(3)
    pattern = np.exp(0.5 * rng.normal(size=SHAPE))
    counts = rng.poisson(400.0 * pattern, (N, *SHAPE)).astype(np.uint16)
    counts[:, 7, 9] = 60_000
    counts[2:4, 20:23, 30:33] = 50_000
    assert check_content(Path("a.mrc"), counts).flags == ()
