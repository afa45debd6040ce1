"""Doses of single frames, contradictions between them and the total, raw frames, what came before the movie."""

from dataclasses import replace

import pytest

from streamer import dose
from streamer.metadata import epu, mdoc
from streamer.metadata.doses import choose_doses
from streamer.metadata.source import describe_source
from streamer.movie_record import Acquisition
from streamer.readers.movie import identity_of
from streamer.records import Movie, MovieHeader
from streamer.settings import DataPathSettings, MovieSettings
from tests.streamer.metadata.documents import epu_xml, mdoc_text, recorded_xml

TIFF = MovieHeader(format="tiff", n_frames=10, height=80, width=90, dtype="uint8")
EER = replace(TIFF, format="eer", n_frames=40, n_raw_frames=1000, proves_its_length=True)


def chosen(told: Acquisition, header: MovieHeader = TIFF, set_by_user: float | None = None):
    flags: list[str] = []
    mean, each = choose_doses(told, header, set_by_user, 1.25, flags)
    return mean, each, flags


def by_serialem(header: MovieHeader = TIFF, **document: object):
    return chosen(mdoc.parse(mdoc_text(**document), "a.tif"), header)


def by_epu(header: MovieHeader = TIFF, **document: object):
    return chosen(epu.parse(epu_xml(**document).encode()), header)


# ------------------------------------------------------------------------------------------ contradictions


@pytest.mark.parametrize(
    ("frames", "total", "mean"),
    [
        ("0.142857 10", 10.0, 0.142857),  # a seventh
        ("2 10", 40.0, 2.0),
        ("3 10", 20.0, 3.0),  # more than all
        ("1 5 3 5", 100.0, 2.0),
    ],
)
def test_frames_that_do_not_add_up_to_the_total_are_told(frames, total, mean):
    found, _, flags = by_serialem(FrameDosesAndNumber=frames, ExposureDose=total)
    assert found == pytest.approx(mean)
    assert flags == [
        f"dose: the sidecar's frames add up to {10 * mean:.4g} e⁻/Å², its total is {total:.4g}: that of the frames was "
        "used"
    ]


@pytest.mark.parametrize(
    ("frames", "total"), [("2 10", 20.0), ("2 10", 20.4), ("2 10", 19.5), ("2 10", 0), ("1 5 3 5", 20)]
)
def test_frames_that_add_up_raise_no_flag(frames, total):
    assert by_serialem(FrameDosesAndNumber=frames, ExposureDose=total)[2] == []


def test_the_users_dose_holds_for_all_frames():
    told = mdoc.parse(mdoc_text(FrameDosesAndNumber="1 5 3 5", ExposureDose=100), "a.tif")
    assert chosen(told, set_by_user=2.5) == (2.5, None, ["dose_per_frame: settings says 2.5, sidecar says 2"])


@pytest.mark.parametrize(
    ("frames", "flag"),
    [
        ("2 9", "is of 9 frames, its NumSubFrames 10: its total was divided evenly"),
        ("2 4 1 7", "is of 11 frames, its NumSubFrames 10: its total was divided evenly"),
        ("2 ten", "cannot be read: 2 ten"),
        ("2 4 1", "cannot be read: 2 4 1"),
    ],
)
def test_a_list_that_does_not_fit_is_not_used_and_told(frames, flag):
    told = mdoc.parse(mdoc_text(FrameDosesAndNumber=frames, ExposureDose=30), "a.tif")
    assert chosen(told)[:2] == (3.0, None)
    assert told.remarks == (f"dose: the sidecar's FrameDosesAndNumber {flag}",)


# -------------------------------------------------------------------------------------------- uneven doses


@pytest.mark.parametrize(
    ("frames", "doses"),
    [
        ("1 4 2 6", (1.0,) * 4 + (2.0,) * 6),
        ("0.5 1 1.5 1 2 8", (0.5, 1.5) + (2.0,) * 8),
        ("0,5 5 3,5 5", (0.5,) * 5 + (3.5,) * 5),
    ],
)
def test_serialems_are_kept_frame_by_frame_and_weighted_so(frames, doses):
    mean, each, _ = by_serialem(FrameDosesAndNumber=frames, ExposureDose=sum(doses))
    assert each == doses
    assert mean == pytest.approx(sum(doses) / 10)
    received = dose.frame_exposures(10, mean, each)
    assert received.tolist() == pytest.approx([sum(doses[: n + 1]) for n in range(10)])


@pytest.mark.parametrize(
    ("fractions", "doses", "before"),
    [
        # 50 e⁻/Å² up to the last hardware frame
        ([(1, 1), (2, 3), (4, 10)], (5.0, 10.0, 35.0), None),
        ([(1, 10), (11, 20), (21, 25)], (20.0, 20.0, 10.0), None),
        ([(3, 4), (5, 10)], (10.0, 30.0), 10.0),  # the first two frames are not kept
    ],
)
def test_epus_fractions_of_unequal_length_have_their_own(fractions, doses, before):
    told = epu.parse(epu_xml(fractions=fractions).encode())
    mean, each, flags = chosen(told, replace(TIFF, n_frames=len(fractions)))
    assert each == pytest.approx(doses)
    assert flags == []
    assert mean == pytest.approx(sum(doses) / len(doses))
    assert told.pre_exposure == (None if before is None else pytest.approx(before))


def test_what_is_missing_between_epus_fractions_is_told():
    assert by_epu(replace(TIFF, n_frames=2), fractions=[(1, 2), (9, 10)]) == (
        10.0,
        None,
        ["dose: the sidecar's frames add up to 20 e⁻/Å², its total is 50: that of the frames was used"],
    )


def test_equal_fractions_are_one_number():
    for fractions in (5, [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]):
        assert by_epu(replace(TIFF, n_frames=5), fractions=fractions) == (10.0, None, [])


def merged(image: str, recorded: str) -> Acquisition | None:
    return epu.merge(epu.parse(image.encode()), epu.read(recorded.encode()))


def test_the_cameras_times_hold_against_what_epu_asked_for():
    fractions = [{"ExposureTime": 0.1, "NumberOfFrames": 4}, {"ExposureTime": 0.3, "NumberOfFrames": 12}]
    told = merged(epu_xml(fractions=2, exposure_time=0.8), recorded_xml(fractions))
    # half of the exposure time is in the fractions, and so is half of the dose
    assert told.frame_doses == pytest.approx((50 * 0.1 / 0.8, 50 * 0.3 / 0.8))
    assert told.dose_per_frame == pytest.approx(12.5)
    told = merged(epu_xml(fractions=2, exposure_time=0.4), recorded_xml(fractions))
    assert told.frame_doses == pytest.approx((12.5, 37.5))
    assert chosen(told, replace(TIFF, n_frames=2))[2] == []


def test_without_times_the_dose_is_divided_by_the_hardware_frames():
    fractions = [{"StartFrame": 2, "NumberOfFrames": 2}, {"StartFrame": 4, "NumberOfFrames": 6}]
    told = merged(epu_xml(fractions=2), recorded_xml(fractions))
    assert told.frame_doses == pytest.approx((10.0, 30.0))
    assert told.pre_exposure == pytest.approx(10.0)
    # fewer than asked for, and no list that fits: evenly
    told = merged(epu_xml(fractions=[(1, 1), (2, 9)]), recorded_xml([], RecordedNumberOfFractions=1))
    assert (told.n_frames, told.dose_per_frame, told.frame_doses) == (1, 50.0, None)


def test_a_camera_that_counts_more_than_there_was_is_told():
    fractions = [{"MeanPixelValue": 800, "PixelValueToCameraCounts": 2, "CountsToElectrons": 0.05}] * 2
    told = merged(epu_xml(fractions=2, dose=50), recorded_xml(fractions))
    # 2 × 80 e⁻/px at 1.25 Å/px
    assert chosen(told, replace(TIFF, n_frames=2))[2] == [
        "dose: the sidecar says 50 e⁻/Å², but the camera counted 102.4"
    ]
    assert chosen(replace(told, dose_total=101.0, dose_per_frame=50.5), replace(TIFF, n_frames=2))[2] == []


def test_what_the_camera_counted_serves_where_nobody_tells_a_dose():
    fractions = [{"MeanPixelValue": 800, "CountsToElectrons": 0.05}] * 2
    told = merged(epu_xml(fractions=2, dose=None), recorded_xml(fractions, GainCorrection="On", ElectronCounting="Off"))
    assert (told.counts_per_electron, told.gain_corrected, told.electron_counting) == (20.0, True, False)
    mean, each, flags = chosen(told, replace(TIFF, n_frames=2))
    assert (mean, each) == (pytest.approx(40 / 1.25**2), None)
    assert flags == [
        "dose: only what the camera counted is known, 25.6 e⁻/Å² per frame: too little by what the specimen held back; "
        "set movie.dose_per_frame"
    ]
    # with a dose, it only confirms
    assert chosen(replace(told, dose_total=60.0), replace(TIFF, n_frames=2)) == (30.0, None, [])


@pytest.mark.parametrize(
    "custom",
    [
        {"DoseOnCamera": 62.5},
        {"Detectors[EF-CCD].TotalDose": 62.5},
        {"Detectors[EF-CCD].DoseRate": 25, "Detectors[EF-CCD].ExposureTime": 2.5},
    ],
)
def test_so_does_what_epu_says_of_the_camera(custom):
    mean, _, flags = by_epu(dose=None, custom=custom)
    assert mean == pytest.approx(62.5 / 1.25**2 / 10)
    assert flags[0].startswith("dose: only what the camera counted is known, 4 e⁻/Å² per frame")
    assert by_epu(dose=50.0, custom=custom) == (5.0, None, [])


# --------------------------------------------------------------------------------------- raw frames of EER


@pytest.mark.parametrize(
    ("frames", "total"),
    [
        ("0.05 1000", 50.0),
        ("0.05 1000", 0),  # only the raw frames' dose is known: it is not that of our fractions
        (None, 50.0),
    ],
)
def test_raw_frames_are_not_taken_for_fractions(frames, total):
    found = by_serialem(EER, NumSubFrames=1000, FrameDosesAndNumber=frames, ExposureDose=total)
    assert found == (pytest.approx(50.0 / 40), None, [])


def test_fractions_of_another_program_are_not_taken_for_ours():
    assert by_serialem(EER, NumSubFrames=25, FrameDosesAndNumber="2 25", ExposureDose=0)[0] == pytest.approx(1.25)
    assert by_epu(EER, fractions=25)[0] == pytest.approx(1.25)


def test_uneven_raw_frames_are_added_up_to_our_fractions():
    header = replace(EER, n_frames=4, n_raw_frames=100)
    mean, each, _ = by_serialem(header, NumSubFrames=100, FrameDosesAndNumber="0.1 30 0.4 70", ExposureDose=31)
    assert each == pytest.approx((2.5, 0.5 + 8.0, 10.0, 10.0))
    assert mean == pytest.approx(31 / 4)
    left_out = replace(header, n_frames=3, n_raw_frames_left_out=25)
    mean, each, flags = by_serialem(left_out, NumSubFrames=100, FrameDosesAndNumber="0.1 30 0.4 70", ExposureDose=31)
    assert each == pytest.approx((2.5, 8.5, 10.0))
    assert flags == ["eer: 25 raw frames that do not fill a fraction are left out"]


def test_fractions_of_unequal_length_have_unequal_doses():
    header = replace(EER, n_frames=3, n_raw_frames=10, fraction_sizes=(3, 3, 4))
    assert by_serialem(header, FrameDosesAndNumber="2 10", ExposureDose=20)[:2] == (
        pytest.approx(20 / 3),
        pytest.approx((6.0, 6.0, 8.0)),
    )
    uneven = by_serialem(header, FrameDosesAndNumber="1 5 3 5", ExposureDose=20)[1]
    assert uneven == pytest.approx((3.0, 5.0, 12.0))
    told = mdoc.parse(mdoc_text(FrameDosesAndNumber="2 10", ExposureDose=20), "a.tif")
    assert chosen(told, header, set_by_user=10.0)[:2] == (10.0, pytest.approx((9.0, 9.0, 12.0)))


def test_a_dose_of_frames_that_are_not_counted_says_nothing_of_fractions():
    assert chosen(Acquisition(dose_per_frame=0.05), EER) == (None, None, [])


def test_the_movies_own_doses_hold_and_a_sidecar_that_differs_is_told():
    header = replace(EER, n_frames=4, n_raw_frames=100, frame_doses=(5.0, 5.0, 10.0, 10.0))
    told = mdoc.parse(mdoc_text(NumSubFrames=100, FrameDosesAndNumber="0.4 100", ExposureDose=40), "a.tif")
    assert chosen(told, header) == (7.5, (5.0, 5.0, 10.0, 10.0), ["dose_per_frame: header says 7.5, sidecar says 10"])


# --------------------------------------------------------------------------------------------- pre-exposure


@pytest.fixture
def described(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"frames")

    def run(told: Acquisition, **settings: object):
        movie = Movie(path=str(path), relative="a.tif", session="s", identity=identity_of(path), acquisition=told)
        source, flags = describe_source(movie, TIFF, DataPathSettings(movie=MovieSettings(**settings)), None)
        return source.pre_exposure, [flag for flag in flags if flag.startswith("pre_exposure")]

    return run


@pytest.mark.parametrize(
    ("lines", "before"),
    [
        ({"PriorRecordDose": 15.5}, 15.5),
        ({"PriorRecordDose": "15,5"}, 15.5),
        ({"DE12-PreexposureTime(s)": 0.5, "ExposureTime": 2}, 5.0),
        ({"PriorRecordDose": 15.5, "DE12-PreexposureTime(s)": 0.5, "ExposureTime": 2}, 20.5),
        ({"PriorRecordDose": 0}, 0.0),
        ({}, 0.0),
    ],
)
def test_what_came_before_is_read(described, lines, before):
    told = mdoc.parse(mdoc_text(**lines), "a.tif")
    assert described(told) == (before, [])
    assert told.pre_exposure == (before or None)


def test_epus_pre_exposure_is_at_the_rate_of_the_exposure(described):
    document = epu_xml(exposure_time=2, camera="<PreExposureTime>0.5</PreExposureTime>")
    assert described(epu.parse(document.encode())) == (12.5, [])


def test_the_users_pre_exposure_holds_and_a_sidecar_that_differs_is_told(described):
    told = mdoc.parse(mdoc_text(PriorRecordDose=15.5), "a.tif")
    assert described(told, pre_exposure=3.0) == (3.0, ["pre_exposure: settings says 3, sidecar says 15.5"])
    assert described(told, pre_exposure=0.0) == (0.0, ["pre_exposure: settings says 0, sidecar says 15.5"])
    assert described(told, pre_exposure=15.5) == (15.5, [])
    assert described(Acquisition(pixel_size=1.0), pre_exposure=3.0) == (3.0, [])


@pytest.mark.parametrize(("whole", "n", "is_doubtful"), [(3.0, 10, True), (1.2, 40, True), (40.0, 40, False)])
def test_an_mrc_headers_dose_is_doubtful_where_it_could_be_that_of_a_frame(whole, n, is_doubtful):
    header = replace(TIFF, format="mrc", n_frames=n, frame_doses=(whole / n,) * n)
    mean, _, flags = chosen(Acquisition(), header)
    assert mean == pytest.approx(whole / n)
    told = [
        f"dose: the header's {whole:g} e⁻/Å² was taken for that of all frames; if it is that of one, set "
        f"movie.dose_per_frame = {whole:g}"
    ]
    assert flags == (told if is_doubtful else [])
    # a sidecar decides
    assert chosen(Acquisition(n_frames=n, dose_total=whole), header)[2] == []


def test_electrons_per_pixel_of_an_image_of_another_size_say_nothing():
    """Of its pixels or the camera's, four times as many or not: nobody knows."""
    told = Acquisition(electrons_per_pixel=40.0, image_height=TIFF.height // 2, image_width=TIFF.width // 2)
    assert chosen(told, TIFF)[0] is None
    same = replace(told, image_height=TIFF.width, image_width=TIFF.height)
    assert chosen(same, TIFF)[0] == pytest.approx(40.0 / 1.25**2 / TIFF.n_frames)
