"""A jump is one function of time; what neighbouring patches agree about is part of the error."""

import numpy as np
import pytest
import torch

from streamer.motion.align import estimate_motion
from streamer.motion.fit import OverTime
from streamer.motion.jumps import jumps_of
from streamer.motion.misfit import confirmed, neighbours
from streamer.motion.patch_weights import Weights
from streamer.settings import MotionSettings
from tests.simulated_movies import images

TIMES = torch.arange(24, dtype=torch.float64)
SMOOTH = OverTime(TIMES, 23.0, 7).values


def beyond_smooth(track):
    centred = track - track.mean(0)
    return centred - SMOOTH @ (SMOOTH.T @ centred)


@pytest.mark.parametrize("known", [True, False])
def test_a_jump_is_found_between_noisy_frames(known):
    jump = torch.tensor([6.0, -4.0], dtype=torch.float64) * (TIMES >= 11)[:, None]
    variance = torch.full((2,), 0.25, dtype=torch.float64) if known else None
    off, stated = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = jump + 0.5 * torch.randn((24, 2), generator=generator, dtype=torch.float64)
        steps, error = jumps_of(found, SMOOTH, variance)
        off.append(float((steps - beyond_smooth(jump)).square().sum(1).mean()))
        stated.append(float(error.mean()))
    assert np.mean(off) < 0.05
    assert 0.5 < np.mean(stated) / np.mean(off) < 1.5


@pytest.mark.parametrize("kind", ["noise", "vibration", "one frame"])
def test_what_is_no_jump_is_not_taken_for_one(kind):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        found = torch.randn((24, 2), generator=generator, dtype=torch.float64)
        if kind == "vibration":
            found[:, 0] += 4.0 * torch.sin(2.1 * TIMES + seed)
        elif kind == "one frame":
            found[12] += 3.0
        steps, error = jumps_of(found, SMOOTH, torch.ones(2, dtype=torch.float64))
        assert not bool(steps.any())
        assert not bool(error.any())


def test_few_frames_cannot_tell_a_jump_from_a_smooth_track():
    times = torch.arange(8, dtype=torch.float64)
    steps, _ = jumps_of(10.0 * (times >= 4)[:, None].expand(-1, 2).double(), OverTime(times, 7.0, 7).values)
    assert not bool(steps.any())


def test_a_weak_movie_that_jumps_is_known_to_what_a_step_allows():
    """A jump of 7.2 px in the middle of 24 weak frames that stand still otherwise."""
    generator = torch.Generator().manual_seed(5)
    base = images(272, 272, seed=4)
    spectrum = torch.fft.rfft2(base)
    radius = (torch.fft.fftfreq(272)[:, None] ** 2 + torch.fft.rfftfreq(272)[None] ** 2).sqrt()
    base = torch.fft.irfft2(spectrum * torch.exp(-((radius / 0.2) ** 2)), s=(272, 272))
    base = 0.08 * base / base.std()
    frames, truth = [], torch.zeros((24, 2), dtype=torch.float64)
    for number in range(24):
        dy, dx = (6, -4) if number >= 13 else (0, 0)
        truth[number] = -torch.tensor([dy, dx])
        seen = base[8 - dy : 264 - dy, 8 - dx : 264 - dx]
        frames.append(torch.poisson(1.0 + seen.clamp(min=-1.0), generator=generator))
    motion = estimate_motion(lambda i: frames[i], 24, 1.0, MotionSettings())
    assert motion.trusted
    off = motion.shifts - truth
    found = float((off - off.mean(0)).square().sum(1).mean().sqrt())
    floor = (2.0 * 7 / (24 * motion.information)) ** 0.5
    assert found < 1.6 * floor
    assert 0.5 < motion.error / found < 2.5


# --------------------------------------------------------------------------------------------------------- misfit


def weights(patches):
    ones = torch.ones(patches, dtype=torch.float64)
    return Weights(of_step=ones, information=ones, slow=torch.ones(3, dtype=torch.float64))


def test_neighbours_confirm_a_crack_but_not_what_each_patch_does_by_itself():
    pairs = neighbours([6, 6])
    assert len(pairs) == 60
    variance = torch.full((2,), 0.01, dtype=torch.float64)
    side = torch.where(torch.arange(36) % 6 < 3, 1.0, -1.0).double()
    crack = torch.zeros((36, 3, 2), dtype=torch.float64)
    crack[:, 0, 1] = side
    found = confirmed(crack, weights(36), pairs, variance)
    # across the crack, six of sixty pairs say the opposite
    np.testing.assert_allclose(found, [0.8, 0.0, 0.0], atol=0.01)
    generator = torch.Generator().manual_seed(1)
    alone = 0.5 * torch.randn((200, 36, 3, 2), generator=generator, dtype=torch.float64)
    large = torch.full((2,), 0.25, dtype=torch.float64)
    seen = torch.stack([confirmed(one, weights(36), pairs, large) for one in alone])
    assert float((seen > 0).double().mean()) < 0.25
    assert float(seen.mean()) < 0.01


def test_one_patch_has_no_neighbours():
    left = torch.ones((1, 3, 2), dtype=torch.float64)
    found = confirmed(left, weights(1), neighbours([1, 1]), torch.ones(2, dtype=torch.float64))
    assert not bool(found.any())
