"""Real power spectra with values that another program published: in that program's band, and beyond it."""

import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from streamer.ctf import polar
from streamer.ctf.estimate import estimate_ctf
from streamer.ctf.lens import lens_of
from streamer.ctf.table import read_optics

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "relion-tutorial-10204"
PIXEL = 1.39955
PUBLISHED = read_optics(FOLDER / "micrographs_ctf.reference.star") if FOLDER.is_dir() else {}

pytestmark = pytest.mark.skipif(not PUBLISHED, reason="the real spectra are not here")


def found_in(name, band, power=1.0):
    picture = mrcfile.read(FOLDER / "power-spectra" / f"{name}_PS.mrc").astype(np.float32) ** power
    cells = polar.cells_of_picture(torch.from_numpy(picture), PIXEL, polar.band_of(PIXEL, *band))
    return estimate_ctf({"picture": cells}, lens_of(200.0, 1.4, 0.1)).figures


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_values_are_met_in_their_own_band(name):
    found, other = found_in(name, (30.0, 5.0)), PUBLISHED[name]
    assert found.state == "good"
    u, v = other.defocus_u_um * 1e4, other.defocus_v_um * 1e4
    assert 0.5 * (found.defocus_u_angstrom + found.defocus_v_angstrom) == pytest.approx(0.5 * (u + v), abs=35.0)
    assert found.astigmatism_angstrom == pytest.approx(u - v, abs=60.0)
    turn = (found.astigmatism_angle_deg - other.astigmatism_angle_deg + 90.0) % 180.0 - 90.0
    assert abs(turn) < 4.0


def test_one_astigmatism_of_one_session_in_the_whole_band():
    found = [found_in(name, (20.0, 3.0)) for name in sorted(PUBLISHED)]
    vectors = [one.astigmatism_angstrom * np.exp(2j * math.radians(one.astigmatism_angle_deg)) for one in found]
    assert math.sqrt(0.5 * (np.var(np.real(vectors)) + np.var(np.imag(vectors)))) < 20.0


def test_squared_values_give_the_same_answer():
    name = sorted(PUBLISHED)[4]
    plain, squared = found_in(name, (30.0, 5.0)), found_in(name, (30.0, 5.0), power=2.0)
    assert squared.defocus_u_angstrom == pytest.approx(plain.defocus_u_angstrom, abs=20.0)
    assert squared.defocus_v_angstrom == pytest.approx(plain.defocus_v_angstrom, abs=20.0)
