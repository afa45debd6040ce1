"""Real sidecars of EPU and SerialEM, with values that were read in the files by eye."""

from dataclasses import fields
from pathlib import Path

import pytest

from streamer.metadata import epu, mdoc
from streamer.metadata.doses import choose_doses
from streamer.metadata.pixel_size import choose_pixel_size
from streamer.movie_record import Acquisition
from streamer.records import MovieHeader
from streamer.settings import MovieSettings

SHARED = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")

# What the file says, in the unit of the record: m × 1e10, e⁻/m² × 1e-20, V / 1000, rad × 180/π, 1 / CountsToElectrons.
FALCON_VPP = {
    "program": "EPU",
    "n_frames": 40,
    "pixel_size": 1.237386165753307,
    "reference_pixel_size": 1.2373861,  # √(0.035353² + 1.236881²)
    "image_height": 4096,
    "image_width": 4096,
    "binning": 1,
    "voltage_kv": 200,
    "dose_total": 229.52517368501772,
    "dose_per_frame": 5.738129342,
    "magnification": 120000,
    "defocus_target_um": 1.0,
    "beam_shift_x": 0,
    "beam_shift_y": 0,
    "stage_x_um": -161.323665,
    "stage_y_um": -269.398482,
    "stage_z_um": 125.51766,
    "tilt_deg": 0.000388,
    "super_res_factor": 1,
    "electron_counting": False,
    "camera": "BM-Falcon",
    "exposure_time_s": 2.99076,
    "spot_size": 4,
    "phase_plate": True,
    "acquired": "2018-08-22T14:56:05.9552508+02:00",
}
FALCON_2 = {
    "program": "EPU",
    "n_frames": 30,
    "pixel_size": 1.4558899918970525,
    "reference_pixel_size": 1.45589,
    "image_height": 4096,
    "image_width": 4096,
    "binning": 1,
    "voltage_kv": 300,
    "dose_total": 1310.205842097034,
    "dose_per_frame": 43.67352807,
    "magnification": 47000,
    "defocus_target_um": 1.2,
    "beam_shift_x": 0.00057684897910803556,
    "beam_shift_y": -0.0053513972088694572,
    "stage_x_um": 423.006886,
    "stage_y_um": 385.345408,
    "stage_z_um": -200.431195,
    "tilt_deg": -0.014498,
    "super_res_factor": 1,
    "electron_counting": False,
    "camera": "BM-Falcon",
    "exposure_time_s": 1.49538,
    "spot_size": 3,
    "phase_plate": False,
    "acquired": "2018-07-26T10:10:09.2386864+02:00",
}
# the camera's own list of fractions, all of one length
RECORDED = {
    "program": "EPU",
    "electron_counting": False,
    "gain_corrected": True,
    "camera": "Falcon-3",
}
IMAGES = {
    "1_8_k2": {
        "program": "EPU",
        "n_frames": 40,
        "pixel_size": 1.1202724164993683,
        "reference_pixel_size": 1.1202724,
        "image_height": 3838,
        "image_width": 3710,
        "binning": 1,
        "voltage_kv": 300,
        "dose_total": 44.034254472809153,
        "dose_per_frame": 1.10085636182,
        "magnification": 105000,
        "defocus_target_um": 2.0,
        "beam_shift_x": 0,
        "beam_shift_y": 0,
        "stage_x_um": 101.112244,
        "stage_y_um": 182.129824,
        "stage_z_um": 76.963493,
        "tilt_deg": -0.028497,
        "super_res_factor": 1,
        "electron_counting": True,
        "camera": "EF-CCD",
        "exposure_time_s": 10,
        "spot_size": 7,
        "phase_plate": False,  # and its slit, of 20 eV, is out
        "acquired": "2018-07-27T15:03:51.422415+02:00",
    },
    "1_9_k2": {
        "program": "EPU",
        "n_frames": 50,
        "pixel_size": 1.0732100624855079,
        "reference_pixel_size": 1.07321,
        "image_height": 3838,
        "image_width": 3710,
        "binning": 1,
        "voltage_kv": 300,
        "dose_total": 50.949700264944667,
        "dose_per_frame": 1.0189940053,
        "magnification": 130000,
        "defocus_target_um": 0.5,
        "beam_shift_x": -0.011826804839074612,
        "beam_shift_y": 0.0073098903521895409,
        "stage_x_um": 38.87672,
        "stage_y_um": 542.993264,
        "stage_z_um": -126.994116,
        "tilt_deg": 0.010274,
        "super_res_factor": 1,
        "electron_counting": True,
        "camera": "EF-CCD",
        "exposure_time_s": 15,
        "spot_size": 7,
        "slit_width_ev": 20,
        "phase_plate": True,
        "acquired": "2018-09-06T18:53:08.3688571+02:00",
    },
    "1_8_falcon_2": FALCON_2,
    "1_11_falcon_vpp": FALCON_VPP,
    "1_8_falcon_2_fractions": {
        **RECORDED,
        "n_frames": 30,
        "electrons_per_pixel": 1409.2046,  # Σ MeanPixelValue × 0.02955208
        "counts_per_electron": 1 / 0.02955208,
    },
    "1_11_falcon_vpp_fractions": {
        **RECORDED,
        "n_frames": 40,
        "electrons_per_pixel": 235.948465,  # Σ MeanPixelValue × 0.00444515049
        "counts_per_electron": 1 / 0.00444515049,
    },
    "1_11_falcon_frames": {
        **RECORDED,
        "n_frames": 119,
        "electrons_per_pixel": 369.576064,
        "counts_per_electron": 1 / 0.00444515049,
    },
}
K3 = {
    "program": "SerialEM",
    "pixel_size": 1.2827,
    "binning": 0.5,
    "voltage_kv": 300,
    "magnification": 33000,
    "defocus_target_um": 4.5,
    "super_res_factor": 2,
    "gain_reference": "SuperRef_s_mmm_00000_-15.0_Oct08_01.59.24.dm4",
    "counts_per_electron": 1,
    "spot_size": 9,
    "slit_width_ev": 20,
}
TILT_SERIES = {
    "program": "SerialEM",
    "n_frames": 8,
    "pixel_size": 5.4,
    "image_width": 924,
    "image_height": 958,
    "binning": 4,
    "magnification": 105000,
    "defocus_target_um": 4,
    "super_res_factor": 1,
    "exposure_time_s": 0.8,
    "spot_size": 8,
}
MDOCS = {
    ("frame_set_single", "s_mmm_00993_33.0_Oct08_07.39.05.tif"): {
        **K3,
        "n_frames": 12,
        "dose_total": 7.65892,
        "dose_per_frame": 0.63824,
        "image_shift_x_um": 2.69654,
        "image_shift_y_um": -0.304661,
        "stage_x_um": -142.82,
        "stage_y_um": -457.442,
        "stage_z_um": -13.7196,
        "tilt_deg": 32.984,
        "exposure_time_s": 1.07856,
        "acquired": "08-Oct-21  07:39:08",
    },
    ("frame_set_multiple", "s_mmm_01013_33.0_Oct08_07.46.46.tif"): {
        **K3,
        "n_frames": 243,
        "dose_total": 291.302,
        "dose_per_frame": 0.63882,
        "image_shift_x_um": 0,
        "image_shift_y_um": 0,
        "stage_x_um": -142.831,
        "stage_y_um": -457.473,
        "stage_z_um": -13.7203,
        "tilt_deg": 32.986,
        "exposure_time_s": 40.9854,
        "acquired": "08-Oct-21  07:47:29",
    },
    ("tilt_series", "TS_01_001_3.0.mrc"): {
        **TILT_SERIES,
        "image_shift_x_um": -0.100277,
        "image_shift_y_um": -0.254816,
        "stage_x_um": 20.7926,
        "stage_y_um": 155.267,
        "stage_z_um": 163.803,
        "tilt_deg": 3.00113,
        "acquired": "30-Nov-15  15:22:37",
    },
    ("tilt_series", "TS_01_040_60.0.mrc"): {
        **TILT_SERIES,
        "image_shift_x_um": 0.0570084,
        "image_shift_y_um": -0.312555,
        "stage_x_um": 20.7838,
        "stage_y_um": 155.308,
        "stage_z_um": 163.81,
        "tilt_deg": 60.0006,
        "acquired": "30-Nov-15  16:06:45",
    },
    ("montage_section", "LMM.mrc"): {
        "program": "SerialEM",
        "pixel_size": 656.139,
        "image_width": 5064,
        "image_height": 3976,
        "voltage_kv": 300,
        "remarks": ("sidecar: it has 63 sections and names no file: they were not used",),
    },
    ("tilt_series", "another.mrc"): {
        "program": "SerialEM",
        "pixel_size": 5.4,
        "image_width": 924,
        "image_height": 958,
        "remarks": (
            "sidecar: it has 41 sections and names TS_01_000_0.0.mrc, TS_01_001_3.0.mrc, TS_01_002_-3.0.mrc, "
            "TS_01_003_-6.0.mrc, …, not this file: they were not used",
        ),
    },
}


def image(name: str) -> epu.Recorded | Acquisition:
    return epu.read((SHARED / "epu-xml" / f"xml_epu_{name}.xml").read_bytes())


def compare(found: Acquisition, table: dict) -> None:
    """All fields: those that the table does not have are unknown."""
    for field in fields(Acquisition):
        expected = table.get(field.name, field.default)
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert getattr(found, field.name) == expected, field.name


def test_every_real_sidecar_is_in_the_tables() -> None:
    assert {path.stem.removeprefix("xml_epu_") for path in (SHARED / "epu-xml").glob("*.xml")} == set(IMAGES)
    assert {path.stem for path in (SHARED / "mdoc").glob("*.mdoc")} == {name for name, _ in MDOCS}


@pytest.mark.parametrize("name", IMAGES)
def test_epu(name: str) -> None:
    compare(epu.parse((SHARED / "epu-xml" / f"xml_epu_{name}.xml").read_bytes()), IMAGES[name])


@pytest.mark.parametrize(("name", "movie"), MDOCS)
def test_serialem(name: str, movie: str) -> None:
    text = mdoc.decoded((SHARED / "mdoc" / f"{name}.mdoc").read_bytes())
    compare(mdoc.parse(text, movie), MDOCS[name, movie])


@pytest.mark.parametrize(
    ("name", "saved", "table"),
    [
        # 40 × 0.049846 s of 2.99076 s, and 30 × 0.024923 s of 1.49538 s: the camera keeps only a part of the exposure
        ("1_11_falcon_vpp", 1.99384 / 2.99076, FALCON_VPP),
        ("1_8_falcon_2", 0.74769 / 1.49538, FALCON_2),
    ],
)
def test_the_dose_of_the_fractions_is_that_of_the_time_that_was_recorded(name, saved, table) -> None:
    merged = epu.merge(image(name), image(f"{name}_fractions"))
    recorded = IMAGES[f"{name}_fractions"]
    whole = table["dose_total"]
    compare(
        merged,
        {
            **table,
            "dose_per_frame": whole * saved / table["n_frames"],
            **{key: recorded[key] for key in ("electrons_per_pixel", "counts_per_electron", "gain_corrected")},
        },
    )
    # the camera itself counted as much, behind a specimen that holds little back
    counted = recorded["electrons_per_pixel"] / table["pixel_size"] ** 2
    assert counted == pytest.approx(whole * saved, rel=0.02)
    flags: list[str] = []
    header = MovieHeader(format="mrc", n_frames=table["n_frames"], height=4096, width=4096, dtype="int16")
    mean, each = choose_doses(merged, header, None, table["pixel_size"], flags)
    assert (mean, each) == (pytest.approx(whole * saved / table["n_frames"], rel=1e-5), None)
    assert flags == [
        f"dose: the sidecar's frames add up to {whole * saved:.4g} e⁻/Å², its total is {whole:.4g}: that of the frames "
        "was used"
    ]


def test_only_the_list_of_fractions_still_gives_a_dose_that_says_what_it_is() -> None:
    told = epu.parse((SHARED / "epu-xml" / "xml_epu_1_11_falcon_frames.xml").read_bytes())
    header = MovieHeader(format="mrc", n_frames=119, height=4096, width=4096, dtype="int16")
    flags: list[str] = []
    mean, _ = choose_doses(told, header, None, 1.0, flags)
    assert mean == pytest.approx(369.576064 / 119)
    assert flags == [
        "dose: only what the camera counted is known, 3.10568 e⁻/Å² per frame: too little by what the specimen held "
        "back; set movie.dose_per_frame"
    ]


@pytest.mark.parametrize(
    ("name", "movie", "height", "width", "pixel_size", "rule"),
    [
        ("frame_set_single", "s_mmm_00993_33.0_Oct08_07.39.05.tif", 8184, 11520, 1.2827, "sidecar"),
        ("frame_set_single", "s_mmm_00993_33.0_Oct08_07.39.05.tif", 4092, 5760, 2.5654, "sidecar, scaled"),
        ("tilt_series", "TS_01_001_3.0.mrc", 3838, 3710, 1.35, "sidecar, scaled"),
        ("tilt_series", "another.mrc", 3838, 3710, 1.35, "sidecar, scaled"),
        ("tilt_series", "TS_01_001_3.0.mrc", 7676, 7420, 0.675, "sidecar, scaled"),
    ],
)
def test_the_pixel_size_of_the_frames_is_not_that_of_the_binned_image(name, movie, height, width, pixel_size, rule):
    told = mdoc.parse(mdoc.decoded((SHARED / "mdoc" / f"{name}.mdoc").read_bytes()), movie)
    header = MovieHeader(format="tiff", n_frames=8, height=height, width=width, dtype="uint8")
    flags: list[str] = []
    assert choose_pixel_size(told, header, MovieSettings(), flags) == (pytest.approx(pixel_size), rule)
    assert flags == []
