import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from streamer import fourier
from streamer.ctf.transfer import ctf_2d
from streamer.errors import UsageError
from streamer.quality import estimators
from streamer.simulation.movie import Detector, Microscope
from streamer.simulation.scenes import ice, imaging
from streamer.simulation.scenes.crowd import at_height, contrast
from streamer.simulation.scenes.kinds import KINDS, MIXTURES, kind_of, recipe_of
from streamer.simulation.scenes.motions import MOTIONS
from streamer.simulation.scenes.scene import scene, specimen_for
from streamer.simulation.specimen import Specimen, random_protein
from streamer.simulation.true_sums import recorded
from tests.simulated_movies import OPTICS, images

SHAPE = (224, 256)
CALM = {"drift_start": 0.0, "drift_end": 0.0, "jitter_px": 0.0, "bend_px": 0.0}


def field(kind, seed=1, shape=SHAPE, n_frames=1, **settings):
    return scene(kind, seed, shape, n_frames=n_frames, **settings)


def mean_counts(one):
    """Mean of the expected frames, (h, w)."""
    frames = list(one.expected(Detector(one.scope.shape, 0)))
    return torch.stack(frames).mean(0).numpy()


def near(where, px=12):
    return binary_dilation(where, iterations=px)


def deep(where, px=6):
    return binary_erosion(where, iterations=px, border_value=1)


# ------------------------------------------------------------------------------------------------------- every kind


@pytest.mark.parametrize(
    "kind", [*(kind for kind in KINDS if kind not in MOTIONS), *MIXTURES, "small+waves-3+crystal+few-frames"]
)
def test_a_kind_is_a_movie_with_its_truth(kind):
    settings = {"specimen": random_protein(2, 300), "n_frames": 2}
    one, again, other = (scene(kind, seed, (96, 120), **settings) for seed in (4, 4, 5))
    camera = Detector((96, 120), 0)
    frames = recorded(one, camera)
    assert frames.shape == (96, 120)
    assert len(frames.counts) == one.scope.n_frames
    assert frames.counts.max() > 0
    np.testing.assert_array_equal(frames.counts, np.stack(list(again.frames(camera))))
    assert not np.array_equal(frames.counts[0], next(other.frames(camera)))
    truth = one.truth()
    assert truth.image.shape == truth.lasting.shape == (192, 240)
    assert np.isfinite(truth.image).all()
    assert all(where.shape == (96, 120) and where.any() for where in truth.masks.values())
    assert len(truth.particles) == len(truth.heights) == len(truth.clear) == len(truth.rotations)
    assert truth.local.shape == (one.scope.n_frames, 9, 9, 2)


def test_the_same_field_with_and_without_a_crystal():
    clean, dirty = field("clean").truth(), field("crystal").truth()
    np.testing.assert_array_equal(clean.particles, dirty.particles)
    np.testing.assert_array_equal(clean.displacement, dirty.displacement)
    far = ~near(dirty.mask, 40).repeat(2, 0).repeat(2, 1)
    assert far.any()
    # farther than fringes reach nothing differs by more than they leave
    assert np.abs(clean.image - dirty.image)[far].std() < 0.1 * clean.image.std()
    assert not clean.masks


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UsageError, match=r"carbon-hole.*good-session") as caught:
        recipe_of("crystal+snow")
    assert "snow" in str(caught.value)
    with pytest.raises(UsageError, match="vibration"):
        field("clean", motion="earthquake")


def test_joined_names_have_all_that_each_says():
    recipe = recipe_of("crystals+waves-3+small+weak+phase-plate")
    assert (recipe.crystals, recipe.waves, recipe.specimen) == (4, 0.03, "small")
    settings = dict(recipe.scope)
    assert (settings["phase_shift_deg"], settings["ice_contrast"], settings["defocus_um"]) == (90.0, 0.045, (0.4, 0.7))


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_has_its_shares(name):
    assert sum(share for share, _ in MIXTURES[name]) == pytest.approx(1.0)
    kinds = [kind_of(name, number, 3) for number in range(2000)]
    for share, kind in MIXTURES[name]:
        recipe_of(kind)
        assert kinds.count(kind) / 2000 == pytest.approx(share, abs=4 * math.sqrt(share / 2000))
    assert kind_of(f"{name}+small", 5, 3) == f"{kinds[5]}+small"


def test_a_session_has_one_specimen():
    one, two = (field("session+small", 2, number=number) for number in (0, 1))
    np.testing.assert_array_equal(one.specimen.positions, two.specimen.positions)
    assert specimen_for("waves-1", None, 2) is None


def test_what_comes_out_is_the_truth_through_damage_weights_and_camera():
    """Frames without noise, weighted, against the stated micrograph; carbon does not fade, protein does."""
    one = field("carbon+still", shape=(256, 256), n_frames=8, dose_per_frame=5.0)
    camera = Detector(one.scope.shape, 0)
    radius = fourier.radius((256, 256))
    from streamer import dose

    rate = dose.decay_rate(radius, 1.5, 300.0)
    total, squares = 0.0, 0.0
    for number, frame in enumerate(one.expected(camera)):
        weight = torch.exp(-rate * 5.0 * (number + 1.0))
        total = total + weight * torch.fft.rfft2(frame / (5.0 * 1.5**2))
        squares = squares + weight**2
    found, stated = total / squares.sqrt(), one.noise_free(camera)
    for spectrum in (found, stated):
        spectrum[0, 0] = 0.0
    band = (radius > 0.01) & (radius < 0.4)
    assert float((found - stated)[band].abs().pow(2).sum() / stated[band].abs().pow(2).sum()) < 0.01


# ----------------------------------------------------------------------------------------------- what is not specimen


@pytest.mark.parametrize("kind", ["crystal", "crystals", "crystal-edge", "big-crystal", "frost"])
@pytest.mark.parametrize("seed", [1, 2])
def test_crystals_are_dark_and_where_the_mask_says(kind, seed):
    one = field(kind + "+empty+still", seed)
    truth, counts = one.truth(), mean_counts(one)
    where = truth.masks["crystal"]
    assert set(truth.masks) == {"crystal"}
    inner = deep(where, 3)
    assert counts[inner].mean() < 0.97 * counts[~near(where)].mean()
    lasting = truth.lasting.reshape(SHAPE[0], 2, SHAPE[1], 2).mean((1, 3))
    assert not (lasting < -0.1)[~near(where, 3)].any()
    far = lasting[~near(where, 40)]
    assert far.size == 0 or far.std() < 0.1 * np.abs(lasting[inner]).mean()


def test_crystals_at_the_edge_are_cut_by_it():
    for seed in range(4):
        where = field("crystal-edge+empty", seed).truth().masks["crystal"]
        assert where[0].any() or where[-1].any() or where[:, 0].any() or where[:, -1].any()


@pytest.mark.parametrize(
    ("kind", "share"), [("carbon", 0.3), ("carbon-hole", 0.35), ("gold", 0.25), ("gold-hole", 0.3)]
)
def test_a_film_covers_its_share_and_is_dark(kind, share):
    one = field(kind + "+still", 3)
    truth, counts = one.truth(), mean_counts(one)
    name = kind.partition("-")[0]
    where = truth.masks[name]
    assert where.mean() == pytest.approx(share, abs=0.02)
    darkness = counts[deep(where)].mean() / counts[~near(where)].mean()
    low, high = {"carbon": (0.7, 0.95), "gold": (0.05, 0.6)}[name]
    assert low < darkness < high
    assert truth.clear.all(), "no particle was put on the film"


def test_carbon_shows_thon_rings():
    one = field("all-carbon+still", shape=(256, 256), defocus_um=(1.5, 1.5), astigmatism_um=0.0)
    image = torch.from_numpy(one.truth().lasting)
    power = estimators.covariance(*[estimators.tapered(torch.fft.rfft2(image), (512, 512))] * 2, (512, 512))
    ctf = ctf_2d((512, 512), 0.75, one.optics)
    # the noise is blurred by a pixel or so, and the envelope is the microscope's
    expected = fourier.ring_sums(ctf**2, (512, 512)) / fourier.ring_sums(torch.ones_like(ctf), (512, 512))
    rings = slice(512 * 75 // 3000, 512 * 75 // 600)  # 30 to 6 Å
    trend = torch.exp(0.5 * 80.0 * (fourier.ring_frequencies((512, 512)) / 0.75) ** 2)
    pair = torch.stack(
        [power[rings] / fourier.ring_sums(torch.ones_like(ctf), (512, 512))[rings] * trend[rings], expected[rings]]
    )
    assert float(torch.corrcoef(pair)[0, 1]) > 0.7


def test_gold_is_of_grains():
    truth = field("gold+empty", 2).truth()
    gold = truth.lasting[::2, ::2][deep(truth.masks["gold"])]
    assert gold.std() > 0.08
    assert gold.mean() < -0.5


def test_broken_ice_is_bright_and_empty():
    one = field("torn+still", 2, ice_contrast=0.06)
    truth, counts = one.truth(), mean_counts(one)
    where = truth.masks["vacuum"]
    assert where.mean() == pytest.approx(0.4, abs=0.02)
    assert counts[deep(where)].mean() > 1.05 * counts[~near(where)].mean()
    fading = (truth.image - truth.lasting)[::2, ::2]
    assert fading[deep(where, 16)].std() < 0.05 * fading[~near(where)].std()
    assert np.abs(field("vacuum").truth().image - 0.1).max() < 1e-3


def test_a_particle_under_a_crystal_is_not_clear():
    hidden = 0
    for seed in (1, 2, 3):
        truth = field("crystals+overlapping", seed, specimen=random_protein(1, 200)).truth()
        places = [tuple(np.rint(place).astype(int).clip(0, np.array(SHAPE) - 1)) for place in truth.particles]
        assert truth.clear.tolist() == [not truth.mask[place] for place in places]
        hidden += len(places) - int(truth.clear.sum())
    assert hidden > 5


def test_a_weak_object_as_a_wave_is_its_phase_through_the_ctf():
    shape, step = (128, 160), 1.0
    scope, optics = Microscope(b_factor=30.0), replace(OPTICS, amplitude_contrast=0.0)
    radius = fourier.radius(shape)
    phase = fourier.to_image(torch.fft.rfft2(images(*shape)) * ((radius > 0.02) & (radius < 0.3)), shape) * 1e-3
    image = imaging.strong_image(torch.ones(shape), phase, step, scope, optics)
    envelope = torch.exp(-scope.b_factor / 4.0 * (radius / step) ** 2)
    linear = fourier.to_image(torch.fft.rfft2(phase) * 2.0 * ctf_2d(shape, step, optics) * envelope, shape)
    assert float((image - 1.0 - linear).std() / linear.std()) < 0.01


# ------------------------------------------------------------------------------------------------------------- the ice


@pytest.mark.parametrize(("kind", "stated"), [("waves-1", 0.01), ("waves-3", 0.03)])
def test_waves_are_as_strong_as_they_say(kind, stated):
    truth = field(kind + "+empty", 5).truth()
    assert truth.lasting.std() == pytest.approx(stated, rel=0.02)
    assert truth.lasting.mean() == pytest.approx(0.0, abs=1e-4)
    counts = mean_counts(field(kind + "+empty+still", 5, ice_contrast=0.0))
    assert counts.std() / counts.mean() == pytest.approx(stated, rel=0.05)


def test_a_gradient_is_as_strong_as_it_says():
    lasting = field("gradient-20+empty", 5).truth().lasting
    corners = lasting[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.ptp(corners) == pytest.approx(0.2, rel=0.02)


def test_ice_boils_in_its_detail_and_stays_in_its_coarse_shape():
    one = field("boiling+empty+still", n_frames=8, damage=False)
    first, *_, last = ice.boiling(one.scope, one.canvas, one.optics, 1.0, 3)
    frequency = fourier.radius(one.canvas.padded) / 1.5

    def kept(low, high):
        band = (frequency > 1.0 / low) & (frequency < 1.0 / high)
        a, b = first[band], last[band]
        return float((a * b.conj()).real.sum() / (a.abs().pow(2).sum() * b.abs().pow(2).sum()).sqrt())

    assert kept(400.0, 60.0) > 0.9
    # 7 steps of 1.5 e⁻/Å² at 1 Å² per e⁻/Å² along each axis, at 1/7.5 to 1/6 1/Å
    assert kept(7.5, 6.0) < 0.1
    still = mean_counts(field("empty+still", ice_contrast=0.03))
    assert mean_counts(one).std() < 0.8 * still.std()
    assert np.abs(one.truth().image).max() == 0.0, "what boils is noise"


# --------------------------------------------------------------------------------------------------------- the specimen


def test_height_is_defocus():
    one = field("clean", coverage=0.05, shape=(96, 96), specimen=random_protein(1, 200))
    higher = replace(one.crowd, heights=one.crowd.heights + 600.0)
    expected = contrast(one.crowd, one.scope, one.canvas, at_height(one.optics, 600.0))
    torch.testing.assert_close(contrast(higher, one.scope, one.canvas, one.optics), expected)
    assert at_height(one.optics, 600.0).defocus_u_um == pytest.approx(one.optics.defocus_u_um + 0.06)
    heights = field("heights", specimen=random_protein(1, 200)).truth().heights
    assert 500.0 < np.ptp(heights) <= 1000.0


def test_particles_are_where_the_truth_says():
    """A point that displaces ice has a bright middle within a dark ring: the middle is its place."""
    ends = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 40.0], [0.0, 0.0, -40.0]], np.float32)
    point = Specimen("point", ends, np.array([200.0, 0.0, 0.0], np.float32))
    one = field("phase-plate", n_frames=1, specimen=point, ice_contrast=0.0, coverage=0.35, **CALM)
    # turned about its middle at random, so that only the end without weight moves
    counts, particles = mean_counts(one), one.truth().particles
    inner = particles[((particles > 8) & (particles < np.array(SHAPE) - 9)).all(1)]
    assert len(inner) > 3
    for place in inner:
        top, left = np.rint(place).astype(int) - 3
        row, column = np.unravel_index(counts[top : top + 7, left : left + 7].argmax(), (7, 7))
        assert np.abs(place - (top + row, left + column)).max() <= 0.75


def nearest(particles):
    apart = np.linalg.norm(particles[:, None] - particles, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart.min(1)


def test_crowds_are_as_dense_as_they_say():
    particle = random_protein(3, 300)
    diameter = particle.diameter / 1.5
    found = {
        kind: field(kind, shape=(320, 320), specimen=particle).truth().particles
        for kind in ("clean", "crowded", "overlapping", "sparse")
    }
    number = {kind: len(particles) for kind, particles in found.items()}
    assert number["sparse"] < 0.3 * number["clean"]
    assert number["crowded"] > 1.4 * number["clean"]
    assert nearest(found["clean"]).min() >= 1.049 * diameter
    assert 0.799 * diameter <= nearest(found["crowded"]).min() < diameter
    assert nearest(found["overlapping"]).min() < 0.5 * diameter


@pytest.mark.parametrize(("kind", "rise"), [("actin", 27.6), ("tubes", 40.9)])
def test_filaments_have_a_unit_at_every_rise(kind, rise):
    truth = field(kind, 2, (320, 320)).truth()
    assert truth.paths
    for path in truth.paths:
        step = np.linalg.norm(np.diff(path, axis=0), axis=1) * 1.5
        assert np.median(step) == pytest.approx(rise, rel=1e-3)
    along = np.concatenate(truth.paths)
    assert np.abs(truth.particles[:, None] - along).max(-1).min(1).max() < 1e-3
    # the axis z of a unit lies in the plane, along its filament
    assert np.abs(truth.rotations[:, 2, 2]).max() < 1e-6
    np.testing.assert_allclose(np.linalg.det(truth.rotations), 1.0, atol=1e-5)


def test_particles_in_vesicles_are_in_their_membranes():
    one = field("vesicles", 3, (320, 320))
    assert one.crowd.vesicles
    centres = np.array([[*(c * 1.5), h] for _, c, h in one.crowd.vesicles])
    radii = [np.median(np.linalg.norm(member.positions, axis=1)) for member, *_ in one.crowd.vesicles]
    places = np.column_stack([one.crowd.centres * 1.5, one.crowd.heights])
    off = np.abs(np.linalg.norm(places[:, None] - centres, axis=-1) - radii)
    assert off.min(1).max() < 25.0


def test_a_phase_plate_shows_particles_dark_near_focus():
    flat, plate = (field(kind, 2, specimen=random_protein(1, 400)) for kind in ("weak", "phase-plate"))
    assert plate.scope.phase_shift_deg == 90.0
    depth = []
    for one in (flat, plate):
        truth = one.truth()
        small = torch.from_numpy(truth.image).reshape(SHAPE[0] // 8, 16, SHAPE[1] // 8, 16).mean((1, 3))
        depth.append(-float(small.min()))
    assert depth[1] > 1.4 * depth[0]
