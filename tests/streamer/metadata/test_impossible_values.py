"""A sidecar or header whose value no microscope has: unknown, and said."""

from dataclasses import replace

import pytest

from streamer.errors import MovieMismatch
from tests.streamer.metadata.test_source import HEADER, TOLD, describe  # noqa: F401 (a fixture)


@pytest.mark.parametrize(
    ("field", "value", "name", "said"),
    [
        ("pixel_size", 1.5e-10, "pixel_size", "1.5e-10 looks like metres: 1.5"),
        ("pixel_size", 0.0834, "pixel_size", "0.0834 looks like nm: 0.834"),
        ("voltage_kv", 300000.0, "voltage_kv", "300000 looks like volts: 300"),
        ("dose_per_frame", 48.0, "dose_per_frame", "48 looks like the dose of the whole movie"),
        ("dose_total", 5e21, "dose", "5e+21 looks like e⁻/m²: 50"),
        ("frame_doses", (48.0, 52.0), "dose_per_frame", "50 looks like the dose of the whole movie"),
    ],
)
def test_an_impossible_value_of_the_sidecar_is_unknown_and_said(describe, field, value, name, said):  # noqa: F811
    header = replace(HEADER, pixel_size=0.9)
    source, flags = describe(replace(TOLD, **({"dose_total": None, "dose_per_frame": None} | {field: value})), header)
    used = {"pixel_size": source.pixel_size, "voltage_kv": source.voltage_kv}.get(field, source.dose_per_frame)
    assert used == (0.9 if field == "pixel_size" else None)
    assert source.acquisition.voltage_kv == (value if field == "voltage_kv" else 300.0)
    (flag,) = [flag for flag in flags if said in flag]
    assert flag.startswith(f"{name}: what the sidecar says is impossible and not used: in ")


def test_an_impossible_header_is_no_better(describe):  # noqa: F811
    source, flags = describe(header=replace(HEADER, pixel_size=1.5e-10))
    assert source.pixel_size == 1.2
    assert flags == (
        "pixel_size: what the header says is impossible and not used: in Å/px; 1.5e-10 looks like metres: 1.5",
    )
    with pytest.raises(MovieMismatch, match=r"the pixel size is unknown.*looks like metres.*set movie.pixel_size"):
        describe(replace(TOLD, pixel_size=None), replace(HEADER, pixel_size=1.5e-10))


def test_the_fine_grid_of_an_eer_movie_is_held_against_its_physical_pixel(describe):  # noqa: F811
    header = replace(HEADER, upsampling=4, pixel_size=0.15)
    source, flags = describe(replace(TOLD, pixel_size=0.6), header)
    assert (source.pixel_size, flags) == (0.15, ())


def test_a_dose_of_few_frames_may_be_large_and_0_is_unknown(describe):  # noqa: F811
    source, flags = describe(replace(TOLD, n_frames=2, dose_total=50.0), replace(HEADER, n_frames=2))
    assert (source.dose_per_frame, flags) == (25.0, ())
    assert describe(replace(TOLD, voltage_kv=0.0))[0].voltage_kv is None


def test_an_impossible_exposure_before_the_movie_is_not_used(describe):  # noqa: F811
    source, flags = describe(replace(TOLD, pre_exposure=1e20))
    assert (source.pre_exposure, len(flags)) == (0.0, 1)
    assert flags[0] == "dose: what the sidecar says is impossible and not used: in e⁻/Å²; 1e+20 looks like e⁻/m²: 1"
    source, flags = describe(replace(TOLD, pre_exposure=45.0))
    assert (source.pre_exposure, flags) == (45.0, ())


EER = replace(HEADER, format="eer", n_frames=40, n_raw_frames=1000, pixel_size=None)


@pytest.mark.parametrize(
    "told",
    [
        {"dose_total": 5000.0, "dose_per_frame": 5.0},  # e⁻/nm², in 1000 raw frames of a possible dose
        {"dose_total": 5000.0, "dose_per_frame": 5.0, "frame_doses": (4.0,) * 500 + (6.0,) * 500},
    ],
)
def test_what_raw_frames_come_to_is_held_against_the_whole_exposure(describe, told):  # noqa: F811
    known = replace(TOLD, n_frames=1000, **told)
    source, flags = describe(known, EER)
    assert (source.dose_per_frame, source.frame_doses) == (None, None)
    assert [flag for flag in flags if "impossible" in flag] == [
        "dose: what the sidecar says is impossible and not used: in e⁻/Å²; 5000 looks like e⁻/nm²: 50"
    ]
    source, flags = describe(replace(known, dose_total=None), EER)
    assert source.dose_per_frame is None
    assert [flag for flag in flags if "impossible" in flag]


def test_the_little_that_a_raw_frame_receives_is_possible(describe):  # noqa: F811
    tilt = replace(TOLD, n_frames=4000, dose_total=2.0, dose_per_frame=0.0005)
    for told in (tilt, replace(tilt, dose_total=None)):
        source, flags = describe(told, replace(EER, n_raw_frames=4000))
        assert source.dose_per_frame == pytest.approx(0.05)
        assert [flag for flag in flags if "dose" in flag] == []


def test_a_total_that_is_next_to_nothing_is_not_used_either(describe):  # noqa: F811
    """50 e⁻/Å² where e⁻/m² belong."""
    told = replace(TOLD, dose_total=5e-19, dose_per_frame=5e-19 / HEADER.n_frames)
    source, flags = describe(told)
    assert source.dose_per_frame is None
    assert len([flag for flag in flags if "impossible and not used" in flag]) == 1


def test_few_frames_that_add_up_to_the_total_have_what_they_have(describe):  # noqa: F811
    told = replace(TOLD, n_frames=2, dose_total=50.0, dose_per_frame=25.0)
    source, flags = describe(told, replace(HEADER, n_frames=2))
    assert (source.dose_per_frame, flags) == (25.0, ())
