"""A recorded reference that corrects only a part of the detector's pattern is applied, and the rest is said."""

import numpy as np
import pytest

from tests.streamer.test_refuted_gain import CAMERA, RAW, RIGHT, SCOPE, flags_of, other_camera, processed

TOP = np.arange(SCOPE.shape[0])[:, None] < SCOPE.shape[0] // 2
LATER = CAMERA.efficiency * (1.0 + 0.08 * np.random.default_rng(8).standard_normal(SCOPE.shape))
"""The same camera after damage of its own: what the old reference knows is still there."""


@pytest.mark.parametrize(
    ("frames", "values", "left"),
    [
        (RAW, np.where(TOP, RIGHT, other_camera()), 0.037),
        (RAW, (RIGHT**0.4).astype(np.float32), 0.03),
        (np.random.default_rng(9).poisson(8.0 * LATER, (12, *SCOPE.shape)).astype(np.uint8), RIGHT, 0.08),
    ],
    ids=["half of it another camera's", "a weak one", "an old one"],
)
def test_what_stays_is_said_and_marked(tmp_path, frames, values, left):
    record, _ = processed(tmp_path, frames, values.astype(np.float32))
    assert record.source.gain is not None
    assert record.metrics.gain_advice is None
    assert record.metrics.pattern_may_raise is True
    assert record.metrics.fixed_pattern == pytest.approx(left, rel=0.4)
    (flag,) = flags_of(record, "pattern")
    assert "although gain.mrc is applied" in flag


@pytest.mark.parametrize("noise", [0.005, 0.01])
def test_the_noise_of_a_reference_is_no_pattern(tmp_path, noise):
    values = RIGHT * (1.0 + noise * np.random.default_rng(3).standard_normal(SCOPE.shape))
    record, _ = processed(tmp_path, RAW, values.astype(np.float32))
    assert record.metrics.pattern_may_raise is False
    assert record.metrics.fixed_pattern is None
    assert flags_of(record, "pattern") == []
