"""The estimate of the CTF: right, honest, silent where there is nothing, and the same in every shape."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from benchmarks.ctf_scenes import Scene, Truth, empty, micrograph
from streamer.ctf import polar
from streamer.ctf.estimate import SearchRange, estimate_ctf
from streamer.ctf.lens import lens_of
from streamer.ctf.transfer import Optics, ctf_2d

LENS = lens_of(300.0, 2.7, 0.1)
TRUTH = Truth(defocus=14_000.0, astigmatism=500.0, angle=25.0, scene=Scene(size=(512, 512)))


def figures(image, pixel_size=1.0, band=(25.0, 3.0), lens=LENS, **within):
    cells = polar.cells_of_image(torch.as_tensor(image), pixel_size, polar.band_of(pixel_size, *band))
    return estimate_ctf({"sum": cells}, lens, SearchRange(**within)).figures


def of_picture(picture, pixel_size=1.0, lens=LENS):
    cells = polar.cells_of_picture(torch.as_tensor(picture), pixel_size, polar.band_of(pixel_size, 25.0, 3.0))
    return estimate_ctf({"picture": cells}, lens).figures


def mean(found):
    return 0.5 * (found.defocus_u_angstrom + found.defocus_v_angstrom)


def turn(a, b):
    """Difference of two directions in degrees, −90 to 90."""
    return (a - b + 90.0) % 180.0 - 90.0


@lru_cache
def simulated(size=(512, 512), seed=0):
    return micrograph(replace(TRUTH, scene=Scene(size=size)), np.random.default_rng(seed))


def spectrum_by_oracle(shape, optics, pixel_size, seed=0):
    """Exponentially distributed power around another program's CTF², centred; (h, w)."""
    half = ctf_2d(shape, pixel_size, optics).double().numpy() ** 2
    power = (1.0 + 1.5 * half) * np.random.default_rng(seed).exponential(size=half.shape)
    full = np.empty(shape)
    full[:, : shape[1] // 2 + 1] = power
    rows, columns = np.arange(shape[0]), np.arange(shape[1] // 2 + 1, shape[1])
    full[:, columns] = power[(-rows % shape[0])[:, None], shape[1] - columns]
    return np.fft.fftshift(full)


@pytest.mark.parametrize("shape", [(512, 512), (401, 614), (613, 458)])
@pytest.mark.parametrize("angle", [-70.0, 20.0, 65.0])
def test_signs_and_angles_are_those_of_torch_ctf(shape, angle):
    optics = Optics(
        defocus_u_um=1.6, defocus_v_um=1.5, astigmatism_angle_deg=angle, voltage_kv=300, cs_mm=2.7,
        amplitude_contrast=0.1,
    )  # fmt: skip
    found = of_picture(spectrum_by_oracle(shape, optics, 1.0))
    assert found.state == "good"
    assert mean(found) == pytest.approx(15_500.0, abs=4.0 * found.defocus_sd_angstrom)
    assert found.astigmatism_angstrom == pytest.approx(1000.0, abs=4.0 * found.astigmatism_sd_angstrom)
    assert abs(turn(found.astigmatism_angle_deg, angle)) < 4.0 * found.astigmatism_angle_sd_deg < 4.0


def test_the_phase_shift_has_the_sign_of_torch_ctf():
    optics = Optics(
        defocus_u_um=1.2, defocus_v_um=1.2, astigmatism_angle_deg=0, voltage_kv=300, cs_mm=2.7,
        amplitude_contrast=0.07, phase_shift_deg=60.0,
    )  # fmt: skip
    power = torch.as_tensor(spectrum_by_oracle((512, 512), optics, 1.0))
    cells = polar.cells_of_picture(power, 1.0, polar.band_of(1.0, 25.0, 3.0))
    lens = lens_of(300.0, 2.7, 0.07)
    found = estimate_ctf({"picture": cells}, lens, SearchRange(phase_shift=(0.0, 180.0))).figures
    assert found.phase_shift_deg == pytest.approx(60.0, abs=4.0 * found.phase_shift_sd_deg)
    assert found.phase_shift_sd_deg < 3.0
    known = estimate_ctf({"picture": cells}, lens, SearchRange(phase_shift=(60.0, 60.0))).figures
    assert mean(known) == pytest.approx(12_000.0, abs=4.0 * known.defocus_sd_angstrom)
    assert known.phase_shift_deg == 60.0
    assert known.phase_shift_sd_deg is None
    assert known.defocus_sd_angstrom < found.defocus_sd_angstrom


@pytest.mark.parametrize("size", [(512, 512), (509, 701), (769, 467)])
def test_a_micrograph_of_any_shape(size):
    found = figures(simulated(size))
    assert found.state == "good"
    assert mean(found) == pytest.approx(TRUTH.defocus, abs=4.0 * found.defocus_sd_angstrom)
    assert found.defocus_sd_angstrom < 12.0
    assert found.astigmatism_angstrom == pytest.approx(500.0, abs=4.0 * found.astigmatism_sd_angstrom)
    assert abs(turn(found.astigmatism_angle_deg, 25.0)) < 4.0 * found.astigmatism_angle_sd_deg
    assert found.phase_shift_deg == 0.0
    assert found.fit_resolution_angstrom < 4.5


def test_the_standard_deviations_are_honest():
    pulls = []
    for seed in range(6):
        found = figures(simulated(seed=seed))
        pulls.append((mean(found) - TRUTH.defocus) / found.defocus_sd_angstrom)
    assert 0.3 < math.sqrt(np.mean(np.square(pulls))) < 1.7


def test_units_of_the_image_do_not_matter():
    plain, other = figures(simulated()), figures(simulated() * 1e-3 + 7.0)
    assert mean(other) == pytest.approx(mean(plain), abs=0.5)
    assert other.state == plain.state


def test_amplitudes_and_powers_give_one_answer():
    optics = Optics(
        defocus_u_um=1.6, defocus_v_um=1.5, astigmatism_angle_deg=30, voltage_kv=300, cs_mm=2.7,
        amplitude_contrast=0.1,
    )  # fmt: skip
    power = np.mean([spectrum_by_oracle((512, 512), optics, 1.0, seed) for seed in range(8)], axis=0)
    as_power, as_amplitude = of_picture(power), of_picture(np.sqrt(power))
    assert mean(as_amplitude) == pytest.approx(mean(as_power), abs=3.0 * as_power.defocus_sd_angstrom)
    assert as_amplitude.defocus_sd_angstrom == pytest.approx(as_power.defocus_sd_angstrom, rel=0.3)
    single = of_picture(spectrum_by_oracle((512, 512), optics, 1.0))
    assert as_power.defocus_sd_angstrom < 0.7 * single.defocus_sd_angstrom


@pytest.mark.parametrize("kind", ["white", "aggregate", "crystal spots", "discs", "edge", "ice in focus"])
def test_no_rings_no_defocus(kind):
    found = figures(empty(kind, np.random.default_rng(8), size=512))
    assert found.state == "none"
    assert found.defocus_u_angstrom is None
    assert found.fit_resolution_angstrom is None
    assert found.search_score is not None


def test_a_phase_plate():
    truth = replace(TRUTH, phase_deg=90.0)
    found = figures(micrograph(truth, np.random.default_rng(5)), phase_shift=(0.0, 180.0))
    assert found.phase_shift_deg == pytest.approx(90.0, abs=4.0 * found.phase_shift_sd_deg)
    assert mean(found) == pytest.approx(TRUTH.defocus, abs=4.0 * found.defocus_sd_angstrom)


def test_crystalline_ice_is_told_and_does_not_mislead():
    icy = replace(TRUTH, scene=replace(TRUTH.scene, crystals=0.1))
    found, clean = figures(micrograph(icy, np.random.default_rng(2))), figures(simulated(seed=2))
    assert found.ice_ring_excess > 0.3
    assert found.ice_ring_excess > 10.0 * found.ice_ring_excess_sd
    assert abs(clean.ice_ring_excess) < 0.15
    assert mean(found) == pytest.approx(TRUTH.defocus, abs=4.0 * found.defocus_sd_angstrom)


def test_drift_is_told_by_its_direction():
    moved = replace(TRUTH, scene=replace(TRUTH.scene, size=(1024, 1024), drift=5.0))
    found = figures(micrograph(moved, np.random.default_rng(2)))
    assert found.anisotropy_b_angstrom2 > 5.0 * found.anisotropy_b_sd_angstrom2
    assert abs(turn(found.anisotropy_angle_deg, math.degrees(0.6))) < 10.0


def test_the_better_spectrum_is_taken():
    sharp, band = simulated(), polar.band_of(1.0, 25.0, 3.0)
    faint = np.random.default_rng(9).poisson(sharp + 60.0).astype(np.float32)
    cells = {
        name: polar.cells_of_image(torch.as_tensor(i), 1.0, band) for name, i in (("sum", faint), ("groups", sharp))
    }
    found = estimate_ctf(cells, LENS).figures
    assert found.spectrum == "groups"
    assert found.defocus_sd_angstrom == figures(sharp).defocus_sd_angstrom


def test_too_little_in_the_band_is_said():
    found = figures(simulated()[:64, :64], band=(25.0, 8.0))
    assert found.state == "none"
    assert any("too little" in flag for flag in found.flags)


def test_what_was_computed_is_not_taken_for_rings():
    """Up-sampled pixels have a spectrum with a dark ring, and periodic lines one with nothing between spots."""
    noise = np.random.default_rng(0).normal(size=(256, 256))
    y, x = np.mgrid[:512, :512]
    for image in (np.kron(noise, np.ones((2, 2))), (x + y) % 2.0, 1.0 * x + y):
        assert figures(image.astype(np.float32), pixel_size=3.0).state == "none"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_cells_of_a_gpu_are_those_of_the_cpu():
    image, band = torch.as_tensor(simulated()), polar.band_of(1.0, 25.0, 3.0)
    here, there = (polar.cells_of_image(image.to(device), 1.0, band) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(here.counts, there.counts)
    np.testing.assert_allclose(here.power, there.power, rtol=1e-3, atol=1e-4)
    a, b = (estimate_ctf({"sum": cells}, LENS).figures for cells in (here, there))
    assert mean(a) == pytest.approx(mean(b), abs=0.1)
