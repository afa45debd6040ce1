import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from streamer.writers.thumbnail import encode_png, encode_power_spectrum


def decode(data):
    picture = imagecodecs.png_decode(data)
    assert picture.dtype == np.uint8
    return picture


def ramp(h, w):
    return np.linspace(0, 1, h * w).reshape(h, w)


@pytest.mark.parametrize(
    ("shape", "longer", "expected"),
    [
        ((512, 512), 256, (256, 256)),
        ((4092, 5760), 512, (364, 512)),
        ((5760, 4092), 512, (512, 364)),
        ((101, 77), 64, (64, 49)),
        ((30, 40), 64, (30, 40)),
        ((1, 1), 64, (1, 1)),
        ((1, 1000), 64, (1, 64)),
    ],
)
def test_the_longer_side_is_as_asked_and_nothing_is_enlarged(shape, longer, expected):
    assert decode(encode_png(ramp(*shape), longer_side_px=longer)).shape == expected


def test_row_0_is_at_the_bottom_of_the_picture():
    image = np.zeros((4, 4))
    image[0] = 1
    assert decode(encode_png(image, longer_side_px=64))[3].tolist() == [255] * 4
    assert decode(encode_png(image, longer_side_px=64, flip=False))[0].tolist() == [255] * 4


def test_columns_stay_where_they_are():
    image = np.zeros((4, 4))
    image[:, 0] = 1
    assert decode(encode_png(image, longer_side_px=64))[:, 0].tolist() == [255] * 4


def test_pixels_are_averaged_over_area():
    # Each 2x2 block: a checkerboard becomes even grey, with a brighter half kept.
    image = np.indices((64, 64)).sum(axis=0) % 2 + np.where(np.arange(64) < 32, 0.0, 4.0)
    small = decode(encode_png(image, longer_side_px=32))
    assert np.unique(small[:, :16]).tolist() == [0]
    assert np.unique(small[:, 16:]).tolist() == [255]


def test_a_few_hot_pixels_do_not_take_the_contrast():
    image = np.random.default_rng(0).normal(size=(256, 256))
    image[5, 5] = 1e6
    picture = decode(encode_png(image, longer_side_px=256))
    assert 40 < picture.std() < 80


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_an_image_without_contrast_is_grey(value):
    assert np.unique(decode(encode_png(np.full((50, 60), value), longer_side_px=32))).tolist() == [128]


def test_a_single_pixel_is_contrast_too():
    image = np.zeros((100, 100), np.float32)
    image[0, 0] = 1
    picture = decode(encode_png(image, longer_side_px=100))
    assert (picture.max(), picture.min()) == (255, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int16"])
def test_types_and_input_unchanged(dtype):
    image = (ramp(60, 80) * 100).astype(dtype)
    image.flags.writeable = False
    assert decode(encode_png(image, longer_side_px=40)).shape == (30, 40)


@pytest.mark.parametrize("image", [np.full((4, 4), np.nan), np.zeros((0, 4)), np.zeros((2, 3, 4))])
def test_misuse_is_refused(image):
    with pytest.raises(ValueError, match="expected"):
        encode_png(image, longer_side_px=64)


def test_a_wave_is_two_points_in_the_power_spectrum():
    y, x = np.indices((256, 192))
    image = np.cos(2 * np.pi * (y * 30 / 192 + x * 12 / 192)) + 1e-3 * np.random.default_rng(0).normal(size=y.shape)
    picture = decode(encode_power_spectrum(image, pixel_size=2.0))
    assert picture.shape == (384, 384)
    # Frequency (0, 0) is at (192, 192) of the spectrum; the picture is turned over.
    for sign in (1, -1):
        assert picture[383 - (192 + sign * 60), 192 + sign * 24] == 255
        assert picture[383 - (192 + sign * 60), 192 - sign * 24] < 200


def test_the_power_spectrum_ends_at_4_angstrom():
    y, x = np.indices((256, 256))
    noise = 1e-3 * np.random.default_rng(0).normal(size=y.shape)
    wave = np.cos(2 * np.pi * x * 0.1) + noise
    fine, coarse = (decode(encode_power_spectrum(wave, pixel_size=pixel)) for pixel in (1.0, 3.0))
    assert (fine.shape, coarse.shape) == ((256, 256), (512, 512))
    for picture, column in ((fine, 128 + round(0.1 * 512)), (coarse, 256 + round(0.1 * 512))):
        assert picture.max(0).argmax() in range(column - 3, column + 4) or picture[:, column].max() == 255


def test_rings_weaker_than_the_noise_are_seen():
    """A spectrum with rings of a tenth of the noise's power: the averaged picture is brighter there."""
    rng = np.random.default_rng(0)
    shape = (1024, 1024)
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    rings = 1.0 + 0.3 * (np.cos(radius * 2 * np.pi / 0.05) > 0)
    image = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * np.sqrt(rings), s=shape)
    picture = decode(encode_power_spectrum(image, pixel_size=2.0)).astype(float)
    at = np.hypot(*(np.indices((512, 512)) - 256.0)) / 512
    bright = np.cos(at * 2 * np.pi / 0.05) > 0.5
    dark = np.cos(at * 2 * np.pi / 0.05) < -0.5
    inside = (at > 0.05) & (at < 0.45)
    assert picture[bright & inside].mean() - picture[dark & inside].mean() > 0.8 * picture[dark & inside].std()


def test_an_offset_is_not_in_the_power_spectrum():
    image = np.random.default_rng(0).normal(size=(64, 64))
    pictures = [decode(encode_power_spectrum(image + offset, pixel_size=2.0)).astype(int) for offset in (0, 1000)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_the_power_spectrum_is_point_symmetric():
    for shape in ((65, 65), (64, 64), (64, 91)):
        image = np.random.default_rng(0).normal(size=shape)
        picture = decode(encode_power_spectrum(image, pixel_size=2.0))[::-1]
        k = -np.arange(len(picture)) % len(picture)
        unshifted = np.fft.ifftshift(picture)
        np.testing.assert_array_equal(unshifted, unshifted[k][:, k])


def test_the_power_spectrum_of_nothing_is_a_picture():
    assert decode(encode_power_spectrum(np.zeros((40, 30)), pixel_size=2.0)).shape == (60, 60)


def test_a_label_travels_in_the_picture_and_changes_no_pixel():
    image = np.random.default_rng(0).normal(size=(30, 40))
    plain, labelled = (encode_png(image, longer_side_px=512, label=label) for label in ("", "model v0001 — NOT FOR µ"))
    np.testing.assert_array_equal(decode(plain), decode(labelled))
    assert "model v0001 — NOT FOR µ".encode() in labelled
    # every chunk is whole: length, type, data and a checksum that fits
    place, types = 8, []
    while place < len(labelled):
        (length,) = struct.unpack_from(">I", labelled, place)
        content = labelled[place + 4 : place + 8 + length]
        assert struct.unpack_from(">I", labelled, place + 8 + length)[0] == zlib.crc32(content)
        types.append(content[:4])
        place += 12 + length
    assert types[:2] == [b"IHDR", b"iTXt"]
    assert types[-1] == b"IEND"
