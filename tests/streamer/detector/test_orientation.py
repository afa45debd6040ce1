import shutil
import subprocess

import mrcfile
import numpy as np
import pytest

from streamer.detector import orientation
from streamer.errors import MovieMismatch
from streamer.records import Gain, MovieHeader
from streamer.settings import GainSettings


def header(shape, kind="tiff"):
    return MovieHeader(format=kind, n_frames=3, height=shape[0], width=shape[1], dtype="uint8")


def gain_of(values, **options):
    return Gain(path="gain.mrc", sha256="", values=np.asarray(values, np.float32), **options)


def fitted(values, shape, kind="tiff", is_multiplicative=True, **settings):
    gain = gain_of(values, is_multiplicative=is_multiplicative)
    return orientation.fitted(gain, header(shape, kind), GainSettings(**settings), "m.tif").values


def test_rotate_then_flip():
    """Row 0 is at the bottom: a quarter turn counter-clockwise brings the right-hand column to the top."""
    values = np.array([[1, 2, 3], [4, 5, 6]])
    assert fitted(values, (3, 2), rotate=1).tolist() == [[4, 1], [5, 2], [6, 3]]
    assert fitted(values, (2, 3), rotate=2).tolist() == [[6, 5, 4], [3, 2, 1]]
    assert fitted(values, (2, 3), flip=1).tolist() == [[4, 5, 6], [1, 2, 3]]
    assert fitted(values, (2, 3), flip=2).tolist() == [[3, 2, 1], [6, 5, 4]]
    assert fitted(values, (3, 2), rotate=1, flip=1).tolist() == [[6, 3], [5, 2], [4, 1]]


def test_the_eight_orientations_are_all_there_are():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = {orientation.turned(values, *each).tobytes() for each in orientation.ORIENTATIONS}
    every = {orientation.turned(values, rotate, flip).tobytes() for rotate in range(4) for flip in range(3)}
    assert len(found) == 8
    assert found == every


def test_physical_references_serve_finer_frames_and_the_other_way_round():
    values = np.random.default_rng(0).random((4, 6)) + 0.5
    for factor in (2, 4):
        fine = fitted(values, (4 * factor, 6 * factor))
        assert (fine[:factor, :factor] == np.float32(values[0, 0])).all()
        np.testing.assert_allclose(fitted(fine, (4, 6)), values, rtol=1e-6)


def test_a_pixel_with_a_dead_quarter_is_dead():
    values = np.ones((4, 4))
    values[0, 1] = 0
    assert fitted(values, (2, 2)).tolist() == [[0, 1], [1, 1]]


def test_a_reference_that_divides_and_zero_stays_a_defect():
    values = np.array([[1.0, 2.0], [0.0, 4.0]])
    expected = [[7 / 3, 7 / 6], [0, 7 / 12]]
    for options in ({"sense": "divide"}, {"kind": "eer", "is_multiplicative": False}):
        np.testing.assert_allclose(fitted(values, (2, 2), **options), expected, rtol=1e-6)
    for options in ({}, {"is_multiplicative": False}, {"kind": "eer"}, {"sense": "multiply"}):
        np.testing.assert_array_equal(fitted(values, (2, 2), **options), values)


def test_a_size_that_does_not_fit_is_told_and_whether_turning_helps():
    with pytest.raises(MovieMismatch, match=r"expected 20 × 30 px; found 40 × 20 px") as caught:
        fitted(np.ones((40, 20)), (20, 30))
    assert "movie.gain" in caught.value.hint
    with pytest.raises(MovieMismatch) as caught:
        fitted(np.ones((30, 20)), (20, 30))
    assert "gain.rotate = 1 or 3" in caught.value.hint


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("relion_run_motioncorr") is None, reason="RELION is not installed")
@pytest.mark.parametrize(("rotate", "flip"), [(r, f) for r in range(4) for f in range(3)])
def test_relion_turns_references_the_same_way(tmp_path, rotate, flip):
    rng = np.random.default_rng(rotate + 4 * flip)
    shape = (200, 300)
    with mrcfile.new(tmp_path / "movie.mrcs") as file:
        file.set_data(rng.poisson(20.0, (4, *shape)).astype(np.int8))
    values = (0.2 + rng.random(shape if rotate % 2 == 0 else shape[::-1])).astype(np.float32)
    with mrcfile.new(tmp_path / "gain.mrc") as file:
        file.set_data(values)
    (tmp_path / "Import").mkdir()
    for command in (
        "relion_import --do_movies --angpix 1.0 --kV 300 --Cs 2.7 --Q0 0.1 --i movie.mrcs --odir Import/ "
        "--ofile movies.star",
        "relion_run_motioncorr --i Import/movies.star --o MC --use_own --j 1 --patch_x 1 --patch_y 1 --bin_factor 1 "
        f"--gainref gain.mrc --gain_rot {rotate} --gain_flip {flip}",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    with mrcfile.open(tmp_path / "MC" / "movie.mrc", permissive=True) as file:
        image = np.array(file.data)
    ours = fitted(values, shape, rotate=rotate, flip=flip)
    assert np.corrcoef(ours.ravel(), image.ravel())[0, 1] > 0.5
