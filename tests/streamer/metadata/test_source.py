from dataclasses import replace

import msgspec
import numpy as np
import pytest

from streamer.errors import MovieMismatch
from streamer.metadata.source import describe_source
from streamer.movie_record import Acquisition
from streamer.readers.movie import fingerprint, identity_of
from streamer.records import Gain, Movie, MovieHeader
from streamer.settings import DataPathSettings, MovieSettings

HEADER = MovieHeader(format="tiff", n_frames=10, height=80, width=90, dtype="uint8")
TOLD = Acquisition(sidecar="a.xml", n_frames=10, pixel_size=1.2, voltage_kv=300.0, dose_total=40.0)
GAIN = Gain(path="/data/gain.mrc", sha256="ab" * 32, values=np.ones((80, 90), np.float32))


@pytest.fixture
def describe(tmp_path):
    path = tmp_path / "a.tiff"
    path.write_bytes(b"frames" * 100)

    above = replace(GAIN, path=str(tmp_path / "gain.mrc"))

    def run(told=TOLD, header=HEADER, gain=above, evidence="sidecar", is_refused=False, **settings):
        movie = Movie(
            path=str(path),
            relative="grid/a.tiff",
            session="grid",
            identity=identity_of(path),
            evidence=evidence,
            acquisition=told,
        )
        run.movie = movie
        chosen = DataPathSettings(movie=MovieSettings(**settings))
        return describe_source(movie, header, chosen, gain, is_refused=is_refused)

    run.path = path
    return run


def test_the_source_is_what_was_found(describe):
    source, flags = describe(pre_exposure=3.0, cs_mm=0.01, amplitude_contrast=0.07)
    assert flags == ()
    assert (source.path, source.bytes, source.format) == ("grid/a.tiff", 600, "tiff")
    assert (source.n_frames, source.height, source.width) == (10, 80, 90)
    assert source.fingerprint == fingerprint(describe.path)
    assert (source.pixel_size, source.voltage_kv, source.dose_per_frame) == (1.2, 300.0, 4.0)
    assert (source.pre_exposure, source.cs_mm, source.amplitude_contrast) == (3.0, 0.01, 0.07)
    assert (source.gain, source.gain_path) == ("ab" * 32, str(describe.path.with_name("gain.mrc")))
    assert source.acquisition == TOLD


def test_settings_hold_against_the_sidecar_and_the_sidecar_against_the_header(describe):
    header = replace(HEADER, pixel_size=1.4)
    assert describe(header=header, pixel_size=1.3)[0].pixel_size == 1.3
    assert describe(header=header)[0].pixel_size == 1.2
    assert describe(replace(TOLD, pixel_size=None), header)[0].pixel_size == 1.4


def test_a_disagreement_is_said_aloud(describe):
    _, flags = describe(header=replace(HEADER, pixel_size=1.4), pixel_size=1.3, dose_per_frame=2.0, voltage_kv=200.0)
    assert flags == (
        "pixel_size: settings says 1.3, sidecar says 1.2",
        "pixel_size: settings says 1.3, header says 1.4",
        "dose_per_frame: settings says 2, sidecar says 4",
        "voltage_kv: settings says 200, sidecar says 300",
    )


@pytest.mark.parametrize("pixel_size", [1.2, 1.209, 1.191])
def test_a_percent_is_no_disagreement(describe, pixel_size):
    assert describe(pixel_size=pixel_size)[1] == ()


def test_the_dose_of_a_frame_is_told_or_its_part_of_the_total(describe):
    assert describe(replace(TOLD, dose_per_frame=3.9))[0].dose_per_frame == 3.9
    assert describe(TOLD)[0].dose_per_frame == 4.0


def test_what_nobody_knows_stays_unknown_and_is_flagged(describe):
    source, flags = describe(Acquisition(), gain=None, evidence="unproven", pixel_size=1.1)
    assert (source.dose_per_frame, source.voltage_kv, source.gain, source.gain_path) == (None, None, None, None)
    assert flags == (
        "dose: unknown, frames are not weighted",
        "voltage: unknown, 300 kV assumed for the exposure filter; left out of micrographs.star",
        "gain: none",
        "frame count: unproven",
    )


def test_without_a_pixel_size_the_movie_fails_with_what_to_do(describe):
    with pytest.raises(MovieMismatch, match=r"the pixel size is unknown.*set movie.pixel_size in Å/px"):
        describe(Acquisition())


def test_a_sidecar_that_counts_other_frames_is_a_mismatch(describe):
    with pytest.raises(MovieMismatch, match=r"expected 12 \(a\.xml\); found 10"):
        describe(replace(TOLD, n_frames=12))


def test_a_gain_from_elsewhere_is_told_unless_it_was_set(describe):
    elsewhere = replace(GAIN, path="/data/gain.mrc")
    assert describe(gain=elsewhere)[1] == ("gain: /data/gain.mrc does not lie above the movie, but is the only one",)
    chosen = DataPathSettings(movie=MovieSettings(gain="/data/gain.mrc"))
    assert describe_source(describe.movie, HEADER, chosen, elsewhere)[1] == ()


def test_another_gain_than_the_sidecar_names_is_told(describe):
    named = replace(TOLD, gain_reference="CountRef_5.mrc")
    assert describe(named)[1] == ("gain: the sidecar names CountRef_5.mrc, gain.mrc was used",)
    assert describe(replace(TOLD, gain_reference="GAIN.tif"))[1] == ()


def test_another_gain_than_the_movie_names_is_told(describe):
    """An EER movie names its own; where the sidecar names the same, it is told once."""
    header = replace(HEADER, gain_reference="b.gain")
    assert describe(header=header)[1] == ("gain: the movie names b.gain, gain.mrc was used",)
    both = describe(replace(TOLD, gain_reference="B.mrc"), header)[1]
    assert both == ("gain: the sidecar names B.mrc, gain.mrc was used",)
    assert describe(replace(TOLD, gain_reference="gain.dm4"), replace(HEADER, gain_reference="GAIN.gain"))[1] == ()


def test_a_named_gain_that_is_missing_is_told_unless_none_is_needed(describe):
    header, told = replace(HEADER, gain_reference="b.gain"), replace(TOLD, gain_reference="a.dm4")
    assert describe(told, header, gain=None)[1] == (
        "gain: none",
        "gain: the sidecar names a.dm4: put it beside the movies",
    )
    assert describe(TOLD, header, gain=None)[1] == (
        "gain: none",
        "gain: the movie names b.gain: put it beside the movies",
    )
    assert describe(TOLD, gain=None)[1] == ("gain: none",)
    assert describe(replace(told, gain_corrected=True), gain=None)[1] == ("gain: none",)


def test_a_gain_on_top_of_the_cameras_own_correction_is_told(describe):
    assert describe(replace(TOLD, gain_corrected=True))[1] == (
        "gain: the camera has corrected the frames, says the sidecar, and gain.mrc was used as well",
    )
    assert describe(replace(TOLD, gain_corrected=False))[1] == ()


def test_a_refused_gain_is_not_said_to_be_used(describe):
    told = replace(TOLD, gain_corrected=True, gain_reference="B.mrc")
    source, flags = describe(told, is_refused=True)
    assert (source.gain, source.gain_path, source.gain_refused) == (
        None,
        None,
        str(describe.path.with_name("gain.mrc")),
    )
    assert flags == (
        "gain: the sidecar names B.mrc, gain.mrc was tried",
        "gain: the camera has corrected the frames, says the sidecar",
    )


def test_what_was_remarked_in_the_sidecar_is_a_flag(describe):
    assert describe(replace(TOLD, remarks=("sidecar: it names b.tif, not this file",)))[1] == (
        "sidecar: it names b.tif, not this file",
    )


# ------------------------------------------------------------------------------------------ magnifications, EER


def test_a_calibrated_pixel_size_holds_for_its_magnification(describe):
    told = replace(TOLD, magnification=105000.0)
    sizes = {"105000": 0.834, "81000": 1.06}
    source, flags = describe(told, pixel_size_by_magnification=sizes)
    assert source.pixel_size == 0.834
    assert flags == ("pixel_size: magnification says 0.834, sidecar says 1.2",)
    assert describe(told, pixel_size_by_magnification=sizes, pixel_size=0.9)[0].pixel_size == 0.9
    assert describe(replace(told, magnification=64000.0), pixel_size_by_magnification=sizes)[0].pixel_size == 1.2
    assert describe(TOLD, pixel_size_by_magnification=sizes)[0].pixel_size == 1.2
    with pytest.raises(ValueError, match="not a magnification"):
        MovieSettings(pixel_size_by_magnification={"high": 1.0})


EER = replace(HEADER, format="eer", n_raw_frames=104, n_raw_frames_left_out=4, proves_its_length=True)


def test_raw_frames_that_are_left_out_are_told_and_their_dose_is_not_counted(describe):
    source, flags = describe(replace(TOLD, n_frames=104), EER)
    assert source.n_raw_frames == 104
    assert source.dose_per_frame == pytest.approx(40.0 * 100 / 104 / 10)
    assert flags == ("eer: 4 raw frames that do not fill a fraction are left out",)


@pytest.mark.parametrize("told", [104, 10, 40])
def test_a_sidecar_may_count_raw_frames_or_fractions(describe, told):
    describe(replace(TOLD, n_frames=told), EER)


def test_a_sidecar_that_tells_more_raw_frames_than_there_are_does_not_fit(describe):
    with pytest.raises(MovieMismatch, match="a different number of frames"):
        describe(replace(TOLD, n_frames=105), EER)


def test_on_a_finer_grid_the_pixels_of_people_and_sidecars_are_physical(describe):
    header = replace(EER, upsampling=2, pixel_size=0.6)
    source, flags = describe(replace(TOLD, n_frames=None), header)
    assert (source.pixel_size, source.upsampling) == (0.6, 2)
    assert [flag for flag in flags if "pixel_size" in flag] == []
    assert describe(replace(TOLD, n_frames=None), header, pixel_size=1.22)[0].pixel_size == 0.61


def test_doses_of_an_integration_file_hold_unless_somebody_sets_another(describe):
    doses = (0.2,) * 3 + (1.0,) * 7
    header = replace(EER, frame_doses=doses)
    told = replace(TOLD, n_frames=None, dose_total=7.6 * 104 / 100)
    source, flags = describe(told, header)
    assert source.frame_doses == doses
    assert source.dose_per_frame == pytest.approx(0.76)
    assert [flag for flag in flags if "dose" in flag] == []
    source, flags = describe(told, header, dose_per_frame=1.5)
    assert (source.frame_doses, source.dose_per_frame) == (None, 1.5)
    assert any("header says 0.76" in flag for flag in flags)


@pytest.mark.parametrize(
    "name", ["a_frame003.tif", "a_Frame_12.mrc", "a-0001.mrc", "FoilHole_1_Data_2_3_20260101_120000_frames_n4.mrc"]
)
def test_files_of_one_frame_each_are_refused_with_a_way_out(describe, name):
    single = replace(HEADER, n_frames=1)
    path = describe.path.rename(describe.path.with_name(name))
    movie = Movie(path=str(path), relative=name, session="s", identity=identity_of(path))
    with pytest.raises(MovieMismatch, match="series of single-frame files") as caught:
        describe_source(movie, single, DataPathSettings(movie=MovieSettings(pixel_size=1.0)), None)
    assert "newstack" in caught.value.hint
    describe_source(movie, HEADER, DataPathSettings(movie=MovieSettings(pixel_size=1.0)), None)


# ----------------------------------------------------------------------------------------------- doses that are none


@pytest.mark.parametrize("dose", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize(
    "place",
    [
        lambda dose: {"told": Acquisition(dose_per_frame=dose)},
        lambda dose: {"told": Acquisition(dose_total=dose)},
        lambda dose: {"header": replace(HEADER, frame_doses=(dose,) * 10), "told": Acquisition()},
        lambda dose: {"dose_per_frame": dose, "told": Acquisition()},
    ],
    ids=["sidecar", "sidecar, total", "header", "settings"],
)
def test_a_dose_that_is_none_is_unknown_and_flagged(describe, place, dose):
    source, flags = describe(pixel_size=1.0, **place(dose))
    assert (source.dose_per_frame, source.frame_doses) == (None, None)
    assert "dose: unknown, frames are not weighted" in flags
    # -1 and nan are not how programs write that they do not know it
    assert all("impossible and not used" in flag for flag in flags if flag.startswith("dose_per_frame"))


def test_another_source_serves_where_one_knows_no_dose(describe):
    header = replace(HEADER, frame_doses=(0.0,) * 10)
    assert describe(header=header)[0].dose_per_frame == 4.0
    assert describe(replace(TOLD, dose_per_frame=-2.0))[0].dose_per_frame == 4.0


@pytest.mark.parametrize("dose", [0, -1.0])
def test_the_settings_take_no_dose_that_is_none(dose):
    with pytest.raises(msgspec.ValidationError, match="> 0"):
        msgspec.convert({"dose_per_frame": dose}, MovieSettings)
