"""Motion is believed as far as it helps: weak movies are moved, noise is not, and the stated error holds."""

import numpy as np
import pytest
import torch

from streamer.motion.align import estimate_motion
from streamer.motion.field import shifts_at
from streamer.motion.fit import OverPlace, OverTime
from streamer.motion.left_out import at_all_frames
from streamer.motion.patches import Layout
from streamer.motion.shrinkage import believed
from streamer.motion.track import Motion
from streamer.settings import MotionSettings
from tests.streamer.motion.bent_movies import bent

POINTS = torch.cartesian_prod(*(torch.linspace(20, 490, 7, dtype=torch.float64),) * 2)


def estimate(frames, **settings):
    return estimate_motion(lambda i: frames[i], len(frames), 1.0, MotionSettings(**settings))


def error(motion, truth):
    off = shifts_at(motion, POINTS) - truth(POINTS)
    return float((off - off.mean(0)).square().sum(-1).mean().sqrt())


@pytest.mark.parametrize("seed", range(2))
def test_a_weak_movie_is_moved_and_its_error_is_as_stated(seed):
    frames, truth = bent(strength=0.0, contrast=0.04, mean=1.2, seed=seed)
    motion = estimate(frames)
    assert motion.trusted
    assert motion.information < 20.0
    still = Motion(shifts=torch.zeros_like(motion.shifts), information=0.0, trusted=False, iterations=0)
    found = error(motion, truth)
    assert found < 0.2 * error(still, truth)
    assert 0.6 < motion.error / found < 2.4
    assert motion.errors.shape == (16,)


def test_where_nothing_is_known_nothing_is_moved_and_no_error_is_stated():
    frames, _ = bent(strength=0.0, contrast=0.02, mean=0.1, n_frames=20)
    motion = estimate(frames)
    assert not motion.trusted
    assert motion.error is None
    assert motion.flags
    np.testing.assert_array_equal(motion.shifts, 0.0)


def test_a_large_error_is_a_flag():
    errors = torch.full((3,), 0.8, dtype=torch.float64)
    motion = Motion(shifts=torch.zeros(3, 2), information=1.0, trusted=True, iterations=1, errors=errors)
    assert motion.flags == ("motion: shifts are uncertain by 0.8 px, the frames contain little information",)
    spread = at_all_frames(motion, (0, 2, 3), 5)
    assert spread.errors.shape == (5,)
    assert spread.error == pytest.approx(0.8)


def test_frames_before_the_first_group_are_not_thrown_far_off():
    """Two hundred frames are fitted as sums of five; the first two lie before the middle of the first sum."""
    frames, truth = bent(n_frames=200, shape=(256, 256), mean=0.2, strength=0.0, contrast=0.1)
    motion = estimate(frames)
    assert motion.trusted
    off = motion.shifts - truth(torch.tensor([[128.0, 128.0]]))[:, 0]
    assert float((off - off.mean(0)).norm(dim=1).max()) < 1.2


def test_an_edge_across_the_patches_does_not_hold_the_frames():
    """Gold over a third of the field moves with the specimen, and is far brighter in Fourier space."""
    frames, truth = bent(strength=0.0, contrast=0.06, mean=1.2)
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in frames.shape[1:]), indexing="ij")
    generator = torch.Generator().manual_seed(8)
    moved = -truth(torch.tensor([[256.0, 256.0]]))[:, 0]
    for number, (dy, dx) in enumerate(moved):
        across = (x - dx) * 0.8 + (y - dy) * 0.6 + 12.0 * torch.sin((x - dx) / 40.0) - 450.0
        through = 1.0 - 0.8 / (1.0 + torch.exp(-across / 2.0))
        frames[number] = torch.binomial(frames[number], through.float(), generator=generator)
    assert error(estimate(frames), truth) < 0.12


# ------------------------------------------------------------------------------------------------------ shrinkage


@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
def test_the_expected_error_is_that_of_the_shrunk_coefficients(size):
    generator = torch.Generator().manual_seed(2)
    true = size * torch.randn((300, 20), generator=generator, dtype=torch.float64)
    asked = true + torch.randn((300, 20), generator=generator, dtype=torch.float64)
    variance = torch.ones(20, dtype=torch.float64)
    found = [believed(one, variance, 1.0, 10.0) for one in asked]
    left = torch.stack([one.factor for one in found]) * asked - true
    stated = float(torch.stack([one.error for one in found]).mean())
    assert float(left.square().mean()) < 1.05
    assert 0.6 * float(left.square().mean()) < stated < 2.0 * float(left.square().mean()) + 0.1


def test_evidence_tells_something_from_nothing():
    variance = torch.ones(10, dtype=torch.float64)
    assert believed(4.0 * variance, variance, 1.0, 10.0).evidence > 20.0
    assert believed(0.5 * variance, variance, 1.0, 10.0).evidence < 0.0


@pytest.mark.parametrize("shape", [(512, 512), (384, 768)])
def test_a_rotation_is_one_coefficient(shape):
    layout = Layout(shape, torch.zeros((8, 2), dtype=torch.int64))
    place = OverPlace(layout, 3)
    centres = layout.centres() - torch.tensor(shape) / 2.0 + 0.5
    rotation = torch.stack([centres[:, 1], -centres[:, 0]], dim=1)
    asked = place.turn @ (place.values.T @ rotation)[1:].flatten()
    rotated = int(place.kinds[0])
    assert float(asked[rotated].abs()) == pytest.approx(float(rotation.norm()), rel=1e-3)
    np.testing.assert_allclose(place.turn @ place.turn.T, np.eye(len(place.turn)), atol=1e-12)


def test_functions_of_time_go_on_as_they_came_beyond_their_ends():
    times = torch.arange(2.0, 40.0, 5.0, dtype=torch.float64)
    functions = OverTime(times, 39.0, 7)
    np.testing.assert_allclose(functions.at(times), functions.values, atol=1e-7)
    edge, before, after = functions.at(torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64))
    np.testing.assert_allclose(edge - before, after - edge, atol=1e-9)
