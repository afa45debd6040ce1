import math
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from streamer import fourier
from streamer.quality import estimators
from streamer.simulation.movie import Detector, Field, Microscope, _bend_basis, _every_second
from streamer.simulation.specimen import Specimen, random_protein
from streamer.units import electron_wavelength
from tests.simulated_movies import images

REAL_TRACKS = Path(__file__).parents[4] / "shared/data/relion-tutorial-10204/motion-relion5"
SMALL = Microscope(shape=(192, 160), n_frames=8, pixel_size=1.5, dose_per_frame=2.0, bend_px=0.0)
STILL = {"drift_start": 0.0, "drift_end": 0.0, "jitter_px": 0.0}
PERFECT = {"hot": 0.0, "dead": 0.0}


def movie(field, camera):
    return np.stack(list(field.frames(camera)))


def expected(field, camera=None):
    return torch.stack(list(field.expected(camera or Detector(field.scope.shape, 0))))


def power(image):
    shape = tuple(image.shape)
    spectrum = estimators.tapered(torch.fft.rfft2(image), shape)
    return estimators.covariance(spectrum, spectrum, shape)


# ------------------------------------------------------------------------------------------------------ the camera


def test_the_counts_are_dose_times_area_times_efficiency():
    scope = replace(SMALL, ice_contrast=0.0)
    camera = Detector(scope.shape, 3, **PERFECT)
    counts = movie(Field(scope, None, seed=1), camera)
    rate = 2.0 * 1.5**2
    assert counts.dtype == np.uint8
    number = counts.size
    assert counts.mean() == pytest.approx(rate * camera.efficiency.mean(), abs=4 * math.sqrt(rate / number))
    # Poisson: frame by frame and pixel by pixel, the variance about its own mean is that mean
    assert (counts - rate * camera.efficiency).var() == pytest.approx(rate * camera.efficiency.mean(), rel=0.02)


def test_each_pixel_has_its_own_efficiency_and_the_gain_undoes_it():
    scope = replace(SMALL, ice_contrast=0.0, n_frames=60, **STILL)
    camera = Detector(scope.shape, 3, **PERFECT)
    total = movie(Field(scope, None, seed=1), camera).sum(0)
    slope = np.polyfit(camera.efficiency.ravel(), total.ravel() / (60 * 4.5), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
    corrected = total * camera.gain_reference()
    assert abs(np.polyfit(camera.efficiency.ravel(), corrected.ravel() / corrected.mean(), 1)[0]) < 0.05


def test_dead_pixels_count_nothing_and_hot_ones_too_much():
    camera = Detector(SMALL.shape, 5, hot=1e-3, dead=1e-3)
    counts = movie(Field(SMALL, None, seed=1), camera)
    dead, hot = camera.efficiency == 0, camera.hot_counts > 0
    assert dead.sum() > 5
    assert hot.sum() > 5
    assert counts[:, dead & ~hot].sum() == 0
    assert counts[:, hot].mean() > counts.mean() + 2.5
    np.testing.assert_array_equal(camera.gain_reference() == 0, dead)


def test_the_gain_of_living_pixels_has_mean_one_over_the_flat_field():
    camera = Detector((300, 300), 2)
    gain = camera.gain_reference()
    alive = gain > 0
    assert gain.dtype == np.float32
    assert float((1.0 / gain[alive]).mean()) == pytest.approx(1.0, rel=1e-4)


def test_the_camera_blurs_to_seven_tenths_at_nyquist():
    assert float(Detector((8, 8), 0).transfer(torch.tensor(0.5))) == pytest.approx(0.70, abs=0.005)
    assert float(Detector((8, 8), 0).transfer(torch.tensor(0.0))) == 1.0


def test_a_seed_is_a_camera():
    one, again, other = (Detector((50, 60), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.gain_reference(), again.gain_reference())
    assert not np.array_equal(one.gain_reference(), other.gain_reference())


def test_a_seed_is_a_movie():
    camera, specimen = Detector(SMALL.shape, 0), random_protein(0, 300)
    one, again, other = (movie(Field(SMALL, specimen, seed=seed), camera) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("shape", [(90, 121), (64, 64), (33, 200)])
def test_any_size_of_frame(shape):
    field = Field(replace(SMALL, shape=shape, n_frames=2), None, seed=0)
    assert movie(field, Detector(shape, 0)).shape == (2, *shape)
    assert field.truth().image.shape == (2 * shape[0], 2 * shape[1])


# -------------------------------------------------------------------------------------------------------- movement


def test_the_specimen_moves_by_the_displacement():
    """Frame against frame: the shift that moves the later one back is −d."""
    field = Field(SMALL, random_protein(0, 300), seed=2)
    frames = expected(field)
    d = field.displacement
    np.testing.assert_array_equal(d[0], [0.0, 0.0])
    assert np.linalg.norm(d[-1]) > 2.0
    first = torch.fft.rfft2(frames[0] - frames[0].mean())
    shape = SMALL.shape

    def agreement(y, x):
        back = torch.fft.rfft2(frames[7] - frames[7].mean()) * fourier.shift_ramp(shape, torch.tensor([y, x]))
        return float((back.conj() * first).real.sum())

    here = agreement(-d[7, 0], -d[7, 1])
    assert here > agreement(d[7, 0], d[7, 1])
    for y, x in ((0.3, 0), (-0.3, 0), (0, 0.3), (0, -0.3)):
        assert here > agreement(-d[7, 0] + y, -d[7, 1] + x)


def test_the_drift_is_fast_at_first():
    steps = np.linalg.norm(
        np.diff(Field(replace(SMALL, n_frames=30, jitter_px=0.0), None, 1).displacement, axis=0), axis=1
    )
    # Å per e⁻/Å² times e⁻/Å² per frame over Å/px
    assert steps[0] == pytest.approx(1.2 * 2.0 / 1.5, rel=1e-4)
    assert steps[-1] == pytest.approx(0.25 * 2.0 / 1.5, rel=0.01)
    assert (np.diff(steps) < 0).all()


def test_jitter_is_what_it_says():
    small = replace(SMALL, shape=(64, 64), n_frames=64, ice_contrast=0.0)
    tracks = [
        Field(replace(small, jitter_px=0.2), None, seed).displacement
        - Field(replace(small, jitter_px=0.0), None, seed).displacement
        for seed in range(4)
    ]
    assert np.std([track[1:] for track in tracks]) == pytest.approx(0.2, rel=0.15)


def test_a_bend_moves_no_mean_and_reaches_its_size_in_a_corner():
    field = Field(replace(SMALL, bend_px=0.7, n_frames=200), None, seed=3)
    truth = field.truth()
    v, u = np.meshgrid(np.arange(1000) / 1000 - 0.4995, np.arange(1000) / 1000 - 0.4995, indexing="ij")
    displaced = np.tensordot(truth.bend, np.stack(_bend_basis(v, u)), 1)
    np.testing.assert_allclose(displaced.mean((1, 2)), 0.0, atol=1e-3)
    corners = np.abs(displaced[:, [0, 0, -1, -1], [0, -1, 0, -1]]).max() * truth.bend_amplitude[-1]
    assert corners == pytest.approx(0.7, rel=0.01)
    assert truth.bend_amplitude[0] == 0.0


def test_the_series_of_the_bend_is_the_bent_image():
    """Against interpolation of the unbent contrast at r − a b(r), for the bend of the first and the last frame."""
    field = Field(replace(SMALL, shape=(128, 128), bend_px=0.8, b_factor=150.0), random_protein(0, 300), seed=3)
    shape = field._fine
    contrast = fourier.to_image(field._series[0], shape)
    by, bx = (b.double().numpy() for b in field._bend_fields())
    rows, columns = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    inside = (slice(40, -40), slice(40, -40))
    for amplitude in (field.bend_amplitude[0], field.bend_amplitude[-1]):
        a = float(amplitude - field.bend_amplitude.mean())
        places = np.stack([rows - a * by, columns - a * bx])
        direct = map_coordinates(contrast.double().numpy(), places, order=5, mode="grid-wrap")[inside]
        ours = fourier.to_image(field._at(float(amplitude), field._series), shape).numpy()[inside]
        assert np.sqrt(((ours - direct) ** 2).mean()) < 0.02 * direct.std()
        assert np.sqrt(((ours - direct) ** 2).mean()) < 0.1 * np.sqrt(((contrast.numpy()[inside] - direct) ** 2).mean())


@pytest.mark.parametrize("shape", [(8, 8), (12, 20), (64, 32)])
def test_every_second_pixel_is_every_second_pixel(shape):
    image = images(*shape)
    torch.testing.assert_close(_every_second(torch.fft.rfft2(image), shape), image[::2, ::2], rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------- what is seen


def test_the_truth_lies_where_the_first_frame_shows_it():
    """Frames without noise against the truth averaged over each pixel: the same image, centred on it."""
    field = Field(replace(SMALL, bend_px=0.5), random_protein(0, 300), seed=6)
    truth = torch.from_numpy(field.truth().image)
    height, width = SMALL.shape
    averaged = truth.reshape(height, 2, width, 2).mean((1, 3))
    first = expected(field)[0] / (2.0 * 1.5**2) - 1.0
    a, b = (estimators.tapered(torch.fft.rfft2(i), SMALL.shape) for i in (first, averaged))
    correlation = estimators.frc(a, b, SMALL.shape)
    # 2 e⁻/Å² and the detector's blur take power, not phase; the rest is what aliases
    assert float(correlation[3:60].min()) > 0.97
    cross = fourier.to_image(a.conj() * b, SMALL.shape)
    assert int(cross.argmax()) == 0
    for before, after in ((cross[-1, 0], cross[1, 0]), (cross[0, -1], cross[0, 1])):
        parabola = 0.5 * float((before - after) / (before - 2 * cross[0, 0] + after))
        assert abs(parabola) < 0.05


def lone_atom(bend_px):
    """A field with one particle, all of whose mass sits in its middle: its image is symmetric about its centre."""
    rng = np.random.default_rng(0)
    shell = rng.normal(size=(60, 3))
    shell *= 30.0 / np.linalg.norm(shell, axis=1, keepdims=True)
    positions = np.concatenate([np.zeros((60, 3)), shell]).astype(np.float32)
    factors = np.concatenate([np.full(60, 50.0), np.full(60, 1e-3)]).astype(np.float32)
    specimen = Specimen("dot", positions, factors)
    scope = replace(SMALL, ice_contrast=0.0, bend_px=bend_px, coverage=0.03, astigmatism_um=0.0)
    for seed in range(100):
        field = Field(scope, specimen, seed=seed)
        particles = field.truth().particles
        if len(particles) == 1 and (np.abs(particles[0] - np.array([96, 80])) < [40, 30]).all():
            return field
    raise AssertionError("no seed has a particle in the middle")


@pytest.mark.parametrize("bend_px", [0.0, 1.0])
def test_particles_are_where_their_projections_are(bend_px):
    """Turned by 180° about the centre that the truth tells, the image lies on itself, and about no other point."""
    truth = lone_atom(bend_px).truth()
    assert truth.diameter == pytest.approx(60.0, abs=0.1)
    image, (y, x) = torch.from_numpy(truth.image), truth.particles[0]

    def symmetry(dy, dx):
        # a coarse pixel's centre lies between its two fine pixels
        place = torch.tensor([192.0 - (2 * y + 0.5 + dy), 160.0 - (2 * x + 0.5 + dx)])
        shape = tuple(image.shape)
        moved = fourier.to_image(torch.fft.rfft2(image) * fourier.shift_ramp(shape, place), shape)
        near = moved[192 - 30 : 192 + 31, 160 - 30 : 160 + 31].numpy()
        return np.corrcoef(near.ravel(), near[::-1, ::-1].ravel())[0, 1]

    assert symmetry(0, 0) > 0.98
    for away in ((0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4)):
        assert symmetry(*away) < symmetry(0, 0) - 0.01


def test_particles_keep_apart_and_cover_what_was_asked():
    scope = replace(SMALL, shape=(512, 512), coverage=0.3)
    field = Field(scope, random_protein(0, 300), seed=1)
    diameter = field.specimen.diameter / 1.5
    apart = np.abs(field.centres[:, None] - field.centres[None])
    distance = np.hypot(*apart.transpose(2, 0, 1)) + 1e9 * np.eye(len(field.centres))
    assert distance.min() >= 1.05 * diameter - 1e-3
    covered = len(field.centres) * math.pi / 4 * diameter**2 / np.prod(field._padded)
    assert covered == pytest.approx(0.3, abs=0.03)
    assert ((field.truth().particles >= 0) & (field.truth().particles < 512)).all()


def test_empty_ice_has_no_particles():
    truth = Field(SMALL, None, seed=1).truth()
    assert truth.particles.shape == (0, 2)
    assert truth.diameter == 0.0
    assert truth.image.std() == pytest.approx(SMALL.ice_contrast, rel=0.1)


def test_the_image_vanishes_at_the_zeros_of_the_ctf():
    scope = replace(SMALL, shape=(384, 384), defocus_um=(1.5, 1.5), astigmatism_um=0.0, damage=False, **STILL)
    field = Field(scope, None, seed=2)
    spectrum = power(expected(field)[0]) / fourier.coefficient_counts((384, 384))
    wavelength, cs, radius = electron_wavelength(300.0), 2.7e7, torch.arange(len(spectrum)) / 384 / 1.5
    chi = math.pi * wavelength * radius**2 * (1.5e4 - 0.5 * wavelength**2 * radius**2 * cs) + math.asin(0.1)
    band = (radius > 0.04) & (radius < 0.13)
    law = torch.sin(chi) ** 2
    assert int((law[band] < 0.01).sum()) >= 2
    # a ring is 1/384 cycles/px wide and the taper mixes neighbours: not quite zero
    assert float(spectrum[band & (law < 0.01)].mean()) < 0.08 * float(spectrum[band & (law > 0.95)].mean())
    assert np.corrcoef(spectrum[band], law[band])[0, 1] > 0.9
    assert field.optics.defocus_u_um == field.optics.defocus_v_um == 1.5


def test_damage_takes_the_fine_detail_as_the_law_says():
    """Frame t has seen (t + ½) frames' exposure on average: amplitude exp(−N/(2 N_c(k)))."""
    scope = replace(SMALL, shape=(256, 256), n_frames=12, **STILL)
    fresh, damaged = (expected(Field(replace(scope, damage=d), None, seed=3)) for d in (False, True))
    frequency = torch.arange(129) / 256 / 1.5
    critical = 0.245 * frequency.clamp(min=1e-9) ** -1.665 + 2.81
    rings = (frequency > 0.05) & (frequency < 0.28)
    for t in (0, 5, 11):
        left = (power(damaged[t]) / power(fresh[t])).sqrt()
        law = torch.exp(-(t + 0.5) * 2.0 / (2.0 * critical))
        np.testing.assert_allclose(left[rings], law[rings], rtol=0.06)


def test_the_contrast_is_of_the_first_frame_before_damage():
    field = Field(replace(SMALL, damage=True), random_protein(0, 300), seed=3)
    np.testing.assert_array_equal(
        field.truth().image, Field(replace(SMALL, damage=False), random_protein(0, 300), 3).truth().image
    )


@pytest.mark.skipif(not REAL_TRACKS.is_dir(), reason="the real tracks are not here")
def test_the_drift_is_like_that_of_real_movies():
    """Twelve movies of EMPIAR-10204 as RELION 5 aligned them: speed at first, speed late, and the whole way, in Å."""

    def figures(track):
        steps = np.linalg.norm(np.diff(track, axis=0), axis=1)
        return steps[:5].mean(), steps[-5:].mean(), np.linalg.norm(track[-1] - track[0])

    real = []
    for path in sorted(REAL_TRACKS.glob("*.star")):
        table = gemmi.cif.read_file(str(path)).find_block("global_shift")
        rows = table.find(["_rlnMicrographShiftY", "_rlnMicrographShiftX"])
        real.append(figures(0.885 * np.array([[float(value) for value in row] for row in rows])))
    assert len(real) == 12
    scope = replace(SMALL, shape=(64, 64), n_frames=24, pixel_size=0.885, dose_per_frame=1.277, ice_contrast=0.0)
    ours = np.median([figures(0.885 * Field(scope, None, seed).displacement) for seed in range(12)], axis=0)
    assert (np.min(real, axis=0) <= ours).all()
    assert (ours <= np.max(real, axis=0)).all()
