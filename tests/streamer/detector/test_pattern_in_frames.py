"""The detector's pattern as frames show it: on any grid, and not what only neighbouring frames share."""

import numpy as np
import pytest

from streamer.detector.fixed_pattern import measure, what_is_left
from streamer.detector.gain_check import FittedGain
from streamer.simulation.eer_encoder import events_of

SHAPE = (256, 320)


def efficiency(spread):
    return 1.0 + spread * np.random.default_rng(1).standard_normal(SHAPE)


def frames_of(spread, n_frames=16, mean=5.0):
    return np.random.default_rng(2).poisson(mean * efficiency(spread), (n_frames, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_afterglow_from_frame_to_frame_is_no_pattern(spread):
    """Each frame keeps a tenth of the one before."""
    frames = frames_of(spread)
    frames[1:] += np.random.default_rng(3).binomial(frames[:-1].astype(int), 0.1)
    found = measure(frames, frames.sum(0))
    assert found.is_seen is (spread > 0)
    assert found.power == pytest.approx(spread**2, abs=4.0 * found.error)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_fractions_that_cut_counted_frames_are_no_pattern(spread):
    """A pixel counts once in a hardware frame: parts of one exposure agree by more than chance."""
    rng, hardware = np.random.default_rng(4), []
    for frame in frames_of(spread, 8, 4.0).astype(np.uint8):
        for events in events_of(frame.clip(max=20), 20, rng):
            image = np.zeros(SHAPE, np.float32)
            image.flat[events.places] = 1.0
            hardware.append(image)
    fractions = np.stack(hardware).reshape(16, 10, *SHAPE).sum(1)
    found = measure(fractions, fractions.sum(0))
    assert found.is_seen is (spread > 0)
    assert found.power == pytest.approx(spread**2, abs=4.0 * found.error)


@pytest.mark.parametrize("upsampling", [2, 4])
def test_on_a_finer_grid_the_pattern_is_that_of_the_detectors_pixels(upsampling):
    coarse, rng = frames_of(0.05), np.random.default_rng(5)
    fine = np.zeros((len(coarse), SHAPE[0] * upsampling, SHAPE[1] * upsampling), np.float32)
    for frame, counts in zip(fine, coarse, strict=True):
        rows, columns = np.nonzero(counts)
        number = counts[rows, columns].astype(int)
        y, x = (np.repeat(p, number) * upsampling + rng.integers(0, upsampling, number.sum()) for p in (rows, columns))
        np.add.at(frame, (y, x), 1.0)
    found, same = measure(fine, fine.sum(0), None, upsampling), measure(coarse, coarse.sum(0))
    assert found.power == pytest.approx(same.power, rel=1e-6)
    assert what_is_left(fine, fine.sum(0), FittedGain(), upsampling, said_corrected=False).seen == pytest.approx(
        0.05, rel=0.1
    )


@pytest.mark.parametrize("edge", ["bar", "beam"])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_grid_bar_and_the_edge_of_the_beam_are_no_pattern(edge, spread):
    rows, columns = np.indices(SHAPE)
    distance = rows + 0.3 * columns - 190.0 if edge == "bar" else np.hypot(rows - 120, columns - 160) - 125.0
    light = 0.01 + 0.99 / (1.0 + np.exp(distance / 3.0))
    frames = np.random.default_rng(2).poisson(6.0 * light * efficiency(spread), (16, *SHAPE)).astype(np.float32)
    found = measure(frames, frames.sum(0))
    assert found.is_seen is (spread > 0)
    assert found.power == pytest.approx(spread**2, abs=0.25 * spread**2 + 4.0 * found.error)
