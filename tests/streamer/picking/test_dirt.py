"""Particles among crystals, waves and each other, and where there are none; positions are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.picking.pick import pick
from tests.simulated_movies import images

SHAPE = (384, 448)
DIAMETER = 28.0
"""px; a pixel is 4 Å."""
PLACES = np.array([(40 + 62 * row, 45 + 58 * column + 12 * (row % 2)) for row in range(6) for column in range(7)])


def balls(centres, depth=4.0, seed=0):
    """Projected balls with detail of some 25 Å in them as in proteins, dark on bright noise."""
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in SHAPE)
    image = 100.0 + 3.0 * images(*SHAPE, seed=seed)
    detail = torch.nn.functional.avg_pool2d(images(*SHAPE, seed=seed + 50)[None, None], 3, 1, 1)[0, 0]
    detail = 1.0 + 0.7 * detail / detail.std()
    for y, x in centres:
        square = (rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2
        image = image - depth * detail * (1.0 - square / (DIAMETER / 2.0) ** 2).clamp_min(0.0).sqrt()
    return image


def crystal(image, depth=60.0):
    """A dark angular patch of some particles' size, and where it is not."""
    where = torch.ones(SHAPE, dtype=torch.bool)
    where[150:240, 180:270] = False
    return image - depth * ~where, where


def waves(amplitude):
    """Thickness that varies over more than a particle, (h, w), of this standard deviation."""
    radius = fourier.radius(SHAPE)
    smooth = torch.fft.rfft2(images(*SHAPE, seed=77)) * torch.exp(-2.0 * (math.pi * 1.2 * DIAMETER * radius) ** 2)
    image = torch.fft.irfft2(smooth, s=SHAPE)
    return amplitude * (image - image.mean()) / image.std()


def figures(picks, centres):
    """Recall and precision; a pick counts within 0.3 diameters, once per particle."""
    taken, hits = set(), 0
    for point in zip(picks.y, picks.x, strict=True):
        distance = np.hypot(*(centres - np.array(point)).T)
        index = int(distance.argmin())
        if distance[index] <= 0.3 * DIAMETER and index not in taken:
            taken.add(index)
            hits += 1
    return hits / len(centres), hits / max(1, len(picks.x))


def found(image, **options):
    return pick(image, 4.0, 4.0 * DIAMETER, **options)


def test_clean_particles():
    recall, precision = figures(found(balls(PLACES)), PLACES)
    assert min(recall, precision) > 0.9


def test_a_huge_dark_patch_does_not_take_the_level_away():
    image, usable = crystal(balls(PLACES))
    clear = PLACES[[bool(usable[y, x]) for y, x in PLACES]]
    recall, _ = figures(found(image), clear)
    assert recall > 0.75
    picks = found(image, usable=usable)
    recall, precision = figures(picks, clear)
    assert recall > 0.8
    assert precision > 0.9
    assert all(bool(usable[int(y), int(x)]) for y, x in zip(picks.y, picks.x, strict=True))


def test_waves_as_high_as_the_particles():
    recall, precision = figures(found(balls(PLACES) + waves(4.0)), PLACES)
    assert min(recall, precision) > 0.85


def test_a_field_full_of_particles_does_not_raise_the_level():
    centres = np.array([(25 + 30 * row, 25 + 33 * column) for row in range(12) for column in range(13)])
    recall, precision = figures(found(balls(centres)), centres)
    assert min(recall, precision) > 0.9


def test_particles_that_overlap_are_two():
    second = PLACES[::3] + np.array([0, round(0.75 * DIAMETER)])
    centres = np.concatenate([PLACES, second])
    centres = centres[centres[:, 1] < SHAPE[1] - 20]
    recall, precision = figures(found(balls(centres)), centres)
    assert recall > 0.7
    assert precision > 0.9


def test_three_particles_alone_are_found():
    picks = found(balls(PLACES[[8, 20, 33]], depth=6.0))
    assert figures(picks, PLACES[[8, 20, 33]]) == (1.0, 1.0)


@pytest.mark.parametrize("number", [1, 3])
def test_smooth_dark_patches_in_an_empty_field_are_not_particles(number):
    """Weak crystals that nothing names: as dark as particles or more, and without their detail."""
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in SHAPE)
    image = 100.0 + 3.0 * images(*SHAPE, seed=5)
    for y, x in PLACES[[8, 20, 33][:number]]:
        square = (rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2
        image = image - 9.0 * torch.exp(-square / (2.0 * (0.3 * DIAMETER) ** 2))
    assert found(image).x == []


@pytest.mark.parametrize("seed", range(2))
def test_noise_has_no_particles(seed):
    assert len(found(100.0 + 3.0 * images(*SHAPE, seed=seed)).x) == 0


def test_waves_alone_have_next_to_none():
    assert len(found(100.0 + 3.0 * images(*SHAPE, seed=3) + waves(3.0)).x) <= 3


@pytest.mark.parametrize("usable", [torch.zeros(SHAPE, dtype=torch.bool), torch.ones(SHAPE, dtype=torch.bool)])
def test_where_nothing_can_be_looked_at_nothing_is_found(usable):
    picks = found(balls(PLACES), usable=usable)
    assert bool(picks.x) == bool(usable.any())


def test_the_same_image_gives_the_same_picks():
    image = balls(PLACES)
    assert found(image) == found(image)
