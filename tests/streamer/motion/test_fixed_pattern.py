import numpy as np
import pytest
import torch

from streamer.motion.align import estimate_motion
from streamer.settings import MotionSettings
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import random_protein

FLAG = "motion: a fixed pattern of the detector rules the fit"
DRIFTS = Microscope(shape=(512, 512), n_frames=12, dose_per_frame=0.6, coverage=0.1, ice_contrast=0.02)


class Uniform(Detector):
    """A camera without a pattern."""

    def __init__(self, shape):
        super().__init__(shape, 0, hot=0.0, dead=0.0)
        self.efficiency = np.ones(shape, np.float32)


def frames_of(scope):
    return np.stack(list(Field(scope, random_protein(3, 1500), seed=3).frames(Uniform(scope.shape)))).astype(np.float32)


def motion_of(frames, scope):
    return estimate_motion(lambda i: torch.from_numpy(frames[i]), len(frames), scope.pixel_size, MotionSettings())


@pytest.fixture(scope="module")
def drifting():
    return frames_of(DRIFTS)


@pytest.mark.parametrize("pattern", ["block", "another camera's gain", "cluster"])
def test_a_pattern_that_rules_the_fit_is_said_and_nothing_is_moved(drifting, pattern):
    frames = drifting.copy()
    if pattern == "block":
        frames[:, 100:105, 200:205] += 300.0
    elif pattern == "cluster":
        frames[:, 60:72, 300:340] += 10.0
    else:
        frames *= (1 + 0.25 * np.random.default_rng(1).standard_normal(frames.shape[1:])).clip(0.2).astype(np.float32)
    motion = motion_of(frames, DRIFTS)
    assert (motion.flags, motion.trusted, motion.fixed_pattern) == ((FLAG,), False, True)
    assert not motion.shifts.any()


@pytest.mark.parametrize("pixel_size", [1.5, 3.0])
def test_a_specimen_that_stands_still_is_trusted(pixel_size):
    scope = Microscope(
        shape=(512, 512),
        n_frames=12,
        pixel_size=pixel_size,
        dose_per_frame=2.0,
        drift_start=0.0,
        drift_end=0.0,
        jitter_px=0.0,
        bend_px=0.0,
    )
    motion = motion_of(frames_of(scope), scope)
    assert motion.trusted
    assert motion.flags == ()
