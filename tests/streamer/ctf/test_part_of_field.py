"""What is not specimen is left out of the spectrum, and what the specimen's structure does to the defocus is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.ctf_scenes import Scene, Truth, micrograph
from streamer.ctf import polar
from streamer.ctf.estimate import estimate_ctf
from streamer.ctf.fit import fit
from streamer.ctf.lens import lens_of
from streamer.ctf.of_sum import ctf_of_sum
from streamer.field_mask import CARBON, GOLD, FieldMask
from streamer.records import HalfSums
from streamer.settings import CtfSettings
from tests.streamer.ctf.test_of_sum import SOURCE

SHAPE = (512, 448)
TRUE = 14_000.0
BAND = (0.04, 1.0 / 3.0)


@pytest.fixture(scope="module")
def image():
    truth = Truth(defocus=TRUE, astigmatism=500.0, angle=25.0, scene=Scene(size=SHAPE))
    return torch.as_tensor(micrograph(truth, np.random.default_rng(1)))


def dirty(image):
    """The right part shows noise of its own, many times stronger than the specimen, and its mask."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(3))
    noise[:, :288] = 0.0
    kinds = torch.zeros((32, 28), dtype=torch.uint8)
    kinds[:, 18:] = GOLD
    return image + 40.0 * noise, FieldMask(kinds=kinds, shape=SHAPE, pixel_size=1.0)


def figures(image, field):
    half = 0.5 * torch.fft.rfft2(image)
    sums = HalfSums(even=half, odd=half, even_share=torch.full((225,), 0.5), shape=SHAPE, pixel_size=1.0)
    return ctf_of_sum(sums, SOURCE, CtfSettings(), field)


def test_what_is_no_specimen_is_left_out(image):
    spoilt, field = dirty(image)
    found = figures(spoilt, field)
    assert found.state == "good"
    assert found.defocus_angstrom == pytest.approx(TRUE, abs=4.0 * found.defocus_sd_angstrom)
    # the control: with it nothing is seen; and a part of the field says less than all of it
    assert figures(spoilt, None).state == "none"
    assert found.defocus_sd_angstrom > figures(image, None).defocus_sd_angstrom


def test_a_field_of_nothing_but_film_says_whose_defocus_it_is(image):
    field = FieldMask(kinds=torch.full((32, 28), CARBON, dtype=torch.uint8), shape=SHAPE, pixel_size=1.0)
    found = figures(image, field)
    assert found.flags == ("ctf: hardly any specimen in the field; the defocus is that of the film or the crystals",)
    assert replace(found, flags=()) == figures(image, None)


def test_half_a_field_has_half_the_coefficients(image):
    half = torch.zeros(SHAPE)
    half[: SHAPE[0] // 2] = 1.0
    whole, part = (polar.cells_of_image(image, 1.0, BAND, weight) for weight in (torch.ones(SHAPE), half))
    assert part.counts.sum() == pytest.approx(0.5 * whole.counts.sum(), rel=1e-3)
    assert whole.counts.sum() == pytest.approx(polar.cells_of_image(image, 1.0, BAND).counts.sum())


def test_no_number_of_coefficients_averages_the_structure_of_the_specimen_out(image):
    cells, lens = polar.cells_of_image(image, 1.0, BAND), lens_of(300.0, 2.7, 0.1)
    once = estimate_ctf({"sum": cells}, lens).fit
    four_times = replace(once.cells, counts=4.0 * once.cells.counts)
    more = fit(four_times, lens, once.values, once.score, phase_free=False)
    # the values scatter four times as much as these counts say, which is in the covariance
    assert more.covariance[0, 0] / more.dispersion == pytest.approx(0.25 * once.covariance[0, 0], rel=0.3)
    assert more.structure[0, 0] == pytest.approx(once.structure[0, 0], rel=0.5)
    assert once.structure[0, 0] > 0.0
