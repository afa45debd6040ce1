"""Sidecars as they are met: several movies in one file, odd lines, other encodings, commas, units, other names."""

import pytest

from streamer.errors import MovieMismatch
from streamer.metadata import epu, mdoc
from streamer.metadata.mdoc_kind import kind_beside
from streamer.metadata.numbers import EXPOSURE, LENGTH, MICROMETRES, VOLTS, kilovolts, number, numbers
from streamer.metadata.search import SidecarSearch
from streamer.metadata.sidecars import read_sidecar
from tests.streamer.metadata.documents import epu_xml, mdoc_text

# -------------------------------------------------------------------------------------- several frame sets


def frame_set(index: int, file: str | None, n_frames: int, kind: str = "FrameSet") -> str:
    named = "" if file is None else f"SubFramePath = D:\\frames\\day 1\\{file}\n"
    return f"[{kind} = {index}]\nNumSubFrames = {n_frames}\n{named}\n"


SETS = "Voltage = 200\n" + frame_set(0, "a.tif", 5) + frame_set(1, "b.tif", 6) + frame_set(2, "c.mrc", 7)
NOT_USED = "sidecar: it has 3 sections and names a.tif, b.tif, c.mrc, not this file: they were not used"


@pytest.mark.parametrize(
    ("movie", "n_frames"), [("a.tif", 5), ("b.tif", 6), ("B.TIF", 6), ("c.mrc", 7), ("c.tif", 7), ("b.eer", 6)]
)
def test_the_frame_set_that_names_the_file_counts(movie, n_frames):
    found = mdoc.parse(SETS, movie)
    assert (found.n_frames, found.voltage_kv, found.remarks) == (n_frames, 200, ())


@pytest.mark.parametrize("movie", ["d.tif", "aa.tif", "a_b.tif"])
def test_no_other_is_taken_for_it(movie):
    found = mdoc.parse(SETS, movie)
    assert (found.n_frames, found.voltage_kv, found.remarks) == (None, 200, (NOT_USED,))


def test_of_two_of_the_same_name_the_later_counts():
    assert mdoc.parse(SETS + frame_set(3, "a.tif", 9), "a.tif").n_frames == 9


def test_one_that_names_no_file_counts_alone_but_not_among_several():
    assert mdoc.parse(frame_set(0, None, 5), "a.tif").n_frames == 5
    several = mdoc.parse(frame_set(0, None, 5) + frame_set(1, None, 6), "a.tif")
    assert (several.n_frames, several.remarks) == (
        None,
        ("sidecar: it has 2 sections and names no file: they were not used",),
    )
    assert mdoc.parse(frame_set(0, None, 5) + frame_set(0, "a.tif", 6, "ZValue"), "a.tif").n_frames == 5


def test_a_single_one_that_names_another_file_is_used_and_told():
    """People rename movies together with their sidecars."""
    for kind in ("FrameSet", "ZValue"):
        found = mdoc.parse(frame_set(0, "before.tif", 5, kind), "after.tif")
        assert (found.n_frames, found.remarks) == (5, ("sidecar: it names before.tif, not this file",))
        assert mdoc.parse(frame_set(0, "before.tif", 5, kind), "before.tif").remarks == ()


def test_a_tilt_series_has_a_section_for_each_file():
    series = "PixelSpacing = 3\n" + "".join(frame_set(n, f"ts_{n:03d}.tif", 5 + n, "ZValue") for n in range(3))
    assert mdoc.parse(series, "ts_002.tif").n_frames == 7
    other = mdoc.parse(series, "ts_009.tif")
    assert (other.n_frames, other.pixel_size) == (None, 3)
    assert other.remarks[0].startswith("sidecar: it has 3 sections and names ts_000.tif, ts_001.tif, ts_002.tif")


# -------------------------------------------------------------------------------------------- lines, encodings


@pytest.mark.parametrize(
    "line",
    [
        "half a li",
        "# a comment",
        "[an odd section]",
        "= no key",
        "\x00\x01\x02",
        "Note = a = b",
        "----",
        "[Section = 1",
    ],
)
def test_lines_that_are_not_understood_are_skipped(line):
    whole = mdoc.parse(mdoc_text(), "a.tif")
    text = mdoc_text()
    first, *rest = text.splitlines()
    for odd in (
        f"{line}\n{text}",
        text + line,
        "\n".join([first, line, *rest]),
        "\n".join([*rest[:4], line, *rest[4:]]),
    ):
        assert mdoc.parse(odd, "a.tif") == whole


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = mdoc_text(head="T = SerialEM: Göttingen\nVoltage = 300\n")
    with (tmp_path / "a.tif.mdoc").open("wb") as file:
        file.write(text.replace("\n", end).encode(encoding))
    found = read_sidecar(tmp_path / "a.tif")
    assert (found.n_frames, found.voltage_kv, found.pixel_size, found.remarks) == (10, 300, 1.25, ())


def test_keys_are_read_in_letters_of_either_case():
    text = "voltage = 300\n[FrameSet = 0]\nPIXELSPACING = 0.83\nnumsubframes = 40\nsubframepath = D:\\f\\a.tif\n"
    found = mdoc.parse(text, "a.tif")
    assert (found.voltage_kv, found.pixel_size, found.n_frames, found.remarks) == (300.0, 0.83, 40, ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_epus_document_in_any_encoding(encoding):
    document = epu_xml(readout=(4096, 4096))
    assert epu.parse(document.encode(encoding)) == epu.parse(document.encode())
    declared = f'<?xml version="1.0" encoding="utf-16"?>{document}'
    assert epu.parse(declared.encode("utf-16")) == epu.parse(document.encode())


@pytest.mark.parametrize("prefix", ["", "so:"])
def test_epus_document_with_any_prefix_and_decimal_commas(prefix):
    document = epu_xml(pixel_size="1,66E-10", readout=(4096, 4096), custom={"AppliedDefocus": "-1,5E-06"})
    named = document.replace("<SpatialScale", f"<{prefix}SpatialScale").replace("</Spatial", f"</{prefix}Spatial")
    named = named.replace('xmlns="', 'xmlns:so="urn:any" xmlns="', 1)
    found = epu.parse(named.encode())
    assert (found.pixel_size, found.defocus_target_um) == (pytest.approx(1.66), 1.5)


def test_decimal_commas_and_units():
    found = mdoc.parse(
        mdoc_text(
            PixelSpacing="1,2827 A",
            Voltage="300 kV",
            ExposureDose="20,5 e/A^2",
            FrameDosesAndNumber="1,5 4 2,416 6",
            TargetDefocus="-1,8 um",
            StagePosition="-142,82 -457,442",
            TiltAngle="3,5 deg",
            FilterSlitAndLoss="20 0",
            ExposureTime="1,5 s",
        ),
        "a.tif",
    )
    assert (found.pixel_size, found.voltage_kv, found.dose_total) == (1.2827, 300, 20.5)
    assert found.frame_doses == (1.5,) * 4 + (2.416,) * 6
    assert (found.defocus_target_um, found.stage_x_um, found.stage_y_um) == (1.8, -142.82, -457.442)
    assert (found.tilt_deg, found.slit_width_ev, found.exposure_time_s) == (3.5, 20, 1.5)


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("1.5", None, 1.5),
        (" 1,5 ", None, 1.5),
        ("-1,5E-10", None, -1.5e-10),
        (".5", None, 0.5),
        ("5.", None, 5.0),
        ("0.1283 nm", LENGTH, 1.283),
        ("1.283 Å/px", LENGTH, 1.283),
        ("1.283 Å/pixel", LENGTH, 1.283),
        ("300000 V", VOLTS, 300.0),
        ("0.64 e/Å²", EXPOSURE, 0.64),
        ("0.64 e-/A^2", EXPOSURE, 0.64),
        ("64 e/nm2", EXPOSURE, 0.64),
        ("1500 nm", MICROMETRES, 1.5),
        ("1.5 furlongs", MICROMETRES, None),
        ("1.5 Å", None, None),
        ("1 2", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("1e400", None, None),
        ("", None, None),
        (None, None, None),
        ("a lot", None, None),
    ],
)
def test_one_number(text, units, value):
    assert number(text, units) == (None if value is None else pytest.approx(value))


def test_several_numbers():
    assert numbers("1,5 2 -3e1") == [1.5, 2.0, -30.0]
    assert numbers("1 two 3") == numbers("") == numbers(None) == []
    assert numbers("1 " * 1_000_000) == []  # more than frames can have


def test_volts_are_not_kilovolts():
    assert [kilovolts(value) for value in (300.0, 300_000.0, 80.0, None)] == [300.0, 300.0, 80.0, None]
    assert mdoc.parse(mdoc_text(Voltage=300000), "a.tif").voltage_kv == 300


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("movie", "sidecar"),
    [
        ("a.tif", "a.tif.mdoc"),
        ("a.tif", "a.mdoc"),  # Tomo5
        ("a.tif", "a.tif.MDOC"),
        ("a.tif", "a.MDOC"),
        ("a.tif", "a.mrc.mdoc"),  # a converted movie
        ("a.mrc", "a.tif.mdoc"),
        ("a.eer", "a.tiff.mdoc"),
    ],
)
def test_it_is_found_by_each_name_that_programs_give_it(tmp_path, movie, sidecar):
    (tmp_path / sidecar).write_text(mdoc_text(file=movie))
    found = read_sidecar(tmp_path / movie)
    assert (found.sidecar, found.n_frames) == (sidecar, 10)


def test_that_of_the_file_comes_before_that_of_its_stem(tmp_path):
    (tmp_path / "a.mdoc").write_text(mdoc_text(NumSubFrames=3, FrameDosesAndNumber="1 3"))
    (tmp_path / "a.tif.mdoc").write_text(mdoc_text())
    assert read_sidecar(tmp_path / "a.tif").n_frames == 10


def test_that_of_another_image_of_the_same_stem_is_not_the_movies(tmp_path):
    (tmp_path / "a.mrc.mdoc").write_text(mdoc_text(file=None))
    assert read_sidecar(tmp_path / "a.tif") is None
    (tmp_path / "a.mrc.mdoc").write_text(mdoc_text(file="b.tif"))
    assert read_sidecar(tmp_path / "a.tif") is None


def test_the_search_finds_it_too(tmp_path):
    (tmp_path / "a.mdoc").write_text(mdoc_text())
    assert SidecarSearch(None)(tmp_path / "a.tif").n_frames == 10


def test_what_has_no_line_at_all_is_refused(tmp_path):
    (tmp_path / "a.tif.mdoc").write_bytes("only words\n".encode("utf-16"))
    with pytest.raises(MovieMismatch, match="no 'key = value' line"):
        read_sidecar(tmp_path / "a.tif")


# -------------------------------------------------------------------------------------------------- shifts, values


def test_shifts_have_one_unit_under_one_name():
    by_serialem = mdoc.parse(mdoc_text(ImageShift="2.69654 -0.304661"), "a.tif")
    assert (by_serialem.image_shift_x_um, by_serialem.image_shift_y_um) == (2.69654, -0.304661)
    assert (by_serialem.beam_shift_x, by_serialem.beam_shift_y) == (None, None)
    shift = "<BeamShift><a:_x>0.011</a:_x><a:_y>-0.005</a:_y></BeamShift><TemMagnification>"
    by_epu = epu.parse(epu_xml().replace("<TemMagnification>", shift).encode())
    assert (by_epu.beam_shift_x, by_epu.beam_shift_y) == (0.011, -0.005)
    assert (by_epu.image_shift_x_um, by_epu.image_shift_y_um) == (None, None)


@pytest.mark.parametrize(
    "document",
    [
        {"ImageShift": "1250 -80"},
        {"ImageShift": "12.5 -8", "head": "T = SerialEM: JEOL CRYO ARM 300\n"},
        {"ImageShift": "12.5 -8", "head": "T = SerialEM: CRYOARM at home\n"},
        {"ImageShift": "12.5"},
        {"ImageShift": "none"},
    ],
)
def test_a_shift_that_is_not_in_micrometres_is_unknown(document):
    found = mdoc.parse(mdoc_text(**document), "a.tif")
    assert (found.image_shift_x_um, found.image_shift_y_um) == (None, None)


@pytest.mark.parametrize("detector", ["EF-Falcon", "BM-Falcon", "EF-CCD"])
def test_epus_custom_data_are_read(detector):
    custom = {
        "BinaryResult.Detector": detector,
        f"Detectors[{detector}].CountsToElectrons": "0.05",
        f"Detectors[{detector}].CommercialName": "Falcon 4i",
        f"Detectors[{detector}].EerGainReference": "C:\\ProgramData\\Gains\\20240101_EER_GainReference.gain",
        f"Detectors[{detector}].ElectronCounted": "true",
        "Detectors[BM-Ceta].CommercialName": "Ceta",
        "Aperture[C2].Name": "50",
        "PhasePlateUsed": "false",
    }
    found = epu.parse(epu_xml(custom=custom, exposure_time=3.2).encode())
    assert (found.counts_per_electron, found.electron_counting) == (20.0, True)
    assert (found.camera, found.gain_reference) == ("Falcon 4i", "20240101_EER_GainReference.gain")
    assert (found.c2_aperture_um, found.phase_plate, found.exposure_time_s) == (50, False, 3.2)


def test_what_is_told_without_the_name_of_a_detector_is_read_too():
    custom = {
        "CountsToElectrons": "0,04",
        "EerGainReference": "C:\\Gains\\a.gain",
        "DetectorCommercialName": "Falcon 4",
    }
    found = epu.parse(epu_xml(custom=custom).encode())
    assert (found.counts_per_electron, found.gain_reference, found.camera) == (25.0, "a.gain", "Falcon 4")
    both = custom | {"Detectors[EF-CCD].CountsToElectrons": "0.05"}
    assert epu.parse(epu_xml(custom=both).encode()).counts_per_electron == 20.0


def test_custom_data_of_several_detectors_are_not_guessed():
    custom = {"Detectors[A].CommercialName": "one", "Detectors[B].CommercialName": "two"}
    assert epu.parse(epu_xml(custom=custom).encode()).camera == "EF-CCD"


@pytest.mark.parametrize(("inserted", "width"), [("true", 10.0), ("false", None), ("", None)])
def test_a_slit_that_is_out_has_no_width(inserted, width):
    slit = (
        f"<EnergyFilter><EnergySelectionSlitInserted>{inserted}</EnergySelectionSlitInserted>"
        "<EnergySelectionSlitWidth>10</EnergySelectionSlitWidth></EnergyFilter><TemMagnification>"
    )
    assert epu.parse(epu_xml().replace("<TemMagnification>", slit).encode()).slit_width_ev == width
    assert mdoc.parse(mdoc_text(FilterSlitAndLoss="0 0"), "a.tif").slit_width_ev is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["Jürgen_1.tif", "Probe_5°_2.tif"])
def test_names_beyond_ascii_are_found_in_every_encoding(tmp_path, encoding, name):
    (tmp_path / name).write_bytes(b"x")
    text = mdoc_text(file=name, PixelSpacing=1.1) + mdoc_text(file="b.tif", PixelSpacing=2.2, head="")
    (tmp_path / "all.mdoc").write_bytes(text.encode(encoding))
    found = SidecarSearch()(tmp_path / name)
    assert (found.pixel_size, found.remarks) == (1.1, ())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8-sig"])
def test_what_an_mdoc_describes_is_known_in_every_encoding(tmp_path, encoding):
    text = "".join(f"[ZValue = {n}]\nTiltAngle = {3 * n}\n" for n in range(4))
    (tmp_path / "a.mrc.mdoc").write_bytes(text.encode(encoding))
    assert kind_beside(tmp_path / "a.mrc")[1] == ("tilt series", 4)


def test_a_line_that_breaks_off_does_not_take_back_an_earlier_one():
    assert mdoc.parse(mdoc_text() + "PixelSpacing = \nNumSubFrames =", "a.tif").pixel_size == 1.25


@pytest.mark.parametrize("declared", ["ISO-8859-1", "windows-1252", "Windows-1250"])
def test_epus_document_in_a_code_page_that_it_declares(declared):
    text = f'<?xml version="1.0" encoding="{declared}"?>' + epu_xml().replace("EF-CCD", "Jürgen")
    assert epu.parse(text.encode("latin-1")).pixel_size == pytest.approx(1.66)
    with pytest.raises(ValueError, match="document type"):
        epu.parse(text.replace("<Micro", "<!DOCTYPE a><Micro", 1).encode("latin-1"))


def test_an_empty_line_before_the_declaration_is_left_out():
    assert epu.parse(('\r\n<?xml version="1.0"?>' + epu_xml()).encode()).pixel_size == pytest.approx(1.66)
    with pytest.raises(ValueError, match="another encoding than it declares"):
        epu.parse(epu_xml().replace("EF-CCD", "Jürgen").encode("latin-1"))


@pytest.mark.parametrize(
    ("text", "value"), [("105000", 105e3), ("105,000", 105e3), ("1,050,000", 105e4), ("810,5", 810.5), ("82", 82.0)]
)
def test_a_magnification_may_be_written_in_thousands(text, value):
    assert mdoc.parse(mdoc_text(Magnification=text), "a.tif").magnification == value
