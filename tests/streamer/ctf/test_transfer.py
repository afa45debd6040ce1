import math
from dataclasses import replace

import numpy as np
import pytest

from streamer.ctf.transfer import ctf_2d
from streamer.units import electron_wavelength
from tests.simulated_movies import OPTICS


def reference(shape, pixel_size, optics):
    """CTFFIND's formula in float64: −sin(χ + Δφ + asin w), angle of the defocus_u axis against +x."""
    y, x = np.fft.fftfreq(shape[0])[:, None] / pixel_size, np.fft.rfftfreq(shape[1])[None, :] / pixel_size
    square, angle = x**2 + y**2, np.arctan2(y, x) - math.radians(optics.astigmatism_angle_deg)
    u, v = 1e4 * optics.defocus_u_um, 1e4 * optics.defocus_v_um
    defocus = 0.5 * (u + v + (u - v) * np.cos(2 * angle))
    wavelength, cs = electron_wavelength(optics.voltage_kv), 1e7 * optics.cs_mm
    chi = math.pi * wavelength * square * (defocus - 0.5 * wavelength**2 * square * cs)
    return -np.sin(chi + math.radians(optics.phase_shift_deg) + math.asin(optics.amplitude_contrast))


@pytest.mark.parametrize("shape", [(64, 64), (63, 64), (64, 63), (40, 90)])
@pytest.mark.parametrize("pixel_size", [0.83, 1.5])
def test_the_ctf_is_ctffinds(shape, pixel_size):
    found = ctf_2d(shape, pixel_size, OPTICS)
    assert found.shape == (shape[0], shape[1] // 2 + 1)
    np.testing.assert_allclose(found, reference(shape, pixel_size, OPTICS), atol=2e-3)


@pytest.mark.parametrize("voltage_kv", [100.0, 200.0, 300.0])
@pytest.mark.parametrize("phase_shift_deg", [0.0, 90.0])
def test_voltage_and_phase_plate(voltage_kv, phase_shift_deg):
    optics = replace(OPTICS, voltage_kv=voltage_kv, phase_shift_deg=phase_shift_deg)
    np.testing.assert_allclose(ctf_2d((64, 64), 1.2, optics), reference((64, 64), 1.2, optics), atol=2e-3)


def test_protein_is_dark_at_underfocus():
    found = ctf_2d((256, 256), 1.0, replace(OPTICS, defocus_v_um=1.4))
    assert float(found[0, 0]) == pytest.approx(-0.1, abs=1e-6)
    first_zero = math.sqrt((math.pi - math.asin(0.1)) / (math.pi * electron_wavelength(300.0) * 1.4e4))
    before_it = int(first_zero * 256)
    assert bool((found[0, :before_it] < 0).all())
    assert float(found[0, before_it + 2]) > 0


def test_the_larger_defocus_lies_along_its_angle():
    """The first zero is nearest to the origin along the axis of the larger defocus, here +y."""
    found = ctf_2d((256, 256), 1.0, replace(OPTICS, astigmatism_angle_deg=90.0))
    along_y, along_x = (int((line > 0).nonzero()[0]) for line in (found[:128, 0], found[0, :128]))
    assert along_y < along_x
