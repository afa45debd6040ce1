import io

import mrcfile
import numpy as np
import pytest

from streamer.writers.mrc import encode_image

LABELS = ["cryostreamer 1 plain sum", "x" * 80, "Ångström"]


@pytest.mark.parametrize(("dtype", "mode"), [("float32", 2), ("float16", 12), ("int8", 0)])
@pytest.mark.parametrize("shape", [(7, 10), (1, 1), (300, 33)])
def test_strictly_valid_and_read_back(tmp_path, dtype, mode, shape):
    image = (np.random.default_rng(0).normal(size=shape) * 20).astype(dtype)
    path = tmp_path / "a.mrc"
    path.write_bytes(encode_image(image, pixel_size=0.83, labels=LABELS))
    report = io.StringIO()
    assert mrcfile.validate(path, print_file=report), report.getvalue()
    with mrcfile.open(path) as file:
        assert file.header.mode == mode
        assert file.data.dtype == image.dtype
        np.testing.assert_array_equal(file.data, image)
        assert file.voxel_size.x == pytest.approx(0.83)
        assert file.voxel_size.y == pytest.approx(0.83)
        assert [bytes(label).decode().rstrip() for label in file.header.label[:3]] == [
            *LABELS[:2],
            "?ngstr?m",
        ]
        assert file.header.nlabl == 3
        assert float(file.header.dmin) == float(image.min())
        assert float(file.header.dmax) == float(image.max())
        assert float(file.header.dmean) == pytest.approx(image.mean(dtype=np.float64), rel=1e-6)
        rms = -1 if dtype == "float16" else image.std(dtype=np.float64)
        assert float(file.header.rms) == pytest.approx(rms, rel=1e-6)


def test_the_same_image_gives_the_same_bytes(tmp_path):
    image = np.random.default_rng(0).normal(size=(20, 31)).astype(np.float32)
    first = encode_image(image, pixel_size=1.1, labels=["a"])
    assert encode_image(image.copy(), pixel_size=1.1, labels=["a"]) == first
    assert encode_image(np.asfortranarray(image), pixel_size=1.1, labels=["a"]) == first
    assert encode_image(image.astype(">f4"), pixel_size=1.1, labels=["a"]) == first
    assert len(first) == 1024 + image.nbytes


def test_row_0_comes_first():
    image = np.arange(6, dtype=np.int8).reshape(2, 3)
    assert encode_image(image, pixel_size=1.0)[1024:] == bytes(range(6))


def test_the_image_is_left_alone():
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    image.flags.writeable = False
    encode_image(image, pixel_size=1.0)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((2, 3, 4), np.float32), {}),
        (np.zeros((2, 3)), {}),
        (np.zeros((2, 3), np.uint8), {}),
        (np.zeros((0, 3), np.float32), {}),
        (np.full((2, 3), np.nan, np.float32), {}),
        (np.full((2, 3), np.inf, np.float16), {}),
        (np.zeros((2, 3), np.float32), {"pixel_size": 0.0}),
        (np.zeros((2, 3), np.float32), {"pixel_size": float("nan")}),
        (np.zeros((2, 3), np.float32), {"labels": ["a"] * 11}),
        (np.zeros((2, 3), np.float32), {"labels": ["a" * 81]}),
        (np.zeros((2, 3), np.float32), {"labels": ["  "]}),
    ],
)
def test_misuse_is_refused(image, options):
    with pytest.raises(ValueError, match="expected"):
        encode_image(image, **({"pixel_size": 1.0} | options))


def test_one_bad_pixel_is_found_anywhere():
    image = np.zeros((300, 5), np.float32)
    image[299, 4] = np.nan
    with pytest.raises(ValueError, match="finite"):
        encode_image(image, pixel_size=1.0)
