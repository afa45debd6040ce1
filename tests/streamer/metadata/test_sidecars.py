from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import MovieMismatch
from streamer.metadata import epu, mdoc
from streamer.metadata.sidecars import read_sidecar, session_of, with_position
from streamer.movie_record import Acquisition

SHARED = Path(__file__).parents[4] / "shared" / "data"

TYPES = 'xmlns:b="http://schemas.datacontract.org/2004/07/Fei.Applications.Common.Omp.Interface"'
EPU = """\ufeff<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects"
 xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
<CustomData xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
<a:KeyValueOfstringanyType><a:Key>Dose</a:Key><a:Value>{dose}</a:Value></a:KeyValueOfstringanyType>
<a:KeyValueOfstringanyType><a:Key>AppliedDefocus</a:Key><a:Value>-1.5E-06</a:Value></a:KeyValueOfstringanyType>
</CustomData>
<SpatialScale><pixelSize><x><numericValue>8.3E-11</numericValue></x></pixelSize></SpatialScale>
<microscopeData><acquisition><acquisitionDateTime>2024-01-01T00:00:00</acquisitionDateTime>
<camera><CameraSpecificInput xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
<a:KeyValueOfstringanyType><a:Key>SuperResolutionFactor</a:Key><a:Value>2</a:Value></a:KeyValueOfstringanyType>
<a:KeyValueOfstringanyType><a:Key>FractionationSettings</a:Key>
<a:Value TYPES>{fractions}</a:Value></a:KeyValueOfstringanyType>
</CameraSpecificInput></camera></acquisition>
<gun><AccelerationVoltage>300000</AccelerationVoltage></gun>
<optics><BeamShift xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types"><a:_x>0.01</a:_x><a:_y>-0.02</a:_y>
</BeamShift><TemMagnification><NominalMagnification>105000</NominalMagnification></TemMagnification></optics>
<stage><Position><X>1E-05</X><Y>-2E-05</Y><Z>3E-05</Z></Position></stage></microscopeData></MicroscopeImage>
""".replace("TYPES", TYPES)
EQUIDISTANT = "<b:NumberOffractions>40</b:NumberOffractions>"
RECORDED = "<Acquisition><Info><RecordedNumberOfFractions>{}</RecordedNumberOfFractions></Info></Acquisition>"


def epu_xml(fractions=EQUIDISTANT, dose="5E+21"):
    return EPU.format(fractions=fractions, dose=dose)


def tree(tmp_path, name="FoilHole_11_Data_22_33_20240101_000000_fractions.tiff"):
    data = tmp_path / "Images-Disc1" / "GridSquare_99" / "Data"
    data.mkdir(parents=True)
    return data / name


@pytest.mark.parametrize("suffix", ["_fractions.tiff", "_Fractions.mrc", ".mrc"])
def test_epu_beside_the_movie(tmp_path, suffix):
    movie = tree(tmp_path, f"FoilHole_11_Data_22_33_20240101_000000{suffix}")
    movie.with_name("FoilHole_11_Data_22_33_20240101_000000.xml").write_text(epu_xml(), "utf-8")
    found = read_sidecar(movie)
    assert found == Acquisition(
        sidecar="FoilHole_11_Data_22_33_20240101_000000.xml",
        program="EPU",
        n_frames=40,
        pixel_size=pytest.approx(0.83),
        voltage_kv=300.0,
        dose_total=pytest.approx(50.0),
        dose_per_frame=pytest.approx(1.25),
        magnification=105000.0,
        defocus_target_um=pytest.approx(1.5),
        beam_shift_x=0.01,
        beam_shift_y=-0.02,
        stage_x_um=pytest.approx(10.0),
        stage_y_um=pytest.approx(-20.0),
        stage_z_um=pytest.approx(30.0),
        super_res_factor=2,
        grid_square="99",
        foil_hole="11",
        template="22",
        acquired="2024-01-01T00:00:00",
    )


def test_fractions_of_different_length_are_counted():
    listed = "<b:DoseFractions>" + "<b:anyType/>" * 7 + "</b:DoseFractions>"
    assert epu.parse(epu_xml(listed).encode()).n_frames == 7
    assert epu.parse(epu_xml("").encode()).n_frames is None


def test_what_is_unknown_is_none_and_never_zero():
    found = epu.parse(epu_xml(dose="0").encode())
    assert found.dose_total is None
    assert found.dose_per_frame is None
    for dose in ("", "nan", "a lot", "1e400"):
        assert epu.parse(epu_xml(dose=dose).encode()).dose_total is None


def test_the_camera_knows_better_how_many_fractions_there_are(tmp_path):
    movie = tree(tmp_path)
    image = movie.with_name("FoilHole_11_Data_22_33_20240101_000000.xml")
    image.write_text(epu_xml(), "utf-8")
    movie.with_suffix(".xml").write_text(RECORDED.format(25), "utf-8")
    found = read_sidecar(movie)
    assert (found.n_frames, found.sidecar) == (25, image.name)
    assert found.dose_per_frame == pytest.approx(2.0)
    image.unlink()
    found = read_sidecar(movie)
    assert (found.n_frames, found.sidecar, found.pixel_size) == (25, movie.with_suffix(".xml").name, None)


def test_no_sidecar_is_none(tmp_path):
    assert read_sidecar(tree(tmp_path)) is None
    assert read_sidecar(tmp_path / "absent" / "a.tif") is None


def test_xml_of_others_is_no_sidecar(tmp_path):
    movie = tree(tmp_path)
    movie.with_name("FoilHole_11_Data_22_33_20240101_000000.xml").write_text("<Something/>")
    assert read_sidecar(movie) is None


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><MicroscopeImage>&b;</MicroscopeImage>'
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<MicroscopeImage>",
        epu_xml().encode()[:500],
        b"no xml at all",
        BOMB.encode(),
        BOMB.encode("utf-16"),
        BOMB.replace('"1.0"', '"1.0" encoding="cp037"').encode("cp037"),
        b"\xff\xfe\x00",
        b"<MicroscopeImage>" + b"<a/>" * 1_000_001 + b"</MicroscopeImage>",
    ],
)
def test_a_damaged_sidecar_is_a_mismatch_that_names_it(tmp_path, content):
    movie = tree(tmp_path)
    sidecar = movie.with_name("FoilHole_11_Data_22_33_20240101_000000.xml")
    sidecar.write_bytes(content)
    with pytest.raises(MovieMismatch) as caught:
        read_sidecar(movie)
    assert caught.value.where == str(sidecar)


def test_a_huge_sidecar_is_refused_unread(tmp_path):
    movie = tree(tmp_path)
    with movie.with_name(movie.name + ".mdoc").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(MovieMismatch, match="too large"):
        read_sidecar(movie)


def test_a_linked_sidecar_is_not_followed(tmp_path):
    movie = tree(tmp_path)
    (tmp_path / "elsewhere.mdoc").write_text("[FrameSet = 0]\nNumSubFrames = 3\n")
    movie.with_name(movie.name + ".mdoc").symlink_to(tmp_path / "elsewhere.mdoc")
    with pytest.raises(MovieMismatch, match="regular"):
        read_sidecar(movie)


MDOC = """T = SerialEM: somewhere    01-Jan-24  10:00:00
Voltage = 300

[FrameSet = 0]
GainReference = D:\\gains\\SuperRef_x.dm4
StagePosition = -142.82 -457.442
StageZ = -13.7196
Magnification = 33000
ExposureDose = 20
PixelSpacing = 1.25
ImageShift = 2.5 -0.5
Binning = 0.5
TargetDefocus = -4.5
SubFramePath = X:\\session\\frames\\a.tif
NumSubFrames = 10
FrameDosesAndNumber = 1 4 2 6
DateTime = 01-Jan-24  10:00:01
"""


def test_mdoc_beside_the_movie(tmp_path):
    movie = tmp_path / "a.tif"
    (tmp_path / "a.tif.mdoc").write_bytes(MDOC.replace("\n", "\r\n").encode("latin-1"))
    assert read_sidecar(movie) == Acquisition(
        sidecar="a.tif.mdoc",
        program="SerialEM",
        binning=0.5,
        n_frames=10,
        frame_doses=(1.0,) * 4 + (2.0,) * 6,
        pixel_size=1.25,
        voltage_kv=300.0,
        dose_total=20.0,
        dose_per_frame=pytest.approx(1.6),
        magnification=33000.0,
        defocus_target_um=4.5,
        image_shift_x_um=2.5,
        image_shift_y_um=-0.5,
        stage_x_um=-142.82,
        stage_y_um=-457.442,
        stage_z_um=-13.7196,
        super_res_factor=2,
        gain_reference="SuperRef_x.dm4",
        acquired="01-Jan-24  10:00:01",
    )


@pytest.mark.parametrize(
    ("line", "value", "n_frames", "per_frame"),
    [
        ("FrameDosesAndNumber", "1 4 2 6", 10, 1.6),
        ("FrameDosesAndNumber", "1 4 2 5", 10, 2.0),  # contradicts NumSubFrames: the total is divided
        ("FrameDosesAndNumber", "1 4 2", 10, 2.0),
        ("FrameDosesAndNumber", "a b", 10, 2.0),
        ("FrameDosesAndNumber", "0 10", 10, None),
        ("NumSubFrames", "", 10, 1.6),
        ("NumSubFrames", "12", 12, 20 / 12),
        ("ExposureDose", "0", 10, 1.6),
        ("Binning", "1", 10, 1.6),
    ],
)
def test_number_and_dose_of_the_frames(line, value, n_frames, per_frame):
    old = next(text for text in MDOC.splitlines() if text.startswith(line))
    found = mdoc.parse(MDOC.replace(old, f"{line} = {value}"), "a.tif")
    assert found.n_frames == n_frames
    assert found.dose_per_frame == (None if per_frame is None else pytest.approx(per_frame))
    assert found.dose_total == (None if line == "ExposureDose" else 20.0)
    assert found.super_res_factor == (1 if line == "Binning" else 2)


def test_the_frame_set_comes_before_the_sections_of_a_series():
    text = "PixelSpacing = 3\n[ZValue = 0]\nSubFramePath = D:\\x\\a.tif\nNumSubFrames = 5\n"
    text += "[ZValue = 1]\nSubFramePath = D:\\x\\b.tif\nNumSubFrames = 6\n"
    assert mdoc.parse(text, "b.tif").n_frames == 6
    assert mdoc.parse(text, "c.tif").n_frames is None
    assert mdoc.parse(text, "c.tif").pixel_size == 3
    assert mdoc.parse(text + "[FrameSet = 0]\nNumSubFrames = 9\n", "a.tif").n_frames == 9


def test_titles_are_no_sections():
    text = "[T = a title]\nVoltage = 200\n[T = another]\n[ZValue = 0]\nNumSubFrames = 5\n"
    found = mdoc.parse(text, "a.tif")
    assert (found.voltage_kv, found.n_frames) == (200, 5)


@pytest.mark.parametrize("text", ["", "\n\n", "binary \0 rubbish", "[FrameSet = 0]\nhalf a li"])
def test_what_is_no_mdoc_is_a_mismatch(tmp_path, text):
    (tmp_path / "a.tif.mdoc").write_text(text)
    with pytest.raises(MovieMismatch):
        read_sidecar(tmp_path / "a.tif")


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet=st.sampled_from("[]= \n\tNumSubFramesPixelSpacing0123456789.eE+-\\x\0\u2028"), max_size=200)
)
def test_mdoc_raises_nothing_but_value_errors(text):
    try:
        mdoc.parse(text, "a.tif")
    except ValueError:
        pass


@pytest.mark.parametrize("value", ["1E308", "1E-308", "-1", "0", "1E+400", "99999999999999999999"])
@pytest.mark.parametrize("length", ["ExposureTime", "NumberOfFrames", "MeanPixelValue", "CountsToElectrons"])
def test_no_number_makes_the_camera_s_list_fail(value, length):
    one = f"<Fraction><StartFrame>{value}</StartFrame><CountsToElectrons>{value}</CountsToElectrons>"
    one += f"<{length}>{value}</{length}><{length}>{value}</{length}></Fraction>"
    recorded = epu.read(f"<Acquisition><Info/><Fractions>{one * 3}</Fractions></Acquisition>".encode())
    for dose in ("5E+21", value):
        listed = f"<b:a><b:StartFrameNumber>{value}</b:StartFrameNumber><b:EndFrameNumber>9</b:EndFrameNumber></b:a>"
        image = epu.parse(epu_xml(f"<b:DoseFractions>{listed * 3}</b:DoseFractions>", dose).encode())
        assert epu.merge(image, recorded).n_frames == 3


@pytest.mark.parametrize("value", ["1E308", "1E-308", "-1", "0", "1E+400", "99999999999999999999", "1E308 1 1E308 1"])
@pytest.mark.parametrize("line", MDOC.splitlines()[3:])
def test_no_number_makes_an_mdoc_fail(line, value):
    key = line.partition(" = ")[0]
    assert mdoc.parse(MDOC.replace(line, f"{key} = {value}"), "a.tif").voltage_kv == 300


@settings(max_examples=100, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=4), cut=st.integers(0, 2500))
def test_xml_raises_nothing_but_value_errors(flips, cut):
    document = bytearray(epu_xml().encode())
    for place, value in flips:
        document[place] = value
    try:
        epu.parse(bytes(document[:cut]))
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("relative", "position"),
    [
        (
            "Images-Disc1/GridSquare_123/Data/FoilHole_45_Data_67_89_20240101_000000_fractions.tiff",
            ("123", "45", "67"),
        ),
        ("a/GridSquare_1/GridSquare_2/foilhole_3_data_4_x.mrc", ("2", "3", "4")),
        ("GridSquare_1/other.mrc", ("1", None, None)),
        ("FoilHole_45_Data_67_89.mrc", (None, "45", "67")),
        ("session/x_0001.tif", (None, None, None)),
        ("GridSquare_5", (None, None, None)),
    ],
)
def test_position_by_the_path(relative, position):
    assert epu.position(relative) == position
    placed = with_position(Acquisition(pixel_size=1.0), relative)
    grid_square, foil_hole, template = position
    expected = Acquisition(pixel_size=1.0)
    assert placed == replace(expected, grid_square=grid_square, foil_hole=foil_hole, template=template)


@pytest.mark.parametrize(
    ("relative", "root", "override", "session"),
    [
        ("Images-Disc1/GridSquare_1/Data/a.tiff", "supervisor_2024", "", "supervisor_2024"),
        ("mysession/Images-Disc1/GridSquare_1/Data/a.tiff", "root", "", "mysession"),
        ("images-disc2/gridsquare_1/data/a.tiff", "root", "", "root"),
        ("GridSquare_1/Data/a.tiff", "root", "", "root"),
        ("a.tif", "root", "", "root"),
        ("grid1/a.tif", "root", "named", "named"),
        ("my grid/ä/a.tif", "root", "", "my_grid"),
        ("x/a.tif", "root", "../../etc", "_./.._etc".replace("/", "_")),
        ("../a.tif", "root", "", "_."),
        ("a.tif", "", "", "session"),
        ("-rf/a.tif", "root", "", "_rf"),
        (".hidden/a.tif", "root", "", "_hidden"),
        ("new\nline\x1b/a.tif", "root", "", "new_line_"),
    ],
)
def test_sessions(relative, root, override, session):
    assert session_of(relative, root, override) == session


def test_long_session_names_stay_distinct():
    one, two = (session_of(f"{'x' * 200}{end}/a.tif", "root") for end in "ab")
    assert one != two
    assert len(one) == len(two) == 64


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_real_epu_sidecars():
    def found(name):
        return epu.parse((SHARED / "epu-xml" / f"xml_epu_{name}.xml").read_bytes())

    assert found("1_8_k2").n_frames == 40
    assert found("1_9_k2").n_frames == 50
    assert found("1_9_k2").pixel_size == pytest.approx(1.0732, abs=1e-4)
    assert found("1_9_k2").dose_per_frame == pytest.approx(1.019, abs=1e-3)
    assert found("1_9_k2").defocus_target_um == pytest.approx(0.5)
    assert found("1_9_k2").stage_x_um == pytest.approx(38.877, abs=1e-3)
    assert found("1_11_falcon_vpp").voltage_kv == 200
    for name in ("1_11_falcon_vpp", "1_8_falcon_2"):
        # What EPU asked for, listed fraction by fraction, is what the camera says it recorded.
        assert found(name).n_frames == found(f"{name}_fractions").n_frames
    assert found("1_11_falcon_frames").n_frames == 119


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_real_mdocs():
    def found(name, movie="TS_01_001_3.0.mrc"):
        return mdoc.parse((SHARED / "mdoc" / f"{name}.mdoc").read_text("latin-1"), movie)

    single = found("frame_set_single")
    assert (single.n_frames, single.voltage_kv, single.super_res_factor) == (12, 300, 2)
    assert single.dose_per_frame == pytest.approx(single.dose_total / 12, rel=1e-3)
    # After a continuous tilt series the total counts what was not saved; the frames' doses do not.
    multiple = found("frame_set_multiple")
    assert (multiple.n_frames, multiple.dose_per_frame) == (243, 0.63882)
    series = found("tilt_series")
    assert (series.n_frames, series.acquired) == (8, "30-Nov-15  15:22:37")
    assert found("montage_section").n_frames is None
