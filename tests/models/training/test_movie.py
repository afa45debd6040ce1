from dataclasses import replace

import pytest
import torch

from models.training.movie import TrainingMovie, signs_of, useful_resolution
from streamer import fourier
from streamer.ctf.transfer import ctf_2d
from streamer.records import GroupSums
from tests.simulated_movies import OPTICS, images

SHAPE = (240, 240)
PIXEL = 2.0


def sums(seed=0, end=12.0, level=1.0):
    """Groups of noise 1 whose signal falls to nothing at about ``end`` Å."""
    radius = fourier.radius(SHAPE) / PIXEL
    falling = torch.exp(-((radius * end) ** 8))
    signal = level * fourier.to_image(torch.fft.rfft2(images(*SHAPE, seed=seed)) * falling, SHAPE)
    groups = signal + images(10, *SHAPE, seed=100 + seed)
    return GroupSums(groups=groups.half(), exposures=((0.0,),) * 10, shape=SHAPE, pixel_size=PIXEL, voltage_kv=300.0)


@pytest.mark.parametrize("end", [7.0, 12.0, 18.0])
def test_the_band_ends_a_little_beyond_the_signal(end):
    movies = [TrainingMovie(str(seed), sums(seed, end), 100.0) for seed in range(4)]
    assert 0.7 * end < useful_resolution(movies) < 1.05 * end


def test_the_band_is_no_finer_than_the_sums_and_no_coarser_than_what_particles_need():
    strong = [TrainingMovie(str(seed), sums(seed, 3.0), 100.0) for seed in range(3)]
    assert useful_resolution(strong) == pytest.approx(2.0 * PIXEL)
    blank = [TrainingMovie(str(seed), sums(seed, level=0.0), 100.0) for seed in range(3)]
    assert useful_resolution(blank) == 20.0
    coarse = [TrainingMovie(str(seed), sums(seed, 60.0, 3.0), 100.0) for seed in range(3)]
    assert useful_resolution(coarse) == 20.0


def test_cropping_later_is_cropping_at_once():
    one, other = TrainingMovie("m", sums(), 100.0, resolution=10.0), TrainingMovie("m", sums(), 100.0)
    other.crop(10.0)
    assert one.band == other.band
    assert one.band.small == (96, 96)
    assert torch.equal(one.spectra, other.spectra)
    assert torch.equal(one.spectrum.ssnr_full, other.spectrum.ssnr_full)
    before = other.spectra
    other.crop(6.0)
    assert other.spectra is before, "what was left away does not come back"


def test_flipped_phases_are_those_of_the_ctf_and_the_plain_image_stays_as_the_detector_saw_it():
    plain, flipped = TrainingMovie("m", sums(), 100.0), TrainingMovie("m", sums(), 100.0, optics=OPTICS)
    assert (plain.is_flipped, flipped.is_flipped) == (False, True)
    signs = torch.sign(ctf_2d(SHAPE, PIXEL, OPTICS))
    torch.testing.assert_close(flipped.spectra, plain.spectra * signs)
    everything = torch.ones(10, dtype=torch.bool)
    # flipping moves what lies under the taper, so the whitening is measured a little differently
    torch.testing.assert_close(flipped.plain(everything), plain.plain(everything), rtol=0, atol=0.05)
    assert not torch.allclose(flipped.inputs(everything)[0], plain.inputs(everything)[0], atol=0.1)


def test_a_phase_plate_turns_the_sign():
    band = TrainingMovie("m", sums(), 100.0).band
    turned = replace(OPTICS, phase_shift_deg=180.0)
    assert torch.equal(signs_of(band, OPTICS), -signs_of(band, turned))
