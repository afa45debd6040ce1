"""The texture of what is specimen: a masked crystal leaves it as it was, and a square of crystals has none."""

from __future__ import annotations

import pytest
import torch

from streamer import fourier
from streamer.field_mask import CRYSTAL, FieldMask, clean_mask
from streamer.quality.emptiness import PLAIN
from streamer.quality.texture import structure, texture
from streamer.records import HalfSums

SIDE, PIXEL, CELL = 384, 4.0, 4


def image(seed, particles=60):
    """Counts of round particles of 60 Å in noise."""
    generator = torch.Generator().manual_seed(seed)
    spots = torch.zeros(SIDE, SIDE)
    for y, x in torch.randint(0, SIDE, (particles, 2), generator=generator).tolist():
        spots[y, x] = 1.0
    rings = fourier.radius((SIDE, SIDE)) / PIXEL
    blurred = fourier.to_image(torch.fft.rfft2(spots) * torch.exp(-((rings * 60.0) ** 2)), (SIDE, SIDE))
    return 100.0 - 900.0 * blurred + 10.0 * torch.randn(SIDE, SIDE, generator=generator)


def crystals(count, seed=1):
    """Dark discs of 80 to 160 Å, and what is masked."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    left = torch.ones(SIDE, SIDE)
    for _ in range(count):
        cy, cx, r = (torch.rand(3, generator=generator) * torch.tensor([SIDE, SIDE, 20.0])).tolist()
        left[torch.hypot(y - cy, x - cx) < 20.0 + r] = 0.6
    dark = torch.nn.functional.max_pool2d((left < 1.0).float()[None, None], CELL)[0, 0]
    return left, FieldMask(kinds=(dark > 0).to(torch.uint8) * CRYSTAL, shape=(SIDE, SIDE), pixel_size=PIXEL)


def sums(picture):
    half = torch.fft.rfft2(picture / 2.0)
    return HalfSums(
        even=half, odd=half, even_share=torch.full((SIDE // 2 + 1,), 0.5), shape=(SIDE, SIDE), pixel_size=PIXEL
    )


def distance(one, other):
    return float((torch.tensor(one) - torch.tensor(other)).abs().mean())


def test_a_clean_mask_changes_nothing():
    assert texture(sums(image(0)), clean_mask((SIDE, SIDE), PIXEL)) == texture(sums(image(0)))


@pytest.mark.parametrize("count", [1, 6])
def test_a_masked_crystal_leaves_the_texture_as_it_was(count):
    left, field = crystals(count)
    clean, dirty = texture(sums(image(0))), sums(image(0) * left)
    unlike = distance(texture(sums(image(2))), clean)
    assert distance(texture(dirty, field), clean) < 2.0 * unlike, "hardly more than another field of the specimen"
    assert distance(texture(dirty), clean) > 4.0 * unlike, "the control"


def test_a_square_of_crystals_without_particles_has_no_structure():
    left, field = crystals(4)
    square = sums(image(3, particles=0) * left)
    assert structure(texture(square), (SIDE, SIDE), PIXEL) > 2.0 * PLAIN, "the control"
    assert structure(texture(square, field), (SIDE, SIDE), PIXEL, usable=field.usable) < PLAIN


def test_a_field_that_is_nearly_all_masked_says_nothing():
    kinds = torch.full((SIDE // CELL, SIDE // CELL), CRYSTAL, dtype=torch.uint8)
    kinds[:10] = 0
    assert texture(sums(image(0)), FieldMask(kinds=kinds, shape=(SIDE, SIDE), pixel_size=PIXEL)) is None
