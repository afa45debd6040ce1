import math

import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.motion.track import Motion
from streamer.quality import estimators
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from streamer.sums import frame_sum, halves
from streamer.super_resolution import accumulate
from streamer.super_resolution.fusion import Fusion, super_resolve
from streamer.super_resolution.verdict import cannot_help, nothing_near_nyquist
from tests.simulated_movies import simulated

BANDS = ((0.255, 0.30), (0.30, 0.36), (0.36, 0.45))
"""Beyond the physical Nyquist frequency, in cycles per fine px."""


def correlation(a, b, low, high):
    """Fourier correlation of two images (h, w) in a band, pooled, and its standard deviation by chance."""
    shape = tuple(a.shape)
    a, b = (estimators.tapered(torch.fft.rfft2(image), shape) for image in (a, b))
    radius = fourier.radius(shape)
    inside = ((radius >= low) & (radius < high)) * fourier.hermitian_weights(shape[1])
    common, power_a, power_b = (float(((p.conj() * q).real * inside).sum()) for p, q in ((a, b), (a, a), (b, b)))
    return common / math.sqrt(power_a * power_b), 1.0 / math.sqrt(float(inside.sum()))


def motion_of(shifts):
    return Motion(shifts=shifts, information=0.0, trusted=True, iterations=0)


def resolved(movie, shifts):
    noise = float(estimators.measure(movie.halves(movie.sum_frames(shifts))).noise[1:].mean())
    return super_resolve(Fusion(movie.fine_sums(motion_of(shifts)), noise), shifts=shifts, min_diversity=0.2)


@pytest.fixture(scope="module")
def shifts(coarse_movie):
    """As estimated, not as simulated."""
    return coarse_movie.motion().shifts


@pytest.fixture(scope="module")
def fine_image(coarse_movie, shifts):
    return resolved(coarse_movie, shifts).image


@pytest.fixture(scope="module")
def controls(coarse_movie, shifts):
    """What needs no separation of aliases: the same fusion with other frames' shifts, and bilinear upsampling."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(shifts)))
    plain = fourier.to_image(coarse_movie.halves(coarse_movie.sum_frames(shifts)).total, coarse_movie.scope.shape)
    twice = torch.nn.functional.interpolate(plain[None, None], scale_factor=2.0, mode="bilinear")[0, 0]
    return {"shuffled": resolved(coarse_movie, shifts[order]).image, "bilinear": twice}


@pytest.mark.parametrize("band", BANDS)
def test_the_fine_image_holds_signal_beyond_nyquist_that_no_control_holds(coarse_movie, fine_image, controls, band):
    truth = torch.from_numpy(coarse_movie.field.truth().image)
    found, chance = correlation(fine_image, truth, *band)
    assert found > 5.0 * chance
    for name, image in controls.items():
        control, _ = correlation(image, truth, *band)
        assert found > control + 3.0 * chance, name


def test_below_nyquist_nothing_is_lost(coarse_movie, fine_image, controls):
    truth = torch.from_numpy(coarse_movie.field.truth().image)
    for band in ((0.02, 0.06), (0.06, 0.12), (0.12, 0.2)):
        found, chance = correlation(fine_image, truth, *band)
        assert found > correlation(controls["bilinear"], truth, *band)[0] - 2.0 * chance


def test_the_fine_image_lies_where_the_specimen_was_in_the_first_frame(coarse_movie, fine_image):
    """Moving it by a fine pixel in any direction makes it agree less."""
    truth = torch.from_numpy(coarse_movie.field.truth().image)
    here = correlation(fine_image, truth, 0.05, 0.25)[0]
    for moved in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        assert correlation(fine_image.roll(moved, (0, 1)), truth, 0.05, 0.25)[0] < here - 0.01


def test_the_fine_image_keeps_the_mean_of_the_plain_one(coarse_movie, shifts, fine_image):
    plain = fourier.to_image(coarse_movie.halves(coarse_movie.sum_frames(shifts)).total, coarse_movie.scope.shape)
    assert fine_image.shape == (1024, 1024)
    assert float(fine_image.mean()) == pytest.approx(float(plain.mean()), rel=1e-3)


# --------------------------------------------------------------------------------------------------------- verdicts


def test_where_the_halves_agree_beyond_nyquist_it_helps():
    """4 Å/px without damage: more signal beyond Nyquist than any real movie has."""
    scope = Microscope(shape=(512, 512), pixel_size=4.0, dose_per_frame=2.0, bend_px=0.3, damage=False)
    movie = simulated(scope, random_protein(1), seed=1)
    shifts = movie.motion().shifts
    assert nothing_near_nyquist(estimators.measure(movie.halves(movie.sum_frames(shifts)))) is None
    found = resolved(movie, shifts).verdict
    assert found.verdict == "helps"
    assert found.frc_beyond_nyquist > 0.01
    assert found.diversity > 0.2
    assert found.confirmed == pytest.approx(1.0, abs=0.3)
    assert found.confirmed > 0.5 + found.confirmed_error
    assert found.control < 0.35
    assert found.confirmed > found.control + 6.0 * found.confirmed_error


def test_other_frames_shifts_never_help():
    scope = Microscope(shape=(512, 512), pixel_size=4.0, dose_per_frame=2.0, bend_px=0.3, damage=False)
    movie = simulated(scope, random_protein(1), seed=1)
    shifts = movie.motion().shifts
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(shifts)))
    found = resolved(movie, shifts - (shifts - shifts[order]) % 1.0).verdict
    assert found.verdict == "not shown"


@pytest.mark.parametrize("shape", [(96, 96), (95, 97), (64, 99)])
def test_noise_alone_never_helps(shape):
    frames = torch.poisson(torch.full((16, *shape), 2.0), generator=torch.Generator().manual_seed(0))
    shifts = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (16, 2)))
    exposures = torch.zeros(16, dtype=torch.float64)
    scale = {"pixel_size": 1.0, "voltage_kv": 300.0}
    plain = frame_sum.sum_frames(lambda i: frames[i], shifts, exposures, **scale)
    known = nothing_near_nyquist(estimators.measure(halves.half_sums(plain, **scale)))
    assert known.verdict == "not shown"
    sums = accumulate.accumulate(lambda i: frames[i], motion_of(shifts), exposures, **scale)
    found = super_resolve(Fusion(sums, 2.0), shifts=shifts, min_diversity=0.2)
    assert found.verdict.verdict != "helps"
    assert abs(found.verdict.frc_beyond_nyquist) < 0.1
    # and the image fades: its contrast is far below that of the noise it was made from
    assert found.image.shape == (2 * shape[0], 2 * shape[1])
    assert float(found.image.std()) < 0.5 * math.sqrt(2.0)


def test_frames_at_one_sub_pixel_position_cannot_help():
    shifts, unweighted = torch.arange(20.0).reshape(10, 2), torch.zeros(10, dtype=torch.float64)
    found = cannot_help(shifts, unweighted, 0.2)
    assert found.verdict == "cannot help"
    assert found.diversity == pytest.approx(0.0, abs=1e-4)
    assert "diversity 0.00, needs 0.2" in found.reason
    spread = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (40, 2)))
    assert cannot_help(spread, torch.zeros(40, dtype=torch.float64), 0.2) is None


def test_frames_that_differ_only_after_the_damage_cannot_help():
    shifts = torch.zeros(40, 2)
    shifts[20:] = torch.rand((20, 2), generator=torch.Generator().manual_seed(0))
    late = torch.arange(1.0, 41.0, dtype=torch.float64) * 2.0
    assert cannot_help(shifts, torch.zeros(40, dtype=torch.float64), 0.2) is None
    assert cannot_help(shifts, late, 0.2) is not None


@pytest.mark.slow
def test_the_error_is_what_noise_scatters_by():
    """Over 24 movies of noise the share is 0 within its error: neither halves nor tiles know of each other."""
    shares = []
    for seed in range(24):
        frames = torch.poisson(torch.full((12, 260, 260), 2.0), generator=torch.Generator().manual_seed(seed))
        shifts = torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 0.5, (12, 2)))
        exposures = torch.zeros(12, dtype=torch.float64)
        sums = accumulate.accumulate(
            lambda i, f=frames: f[i], motion_of(shifts), exposures, pixel_size=1.0, voltage_kv=300.0
        )
        resolver = Fusion(sums, 2.0)
        for found in (resolver.confirmation(), resolver.control()):
            shares.append(found.share / found.error)
    assert abs(np.mean(shares)) < 0.8
    assert 0.4 < np.std(shares) < 2.0
    assert max(shares) < 4.0


# ------------------------------------------------------------------------------------------------- odd movies


@pytest.mark.parametrize("shape", [(63, 101), (40, 300)])
@pytest.mark.parametrize(
    "shifts",
    [torch.zeros(1, 2), torch.zeros(8, 2), torch.full((8, 2), 0.37), torch.full((8, 2), 500.0)],
    ids=["one frame", "no motion", "the same shift", "out of the field"],
)
def test_what_cannot_be_told_apart_gives_an_image_and_says_so(shape, shifts):
    frames = torch.poisson(torch.full((len(shifts), *shape), 2.0), generator=torch.Generator().manual_seed(0))
    shifts, exposures = shifts.double(), torch.zeros(len(shifts), dtype=torch.float64)
    sums = accumulate.accumulate(lambda i: frames[i], motion_of(shifts), exposures, pixel_size=1.0, voltage_kv=300.0)
    found = super_resolve(Fusion(sums, 2.0), shifts=shifts, min_diversity=0.2)
    assert found.image.shape == (2 * shape[0], 2 * shape[1])
    assert torch.isfinite(found.image).all()
    assert float(found.image.mean()) == pytest.approx(2.0 * math.sqrt(len(shifts)), rel=0.05)
    assert found.verdict.verdict == "cannot help"


def test_the_prior_is_the_signal_that_is_there(coarse_movie, shifts):
    """σ²/P against the truth's own spectrum, where there is enough of it to be measured."""
    movie = coarse_movie
    noise = float(movie.counts.mean())
    resolver = Fusion(movie.fine_sums(motion_of(shifts)), noise)
    truth = torch.from_numpy(movie.field.truth().image) * noise
    spectrum = estimators.tapered(torch.fft.rfft2(truth), tuple(truth.shape))
    taper = float((fourier.cosine_taper(tuple(truth.shape)) ** 2).mean())
    power = estimators.covariance(spectrum, spectrum, tuple(truth.shape))
    counts = 2.0 * fourier.coefficient_counts(tuple(truth.shape))
    # per alias: an image of (2s)² fine px has |X|²/16 = P s²/4, a frame's noise σ² s²
    expected = power / counts / truth.numel() / taper / 4.0 / noise
    radius = resolver.grid.radius
    for low, high in ((0.04, 0.08), (0.08, 0.15), (0.15, 0.25)):
        found = float((1.0 / resolver.prior)[(radius >= 2 * low) & (radius < 2 * high)].mean())
        frequency = fourier.ring_frequencies(tuple(truth.shape))
        wanted = float(expected[(frequency >= low) & (frequency < high)].mean())
        assert 0.5 * wanted < found < 1.5 * wanted, (low, high)


@pytest.mark.parametrize(("shape", "frames"), [((256, 256), 40), ((190, 241), 24)])
def test_an_unfiltered_image_has_white_noise_as_strong_as_the_micrographs(shape, frames):
    generator = torch.Generator().manual_seed(5)
    noise = 0.5 * torch.randn(frames, *shape, generator=generator)
    shifts = torch.cumsum(0.35 * torch.randn(frames, 2, generator=generator, dtype=torch.float64), 0)
    scale = {"pixel_size": 3.0, "voltage_kv": 300.0}
    sums = accumulate.accumulate(lambda i: noise[i], motion_of(shifts), torch.zeros(frames), **scale)
    resolver = Fusion(sums, 0.25)
    # a prior that lets something pass at all
    resolver.prior = torch.full_like(resolver.prior, 20.0)
    image = resolver.image(filtered=False)
    fine_shape = tuple(image.shape)
    spectrum = torch.fft.rfft2(image)
    counts = 2.0 * fourier.coefficient_counts(fine_shape) * image.numel()
    power = estimators.covariance(spectrum, spectrum, fine_shape) / counts
    bands = [float(part.mean()) for part in power[8:].split(len(power) // 8)]
    assert bands == pytest.approx([0.25] * len(bands), rel=0.15)
    # the filtered one has lost most of it
    assert float(resolver.image().var()) < 0.5 * frames * 0.25
