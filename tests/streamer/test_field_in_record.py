"""A movie with carbon in it, from the file to its record: what is not specimen is left out and named."""

import numpy as np
import pytest

from streamer.movie_record import Acquisition
from streamer.pipeline import process_movie
from streamer.runtime.stopwatch import Stopwatch
from streamer.simulation.microscope import encode
from tests.jobs import job_of, movie_at

SHAPE, PIXEL, FRAMES = (256, 256), 3.0, 6


def record_of(directory, transmission):
    """Record of a movie of blobs in ice that lets a share of the beam pass at each place."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    blobs = np.zeros(SHAPE)
    for row, column in rng.uniform(0, 256, (60, 2)):
        blobs -= 0.2 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18.0)
    counts = rng.poisson(20.0 * transmission * (1.0 + blobs), (FRAMES, *SHAPE)).astype(np.uint8)
    directory.mkdir()
    path = directory / "movie.mrc"
    path.write_bytes(encode(counts, "mrc", PIXEL))
    told = Acquisition(n_frames=FRAMES, pixel_size=PIXEL, voltage_kv=300.0, dose_per_frame=2.0)
    job = job_of(directory, shed=("super-resolution", "denoise", "preview"))
    return process_movie(movie_at(path, told), job, Stopwatch())


def test_carbon_is_named_and_the_figures_are_of_the_rest(tmp_path):
    carbon = np.ones(SHAPE)
    carbon[:, 180:] = 0.85
    clean, dirty = (record_of(tmp_path / name, values) for name, values in (("clean", np.ones(SHAPE)), ("d", carbon)))
    assert clean.metrics.not_specimen == {}
    assert clean.metrics.usable_share == 1.0
    assert not any(flag.startswith("field: ") for flag in clean.flags)
    share = dirty.metrics.not_specimen["carbon"]
    assert share == pytest.approx(76 / 256, abs=0.03)
    assert dirty.metrics.usable_share == pytest.approx(1.0 - share, abs=1e-4)
    assert f"field: {share:.0%} carbon: the figures are of the rest" in dirty.flags
    assert dirty.metrics.ssnr_full == pytest.approx(clean.metrics.ssnr_full, rel=0.35)
    assert dirty.metrics.not_judged is None


def test_nothing_is_said_of_a_field_of_carbon_but_for_a_corner(tmp_path):
    carbon = np.full(SHAPE, 0.8)
    carbon[:, 218:] = 1.0
    dirty = record_of(tmp_path / "d", carbon)
    assert dirty.metrics.not_specimen["carbon"] > 0.8
    assert dirty.metrics.ssnr_full is None
    assert dirty.metrics.frc_resolution_angstrom is None
    assert dirty.metrics.texture is None
    assert dirty.metrics.frc == []
    assert "may be specimen" in dirty.metrics.not_judged
    assert any("too little is left to judge" in flag for flag in dirty.flags)
