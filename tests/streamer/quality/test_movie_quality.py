import math

import numpy as np
import pytest
import torch

from streamer import fourier, restore
from streamer.motion.track import Motion
from streamer.movie_record import ModelRef, SuperResolutionVerdict
from streamer.quality import estimators, movie_quality
from streamer.records import Correction, Frames
from streamer.settings import QualitySettings
from tests.simulated_movies import half_sums, images

SHAPE, PIXEL_SIZE = (128, 150), 2.0
VERDICT = SuperResolutionVerdict(verdict="cannot help", reason="a test")
MODEL = ModelRef(version="v0001", sha256="0" * 64)


def sums_of(strength):
    """Halves with coarse signal of a given strength."""
    falling = torch.exp(-((fourier.radius(SHAPE) / 0.1) ** 2))
    picture = fourier.to_image(torch.fft.rfft2(images(*SHAPE, seed=9)) * falling, SHAPE)
    halves = (strength * picture + images(*SHAPE, seed=i) for i in (1, 2))
    return half_sums(*halves, pixel_size=PIXEL_SIZE)


def correction(sums, value, factor=1.0):
    even, odd = (factor * half for half in (sums.even, sums.odd))
    weight = torch.full((fourier.ring_count(SHAPE),), value, dtype=torch.float64)
    return Correction(total=even + odd, even=even, odd=odd, weight=weight, model=MODEL)


def collect(sums, proposal=None, dose_per_frame=1.5, trusted=True, settings=None, shifts=None, ruled=False):
    steps = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.5], [3.00004, 4.5]]).double() if shifts is None else shifts
    frames = Frames(
        counts=np.zeros((4, *SHAPE), np.uint8),
        gain=None,
        defects=np.zeros((3, 2), np.int64),
        hot_pixels=np.zeros((2, 2), np.int64),
        mean_counts=1.234567891,
        pixel_size=PIXEL_SIZE,
        voltage_kv=300.0,
        dose_per_frame=dose_per_frame,
    )
    return movie_quality.movie_quality(
        sums,
        estimators.measure(sums),
        proposal,
        Motion(shifts=steps, information=123.456789, trusted=trusted, iterations=3, fixed_pattern=ruled),
        frames,
        settings or QualitySettings(band_low=100.0, band_high=10.0),
        VERDICT,
    )


def test_motion_is_told_in_angstrom_and_shifts_in_px():
    found = collect(sums_of(4.0))
    assert found.shifts_yx_px == [[0.0, 0.0], [3.0, 4.0], [3.0, 4.5], [3.0, 4.5]]
    # 4 e⁻/Å² are reached within the third frame of 1.5
    assert found.total_motion_angstrom == pytest.approx(11.0, abs=1e-3)
    assert found.early_motion_angstrom == pytest.approx(11.0, abs=1e-3)
    assert collect(sums_of(4.0), dose_per_frame=2.0).early_motion_angstrom == pytest.approx(10.0)
    unknown = collect(sums_of(4.0), dose_per_frame=None)
    assert (unknown.early_motion_angstrom, unknown.late_motion_angstrom) == (None, None)
    assert unknown.total_motion_angstrom == found.total_motion_angstrom
    tiny = collect(sums_of(4.0), dose_per_frame=5e-324)
    assert tiny.early_motion_angstrom == tiny.total_motion_angstrom


def test_a_pattern_that_rules_the_alignment_may_have_raised_the_figures():
    assert collect(sums_of(4.0), trusted=False, ruled=True).pattern_may_raise is True
    assert not collect(sums_of(4.0), trusted=False).pattern_may_raise


def test_numbers_hold_five_digits():
    found = collect(sums_of(4.0))
    assert (found.mean_counts, found.motion_information, found.n_hot_pixels) == (1.2346, 123.46, 2)


def test_the_pooled_figures_are_those_of_the_estimators():
    sums = sums_of(4.0)
    found, spectrum = collect(sums), estimators.measure(sums)
    mask = estimators.band_mask(SHAPE, PIXEL_SIZE, 100.0, 10.0)
    raw = estimators.tapered(sums.even, SHAPE), estimators.tapered(sums.odd, SHAPE)
    snr = float(estimators.pooled(estimators.estimate(raw, raw, SHAPE), mask).snr)
    assert found.snr_half == pytest.approx(snr, rel=1e-4)
    assert found.ssnr_full == pytest.approx(2 * snr, rel=1e-4)
    filtered = tuple(
        estimators.tapered(restore.filtered(half, spectrum.wiener_half, SHAPE), SHAPE) for half in (sums.even, sums.odd)
    )
    wiener = estimators.pooled(estimators.estimate(raw, filtered, SHAPE), mask)
    assert found.snbr_half_wiener == pytest.approx(float(wiener.snbr), rel=1e-4)
    assert found.snbr_half_wiener > snr
    assert found.snbr_half_denoised is None
    assert found.band_angstrom == [100.0, 10.0]
    assert found.sr is VERDICT


def test_the_band_ends_at_nyquist():
    assert collect(sums_of(4.0), settings=QualitySettings(band_low=50.0, band_high=1.0)).band_angstrom == [50.0, 4.0]


def test_a_network_that_gives_the_raw_halves_back_has_their_snr():
    sums = sums_of(4.0)
    found = collect(sums, correction(sums, 1.0, factor=0.2))
    assert found.snbr_half_denoised == pytest.approx(found.snr_half, rel=1e-3)


def test_a_network_without_weight_is_not_reported():
    sums = sums_of(4.0)
    assert collect(sums, correction(sums, 0.0)).snbr_half_denoised is None


def test_without_signal_there_are_no_figures_of_restored_images():
    sums = sums_of(0.0)
    found = collect(sums, correction(sums, 1.0), trusted=False)
    assert found.snbr_half_wiener is None
    assert found.snbr_half_denoised is None
    assert not found.motion_trusted
    assert movie_quality.denoised_halves(sums, estimators.measure(sums), correction(sums, 1.0)) == {}


def test_unknown_is_none_and_never_nan():
    found = collect(half_sums(images(*SHAPE), torch.zeros(SHAPE), share=1.0, pixel_size=PIXEL_SIZE))
    for name in ("snr_half", "ssnr_full", "frc_resolution_angstrom", "snbr_half_wiener", "snbr_half_denoised"):
        value = getattr(found, name)
        assert value is None or math.isfinite(value), name
    assert found.frc_resolution_angstrom is None
    assert all(v is None or math.isfinite(v) for v in found.frc)


def test_the_curve_has_sixty_four_steps_up_to_nyquist():
    sums = sums_of(4.0)
    spectrum = estimators.measure(sums)
    found = collect(sums).frc
    assert len(found) == 64
    # 65 rings: the first step holds rings 0 and 1, pooled by their number of coefficients
    expected = (spectrum.frc[:2] * spectrum.counts[:2]).sum() / spectrum.counts[:2].sum()
    assert found[0] == pytest.approx(float(expected), abs=1e-4)
    assert found[10] == pytest.approx(float(spectrum.frc[11]), abs=1e-4)


def test_halves_are_restored_each_from_itself_alone():
    sums = sums_of(4.0)
    spectrum = estimators.measure(sums)
    other = half_sums(fourier.to_image(sums.even, SHAPE), images(*SHAPE, seed=77), pixel_size=PIXEL_SIZE)
    one, two = (movie_quality.denoised_halves(s, spectrum, correction(s, 0.5)) for s in (sums, other))
    for name in ("wiener", "denoised"):
        torch.testing.assert_close(one[name][0], two[name][0], rtol=1e-5, atol=1e-3)
        assert not torch.allclose(one[name][1], two[name][1])
