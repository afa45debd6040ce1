"""What is no movie, whatever it is called; and movies of which a name or a neighbour could make one doubt."""

import struct
from pathlib import Path

import numpy as np
import pytest

from streamer.readers.movie import read_header
from streamer.simulation.microscope import encode
from streamer.watch.kinds import by_name, by_sidecar, why_no_movie
from streamer.writers.mrc import encode_image

SHARED = Path(__file__).parents[4] / "shared" / "data"
RNG = np.random.default_rng(7)
FRAMES = RNG.poisson(0.8, (8, 48, 64)).astype(np.uint8)


def mrc(data, *, labels=(), extended=b"", kind=b"", per_image=(0, 0)):
    """MRC of (n, h, w) with its statistics, as programs other than ours write it."""
    n, height, width = data.shape
    mode = {"int8": 0, "int16": 1, "uint16": 6, "float32": 2, "float16": 12}[data.dtype.name]
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, width, height, n, mode)
    struct.pack_into("<3i", header, 28, width, height, n)
    struct.pack_into("<3f", header, 40, 2.0 * width, 2.0 * height, 2.0 * n)
    real = data.astype(np.float64)
    struct.pack_into("<3f", header, 76, real.min(), real.max(), real.mean())
    struct.pack_into("<i", header, 92, len(extended))
    header[104:108] = kind.ljust(4, b"\0")
    struct.pack_into("<2h", header, 128, *per_image)
    header[208:216] = b"MAP \x44\x44\x00\x00"
    struct.pack_into("<fi", header, 216, real.std(), len(labels))
    for number, label in enumerate(labels):
        header[224 + 80 * number : 224 + 80 * number + len(label)] = label.encode()
    return bytes(header) + extended + data.tobytes()


def of_images(n, *fields):
    """SerialEM's extended header: a tuple of 16-bit numbers per image."""
    return b"".join(struct.pack(f"<{len(fields[0])}h", *fields[index]) for index in range(n))


@pytest.fixture
def judged(tmp_path):
    def judge(name, content, *, beside=None, **known):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for other, text in (beside or {}).items():
            (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / other).write_bytes(text if isinstance(text, bytes) else text.encode())
        error = why_no_movie(path, read_header(path), root=tmp_path, **known)
        return None if error is None else error.kind

    return judge


def tiff(frames):
    return encode(frames, "tiff", 1.0)


def mdoc_of(n, *, step=3.0, comma=False, name="ts.mrc"):
    lines = [f"PixelSpacing = 2\nImageFile = {name}\nVoltage = 300\n"]
    for index in range(n):
        tilt = f"{step * index - 30:g}".replace(".", "," if comma else ".")
        lines.append(f"[ZValue = {index}]\nTiltAngle = {tilt}\nSubFramePath = D:\\frames\\ts_{index:03}.mrc\n")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ tilt series, montages

TILTED = of_images(8, *[(300 * index,) for index in range(8)])
PIECES = of_images(8, *[(200 * index, 0, 0) for index in range(8)])
TILTED_AND_PLACED = of_images(8, *[(100 * index, 0, 0, 0) for index in range(8)])


def fei(*tilts, order="<", mask=1 << 7):
    """FEI's extended header; the bit mask, which is always little-endian, says that the tilt is known."""
    return b"".join(
        struct.pack(f"{order}2i", 768, 0)
        + struct.pack("<I", mask)
        + bytes(88)
        + struct.pack(f"{order}d", tilt)
        + bytes(768 - 108)
        for tilt in tilts
    )


TILTS = tuple(2.5 * index - 10.0 for index in range(8))
FEI = fei(*TILTS)


@pytest.mark.parametrize(
    ("name", "content", "beside", "kind"),
    [
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mrc.mdoc": mdoc_of(8)}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mdoc": mdoc_of(8)}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mrc.mdoc": mdoc_of(8, step=1.5, comma=True)}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mrc.mdoc": "\ufeff" + mdoc_of(8)}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mrc.mdoc": mdoc_of(8).encode("utf-16")}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mrc.mdoc": mdoc_of(8).encode("utf-16-le")}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16)), {"ts.mrc.MDOC": mdoc_of(8)}, "tilt series"),
        ("ts.tif", tiff(FRAMES), {"ts.tif.mdoc": mdoc_of(8, name="ts.tif")}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16), extended=TILTED, per_image=(2, 1)), {}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16), extended=TILTED_AND_PLACED, per_image=(8, 3)), {}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16), extended=FEI, kind=b"FEI1"), {}, "tilt series"),
        ("ts.mrc", mrc(FRAMES.astype(np.int16), extended=fei(*TILTS, order=">"), kind=b"FEI2"), {}, "tilt series"),
        ("atlas.mrc", mrc(FRAMES.astype(np.int16), extended=PIECES, per_image=(6, 2)), {}, "montages"),
        (
            "LMM.mrc",
            mrc(FRAMES.astype(np.int16)),
            {"LMM.mrc.mdoc": "Montage = 1\n[ZValue = 0]\nPieceCoordinates = 0 0 0\n"},
            "montages",
        ),
        (
            "view.mrc",
            mrc(FRAMES.astype(np.int16)),
            {"view.mrc.mdoc": "Voltage = 300\n[MontSection = 0]\nStagePosition = 1 2\n"},
            "montages",
        ),
        (
            "trials.mrc",
            mrc(FRAMES.astype(np.int16)),
            {"trials.mrc.mdoc": "".join(f"[ZValue = {n}]\nTiltAngle = 0.01\n" for n in range(8))},
            "stacks of pictures",
        ),
    ],
)
def test_images_that_are_exposures_are_no_frames(judged, name, content, beside, kind):
    assert judged(name, content, beside=beside) == kind


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real sidecars here")
@pytest.mark.parametrize(
    ("file", "name", "kind"),
    [
        ("tilt_series.mdoc", "TS_01.mrc", "tilt series"),
        ("montage_section.mdoc", "LMM.mrc", "montages"),
        ("frame_set_single.mdoc", "s_mmm_00993_33.0_Oct08_07.39.05.tif", None),
        # frames of one tilt, one section for each part of the exposure
        ("frame_set_multiple.mdoc", "s_mmm_01013_33.0_Oct08_07.46.46.tif", None),
        # copied under another name
        ("frame_set_multiple.mdoc", "movie.tif", None),
    ],
)
def test_real_mdocs(judged, file, name, kind):
    content = tiff(FRAMES) if name.endswith(".tif") else mrc(FRAMES.astype(np.int16))
    beside = {f"{name}.mdoc": (SHARED / "mdoc" / file).read_bytes()}
    assert judged(name, content, beside=beside) == kind


def test_a_tilt_series_recorded_as_one_long_movie_is_none(judged):
    mdoc = "[FrameSet = 0]\nNumSubFrames = 8\n" + mdoc_of(8)
    assert judged("ts_frames.tif", tiff(FRAMES), beside={"ts_frames.tif.mdoc": mdoc}) == "tilt series"


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        # the movies of a tilt series, one for each tilt
        ("ts_003.tif", {"ts.mdoc": mdoc_of(8), "ts.mrc.mdoc": mdoc_of(8)}),
        ("ts_003.mrc", {"ts_003.mrc.mdoc": mdoc_of(8)}),
        ("a.tif", {"a.tif.mdoc": "[FrameSet = 0]\nTiltAngle = 40\nNumSubFrames = 8\n"}),
        ("a.tif", {"a.tif.mdoc": "[ZValue = 0]\nTiltAngle = 0.01\nNumSubFrames = 8\n"}),
        ("a.tif", {"a.tif.mdoc": "Voltage = 300\nNumSubFrames = 8\n"}),
        # named by a section, with the suffix before it was converted, in quotes, or in other letters
        (
            "a.mrc",
            {
                "a.mdoc": "".join(
                    f'[ZValue = {n}]\nTiltAngle = {9 * n}\nSubFramePath = "D:\\f\\a.tif"\n' for n in range(2)
                )
            },
        ),
        (
            "a.tif",
            {
                "a.mdoc": "".join(
                    f"[ZValue = {n}]\ntiltangle = {9 * n}\nsubframepath = D:\\f\\A.TIF\n" for n in range(2)
                )
            },
        ),
        ("a.mrc", {}),
    ],
)
def test_frames_with_a_sidecar_of_their_own_stay_movies(judged, name, beside):
    content = tiff(FRAMES) if name.endswith(".tif") else mrc(FRAMES.astype(np.int8))
    assert judged(name, content, beside=beside) is None


@pytest.mark.parametrize(
    "content",
    [
        mrc(FRAMES.astype(np.int16), extended=of_images(8, *[(4000 + n % 2,) for n in range(8)]), per_image=(2, 1)),
        mrc(FRAMES.astype(np.int16), extended=of_images(8, *[(0, 0, 0)] * 8), per_image=(6, 2)),
        mrc(FRAMES.astype(np.int16), extended=FEI[:768] * 8, kind=b"FEI1"),
        # what is left of other numbers where the mask says that there is no tilt
        mrc(FRAMES.astype(np.int16), extended=fei(*TILTS, mask=1 << 5), kind=b"FEI1"),
        # an extended header of another kind
        mrc(FRAMES.astype(np.int16), extended=RNG.bytes(1024), per_image=(2, 1)[::-1]),
        mrc(FRAMES.astype(np.int16), extended=RNG.bytes(1024), per_image=(4, 3)),
    ],
)
def test_frames_of_one_tilt_in_one_place_stay_a_movie(judged, content):
    assert judged("a.mrc", content) is None


# ---------------------------------------------------------------------------------------- one image, volumes, particles

IMAGE = np.abs(RNG.normal(30.0, 5.0, (48, 64))).astype(np.float32)
GAIN = np.clip(RNG.normal(1.0, 0.08, (48, 64)), 0.0, None).astype(np.float32)
BOXES = RNG.normal(0.05, 1.0, (20, 64, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a_DW.mrc", mrc(IMAGE[None]), "micrographs"),
        ("a_patch_aligned_doseweighted.mrc", mrc(IMAGE[None]), "micrographs"),
        ("a_aligned_mic.mrc", mrc(IMAGE[None]), "micrographs"),
        ("a.mrc", mrc(IMAGE[None], labels=["Relion    05-Nov-24  12:00:00"]), "images made by RELION"),
        ("a.mrc", mrc(IMAGE[None], labels=["", "MotionCor2 1.6.4"]), "images made by MotionCor"),
        ("a.mrc", encode_image(IMAGE, pixel_size=1.0, labels=["cryoem-streamer 1.0: sum"]), "results of this program"),
        ("FoilHole_1_Data_2_3_20240101_000000.mrc", mrc(IMAGE[None]), "integrated images (EPU)"),
        ("FoilHole_1_Data_2_3_20240101_000000.tiff", tiff(FRAMES[:1]), "integrated images (EPU)"),
        ("gain.mrc", mrc(GAIN[None]), "gain references"),
        ("K3-2024.mrc", mrc(GAIN[None]), "gain references"),
        ("SuperRef_x.tif", tiff(FRAMES[:1]), "gain references"),
        ("defects_x.tif", tiff(FRAMES[:1]), "defect maps"),
        ("anything.tif", tiff(FRAMES[:1]), "single images"),
        ("anything.mrc", mrc(IMAGE[None]), "single images"),
        ("rec.mrc", mrc(BOXES[:1].repeat(64, 0)), "volumes"),
        ("rec.mrc", mrc(FRAMES.astype(np.int8), labels=["TILT: Tomographic reconstruction"]), "volumes"),
        ("map.mrc", mrc(BOXES, labels=["::::EMDATABANK.org::::EMD-3001::::"]), "volumes"),
        ("a.mrcs", mrc(BOXES), "particle images"),
        ("a.mrcs", mrc(BOXES.astype(np.float16)), "particle images"),
        ("batch_0_particles.mrc", mrc(BOXES), "particle images"),
        ("Extract/a.mrc", mrc(BOXES), "particle images"),
        ("a.mrc", mrc(BOXES, labels=["Relion    05-Nov-24  12:00:00"]), "particle images"),
    ],
)
def test_what_has_one_image_or_images_of_something_else(judged, name, content, kind):
    assert judged(name, content) == kind


@pytest.mark.parametrize(
    "name", ["Lgain_cell_001.tif", "again.tif", "bargain/a.tif", "gain_001.tif", "defective-mutant.tif", "CountRef.tif"]
)
def test_a_name_does_not_make_a_movie_anything_else(judged, name):
    assert judged(name, tiff(FRAMES)) is None
    assert judged(name.replace(".tif", ".mrc"), mrc(FRAMES.astype(np.int8))) is None


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        # floats that are counts, however few, however square
        ("a.mrcs", RNG.poisson(0.03, (8, 64, 64)).astype(np.float32)),
        ("particles_of_gold.mrc", RNG.poisson(0.8, (8, 64, 64)).astype(np.float32)),
        ("a.mrc", RNG.normal(20.0, 5.0, (8, 64, 64)).astype(np.float32)),
        ("a.mrc", RNG.normal(0.05, 1.0, (8, 64, 64)).astype(np.float32)),
        ("a.mrc", RNG.poisson(0.8, (48, 48, 64)).astype(np.float32)),
    ],
)
def test_frames_that_are_floats_stay_movies(judged, name, frames):
    assert judged(name, mrc(frames)) is None


def test_a_movie_in_float_that_its_sidecar_counts_is_one_whatever_its_values(judged):
    assert judged("a.mrcs", mrc(BOXES), told=20) is None
    assert judged("a.mrcs", mrc(BOXES)) is not None


@pytest.mark.parametrize("name", ["a_Stk.mrc", "a_DW_Stk.mrc", "a_aligned.mrcs"])
def test_aligned_frames_beside_their_movie(judged, name):
    aligned = mrc(RNG.normal(1.0, 0.5, (8, 48, 64)).astype(np.float32))
    assert judged(name, aligned) is None
    assert judged(name, aligned, beside={"a.tif": tiff(FRAMES)}) == "aligned frames"
    assert judged(name, mrc(FRAMES.astype(np.int8)), beside={"a.tif": tiff(FRAMES)}) is None


def test_one_frame_of_a_series_is_left_to_whoever_says_how_to_stack_them(judged):
    assert judged("a_frame003.tif", tiff(FRAMES[:1])) is None
    assert judged("gain-0003.mrc", mrc(GAIN[None])) == "gain references"


# --------------------------------------------------------------------------------------------- where it lies, its size


@pytest.mark.parametrize(
    ("name", "beside", "kind"),
    [
        ("MotionCorr/job002/Movies/a.mrc", {}, "results of RELION"),
        ("project/Extract/job009/Movies/a.mrcs", {}, "results of RELION"),
        ("Mine/job012/a.mrc", {"Mine/job012/job.star": "data_job\n"}, "results of RELION"),
        ("p/Mine/job012/a.mrc", {"p/default_pipeline.star": "data_\n"}, "results of RELION"),
        ("CS-x/J7/motioncorrected/a.mrc", {}, "results of cryoSPARC"),
        ("CS-x/S1/a/b.mrc", {"CS-x/S1/session.json": "{}"}, "results of cryoSPARC"),
        # neighbours
        ("project/Movies/a.mrc", {"project/default_pipeline.star": "data_\n"}, None),
        ("CS-x/J1/imported/a.mrc", {"CS-x/J1/job.json": "{}"}, None),
        ("job001/a.mrc", {}, None),
        ("J7/a.mrc", {}, None),
        ("MotionCorr/a.mrc", {}, None),
    ],
)
def test_results_of_other_programs_lie_in_directories_of_theirs(judged, name, beside, kind):
    assert judged(name, mrc(FRAMES.astype(np.int8)), beside=beside) == kind


@pytest.mark.parametrize(
    ("usual", "kind"),
    [
        ((4092, 5760), "frames much smaller than the session's"),
        ((192, 192), "frames much smaller than the session's"),
        # binned by 2, half of the field, and the other way round
        ((96, 128), None),
        ((96, 64), None),
        ((16, 16), None),
        (None, None),
    ],
)
def test_a_size_unlike_the_sessions(judged, usual, kind):
    assert judged("a.mrc", mrc(FRAMES.astype(np.int16)), usual_size=usual) == kind


def test_eer_is_always_a_movie(judged):
    assert judged("gain.eer", encode(FRAMES[:2], "eer", 1.0), usual_size=(4096, 4096)) is None


def test_what_cannot_be_read_may_still_be_a_reference(tmp_path):
    assert by_name(tmp_path / "CountRef_x.tif").kind == "gain references"
    assert by_name(tmp_path / "defects.tif").kind == "defect maps"
    assert by_name(tmp_path / "movie_001.tif") is None
    assert by_sidecar(tmp_path / "absent.mrc") is None


def test_none_of_300_clean_movies_is_taken_for_anything_else(judged):
    """All formats, strong and weak, also at a dose at which most pixels are empty."""
    refused = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(2, 9)), *(int(side) for side in rng.integers(24, 72, 2)))
        counts = rng.poisson(rng.choice([0.02, 0.3, 1.0, 5.0]), shape).astype(np.uint8)
        counts[:, 0, 0] = 1
        for kind in ("mrc", "tiff", "eer"):
            found = judged(f"s/m{seed:03}.{kind}", encode(counts, kind, 1.0), usual_size=(48, 48))
            refused += [(seed, kind, found)] if found else []
    assert refused == []


@pytest.mark.parametrize(
    "text",
    ["[ZValue = " + " " * 4_000_000, "[" * 4_000_000, " = " * 1_300_000, "[ZValue = 0]\n" * 300_000, "\0" * 4_000_000],
    ids=["spaces", "brackets", "equals", "sections", "zeros"],
)
def test_a_hostile_mdoc_is_judged_in_little_memory(judged, text):
    assert judged("a.tif", tiff(FRAMES), beside={"a.tif.mdoc": text}) in (None, "stacks of pictures")
