from dataclasses import replace

import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.errors import StageError
from streamer.motion.field import ORDERS
from streamer.motion.track import LocalMotion, Motion
from streamer.motion.warp import Warp
from streamer.super_resolution.averages import average, views
from tests.simulated_movies import images, unchanged

SHAPE = (48, 61)


def moving(n=12, shape=SHAPE, noise=0.0):
    """Frames of one image that drifts, and the motion that brings them back."""
    shifts = torch.from_numpy(np.random.default_rng(2).uniform(-2.0, 2.0, (n, 2)))
    shifts[0] = 0.0
    spectrum = torch.fft.rfft2(images(*shape)) * (fourier.radius(shape) < 0.3)
    frames = torch.stack([fourier.to_image(spectrum * fourier.shift_ramp(shape, -s), shape) for s in shifts])
    motion = Motion(shifts=shifts, information=1.0, trusted=True, iterations=0)
    return frames + 5.0 + noise * images(n, *shape, seed=3), motion, fourier.to_image(spectrum, shape)


def test_averages_are_means_of_aligned_frames():
    frames, motion, truth = moving()
    with unchanged(frames, motion.shifts):
        found = average(lambda i: frames[i], motion)
    inner = slice(4, -4)
    for image in (found.early, found.late, found.whole):
        assert torch.allclose((image - truth)[inner, inner], torch.tensor(0.0), atol=0.35)
        assert abs(float(image.mean())) < 1e-4
    assert torch.allclose(found.whole, 0.5 * (found.early + found.late), atol=1e-5)
    assert found.scale == pytest.approx(float(found.early.std()))


def test_early_frames_are_the_first_half_of_those_that_hold_something():
    frames = torch.stack([torch.full((8, 8), float(t)) + images(8, 8, seed=1) for t in range(8)])
    frames[1] = 3.0
    frames[5] = float("nan")
    motion = Motion(shifts=torch.zeros(8, 2, dtype=torch.float64), information=1.0, trusted=True, iterations=0)
    found = average(lambda i: frames[i], motion)
    for image, chosen in ((found.early, [0, 2, 3]), (found.late, [4, 6, 7]), (found.whole, [0, 2, 3, 4, 6, 7])):
        expected = frames[chosen].mean(0)
        assert torch.allclose(image, expected - expected.mean(), atol=1e-5)
    odd = average(lambda i: frames[i], motion, torch.tensor([1, 3, 5, 7]))
    assert torch.allclose(odd.early, frames[3] - frames[3].mean(), atol=1e-5)


def test_one_frame_has_no_early_and_late():
    frames, motion, _ = moving(3)
    frames[1:] = 0.0
    with pytest.raises(StageError, match="too few frames"):
        average(lambda i: frames[i], motion)


def test_views_are_the_average_aligned_to_other_frames():
    """A frame's own content lies still in a view that is aligned to it, but for whole pixels."""
    frames, motion, _ = moving()
    found = average(lambda i: frames[i], motion)
    assert found.offsets.shape == (4, 2)
    assert float(found.offsets.abs().max()) <= 0.5
    reference = int((motion.shifts.round() - motion.shifts - found.offsets[0]).norm(dim=1).argmin())
    view = views(found.whole, found.offsets)[0]
    back = motion.shifts[reference].round().to(torch.int64).tolist()
    inner = slice(6, -6)
    expected = (frames[reference] - 5.0).roll(back, (0, 1))[inner, inner]
    assert float(torch.corrcoef(torch.stack([view[inner, inner].flatten(), expected.flatten()]))[0, 1]) > 0.99
    # four views of one average: the same image moved, which is what the method's inputs come to
    again = views(view, -found.offsets[:1])[0]
    assert torch.allclose(again[inner, inner], found.whole[inner, inner], atol=0.05)


def test_references_are_always_the_same_frames():
    frames, motion, _ = moving()
    assert torch.equal(average(lambda i: frames[i], motion).offsets, average(lambda i: frames[i], motion).offsets)
    two = average(lambda i: frames[i], motion, k=2)
    assert two.offsets.shape == (2, 2)


def test_local_motion_is_followed():
    """Frames that are stretched along x, ever more, come out as sharp as the first one."""
    shape, n = (64, 96), 8
    spectrum = torch.fft.rfft2(images(*shape)) * (fourier.radius(shape) < 0.12)
    still = fourier.to_image(spectrum, shape)
    coefficients = torch.zeros((n, 2, len(ORDERS) - 1), dtype=torch.float64)
    coefficients[:, 1, ORDERS.index((0, 1)) - 1] = torch.linspace(0.0, 4.0, n)
    local = LocalMotion(coefficients=coefficients, shape=shape, evidence=9.0)
    # a frame shows at x what lies at x + its own shift there
    nowhere = torch.zeros((n, 2), dtype=torch.float64)
    back = Warp(nowhere, replace(local, coefficients=-coefficients), torch.device("cpu"))
    frames = torch.stack([back(still, t) for t in range(n)])
    straight = Motion(shifts=nowhere, information=1.0, trusted=True, iterations=0)
    inner = slice(10, -10)

    def likeness(motion):
        found = average(lambda i: frames[i], motion).late[inner, inner]
        return float(torch.corrcoef(torch.stack([found.flatten(), still[inner, inner].flatten()]))[0, 1])

    assert likeness(replace(straight, local=local)) > 0.97
    assert likeness(straight) < 0.9


def test_a_window_keeps_the_scale():
    frames, motion, _ = moving()
    whole = average(lambda i: frames[i], motion)
    part = whole.window(slice(3, 20), slice(5, 40))
    assert part.early.shape == (17, 35)
    assert part.scale == whole.scale
    assert torch.equal(part.late, whole.late[3:20, 5:40])
