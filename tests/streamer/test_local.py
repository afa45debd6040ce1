import shutil
import subprocess

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from streamer import align, fourier, fuse, local, split
from streamer.records import LocalMotion, Motion
from streamer.settings import MotionSettings
from streamer.warp import Warp
from streamer.writers.star import motion_star
from tests.simulated_movies import images
from tests.streamer.bent_movies import bent

SHAPE = (300, 420)


def random_field(n_frames=9, shape=SHAPE, size=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randn((n_frames, 2), generator=generator, dtype=torch.float64)
    coefficients = size * torch.randn((n_frames, 2, len(local.ORDERS) - 1), generator=generator, dtype=torch.float64)
    shifts[0], coefficients[0] = 0.0, 0.0
    field = LocalMotion(coefficients=coefficients, shape=shape, evidence=9.0)
    return Motion(shifts=shifts, information=1.0, trusted=True, iterations=1, local=field)


def grid(shape, n=9):
    y, x = (torch.linspace(0, size - 1, n, dtype=torch.float64) for size in shape)
    return torch.cartesian_prod(y, x)


def error(motion, truth, points):
    off = local.shifts_at(motion, points) - truth(points)
    return float((off - off.mean(0)).square().sum(-1).mean().sqrt())


def estimate(frames, **settings):
    return align.estimate_motion(lambda i: frames[i], len(frames), 1.0, MotionSettings(**settings))


# ------------------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize("functions", [1, 2, 3, 4, 7, 10])
def test_splines_add_up_to_one_and_are_local(functions):
    times = torch.linspace(0, 30, 400)
    values = local.spline_values(times, 30.0, functions)
    assert values.shape == (400, functions)
    assert float(values.min()) >= 0
    np.testing.assert_allclose(values.sum(1), 1.0, atol=1e-12)
    assert np.linalg.matrix_rank(values.numpy()) == functions


def test_legendre_products_are_orthogonal_over_the_field():
    y, x = (torch.arange(size, dtype=torch.float64) for size in (200, 300))
    values = local.legendre_values(torch.cartesian_prod(y, x), (200, 300))
    products = values.T @ values / len(values)
    expected = [1 / ((2 * i + 1) * (2 * j + 1)) for i, j in local.ORDERS]
    np.testing.assert_allclose(products, np.diag(expected), atol=2e-3)


def test_the_bending_is_the_root_mean_square_over_the_field():
    motion = random_field()
    y, x = (torch.arange(size, dtype=torch.float64) for size in SHAPE)
    there = local.shifts_at(motion, torch.cartesian_prod(y, x)) - motion.shifts[:, None]
    np.testing.assert_allclose(local.bending(motion.local), there.square().sum(-1).mean(1).sqrt(), rtol=0.02)


# -------------------------------------------------------------------------------------------------- estimation


@pytest.mark.parametrize(("strength", "limit"), [(1.0, 0.15), (2.5, 0.17)])
def test_bending_is_recovered(strength, limit):
    """Controls: the global track alone misses three times as much; so does the field of another time order."""
    frames, truth = bent(strength=strength)
    motion = estimate(frames)
    points = grid(frames.shape[1:])
    assert motion.local is not None
    assert motion.converged
    found = error(motion, truth, points)
    assert found < limit
    whole = Motion(shifts=motion.shifts, information=0.0, trusted=True, iterations=0)
    assert error(whole, truth, points) > 1.4 * strength * found
    mixed = LocalMotion(coefficients=-motion.local.coefficients, shape=motion.local.shape, evidence=0.0)
    turned = Motion(shifts=motion.shifts, information=0.0, trusted=True, iterations=0, local=mixed)
    assert error(turned, truth, points) > 2.0 * strength * found
    np.testing.assert_array_equal(local.shifts_at(motion, points)[0], 0.0)


@pytest.mark.parametrize("drift", [1.0, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_does_not_bend_is_not_bent(drift, seed):
    frames, truth = bent(strength=0.0, drift=drift, seed=seed)
    motion = estimate(frames)
    assert motion.trusted
    assert motion.local is None
    assert error(motion, truth, grid(frames.shape[1:])) < 0.08


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_neither_moves_nor_bends(seed):
    frames = torch.poisson(torch.full((16, 512, 512), 1.0), generator=torch.Generator().manual_seed(seed))
    motion = estimate(frames)
    assert not motion.trusted
    assert motion.local is None
    np.testing.assert_array_equal(motion.shifts, 0.0)


def test_an_empty_field_with_dead_rows_is_not_trusted():
    frames = torch.poisson(torch.full((8, 400, 400), 1.0), generator=torch.Generator().manual_seed(1))
    frames[:, 100:140] = 0.0
    assert estimate(frames).local is None


@pytest.mark.parametrize("amplitude", [0.04, 0.08])
def test_a_fixed_pattern_does_not_hold_the_frames(amplitude):
    """Gain errors that move with the detector, not with the specimen."""
    frames, truth = bent(strength=0.0)
    pattern = 1 + amplitude * torch.randn(frames.shape[1:], generator=torch.Generator().manual_seed(5))
    motion = estimate(frames * pattern)
    assert error(motion, truth, grid(frames.shape[1:])) < 0.09
    assert float(motion.shifts.norm(dim=1).max()) > 5.0


def test_a_first_frame_far_off_is_found():
    frames, truth = bent(strength=0.0, contrast=0.12)
    frames[0] = frames[0].roll((9, -12), (0, 1))
    motion = estimate(frames)
    moved = motion.shifts - motion.shifts.mean(0)
    expected = truth(torch.tensor([[256.0, 256.0]]))[:, 0]
    expected[0] -= torch.tensor([9.0, -12.0])
    assert float((moved - expected + expected.mean(0)).norm(dim=1).max()) < 0.25


def test_frames_of_few_electrons_are_pooled():
    """Ninety frames of a fifth of an electron: each alone tells nothing, the track is known all the same."""
    frames, truth = bent(n_frames=90, mean=0.2, strength=0.0, contrast=0.12)
    motion = estimate(frames)
    assert motion.trusted
    assert motion.shifts.shape == (90, 2)
    assert error(motion, truth, grid(frames.shape[1:])) < 0.2


def test_damage_of_the_specimen_does_not_lead_astray():
    """What scatters finely fades during the exposure; a draw's error is .08 to .18 px at this information."""
    frames, truth = bent(strength=0.0, mean=6.0, contrast=0.12)
    radius, errors = fourier.radius(frames.shape[1:]), []
    for seed in range(3):
        generator, faded = torch.Generator().manual_seed(seed), []
        for number, frame in enumerate(frames):
            spectrum = torch.fft.rfft2(frame - 6.0) * torch.exp(-number * 12.0 * radius**2)
            expected = (1.2 + 0.2 * fourier.to_image(spectrum, frame.shape)).clamp(min=0)
            faded.append(torch.poisson(expected, generator=generator))
        errors.append(error(estimate(torch.stack(faded)), truth, grid(frames.shape[1:])))
    assert sum(errors) / len(errors) < 0.18
