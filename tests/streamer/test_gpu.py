"""The same numbers on a CUDA device as on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.gate import scoring
from models.gate.fusion_residual import band_sums
from models.gate.guard import Evidence, Guard
from models.gate.probes import probes
from models.manifest import DENOISERS
from models.networks.denoiser import WienerResidualNet, infer
from models.networks.fusion_residual import BandNoise, FusionExample, FusionResidualNet, correct
from models.networks.zssr import ZssrNet, apply, back_project
from models.training.denoiser import train
from streamer import dose, fourier, restore
from streamer.ctf import transfer
from streamer.detector import correction
from streamer.motion import align
from streamer.motion.track import Motion
from streamer.picking.pick import pick
from streamer.quality import estimators
from streamer.records import HalfSums
from streamer.settings import MotionSettings
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import random_protein
from streamer.sums import frame_sum
from streamer.sums.halves import half_sums
from streamer.super_resolution import accumulate
from streamer.super_resolution.averages import Averages
from streamer.super_resolution.fusion import Fusion, super_resolve
from streamer.super_resolution.training_data import training_data_of
from tests.model_samples import WEIGHT, synthetic
from tests.simulated_movies import images
from tests.streamer.motion.bent_movies import bent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICES = ("cpu", "cuda")
SHAPES = [(96, 96), (95, 98), (128, 81)]


@pytest.fixture(autouse=True)
def full_precision():
    """No TF32: 10 bits of mantissa would hide what is looked for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def assert_same(here, there, tolerance=1e-5):
    """Relative root mean square difference of two tensors, wherever they are."""
    here, there = (t.detach().cpu().to(torch.complex128) for t in (here, there))
    distance = float((here - there).abs().square().mean().sqrt())
    assert distance <= tolerance * max(float(here.abs().square().mean().sqrt()), 1e-30)


def on(device, *tensors):
    return [tensor.to(device) for tensor in tensors]


def counted(shape, n=8, mean=4.0):
    """Frames (t, h, w) of blurred noise that drifts, as counts."""
    spectrum = torch.fft.rfft2(images(*shape)) * torch.exp(-((fourier.radius(shape) / 0.12) ** 2))
    spectrum *= 0.4 * np.prod(shape) ** 0.5 / spectrum.abs().square().mean().sqrt()
    generator, frames = torch.Generator().manual_seed(1), []
    for t in range(n):
        ramp = fourier.shift_ramp(shape, torch.tensor([0.37 * t, -0.21 * t]))
        expected = (mean * (1.0 + fourier.to_image(spectrum * ramp, shape))).clamp(min=0.0)
        frames.append(torch.poisson(expected, generator=generator))
    return torch.stack(frames)


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier(shape):
    spectrum = torch.fft.rfft2(images(*shape))
    shift, curve = torch.tensor([0.3, -1.7]), torch.rand(fourier.ring_count(shape), dtype=torch.float64)
    results = []
    for device in DEVICES:
        s, d, c = on(device, spectrum, shift, curve)
        results.append(
            (
                fourier.ring_sums(s.abs().square(), shape),
                s * fourier.shift_ramp(shape, d),
                fourier.resize(s, shape, (64, 70)),
                fourier.to_image(s, shape),
                fourier.from_rings(c, shape),
                fourier.cosine_taper(shape, device=device),
                fourier.ring_index(shape, device).to(torch.float32),
                transfer.ctf_2d(
                    shape,
                    1.2,
                    transfer.Optics(
                        defocus_u_um=1.2,
                        defocus_v_um=1.1,
                        astigmatism_angle_deg=20.0,
                        voltage_kv=300.0,
                        cs_mm=2.7,
                        amplitude_contrast=0.1,
                    ),
                    device,
                )
                * 1.0,
                dose.sum_of_squares(
                    dose.frame_exposures(9, 1.3), dose.decay_rate(fourier.radius(shape, device), 1.2, 300.0)
                ),
            )
        )
    for index, (here, there) in enumerate(zip(*results, strict=True)):
        assert there.device.type == "cuda"
        # the CTF turns by hundreds of radians in float32
        assert_same(here, there, 1e-3 if index == 7 else 1e-5)


def test_detector_correction_is_bit_for_bit_the_same():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (5, 64, 65)).astype(np.uint8)
    defects = np.argwhere(rng.random((64, 65)) < 0.02)
    here, there = (correction.correction_for((64, 65), None, defects, device) for device in DEVICES)
    for index in range(5):
        assert there.frame(counts, index).device.type == "cuda"
        assert torch.equal(here.frame(counts, index), there.frame(counts, index).cpu())


@pytest.mark.parametrize("shape", SHAPES)
def test_align(shape):
    frames = counted(shape)
    results = []
    for device in DEVICES:
        (moved,) = on(device, frames)
        results.append(align.estimate_motion(lambda i, f=moved: f[i], len(frames), 1.0, MotionSettings()))
    here, there = results
    assert here.trusted
    assert there.trusted
    np.testing.assert_allclose(there.shifts.cpu(), here.shifts.cpu(), atol=2e-3)
    assert there.information == pytest.approx(here.information, rel=1e-3)


def test_a_field_that_bends_is_fitted_and_applied_the_same():
    frames, _ = bent(strength=2.5)
    options = {"pixel_size": 1.0, "voltage_kv": 300.0}
    motions, sums = [], []
    for device in DEVICES:
        (moved,) = on(device, frames)
        motion = align.estimate_motion(lambda i, f=moved: f[i], len(frames), 1.0, MotionSettings())
        assert motion.local is not None
        motions.append(motion)
        # the same field for both, so that only the warp is compared
        shifts, field = motions[0].shifts, motions[0].local
        fused = frame_sum.sum_frames(lambda i, f=moved: f[i], shifts, torch.zeros(len(frames)), **options, local=field)
        sums.append(fused.even)
    here, there = (motion.local.coefficients for motion in motions)
    np.testing.assert_allclose(there, here, atol=5e-3)
    assert_same(sums[0], sums[1], 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dose_per_frame", [None, 2.0])
def test_fuse_and_solve(shape, dose_per_frame):
    frames = counted(shape)
    shifts = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (8, 2)))
    exposures = dose.frame_exposures(8, dose_per_frame)
    fused, halves, solved = [], [], []
    for device in DEVICES:
        (moved,) = on(device, frames)
        options = {"pixel_size": 1.1, "voltage_kv": 300.0}
        groups = {"group_shape": (48, 48), "n_groups": 4}
        motion = Motion(shifts=shifts, information=0.0, trusted=True, iterations=0)
        plain = frame_sum.sum_frames(lambda i, f=moved: f[i], shifts, exposures, **options, **groups)
        sums = accumulate.accumulate(lambda i, f=moved: f[i], motion, exposures, **options)
        fused.append((plain.even, plain.odd, plain.groups, sums.sums, sums.control))
        half = half_sums(plain, 1.1, 300.0)
        halves.append((half.even, half.odd))
        solved.append(super_resolve(Fusion(sums, 4.0), shifts=shifts, min_diversity=0.0))
    for pairs in (fused, halves):
        for here, there in zip(*pairs, strict=True):
            assert there.device.type == "cuda"
            assert_same(here, there)
    # the solver's 4×4 systems are as well conditioned as their prior makes them
    here, there = solved
    assert_same(here.image, there.image, 1e-3)
    assert here.verdict.verdict == there.verdict.verdict
    assert here.verdict.frc_beyond_nyquist == pytest.approx(there.verdict.frc_beyond_nyquist, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_quality_and_restore(shape):
    signal = images(*shape, seed=3)
    halves = [torch.fft.rfft2(signal + images(*shape, seed=i)) for i in (1, 2)]
    share = torch.full((fourier.ring_count(shape),), 0.5, dtype=torch.float64)
    curves, restored, sums = [], [], []
    for device in DEVICES:
        even, odd = on(device, *halves)
        half = HalfSums(even=even, odd=odd, even_share=share, shape=shape, pixel_size=1.3)
        spectrum = estimators.measure(half)
        curves.append((spectrum.frc, spectrum.noise, spectrum.ssnr_full))
        restored.append(restore.restore(half, spectrum, None)[0])
        tapered = estimators.tapered(even, shape), estimators.tapered(odd, shape)
        sums.append(estimators.estimate(tapered, tapered, shape))
    for here, there in zip(*curves, strict=True):
        assert there.device.type == "cuda"
        assert_same(here, there)
    assert_same(*restored)
    assert_same(*sums)


def test_the_network_proposes_the_same():
    torch.manual_seed(0)
    net = WienerResidualNet(DENOISERS["small"]).eval()
    torch.nn.init.normal_(net.last.weight, std=0.1)
    fields = images(2, 88, 120)
    here = infer(net, *fields)
    there = infer(net.to("cuda"), *on("cuda", *fields))
    assert there.device.type == "cuda"
    assert_same(here, there)


def test_the_same_particles_are_picked():
    image = torch.zeros(256, 240)
    image[60:75, 80:95] = image[150:165, 170:185] = -1.0
    image += 0.1 * images(256, 240)
    here, there = (pick(image.to(device), 2.0, 30.0) for device in DEVICES)
    np.testing.assert_allclose((here.x, here.y), (there.x, there.y), atol=0.02)
    assert len(here.x) >= 2


def test_the_simulator_expects_the_same_counts():
    scope = Microscope(shape=(64, 80), n_frames=3, pixel_size=2.0)
    camera = Detector(scope.shape, 0)
    fields = [Field(scope, random_protein(1), 5, device=device) for device in DEVICES]
    for here, there in zip(*(field.expected(camera) for field in fields), strict=True):
        assert there.device.type == "cuda"
        assert_same(here, there, 1e-4)


def test_the_gate_sees_the_same():
    torch.manual_seed(0)
    net = WienerResidualNet(DENOISERS["small"]).eval()
    torch.nn.init.normal_(net.last.weight, std=0.05)
    scores, probed = [], []
    for device in DEVICES:
        movies = [synthetic(name, seed, device=device)[0] for seed, name in enumerate("mn")]
        net = net.to(device)
        scores.append(scoring.score(net, movies[0], WEIGHT))
        probed.append(probes(net, movies))
    for name in ("snbr_raw", "snbr_wiener", "snbr", "bias_ratio", "loss"):
        assert getattr(scores[0], name) == pytest.approx(getattr(scores[1], name), rel=1e-3), name
    assert probed[0] == pytest.approx(probed[1], rel=1e-2, abs=1e-3)


def test_the_guard_sees_the_same():
    signal = images(256, 256, seed=9)
    halves = [torch.fft.rfft2(signal + images(256, 256, seed=i)) for i in (1, 2)]
    linear = [half * 0.5 for half in halves]
    served = [0.5 * (0.7 * torch.fft.rfft2(signal) + 0.3 * half) for half in halves]
    pattern = images(256, 256, seed=20)
    verdicts = []
    for device in DEVICES:
        raw, plain, better = (tuple(on(device, *part)) for part in (halves, linear, served))
        evidence = Evidence(raw=raw, linear=plain, served=better, shape=(256, 256), band_pixel_size=3.0, low=100.0)
        verdicts.append(Guard([], pattern.to(device)).look(evidence))
    here, there = verdicts
    assert here.gain > 2.0
    for name in ("gain", "gain_error", "pattern"):
        assert getattr(here, name) == pytest.approx(getattr(there, name), rel=1e-3, abs=1e-3), name


def test_training_goes_the_same_way_for_some_steps():
    losses = []
    for device in DEVICES:
        torch.manual_seed(0)
        movie, _ = synthetic("m", 1, device=device)
        net = WienerResidualNet(DENOISERS["small"]).to(device)
        losses.append(train(net, [movie], steps=4, seed=1).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_network_on_fusion_changes_the_same():
    torch.manual_seed(0)
    net = FusionResidualNet()
    for layer in (net.gains, net.additions):
        torch.nn.init.normal_(layer.weight, std=0.1)
    fused = images(2, 64, 96)
    noise = BandNoise(deviation=torch.full((7,), 0.5), wiener=torch.linspace(0.9, 0.1, 7))
    with torch.inference_mode():
        here, bands = correct(net, fused, noise)
        there, bands_there = correct(net.cuda(), fused.cuda(), noise)
    assert_same(bands, bands_there)
    assert_same(here, there, 1e-4)


def test_cryo_zssr_makes_the_same_image():
    torch.manual_seed(0)
    net = ZssrNet()
    early, late = images(2, 70, 82)
    offsets = torch.tensor([[0.1, 0.2], [-0.3, 0.4], [0.0, -0.2], [0.4, 0.0]], dtype=torch.float64)
    averages = Averages(early=early, late=late, early_share=0.5, offsets=offsets, scale=float(early.std()))
    here = apply(net, averages)
    early, late = on("cuda", early, late)
    there = apply(net.cuda(), replace(averages, early=early, late=late))
    # bfloat16 on both sides where it pays
    assert_same(here, there, 2e-2)
    assert_same(back_project(here, averages.whole), back_project(here.cuda(), averages.whole.cuda()))


def test_lessons_fuse_and_judge_the_same():
    found = []
    for device in DEVICES:
        frames = counted((96, 96), n=8).to(device)
        motion = Motion(
            shifts=torch.tensor([[-0.37 * t, 0.21 * t] for t in range(8)], dtype=torch.float64),
            information=1.0,
            trusted=True,
            iterations=0,
        )
        exposures = torch.arange(1.0, 9.0, dtype=torch.float64)
        sums = accumulate.accumulate(
            lambda i, f=frames: f[i], motion, exposures, pixel_size=3.0, voltage_kv=300.0, n_groups=8
        )
        example = FusionExample("m", training_data_of(Fusion(sums, 4.0), 3.0))
        torch.manual_seed(0)
        net = FusionResidualNet()
        for layer in (net.gains, net.additions):
            torch.nn.init.normal_(layer.weight, std=0.1)
        found.append(
            (example.fused(torch.arange(8) < 6, torch.arange(example.n_tiles))[0], band_sums(net.to(device), example))
        )
    (image, table), (image_there, table_there) = found
    assert_same(image, image_there, 1e-3)
    assert_same(table, table_there, 2e-3)
