"""No electron of an EER movie is left out unless a fraction has to have a certain size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamer import dose
from streamer.metadata.source import describe_source
from streamer.movie_record import Acquisition
from streamer.readers import movie
from streamer.readers.content import check_content
from streamer.readers.eer_fractions import plan_fractions
from streamer.readers.files import identity_of
from streamer.records import Movie
from streamer.settings import DataPathSettings, EerSettings, MovieSettings
from tests.streamer.readers.test_eer import SHAPE, made, read, true_counts

HERE = Path("a.eer")


def sizes(n_raw, eer, dose_per_raw=None):
    ranges, doses = plan_fractions(HERE, n_raw, dose_per_raw, eer)
    found = [stop - start for start, stop in ranges]
    assert [start for start, _ in ranges] == [0, *np.cumsum(found)[:-1]], "one after the other, without a gap"
    if dose_per_raw is not None:
        assert doses == pytest.approx([size * dose_per_raw for size in found])
    return found


@pytest.mark.parametrize(
    ("n_raw", "number"),
    # the worst before: half of the exposure was left out
    [(79, 40), (1007, 40), (239, 30), (12, 5), (41, 40), (10_001, 60), (3, 2)],
)
def test_a_number_of_fractions_takes_all_raw_frames(n_raw, number):
    found = sizes(n_raw, EerSettings(fractions=number), 0.04)
    assert (len(found), sum(found)) == (number, n_raw)
    assert max(found) - min(found) == 1
    # spread, not piled up at one end
    assert abs(sum(found[: number // 2]) - n_raw * (number // 2) / number) <= 1


@pytest.mark.parametrize("n_raw", [40, 80, 1000, 1001, 1039, 119, 79, 39, 7, 1])
def test_by_default_too(n_raw):
    found = sizes(n_raw, EerSettings(), 0.04)
    assert sum(found) == n_raw
    assert max(found) - min(found) <= 1
    assert len(found) >= min(40, n_raw)


@pytest.mark.parametrize(("n_raw", "wanted"), [(100, 1.0), (149, 2.0), (1007, 0.9), (50, 2.0), (13, 0.3)])
def test_a_dose_per_fraction_is_met_about_and_nothing_lost(n_raw, wanted):
    found = sizes(n_raw, EerSettings(dose_per_fraction=wanted), 0.04)
    assert sum(found) == n_raw
    assert np.mean(found) * 0.04 == pytest.approx(wanted, rel=0.3)


@pytest.mark.parametrize(
    ("n_raw", "eer", "expected"),
    [
        (1000, EerSettings(fractions=40), [25] * 40),
        (1000, EerSettings(), [25] * 40),
        (60, EerSettings(), [1] * 60),
        (96, EerSettings(), [2] * 48),
        (100, EerSettings(dose_per_fraction=0.4), [10] * 10),
    ],
)
def test_what_divides_evenly_is_divided_as_before(n_raw, eer, expected):
    assert sizes(n_raw, eer, 0.04) == expected


@pytest.mark.parametrize(("group", "left_out"), [(5, 2), (7, 5), (12, 0)])
def test_a_group_stays_relions(tmp_path, group, left_out):
    header = movie.read_header(made(tmp_path)[0], eer=EerSettings(group=group))
    assert (header.n_raw_frames_left_out, header.fraction_sizes) == (left_out, None)


def test_raw_frames_that_a_line_of_an_integration_file_leaves_out_are_counted_too(tmp_path):
    plan = tmp_path / "integration.txt"
    plan.write_text("5 2 0.2\n7 3 0.5\n")
    header = movie.read_header(made(tmp_path)[0], eer=EerSettings(integration=str(plan)))
    assert (header.n_frames, header.n_raw_frames_left_out) == (4, 2)


@pytest.mark.parametrize("number", [5, 7, 11])
def test_every_event_is_in_a_fraction(tmp_path, number):
    path, frames = made(tmp_path)
    header, counts = read(path, EerSettings(fractions=number))
    assert len(counts) == number
    np.testing.assert_array_equal(counts.sum(0, dtype=int), true_counts(frames, SHAPE, 1))
    assert sum(header.fraction_sizes) == 12
    assert header.frame_doses == pytest.approx([0.5 * size for size in header.fraction_sizes])


def test_the_largest_fraction_decides_how_wide_the_counts_are(tmp_path):
    path, _ = made(tmp_path, n_raw=511, events=2)
    assert movie.read_header(path, eer=EerSettings(fractions=2)).dtype == "uint16"  # 255 and 256
    assert movie.read_header(path, eer=EerSettings(fractions=3)).dtype == "uint8"


# ---------------------------------------------------------------------------------------------------- their doses


UNTOLD = Acquisition(pixel_size=2.0)


def described(path, header, eer, told=UNTOLD, **settings):
    there = Movie(path=str(path), relative=path.name, session="s", identity=identity_of(path), acquisition=told)
    options = DataPathSettings(movie=MovieSettings(**settings), eer=eer)
    return describe_source(there, header, options, None)


def test_each_fraction_has_its_own_dose_whoever_states_it(tmp_path):
    path, _ = made(tmp_path)
    eer = EerSettings(fractions=5)
    header = movie.read_header(path, eer=eer)
    expected = [0.5 * size for size in header.fraction_sizes]
    untold = replace(header, frame_doses=None)
    total = Acquisition(pixel_size=2.0, dose_total=6.0, n_frames=12)
    cases = (
        described(path, header, eer),
        described(path, untold, eer, total),
        described(path, header, eer, dose_per_frame=1.2),
        described(path, untold, eer, dose_per_frame=1.2),
    )
    for source, flags in cases:
        assert source.dose_per_frame == pytest.approx(1.2)
        assert source.frame_doses == pytest.approx(expected)
        assert float(dose.frame_exposures(5, source.dose_per_frame, source.frame_doses)[-1]) == pytest.approx(6.0)
        assert not [flag for flag in flags if flag.startswith("eer:")]
    assert described(path, untold, eer)[0].frame_doses is None
    even = EerSettings(fractions=4)
    assert described(path, movie.read_header(path, eer=even), even)[0].frame_doses is None


def test_fewer_raw_frames_than_fractions_are_told(tmp_path):
    path, _ = made(tmp_path)
    for number, told in ((99, True), (12, False), (0, False)):
        eer = EerSettings(fractions=number)
        _, flags = described(path, movie.read_header(path, eer=eer), eer)
        found = [flag for flag in flags if flag.startswith("eer:")]
        assert found == (["eer: 12 raw frames, fewer than the 99 fractions asked for"] if told else [])


@pytest.mark.parametrize("told", [True, False])
def test_fractions_of_one_and_two_raw_frames_are_no_frames_of_odd_doses(tmp_path, told):
    path, _ = made(tmp_path, n_raw=12, shape=(64, 64), events=900)
    header, counts = read(path, EerSettings(fractions=8))
    doses = header.frame_doses if told else header.fraction_sizes
    even = np.random.default_rng(0)
    for index, size in enumerate(header.fraction_sizes):
        counts[index] = even.poisson(0.3 * size, counts[index].shape)
    assert not check_content(path, counts, doses=doses).flags
