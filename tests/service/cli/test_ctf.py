"""The command ctf: its contract, its picture, and what it says about mistaken input."""

import json
import re
import warnings
from xml.etree import ElementTree

import mrcfile
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.ctf_scenes import Scene, Truth, micrograph
from service.cli.main import cli
from streamer.errors import MovieCorrupt, UsageError

TRUTH = Truth(defocus=14_000.0, astigmatism=500.0, angle=25.0, scene=Scene(size=(512, 640)))
CONTRACT = {
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "astigmatism_angle_deg",
    "phase_shift_deg",
    "score",
    "fit_resolution_angstrom",
}
OPTICS = ("--voltage-kv", "300", "--cs-mm", "2.7", "--amplitude-contrast", "0.1")


def written(path, image, pixel_size=1.0):
    with warnings.catch_warnings(), mrcfile.new(path) as file:
        warnings.simplefilter("ignore")  # that some values are no numbers is the point
        file.set_data(np.asarray(image, dtype=np.float32))
        if pixel_size:
            file.voxel_size = pixel_size
    return str(path)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return written(tmp_path_factory.mktemp("ctf") / "one.mrc", micrograph(TRUTH, np.random.default_rng(0)))


def asked(*words):
    return CliRunner().invoke(cli, ["ctf", *map(str, words)], catch_exceptions=True)


def figures(*words):
    found = asked(*words, "--json")
    assert found.exit_code == 0, found.exception
    return json.loads(found.output)


def test_the_contract(image):
    found = figures(image, *OPTICS)
    assert set(found) >= CONTRACT
    assert found["state"] == "good"
    assert found["defocus_u_angstrom"] == pytest.approx(14_250.0, abs=80.0)
    assert found["defocus_v_angstrom"] == pytest.approx(13_750.0, abs=80.0)
    assert found["astigmatism_angle_deg"] == pytest.approx(25.0, abs=5.0)
    assert found["phase_shift_deg"] == 0.0
    assert 0.0 < found["score"] <= 1.0
    assert found["fit_resolution_angstrom"] < 8.0


def test_for_people(image):
    found = asked(image, *OPTICS)
    assert re.search(r"defocus U +14\d\d\d ± [\d.]+ Å", found.output)
    assert "as CTFFIND says it" in found.output


def test_half_the_size_is_half_the_pixel_size(image):
    """A pixel size from the command line beats the header's: lengths scale, and defocus with their square."""
    small = figures(image, *OPTICS, "--pixel-size", "0.98", "--defocus-range", "0.5", "3")
    assert small["defocus_u_angstrom"] == pytest.approx(14_250.0 * 0.98**2, rel=0.02)


def test_an_unknown_voltage_is_said(image):
    assert any(flag.startswith("voltage: not given") for flag in figures(image)["flags"])


def test_nothing_is_stated_without_rings(tmp_path):
    noise = written(tmp_path / "noise.mrc", np.random.default_rng(0).poisson(30.0, (512, 512)))
    found = figures(noise, *OPTICS)
    assert found["state"] == "none"
    assert all(found[name] is None for name in CONTRACT - {"score"})
    assert "no rings" in asked(noise, *OPTICS).output


def test_a_power_spectrum_of_another_program(tmp_path, image):
    field = mrcfile.read(image)
    field = (field - field.mean()) * np.outer(np.hanning(512), np.hanning(640))
    power = np.abs(np.fft.fftshift(np.fft.fft2(field))) ** 2
    for name, values in (("power", power), ("amplitude", np.sqrt(power))):
        found = figures(written(tmp_path / f"{name}.mrc", values), "--power-spectrum", *OPTICS)
        assert found["spectrum"] == "picture"
        assert found["defocus_u_angstrom"] == pytest.approx(14_250.0, abs=120.0)


def test_a_picture(tmp_path, image):
    target = tmp_path / "fit.svg"
    assert asked(image, *OPTICS, "--picture", target).exit_code == 0
    root = ElementTree.fromstring(target.read_text())
    names = [part.tag.rpartition("}")[2] for part in root]
    assert names.count("circle") >= 2  # rings at 10, 6, 4 Å
    assert names.count("polyline") == 2  # data and fit
    assert "left: data; right: fit" in target.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fit-band", "5", "30"), "coarse end first"),
        (("--defocus-range", "3", "1"), "range of defocus is empty"),
        (("--phase-shift", "90", "10"), "range of the phase shift is empty"),
        (("--pixel-size", "19"), "too coarse for the band"),
        (("--power-spectrum",), "its two halves differ"),
    ],
)
def test_mistaken_requests(image, words, said):
    error = asked(image, *OPTICS, *words).exception
    assert isinstance(error, UsageError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("values", "words", "said"),
    [
        (np.full((256, 256), 3.0), (), "all pixels are the same"),
        (np.where(np.eye(256) > 0, np.nan, 1.0), (), "not finite"),
        (np.random.default_rng(0).normal(size=(32, 256)), (), "too small"),
        (np.log(np.random.default_rng(0).exponential(size=(256, 256))), ("--power-spectrum",), "negative"),
        (np.ones((3, 256, 256)), (), "not a single image"),
    ],
)
def test_images_that_cannot_be_used(tmp_path, values, words, said):
    error = asked(written(tmp_path / "bad.mrc", values), *OPTICS, *words).exception
    assert isinstance(error, (UsageError, MovieCorrupt))
    assert said in str(error)


def test_a_pixel_size_is_needed(tmp_path):
    path = written(tmp_path / "bare.mrc", np.random.default_rng(0).normal(size=(256, 256)), pixel_size=None)
    assert "pixel size is unknown" in str(asked(path).exception)


def test_a_spectrum_in_the_corner_is_told(tmp_path):
    power = np.random.default_rng(0).exponential(size=(256, 256)) * np.linspace(1, 50, 256)[:, None]
    error = asked(written(tmp_path / "corner.mrc", power), "--power-spectrum", *OPTICS).exception
    assert "centre" in str(error)
