"""What is not specimen is found where it is, nothing else is, and the figures are of the rest."""

import math

import numpy as np
import pytest
import torch

from streamer.field_mask import CARBON, CRYSTAL, GOLD, KINDS, VACUUM, FieldMask, clean_mask
from streamer.quality import estimators
from streamer.quality.judged_part import judged_part
from streamer.quality.not_specimen import find_not_specimen
from streamer.records import HalfSums

SHAPE, PIXEL = (384, 400), 2.5
FRAMES, DOSE = 20, 30.0
Y, X = (place.astype(np.float32) * PIXEL for place in np.mgrid[: SHAPE[0], : SHAPE[1]])
MIDDLE = (SHAPE[0] * PIXEL / 2.0, SHAPE[1] * PIXEL / 2.0)


def grain(seed, finest=8.0, coarsest=60.0, shape=SHAPE):
    """A texture between two sizes in Å, at variance 1."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    radius = torch.sqrt(torch.fft.fftfreq(shape[0])[:, None] ** 2 + torch.fft.rfftfreq(shape[1])[None] ** 2) / PIXEL
    passed = torch.fft.rfft2(noise) * ((radius > 1.0 / coarsest) & (radius < 1.0 / finest))
    image = torch.fft.irfft2(passed, s=shape)
    return (image / image.std()).numpy()


def particles(seed, diameter=120.0, count=20, contrast=0.08, dark=0.01, finest=8.0):
    """Round things that show by their texture, and take little from the mean."""
    rng = np.random.default_rng(seed)
    image, pattern = np.zeros(SHAPE, np.float32), grain(seed, finest)
    for y, x in rng.uniform(0.0, 1.0, (count, 2)) * [SHAPE[0] * PIXEL, SHAPE[1] * PIXEL]:
        inside = np.hypot(Y - y, X - x) < diameter / 2.0
        image[inside] = contrast * pattern[inside] - dark
    return image


def sums_of(contrast, transmission=1.0, seed=1):
    """Halves of counts of what lets a share of the beam pass."""
    rate = np.clip(DOSE * PIXEL**2 * transmission * (1.0 + contrast), 0.0, None) * np.ones(SHAPE)
    rng = np.random.default_rng([seed, 9])
    even, odd = (
        torch.fft.rfft2(torch.from_numpy(rng.poisson(rate / 2.0).astype(np.float32))) / math.sqrt(FRAMES)
        for _ in range(2)
    )
    share = torch.full((min(SHAPE) // 2 + 1,), 0.5, dtype=torch.float64)
    return HalfSums(even=even, odd=odd, even_share=share, shape=SHAPE, pixel_size=PIXEL)


def polygon(y, x, size, turn=0.4, sides=5):
    """Å inside of a polygon, negative outside."""
    depth = np.full(SHAPE, np.inf, np.float32)
    for angle in turn + np.arange(sides) * 2.0 * math.pi / sides:
        depth = np.minimum(depth, size / 2.0 - ((Y - y) * math.sin(angle) + (X - x) * math.cos(angle)))
    return depth


def film(share, angle=0.7, radius=6000.0):
    """Å beyond the rim of a hole, on a share of the field."""
    depth = np.hypot(Y - MIDDLE[0] + radius * math.sin(angle), X - MIDDLE[1] + radius * math.cos(angle)) - radius
    return depth - np.quantile(depth, 1.0 - share)


def step(depth, width=10.0):
    return 1.0 / (1.0 + np.exp(-np.clip(depth / width, -30.0, 30.0)))


def judged(mask, there, kind):
    """Share of what is there that is masked as its kind, and share of the field masked more than 40 Å away."""
    got = mask.at(SHAPE)
    inside = torch.from_numpy(there > 0.0)
    named = FieldMask(kinds=(mask.kinds == kind).to(torch.uint8), shape=SHAPE, pixel_size=PIXEL).at(SHAPE)
    away = torch.from_numpy(there < -40.0)
    return float((named & inside).sum() / inside.sum()), float((got & away).float().mean())


@pytest.mark.parametrize(("size", "passes"), [(160.0, 0.85), (300.0, 0.8), (300.0, 0.4)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_crystal_is_found_among_particles(size, passes, seed):
    depth = polygon(400.0, 600.0, size)
    found = find_not_specimen(sums_of(particles(seed), 1.0 - (1.0 - passes) * step(depth), seed))
    recall, false = judged(found, depth, CRYSTAL)
    assert recall > 0.9
    assert false < 0.01
    assert set(found.shares) == {"crystal"}
    assert found.usable == pytest.approx(1.0 - found.shares["crystal"])


@pytest.mark.parametrize("share", [0.2, 0.45, 0.75])
@pytest.mark.parametrize(("passes", "kind"), [(0.95, CARBON), (0.85, CARBON), (0.3, GOLD)])
def test_a_film_is_found_on_either_side(share, passes, kind):
    depth = film(share)
    there = step(depth)
    contrast = particles(3) * (1.0 - there) + 0.04 * grain(5) * there
    found = find_not_specimen(sums_of(contrast, 1.0 - (1.0 - passes) * there))
    recall, false = judged(found, depth, kind)
    assert recall > 0.93
    assert false < 0.01


def test_a_hole_without_ice_is_the_brighter_side():
    depth = film(0.4)
    gone = step(depth)
    found = find_not_specimen(sums_of(particles(4) * (1.0 - gone), 1.0 + 0.12 * gone))
    recall, false = judged(found, depth, VACUUM)
    assert recall > 0.9
    assert false < 0.01


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crowd_beside_a_hole_is_no_film(seed):
    depth = film(0.4)
    gone = step(depth)
    # so many that they show everywhere, as a film's grain does, but coarse before fine
    crowd = 0.03 * grain(seed, finest=30.0, coarsest=120.0) + 0.004 * grain(seed + 10)
    found = find_not_specimen(sums_of(crowd * (1.0 - gone), 1.0 + 0.12 * gone, seed))
    recall, false = judged(found, depth, VACUUM)
    assert recall > 0.9
    assert false < 0.01


@pytest.mark.parametrize(
    ("contrast", "transmission"),
    [
        (0.0, 1.0),
        (particles(1), 1.0),
        (particles(2, count=90), 1.0),
        (particles(3, diameter=300.0, count=6, contrast=0.09, dark=0.1, finest=20.0), 1.0),
        (particles(4, diameter=500.0, count=2, contrast=0.13, dark=0.2, finest=20.0), 1.0),
        (particles(1), 1.0 + 0.03 * np.sin(2.0 * math.pi * (Y + 0.5 * X) / 600.0)),
        (particles(1), 1.0 + 0.1 * (X - MIDDLE[1]) / MIDDLE[1]),
        (0.004 * grain(6), 1.0),
    ],
    ids=["noise", "particles", "crowd", "viruses", "large viruses", "waves", "gradient", "ice"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_masked_in_a_field_of_specimen(contrast, transmission, seed):
    found = find_not_specimen(sums_of(contrast, transmission, seed))
    assert found.is_clean
    assert found.shares == {}
    assert found.usable == 1.0


def test_carbon_all_over_is_told_by_its_grain():
    sums = sums_of(0.06 * grain(6, finest=6.0))
    found = find_not_specimen(sums)
    assert found.shares == {"carbon": 1.0}
    part = judged_part(sums, estimators.measure(sums), found)
    assert part.flags == ("field: 100% carbon: too little is left to judge; aim at the middle of a hole",)


def test_what_the_detector_may_have_drawn_is_not_taken_for_grain():
    """Its pattern is in both halves, as fine as it is coarse: only what else is known tells it from carbon."""
    sums = sums_of(0.06 * grain(6, finest=6.0))
    assert not find_not_specimen(sums).is_clean
    assert find_not_specimen(sums, has_pattern=True).is_clean


def test_what_cannot_be_judged_is_not_masked():
    sums = sums_of(particles(1), 1.0 - 0.6 * step(polygon(400.0, 600.0, 300.0)))
    sums.even[0, 0] = sums.odd[0, 0] = 0.0
    assert find_not_specimen(sums).is_clean
    tiny = torch.fft.rfft2(torch.rand(40, 40))
    share = torch.full((21,), 0.5, dtype=torch.float64)
    assert find_not_specimen(HalfSums(even=tiny, odd=tiny, even_share=share, shape=(40, 40), pixel_size=2.0)).is_clean


def ssnr(sums, window=None):
    halves = tuple(estimators.tapered(half, SHAPE, window) for half in (sums.even, sums.odd))
    rings = estimators.band_mask(SHAPE, PIXEL, 100.0, 6.0)
    return 2.0 * float(estimators.pooled(estimators.estimate(halves, halves, SHAPE), rings).snr)


def test_carbon_does_not_raise_the_figures_of_empty_ice():
    there = step(film(0.3))
    empty, dirty = sums_of(0.002 * grain(7)), sums_of(0.002 * grain(7) + 0.06 * grain(5) * there, 1.0 - 0.12 * there)
    part = judged_part(dirty, estimators.measure(dirty), find_not_specimen(dirty))
    assert ssnr(dirty) > 10.0 * ssnr(empty)
    assert ssnr(dirty, part.window) < 1.5 * ssnr(empty) + 0.003
    fine = estimators.resolution_at(part.spectrum, PIXEL)
    assert fine is None or fine > estimators.resolution_at(estimators.measure(dirty), PIXEL)


def test_a_crystal_changes_the_figures_of_protein_little():
    contrast = particles(8, count=80)
    dark = 1.0 - 0.5 * step(polygon(300.0, 300.0, 300.0))
    clean, dirty = sums_of(contrast), sums_of(contrast, dark)
    part = judged_part(dirty, estimators.measure(dirty), find_not_specimen(dirty))
    assert ssnr(dirty, part.window) == pytest.approx(ssnr(clean), rel=0.2)
    assert part.flags == (f"field: {part.field.shares['crystal']:.0%} ice crystals: the figures are of the rest",)


def test_figures_of_a_clean_field_are_those_of_all_of_it():
    sums = sums_of(particles(1))
    spectrum = estimators.measure(sums)
    part = judged_part(sums, spectrum, find_not_specimen(sums))
    assert part.spectrum is spectrum
    assert part.window is None
    assert part.why_not is None
    assert part.flags == ()


def test_where_hardly_anything_is_left_nothing_is_said():
    sums = sums_of(particles(1), 1.0 - 0.15 * step(film(0.93)))
    part = judged_part(sums, estimators.measure(sums), find_not_specimen(sums))
    assert part.why_not is not None
    assert "too little is left to judge" in part.flags[0]


def test_the_noise_of_a_part_is_that_of_its_pixels():
    sums = sums_of(0.0)
    kinds = torch.zeros((24, 25), dtype=torch.uint8)
    kinds[:, :9] = CARBON
    part = judged_part(sums, estimators.measure(sums), FieldMask(kinds=kinds, shape=SHAPE, pixel_size=PIXEL))
    fine = slice(60, None)
    of_all = float(estimators.measure(sums).noise[fine].mean())
    assert float(part.spectrum.noise[fine].mean()) == pytest.approx(of_all, rel=0.03)
    assert not part.spectrum.significant


def test_a_place_counts_by_its_distance_from_what_is_masked():
    kinds = torch.zeros((40, 50), dtype=torch.uint8)
    kinds[:, :10] = CARBON
    mask = FieldMask(kinds=kinds, shape=(400, 500), pixel_size=1.6)
    weight = mask.weight((400, 500), margin=32.0, width=64.0)
    assert float(weight[:, :119].max()) == 0.0
    assert float(weight[:, 165:].min()) == 1.0
    assert bool((weight[200, 1:] >= weight[200, :-1]).all())
    assert float(weight[200, 140]) == pytest.approx(0.5, abs=0.1)
    assert mask.shares == {"carbon": 0.2}
    assert bool((mask.masked(CARBON) == mask.masked()).all())
    assert not bool(mask.masked(GOLD, VACUUM).any())
    assert mask.at((40, 50)).tolist() == (kinds > 0).tolist()
    assert KINDS[CARBON] == "carbon"


def test_a_clean_mask_takes_nothing_away():
    assert bool((clean_mask((30, 40), 1.0).weight((60, 80)) == 1.0).all())
