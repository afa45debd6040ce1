from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.harness import Simulated
from models.gate import scoring
from models.gate.places import judged_by_place
from models.gate.scoring import measure_weight
from models.manifest import DENOISERS
from models.networks.denoiser import WienerResidualNet
from models.serving.session_model import SessionModel
from models.versions.checkpoint import save_version
from streamer import fourier, restore
from streamer.band import band_of
from streamer.errors import ModelError
from streamer.quality import estimators
from streamer.records import HalfSums
from streamer.simulation.movie import Detector
from tests.model_samples import WEIGHT, manifest
from tests.simulated_movies import OPTICS, half_sums, images, unchanged

SHAPES = [(160, 160), (161, 150), (96, 203)]


def net_of(last=0.0):
    torch.manual_seed(0)
    net = WienerResidualNet(DENOISERS["small"])
    if last:
        torch.nn.init.normal_(net.last.weight, std=last)
    return net


def model_of(directory, net=None, **changes):
    save_version(directory / "v0001", net or net_of(), manifest(**changes))
    return SessionModel(directory / "v0001")


def scene(shape=(160, 160), pixel_size=2.0, share=0.5):
    """Halves with coarse signal, and their curves."""
    falling = torch.exp(-((fourier.radius(shape) / 0.12) ** 2))
    picture = 20.0 + 3.0 * fourier.to_image(torch.fft.rfft2(images(*shape, seed=9)) * falling, shape)
    even = share * picture + share**0.5 * images(*shape, seed=1)
    odd = (1 - share) * picture + (1 - share) ** 0.5 * images(*shape, seed=2)
    sums = half_sums(even, odd, pixel_size, share)
    return sums, estimators.measure(sums)


def wiener_of(part, spectrum, share, shape):
    ssnr = spectrum.ssnr_full * share
    return part * fourier.from_rings(ssnr / (1.0 + ssnr), shape)


def assert_near(found, expected, tolerance=1e-5):
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_base_weights_serve_any_pixel_size_that_reaches_their_band(tmp_path):
    model = model_of(tmp_path, net_of(0.02), general=True, resolution=8.0)
    for pixel_size in (1.0, 2.0, 4.0):
        assert model.propose(*scene(pixel_size=pixel_size)).model.version == "v0001"
    with pytest.raises(ModelError, match="too coarse") as caught:
        model.propose(*scene(pixel_size=4.3))
    assert "at most 4 Å/px" in str(caught.value)


def test_a_movie_is_scored_whether_it_is_served_or_refused_but_not_where_it_was_learned_from(tmp_path):
    model = model_of(tmp_path, net_of(0.02), trained_on=["mine"])
    sums, spectrum = scene()
    served = model.propose(sums, spectrum, "other")
    assert served.score.version == "v0001"
    assert served.score.gain > 0.0
    assert served.score.gain_error >= 0.0
    assert model.propose(sums, spectrum, "mine").score is None
    worse = model_of(tmp_path / "b", net_of(3.0)).propose(sums, spectrum, "other")
    assert worse.refused
    assert worse.score.share == 0.0
    assert worse.score.gain < 1.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.5, 2 / 3])
def test_a_net_without_a_correction_proposes_the_wiener_estimate(tmp_path, shape, share):
    sums, spectrum = scene(shape, share=share)
    proposal = model_of(tmp_path).propose(sums, spectrum)
    for found, part, exposure in (
        (proposal.total, sums.total, 1.0),
        (proposal.even, sums.even, share),
        (proposal.odd, sums.odd, 1.0 - share),
    ):
        assert_near(found, wiener_of(part, spectrum, exposure, shape))


def judged(model, sums, spectrum, optics=None):
    """What a model's network makes of halves."""
    band = band_of(sums.shape, sums.pixel_size, model.manifest.resolution, model.manifest.low)
    return model._judged(sums, spectrum, band, optics)


def test_half_the_weight_is_half_the_change(tmp_path):
    """λ(k) is in what is served; the proposal's weight says only whether it is."""
    sums, spectrum = scene()
    halved = [(k, 0.5 * value) for k, value in WEIGHT]
    one, half = (
        model_of(tmp_path / name, net_of(0.02), trained_on=["m"], weight=weight)
        for name, weight in (("a", WEIGHT), ("b", halved))
    )
    assert torch.equal(one.propose(sums, spectrum, "m").weight, torch.ones_like(spectrum.fftfreq))
    changes = [judged(model, sums, spectrum).even.change for model in (one, half)]
    assert float(changes[0].abs().max()) > 0.0
    assert_near(changes[1], 0.5 * changes[0], 1e-4)


def test_the_proposal_names_its_model(tmp_path):
    model = model_of(tmp_path)
    reference = model.propose(*scene()).model
    assert (reference.version, reference.sha256) == ("v0001", model.manifest.sha256)
    assert len(reference.sha256) == 64
    assert reference.weight == tuple(WEIGHT)


@pytest.mark.parametrize("shape", SHAPES)
def test_outside_the_band_every_net_is_the_wiener_estimate(tmp_path, shape):
    sums, spectrum = scene(shape)
    proposal = model_of(tmp_path, net_of(0.3)).propose(sums, spectrum)
    linear = wiener_of(sums.total, spectrum, 1.0, shape)
    band = band_of(shape, 2.0, 6.0, 100.0)
    resolution = 2.0 / fourier.radius(shape).clamp(min=1e-9)
    outside = (resolution > 200.0) | (resolution < band.band_pixel_size * 2.0 * 0.99)
    assert torch.equal(proposal.total[outside], linear[outside])
    assert not torch.equal(proposal.total, linear)


def test_what_is_changed_in_a_half_comes_from_itself_alone(tmp_path):
    """The same curves, another odd half: what the network says of the even one does not move, only where it serves."""
    sums, spectrum = scene()
    other = replace(sums, odd=torch.fft.rfft2(images(160, 160, seed=77)))
    model = model_of(tmp_path, net_of(0.3))
    one, two = (judged(model, halves, spectrum) for halves in (sums, other))
    assert torch.equal(one.even.change, two.even.change)
    assert not torch.allclose(one.odd.change, two.odd.change)
    assert not torch.allclose(one.places.weight, two.places.weight)


def test_the_halves_and_curves_stay_as_they_are(tmp_path):
    sums, spectrum = scene()
    with unchanged(sums.even, sums.odd, sums.even_share, spectrum.ssnr_full, spectrum.noise):
        model_of(tmp_path, net_of(0.3)).propose(sums, spectrum)


def test_brightness_and_counts_do_not_matter(tmp_path):
    """All counts times a thousand: all proposals times a thousand."""
    model, (sums, spectrum) = model_of(tmp_path, net_of(0.3)), scene()
    bright = HalfSums(
        even=1000.0 * sums.even, odd=1000.0 * sums.odd, even_share=sums.even_share, shape=sums.shape, pixel_size=2.0
    )
    found = model.propose(bright, estimators.measure(bright)).total
    assert_near(found / 1000.0, model.propose(sums, spectrum).total, 1e-4)


@pytest.mark.parametrize(("pixel_size", "fits"), [(2.0, True), (2.08, True), (1.92, True), (2.2, False), (1.0, False)])
def test_a_model_is_believed_at_its_own_pixel_size(tmp_path, pixel_size, fits):
    sums, spectrum = scene(pixel_size=pixel_size)
    model = model_of(tmp_path)
    if fits:
        model.propose(sums, spectrum)
    else:
        with pytest.raises(ModelError, match=f"another pixel size; expected 2 Å/px; found {pixel_size:g} Å/px"):
            model.propose(sums, spectrum)


def test_an_output_that_is_not_finite_is_refused(tmp_path):
    net = net_of(0.3)
    with torch.no_grad():
        net.last.weight *= 1e38
        net.down[0][0].weight *= 1e20
    with pytest.raises(ModelError, match=r"output (for noise )?is not finite"):
        model_of(tmp_path, net).propose(*scene())


def test_a_damaged_version_does_not_serve(tmp_path):
    directory = tmp_path / "v0001"
    save_version(directory, net_of(), manifest())
    (directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="do not match their manifest"):
        SessionModel(directory)


# --------------------------------------------------------------------------------------------------- in service


@pytest.fixture(scope="module")
def served(trained, session_counts, session_movies, tmp_path_factory):
    """A trained model as it serves, and a movie that it never saw."""
    net, _ = trained
    weight = measure_weight(net, session_movies[4:6])
    directory = tmp_path_factory.mktemp("models")
    model = model_of(directory, net, pixel_size=1.5, weight=weight)
    movie = session_counts[6]
    sums = movie.halves(movie.sum_frames(movie.motion().shifts))
    return model, sums, estimators.measure(sums)


def test_a_served_model_does_better_than_the_wiener_filter(served):
    """On a new movie, at half the exposure, over the whole pooled band."""
    model, sums, spectrum = served
    proposal = model.propose(sums, spectrum)
    raw = estimators.tapered(sums.even, sums.shape), estimators.tapered(sums.odd, sums.shape)
    linear = [restore.filtered(half, spectrum.wiener_half, sums.shape) for half in (sums.even, sums.odd)]
    merged = [
        restore.merge(plain, proposed, proposal.weight, sums.shape)
        for plain, proposed in zip(linear, (proposal.even, proposal.odd), strict=True)
    ]
    mask = estimators.band_mask(sums.shape, 1.5, 100.0, 6.0)
    wiener, network = (
        estimators.pooled(
            estimators.estimate(raw, tuple(estimators.tapered(h, sums.shape) for h in pair), sums.shape), mask
        )
        for pair in (linear, merged)
    )
    assert float(network.snbr) > 1.5 * float(wiener.snbr)
    assert float(network.bias) < float(network.gamma) ** 2 * float(network.signal)


def test_service_and_gate_see_the_same_correction(served, session_movies):
    """The gate judges on group sums in float16, the worker applies to the sums themselves: one correction."""
    model, sums, spectrum = served
    movie = session_movies[6]
    everything = torch.ones(len(movie), dtype=torch.bool)
    _, linear, proposed = scoring.outputs(model.net, movie, everything)
    worker = judged(model, sums, spectrum)
    applied = worker.correct(sums.total, torch.ones_like(worker.share)).change
    weight = fourier.from_rings(scoring.weight_curve(model.manifest.weight, fourier.ring_frequencies(movie.band.small)
                                / movie.band.band_pixel_size), movie.band.small)  # fmt: skip
    change = fourier.to_image((proposed - linear) * weight, movie.band.small)
    # at the edges the gate's filters wrap round
    a, b = (image[16:-16, 16:-16].flatten() for image in (change, applied))
    assert np.corrcoef(a, b)[0, 1] > 0.98


# ------------------------------------------------------------------------------------------------------- the guard


def test_the_guard_lets_a_movie_of_the_session_through(served):
    model, sums, spectrum = served
    proposal = model.propose(sums, spectrum)
    assert proposal.refused is None
    assert bool((proposal.weight > 0).any())


def test_a_network_that_does_nothing_for_a_movie_is_refused_there(tmp_path):
    sums, spectrum = scene()
    proposal = model_of(tmp_path).propose(sums, spectrum)
    assert "no better than the Wiener filter" in proposal.refused
    assert not bool((proposal.weight > 0).any())


def test_a_movie_that_was_learned_from_is_no_judge(tmp_path):
    sums, spectrum = scene()
    proposal = model_of(tmp_path, trained_on=["m"]).propose(sums, spectrum, "m")
    assert (proposal.refused, proposal.learned_from) == (None, True)


def test_what_other_movies_hold_at_the_same_place_is_looked_for(served, session_movies, tmp_path):
    """A version that was stored with the movie's own image as its pattern: any pattern is found."""
    model, sums, spectrum = served
    own = session_movies[6].plain(torch.ones(len(session_movies[6]), dtype=torch.bool))
    known = msgspec.structs.replace(model.manifest, version="v0002")
    save_version(tmp_path / "v0002", model.net, known, own)
    assert "a detector pattern" in SessionModel(tmp_path / "v0002").propose(sums, spectrum).refused
    # a movie that is in the pattern itself, because the gate looked at it, is not held against it
    known = msgspec.structs.replace(known, held_out=["m"])
    save_version(tmp_path / "v0003", model.net, known, own)
    assert SessionModel(tmp_path / "v0003").propose(sums, spectrum, "m").refused is None


def test_a_pattern_that_does_not_match_its_hash_is_refused(served, tmp_path):
    model, _, _ = served
    save_version(tmp_path / "v0002", model.net, model.manifest, torch.ones(8, 8))
    (tmp_path / "v0002" / "pattern.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="values of the pattern do not match their manifest"):
        SessionModel(tmp_path / "v0002")
    (tmp_path / "v0002" / "pattern.safetensors").unlink()
    with pytest.raises(ModelError, match="values of the pattern cannot be read"):
        SessionModel(tmp_path / "v0002")


@pytest.mark.parametrize("negative", [False, True])
def test_flipped_phases_are_turned_back(tmp_path, negative):
    """A net that copies its input gives the micrograph back whatever the CTF's sign was."""
    sums, spectrum = scene()
    optics = replace(OPTICS, phase_shift_deg=180.0 if negative else 0.0)
    plain = model_of(tmp_path / "a", net_of()).propose(sums, spectrum)
    flipped = model_of(tmp_path / "b", net_of(), ctf="flip").propose(sums, spectrum, optics=optics)
    assert_near(flipped.total, plain.total)
    moved = judged(model_of(tmp_path / "c", net_of(0.3), ctf="flip"), sums, spectrum, optics).even.change
    other = judged(model_of(tmp_path / "d", net_of(0.3)), sums, spectrum).even.change
    assert float((moved - other).abs().max()) > 0.02 * float(other.abs().max())
    with pytest.raises(ModelError, match="needs the micrograph's CTF"):
        model_of(tmp_path / "e", net_of(), ctf="flip").propose(sums, spectrum)


# ------------------------------------------------------------------------------------------------ by place, in bounds


def dirty(shape=(256, 256)):
    """A scene whose right half is far brighter and rougher than anything that a network was trained on."""
    sums, _ = scene(shape)
    rough = 60.0 * (images(*shape, seed=5) > 1.5) * (torch.arange(shape[1]) > 0.6 * shape[1])
    extra = 0.5 * torch.fft.rfft2(rough.float())
    found = replace(sums, even=sums.even + extra, odd=sums.odd + extra)
    return found, estimators.measure(found)


class Says(torch.nn.Module):
    """A net whose answer is a function of M and W·M."""

    multiple, halo = 8, 32

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return self.answer(inputs)


def saying(tmp_path, answer, **changes):
    model = model_of(tmp_path, trained_on=["m"], **changes)
    model.net = Says(answer)
    return model


def test_a_network_that_explodes_moves_no_pixel_beyond_what_is_there(tmp_path):
    model = saying(tmp_path, lambda x: 40.0 * x[:, 1:2].sign())
    sums, spectrum = dirty()
    proposal = model.propose(sums, spectrum, "m")
    shown, made = restore.restore(sums, spectrum, proposal)
    plain = fourier.to_image(restore.filtered(sums.total, spectrum.wiener, sums.shape), sums.shape)
    assert made == "network"
    largest = float((plain - plain.mean()).abs().max())
    assert float((shown - shown.mean()).abs().max()) < 1.5 * largest


def test_where_the_halves_do_not_confirm_it_the_wiener_estimate_stays(tmp_path):
    """Right on the left of the field, wrong on the right: λ knows where."""
    truth = fourier.to_image(torch.fft.rfft2(images(256, 256, seed=9)) * torch.exp(
        -((fourier.radius((256, 256)) / 0.12) ** 2)), (256, 256))  # fmt: skip
    sums, spectrum = scene((256, 256))
    wrong = torch.where(torch.arange(256) > 128, -1.0, 1.0)
    model = model_of(tmp_path, trained_on=["m"])
    found = judged(model, sums, spectrum)
    change = [0.3 * wrong * truth for _ in range(2)]
    missing = [truth + images(256, 256, seed=40 + n) for n in range(2)]
    band = band_of((256, 256), 3.0, 6.0, 100.0)
    places = judged_by_place(tuple(change), tuple(missing), band)
    coarse = places.weight[1]
    assert float(coarse[:, :10].mean()) > 0.6
    assert float(coarse[:, -10:].mean()) < 0.1
    assert found.places.weight.shape[0] == places.weight.shape[0]


def test_what_only_the_whole_sum_shows_is_not_served(tmp_path):
    """f(whole) need not be f(even) + f(odd): where it is something else, the halves have not judged it."""
    band = band_of((256, 256), 3.0, 6.0, 100.0)
    truth = 2.0 * images(256, 256, seed=3)
    places = judged_by_place((truth, truth), (truth + images(256, 256, seed=4), truth + images(256, 256, seed=5)), band)
    same = places.explaining(1.4 * truth)
    assert float(same.weight.mean()) > 0.9
    spot = 1.4 * truth.clone()
    spot[:96, :96] = 8.0 * images(96, 96, seed=6)
    other = places.explaining(spot)
    assert float(other.weight[:, :8, :8].mean()) < 0.3
    assert float(other.weight[:, 20:, 20:].mean()) > 0.9


def test_the_rival_serves_where_the_halves_gain_more_by_it(served, tmp_path):
    model, sums, spectrum = served
    known = model.manifest
    useless = model_of(tmp_path / "a", pixel_size=1.5, weight=known.weight, resolution=known.resolution)
    assert useless.propose(sums, spectrum, "x").refused
    for own, rival, who in ((useless, model, model), (model, useless, model)):
        both = SessionModel(own.directory, rival=rival.directory)
        proposal = both.propose(sums, spectrum, "x")
        assert proposal.refused is None
        assert proposal.model.sha256 == who.manifest.sha256
    # a rival that cannot be loaded is none
    assert SessionModel(model.directory, rival=tmp_path / "nowhere").propose(sums, spectrum, "x").refused is None


def test_the_gain_of_the_picture_is_that_of_the_truth(served, session_counts):
    """Stein's estimate for the whole sum, beside what no user knows."""
    model, sums, spectrum = served
    proposal = model.propose(sums, spectrum, "x")
    movie = session_counts[6]
    camera = Detector(movie.scope.shape, 0)
    truth = Simulated(movie.scope, camera, movie.counts, movie.field.truth(), None).expected()
    truth = estimators.tapered(truth, sums.shape)
    mask = estimators.band_mask(sums.shape, 1.5, 100.0, 6.0)

    def snbr(image):
        tapered = estimators.tapered(image, sums.shape)
        cross, own, true = (float(estimators.covariance(a, b, sums.shape)[mask].sum())
                            for a, b in ((tapered, truth), (tapered, tapered), (truth, truth)))  # fmt: skip
        return cross**2 / (own * true - cross**2)

    wiener = snbr(restore.filtered(sums.total, spectrum.wiener, sums.shape))
    gain = snbr(torch.fft.rfft2(restore.restore(sums, spectrum, proposal)[0])) / wiener
    assert proposal.score.gain_shown == pytest.approx(gain, rel=0.15)
    assert gain > 1.2
