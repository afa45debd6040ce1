"""A movie with frames that carry no information gives what it would give without them."""

import json

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from streamer import dose
from streamer.motion.left_out import at_all_frames
from streamer.motion.track import LocalMotion, Motion
from streamer.movie_record import Acquisition
from streamer.pipeline import process_movie
from streamer.runtime.stopwatch import Stopwatch
from streamer.settings import DataPathSettings
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from streamer.sums.group_files import read_groups
from tests.jobs import job_of, movie_at
from tests.simulated_movies import simulated

SCOPE = Microscope(shape=(320, 320), n_frames=16, pixel_size=1.5, dose_per_frame=2.0, ice_contrast=0.05)


@pytest.fixture(scope="module")
def clean():
    return simulated(SCOPE, random_protein(1, 800), 3)


def processed(counts, gain, directory, name="m", **options):
    path = directory / f"{name}.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(counts)
        file.voxel_size = SCOPE.pixel_size
    told = Acquisition(
        n_frames=len(counts), dose_per_frame=SCOPE.dose_per_frame, pixel_size=SCOPE.pixel_size, voltage_kv=300.0
    )
    movie = movie_at(path, told)
    settings = DataPathSettings()
    return process_movie(movie, job_of(directory / name, gain, settings=settings, **options), Stopwatch())


def image(record, directory, role="micrograph", name="m"):
    (file,) = (file for file in record.outputs if file.role == role)
    return mrcfile.read(directory / name / file.path).astype(np.float64)


def error(record, truth, kept):
    shifts = np.array(record.metrics.shifts_yx_px)[kept]
    away = -shifts - truth.field.displacement[kept]
    return np.sqrt(((away - away.mean(0)) ** 2).sum(1).mean())


CASES = {
    "blank first": ([0], lambda c: c.__setitem__(0, 0), [0]),
    "blank in the middle": ([6, 7], lambda c: c.__setitem__(slice(6, 8), 0), [6, 7]),
    "blank last two": ([14, 15], lambda c: c.__setitem__(slice(14, 16), 0), [14, 15]),
    "doubled": ([9], lambda c: c.__setitem__(9, c[8].copy()), []),
    "cut": ([4], lambda c: c.__setitem__((4, slice(0, 160)), 0), []),
    "garbage": ([5], lambda c: c.__setitem__(5, np.random.default_rng(0).integers(0, 65000, c[5].shape)), []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_changes_nothing_else(case, clean, tmp_path):
    left_out, spoil, unexposed = CASES[case]
    counts = clean.counts.astype(np.uint16)
    spoil(counts)
    kept = [index for index in range(len(counts)) if index not in left_out]
    record = processed(counts, clean.gain, tmp_path, stood_still=True, groups=tmp_path / "groups")
    assert record.source.n_frames == 16
    assert record.source.frames_left_out == tuple(left_out)
    assert [flag for flag in record.flags if flag.startswith("frames: ")]
    assert record.metrics.motion_trusted
    assert len(record.metrics.shifts_yx_px) == 16
    assert error(record, clean, kept) < 0.25
    without = processed(clean.counts.astype(np.uint16)[kept], clean.gain, tmp_path, "without")
    assert record.metrics.mean_counts == pytest.approx(without.metrics.mean_counts, rel=1e-6)
    there, here = (image(r, tmp_path, name=n) for r, n in ((without, "without"), (record, "m")))
    assert np.corrcoef(there.ravel(), here.ravel())[0, 1] > 0.95
    expected = [0.0 if index in unexposed else 2.0 for index in range(16)]
    assert record.source.frame_doses == (tuple(expected) if unexposed else None)
    exposures = np.cumsum(expected)[kept]
    _, groups = read_groups(tmp_path / "groups")
    assert sorted(e for group in groups.exposures for e in group) == pytest.approx(sorted(exposures))
    even, odd = (image(record, tmp_path, role).mean() for role in ("even", "odd"))
    # every other one of the frames that are kept
    assert even / odd == pytest.approx(len(kept[0::2]) / len(kept[1::2]), rel=0.01)
    star = gemmi.cif.read(str(tmp_path / "m" / next(f.path for f in record.outputs if f.role == "motion")))
    assert len(star.find_block("global_shift").find_values("_rlnMicrographFrameNumber")) == 16
    written = json.loads(next((tmp_path / "m").rglob("*.json")).read_bytes())
    assert written["source"]["frames_left_out"] == left_out


def test_a_clean_movie_is_not_touched(clean, tmp_path):
    record = processed(clean.counts.astype(np.uint16), clean.gain, tmp_path)
    assert record.source.frames_left_out == ()
    assert record.source.frame_doses is None
    assert not [flag for flag in record.flags if flag.startswith("frames: ")]


def test_a_half_exposed_frame_keeps_its_place_with_its_own_dose(clean, tmp_path):
    counts = clean.counts.astype(np.uint16)
    counts[0] = np.random.default_rng(0).binomial(counts[0], 0.5)
    record = processed(counts, clean.gain, tmp_path)
    assert record.source.frames_left_out == ()
    assert record.source.frame_doses == pytest.approx((1.0, *[2.0] * 15), rel=0.02)
    assert [flag for flag in record.flags if "exposed unlike the others" in flag]
    assert error(record, clean, list(range(16))) < 0.25


def test_frames_that_are_left_out_lie_between_their_neighbours():
    shifts = torch.tensor([[0.0, 0.0], [1.0, -2.0], [4.0, -8.0]], dtype=torch.float64)
    local = LocalMotion(coefficients=shifts[:, :, None].expand(-1, -1, 9).clone(), shape=(64, 64), evidence=9.0)
    motion = Motion(shifts=shifts, information=1.0, trusted=True, iterations=1, local=local)
    assert at_all_frames(motion, None, 3) is motion
    found = at_all_frames(motion, (1, 2, 5), 7)
    rows = [[0.0, 0.0], [0.0, 0.0], [1.0, -2.0], [2.0, -4.0], [3.0, -6.0], [4.0, -8.0], [4.0, -8.0]]
    assert found.shifts.tolist() == rows
    assert found.local.coefficients[:, :, 4].tolist() == rows


def test_doses_that_frames_received():
    assert dose.received(2.0, None, (1.0, 1.0)) is None
    assert dose.received(2.0, None, (0.0, 1.0)) == (0.0, 2.0)
    assert dose.received(None, None, (0.0, 1.0)) is None
    assert dose.received(2.0, (1.0, 3.0), (1.0, 0.5)) == (1.0, 1.5)
    assert dose.received(2.0, (1.0, 3.0), (1.0, 1.0)) == (1.0, 3.0)
    assert dose.frame_exposures(4, 2.0, (0.0, 2.0, 2.0, 2.0), (0, 2)).tolist() == [2.0, 6.0]
    assert dose.frame_exposures(3, None, None, (1,)).tolist() == [0.0, 0.0]
