"""What programs write beside the pixels: extended headers, labels, descriptions."""

import struct

import mrcfile
import numpy as np
import pytest
import tifffile
from mrcfile.dtypes import get_ext_header_dtype

from streamer.metadata.source import describe_source
from streamer.movie_record import Acquisition
from streamer.readers import movie, remarks
from streamer.readers.files import identity_of
from streamer.records import Movie
from streamer.settings import DataPathSettings, MovieSettings

FRAMES = np.random.default_rng(0).poisson(2.0, (5, 24, 32)).astype(np.uint8)
ALL = {5, 6, 14}
"""Bits of high tension, dose and pixel size."""


def with_extended(path, kind=b"FEI1", order="<", *, known=ALL, voxel=None, records=5, **values):
    """An MRC movie by another program, with a record per frame; ``values`` by numbers of the first two differ."""
    extended = np.zeros(records, get_ext_header_dtype(kind, order))
    extended["Metadata size"], extended["Metadata version"] = extended.dtype.itemsize, 0 if kind == b"FEI1" else 2
    extended["Bitmask 1"] = sum(1 << bit for bit in known)
    told = {"HT": 300_000.0, "Dose": 42e20, "Pixel size X": 0.8245e-10, "Pixel size Y": 0.8245e-10}
    for name, value in (told | {name.replace("_", " "): value for name, value in values.items()}).items():
        extended[name] = value
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(FRAMES.astype(np.int16))
        file.set_extended_header(extended)
        file.header.exttyp = kind
        if voxel is not None:
            file.voxel_size = voxel
    return path


@pytest.mark.parametrize("kind", [b"FEI1", b"FEI2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("records", [1, 5])
def test_the_extended_header_gives_pixel_size_voltage_and_dose(tmp_path, kind, order, records):
    header = movie.read_header(with_extended(tmp_path / "a.mrc", kind, order, records=records))
    assert header.pixel_size == pytest.approx(0.8245)
    assert header.voltage_kv == pytest.approx(300.0)
    assert header.frame_doses == pytest.approx((8.4,) * 5)
    assert header.flags == ()


@pytest.mark.parametrize(("bit", "field"), [(5, "voltage_kv"), (6, "frame_doses"), (14, "pixel_size")])
def test_a_field_that_the_mask_does_not_name_is_unknown(tmp_path, bit, field):
    header = movie.read_header(with_extended(tmp_path / "a.mrc", known=ALL - {bit}))
    known = {name for name in ("voltage_kv", "frame_doses", "pixel_size") if getattr(header, name) is not None}
    assert known == {"voltage_kv", "frame_doses", "pixel_size"} - {field}


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), [1e-10, 2e-10, 1e-10, 1e-10, 1e-10]])
def test_what_is_no_value_of_the_movie_is_unknown(tmp_path, value):
    assert movie.read_header(with_extended(tmp_path / "a.mrc", Pixel_size_X=value)).pixel_size is None


@pytest.mark.parametrize("dose", [1.1e20, 3e23])
def test_a_dose_that_no_exposure_has_is_not_spread_over_the_frames(tmp_path, dose):
    assert movie.read_header(with_extended(tmp_path / "a.mrc", Dose=dose)).frame_doses is None


def test_a_cell_that_says_otherwise_is_said(tmp_path):
    header = movie.read_header(with_extended(tmp_path / "a.mrc", voxel=1.649))
    assert header.pixel_size == pytest.approx(0.8245)
    assert header.flags == ("pixel_size: the file's extended header says 0.8245, its cell says 1.649",)
    assert movie.read_header(with_extended(tmp_path / "a.mrc", voxel=0.825)).flags == ()


@pytest.mark.parametrize("kind", [b"SERI", b"AGAR", b"\0\0\0\0", b"FEI9"])
def test_other_extended_headers_are_not_read(tmp_path, kind):
    path = with_extended(tmp_path / "a.mrc")
    data = bytearray(path.read_bytes())
    data[104:108] = kind
    path.write_bytes(data)
    header = movie.read_header(path)
    assert (header.pixel_size, header.voltage_kv, header.frame_doses) == (None, None, None)


@pytest.mark.parametrize("size", [0, 3, 767, -1, 2**31 - 1])
def test_a_damaged_extended_header_is_unknown(size):
    assert remarks.of_extended_header(b"FEI1", struct.pack("<i", size) + bytes(900), 5) == remarks.Remarks()
    assert remarks.of_extended_header(b"FEI1", bytes(10), 5) == remarks.Remarks()


def test_the_files_word_reaches_the_record_and_yields_to_the_others(tmp_path):
    path = with_extended(tmp_path / "a.mrc", voxel=1.649)
    header = movie.read_header(path)

    def described(told, **settings):
        found = Movie(path=str(path), relative="a.mrc", session="s", identity=identity_of(path), acquisition=told)
        return describe_source(found, header, DataPathSettings(movie=MovieSettings(**settings)), None)

    source, flags = described(Acquisition())
    assert (source.pixel_size, source.voltage_kv) == (pytest.approx(0.8245), pytest.approx(300.0))
    assert source.dose_per_frame == pytest.approx(8.4)
    assert header.flags[0] in flags
    assert not any("voltage" in flag or "dose" in flag for flag in flags)
    source, flags = described(Acquisition(voltage_kv=200.0))
    assert source.voltage_kv == 200.0
    assert "voltage_kv: sidecar says 200, header says 300" in flags


@pytest.mark.parametrize(
    ("label", "cell", "pixel_size", "flags"),
    [
        ("Pixel size: 0.0825 nm", 0.0, 0.825, 0),
        ("pixel spacing = 82.5 pm", 0.0, 0.825, 0),
        ("SerialEM: Pixel size 8.25e-11 m", 0.0, 0.825, 0),
        ("voxel size 0.825 Angstroms", 0.825, 0.825, 0),
        ("Pixel size in nm", 0.0825, 0.825, 0),
        ("units: nanometers", 0.0825, 0.825, 0),
        ("cell dimensions are in micrometers", 0.0000825, 0.825, 0),
        ("pixel size: 0.825 A", 1.65, 0.825, 1),
        ("converted to mode 6 by hand, in 3 m", 0.825, 0.825, 0),
        ("unit test of a program", 0.825, 0.825, 0),
        ("Pixel size in nm: 0.0825", 0.825, 0.825, 0),  # the unit of this number, not of the cell
        ("pixel size [nm] = 0.0825", 0.0, 0.825, 0),
        ("Pixel size in nm", 0.825, 8.25, 1),  # which the cell may mean, or not
        ("pixel size: 0,825 A", 0.0, 0.825, 0),
        ("0.825 A/pixel", 0.0, 0.825, 0),
        ("Pixel size 1.0 A", 0.0, 1.0, 0),
        ("unbinned pixel size 0.4125 A", 0.825, 0.825, 0),
        ("Pixel size 0.53 A unbinned", 1.06, 1.06, 0),
        ("pixel size: 0.53 A (super-resolution)", 1.06, 1.06, 0),
        ("Pixel size 1.06 A, physical pixel size 5 um", 0.0, 1.06, 0),
        ("camera pixel size 5 um, pixel size 0.825 A", 0.0, 0.825, 0),
        ("pixel size 0.4125 A, after binning pixel size 0.825 A", 0.825, 0.825, 0),
    ],
)
def test_labels_with_units(tmp_path, label, cell, pixel_size, flags):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(FRAMES.astype(np.int16))
        file.voxel_size = cell
        file.add_label(label)
    header = movie.read_header(tmp_path / "a.mrc")
    assert header.pixel_size == pytest.approx(pixel_size)
    assert len(header.flags) == flags


@pytest.mark.parametrize(
    ("unit", "per_px"),
    [
        ("nm", 0.0825),
        ("microns", 8.25e-5),
        ("nanometers", 0.0825),
        ("\\u00B5m", 8.25e-5),
        ("Angstrom", 0.825),
        ("pm", 82.5),
    ],
)
def test_the_unit_of_imagej(tmp_path, unit, per_px):
    text = f"ImageJ=1.54f\nimages=5\nunit={unit}\n"
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for frame in FRAMES:
            file.write(
                frame,
                description=text,
                metadata=None,
                contiguous=False,
                resolution=(1 / per_px, 1 / per_px),
                resolutionunit=1,
            )
    assert movie.read_header(tmp_path / "a.tif").pixel_size == pytest.approx(0.825, rel=1e-3)


@pytest.mark.parametrize("unit", ["pixel", "inch", "", "mm per second"])
def test_units_that_are_none_are_unknown(tmp_path, unit):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(
            FRAMES[0], description=f"ImageJ=1.5\nunit={unit}\n", metadata=None, resolution=(2, 2), resolutionunit=1
        )
    assert movie.read_header(tmp_path / "a.tif").pixel_size is None


@pytest.mark.parametrize(("size", "unit"), [(1.0, "Å"), (0.1, "nm")])
def test_a_pixel_size_of_exactly_1_that_somebody_wrote(tmp_path, size, unit):
    named = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, ome=True, metadata={"axes": "TYX"} | named)
    assert movie.read_header(tmp_path / "a.tif").pixel_size == pytest.approx(1.0)


@pytest.mark.parametrize(("size", "unit"), [(0.0825, "nm"), (0.825, "Å"), (8.25e-5, "µm"), (8.25e-5, None)])
def test_the_pixel_size_of_ome(tmp_path, size, unit):
    named = {"PhysicalSizeX": size} | ({} if unit is None else {"PhysicalSizeXUnit": unit})
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, ome=True, metadata={"axes": "TYX"} | named)
    assert movie.read_header(tmp_path / "a.tif").pixel_size == pytest.approx(0.825)
