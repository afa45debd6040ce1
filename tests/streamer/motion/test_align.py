import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.motion import align
from streamer.motion.patches import Layout, Patches
from streamer.settings import MotionSettings
from tests.simulated_movies import images, unchanged

SETTINGS = MotionSettings()
DRIFT = torch.stack([6.0 * (1 - torch.exp(-torch.arange(12) / 4.0)), -0.31 * torch.arange(12)], dim=1).double()
"""Displacement of the specimen (y, x) in px, first frame (0, 0): fast at first, with every kind of fraction."""


def specimen(shape, seed=0, contrast=0.4):
    """Blurred noise: relative contrast (h, w) of something that scatters up to 0.25 cycles/px."""
    spectrum = torch.fft.rfft2(images(*shape, seed=seed)) * torch.exp(-((fourier.radius(shape) / 0.15) ** 2))
    image = fourier.to_image(spectrum, shape)
    return image * (contrast / image.std())


def movie(displacement, shape=(160, 160), mean=2.0, seed=0, contrast=0.4, pattern=None):
    """Poisson counts (t, h, w) of a specimen at the given displacements."""
    spectrum = torch.fft.rfft2(specimen(shape, seed, contrast))
    generator = torch.Generator().manual_seed(seed + 1)
    frames = []
    for place in displacement:
        moved = fourier.to_image(spectrum * fourier.shift_ramp(shape, place), shape)
        expected = (mean * (1.0 + moved)).clamp(min=0.0)
        frames.append(torch.poisson(expected if pattern is None else expected * pattern, generator=generator))
    return torch.stack(frames)


def estimate(frames, pixel_size=1.0, settings=SETTINGS):
    return align.estimate_motion(lambda index: frames[index], len(frames), pixel_size, settings)


def error(motion, displacement):
    """Root mean square distance from the truth in px, mean over time removed."""
    difference = motion.shifts + displacement
    return float((difference - difference.mean(0)).square().sum(1).mean().sqrt())


# ------------------------------------------------------------------------------------------------- known answers


def test_a_shift_moves_the_frame_back_onto_the_first():
    """The specimen moves by whole px: the shifts are its negative, and rolling by them lines the frames up."""
    displacement = torch.tensor([[0, 0], [1, 0], [2, -1], [3, -1], [3, -2], [4, -2], [4, -3], [4, -3]]).double()
    frames = movie(displacement, mean=50.0)
    motion = estimate(frames)
    assert motion.trusted
    np.testing.assert_allclose(motion.shifts, -displacement, atol=0.05)
    np.testing.assert_array_equal(motion.shifts[0], [0.0, 0.0])
    onto_the_first = frames[4].roll(motion.shifts[4].round().int().tolist(), (0, 1))
    assert np.corrcoef(onto_the_first.flatten(), frames[0].flatten())[0, 1] > 0.8


@pytest.mark.parametrize("shape", [(160, 160), (161, 160), (160, 161), (129, 220)])
def test_drift_by_fractions_of_a_px_is_recovered(shape):
    motion = estimate(movie(DRIFT, shape))
    assert motion.trusted
    assert error(motion, DRIFT) < 0.05
    np.testing.assert_array_equal(motion.shifts[0], [0.0, 0.0])


def test_a_jump_against_the_smooth_track_is_found_too():
    displacement = DRIFT.clone()
    displacement[6:] += torch.tensor([0.0, 0.8])
    displacement[3] += torch.tensor([0.5, 0.0])
    assert error(estimate(movie(displacement, (256, 256), mean=5.0)), displacement) < 0.05


def test_a_movie_that_stands_still_is_left_alone():
    motion = estimate(movie(torch.zeros(10, 2), (256, 256)))
    assert motion.trusted
    assert float(motion.shifts.norm(dim=1).max()) < 0.06


def test_rows_and_columns_mean_the_same():
    frames = movie(DRIFT, (120, 160))
    upright, lying = estimate(frames), estimate(frames.transpose(1, 2).contiguous())
    np.testing.assert_allclose(lying.shifts.flip(1), upright.shifts, atol=2e-3)


def test_the_brightness_does_not_matter():
    frames = movie(DRIFT)
    np.testing.assert_allclose(estimate(1000.0 * frames).shifts, estimate(frames).shifts, atol=1e-3)


def test_shifts_are_in_px_at_any_pixel_size():
    frames = movie(DRIFT)
    np.testing.assert_allclose(estimate(frames, pixel_size=2.3).shifts, estimate(frames).shifts, atol=1e-6)


@pytest.mark.parametrize(("shape", "contrast"), [((128, 128), 0.15), ((127, 150), 0.1), ((128, 128), 0.4)])
def test_the_information_is_the_inverse_variance_of_a_frames_shift(shape, contrast):
    """Free steps of single frames away from the truth scatter by 1/√information along each axis."""
    frames = movie(torch.zeros(200, 2), shape, contrast=contrast)
    layout = Layout(shape, torch.zeros((200, 2), dtype=torch.int64))
    patches = Patches.empty(layout, 200, 0.37, frames.device)
    for index, frame in enumerate(frames):
        patches.set(index, frame)
    patches.close()
    found = patches.steps(torch.zeros((len(layout), 200, 2), dtype=torch.float64))
    information = found.information.diagonal() * 199 / 200
    steps = found.free.mean(0)
    # a variance from 400 numbers: 7 %
    assert float((steps.square().mean(0) * information).mean()) == pytest.approx(1.0, abs=0.25)


# ------------------------------------------------------------------------------------------- where there is nothing


@pytest.mark.parametrize("shape", [(16, 200, 180), (4, 512, 512), (3, 300, 301), (40, 128, 128)])
@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_is_not_trusted_and_nothing_is_moved(shape, seed):
    """Any track within the limit fits some noise; few frames hold it back least."""
    frames = torch.poisson(torch.full(shape, 1.0), generator=torch.Generator().manual_seed(seed))
    motion = estimate(frames, settings=MotionSettings(max_shift_angstrom=1000.0))
    assert not motion.trusted
    np.testing.assert_array_equal(motion.shifts, np.zeros((shape[0], 2)))


def test_a_single_frame_has_no_motion():
    motion = estimate(movie(torch.zeros(1, 2)))
    np.testing.assert_array_equal(motion.shifts, [[0.0, 0.0]])
    assert not motion.trusted
    assert motion.information == 0.0


def test_two_frames():
    displacement = torch.tensor([[0.0, 0.0], [2.4, -1.7]])
    motion = estimate(movie(displacement, (256, 256), mean=5.0))
    np.testing.assert_allclose(motion.shifts, -displacement, atol=0.06)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_frames_without_any_contrast_are_not_trusted(value):
    motion = estimate(torch.full((4, 64, 64), value))
    assert not motion.trusted
    np.testing.assert_array_equal(motion.shifts, np.zeros((4, 2)))


def test_a_track_beyond_the_limit_is_not_believed():
    """The limit is in Å: 6 px of drift are within 12 Å at 1 Å/px and beyond it at 8 Å/px."""
    frames, settings = movie(DRIFT), MotionSettings(max_shift_angstrom=12.0)
    assert estimate(frames, 1.0, settings).trusted
    assert not estimate(frames, 8.0, settings).trusted


def test_too_little_information_is_told_and_not_used():
    frames = movie(DRIFT)
    known = estimate(frames)
    about_track = known.information * 12 / 6
    assert estimate(frames, settings=MotionSettings(min_information=about_track * 0.99)).trusted
    careful = estimate(frames, settings=MotionSettings(min_information=about_track * 1.01))
    assert not careful.trusted
    assert careful.information == pytest.approx(known.information)
    np.testing.assert_array_equal(careful.shifts, np.zeros((12, 2)))


def test_what_the_gain_left_over_does_not_hold_the_specimen():
    """2 % of fixed pattern, strongest along rows and columns as in real detectors, under a drifting specimen."""
    generator = torch.Generator().manual_seed(3)
    shape = (256, 256)
    pattern = 1.0 + 0.02 * torch.randn(shape, generator=generator)
    pattern *= 1.0 + 0.02 * torch.randn((1, 256), generator=generator)
    motion = estimate(movie(DRIFT, shape, pattern=pattern))
    assert motion.trusted
    assert error(motion, DRIFT) < 0.1


def test_the_frames_stay_as_they_are():
    frames = list(movie(DRIFT[:4], (64, 64)))
    with unchanged(*frames):
        estimate(frames)


# ------------------------------------------------------------------------------------------- the promised accuracy


def test_the_track_of_a_protein_is_found_within_a_fifth_of_a_px(protein_movie):
    """1024², 32 frames of 1 e/px, damage, drift, jitter and bend; the field's mean displacement is the truth."""
    motion = protein_movie.motion()
    assert motion.trusted
    assert protein_movie.alignment_error(motion.shifts) < 0.12
    assert protein_movie.alignment_error(torch.zeros_like(motion.shifts)) > 2.0


def test_the_track_of_apoferritin_is_found_within_a_fifth_of_a_px(apoferritin_movie):
    """The same with the particle that damage hides most; other seeds give 0.18 to 0.23."""
    motion = apoferritin_movie.motion()
    assert motion.trusted
    assert apoferritin_movie.alignment_error(motion.shifts) < 0.2


# ------------------------------------------------------------------------------------------------- motion lengths


@pytest.mark.parametrize(
    ("early_frames", "early"),
    [(None, 0.0), (1, 0.0), (2, 10.0), (3, 12.0), (9, 12.0)],
)
def test_motion_is_the_way_travelled(early_frames, early):
    shifts = torch.tensor([[0.0, 0.0], [3.0, -4.0], [3.0, -3.0]])
    assert align.motion_lengths(shifts, 2.0, early_frames) == pytest.approx((12.0, early, 12.0 - early))


def test_one_frame_has_not_travelled():
    assert align.motion_lengths(torch.zeros(1, 2), 1.0, 4) == (0.0, 0.0, 0.0)


SHIFT_PAIR = Path(__file__).parents[4] / "shared" / "data" / "shift-pair-fixed-pattern"


@pytest.mark.skipif(not SHIFT_PAIR.is_dir(), reason="the real images are not at hand")
def test_two_real_exposures_with_a_fixed_pattern():
    """The specimen moved by (−25.93, −20.95) px, the detector's pattern by nothing."""
    with warnings.catch_warnings(action="ignore"):
        images = [torch.from_numpy(mrcfile.read(SHIFT_PAIR / f"test{n}.mrc").astype(np.float32)) for n in (1, 2)]
    motion = estimate(images)
    assert motion.trusted
    np.testing.assert_allclose(motion.shifts[1], [-25.93, -20.95], atol=0.3)
