"""A gain reference that the frames refute is not applied; a pattern that nobody corrected is told, and marked."""

from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from streamer.detector.fixed_pattern import measure
from streamer.errors import ModelError
from streamer.movie_record import Acquisition
from streamer.pipeline import process_movie
from streamer.records import Gain
from streamer.runtime.stopwatch import Stopwatch
from streamer.settings import DataPathSettings, GainSettings, MovieSettings
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import apoferritin
from tests.jobs import job_of, movie_at

SCOPE = Microscope(shape=(256, 256), n_frames=12, pixel_size=2.0, dose_per_frame=2.0)
CAMERA = Detector(SCOPE.shape, 0, hot=0.0, dead=0.0)
FLAT = Detector(SCOPE.shape, 0, hot=0.0, dead=0.0)
FLAT.efficiency = np.ones_like(FLAT.efficiency)


def counts_of(camera, seed=0):
    return np.stack(list(Field(SCOPE, apoferritin(), seed=seed).frames(camera)))


RAW = counts_of(CAMERA)
RIGHT = CAMERA.gain_reference()
CORRECTED = (RAW * RIGHT).astype(np.float32)


def processed(directory, frames, values=None, propose=None, **tables):
    """Record of a movie of these frames beside a reference of these values."""
    path = directory / "in" / "a.mrc"
    path.parent.mkdir(exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(frames)
        file.voxel_size = SCOPE.pixel_size
    acquisition = Acquisition(pixel_size=SCOPE.pixel_size, dose_per_frame=SCOPE.dose_per_frame, voltage_kv=300.0)
    movie = movie_at(path, acquisition)
    gain = None if values is None else Gain(path=str(path.with_name("gain.mrc")), sha256="ab" * 32, values=values)
    job = job_of(directory / "out", gain, propose, settings=DataPathSettings(**tables))
    record = process_movie(movie, job, Stopwatch())
    files = {output.role: output.sha256 for output in record.outputs}
    return record, files


def flags_of(record, topic):
    return [flag for flag in record.flags if flag.startswith(f"{topic}:")]


def other_camera():
    return Detector(SCOPE.shape, 7, hot=0.0, dead=0.0).gain_reference()


@pytest.mark.parametrize(
    ("frames", "values", "cure"),
    [
        (CORRECTED, RIGHT, 'movie.gain = "none"'),
        (RAW, RIGHT[::-1].copy(), "gain.rotate = 0 and gain.flip = 1"),
        (RAW, (1.0 / RIGHT).astype(np.float32), 'gain.sense = "divide"'),
        (RAW, other_camera(), "movie.gain to the reference of this camera"),
        (counts_of(FLAT), RIGHT, 'movie.gain = "none"'),
        (RAW, np.rot90(RIGHT).copy(), "gain.rotate = 1 and gain.flip = 0"),
    ],
    ids=["corrected", "upside down", "inverse", "another camera", "corrected, whole numbers", "turned"],
)
def test_a_reference_that_the_frames_refute_is_not_applied(tmp_path, frames, values, cure):
    record, files = processed(tmp_path, frames, values)
    assert (record.source.gain, record.source.gain_path) == (None, None)
    assert record.source.gain_refused == str(tmp_path / "in" / "gain.mrc")
    (flag,) = flags_of(record, "gain")
    assert flag.startswith("gain: not applied: ")
    assert cure in flag
    assert record.metrics.gain_advice in flag
    (tmp_path / "plain").mkdir()
    plain, without = processed(tmp_path / "plain", frames)
    assert plain.source.gain_refused is None
    roles = ("micrograph", "even", "odd")
    assert [files[role] for role in roles] == [without[role] for role in roles]


@pytest.mark.parametrize(("frames", "is_asked"), [(CORRECTED, True), (RAW, False)], ids=["corrected", "as counted"])
def test_a_network_is_asked_where_no_pattern_is_left(tmp_path, frames, is_asked):
    asked = []

    def propose(_sums, _spectrum):
        asked.append(True)
        raise ModelError("no version for it", hint="train one")

    record, _ = processed(tmp_path, frames, RIGHT[::-1].copy(), propose)
    assert record.source.gain_refused is not None
    assert bool(asked) is is_asked
    assert ("model: not applied: residual fixed pattern correlates the half sums" in record.flags) is not is_asked


def test_the_right_reference_stays_applied(tmp_path):
    record, _ = processed(tmp_path, RAW, RIGHT)
    assert record.source.gain == "ab" * 32
    assert record.source.gain_refused is None
    assert flags_of(record, "gain") == flags_of(record, "pattern") == []
    assert record.metrics.pattern_may_raise is False
    assert record.metrics.fixed_pattern is None


def test_what_the_cure_says_is_right(tmp_path):
    upside_down = processed(tmp_path, RAW, RIGHT[::-1].copy(), gain=GainSettings(flip=1))[0]
    right = processed(tmp_path, RAW, RIGHT)[0]
    assert upside_down.metrics == right.metrics
    none, _ = processed(tmp_path, CORRECTED, None, movie=MovieSettings(gain="none"))
    assert none.metrics.pattern_may_raise is False
    assert none.metrics.ssnr_full == pytest.approx(right.metrics.ssnr_full, rel=0.02)


def test_a_dim_movie_that_cannot_tell_keeps_its_reference(tmp_path):
    rng = np.random.default_rng(5)
    dim = rng.poisson(np.broadcast_to(0.02 * CAMERA.efficiency, RAW.shape)).astype(np.uint8)
    for name, values in (("right", RIGHT), ("upside down", RIGHT[::-1].copy())):
        (tmp_path / name).mkdir()
        record, _ = processed(tmp_path / name, dim, values)
        assert record.metrics.residual_gain_error > 0.1
        assert record.source.gain is not None
        assert flags_of(record, "gain") == []


def test_a_pattern_that_nobody_corrected_raises_the_figures_and_is_said(tmp_path):
    without, _ = processed(tmp_path, RAW)
    (tmp_path / "with").mkdir()
    right, _ = processed(tmp_path / "with", RAW, RIGHT)
    assert without.metrics.ssnr_full > 1.02 * right.metrics.ssnr_full
    assert without.metrics.pattern_may_raise is True
    assert without.metrics.fixed_pattern == pytest.approx(0.05, abs=0.006)
    (flag,) = flags_of(without, "pattern")
    assert "raises SSNR, FRC and resolution" in flag
    assert flags_of(without, "gain") == ["gain: none"]
    # a reference without a pattern of its own corrects nothing, and is no excuse
    flat, _ = processed(tmp_path, RAW, np.ones(SCOPE.shape, np.float32))
    assert flat.metrics.pattern_may_raise is True


def test_without_a_reference_and_without_a_pattern_nothing_is_claimed(tmp_path):
    """Whole numbers may hold a pattern that is too weak to be seen here; fractions have been corrected."""
    integers, _ = processed(tmp_path, counts_of(FLAT))
    fractions, _ = processed(tmp_path, CORRECTED)
    assert (integers.metrics.fixed_pattern, fractions.metrics.fixed_pattern) == (None, None)
    assert flags_of(integers, "pattern") == flags_of(fractions, "pattern") == []
    assert fractions.metrics.pattern_may_raise is False
    told, _ = processed(tmp_path, counts_of(FLAT), movie=MovieSettings(gain="none"))
    assert told.metrics.pattern_may_raise is False


@pytest.mark.parametrize("pixel_size", [0.7, 1.5, 3.0])
@pytest.mark.parametrize("dose", [0.1, 0.65, 3.0])
def test_no_specimen_and_no_hot_pixel_is_taken_for_a_pattern(pixel_size, dose):
    scope = replace(
        SCOPE, pixel_size=pixel_size, dose_per_frame=dose, n_frames=8, coverage=0.5, ice_contrast=0.1, b_factor=30.0
    )
    camera = Detector(scope.shape, 3, hot=2e-4, dead=2e-4)
    camera.efficiency = (camera.efficiency > 0).astype(np.float32)
    for seed in range(3):
        frames = np.stack(list(Field(scope, apoferritin() if seed else None, seed=seed).frames(camera)))
        found = measure(frames, frames.sum(0, dtype=np.float32))
        is_dim = float(frames.sum(0).mean()) < 2.0
        assert (found is None) == is_dim
        if found is None:
            continue
        assert not found.is_seen
        assert abs(found.power) < 4.0 * found.error


def test_the_error_of_the_pattern_is_what_it_says():
    rng = np.random.default_rng(0)
    pattern = 1.0 + 0.05 * rng.standard_normal((96, 96))
    for truth, efficiency in ((0.0, np.ones((96, 96))), (0.0025, pattern)):
        found = [measure(f, f.sum(0, dtype=np.float32)) for f in rng.poisson(4.0 * efficiency, (60, 10, 96, 96))]
        scatter = np.array([(one.power - truth) / one.error for one in found])
        assert 0.75 < scatter.std() < 1.3
        assert abs(scatter.mean()) < 0.9


def test_movies_that_hold_nothing_to_compare():
    assert measure(np.ones((1, 32, 32), np.uint8), np.ones((32, 32), np.float32)) is None
    assert measure(np.zeros((4, 32, 32), np.uint8), np.zeros((32, 32), np.float32)) is None
