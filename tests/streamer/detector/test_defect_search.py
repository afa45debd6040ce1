"""Defects with a known place, and structures of specimens that are none."""

import re

import numpy as np
import pytest

from streamer.detector.correction import find_hot_pixels
from streamer.detector.defect_search import find_defects

SHAPE = (320, 400)


def totals(expected, seed=0):
    return np.random.default_rng(seed).poisson(expected).astype(np.float32)


def found_in(total, **options):
    mask = np.zeros(total.shape, bool)
    places = find_defects(total, np.zeros(total.shape, bool), 7.0, **options).places
    mask[places[:, 0], places[:, 1]] = True
    return mask


# each: where, what it multiplies, what it adds (in counts of the sum)
RECIPES = {
    "three bright columns and a block": [
        (np.s_[:, 100], 1, 60),
        (np.s_[:, 180], 1, 60),
        (np.s_[:, 250], 1, 60),
        (np.s_[40:45, 300:305], 1, 300),
    ],
    "three columns side by side": [(np.s_[:, 100:103], 1, 30)],
    "a dead column": [(np.s_[:, 77], 0, 0)],
    "three dead columns": [(np.s_[:, 77:80], 0, 0)],
    "a faint part of a column": [(np.s_[30:210, 77], 1.5, 0)],
    "a row of three px": [(np.s_[33:36, :], 1.2, 0)],
    "a bright cluster": [(np.s_[100:112, 60:100], 1.4, 0)],
    "a cluster of half the gain": [(np.s_[100:112, 60:100], 0.5, 0)],
    "a small dead cluster": [(np.s_[100:105, 60:65], 0, 0)],
    "a large dead cluster": [(np.s_[100:164, 60:124], 0, 0)],
    "a cluster that is no rectangle": [(np.s_[100:140, 60:66], 1, 100), (np.s_[134:140, 66:110], 1, 100)],
    "a column that crosses a row": [(np.s_[:, 77], 0, 0), (np.s_[99, 78:], 1.6, 0)],
    "columns at the edge": [(np.s_[:, -2:], 0.5, 0)],
}


@pytest.mark.parametrize("mean", [16.0, 40.0, 300.0])
@pytest.mark.parametrize("name", RECIPES)
def test_a_wide_defect_is_found_whole_and_nothing_else(name, mean):
    expected, truth = np.full(SHAPE, mean), np.zeros(SHAPE, bool)
    for place, factor, more in RECIPES[name]:
        expected[place] = expected[place] * factor + more * (1.0 if mean < 100 else 4.0)
        truth[place] = True
    found = found_in(totals(expected))
    assert (found & truth).sum() >= 0.97 * truth.sum()
    assert (found & ~truth).sum() <= max(2, 0.02 * truth.sum())


@pytest.mark.parametrize(("mean", "sees"), [(40.0, True), (16.0, False)])
def test_a_single_dead_pixel_is_found_where_counts_suffice(mean, sees):
    """At 16 counts a pixel has none once in 10⁷: of 23 million pixels two are good and have none."""
    expected = np.full(SHAPE, mean)
    expected[100, 60] = 0.0
    assert bool(found_in(totals(expected))[100, 60]) is sees


@pytest.mark.parametrize("upsampling", [2, 4])
def test_on_a_finer_grid_a_defect_fills_whole_pixels_of_the_detector(upsampling):
    expected, truth = np.full((512, 640), 16.0 / upsampling**2), np.zeros((512, 640), bool)
    u = upsampling
    for place in (np.s_[:, 30 * u : 31 * u], np.s_[20 * u : 25 * u, 60 * u : 65 * u]):
        expected[place], truth[place] = 0.0, True
    total = totals(expected)
    found = found_in(total, upsampling=upsampling)
    assert found[truth].all()
    hot = find_hot_pixels(total, 7.0)
    found[hot[:, 0], hot[:, 1]] = False
    assert not (found & ~truth).any()


def test_what_is_known_is_not_found_again_and_hides_nothing():
    expected = np.full(SHAPE, 40.0)
    expected[:, 77:80] = 0.0
    known = np.zeros(SHAPE, bool)
    known[:, 78] = True
    places = find_defects(totals(expected), known, 7.0).places
    assert {int(column) for column in places[:, 1]} == {77, 79}


def test_pixels_next_to_a_dead_column_are_not_hot():
    expected = np.full(SHAPE, 300.0)
    expected[:, 77] = 0.0
    total = totals(expected)
    assert len(find_hot_pixels(total, 7.0)) > 50
    assert not found_in(total)[:, [76, 78]].any()


# ------------------------------------------------------------------------------------------- what must not be found


@pytest.mark.parametrize("mean", [0.5, 4.0, 16.0, 40.0, 300.0])
@pytest.mark.parametrize("shape", [(256, 256), (301, 515)])
def test_clean_counts_give_what_the_search_for_hot_pixels_gives(mean, shape):
    for seed in range(6):
        total = totals(np.full(shape, mean), seed)
        found = find_defects(total, np.zeros(shape, bool), 7.0)
        np.testing.assert_array_equal(found.places, find_hot_pixels(total, 7.0))
        assert found.wide == 0


def blurred(image, drift, blur):
    """What a detector sees of a specimen that drifts: blurred along its way, and by optics and pixels."""
    image = np.pad(image, 16, mode="edge")
    spectrum = np.fft.rfft2(image)
    rows, columns = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :]
    spectrum *= np.exp(-2 * np.pi**2 * blur**2 * (rows**2 + columns**2)) * np.sinc(drift * (rows + 0.6 * columns))
    return np.fft.irfft2(spectrum, s=image.shape)[16:-16, 16:-16].clip(0.01)


def specimen(kind, rng):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    image = np.ones(SHAPE)
    if kind == "gold beads":
        for _ in range(12):
            row, column, radius = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1]), rng.uniform(4, 40)
            image *= np.exp(-1.2 * np.sqrt(np.clip(1 - ((y - row) ** 2 + (x - column) ** 2) / radius**2, 0, None)))
    elif kind == "edge of the carbon":
        angle = rng.uniform(0, np.pi)
        image[(y - 150) * np.sin(angle) + (x - 200) * np.cos(angle) > 0] = 0.8
    elif kind == "edge along a column":
        image[:, 233:] = 0.6
    elif kind == "crystals of ice":
        for _ in range(8):
            row, column, size, angle = (*rng.uniform(0, 320, 2), rng.uniform(5, 50), rng.uniform(0, np.pi))
            along = (y - row) * np.sin(angle) + (x - column) * np.cos(angle)
            across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
            image[(abs(along) < size) & (abs(across) < 0.8 * size)] *= rng.uniform(0.5, 0.9)
    elif kind == "gradient of the beam":
        image = 1 + 0.5 * x / SHAPE[1] + 0.4 * np.sin(y / 60)
    elif kind == "hole of a gold film":
        image[(y - 150) ** 2 + (x - 200) ** 2 > 120**2] = 0.3
    else:
        for _ in range(5):
            row, width, slope = rng.uniform(20, 300), rng.uniform(1, 4), rng.uniform(-0.02, 0.02)
            image *= 1 - 0.25 * np.exp(-(((y - row - slope * x) / width) ** 2) / 2)
    return image


@pytest.mark.parametrize("drift", [0.0, 3.0])
@pytest.mark.parametrize("mean", [6.0, 40.0, 600.0])
@pytest.mark.parametrize(
    "kind",
    [
        "gold beads",
        "edge of the carbon",
        "edge along a column",
        "crystals of ice",
        "gradient of the beam",
        "hole of a gold film",
        "filaments",
    ],
)
def test_structure_of_the_specimen_is_not_a_defect(kind, mean, drift):
    rng = np.random.default_rng(7)
    total = rng.poisson(mean * blurred(specimen(kind, rng), drift, 0.5)).astype(np.float32)
    hot = {tuple(place) for place in find_hot_pixels(total, 7.0).tolist()}
    assert {tuple(place) for place in found_places(total)} - hot == set()


def found_places(total):
    return find_defects(total, np.zeros(total.shape, bool), 7.0).places.tolist()


def test_a_gain_that_is_missing_is_not_taken_for_defects():
    """Columns that differ by 2 %, rows by 1 %, pixels by 5 %, and halves of the chip by 3 %."""
    rng = np.random.default_rng(8)
    pattern = 1 + 0.05 * rng.standard_normal(SHAPE) + 0.02 * rng.standard_normal((1, SHAPE[1]))
    pattern += 0.01 * rng.standard_normal((SHAPE[0], 1))
    pattern[:160] *= 1.03
    for mean in (16.0, 100.0, 1000.0):
        assert found_in(rng.poisson(mean * pattern).astype(np.float32)).sum() <= 2


@pytest.mark.parametrize(
    "total",
    [
        np.zeros((64, 80)),
        np.ones((64, 80)),
        np.full((64, 80), 1e9),
        np.eye(64)[:, :50],
        np.full((16, 16), 3.0),
        np.full((33, 32), -5.0),
        np.linspace(-1, 1, 6400).reshape(80, 80),
    ],
)
def test_images_without_sense_do_not_matter(total):
    with np.errstate(all="raise", under="ignore"):
        assert find_defects(total.astype(np.float32), np.zeros(total.shape, bool), 7.0).wide == 0


def test_the_sum_stays_as_it_is():
    expected = np.full(SHAPE, 16.0)
    expected[:, 77:80] = 0.0
    total = totals(expected)
    before = total.copy()
    found_in(total)
    np.testing.assert_array_equal(total, before)


def test_a_threshold_that_nothing_reaches_switches_the_search_off():
    expected = np.full(SHAPE, 16.0)
    expected[:, 77:80] = 0.0
    assert len(find_defects(totals(expected), np.zeros(SHAPE, bool), 100.0).places) == 0


def test_many_defects_ask_for_the_right_gain():
    expected = np.full((256, 256), 40.0)
    expected[:, 10:250:16] = 0.0
    found = find_defects(totals(expected), np.zeros((256, 256), bool), 7.0)
    (flag,) = found.flags(256 * 256)
    assert re.fullmatch(r"gain: \d\.\d % of the pixels look defective; is this the right gain reference\?", flag)
    assert find_defects(totals(np.full((256, 256), 40.0)), np.zeros((256, 256), bool), 7.0).flags(256 * 256) == ()


def test_what_chance_does_where_most_pixels_have_no_count_is_no_word_about_the_gain():
    total = totals(np.full(SHAPE, 0.24))
    found = find_defects(total, np.zeros(SHAPE, bool), 7.0)
    assert len(found.places) == 0
    assert found.flags(total.size) == ()
