import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.simulation.movie import Detector, Microscope
from streamer.simulation.scenes import warp
from streamer.simulation.scenes.motions import MOTIONS
from streamer.simulation.scenes.scene import scene
from tests.simulated_movies import images

SCOPE = Microscope(shape=(1024, 1440), n_frames=24, dose_per_frame=1.5, jitter_px=0.02)


def movement(name, seed=0, scope=SCOPE):
    return MOTIONS[name].movement(MOTIONS[name].exposure(scope), np.random.default_rng(seed))


def grid(shape, n=33):
    return np.stack(np.meshgrid(*(np.linspace(0, size - 1, n) for size in shape), indexing="ij"), -1)


def steps(name, seed=0):
    return np.linalg.norm(np.diff(movement(name, seed).drift, axis=0), axis=1)


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_motion_starts_at_nothing_and_its_local_part_has_no_mean(name, seed):
    moves = movement(name, seed)
    points = grid(SCOPE.shape, 65)
    weight = np.ones(65)
    weight[[0, -1]] = 0.5
    weight = weight[:, None, None] * weight[None, :, None] / 64**2
    assert np.abs(moves.at(0, points)).max() == 0.0
    for frame in (len(moves.drift) // 2, len(moves.drift) - 1):
        mean = (moves.local(frame, points) * weight).sum((0, 1))
        assert np.abs(mean).max() < 0.02 * max(1.0, np.abs(moves.local(frame, points)).max())
        assert np.abs(moves.at(frame, points)).max() <= moves.reach + 0.2


@pytest.mark.parametrize("name", ["bend", "rotation", "far"])
def test_origins_are_where_points_come_from(name):
    moves, points = movement(name, 1), grid(SCOPE.shape)
    last = len(moves.drift) - 1
    np.testing.assert_allclose(moves.origins(last, points + moves.at(last, points)), points, atol=2e-3)


def test_sizes_of_the_named_drifts():
    assert np.linalg.norm(movement("far").drift[-1]) == pytest.approx(60.0, abs=0.3)
    assert np.sort(steps("jump"))[-1] == pytest.approx(12.0, abs=2.0)
    assert np.sort(steps("jump"))[-2] < 2.0
    back = np.linalg.norm(movement("reversal").drift, axis=1)
    assert back.max() == pytest.approx(8.0, abs=0.5)
    assert back[-1] < 0.2
    assert steps("vibration").mean() > 3.0 * steps("drift").mean()
    still = movement("still")
    assert still.rigid
    assert np.abs(still.drift).max() == 0.0


def test_bent_drift_turns():
    for seed in range(5):
        track = movement("bend", seed).drift
        first, last = track[4] - track[0], track[-1] - track[-5]
        angle = np.degrees(np.arccos(first @ last / np.linalg.norm(first) / np.linalg.norm(last)))
        assert 60.0 < angle < 160.0


@pytest.mark.parametrize("seed", range(3))
def test_a_rotation_is_one_and_domes(seed):
    moves = movement("rotation", seed)
    points = grid(SCOPE.shape)
    moved = moves.local(len(moves.drift) - 1, points)
    about = points - (np.array(SCOPE.shape) - 1) / 2.0
    turn = (about[..., 1] * moved[..., 0] - about[..., 0] * moved[..., 1]).sum() / (about**2).sum()
    assert abs(np.degrees(turn)) == pytest.approx(0.35, abs=0.01)
    outward = (about * moved).sum(-1)
    assert outward[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 0.0


@pytest.mark.parametrize("seed", range(3))
def test_a_crack_parts_two_stiff_sides(seed):
    moves = movement("crack", seed)
    points = grid(SCOPE.shape)
    moved = moves.local(len(moves.drift) - 1, points).reshape(-1, 2)
    sides = np.unique(moved.round(3), axis=0)
    assert len(sides) == 2
    assert np.linalg.norm(sides[0] - sides[1]) == pytest.approx(4.0, abs=0.3)
    field = scene("crack", seed, (160, 160), n_frames=2, bend_px=0.0)
    assert 0.0 < field.truth().masks["vacuum"].mean() < 0.25


def test_a_spline_passes_through_a_band_limited_image():
    shape = (96, 128)
    radius = fourier.radius(shape)
    spectrum = torch.fft.rfft2(images(*shape)) * (radius < 0.25)
    coefficients = fourier.to_image(spectrum * warp.prefilter(shape), shape)
    shift = (0.37, -0.81)
    exact = fourier.to_image(spectrum * fourier.shift_ramp(shape, torch.tensor(shift)), shape)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    inner = (slice(6, -6), slice(6, -6))
    for sign in (1.0, -1.0):
        found = warp.sampled(coefficients, rows + sign * shift[0], columns + sign * shift[1])
        error = float((found - exact)[inner].std() / exact.std())
        if error < 0.02:
            return
    pytest.fail("neither direction of the shift agrees")


@pytest.mark.parametrize("name", ["drift", "far", "rotation"])
def test_frames_show_the_first_one_moved(name):
    """Frames of a field without ice, resampled where the truth says its points have gone, are the first frame."""
    one = scene("clean", 2, (192, 192), motion=name, n_frames=6, ice_contrast=0.0, damage=False, jitter_px=0.0)
    frames = list(one.expected(Detector(one.scope.shape, 0)))
    points = np.stack(np.meshgrid(np.arange(70, 122), np.arange(70, 122), indexing="ij"), -1).astype(np.float32)
    first = frames[0][70:122, 70:122]
    spectrum = torch.fft.rfft2(frames[-1])
    coefficients = fourier.to_image(spectrum * warp.prefilter((192, 192)), (192, 192))
    gone = torch.from_numpy(points + one.movement.at(5, points))
    if name == "far":  # what is in the middle now came from outside; look where the frame still shows it
        here = ((gone > 4) & (gone < 187)).all(-1)
        if not here.any():
            return
    else:
        here = torch.ones(first.shape, dtype=torch.bool)
    back = warp.sampled(coefficients, gone[..., 0].contiguous(), gone[..., 1].contiguous())
    stay = frames[-1][70:122, 70:122]
    assert float((back - first)[here].std()) < 0.25 * float((stay - first)[here].std())


def test_named_exposures():
    scope = Microscope(n_frames=30, dose_per_frame=1.5)
    few, many, low = (MOTIONS[name].exposure(scope) for name in ("few-frames", "many-frames", "low-dose"))
    assert (few.n_frames, few.dose_per_frame) == (8, pytest.approx(45.0 / 8))
    assert (many.n_frames, many.dose_per_frame) == (200, 0.2)
    assert low.n_frames * low.dose_per_frame == pytest.approx(10.0)
