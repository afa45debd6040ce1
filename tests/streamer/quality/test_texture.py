"""What a micrograph looks like must tell what is in it, and little else."""

import math

import pytest
import torch

from streamer import fourier
from streamer.quality.texture import LENGTH, SIZES, texture
from streamer.records import HalfSums

SHAPE = (384, 384)


def sums(image, pixel_size=2.0):
    half = torch.fft.rfft2(image) / 2.0
    share = torch.full((fourier.ring_count(image.shape),), 0.5, dtype=torch.float64)
    return HalfSums(even=half, odd=half, even_share=share, shape=tuple(image.shape), pixel_size=pixel_size)


def discs(radius_angstrom, count=60, seed=0, pixel_size=2.0):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in SHAPE), indexing="ij")
    image = torch.zeros(SHAPE)
    for y, x in torch.rand((count, 2), generator=generator) * SHAPE[0]:
        image -= ((rows - y) ** 2 + (columns - x) ** 2 < (radius_angstrom / pixel_size) ** 2).float()
    return image + 0.2 * torch.randn(SHAPE, generator=generator)


def test_noise_has_the_texture_of_a_normal_distribution():
    found = texture(sums(torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))))
    assert len(found) == LENGTH == 3 * len(SIZES) - 1
    lopsided, sparse = found[len(SIZES) - 1 : 2 * len(SIZES) - 1], found[2 * len(SIZES) - 1 :]
    assert max(map(abs, lopsided)) < 0.25
    assert sparse == pytest.approx([math.log(math.sqrt(2.0 / math.pi))] * len(SIZES), abs=0.05)


def test_neither_the_scale_nor_the_mean_matters():
    image = discs(30.0)
    assert texture(sums(7.0 * image + 100.0)) == pytest.approx(texture(sums(image)), abs=2e-3)


def test_large_and_small_particles_differ_by_more_than_two_fields_of_the_same():
    def distance(one, other):
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))

    small, again, large = (texture(sums(discs(r, seed=s))) for r, s in ((25.0, 1), (25.0, 2), (60.0, 3)))
    assert distance(small, large) > 4.0 * distance(small, again)


def test_the_pixel_size_does_not_matter_but_the_size_in_the_ice():
    fine = discs(40.0, seed=4)
    coarse = fine.reshape(192, 2, 192, 2).mean((1, 3))
    assert texture(sums(coarse, 4.0)) == pytest.approx(texture(sums(fine, 2.0)), abs=0.06)


def test_pixels_too_coarse_and_an_empty_image_have_none():
    assert texture(sums(discs(40.0), pixel_size=6.0)) is None
    assert texture(sums(torch.zeros(SHAPE))) is None
