import math

import numpy as np
import pytest
import torch

from streamer import dose, fourier
from streamer.sums import frame_sum
from tests.simulated_movies import images, unchanged

SIZES = [(8, 10), (7, 9), (8, 9)]
SHIFTS = torch.tensor(np.random.default_rng(7).uniform(-2.4, 2.4, (24, 2)))
"""Every kind of sub-pixel position, and whole pixels."""
PIXEL_SIZE, VOLTAGE_KV = 1.3, 300.0


def exposures_of(n, dose_per_frame=1.5):
    return dose.frame_exposures(n, dose_per_frame)


def fused(frames, shifts, exposures=None, **options):
    return frame_sum.sum_frames(
        lambda index: frames[index],
        shifts,
        torch.zeros(len(frames), dtype=torch.float64) if exposures is None else exposures,
        pixel_size=PIXEL_SIZE,
        voltage_kv=VOLTAGE_KV,
        **options,
    )


def full_frequencies(shape):
    return np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]


# ----------------------------------------------------------------------------------------------- the physical grid


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_is_the_weighted_sum_of_the_moved_frames(size):
    """Against a plain loop over full planes in float64."""
    frames, exposures, shifts = images(24, *size), exposures_of(24), SHIFTS - SHIFTS.round()
    with unchanged(frames, shifts, exposures):
        sums = fused(frames, shifts, exposures)
    rows, columns = full_frequencies(size)
    rate = 0.5 / (0.245 * (np.hypot(rows, columns) / PIXEL_SIZE).clip(1e-12) ** -1.665 + 2.81)
    expected = np.zeros((2, *size), dtype=complex)
    for t, (y, x) in enumerate(shifts.numpy()):
        ramp = np.exp(-2j * math.pi * (rows * y + columns * x)) * np.exp(-float(exposures[t]) * rate)
        expected[t % 2] += np.fft.fft2(frames[t].double().numpy()) * ramp
    below = slice(0, (size[1] + 1) // 2)  # the Nyquist column of even widths has no sign
    np.testing.assert_allclose(sums.even[:, below], expected[0][:, below], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(sums.odd[:, below], expected[1][:, below], rtol=1e-3, atol=2e-3)


def test_frames_that_do_not_move_are_summed():
    frames = images(5, 7, 10)
    sums = fused(frames, torch.zeros(5, 2, dtype=torch.float64))
    torch.testing.assert_close(fourier.to_image(sums.even, (7, 10)), frames[0::2].sum(0))
    torch.testing.assert_close(fourier.to_image(sums.odd, (7, 10)), frames[1::2].sum(0))


def test_whole_px_move_the_frame_without_wrapping_round():
    frame = 3.0 + images(6, 8)
    mean = float(frame.mean())
    sums = fused(frame[None], torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    expected = torch.full((6, 8), mean)
    expected[2:, :5] = frame[:4, 3:]
    torch.testing.assert_close(fourier.to_image(sums.even, (6, 8)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [[6.0, 0.0], [0.0, -8.0], [-100.0, 3.0]])
def test_a_frame_moved_out_of_the_field_leaves_its_mean(shift):
    frame = 3.0 + images(6, 8)
    sums = fused(frame[None], torch.tensor([shift], dtype=torch.float64))
    torch.testing.assert_close(fourier.to_image(sums.even, (6, 8)), torch.full((6, 8), float(frame.mean())))


def test_groups_hold_every_nth_frame():
    frames = images(11, 8, 8)
    sums = fused(frames, torch.zeros(11, 2, dtype=torch.float64), group_shape=(8, 8), n_groups=4)
    for group in range(4):
        expected = torch.fft.rfft2(frames[group::4].sum(0))
        expected[4], expected[:, -1] = 0, 0  # a crop leaves out the Nyquist lines
        torch.testing.assert_close(sums.groups[group], expected, rtol=1e-4, atol=1e-4)
    # every group holds only even or only odd frames
    torch.testing.assert_close(sums.groups[0] + sums.groups[2], fourier.resize(sums.even, (8, 8), (8, 8)))


def test_a_frame_that_is_not_a_number_shows_in_the_sum():
    frames = images(4, 8, 8)
    frames[2, 3, 3] = torch.nan
    sums = fused(frames, torch.zeros(4, 2, dtype=torch.float64))
    assert not torch.isfinite(sums.even).any()
    assert torch.isfinite(sums.odd).all()
