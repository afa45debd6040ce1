import math

import numpy as np
import pytest
import torch

from streamer import restore
from streamer.picking.pick import pick
from streamer.quality import estimators
from tests.simulated_movies import images, unchanged


def discs(shape, centres, radius, depth=5.0, noise=1.0):
    """Dark discs on bright noise."""
    rows, columns = (torch.arange(n) for n in shape)
    image = 10.0 + noise * images(*shape)
    for y, x in centres:
        image -= depth * ((rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2 <= radius**2)
    return image


CENTRES = [(60, 70), (61, 180), (150, 60), (140, 150), (200, 230)]


def nearest(picks, centres):
    """Distances from each centre to the pick nearest to it."""
    found = np.stack([picks.y, picks.x], 1)
    return [float(np.hypot(*(found - c).T).min()) for c in np.array(centres)]


@pytest.mark.parametrize("pixel_size", [1.0, 2.7])
@pytest.mark.parametrize("shape", [(260, 290), (261, 291)])
def test_dark_discs_are_found_where_they_are(shape, pixel_size):
    image = discs(shape, CENTRES, 20)
    with unchanged(image):
        found = pick(image, pixel_size, 40 * pixel_size)
    assert len(found.x) == len(CENTRES)
    # positions are those of a grid of half a σ: 7 px here
    assert max(nearest(found, CENTRES)) < 5.0
    assert found.score == sorted(found.score, reverse=True)
    assert min(found.score) >= 1.0


def test_bright_discs_are_not_particles():
    found = pick(discs((260, 290), CENTRES, 20, depth=-5.0), 1.0, 40.0)
    assert not found.x or min(nearest(found, CENTRES)) > 10.0


def test_scale_and_offset_of_the_image_do_not_matter():
    image = discs((260, 290), CENTRES, 20)
    plain, scaled = pick(image, 1.0, 40.0), pick(1000.0 * image - 777.0, 1.0, 40.0)
    np.testing.assert_allclose(plain.x, scaled.x, atol=1e-6)
    np.testing.assert_allclose(plain.score, scaled.score, rtol=1e-3)


def test_rows_are_y_and_columns_are_x():
    found = pick(discs((300, 260), [(220, 60)], 20), 1.0, 40.0)
    assert (round(found.y[0], -1), round(found.x[0], -1)) == (220, 60)


def test_particles_cut_by_the_edge_are_left_out():
    found = pick(discs((260, 290), [*CENTRES, (8, 100), (120, 285)], 20), 1.0, 40.0)
    assert len(found.x) == len(CENTRES)
    assert min(found.y) >= 0.4 * 40
    assert max(found.x) < 290 - 0.4 * 40


def test_two_picks_never_lie_within_a_particle():
    found = pick(discs((260, 290), [*CENTRES, (75, 75)], 20), 1.0, 40.0, threshold=0.1)
    points = np.stack([found.y, found.x], 1)
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(points))
    assert apart.min() >= 0.5 * 40


def test_a_stricter_threshold_picks_a_subset():
    image = discs((300, 300), [(60 * i, 60 * j) for i in range(1, 5) for j in range(1, 5)], 12, depth=0.8)
    found = [set(zip(p.x, p.y, strict=True)) for p in (pick(image, 1.0, 24.0, threshold=t) for t in (0.5, 1.0, 1.5, 9))]
    assert all(strict <= loose for loose, strict in zip(found, found[1:], strict=False))
    assert len(found[0]) > len(found[2]) > 0
    assert not found[3]


def test_an_image_without_contrast_has_no_particles():
    assert pick(torch.full((100, 100), 3.0), 1.0, 20.0).x == []


@pytest.mark.parametrize("diameter", [0.0, -5.0, 60.0, math.nan])
def test_a_diameter_that_does_not_fit_is_refused(diameter):
    with pytest.raises(ValueError, match="does not fit"):
        pick(torch.zeros(100, 120), 1.0, diameter)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["protein_movie", "apoferritin_movie"])
def test_particles_of_a_movie_are_found_and_little_else(name, request):
    """Against the same number of random positions; a pick counts within 0.3 diameters, once per particle."""
    movie = request.getfixturevalue(name)
    sums = movie.halves(movie.sum_frames(movie.motion().shifts))
    image, _ = restore.restore(sums, estimators.measure(sums), None)
    assert image.shape == movie.scope.shape
    truth = movie.field.truth()
    found = pick(image, movie.scope.pixel_size, truth.diameter)
    picked = np.stack([found.y, found.x], 1)
    diameter = truth.diameter / movie.scope.pixel_size
    whole = (truth.particles >= 0.4 * diameter) & (truth.particles < np.array(movie.scope.shape) - 0.4 * diameter)
    chance = np.random.default_rng(0).uniform(0.4 * diameter, movie.scope.shape[0] - 0.4 * diameter, picked.shape)
    hits, by_chance = (_hits(points, truth.particles, 0.3 * diameter) for points in (picked, chance))
    assert hits / whole.all(1).sum() > 0.8
    assert hits / len(picked) > 0.85
    assert hits > 3 * by_chance


def _hits(points, particles, tolerance):
    taken = set()
    for point in points:
        distance = np.hypot(*(particles - point).T)
        if distance.min() <= tolerance:
            taken.add(int(distance.argmin()))
    return len(taken)
