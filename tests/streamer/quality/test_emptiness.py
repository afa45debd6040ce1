"""Nothing to see: told by what the session's movies usually show, whatever it is that fills the empty ones."""

from dataclasses import replace

import pytest
import torch

from streamer.movie_record import Usual
from streamer.quality import estimators
from streamer.quality.emptiness import CLEAR, PLAIN, is_plain, why_empty
from streamer.quality.texture import structure, texture
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from tests.service_samples import make_record
from tests.simulated_movies import half_sums, simulated

USUAL = Usual(structure=15.0, ssnr_full=0.2, electrons=22.5)
FIGURES = make_record().metrics
FRAMES = 10
SCOPE = Microscope(
    shape=(512, 512), n_frames=FRAMES, pixel_size=1.5, dose_per_frame=1.0, bend_px=0.0, defocus_um=(1.2, 1.4)
)


def figures(**changes):
    usual = {"structure": 15.0, "ssnr_full": 0.2, "mean_counts": 2.25}
    return replace(FIGURES, **{**usual, **changes})


def told(usual=USUAL, agrees=True, **changes):
    return why_empty(figures(**changes), FRAMES, usual, agrees=agrees)


def of(scope, specimen=None, seed=3, gain=True):
    """Figures of a simulated movie, summed with its true shifts, and whether its halves agree."""
    movie = simulated(scope, specimen, seed)
    if not gain:
        movie = replace(movie, correction=replace(movie.correction, gain=None))
    sums = movie.halves(movie.sum_frames(-torch.from_numpy(movie.field.displacement).double()))
    spectrum, look = estimators.measure(sums), texture(sums)
    halves = tuple(estimators.tapered(half, sums.shape) for half in (sums.even, sums.odd))
    mask = estimators.band_mask(sums.shape, sums.pixel_size, 100.0, 6.0)
    ssnr = 2.0 * float(estimators.pooled(estimators.estimate(halves, halves, sums.shape), mask).snr)
    counts = float(movie.counts.mean())
    return figures(structure=structure(look, sums.shape, sums.pixel_size), ssnr_full=ssnr, mean_counts=counts), spectrum


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("ice", {"ice_contrast": 0.03}),
        ("a hole without ice", {"ice_contrast": 0.0}),
        ("carbon", {"ice_contrast": 0.1}),
        ("thick ice", {"ice_contrast": 0.03, "ice_thickness_angstrom": 3000.0, "dose_per_frame": 0.05}),
        ("beam off", {"ice_contrast": 0.0, "dose_per_frame": 0.001}),
        ("ice at a high dose", {"ice_contrast": 0.03, "dose_per_frame": 4.0}),
    ],
)
def test_what_holds_no_particles_is_empty_beside_movies_that_do(what, changes, seed):
    found, spectrum = of(replace(SCOPE, **changes), seed=seed)
    assert why_empty(found, FRAMES, USUAL, agrees=spectrum.significant) is not None, what


@pytest.mark.parametrize(
    ("seed", "residues", "changes"),
    [
        (1, 2400, {}),
        (2, 2400, {"coverage": 0.1}),
        (3, 1200, {"coverage": 0.9}),
        (4, 1200, {"ice_contrast": 0.06}),
        (5, 4800, {"dose_per_frame": 0.4}),
    ],
)
def test_particles_are_something_few_or_crowded_in_thick_ice_or_at_a_low_dose(seed, residues, changes):
    found, spectrum = of(replace(SCOPE, **changes), random_protein(seed, residues), seed=seed)
    assert found.structure > PLAIN
    assert why_empty(found, FRAMES, USUAL, agrees=spectrum.significant) is None


def test_without_a_gain_reference_an_empty_movie_is_empty_all_the_same():
    """The detector's own pattern makes halves agree; it is no structure."""
    found, spectrum = of(
        replace(SCOPE, ice_contrast=0.02, dose_per_frame=4.0, drift_start=0.0, drift_end=0.0), gain=False
    )
    assert spectrum.significant
    assert why_empty(found, FRAMES, USUAL, agrees=True) is not None


def test_nothing_is_said_without_something_to_compare_with():
    assert told(usual=None, structure=0.3, ssnr_full=0.0, mean_counts=0.0, agrees=False) is None
    assert told(usual=Usual(), structure=0.3, ssnr_full=0.0, mean_counts=0.0, agrees=False) is None
    assert is_plain(figures(structure=0.3))
    assert not is_plain(figures(structure=None))


def test_where_particles_hardly_stand_out_a_plain_movie_is_not_empty_unless_nothing_agrees():
    weak = Usual(structure=0.8 * CLEAR, ssnr_full=0.05, electrons=22.5)
    assert told(usual=weak, structure=0.4, ssnr_full=0.03) is None
    assert told(usual=weak, structure=0.4, ssnr_full=0.02, agrees=False) is None, "a third of the particles"
    assert "nothing in common" in told(usual=weak, structure=0.4, ssnr_full=0.001, agrees=False)
    assert told(usual=weak, structure=3.0, ssnr_full=0.001, agrees=False) is None


def test_a_quarter_of_the_usual_structure_is_still_something():
    assert told(usual=Usual(structure=4.0), structure=1.1) is None
    assert told(usual=Usual(structure=4.0), structure=0.9) is not None
    assert told(structure=1.5) is None, "it may be a movie with very few particles"


def test_particles_that_stand_out_a_little_in_every_movie_are_missed_where_there_are_none():
    weak = Usual(structure=2.4, least_structure=1.7, ssnr_full=0.1)
    assert "structure 0.4, usually 2.4" in told(usual=weak, structure=0.4, ssnr_full=0.03)
    assert told(usual=weak, structure=0.7, ssnr_full=0.03) is None
    assert told(usual=replace(weak, least_structure=0.5), structure=0.3, ssnr_full=0.03) is None


def test_few_electrons_are_told_as_what_they_are():
    assert "3.0% of the usual electrons arrived; is the beam blanked" in told(mean_counts=0.0675, structure=400.0)
    assert told(mean_counts=0.3, structure=400.0, agrees=False) is not None
    assert told(mean_counts=0.3, structure=400.0, agrees=True) is None, "a shorter exposure on purpose"
    assert told(mean_counts=1.2) is None
    assert told(mean_counts=1.0, structure=0.5, ssnr_full=0.05) is None, "a shorter exposure shows less"
    assert told(mean_counts=1.2, structure=0.5, ssnr_full=0.05) is not None


def test_movies_whose_pixels_are_too_coarse_for_a_texture_are_judged_by_their_halves():
    assert told(structure=None, ssnr_full=0.0, agrees=False, usual=Usual(ssnr_full=0.2)) is not None
    assert told(structure=None, ssnr_full=0.1, agrees=True, usual=Usual(ssnr_full=0.2)) is None


@pytest.mark.parametrize(("shape", "pixel_size"), [((512, 512), 1.5), ((1024, 768), 0.8), ((384, 640), 3.0)])
def test_noise_has_little_structure_whatever_the_field(shape, pixel_size):
    images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(4))
    sums = half_sums(images[0], images[1], pixel_size=pixel_size)
    assert structure(texture(sums), shape, pixel_size) < 0.7 * PLAIN
