import math

import numpy as np
import pytest
import torch

from streamer import fourier
from streamer.band import band_of
from tests.simulated_movies import images, unchanged


@pytest.mark.parametrize(
    ("shape", "pixel_size", "resolution", "small"),
    [
        ((1024, 1024), 1.5, 6.0, (512, 512)),
        ((1024, 1024), 3.0, 6.0, (1024, 1024)),
        ((1024, 1024), 4.0, 6.0, (1024, 1024)),  # coarser than the band: Nyquist
        ((4092, 5760), 0.83, 4.0, (1696, 2392)),
        ((250, 333), 1.5, 6.0, (128, 168)),  # 125 and 166.5 to the nearest eight
        ((250, 333), 6.0, 6.0, (248, 328)),
        ((9, 30), 1.0, 100.0, (8, 8)),
    ],
)
def test_the_band_ends_at_its_resolution_in_eights(shape, pixel_size, resolution, small):
    band = band_of(shape, pixel_size, resolution, 100.0)
    assert band.small == small
    assert band.band_pixel_size == pytest.approx(pixel_size * math.sqrt(math.prod(shape) / math.prod(small)))


def test_waves_in_the_band_keep_their_height():
    band = band_of((96, 120), 1.5, 6.0, 100.0)
    rows, columns = torch.arange(96) / 96, torch.arange(120) / 120
    wave = torch.cos(2 * math.pi * (3 * rows[:, None] + 5 * columns))
    small = fourier.to_image(band.crop(torch.fft.rfft2(wave)), band.small)
    expected = torch.cos(2 * math.pi * (3 * torch.arange(48)[:, None] / 48 + 5 * torch.arange(64) / 64))
    assert band.small == (48, 64)
    torch.testing.assert_close(small, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (63, 90)])
def test_crop_and_pad_keep_what_lies_in_the_band(shape):
    band = band_of(shape, 1.5, 5.0, 100.0)
    spectrum = torch.fft.rfft2(images(*shape))
    with unchanged(spectrum):
        small = band.crop(spectrum)
    torch.testing.assert_close(band.crop(band.pad(small)), small)
    whole = band.pad(small)
    # with both counted in cycles per px of the whole field
    outside = fourier.radius(shape) > 0.72 * max(n / w for n, w in zip(band.small, shape, strict=True))
    assert float(whole[outside].abs().max()) == 0.0


@pytest.mark.parametrize("shape", [(256, 256), (200, 311)])
def test_a_curve_keeps_its_values_in_angstrom(shape):
    """A curve that is straight in spatial frequency is the same straight curve on the band's rings."""
    pixel_size = 1.3
    band = band_of(shape, pixel_size, 6.0, 100.0)
    whole = fourier.ring_frequencies(shape) / pixel_size
    with unchanged(whole):
        small = band.curve(whole)
    np.testing.assert_allclose(
        small, fourier.ring_frequencies(band.small) / band.band_pixel_size, rtol=1e-9, atol=1e-12
    )


def test_a_band_up_to_nyquist_leaves_curves_alone():
    band = band_of((64, 64), 3.0, 6.0, 100.0)
    curve = torch.rand(33, dtype=torch.float64)
    torch.testing.assert_close(band.curve(curve), curve)


def test_the_window_leaves_slow_variation_and_the_edge_of_the_band_alone():
    band = band_of((512, 512), 1.5, 6.0, 100.0)
    window = band.window()
    radius = fourier.radius(band.small)
    resolution = band.band_pixel_size / radius.clamp(min=1e-9)
    assert float(window[resolution >= 200.0].max()) == 0.0
    assert float(window[(resolution <= 99.0) & (radius <= 0.479)].min()) == pytest.approx(1.0, abs=1e-6)
    assert float(window[radius >= 0.5].max()) == 0.0
    middle = window[(resolution > 105.0) & (resolution < 190.0)]
    assert bool(((middle > 0) & (middle < 1)).all())
