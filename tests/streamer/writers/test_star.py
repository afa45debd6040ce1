import os
import shutil
import subprocess

import gemmi
import numpy as np
import pytest

from streamer.movie_record import MovieQuality, MovieRecord, MovieSource, OutputFile, SuperResolutionVerdict
from streamer.writers.mrc import encode_image
from streamer.writers.star import (
    MicrographRow,
    Optics,
    coordinates_star,
    micrograph_row,
    micrographs_star,
    motion_star,
)

OPTICS = Optics(original_pixel_size=0.83, pixel_size=1.66, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1)


def row(name="movies/a.tif/r1/a", optics=OPTICS, **motion):
    return MicrographRow(
        micrograph=f"{name}.mrc",
        motion=f"{name}.star",
        even=f"{name}_EVN.mrc",
        odd=f"{name}_ODD.mrc",
        optics=optics,
        **{"total_motion_angstrom": 8.97, "early_motion_angstrom": 2.5, "late_motion_angstrom": 6.47} | motion,
    )


def table(text, block, *labels):
    # gemmi calls a block without a name " ".
    found = gemmi.cif.read_string(text).find_block(block or " ").find([f"_{label}" for label in labels])
    return [[gemmi.cif.as_string(value) for value in line] for line in found]


def test_micrographs_read_back():
    text = micrographs_star([row(), row("movies/b.tif/r2/b", total_motion_angstrom=1.0)])
    assert table(text, "micrographs", "rlnMicrographName", "rlnMicrographMetadata", "rlnOpticsGroup") == [
        ["movies/a.tif/r1/a.mrc", "movies/a.tif/r1/a.star", "1"],
        ["movies/b.tif/r2/b.mrc", "movies/b.tif/r2/b.star", "1"],
    ]
    assert table(text, "micrographs", "rlnMicrographNameEven", "rlnMicrographNameOdd")[0] == [
        "movies/a.tif/r1/a_EVN.mrc",
        "movies/a.tif/r1/a_ODD.mrc",
    ]
    motion = table(text, "micrographs", "rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate")
    assert [[float(value) for value in line] for line in motion] == [[8.97, 2.5, 6.47], [1.0, 2.5, 6.47]]


def test_one_optics_group_for_each_distinct_optics():
    other = Optics(original_pixel_size=0.83, pixel_size=1.66, voltage_kv=200.0, cs_mm=2.7, amplitude_contrast=0.1)
    text = micrographs_star([row("a"), row("b", other), row("c"), row("d", other)])
    assert [line[0] for line in table(text, "micrographs", "rlnOpticsGroup")] == ["1", "2", "1", "2"]
    optics = table(
        text,
        "optics",
        *("rlnOpticsGroupName", "rlnOpticsGroup", "rlnMicrographOriginalPixelSize", "rlnVoltage"),
        *("rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMicrographPixelSize"),
    )
    assert [[line[0], *map(float, line[1:])] for line in optics] == [
        ["opticsGroup1", 1, 0.83, 300, 2.7, 0.1, 1.66],
        ["opticsGroup2", 2, 0.83, 200, 2.7, 0.1, 1.66],
    ]


def test_the_head_is_that_of_relion():
    assert "\n# version 30001\n\ndata_optics\n\nloop_ \n_rlnOpticsGroupName #1 \n" in micrographs_star([row()])


def test_what_is_left_out_is_said():
    assert "#" not in micrographs_star([row()]).splitlines()[0]
    text = micrographs_star([row()], left_out=3)
    assert text.startswith("# 3 finished movies are left out")
    assert len(table(text, "micrographs", "rlnMicrographName")) == 1


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("plain/a-b_c.mrc", False),
        ("with space/a.mrc", True),
        ("#hash", True),
        ("data_2024/a.mrc", True),
        ("DATA_2024/a.mrc", True),
        ("loop_x", True),
        ("_x", True),
        (";x", True),
        ("'x", True),
        ("it's", False),
        ("a#b", False),
        ("mässig/a.mrc", True),
        ("", True),
    ],
)
def test_quotes_only_where_needed(name, quoted):
    text = micrographs_star([row(name)])
    word = f"{name}.mrc"
    assert (f'"{word}"' in text) is quoted or name == ""
    assert table(text, "micrographs", "rlnMicrographName") == [[word]]


@pytest.mark.parametrize("name", ["new\nline", 'a"b', "\x1b[31m", "tab\t", "\udcff", "\u2028"])
def test_names_that_star_cannot_hold(name):
    with pytest.raises(ValueError, match="STAR"):
        micrographs_star([row(name)])
    assert micrograph_row(record(name=name)) is None


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="STAR"):
        micrographs_star([row(total_motion_angstrom=float("nan"))])


def record(*, voltage_kv=300.0, name="a", roles=("micrograph", "even", "odd", "motion", "thumbnail")):
    suffix = {"even": "_EVN.mrc", "odd": "_ODD.mrc", "motion": ".star", "thumbnail": "_thumbnail.png"}
    outputs = [
        OutputFile(role=role, path=f"movies/{name}{suffix.get(role, '.mrc')}", bytes=1, sha256="0", pixel_size=1.66)
        for role in roles
    ]
    source = MovieSource(
        path="a.tif",
        bytes=1,
        mtime_ns=0,
        fingerprint="0",
        format="tiff",
        n_frames=2,
        height=4,
        width=5,
        evidence="sidecar",
        pixel_size=0.83,
        voltage_kv=voltage_kv,
        cs_mm=2.7,
        amplitude_contrast=0.1,
        dose_per_frame=1.0,
        pre_exposure=0.0,
        gain=None,
    )
    metrics = MovieQuality(
        shifts_yx_px=[[0, 0], [1, 2]],
        total_motion_angstrom=3.0,
        early_motion_angstrom=1.0,
        late_motion_angstrom=2.0,
        motion_information=100.0,
        motion_trusted=True,
        mean_counts=1.0,
        n_hot_pixels=0,
        snr_half=None,
        ssnr_full=None,
        frc_resolution_angstrom=None,
        snbr_half_wiener=None,
        snbr_half_denoised=None,
        band_angstrom=[100.0, 6.0],
        sr=SuperResolutionVerdict(verdict="not tried", reason=""),
    )
    return MovieRecord(movie_id="0", session="s", state="done", source=source, metrics=metrics, outputs=outputs)


def test_a_record_becomes_a_row():
    assert micrograph_row(record()) == row(
        "movies/a", total_motion_angstrom=3.0, early_motion_angstrom=1.0, late_motion_angstrom=2.0
    )


def test_records_that_cannot_be_rows():
    assert micrograph_row(record(voltage_kv=None)) is None
    assert micrograph_row(record(roles=("micrograph", "even", "odd"))) is None
    assert micrograph_row(MovieRecord(movie_id="0", session="s", state="failed")) is None


def motion(**options):
    return motion_star(
        **{
            "movie": "a.tif",
            "n_frames": 3,
            "height": 40,
            "width": 50,
            "shifts_yx_px": [[0.0, 0.0], [1.5, -2.5], [-0.0001, 30.0]],
            "original_pixel_size": 0.83,
        }
        | options
    )


def test_motion_reads_back_x_before_y_from_frame_1():
    text = motion(
        voltage_kv=300.0,
        dose_per_frame=1.25,
        pre_exposure=0.5,
        gain="gain.mrc",
        binning=2,
        hot_pixels_yx=np.array([[7, 9], [11, 13]]),
    )
    block = gemmi.cif.read_string(text).find_block("general")
    found = {item.pair[0]: gemmi.cif.as_string(item.pair[1]) for item in block if item.pair}
    assert found["_rlnMicrographMovieName"] == "a.tif"
    assert found["_rlnMicrographGainName"] == "gain.mrc"
    numbers = {key: float(value) for key, value in found.items() if "Name" not in key}
    assert numbers == {
        "_rlnImageSizeX": 50,
        "_rlnImageSizeY": 40,
        "_rlnImageSizeZ": 3,
        "_rlnMicrographBinning": 2,
        "_rlnMicrographOriginalPixelSize": 0.83,
        "_rlnMicrographDoseRate": 1.25,
        "_rlnMicrographPreExposure": 0.5,
        "_rlnVoltage": 300,
        "_rlnMicrographStartFrame": 1,
        "_rlnMotionModelVersion": 0,
    }
    labels = ("rlnMicrographFrameNumber", "rlnMicrographShiftX", "rlnMicrographShiftY")
    shifts = [[float(value) for value in line] for line in table(text, "global_shift", *labels)]
    assert shifts == [[1, 0, 0], [2, -2.5, 1.5], [3, 30, -0.0001]]
    hot = table(text, "hot_pixels", "rlnCoordinateX", "rlnCoordinateY")
    assert [[float(value) for value in line] for line in hot] == [[9, 7], [13, 11]]


def test_what_is_unknown_is_left_out_of_the_motion():
    text = motion()
    for label in ("rlnMicrographGainName", "rlnMicrographDoseRate", "rlnVoltage", "hot_pixels"):
        assert label not in text


def test_the_first_frame_is_the_origin():
    text = motion(shifts_yx_px=[[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    labels = ("rlnMicrographShiftX", "rlnMicrographShiftY")
    shifts = [[float(value) for value in line] for line in table(text, "global_shift", *labels)]
    assert shifts == [[0, 0], [2, 1], [-2, -1]]


def test_a_shift_for_each_frame():
    with pytest.raises(ValueError, match="3 shifts"):
        motion(shifts_yx_px=[[0.0, 0.0]])


def test_coordinates_read_back():
    text = coordinates_star([10.5, 20.0], [30.0, 40.0], [0.9, 1.234e-5])
    found = table(text, "", "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit")
    assert [[float(value) for value in line] for line in found] == [[10.5, 30, 0.9], [20, 40, 1.234e-5]]
    assert "rlnClassNumber" not in text
    assert table(coordinates_star([1], [2], [3], class_number=4), "", "rlnClassNumber") == [["4"]]
    assert table(coordinates_star([], [], []), "", "rlnCoordinateX") == []
    with pytest.raises(ValueError, match="zip"):
        coordinates_star([1], [2], [])


def relion(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION is not installed")
def test_relion_reads_the_micrographs(tmp_path):
    rows = [row(), row("data_x/with space/b"), row("c", Optics(**{**vars_of(OPTICS), "voltage_kv": 200.0}))]
    (tmp_path / "micrographs.star").write_text(micrographs_star(rows, left_out=2))
    relion("relion_star_handler", "--i", "micrographs.star", "--o", "out.star", cwd=tmp_path)
    text = (tmp_path / "out.star").read_text()
    assert text.count("opticsGroup") == 2
    assert [line[0] for line in table(text, "micrographs", "rlnMicrographName")] == [row.micrograph for row in rows]


def vars_of(optics):
    return {name: getattr(optics, name) for name in Optics.__slots__}


@pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION is not installed")
def test_relion_extracts_particles_from_our_micrograph(tmp_path):
    """Micrograph, table and coordinates together: the extracted pixels are those at the coordinates."""
    image = np.random.default_rng(0).normal(size=(128, 160)).astype(np.float32)
    directory = tmp_path / "movies"
    directory.mkdir()
    (directory / "a.mrc").write_bytes(encode_image(image, pixel_size=1.66, labels=["a"]))
    (directory / "a_pick.star").write_text(coordinates_star([40, 100], [30, 70], [1.0, 0.5]))
    (tmp_path / "micrographs.star").write_text(micrographs_star([row("movies/a")]))
    relion(
        *("relion_preprocess", "--i", "micrographs.star", "--coord_suffix", "_pick.star", "--coord_dir", "."),
        *("--part_star", "particles.star", "--part_dir", "out/", "--extract", "--extract_size", "32"),
        cwd=tmp_path,
    )
    stack = np.frombuffer((tmp_path / "out" / "movies" / "a.mrcs").read_bytes()[1024:], "<f4").reshape(-1, 32, 32)
    assert len(stack) == 2
    for particle, (x, y) in zip(stack, [(40, 30), (100, 70)], strict=True):
        expected = image[y - 16 : y + 16, x - 16 : x + 16]
        assert np.corrcoef(particle.ravel(), expected.ravel())[0, 1] > 0.999
