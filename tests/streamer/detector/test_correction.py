import numpy as np
import pytest
import torch

from streamer.detector.correction import correction_for, defects_of, find_hot_pixels
from streamer.errors import MovieCorrupt
from streamer.records import Gain

NO_DEFECTS = np.zeros((0, 2), dtype=np.int64)


def gain_of(values):
    return Gain(path="gain.mrc", sha256="0" * 64, values=np.asarray(values, dtype=np.float32))


def counted(shape, mean, seed=0):
    return np.random.default_rng(seed).poisson(mean, shape).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------- hot pixels


@pytest.mark.parametrize("shape", [(200, 200), (151, 260)])
def test_planted_hot_pixels_are_found_and_nothing_else(shape):
    total = counted(shape, 30.0).astype(np.float32)
    planted = np.array([[0, 0], [7, 120], [50, 3], [shape[0] - 1, shape[1] - 1]])
    total[planted[:, 0], planted[:, 1]] = 30.0 + 12.0 * 30.0**0.5
    before = total.copy()
    np.testing.assert_array_equal(find_hot_pixels(total, 7.0), planted)
    np.testing.assert_array_equal(total, before)


@pytest.mark.parametrize("mean", [8.0, 30.0, 300.0])
def test_clean_counts_give_less_than_one_false_alarm_in_a_million(mean):
    total = np.random.default_rng(1).poisson(mean, (1000, 1000)).astype(np.float32)
    assert len(find_hot_pixels(total, 7.0)) <= 1


@pytest.mark.parametrize("mean", [0.02, 0.16, 0.5, 1.0])
def test_where_most_pixels_are_empty_a_few_counts_are_no_evidence(mean):
    total = np.random.default_rng(5).poisson(mean, (512, 512)).astype(np.float32)
    assert len(find_hot_pixels(total, 7.0)) <= 3
    total[100, 200] = 20.0
    assert [100, 200] in find_hot_pixels(total, 7.0).tolist()
    assert [100, 200] in find_hot_pixels(0.3 * total, 7.0).tolist()


def test_a_bright_region_is_not_hot():
    """Noise grows with the mean: the edge of a grid bar at three times the counts must not be picked."""
    expected = np.full((300, 300), 20.0)
    expected[:, 150:] = 60.0
    total = np.random.default_rng(2).poisson(expected).astype(np.float32)
    assert len(find_hot_pixels(total, 7.0)) == 0


def test_a_stricter_threshold_finds_a_subset():
    total = counted((100, 100), 30.0).astype(np.float32)
    total[::17, ::13] += np.linspace(10, 90, total[::17, ::13].size).reshape(total[::17, ::13].shape)
    loose, strict = ({tuple(p) for p in find_hot_pixels(total, s)} for s in (5.0, 9.0))
    assert strict < loose


def test_defects_are_dead_and_hot_pixels_each_once():
    values = np.ones((4, 5))
    values[1, 2] = values[3, 0] = 0.0
    found = defects_of(gain_of(values), np.array([[1, 2], [0, 4]]))
    np.testing.assert_array_equal(found, [[0, 4], [1, 2], [3, 0]])
    np.testing.assert_array_equal(defects_of(None, np.array([[0, 4]])), [[0, 4]])


# ----------------------------------------------------------------------------------------------------- correction


def test_without_gain_and_defects_frames_are_the_counts():
    counts = counted((3, 9, 12), 2.0)
    correction = correction_for((9, 12), None, NO_DEFECTS)
    for index in range(3):
        np.testing.assert_array_equal(correction.frame(counts, index), counts[index])


def test_the_gain_multiplies():
    counts, values = counted((2, 7, 8), 2.0), np.random.default_rng(3).uniform(0.5, 2, (7, 8)).astype(np.float32)
    frame = correction_for((7, 8), gain_of(values), NO_DEFECTS).frame(counts, 1)
    np.testing.assert_allclose(frame, counts[1] * values, rtol=1e-6)


def test_the_counts_and_the_gain_stay_as_they_are():
    counts, gain = counted((4, 9, 9), 2.0), gain_of(np.full((9, 9), 2.0))
    counts_before, values_before = counts.copy(), gain.values.copy()
    correction = correction_for((9, 9), gain, np.array([[4, 4]]))
    for index in range(4):
        correction.frame(counts, index)
    np.testing.assert_array_equal(counts, counts_before)
    np.testing.assert_array_equal(gain.values, values_before)


def test_a_defect_gets_the_value_of_a_good_neighbour_another_one_in_each_frame():
    rng = np.random.default_rng(4)
    counts = np.stack([rng.permutation(81).reshape(9, 9) for _ in range(24)]).astype(np.uint8)
    correction = correction_for((9, 9), None, np.array([[4, 4], [4, 5], [0, 0]]))
    sources = []
    for index in range(24):
        frame = correction.frame(counts, index).numpy()
        for row, column in ((4, 4), (4, 5), (0, 0)):
            y, x = np.argwhere(counts[index] == frame[row, column])[0]
            assert max(abs(y - row), abs(x - column)) <= 2
            assert (y, x) not in {(4, 4), (4, 5), (0, 0)}
            if (row, column) == (4, 4):
                sources.append((y, x))
    # two px around it are 24 pixels, one of them a defect; in 24 frames all the others serve
    assert len(set(sources)) == 23


def test_a_defect_keeps_the_statistics_of_counting():
    counts = counted((4000, 5, 5), 3.0, seed=5)
    correction = correction_for((5, 5), None, np.array([[2, 2]]))
    values = np.array([float(correction.frame(counts, index)[2, 2]) for index in range(4000)])
    assert values.mean() == pytest.approx(3.0, abs=4 * (3 / 4000) ** 0.5)
    assert values.var() == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize(
    "block",
    [np.s_[0:7, 0:7], np.s_[40:45, 60:65], np.s_[30:94, 40:104], np.s_[:, 50:53], np.s_[:, 50:80], np.s_[70:82, 20:60]],
)
def test_inside_a_wide_defect_frames_have_the_statistics_of_counting_and_nothing_fixed(block):
    counts = counted((40, 224, 320), 2.0)
    bad = np.zeros((224, 320), bool)
    bad[block] = True
    correction = correction_for(bad.shape, None, np.argwhere(bad))
    counts[:, bad] = 200
    frames = np.stack([correction.frame(counts, index).numpy()[bad] for index in range(40)])
    assert frames.max() < 200
    error = (2.0 / frames.size) ** 0.5
    assert frames.mean() == pytest.approx(2.0, abs=12 * error)
    assert frames.var() == pytest.approx(2.0, rel=0.25)
    # what stays from frame to frame would hold the alignment: the sum over frames varies as that of independent ones
    assert frames.sum(0).var() < 2.0 * 40 * 2.0


def test_where_no_pixel_near_is_good_the_mean_is_taken():
    counts = counted((1, 600, 600), 3.0)
    block = np.argwhere(np.ones((180, 180)))
    frame = correction_for((600, 600), None, block).frame(counts, 0)
    assert float(frame[0, 0]) == pytest.approx(float(counts[0].mean()), rel=1e-5)


def test_the_correction_is_the_same_each_time():
    counts, defects = counted((3, 30, 31), 2.0), np.argwhere(np.random.default_rng(6).random((30, 31)) < 0.05)
    first, second = (correction_for((30, 31), None, defects) for _ in range(2))
    for index in range(3):
        assert torch.equal(first.frame(counts, index), second.frame(counts, index))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.float32])
def test_counts_of_any_stored_type(dtype):
    counts = counted((1, 4, 5), 2.0).astype(dtype)
    np.testing.assert_array_equal(correction_for((4, 5), None, NO_DEFECTS).frame(counts, 0), counts[0])


def test_a_detector_full_of_defects_is_refused():
    with pytest.raises(MovieCorrupt, match="more than a tenth"):
        correction_for((10, 10), None, np.argwhere(np.arange(100).reshape(10, 10) < 11))
