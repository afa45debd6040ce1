"""The CTF of a movie's sum: taken from the halves, put into RELION's columns, absent where a constant is unknown."""

from dataclasses import replace

import gemmi
import msgspec
import numpy as np
import pytest
import torch

from benchmarks.ctf_scenes import Scene, Truth, micrograph
from streamer.ctf.of_sum import ctf_of_sum
from streamer.movie_record import MovieSource
from streamer.records import HalfSums
from streamer.settings import CtfSettings
from streamer.transfer_figures import CtfFigures
from streamer.writers.star import NO_RESOLUTION, NOT_OBSERVED, MicrographRow, Optics, micrographs_star

SCENE = Scene(size=(512, 448))
SOURCE = MovieSource(
    path="a.tif", bytes=1, mtime_ns="1", fingerprint="f", format="tiff", n_frames=2, height=512, width=448,
    evidence="header", pixel_size=1.0, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1, dose_per_frame=1.0,
    pre_exposure=0.0, gain=None,
)  # fmt: skip


def sums():
    image = torch.as_tensor(
        micrograph(Truth(defocus=14_000.0, astigmatism=500.0, angle=25.0, scene=SCENE), np.random.default_rng(1))
    )
    even = torch.as_tensor(np.random.default_rng(2).binomial(image.numpy().astype(int), 0.5).astype(np.float32))
    halves = [torch.fft.rfft2(half) for half in (even, image - even)]
    return HalfSums(even=halves[0], odd=halves[1], even_share=torch.full((225,), 0.5), shape=(512, 448), pixel_size=1.0)


def test_both_halves_make_the_spectrum():
    found = ctf_of_sum(sums(), SOURCE, CtfSettings())
    assert found.state == "good"
    mean = 0.5 * (found.defocus_u_angstrom + found.defocus_v_angstrom)
    assert mean == pytest.approx(14_000.0, abs=4.0 * found.defocus_sd_angstrom)
    assert found.defocus_sd_angstrom < 15.0


def test_what_is_not_known_is_not_estimated():
    assert ctf_of_sum(sums(), replace(SOURCE, voltage_kv=None), CtfSettings()) is None
    assert ctf_of_sum(sums(), SOURCE, CtfSettings(enabled=False)) is None
    coarse = msgspec.structs.replace(CtfSettings(), band_low=2.5, band_high=2.0)
    assert ctf_of_sum(sums(), SOURCE, coarse) is None


def line_of(ctf):
    optics = Optics(original_pixel_size=1.0, pixel_size=1.0, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1)
    row = MicrographRow(
        micrograph="a.mrc", motion="a.star", even="e.mrc", odd="o.mrc", optics=optics,
        total_motion_angstrom=1.0, early_motion_angstrom=1.0, late_motion_angstrom=0.0, ctf=ctf,
    )  # fmt: skip
    block = gemmi.cif.read_string(micrographs_star([row])).find_block("micrographs")
    names = ("DefocusU", "DefocusV", "CtfAstigmatism", "DefocusAngle", "PhaseShift", "CtfFigureOfMerit")
    (values,) = block.find([f"_rln{name}" for name in (*names, "CtfMaxResolution")])
    return [float(value) for value in values]


def test_relions_columns():
    known = CtfFigures(
        state="good", defocus_u_angstrom=14_250.5, defocus_v_angstrom=13_750.0, astigmatism_angstrom=500.5,
        astigmatism_angle_deg=-25.0, phase_shift_deg=90.0, score=0.9, fit_resolution_angstrom=3.5,
    )  # fmt: skip
    assert line_of(known) == [14_250.5, 13_750.0, 500.5, -25.0, 90.0, 0.9, 3.5]


@pytest.mark.parametrize("ctf", [None, CtfFigures(state="none", score=0.2)])
def test_an_unknown_defocus_passes_no_selection(ctf):
    assert line_of(ctf) == [NOT_OBSERVED, NOT_OBSERVED, 0.0, 0.0, 0.0, 0.0, NO_RESOLUTION]
